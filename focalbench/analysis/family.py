"""Finds what a comparison belongs to: whichever trials are named, the arms of their sweep are judged together.

A difference that is large for one arm is no surprise as the largest of nine. Who names one of nine folders must read
the same words as who names all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focalbench.config.schema import SweepConfig
from focalbench.errors import DataError
from focalbench.records.plan import Look, SweepPlan
from focalbench.records.reader import TrialRecord, read_trials
from focalbench.records.sweep import SweepFolder
from focalbench.statistics.verdict import Plan


@dataclass(frozen=True)
class Family:
    """The sweeps that trials belong to.

    Attributes:
        folders: of the sweeps that have a list.
        others: trials of arms that are in these sweeps and were not named.
        arms: names of all arms that the lists hold.
        margin: largest difference in mAP that does not matter: the smallest that one of the sweeps declares.
        plan: what the one sweep declares; None where there are several, or none with a list.
        looks: taken at that sweep so far.
    """

    folders: tuple[Path, ...]
    others: tuple[TrialRecord, ...]
    arms: tuple[str, ...]
    margin: float
    plan: SweepPlan | None
    looks: tuple[Look, ...]

    def taken(self, num_looks: int | None) -> Plan:
        """Returns when the arms were looked at, up to ``num_looks``; None: up to the last look that was taken.

        Only for a sweep that goes on until it is decided.
        """
        assert self.plan is not None
        taken = len(self.looks) if num_looks is None else num_looks
        num_arms = max(1, len(set(self.arms) - {self.plan.baseline}))
        return Plan.declared(self.plan.seeds, self.plan.looks, num_arms, taken=taken)

    def added_seeds(self, seeds: set[int]) -> tuple[int, ...]:
        """Returns those of ``seeds`` that nobody had declared when the arms were looked at for the first time."""
        if self.plan is None or not self.looks:
            return ()
        declared = self.plan.seeds if self.plan.until is not None else self.looks[0].seeds
        return tuple(sorted(seeds - set(declared)))


def read_family(trials: Sequence[TrialRecord], warnings: list[str]) -> Family:
    """Returns the family of ``trials``; what cannot be read of it becomes a warning."""
    folders = [
        folder for folder in dict.fromkeys(t.folder.parent for t in trials) if (folder / SweepFolder.LIST).is_file()
    ]
    named = {(trial.folder.parent, trial.arm) for trial in trials}
    others: list[TrialRecord] = []
    arms: dict[str, None] = {}
    plans: list[tuple[SweepPlan, tuple[Look, ...]]] = []
    for folder in folders:
        sweep = SweepFolder(folder)
        try:
            listed = sweep.arms()
            plan, looks = sweep.plan(), sweep.looks()
        except DataError as fault:
            warnings.append(f"{fault}; its arms are judged as if their seeds had all been declared at once")
            listed, plan, looks = (), None, ()
        arms |= dict.fromkeys(listed)
        if any((folder, arm) not in named for arm in listed):
            others += [trial for trial in read_trials([folder]) if (folder, trial.arm) not in named]
        if plan is not None:
            plans.append((plan, looks))
    if not folders and any(trial.from_table for trial in trials):
        warnings.append(
            f"no {SweepFolder.LIST} beside the table, which would say what was declared: judged with the default "
            "margin, as if all seeds had been declared at once"
        )
    margins = [plan.margin for plan, _ in plans] or [SweepConfig.model_fields["margin"].default]
    own = plans[0] if len(folders) == len(plans) == 1 and _is_all_of(folders[0], trials) else (None, ())
    return Family(tuple(folders), tuple(others), tuple(arms), min(margins), *own)


def _is_all_of(folder: Path, trials: Sequence[TrialRecord]) -> bool:
    """Whether all trials lie in one sweep."""
    return all(trial.folder.parent == folder for trial in trials)
