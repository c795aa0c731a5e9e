"""``sweep.until: decided``, look by look: seeds are added for the arms of which nothing can be said yet.

Everything is decided again from the sweep's list and the trials' own files, so that such a sweep goes on after a kill,
and several processes that share it come to the same words. What loads scipy is imported where a look needs it: most
sweeps take none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from focalbench.analysis.arms import default_baseline
from focalbench.analysis.formats import decision_words, standing_lines
from focalbench.config.load import Experiment
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand, first_seeds, seeds_of_looks
from focalbench.errors import DataError, FocalbenchError
from focalbench.launchers.job_queue import Watcher
from focalbench.records.plan import Look, SweepPlan
from focalbench.records.reader import read_trials
from focalbench.records.sweep import SweepFolder

if TYPE_CHECKING:
    from focalbench.analysis.comparison import Comparison


def ends_by_itself(config: ExperimentConfig) -> bool:
    """Tells whether seeds are added until every arm is decided."""
    return config.sweep is not None and config.sweep.until is not None


def declared_plan(experiment: Experiment) -> SweepPlan | None:
    """Returns what a sweep declares before its arms are looked at; None for a single trial."""
    config, sweep = experiment.config, experiment.config.sweep
    if sweep is None:
        return None
    if sweep.until is None:
        return SweepPlan(seeds=tuple(dict.fromkeys(first_seeds(config))), margin=sweep.margin)
    looks = seeds_of_looks(config)
    return SweepPlan(
        seeds=looks[-1],
        until=sweep.until,
        looks=tuple(map(len, looks)),
        margin=sweep.margin,
        baseline=default_baseline({trial.arm: trial.config.loss.name for trial in experiment.trials}),
    )


@dataclass(frozen=True)
class Trainings:
    """How many trainings a sweep takes that ends by itself, in all.

    Attributes:
        least, most: where every arm is decided at the first look, and at none.
        expected: mean where no arm differs from the baseline.
        sd: of a paired difference, that ``expected`` goes by.
        measured: whether that is the sweep's own; else it is the margin, for want of anything better.
    """

    least: int
    most: int
    expected: float
    sd: float
    measured: bool


def forecast_until_decided(experiment: Experiment, sweep: SweepFolder) -> Trainings | None:
    """Returns how many trainings the sweep takes; None for one with a list of seeds."""
    plan = declared_plan(experiment)
    if plan is None or plan.until is None:
        return None
    from focalbench.statistics.expected import expected_trainings

    num_arms = len({trial.arm for trial in experiment.trials} - {plan.baseline})
    sd = _measured_sd(sweep)
    return Trainings(
        least=len(experiment.trials),
        most=_most(experiment, plan),
        expected=expected_trainings(num_arms, plan.looks, margin=plan.margin, sd=sd or plan.margin),
        sd=sd or plan.margin,
        measured=bool(sd),
    )


def _measured_sd(sweep: SweepFolder) -> float | None:
    """The typical sd of a paired difference at the last look; None before the first."""
    from focalbench.analysis.comparison import compare_trials

    try:
        found = compare_trials(read_trials([sweep.path]), with_test_set_noise=False, with_exact=False)
    except FocalbenchError:
        return None
    spreads = [entry.judgement.sd for entry in found.comparisons if entry.judgement and entry.judgement.look]
    return median(spreads) if spreads else None


def opened_trials(experiment: Experiment, sweep: SweepFolder) -> tuple[Trial, ...]:
    """Returns the trials of the first look, and those of later ones that ``sweep`` lists already."""
    listed = {row["hash"] for row in sweep.listed()} | {trial.hash for trial in experiment.trials}
    every = expand(experiment.config, seeds=seeds_of_looks(experiment.config)[-1])
    return tuple(trial for trial in every if trial.hash in listed)


def run_until_decided(
    experiment: Experiment,
    sweep: SweepFolder,
    train: Callable[[Sequence[Trial]], bool],
    *,
    alone: bool,
    watcher: Watcher,
) -> tuple[tuple[Trial, ...], str]:
    """Trains look by look until no arm is left to decide, the seeds are used up, or ``train`` says that it is over.

    Args:
        train: trains what is left of the trials; says whether anything may start after it.
        alone: as in ``SweepFolder.open``.
        watcher: told what each look finds.

    Returns:
        all trials of the sweep, as far as they were begun, and how it ended in words; empty where it did not.
    """
    config, plan = experiment.config, declared_plan(experiment)
    assert plan is not None
    undecided = {trial.arm for trial in experiment.trials} - {plan.baseline}
    ending = ""
    for number, seeds in enumerate(seeds_of_looks(config), 1):
        trials = [trial for trial in expand(config, seeds=seeds) if trial.arm in {*undecided, plan.baseline}]
        before = {trial.hash for trial in opened_trials(experiment, sweep)}
        sweep.open(config.name, trials, alone=alone)
        watcher.sweep_grew(sum(trial.hash not in before for trial in trials))
        if not train(trials) or not _all_came(trials, sweep, watcher):
            break
        comparison = _look(sweep, number, plan, watcher)
        if comparison is None:
            break
        words = {entry.arm: entry.verdict for entry in comparison.comparisons}
        sweep.record_look(Look(seeds=seeds, words=words, margin=plan.margin))
        _tell(comparison, undecided, seeds, plan, watcher)
        undecided &= {entry.arm for entry in comparison.undecided}
        ending = _ending(undecided, seeds, plan)
        if not undecided:
            break
    begun = opened_trials(experiment, sweep)
    return begun, ending and f"{ending}: {len(begun)} of at most {_most(experiment, plan)} trials"


def _ending(undecided: set[str], seeds: Sequence[int], plan: SweepPlan) -> str:
    """How the sweep has ended; empty while it goes on."""
    if not undecided:
        return "every arm has a verdict"
    if len(seeds) < plan.looks[-1]:
        return ""
    return f"undecided after all {len(seeds)} seeds: {', '.join(sorted(undecided))}"


def _most(experiment: Experiment, plan: SweepPlan) -> int:
    """Trainings where no arm is decided before the last look."""
    return len(expand(experiment.config, seeds=plan.seeds))


def _all_came(trials: Sequence[Trial], sweep: SweepFolder, watcher: Watcher) -> bool:
    """Whether all trials have come to an end, well or not: a look needs them all."""
    left = [trial.name for trial in trials if not sweep.trial(trial.name).state().is_final]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        watcher.message(f"sweep.until waits for {left[0]}{more}: the same command resumes it")
    return not left


def _look(sweep: SweepFolder, number: int, plan: SweepPlan, watcher: Watcher) -> Comparison | None:
    """How the arms stand; None where there is nothing to compare with."""
    from focalbench.analysis.comparison import compare_trials

    try:
        found = compare_trials(read_trials([sweep.path]), with_test_set_noise=False, with_exact=False, num_looks=number)
    except DataError as fault:  # nothing has finished, or mAP is undefined
        watcher.message(f"sweep.until ends here: {fault}")
        return None
    if found.baseline != plan.baseline:
        watcher.message(f"sweep.until ends here: {plan.baseline}, the baseline, has no result to compare with")
        return None
    return found


def _tell(comparison: Comparison, undecided: set[str], seeds: Sequence[int], plan: SweepPlan, watcher: Watcher) -> None:
    """Says which arms this look has decided, and how far the others are from it."""
    from focalbench.statistics.verdict import FINAL

    entries = [entry for entry in comparison.comparisons if entry.arm in undecided]
    for entry in entries:
        if entry.verdict in FINAL:
            watcher.message(decision_words(entry, comparison))
    left = [entry for entry in entries if entry.verdict not in FINAL]
    watcher.standing(standing_lines(comparison, left, len(seeds), plan.looks))
