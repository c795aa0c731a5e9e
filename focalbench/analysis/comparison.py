"""Arms side by side: who is better than the baseline, by how much, and whether that can be said at all."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from focalbench.analysis.arms import (
    Arm,
    StoppedArm,
    circumstances,
    group_arms,
    incomparable_keys,
    set_stopped_apart,
    unknown_facts,
)
from focalbench.analysis.image_resampling import ResamplingNoise, measure_test_set_noise
from focalbench.analysis.statistics import (
    MIN_SEEDS,
    VERDICT_LEVEL,
    Direction,
    PairedDifference,
    Summary,
    holm,
    paired_difference,
    summarise,
    verdict,
)
from focalbench.errors import ConfigError, DataError
from focalbench.records.reader import TrialRecord
from focalbench.records.result import metric_name
from focalbench.records.state import TrialState
from focalbench.tags import IMAGES_PER_S, MEAN_AP, TRAIN_SECONDS, is_average_precision

NOT_COMPARABLE = "not comparable"
VERDICT_RULE = (
    f"better / worse: paired t test over seeds, Holm-corrected over the arms, p < {VERDICT_LEVEL:g}, from {MIN_SEEDS} "
    "paired seeds on (false alarms in under 5 % of simulated sweeps: docs/statistics.md)."
)
RULE = f"{VERDICT_RULE} The exact sign-flip test is shown beside it."
_LOWER_IS_BETTER = ("wall_s", "train_s", TRAIN_SECONDS, "peak_memory_mb")  # no loss: those of two arms differ in scale
_HIGHER_IS_BETTER = ("images_per_s", IMAGES_PER_S)
_PLAIN = ("ce", "softmax_ce")
"""Losses that the default baseline is looked for among: cross entropy without weights."""


@dataclass(frozen=True)
class ArmResult:
    """One arm's values of the metric.

    Attributes:
        arm: the arm.
        values: seed -> value, finite ones only.
        summary: their n, mean and sd.
    """

    arm: Arm
    values: dict[int, float]
    summary: Summary


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the baseline.

    Attributes:
        arm: label of the arm.
        seeds: those that both have.
        paired: the figures; None where the arms cannot be compared.
        p_corrected: Holm-corrected p of the paired t test over all comparisons; nan where there is none.
        noise: test-set noise of the difference; None where the detections are not there or the metric is no AP.
        not_comparable: keys that differ though they must not, with both values.
        verdict: in words.
    """

    arm: str
    seeds: tuple[int, ...]
    paired: PairedDifference | None
    p_corrected: float
    noise: ResamplingNoise | None
    not_comparable: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Everything that ``compare`` says.

    Attributes:
        metric: name of the metric.
        direction: whether higher or lower is better.
        baseline: label of the baseline; None with a single arm.
        arms: in the order of the sweep.
        comparisons: one for each arm but the baseline, and for each that was stopped early, which is not in ``arms``.
        unfinished: trials that do not count, with the reason.
        warnings: what a reader must know.
        failed: seeds in which an arm of ``arms`` failed, by its label.
    """

    metric: str
    direction: Direction
    baseline: str | None
    arms: tuple[ArmResult, ...]
    comparisons: tuple[ArmComparison, ...]
    unfinished: tuple[TrialRecord, ...]
    warnings: tuple[str, ...] = field(default=())
    failed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def stopped(self) -> tuple[ArmComparison, ...]:
        """The arms that were stopped early."""
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

    def as_document(self) -> dict[str, Any]:
        """Returns the comparison as plain data for JSON; nan stays nan."""
        return {
            "metric": self.metric,
            "better": self.direction,
            "baseline": self.baseline,
            "rule": RULE,
            "arms": [_arm_document(result) for result in self.arms],
            "comparisons": [_comparison_document(comparison) for comparison in self.comparisons],
            "unfinished": [
                {"trial": str(t.folder), "arm": t.arm, "seed": t.seed, "state": str(t.state), "reason": t.reason}
                for t in self.unfinished
            ],
            "warnings": list(self.warnings),
            "failed": {arm: list(seeds) for arm, seeds in self.failed.items()},
        }


def compare_trials(
    trials: Sequence[TrialRecord],
    *,
    baseline: str | None = None,
    metric: str = MEAN_AP,
    with_test_set_noise: bool = True,
) -> Comparison:
    """Groups trials into arms and compares each with the baseline over the seeds that both have.

    Args:
        trials: see ``reader.read_trials``.
        baseline: name of the baseline arm; None takes the arm named ``ce``, else the first with plain cross entropy,
            else the first.
        metric: ``val/mAP``, ``AP/<class>``, or any number of result.json or metrics.jsonl.
        with_test_set_noise: also resample the test images, where the trials kept their detections.

    Raises:
        ConfigError: an unknown baseline or metric.
        DataError: no trial has finished.
    """
    metric = metric_name(metric)
    direction = metric_direction(metric)
    trials, stopped = set_stopped_apart(trials)
    unfinished = tuple(trial for trial in trials if not trial.counts)
    arms, warnings = group_arms(trials)
    if not arms:
        raise DataError(_nothing_finished(unfinished))
    _require_metric(metric, arms)
    results = [ArmResult(arm, values := arm.values(metric), summarise(list(values.values()))) for arm in arms]
    warnings += _missing_values(results, metric)
    warnings += unknown_facts(arms) + circumstances(arms)
    failed = _failed_seeds(arms, unfinished)
    warnings += [
        f"{label}: failed in seed {', '.join(map(str, seeds))}; figures and verdict are of the seeds where it did not"
        for label, seeds in failed.items()
    ]
    comparisons, label = [], None
    if len(arms) > 1 or baseline is not None:
        base = _choose_baseline(results, baseline)
        comparisons, label = _compare(results, base, metric, direction, with_test_set_noise, warnings), base.arm.label
    comparisons += [_stopped_comparison(arm, taken={arm.label for arm in arms}) for arm in stopped]
    return Comparison(metric, direction, label, tuple(results), tuple(comparisons), unfinished, tuple(warnings), failed)


def _failed_seeds(arms: Sequence[Arm], unfinished: Sequence[TrialRecord]) -> dict[str, tuple[int, ...]]:
    """Seeds in which an arm that has finished others failed, by label: what is left may be the lucky ones."""
    found = {}
    for arm in arms:
        names = {trial.arm for trial in arm.trials.values()}
        lost = {t.seed for t in unfinished if t.state is TrialState.FAILED and t.arm in names and t.seed is not None}
        if lost := lost - arm.trials.keys():
            found[arm.label] = tuple(sorted(lost))
    return found


def metric_direction(metric: str) -> Direction:
    """Tells whether higher or lower values of a metric are better; ``none`` where neither can be said."""
    if is_average_precision(metric) or metric in _HIGHER_IS_BETTER:
        return "higher"
    return "lower" if metric in _LOWER_IS_BETTER else "none"


def _compare(
    results: Sequence[ArmResult],
    base: ArmResult,
    metric: str,
    direction: Direction,
    with_test_set_noise: bool,
    warnings: list[str],
) -> list[ArmComparison]:
    others = {result.arm.label: result for result in results if result is not base}
    blocked = {label: incomparable_keys(result.arm, base.arm) for label, result in others.items()}
    shared = {label: sorted(result.values.keys() & base.values.keys()) for label, result in others.items()}
    for label, result in others.items():
        if not shared[label]:
            blocked[label].append(f"seeds ({_seeds(result.values)} against {_seeds(base.values)})")
    comparable = {label: (result.arm, shared[label]) for label, result in others.items() if not blocked[label]}
    # Holm's correction, which decides what is detectable, is over the arms that have a p at all.
    num_comparisons = max(1, sum(len(seeds) > 1 for _, seeds in comparable.values()))
    paired: dict[str, PairedDifference] = {}
    unpaired: dict[str, list[str]] = defaultdict(list)
    for label, (_, seeds) in comparable.items():
        values = others[label].values
        paired[label] = paired_difference(
            [values[seed] for seed in seeds], [base.values[seed] for seed in seeds], num_comparisons=num_comparisons
        )
        if lone := values.keys() ^ base.values.keys():
            unpaired[_seeds(lone)].append(label)
    warnings += [
        f"{', '.join(labels)}: seeds not in both arms, and left out of the difference: {seeds}"
        for seeds, labels in unpaired.items()
    ]
    corrected = dict(zip(paired, holm([pair.p_t for pair in paired.values()]), strict=True))
    noise = measure_test_set_noise(base.arm, comparable, metric, warnings) if with_test_set_noise else {}
    compared = []
    for label in others:
        pair, p = paired.get(label), corrected.get(label, math.nan)
        words = NOT_COMPARABLE if pair is None else verdict(pair.n, pair.difference, p, direction)
        known = (tuple(shared[label]), pair, p, noise.get(label), tuple(blocked[label]))
        compared.append(ArmComparison(label, *known, words))
    return compared


def _stopped_comparison(arm: StoppedArm, taken: set[str]) -> ArmComparison:
    label = f"{arm.label} (stopped)" if arm.label in taken else arm.label  # another sweep may have finished it
    return ArmComparison(label, arm.seeds, None, math.nan, None, (arm.reason,), NOT_COMPARABLE)


def _choose_baseline(results: Sequence[ArmResult], wanted: str | None) -> ArmResult:
    """The asked-for arm, or plain cross entropy, or the first; always one that has values."""
    usable = [result for result in results if result.values]
    if wanted is None:
        named = [result for result in usable if result.arm.label == "ce"]
        plain = [result for result in usable if result.arm.settings.get("loss.name") in _PLAIN]
        return (named or plain or usable)[0]
    matching = [result for result in results if result.arm.label == wanted]
    if not matching:
        labels = [result.arm.label for result in results]
        namesakes = [label for label in labels if label.startswith(f"{wanted} (")]
        if namesakes:
            raise ConfigError(f"--baseline {wanted}: several arms have this name: {'; '.join(namesakes)}")
        raise ConfigError(f"--baseline {wanted}: no such arm{_suggestion(wanted, labels)}; arms: {', '.join(labels)}")
    if not matching[0].values:
        raise ConfigError(f"--baseline {wanted}: this arm has no finished trial with the metric")
    return matching[0]


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
    return [f"{label}: {words} {_seeds(seeds)}" for label, seeds in missing.items() if seeds]


def _nothing_finished(unfinished: Sequence[TrialRecord]) -> str:
    lines = [f"no finished trial among {len(unfinished)}:"]
    lines += [f"  {trial.folder}: {trial.reason or trial.state}" for trial in unfinished[:12]]
    if len(unfinished) > 12:
        lines.append(f"  ... and {len(unfinished) - 12} more")
    return "\n".join(lines)


def _seeds(seeds: Any) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds)) or "none"


def _arm_document(result: ArmResult) -> dict[str, Any]:
    return {
        "arm": result.arm.label,
        "n": result.summary.n,
        "mean": result.summary.mean,
        "sd": result.summary.sd,
        "seeds": list(result.values),
        "values": list(result.values.values()),
        "loss": result.arm.settings.get("loss.name"),
        "trials": [str(result.arm.trials[seed].folder) for seed in result.values],
    }


def _comparison_document(comparison: ArmComparison) -> dict[str, Any]:
    pair = comparison.paired
    figures = asdict(pair) if pair is not None else {}
    return {
        "arm": comparison.arm,
        "n": pair.n if pair is not None else len(comparison.seeds),
        "seeds": list(comparison.seeds),
        "difference": figures.get("difference"),
        "sd": figures.get("sd"),
        "ci": list(figures["ci"]) if pair is not None else None,
        "ci_bootstrap": list(figures["ci_bootstrap"]) if pair is not None else None,
        "p": figures.get("p_t"),
        "p_corrected": comparison.p_corrected,
        "p_exact": figures.get("p_exact"),
        "smallest_p_exact": figures.get("smallest_p"),
        "detectable_difference": figures.get("detectable"),
        "seeds_for_one_point": figures.get("seeds_for_one_point"),
        "test_set_noise": asdict(comparison.noise) if comparison.noise is not None else None,
        "not_comparable": list(comparison.not_comparable),
        "verdict": comparison.verdict,
    }
