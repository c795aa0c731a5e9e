"""Shows how far a sweep is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING

from focalbench.console import duration, info, is_terminal, points
from focalbench.progress.notebook import NotebookRows, in_notebook
from focalbench.progress.rows import Row, mean_ap_text, rows_table
from focalbench.progress.trial import TrialProgress
from focalbench.records.state import TrialState
from focalbench.tags import LEARNING_RATE, MEAN_AP, TRAIN_LOSS

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

PLAIN_INTERVAL_S = 30.0
"""Without a terminal: seconds between two lines of a trial that has nothing new but its step."""

_SHOWN_VALUES = (
    (MEAN_AP, "mAP", mean_ap_text),
    (TRAIN_LOSS, "loss", "{:.3g}".format),
    (LEARNING_RATE, "lr", "{:.2g}".format),
)


class NoDisplay:
    """Shows nothing; takes the calls that ``SweepDisplay`` takes."""

    def message(self, text: str) -> None: ...
    def sweep_grew(self, num_trials: int) -> None: ...
    def standing(self, lines: Sequence[str]) -> None: ...
    def trial_started(self, name: str) -> None: ...
    def trial_phase(self, name: str, phase: str) -> None: ...
    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None: ...
    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None: ...
    def stopping(self) -> None: ...


class SweepDisplay:
    """Shows progress on stderr: a row for each running trial and one for the sweep; plain lines without a terminal. In
    a notebook the rows are an output of the cell.

    Use it as a context manager, or call ``close`` at the end.
    """

    def __init__(
        self,
        num_trials: int,
        num_done: int = 0,
        num_left_out: int = 0,
        scores: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ) -> None:
        """``num_trials``: all trials of the sweep; ``num_done``: those that were finished before; ``num_left_out``:
        those that failed or were stopped before and are not tried again; ``scores``: mAP of what was finished before,
        by arm.
        """
        self.num_trials = num_trials
        self.num_done = num_done
        self.num_left_out = num_left_out
        self.num_failed = 0
        self.num_stopped = 0
        self._scores = {arm: list(values) for arm, values in scores.items()}
        self._begun: dict[str, float] = {}  # share of the training done, of trials that paused or were interrupted
        self._running: dict[str, TrialProgress] = {}
        self._stopping = False
        self._standing: tuple[str, ...] = ()
        self._work_done = 0.0  # in trainings, since this display was made
        self._started = self._last_report = time.monotonic()
        self._first_report: float | None = None
        self._live: Live | None = None
        self._notebook: NotebookRows | None = None
        if in_notebook():
            self._notebook = NotebookRows(self._view)
        elif is_terminal(sys.stderr):
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(
                get_renderable=lambda: self._view(console.width),
                console=console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,  # nobody prints results while trials run, and it would undo other redirections
            )
            self._live.start()

    def __enter__(self) -> SweepDisplay:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def message(self, text: str) -> None:
        """Prints a line of the log, above the rows."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            info(text)

    def sweep_grew(self, num_trials: int) -> None:
        """Notes that the sweep has ``num_trials`` trials more than before."""
        self.num_trials += num_trials

    def standing(self, lines: Sequence[str]) -> None:
        """Shows how the arms stand, below the rows, until the next call."""
        self._standing = tuple(lines)
        for line in lines if self._is_plain else ():
            self.message(line)
        self._redraw()

    def trial_started(self, name: str) -> None:
        """Notes that a trial begins, or resumes from its checkpoint."""
        self._begun.pop(name, None)
        self._running[name] = TrialProgress(time.monotonic())
        if self._is_plain:
            self.message(f"{name}: started")
        self._redraw()

    def trial_phase(self, name: str, phase: str) -> None:
        """Notes what a trial does before its first step, in words."""
        if name in self._running:
            self._running[name].phase = phase
        self._redraw()

    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        """Notes that a trial has reached ``step`` of ``steps``; ``values`` are the newest metrics, by their TensorBoard
        tags.
        """
        now = self._last_report = time.monotonic()
        self._first_report = now if self._first_report is None else self._first_report
        trial = self._running.setdefault(name, TrialProgress(now))
        evaluated = any(tag.startswith("val/") for tag in values)
        trial.update(now, step, steps, values)
        self._redraw()
        if self._is_plain and (evaluated or now - trial.last_line >= PLAIN_INTERVAL_S):
            trial.last_line = now
            left = None if self._stopping else trial.seconds_left()
            rest = f", about {duration(left)} left" if left is not None and step < steps else ""
            self.message(f"{name}: step {step} of {steps}{_values_text(trial.values, ', ')}{rest}{self._sweep_rest()}")

    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None:
        """Notes that a trial has ended as ``state`` (done, failed, interrupted, ...) or, paused before, is stopped;
        ``values`` are its results.
        """
        now = self._last_report = time.monotonic()
        trial = self._running.pop(name, None)
        if trial is not None:
            trial.update(now, trial.step, trial.steps, values)
            self._work_done += trial.work_done(state == TrialState.DONE)
        self._begun.pop(name, None)
        if state == TrialState.DONE:
            self.num_done += 1
            if (mean_ap := values.get(MEAN_AP)) is not None:
                self._scores.setdefault(_arm_of(name), []).append(mean_ap)
        elif state == TrialState.FAILED:
            self.num_failed += 1
        elif state == TrialState.STOPPED:
            self.num_stopped += 1
        elif trial is not None:
            self._begun[name] = trial.fraction
        # That message says after which step; and a notebook keeps every line, so that a hundred trials would fill it.
        if state != TrialState.INTERRUPTED and (self._notebook is None or state != TrialState.DONE):
            known = {tag: value for tag, value in values.items() if value is not None}
            self.message(f"{name}: {state}{_values_text(known, ', ')} ({self._sweep_text()})")
        self._redraw()

    def stopping(self) -> None:
        """Notes that no trial starts any more, and that those at work write a checkpoint and end."""
        self._stopping = True
        self.message(self._stopping_text())

    def close(self) -> None:
        """Takes the rows off the terminal, or leaves one line of them in a notebook; may be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._notebook is not None:
            self._notebook.close(self._totals())
            self._notebook = None

    @property
    def _is_plain(self) -> bool:
        """Whether there is nothing but lines to show progress with."""
        return self._live is None and self._notebook is None

    def _redraw(self) -> None:
        """Shows the rows anew where they do not do that by themselves."""
        if self._notebook is not None:
            self._notebook.changed()

    def seconds_left(self) -> float | None:
        """Returns the time to the end of the sweep, as of the last report, at the pace since the first one: loading is
        over by then; None before there is a pace, and once the sweep is being stopped.

        Not less than the slowest running trial needs: towards the end fewer run side by side than before.
        """
        running = list(self._running.values())
        done = self._work_done + sum(trial.fraction_here for trial in running)
        if done <= 0 or self._stopping or self._first_report is None:
            return None
        waiting = self.num_trials - self._num_ended - len(running) - sum(self._begun.values())
        left = max(0, waiting) + sum(1 - trial.fraction for trial in running)
        slowest = max((trial.seconds_left() or 0.0 for trial in running), default=0.0)
        return max((self._last_report - self._first_report) / done * left, slowest)

    @property
    def _num_ended(self) -> int:
        """Trials that this display waits for no more."""
        return self.num_done + self.num_failed + self.num_stopped + self.num_left_out

    def _failed_text(self) -> str:
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return failed + (f", {self.num_stopped} stopped" if self.num_stopped else "")

    def _sweep_rest(self) -> str:
        """The time to the end of a sweep of several trials, for a line about one of them."""
        left = self.seconds_left() if self.num_trials > 1 else None
        return "" if left is None else f"; sweep: {duration(left)} left"

    def _sweep_text(self) -> str:
        left = self.seconds_left()
        unfinished = self._num_ended < self.num_trials
        rest = f", about {duration(left)} left" if left is not None and unfinished else ""
        return f"{self.num_done} of {self.num_trials} done{self._failed_text()}{rest}"

    def _stopping_text(self) -> str:
        number = len(self._running)
        one = "1 trial is writing its checkpoint"
        writing = f"{number} trials are writing their checkpoints" if number > 1 else one
        return f"stopping: {writing}" if number else "stopping"

    def _best_text(self) -> str:
        """The arm with the highest mean over its finished seeds, which may be few."""
        if not self._scores:
            return ""
        best = max(self._scores, key=lambda arm: fmean(self._scores[arm]))
        mean, number = points(fmean(self._scores[best])), len(self._scores[best])
        return f"best so far: {best}, mean mAP {mean} over {number} seed{'s'[: number > 1]}"

    def _view(self, width: int) -> Group:
        from rich.console import Group
        from rich.text import Text

        now = time.monotonic()
        rows = [
            trial.row(name.rpartition("-")[0] or name, now, stopping=self._stopping)
            for name, trial in list(self._running.items())
        ]
        rows.append(
            Row(
                "sweep",
                self._num_ended,
                self.num_trials,
                begun=sum(trial.fraction for trial in self._running.values()) + sum(self._begun.values()),
                seconds=now - self._started,
                seconds_left=self.seconds_left(),
            )
        )
        text = self._totals()
        standing = Text("\n".join(self._standing), "dim")
        for line in (text, standing):
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(rows_table(rows, width), text, *([standing] if self._standing else []))

    def _totals(self) -> Text:
        """How many trials have ended and how, and the best arm so far."""
        from rich.text import Text

        text = Text(f"{self.num_done} of {self.num_trials} done", "green")
        text.append(self._failed_text(), "bold red")
        for part, style in ((self._stopping_text() * self._stopping, "yellow"), (self._best_text(), "")):
            text.append(f"; {part}" if part else "", style)
        return text


def _arm_of(trial: str) -> str:
    """The arm of a trial by its name, ``ARM-s<seed>-<hash>``."""
    return trial.rsplit("-", 2)[0]


def _values_text(values: Mapping[str, float], lead: str) -> str:
    parts = [f"{label} {form(values[tag])}" for tag, label, form in _SHOWN_VALUES if tag in values]
    return lead + ", ".join(parts) if parts else ""
