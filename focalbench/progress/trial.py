"""Keeps what is known of a running trial, and estimates how long it still takes."""

from __future__ import annotations

from collections.abc import Mapping

from focalbench.progress.rows import Row
from focalbench.tags import IMAGES_PER_S, MEAN_AP, TRAIN_LOSS


class TrialProgress:
    """Holds what one running trial has reported; times are those of ``time.monotonic``."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.phase = "starting"
        self.first_step: int | None = None
        self.first_report = self.last_report = now
        self.step = 0
        self.steps = 0
        self.values: dict[str, float] = {}
        self.last_line = now

    def update(self, now: float, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        """Notes a report: the trial is at ``step`` of ``steps``; ``values`` are its newest metrics, by tag."""
        if self.first_step is None:
            self.first_step, self.first_report = step, now
        self.step, self.steps, self.last_report = step, steps, now
        self.values.update({name: value for name, value in values.items() if value is not None})

    @property
    def fraction(self) -> float:
        """The share of the training that is done, in [0, 1]."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def fraction_here(self) -> float:
        """The share of the training that was done since this trial was started or resumed."""
        return (self.step - (self.first_step or 0)) / self.steps if self.steps else 0.0

    def work_done(self, to_the_end: bool) -> float:
        """Returns ``fraction_here`` of a trial that has ended; of one that came to its end, the last step need not be
        known.
        """
        if not to_the_end:
            return self.fraction_here
        return 1 - (self.first_step or 0) / self.steps if self.steps else 1.0

    def seconds_left(self) -> float | None:
        """Returns the time to the end as of the last report, at the pace since the first one: loading is over by then.

        So it stands still between reports, and does not rise.
        """
        done = self.fraction_here
        return (self.last_report - self.first_report) / done * (1 - self.fraction) if done > 0 else None

    def row(self, name: str, now: float, *, stopping: bool) -> Row:
        """Returns the trial as a row of the live view; ``stopping``: the sweep is being stopped."""
        doing = self.phase if self.first_step is None else ""
        if self.step == self.first_step and not self.values:
            doing = "first step"
        return Row(
            name,
            self.step,
            self.steps,
            doing="stopping" if stopping else doing,
            images_per_s=self.values.get(IMAGES_PER_S),
            seconds=now - self.started,
            seconds_left=None if stopping else self.seconds_left(),
            mean_ap=self.values.get(MEAN_AP),
            loss=self.values.get(TRAIN_LOSS),
        )
