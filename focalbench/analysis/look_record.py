"""Keeps in a sweep's list that somebody was told how its arms stand: seeds that come later were not declared before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.errors import DataError, StorageError
from focalbench.records.plan import Look
from focalbench.records.reader import TrialRecord
from focalbench.records.sweep import SweepFolder
from focalbench.statistics.verdict import MIN_SEEDS
from focalbench.tags import MEAN_AP


def compare_and_record(
    trials: Sequence[TrialRecord],
    *,
    baseline: str | None = None,
    metric: str = MEAN_AP,
    with_test_set_noise: bool = True,
) -> Comparison:
    """Compares ``trials`` for somebody who is told the outcome, which is noted; see ``compare_trials``."""
    comparison = compare_trials(trials, baseline=baseline, metric=metric, with_test_set_noise=with_test_set_noise)
    record_look(comparison, trials)
    return comparison


def record_look(comparison: Comparison, trials: Sequence[TrialRecord]) -> None:
    """Notes that somebody was told how the arms of a sweep stand.

    Only of a sweep with a list of seeds: one that ends by itself keeps its own looks. Nothing is noted where no arm has
    seeds enough for a word, and nothing can be where the folder may not be written to: reading is what was asked for.
    """
    words = {entry.arm: entry.verdict for entry in comparison.comparisons if len(entry.seeds) >= MIN_SEEDS}
    folders = {trial.folder.parent for trial in trials}
    of_table = any(trial.from_table for trial in trials)  # which may be anybody's
    if not words or len(folders) != 1 or comparison.metric != MEAN_AP or of_table:
        return
    sweep = SweepFolder(folders.pop())
    with suppress(DataError, StorageError):
        plan = sweep.plan()
        if plan is not None and plan.until is None:
            sweep.record_look(Look(seeds=plan.seeds, words=words, margin=plan.margin))
