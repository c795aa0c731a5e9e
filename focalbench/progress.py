"""Shows on stderr how far a sweep or a download is: rows with bars on a terminal, else plain lines now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from focalbench.console import duration, info, is_terminal
from focalbench.records.state import TrialState
from focalbench.tags import LEARNING_RATE, MEAN_AP, TRAIN_LOSS

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID
    from rich.table import Table

PLAIN_INTERVAL_S = 30.0
"""Without a terminal: seconds between two lines of a trial that has nothing new but its step."""
_SHOWN_VALUES = ((MEAN_AP, "mAP", "{:.3f}"), (TRAIN_LOSS, "loss", "{:.3g}"), (LEARNING_RATE, "lr", "{:.2g}"))


class _TrialProgress:
    """What is known of one running trial."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.first_step: int | None = None
        self.step = 0
        self.steps = 0
        self.values: dict[str, float] = {}
        self.last_line = now

    def update(self, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        if self.first_step is None:
            self.first_step = step
        self.step, self.steps = step, steps
        self.values.update({name: value for name, value in values.items() if value is not None})

    @property
    def fraction(self) -> float:
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

    def seconds_left(self, now: float) -> float | None:
        done = self.fraction_here
        return (now - self.started) / done * (1 - self.fraction) if done > 0 else None


class SweepDisplay:
    """Shows progress on stderr: a row for each running trial and one for the sweep; plain lines without a terminal.

    Use it as a context manager, or call ``close`` at the end.
    """

    def __init__(self, num_trials: int, num_done: int = 0, num_left_out: int = 0) -> None:
        """``num_trials``: all trials of the sweep; ``num_done``: those that were finished before; ``num_left_out``:
        those that failed or were stopped before and are not tried again.
        """
        self.num_trials = num_trials
        self.num_done = num_done
        self.num_left_out = num_left_out
        self.num_failed = 0
        self.num_stopped = 0
        self._begun: dict[str, float] = {}  # share of the training done, of trials that paused or were interrupted
        self._running: dict[str, _TrialProgress] = {}
        self._work_done = 0.0  # in trainings, since this display was made
        self._started = time.monotonic()
        self._live: Live | None = None
        if is_terminal(sys.stderr):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self._table,
                console=Console(stderr=True),
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

    def trial_started(self, name: str) -> None:
        """Notes that a trial begins, or resumes from its checkpoint."""
        self._begun.pop(name, None)
        self._running[name] = _TrialProgress(time.monotonic())
        if self._live is None:
            self.message(f"{name}: started")

    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        """Notes that a trial has reached ``step`` of ``steps``; ``values`` are the newest metrics, by their TensorBoard
        tags.
        """
        now = time.monotonic()
        trial = self._running.setdefault(name, _TrialProgress(now))
        evaluated = any(tag.startswith("val/") for tag in values)
        trial.update(step, steps, values)
        if self._live is None and (evaluated or now - trial.last_line >= PLAIN_INTERVAL_S):
            trial.last_line = now
            left = trial.seconds_left(now)
            rest = f", about {duration(left)} left" if left is not None and step < steps else ""
            self.message(f"{name}: step {step} of {steps}{_values_text(trial.values, ', ')}{rest}{self._sweep_rest()}")

    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None:
        """Notes that a trial has ended as ``state`` (done, failed, interrupted, ...) or, paused before, is stopped;
        ``values`` are its results.
        """
        trial = self._running.pop(name, None)
        if trial is not None:
            trial.update(trial.step, trial.steps, values)
            self._work_done += trial.work_done(state == TrialState.DONE)
        self._begun.pop(name, None)
        if state == TrialState.DONE:
            self.num_done += 1
        elif state == TrialState.FAILED:
            self.num_failed += 1
        elif state == TrialState.STOPPED:
            self.num_stopped += 1
        elif trial is not None:
            self._begun[name] = trial.fraction
        known = {tag: value for tag, value in values.items() if value is not None}
        self.message(f"{name}: {state}{_values_text(known, ', ')} ({self._sweep_text()})")

    def close(self) -> None:
        """Takes the rows off the terminal; may be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def seconds_left(self) -> float | None:
        """Returns the time to the end of the sweep at the pace since this display was made; None before there is a
        pace.

        Not less than the slowest running trial needs: towards the end fewer run side by side than before.
        """
        now = time.monotonic()
        running = list(self._running.values())
        done = self._work_done + sum(trial.fraction_here for trial in running)
        if done <= 0:
            return None
        waiting = self.num_trials - self._num_ended - len(running) - sum(self._begun.values())
        left = max(0, waiting) + sum(1 - trial.fraction for trial in running)
        slowest = max((trial.seconds_left(now) or 0.0 for trial in running), default=0.0)
        return max((now - self._started) / done * left, slowest)

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

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        table.add_column(overflow="ellipsis", no_wrap=True, max_width=34)
        table.add_column(width=12)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True)
        for name, trial in list(self._running.items()):
            bar = ProgressBar(total=max(1, trial.steps), completed=trial.step, width=12)
            left = trial.seconds_left(now)
            time_text = f"{duration(left)} left" if left is not None else "starting"
            table.add_row(
                Text(name.rpartition("-")[0] or name), bar, time_text, Text(_values_text(trial.values, "").strip())
            )
        bar = ProgressBar(total=max(1, self.num_trials), completed=self._num_ended, width=12)
        left = self.seconds_left()
        style = "bold red" if self.num_failed else "green"
        count = Text(f"{self.num_done} of {self.num_trials} trials{self._failed_text()}", style=style)
        table.add_row(count, bar, f"{duration(left)} left" if left is not None else "", "")
        return table


def _values_text(values: Mapping[str, float], lead: str) -> str:
    parts = [f"{label} {form.format(values[tag])}" for tag, label, form in _SHOWN_VALUES if tag in values]
    return lead + ", ".join(parts) if parts else ""


class DownloadDisplay:
    """Shows on stderr how far a download is: a bar for each file, or a line at every tenth of it. A context manager.

    Calling it is a ``focalbench.data.download.Progress``.
    """

    def __init__(self) -> None:
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> DownloadDisplay:
        if is_terminal(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as SpeedColumn

            name = TextColumn("{task.description}", markup=False)
            columns = (name, BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(self, *fault: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, name: str, there: int, size: int) -> None:
        """``there`` of ``size`` bytes of the file ``name`` have arrived."""
        if self._progress is not None:
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=size)
            self._progress.update(self._bars[name], completed=there)
        elif self._tenths.get(name) != there * 10 // size:
            self._tenths[name] = there * 10 // size
            info(f"{name}: {there / 1e6:.0f} of {size / 1e6:.0f} MB")
