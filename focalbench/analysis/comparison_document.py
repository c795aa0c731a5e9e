"""Writes a comparison as plain data, for JSON and CSV: numbers in the metric's own unit, nan where there is none."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from focalbench.analysis.comparison import Comparison
from focalbench.analysis.formats import verdict_words
from focalbench.analysis.judged_arms import ArmComparison, ArmResult
from focalbench.statistics.failures import Failures
from focalbench.statistics.sign_flips import smallest_sign_flip_p
from focalbench.statistics.verdict import ONE_LOOK, Judgement


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Returns everything that a comparison says."""
    needed, over = comparison.seeds_needed, comparison.exaggeration
    failures = {entry.arm: entry.failures for entry in comparison.comparisons if entry.failures is not None}
    return {
        "metric": comparison.metric,
        "better": comparison.direction,
        "baseline": comparison.baseline,
        "margin": comparison.margin,
        "rule": comparison.rule,
        "arms_corrected_for": comparison.num_arms,
        "looks": None if comparison.plan is ONE_LOOK else [sorted(seeds or ()) for seeds in comparison.plan.looks],
        "added_seeds": list(comparison.added_seeds),
        "seeds_for_margin": None if needed is None else asdict(needed),
        "exaggeration": None if over is None else asdict(over),
        "arms": [_arm_document(result) for result in comparison.arms],
        "comparisons": [_entry_document(entry, comparison) for entry in comparison.comparisons],
        "unfinished": [
            {"trial": str(t.folder), "arm": t.arm, "seed": t.seed, "state": str(t.state), "reason": t.reason}
            for t in comparison.unfinished
        ],
        "warnings": list(comparison.warnings),
        "failed": {arm: list(found.seeds) for arm, found in failures.items()},
    }


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


def _entry_document(entry: ArmComparison, comparison: Comparison) -> dict[str, Any]:
    return {
        "arm": entry.arm,
        "seeds": list(entry.seeds),
        **_figures(entry.judgement),
        "n": entry.judgement.n if entry.judgement is not None else len(entry.seeds),
        "wins": entry.wins,
        "correlation_within_seeds": entry.correlation,
        "detectable_difference": entry.detectable,
        "ci_new_images": list(entry.ci_new_images),
        "test_set_noise": asdict(entry.noise) if entry.noise is not None else None,
        "failures": None if entry.failures is None else _failures(entry.failures),
        "not_comparable": list(entry.not_comparable),
        "verdict": entry.verdict,
        "words": verdict_words(entry, comparison.metric, comparison.margin),
    }


def _figures(found: Judgement | None) -> dict[str, Any]:
    """None everywhere for arms that cannot be compared."""
    if found is None:
        keys = ("difference", "sd", "se", "df", "ci", "p", "level", "p_corrected", "p_equivalence", "p_exact")
        return dict.fromkeys((*keys, "smallest_p_exact", "look"))
    return {
        "difference": found.difference,
        "sd": found.sd,
        "se": found.se,
        "df": found.df,
        "ci": list(found.ci),
        "p": found.p,
        "level": found.level,
        "p_corrected": found.p_corrected,
        "p_equivalence": found.p_equivalence,
        "equivalence_level": found.equivalence_level,
        "different_from": found.different_from,
        "alike_within": found.alike_within,
        "p_exact": found.p_exact,
        "smallest_p_exact": smallest_sign_flip_p(found.n),
        "look": found.look,
    }


def _failures(found: Failures) -> dict[str, Any]:
    return {"seeds": list(found.seeds), "n": found.n, "interval": list(found.interval), "p": found.p}
