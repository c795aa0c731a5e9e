"""Arms side by side: who is better than the baseline, by how much, and whether that can be said at all."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from focalbench.analysis.arms import (
    Arm,
    StoppedArm,
    circumstances,
    default_baseline,
    group_arms,
    set_stopped_apart,
    unknown_facts,
)
from focalbench.analysis.family import Family, read_family
from focalbench.analysis.image_resampling import ResamplingNoise, measure_test_set_noise
from focalbench.analysis.judged_arms import (
    NOT_COMPARABLE,
    ArmComparison,
    ArmResult,
    JudgedArms,
    judge_arms,
    seed_list,
)
from focalbench.errors import ConfigError, DataError
from focalbench.records.plan import Look
from focalbench.records.reader import TrialRecord
from focalbench.records.result import metric_name
from focalbench.records.results_table import RESULTS
from focalbench.records.state import TrialState
from focalbench.statistics.paired_tests import MIN_POOLED
from focalbench.statistics.power import WANTED_POWER, SeedsNeeded, mean_when_found, power, seeds_needed
from focalbench.statistics.summary import summarise
from focalbench.statistics.verdict import DIFFERENT, FINAL, LEVEL, MIN_SEEDS, ONE_LOOK, Direction, Plan
from focalbench.tags import IMAGES_PER_S, MEAN_AP, TRAIN_SECONDS, is_average_precision

# No loss: those of two arms differ in scale.
_LOWER_IS_BETTER = ("wall_s", "train_s", TRAIN_SECONDS, "peak_memory_mb", "gpu_memory_mb", "gpu_reserved_mb")
_HIGHER_IS_BETTER = ("images_per_s", IMAGES_PER_S)


@dataclass(frozen=True)
class Exaggeration:
    """By how much a claim is overstated where it only just passes.

    Attributes:
        arm: of the arms that are called different, the one that passes by the least.
        difference: a true difference: the margin.
        power: how often it is found with that arm's seeds and spread.
        reads: what it reads on average where it is found.
    """

    arm: str
    difference: float
    power: float
    reads: float


@dataclass(frozen=True)
class Comparison:
    """Everything that ``compare`` says.

    Attributes:
        metric: name of the metric.
        direction: whether higher or lower is better.
        baseline: label of the baseline; None with a single arm.
        arms: in the order of the sweep.
        comparisons: one for each arm but the baseline, and for each that has no result that counts (stopped early, or
            failed in every seed), which is not in ``arms``.
        unfinished: trials that do not count, with the reason.
        warnings: what a reader must know.
        margin: largest difference that does not matter in practice; None where the metric has none.
        num_arms: arms that the words are corrected for.
        plan: when the arms were looked at.
        seeds_needed: paired seeds that find a difference as large as the margin; None where nothing says so.
        exaggeration: None where no arm is called different, or claims are hardly overstated.
        added_seeds: that nobody had declared when the arms were looked at for the first time.
    """

    metric: str
    direction: Direction
    baseline: str | None
    arms: tuple[ArmResult, ...]
    comparisons: tuple[ArmComparison, ...]
    unfinished: tuple[TrialRecord, ...]
    warnings: tuple[str, ...] = ()
    margin: float | None = None
    num_arms: int = 0
    plan: Plan = ONE_LOOK
    seeds_needed: SeedsNeeded | None = None
    exaggeration: Exaggeration | None = None
    added_seeds: tuple[int, ...] = ()

    @property
    def without_result(self) -> tuple[ArmComparison, ...]:
        """The arms that have no result that counts: stopped early, or failed in every seed."""
        labels = {result.arm.label for result in self.arms}
        return tuple(entry for entry in self.comparisons if entry.arm not in labels)

    @property
    def ranked(self) -> tuple[ArmResult, ...]:
        """The arms, the best mean first; in the order of the sweep where neither higher nor lower is better."""
        if self.direction == "none":
            return self.arms
        sign = -1 if self.direction == "higher" else 1
        # nan, the mean of no values, has no place among numbers.
        return tuple(sorted(self.arms, key=lambda arm: (not arm.values, sign * arm.summary.mean if arm.values else 0)))

    @property
    def undecided(self) -> tuple[ArmComparison, ...]:
        """The arms that more seeds could still say something about."""
        return tuple(entry for entry in self.comparisons if entry.verdict not in (*FINAL, NOT_COMPARABLE))

    @property
    def rule(self) -> str:
        """The rule of the verdicts in words, for a reader of its table."""
        parts = ["paired t test over seeds"]
        parts += ["variances drawn towards the sweep's typical one"] if self.num_arms >= MIN_POOLED else []
        parts += [f"Holm-corrected over {self.num_arms} arms"] if self.num_arms > 1 else []
        when = f"p < {LEVEL:g}, from {MIN_SEEDS} paired seeds on"
        if self.plan is not ONE_LOOK:
            when = f"with a level for each look at the seeds that together keep {LEVEL:g}"
        return (
            f"better / worse: {', '.join([*parts, when])}. no practical difference: within the margin by two one-sided "
            "tests. How often such verdicts are wrong: focalbench docs statistics"
        )


def compare_trials(
    trials: Sequence[TrialRecord],
    *,
    baseline: str | None = None,
    metric: str = MEAN_AP,
    with_test_set_noise: bool = True,
    with_exact: bool = True,
    num_looks: int | None = None,
) -> Comparison:
    """Groups trials into arms and compares each with the baseline over the seeds that both have.

    The arms of a sweep are judged together, whichever of them are named: see :mod:`focalbench.analysis.family`.

    Args:
        trials: see ``reader.read_trials``.
        baseline: name of the baseline arm; None takes the one that the sweep declares, else the arm named ``ce``, else
            the first with plain cross entropy, else the first.
        metric: ``val/mAP``, ``AP/<class>``, or any number of result.json or metrics.jsonl.
        with_test_set_noise: also resample the test images, where the trials kept their detections.
        with_exact: also run the joint sign-flip test.
        num_looks: of a sweep that goes on until it is decided: judge as of this look; None: as of the last one taken.

    Raises:
        ConfigError: an unknown baseline or metric.
        DataError: no trial has finished.
    """
    metric = metric_name(metric)
    warnings: list[str] = []
    family = read_family(trials, warnings)
    named, stopped = set_stopped_apart(trials)
    others, _ = set_stopped_apart(family.others)
    unfinished = tuple(trial for trial in named if not trial.counts)
    arms, told = group_arms([*named, *others])
    own = {trial.folder for trial in named}
    shown = [arm for arm in arms if any(trial.folder in own for trial in arm.trials.values())]
    if not shown:
        raise DataError(_nothing_finished(unfinished))
    _require_metric(metric, shown)
    results = [ArmResult(arm, values := arm.values(metric), summarise(list(values.values()))) for arm in arms]
    visible = [result for result in results if result.arm in shown]
    warnings += told + _missing_values(visible, metric) + unknown_facts(shown) + circumstances(shown)
    found = Comparison(metric, metric_direction(metric), None, tuple(visible), (), unfinished)
    failed = _failed_seeds(arms, [trial for trial in (*named, *others) if not trial.counts])
    entries: list[ArmComparison] = []
    if len(arms) > 1 or failed.keys() - {arm.label for arm in arms} or baseline is not None:
        base = _choose_baseline(visible, baseline, family, failed.keys() - {arm.label for arm in arms})
        margin = _margin(family, base, metric, warnings)
        plan = _plan(family, base, metric, num_looks, warnings)
        judged = judge_arms(
            results, base, failed, direction=found.direction, margin=margin, plan=plan, with_exact=with_exact
        )
        warnings += _unpaired_seeds(judged, visible) + _same_everywhere(judged, visible)
        warnings += _only_part(judged, visible, family)
        with_noise = with_test_set_noise and not any(trial.from_table for trial in named)  # tables hold no detections
        noise = _test_set_noise(judged, visible, metric, warnings) if with_noise else {}
        entries = [judged.comparison(r.arm.label, noise.get(r.arm.label)) for r in visible if r is not base]
        entries += _never_finished(judged, arms, named)
        found = replace(found, baseline=base.arm.label, margin=margin, plan=plan, num_arms=judged.family.num_arms)
        found = replace(found, seeds_needed=_seeds_needed(judged, plan, margin))
        found = replace(found, exaggeration=_exaggeration(entries, margin))
    entries += [_stopped_comparison(arm, taken={arm.label for arm in arms}) for arm in stopped]
    added = family.added_seeds({seed for result in visible for seed in result.values})
    warnings += _added_words(added, family) + _margin_words(family)
    return replace(found, comparisons=tuple(entries), warnings=tuple(warnings), added_seeds=added)


def _failed_seeds(arms: Sequence[Arm], unfinished: Sequence[TrialRecord]) -> dict[str, frozenset[int]]:
    """Seeds in which an arm failed, by label; by name for an arm that has finished none."""
    labels: dict[str, list[Arm]] = {}
    for arm in arms:
        for name in {trial.arm for trial in arm.trials.values()}:
            labels.setdefault(name, []).append(arm)
    found: dict[str, set[int]] = {}
    for trial in unfinished:
        if trial.state is not TrialState.FAILED or trial.seed is None:
            continue
        namesakes = labels.get(trial.arm, [])
        if not namesakes:
            found.setdefault(trial.arm, set()).add(trial.seed)
        for arm in namesakes:
            if trial.seed not in arm.trials:
                found.setdefault(arm.label, set()).add(trial.seed)
    return {label: frozenset(seeds) for label, seeds in found.items()}


def metric_direction(metric: str) -> Direction:
    """Tells whether higher or lower values of a metric are better; ``none`` where neither can be said."""
    if is_average_precision(metric) or metric in _HIGHER_IS_BETTER:
        return "higher"
    return "lower" if metric in _LOWER_IS_BETTER else "none"


def _choose_baseline(
    results: Sequence[ArmResult], wanted: str | None, family: Family, without_result: Set[str]
) -> ArmResult:
    """The asked-for arm, or the one that the sweep declares, or plain cross entropy, or the first; always one that has
    values. ``without_result``: names of arms of which no trial counts.
    """
    usable = {result.arm.label: result for result in results if result.values}
    if wanted is None:
        declared = usable.get(family.plan.baseline) if family.plan is not None else None
        losses = {label: str(result.arm.settings.get("loss.name")) for label, result in usable.items()}
        return declared or usable[default_baseline(losses)]
    matching = [result for result in results if result.arm.label == wanted]
    if matching and matching[0].values:
        return matching[0]
    if matching or wanted in without_result:
        raise ConfigError(f"--baseline {wanted}: this arm has no finished trial with the metric")
    labels = [result.arm.label for result in results]
    namesakes = [label for label in labels if label.startswith(f"{wanted} (")]
    if namesakes:
        raise ConfigError(f"--baseline {wanted}: several arms have this name: {'; '.join(namesakes)}")
    raise ConfigError(f"--baseline {wanted}: no such arm{_suggestion(wanted, labels)}; arms: {', '.join(labels)}")


def _margin(family: Family, base: ArmResult, metric: str, warnings: list[str]) -> float | None:
    """The margin, for metrics that it is about: a difference as large as all there is always matters."""
    if not is_average_precision(metric):
        return None
    if family.margin < base.summary.mean:
        return family.margin
    warnings.append(
        f"sweep.margin: {family.margin:g} is not below the baseline's mean {metric}, {base.summary.mean:.4f}, so "
        "no arm can be called practically alike"
    )
    return None


def _plan(family: Family, base: ArmResult, metric: str, num_looks: int | None, warnings: list[str]) -> Plan:
    """When the arms were looked at: what the sweep declares holds for the question that it was declared for."""
    if family.plan is None or family.plan.until is None:
        return ONE_LOOK
    if metric == MEAN_AP and base.arm.label == family.plan.baseline:
        return family.taken(num_looks)
    warnings.append(
        f"this sweep gave its arms seeds by their {MEAN_AP} against {family.plan.baseline}: for any other "
        "question the numbers of seeds depend on the results, and false alarms are more frequent than the rule says"
    )
    return ONE_LOOK


def _test_set_noise(
    judged: JudgedArms, visible: Sequence[ArmResult], metric: str, warnings: list[str]
) -> dict[str, ResamplingNoise]:
    arms = {result.arm.label: result.arm for result in visible if result is not judged.base}
    pairs = {label: judged.family.arms[label].pairs for label in arms if label in judged.family.arms}
    comparable = {label: (arms[label], seeds) for label, seeds in pairs.items() if seeds}
    return measure_test_set_noise(judged.base.arm, comparable, metric, warnings)


def _unpaired_seeds(judged: JudgedArms, visible: Sequence[ArmResult]) -> list[str]:
    """Seeds that only one of two arms has, which in a sweep that stops arms one by one is as it should be."""
    unpaired: dict[str, list[str]] = {}
    for result in visible if judged.family.one_look else ():
        lone = result.values.keys() ^ judged.base.values.keys()
        if result is not judged.base and lone and not judged.blocked[result.arm.label]:
            unpaired.setdefault(seed_list(lone), []).append(result.arm.label)
    return [
        f"{', '.join(labels)}: seeds that are not in both arms, and so left out of the difference: {seeds}"
        for seeds, labels in unpaired.items()
    ]


def _same_everywhere(judged: JudgedArms, visible: Sequence[ArmResult]) -> list[str]:
    labels = [result.arm.label for result in visible if result.arm.label in judged.family.arms]
    alike = [label for label in labels if (found := judged.family.arms[label]).n > 1 and found.sd == 0]
    if not alike:
        return []
    return [
        f"{', '.join(alike)}: the difference is the same in every seed, so the seeds say nothing about its spread: "
        "look at what they change"
    ]


def _only_part(judged: JudgedArms, visible: Sequence[ArmResult], family: Family) -> list[str]:
    shown = {result.arm.label for result in visible} - {judged.base.arm.label}
    judged_too = [label for label in judged.family.arms if label not in shown and judged.family.arms[label].n > 0]
    if not judged_too or not family.others:
        return []
    return [
        f"{', '.join(judged_too)}: arms of the same sweep that were not named; p, intervals and verdicts are "
        "corrected for the whole sweep"
    ]


def _never_finished(judged: JudgedArms, arms: Sequence[Arm], named: Sequence[TrialRecord]) -> list[ArmComparison]:
    """The arms that were named and failed in every seed so far."""
    with_results = {arm.label for arm in arms}
    asked = {trial.arm for trial in named}
    return [
        ArmComparison(label, judgement.failures.seeds if judgement.failures is not None else (), judgement)
        for label, judgement in judged.family.arms.items()
        if label not in with_results and label in asked
    ]


def _seeds_needed(judged: JudgedArms, plan: Plan, margin: float | None) -> SeedsNeeded | None:
    """From the spread of all arms together: one arm's own is known to a factor of six at six seeds."""
    tests = judged.family.tests
    if tests is None or margin is None or plan is not ONE_LOOK:
        return None
    level = LEVEL / judged.family.num_arms
    nu = float(tests.n.mean()) - 1
    return seeds_needed(margin, tests.pool, tests.pool_df, nu=nu, num_arms=len(tests.n), level=level, least=MIN_SEEDS)


def _exaggeration(entries: Sequence[ArmComparison], margin: float | None) -> Exaggeration | None:
    claims = [(entry.arm, entry.judgement) for entry in entries if entry.judgement and entry.verdict in DIFFERENT]
    claims = [(arm, found) for arm, found in claims if found.se > 0]
    if margin is None or not claims:
        return None
    arm, found = min(claims, key=lambda claim: abs(claim[1].difference) / claim[1].different_from)
    chance = power(margin / found.se, found.df, level=found.level)
    if chance >= WANTED_POWER:
        return None
    return Exaggeration(arm, margin, chance, mean_when_found(margin, found.se, found.df, level=found.level))


def _added_words(added: Sequence[int], family: Family) -> list[str]:
    if not added or family.plan is None:
        return []
    seeds = f"seed{'s' * (len(added) > 1)} {seed_list(added)}"
    if family.plan.until is not None:
        return [
            f"{seeds}: added by hand to a sweep that declared {len(family.plan.seeds)} seeds at most: they count "
            "in the means, but not in the verdicts, which are those of the declared looks"
        ]
    return [
        f"{seeds}: added by hand after the arms had been looked at with {_told(family.looks[0])}: adding "
        "seeds until a verdict appears finds one too often by chance; sweep.until: decided allows for the looks"
    ]


def _margin_words(family: Family) -> list[str]:
    """About a margin that is not the one of the first look; a sweep that goes on until it is decided keeps its own."""
    if family.plan is None or not family.looks or family.looks[0].margin in (None, family.plan.margin):
        return []
    first = family.looks[0]
    return [
        f"sweep.margin: {family.plan.margin:g}, but {first.margin:g} when the arms were looked at with {_told(first)}: "
        "what matters in practice is to be said before the results are seen"
    ]


def _told(look: Look) -> str:
    words = ", ".join(f"{arm}: {word}" for arm, word in look.words.items())
    return f"{len(look.seeds)} seeds ({words})"


def _stopped_comparison(arm: StoppedArm, taken: set[str]) -> ArmComparison:
    label = f"{arm.label} (stopped)" if arm.label in taken else arm.label  # another sweep may have finished it
    return ArmComparison(label, arm.seeds, not_comparable=(arm.reason,))


def _require_metric(metric: str, arms: Sequence[Arm]) -> None:
    if any(arm.values(metric) for arm in arms):
        return
    names = sorted({name for arm in arms for trial in arm.trials.values() for name in trial.metric_names()})
    if metric in names:
        raise DataError(f"{metric} is undefined (NaN) in every finished trial")
    listed = ", ".join(name for name in names if not name.startswith("train/"))
    raise ConfigError(f"--metric {metric}: no such metric{_suggestion(metric, names)}; there are: {listed}")


def _suggestion(wanted: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wanted, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _missing_values(results: Sequence[ArmResult], metric: str) -> list[str]:
    missing = {result.arm.label: result.arm.trials.keys() - result.values.keys() for result in results}
    words = f"{metric} is undefined (NaN) or missing for seed"
    return [f"{label}: {words} {seed_list(seeds)}" for label, seeds in missing.items() if seeds]


def _nothing_finished(unfinished: Sequence[TrialRecord]) -> str:
    lines = [f"no finished trial among {len(unfinished)}:"]
    lines += [f"  {trial.folder}: {trial.reason or trial.state}" for trial in unfinished[:12]]
    if len(unfinished) > 12:
        lines.append(f"  ... and {len(unfinished) - 12} more")
    folders = {trial.folder.parent for trial in unfinished}
    tables = [folder / RESULTS for folder in sorted(folders) if (folder / RESULTS).is_file()]
    if tables and not any(trial.folder.exists() for trial in unfinished):
        lines.append(f"what was kept of it is read from the table: focalbench compare {shlex.quote(str(tables[0]))}")
    return "\n".join(lines)
