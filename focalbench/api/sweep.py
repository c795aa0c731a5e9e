"""``focalbench.load``: the trials of a sweep, finished or not, and what can be asked of them."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focalbench.analysis.arms import trials_by_arm
from focalbench.analysis.look_record import compare_and_record
from focalbench.api.comparison import Comparison
from focalbench.api.frames import data_frame
from focalbench.errors import DataError
from focalbench.records.document import as_number
from focalbench.records.reader import TrialRecord, flatten_config, read_trials
from focalbench.records.sweep import SweepFolder
from focalbench.tags import BEST_MEAN_AP, CLASS_AP, MEAN_AP

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ("trial", "arm", "seed")
_TIMES = ("wall_s", "train_s", "images_per_s")


def load(*paths: str | os.PathLike[str]) -> Sweep:
    """Reads the trials in run folders (runs/NAME), trial folders or tables of results (results.csv), finished or not;
    nothing is trained or loaded.

    Raises:
        DataError: for a path that does not exist or holds no trial.
    """
    return Sweep(read_trials(paths, tables=True))


@dataclass(frozen=True)
class Sweep:
    """The trials of an experiment as they stood when they were read.

    Attributes:
        trials: with ``name``, ``arm``, ``seed``, ``state``, ``folder``, ``config``, ``result``, the logged ``metrics``
            and, where something went wrong, ``error``.
    """

    trials: tuple[TrialRecord, ...]

    @cached_property
    def arms(self) -> dict[str, tuple[TrialRecord, ...]]:
        """The trials of each arm, a trial a seed, by the arm's name; a name that has stood for several configurations
        is followed by what tells them apart.
        """
        return {arm: tuple(trials) for arm, trials in trials_by_arm(self.trials).items()}

    def compare(self, baseline: str | None = None, metric: str = MEAN_AP, *, test_noise: bool = True) -> Comparison:
        """Compares each arm with a baseline over the seeds that both have, as ``focalbench compare`` does.

        Args:
            baseline: name of an arm; None: the one that the sweep declares, else plain cross entropy.
            metric: ``val/mAP``, ``AP/<class>``, ``time``, or any other logged number.
            test_noise: resample the test images too, which takes some seconds and shows in ``Comparison.found``.

        Raises:
            ConfigError: for an unknown baseline or metric.
            DataError: when no trial has finished.
        """
        found = compare_and_record(self.trials, baseline=baseline, metric=metric, with_test_set_noise=test_noise)
        return Comparison(found)

    def metrics(self) -> pd.DataFrame:
        """Returns everything that was logged: a row for each trial and step, a column for each number.

        Raises:
            MissingPackageError: without pandas.
        """
        rows, tags = [], dict.fromkeys(("step",))
        for trial in self.trials:
            steps: dict[int, dict[str, Any]] = {}
            for line in trial.metrics:
                numbers = {tag: value for tag, value in line.items() if tag != "step" and as_number(value) is not None}
                steps.setdefault(line["step"], {"step": line["step"]}).update(numbers)
                tags |= dict.fromkeys(line)
            rows += [_identity(trial) | numbers for _, numbers in sorted(steps.items())]
        return data_frame(rows, [*_KEYS, *tags])

    def to_dataframe(self) -> pd.DataFrame:
        """Returns a row for each trial: arm, seed, state, what the sweep sets, mAP and each class's AP in [0, 1], and
        times in seconds.

        Raises:
            MissingPackageError: without pandas.
        """
        differing = self._differing()
        swept = tuple(dict.fromkeys(key for differs in differing.values() for key in differs if key not in _KEYS))
        classes = dict.fromkeys(name for trial in self.trials for name in trial.result.class_ap)
        numbers = (MEAN_AP, BEST_MEAN_AP, *(f"{CLASS_AP}{name}" for name in classes), *_TIMES)
        rows = [
            _identity(trial)
            | {"state": str(trial.state)}
            | _settings(trial, differing.get(trial.folder, {}), swept)
            | {name: _number(trial.result.value(name)) for name in numbers}
            for trial in self.trials
        ]
        return data_frame(rows, [*_KEYS, "state", *swept, *numbers])

    def _differing(self) -> dict[Path, dict[str, Any]]:
        """What the sweep sets, by the trial's folder, as its list and the results say."""
        differing: dict[Path, dict[str, Any]] = {}
        for folder in dict.fromkeys(trial.folder.parent for trial in self.trials):
            with suppress(DataError):  # another version's list, or none that can be read: the results are left
                differing |= {folder / row["name"]: row["differs"] for row in SweepFolder(folder).listed()}
        return differing | {trial.folder: trial.result.differs for trial in self.trials if trial.counts}

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in Counter(trial.state for trial in self.trials).items())
        return f"<Sweep of {', '.join(self.arms)}: {states}>"


def _identity(trial: TrialRecord) -> dict[str, Any]:
    return {"trial": trial.name, "arm": trial.arm, "seed": trial.seed}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _settings(trial: TrialRecord, differs: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The trial's values of ``keys``; one that it does not have is left out."""
    known = flatten_config(trial.config) | dict(differs)
    return {key: known[key] for key in keys if key in known}
