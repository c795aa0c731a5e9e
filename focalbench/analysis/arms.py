"""Trials grouped into arms: one configuration without its seed is one arm, whatever its folders are called."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from focalbench.config.identity import EFFECTS, Effect, effect_of, is_unset, keeps_trial
from focalbench.records.document import as_number
from focalbench.records.reader import TrialRecord, flatten_config
from focalbench.records.state import TrialState
from focalbench.tags import MEAN_AP

_FACTS = ("data_fingerprint", "classes", "split", "protocol")
"""Entries of result.json in which comparable trials agree."""
_LENGTH = "images trained on"
_LENGTH_KEYS = ("optim.epochs", "optim.steps", "optim.batch_size", "data.train")
_EVALUATION = tuple(
    key for key in EFFECTS if Effect.EVALUATION in effect_of(key) and key.startswith("eval.") and key != "eval.protocol"
)
"""Configuration keys in which comparable trials agree, beside protocol and data: these are among ``_FACTS``."""
_PLAIN = ("ce", "softmax_ce")
"""Losses that the default baseline is looked for among: cross entropy without weights."""
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Arm:
    """The finished trials of one configuration.

    Attributes:
        label: unique name: the arm's own, with what tells it apart where two arms share it.
        settings: the configuration without the seed, dotted keys.
        facts: what must be equal for a comparison, by key: data, split, protocol, length, evaluation.
        trials: by seed.
    """

    label: str
    settings: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    trials: Mapping[int, TrialRecord] = field(repr=False)

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> value, for the seeds that have one."""
        found = {seed: trial.value(metric) for seed, trial in sorted(self.trials.items())}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class StoppedArm:
    """An arm that a search gave up before its end, with all its seeds.

    Attributes:
        label: the arm's name.
        seeds: of its trials.
        reason: when and why.
    """

    label: str
    seeds: tuple[int, ...]
    reason: str


def set_stopped_apart(trials: Iterable[TrialRecord]) -> tuple[list[TrialRecord], list[StoppedArm]]:
    """Returns the trials, and the arms among them that were stopped early: none of their seeds counts, not even one
    that had come to its end by then.
    """
    kept = list(trials)
    groups: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for trial in kept:
        if trial.state is TrialState.STOPPED:
            groups[_place(trial)].append(trial)
    stopped = []
    for number, trial in enumerate(kept):
        if trial.counts and _place(trial) in groups:
            kept[number] = replace(trial, set_apart="its arm was stopped early: not comparable")
            groups[_place(trial)].append(trial)
    for group in groups.values():
        seeds = sorted(trial.seed for trial in group if trial.seed is not None)
        stopped.append(StoppedArm(group[0].arm, tuple(seeds), group[0].reason))
    return kept, stopped


def _place(trial: TrialRecord) -> tuple[str, str]:
    """Equal for the trials of one arm of one sweep."""
    return str(trial.folder.parent), trial.arm


def group_arms(trials: Iterable[TrialRecord]) -> tuple[list[Arm], list[str]]:
    """Returns the arms of the trials that count, in the order of their first trial, and warnings about what was odd."""
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.counts:
            groups[_identity(trial)].append(trial)
    warnings: list[str] = []
    arms = [_build_arm(part, warnings) for group in groups.values() for part in _split_contradicting(group, warnings)]
    return _with_unique_labels(arms), warnings


def trials_by_arm(trials: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Returns all trials, finished or not, by their arm: its name, or where one name has stood for several
    configurations or data, a label for each of these.

    They come in the order of their first trials. What has no configuration yet, because it waits, counts to the last
    arm of its name.
    """
    names: dict[str, list[_Part]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: (not trial.config, not trial.counts)):  # what says most comes first
        settings = {} if trial.from_table else _settings(trial)
        facts = _facts(trial, settings) if trial.counts and settings else None
        parts = names[trial.arm]
        part = next((part for part in reversed(parts) if part.may_hold(settings, facts)), None)
        if part is None:
            part = _Part(settings, facts, [])
            parts.append(part)
        part.trials.append(trial)
    labelled: dict[str, list[TrialRecord]] = {}
    for name, parts in names.items():
        arms = [Arm(name, part.settings, part.facts or {}, {}) for part in parts]
        labelled |= {
            _distinct_label(arm, arms): sorted(part.trials, key=lambda trial: trial.order)
            for arm, part in zip(arms, parts, strict=True)
        }
    return dict(sorted(labelled.items(), key=lambda arm: arm[1][0].order))


@dataclass(frozen=True)
class _Part:
    """The trials of one name that have the same settings, and the same facts as far as they say them."""

    settings: dict[str, Any]
    facts: dict[str, Any] | None
    trials: list[TrialRecord]

    def may_hold(self, settings: Mapping[str, Any], facts: Mapping[str, Any] | None) -> bool:
        """Whether a trial of which this is known is one of them."""
        return not settings or (settings == self.settings and (facts is None or facts == self.facts))


def default_baseline(losses: Mapping[str, str]) -> str:
    """Returns the arm that others are compared with where nobody says otherwise: the one named ``ce``, else the first
    with plain cross entropy, else the first.

    Args:
        losses: name of its loss, by arm.
    """
    if "ce" in losses:
        return "ce"
    return next((arm for arm, loss in losses.items() if loss in _PLAIN), next(iter(losses)))


def incomparable_keys(arm: Arm, baseline: Arm) -> list[str]:
    """Lists as ``key (value against value)`` what forbids comparing the two; what one of them lacks proves nothing."""
    differing = []
    for key, own in arm.facts.items():
        other = baseline.facts.get(key)
        if own is None or other is None or own == other:
            continue
        keys = [k for k in _LENGTH_KEYS if arm.settings.get(k) != baseline.settings.get(k)] if key == _LENGTH else []
        differing += [_against(name, arm.settings.get(name), baseline.settings.get(name)) for name in keys]
        if not keys:
            differing.append(_against(key, own, other))
    return differing


def unknown_facts(arms: Sequence[Arm]) -> list[str]:
    """Warnings about facts that only some arms state, so that nobody can say whether they agree."""
    warnings = []
    for key in arms[0].facts if arms else ():
        silent = [arm.label for arm in arms if arm.facts.get(key) is None]
        if 0 < len(silent) < len(arms):
            warnings.append(f"{key} is not known for {', '.join(silent)}: whether it is comparable was not checked")
    return warnings


def circumstances(arms: Sequence[Arm]) -> list[str]:
    """Warnings about how trials came to be that do not forbid comparing them."""
    warnings = []
    trials = [trial for arm in arms for trial in arm.trials.values()]
    for key, words in (("precision", "numeric precision"), ("device", "kinds of device")):
        kinds = {str(found).split(":")[0] for trial in trials if (found := getattr(trial.result, key))}
        if len(kinds) > 1:
            warnings.append(f"trials were run with different {words}: {', '.join(sorted(kinds))}")
    for package in ("focalbench", "torch", "timm"):
        versions = {str(found) for trial in trials if (found := trial.result.environment.get(package))}
        if len(versions) > 1:
            warnings.append(f"trials were run with different versions of {package}: {', '.join(sorted(versions))}")
    for arm in arms:
        scales = {seed: trial.result.lr_scale for seed, trial in arm.trials.items()}
        lowered = [f"seed {seed}" for seed, scale in scales.items() if scale not in (None, 1.0)]
        if lowered:
            warnings.append(f"{arm.label}: diverged and continued at a lower learning rate: {', '.join(lowered)}")
    return warnings


def _settings(trial: TrialRecord) -> dict[str, Any]:
    settings = {key: value for key, value in flatten_config(trial.config).items() if not is_unset(key, value)}
    return {key: value for key, value in settings.items() if key != "seed" and not keeps_trial(key)}


def _facts(trial: TrialRecord, settings: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: getattr(trial.result, key) for key in _FACTS}
    batch_size, steps = as_number(settings.get("optim.batch_size")), trial.result.steps
    facts[_LENGTH] = steps * batch_size if steps and batch_size else None
    return facts | {key: settings.get(key) for key in _EVALUATION}


def _identity(trial: TrialRecord) -> str:
    settings = _settings(trial)
    # Without its whole configuration the arm's name is all there is.
    named = [trial.arm] if not settings or trial.from_table else []
    return json.dumps([named, settings, _facts(trial, settings)], sort_keys=True, default=str)


def _split_contradicting(group: Sequence[TrialRecord], warnings: list[str]) -> list[list[TrialRecord]]:
    """The group whole, or by name where arms of different names gave one seed different results.

    The same configuration and seed repeat exactly on a CPU; different results under different names mean that the names
    know of something that the configuration does not say.
    """
    by_name: dict[str, list[TrialRecord]] = defaultdict(list)
    results: dict[int | None, dict[str, float | None]] = defaultdict(dict)
    for trial in group:
        by_name[trial.arm].append(trial)
        results[trial.seed][trial.arm] = trial.value(MEAN_AP)
    if all(len(set(of_seed.values())) == 1 for of_seed in results.values()):
        return [list(group)]
    if len(by_name) > 1:
        names = ", ".join(by_name)
        warnings.append(
            f"arms {names} have the same configuration but different results for one seed; they are kept apart"
        )
    return list(by_name.values())


def _build_arm(group: Sequence[TrialRecord], warnings: list[str]) -> Arm:
    names = Counter(trial.arm for trial in group)
    label = names.most_common(1)[0][0]
    if len(names) > 1:
        warnings.append(f"{label}: arms named {', '.join(sorted(names))} have the same configuration and are merged")
    by_seed: dict[int, TrialRecord] = {}
    for trial in group:
        assert trial.seed is not None  # a trial that counts has one
        kept = by_seed.setdefault(trial.seed, trial)
        if kept is not trial:
            same = "the same" if kept.value(MEAN_AP) == trial.value(MEAN_AP) else "another"
            warnings.append(f"{label}: seed {trial.seed} occurs twice; {trial.folder} has {same} mAP and is left out")
    settings = _settings(group[0])
    return Arm(label, settings, _facts(group[0], settings), dict(sorted(by_seed.items())))


def _with_unique_labels(arms: list[Arm]) -> list[Arm]:
    by_label: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        by_label[arm.label].append(arm)
    return [replace(arm, label=_distinct_label(arm, by_label[arm.label])) for arm in arms]


def _distinct_label(arm: Arm, namesakes: Sequence[Arm]) -> str:
    """The arm's name alone, or with the first key whose values tell all namesakes apart, or with its number."""
    if len(namesakes) == 1:
        return arm.label
    for table in ("settings", "facts"):
        own = getattr(arm, table)
        for key in own:
            texts = [_shown(getattr(other, table).get(key)) for other in namesakes]
            if len(set(texts)) == len(texts):
                return f"{arm.label} ({key}={_shown(own[key])})"
    return f"{arm.label} (#{namesakes.index(arm) + 1})"


def _against(key: str, own: Any, other: Any) -> str:
    return f"{key} ({_shown(own)} against {_shown(other)})"


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
