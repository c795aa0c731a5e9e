"""Shows how far a sweep or a download is: rows with bars on a terminal or in a notebook, else lines now and then."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from focalbench.console import clock, duration, info, is_terminal, points, rendered, table_text, terminal_width
from focalbench.records.state import TrialState
from focalbench.tags import IMAGES_PER_S, LEARNING_RATE, MEAN_AP, TRAIN_LOSS

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.progress import Progress, TaskID
    from rich.table import Table
    from rich.text import Text

PLAIN_INTERVAL_S = 30.0
"""Without a terminal: seconds between two lines of a trial that has nothing new but its step."""

_NOTEBOOK_INTERVAL_S = 0.5
_NOTEBOOK_WIDTH = 100  # columns; what JupyterLab shows without a scroll bar


def _mean_ap_text(value: float) -> str:
    return points(value, decimals=1)  # of a single trial: seeds differ by more than a second decimal says


_SHOWN_VALUES = (
    (MEAN_AP, "mAP", _mean_ap_text),
    (TRAIN_LOSS, "loss", "{:.3g}".format),
    (LEARNING_RATE, "lr", "{:.2g}".format),
)


@dataclass(frozen=True)
class Row:
    """A trial, or all of a sweep, in a live view; what is None is not known.

    Attributes:
        name: at its left.
        step, steps: how far it is; ``steps`` 0 where that is not known yet.
        begun: what the bar shows beyond ``step``: of a sweep, the shares of the trials that run.
        doing: words that stand in the place of the bar, empty for the bar.
        seconds, seconds_left: since it began, and to its end.
    """

    name: str
    step: int = 0
    steps: int = 0
    begun: float = 0.0
    doing: str = ""
    images_per_s: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    mean_ap: float | None = None
    loss: float | None = None

    def cells(self) -> list[str]:
        """Returns its figures, one for each of ``FIGURES``; empty text for what is not known."""
        known = [
            (self.images_per_s, "{:.1f}".format),
            (self.seconds, clock),
            (self.seconds_left, clock),
            (self.mean_ap, _mean_ap_text),
            (self.loss, "{:.3g}".format),
        ]
        steps = f"{self.step}/{self.steps}" if self.steps else ""
        return [steps, *("" if value is None else form(value) for value, form in known)]


FIGURES = ("step", "images/s", "elapsed", "left", "mAP", "loss")
"""Headings of ``Row.cells``."""
_BAR_WIDTHS = (13, 80)  # the least one holds "loading torch"


def rows_table(rows: Sequence[Row], width: int) -> Table:
    """Returns rows with bars, as wide as ``width`` columns need them and never wrapped: names are cut first."""
    from rich.cells import cell_len
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    cells = [row.cells() for row in rows]
    widths = [max(map(len, column)) for column in zip(FIGURES, *cells, strict=True)]
    room = width - sum(widths) - len(widths) - 1  # a blank beside each column
    name_width = max(1, min(max((cell_len(row.name) for row in rows), default=1), room - _BAR_WIDTHS[0]))
    bar_width = max(1, min(room - name_width, _BAR_WIDTHS[1]))
    table = Table.grid(padding=(0, 1))
    table.add_column(width=name_width, no_wrap=True, overflow="ellipsis")
    table.add_column(width=bar_width, no_wrap=True, overflow="ellipsis")
    for column_width in widths:
        table.add_column(width=column_width, justify="right", no_wrap=True, overflow="ellipsis")
    table.add_row("", "", *(Text(heading, "dim") for heading in FIGURES))
    for row, figures in zip(rows, cells, strict=True):
        bar = ProgressBar(
            total=max(1, row.steps),
            completed=row.step + row.begun,
            width=bar_width,
            complete_style="cyan",
            finished_style="green",
        )
        table.add_row(Text(row.name), Text(row.doing, "dim") if row.doing else bar, *figures)
    return table


def rows_text(rows: Sequence[Row]) -> str:
    """Returns rows as text for stdout: with bars on a terminal, else a plain table."""
    if is_terminal(sys.stdout):
        width = terminal_width()
        return rendered(rows_table(rows, width), width)
    named = [
        [row.name, *(figure or row.doing * (not place) for place, figure in enumerate(row.cells()))] for row in rows
    ]
    return table_text(["trial", *FIGURES], named)


@contextmanager
def redrawn() -> Iterator[Callable[[str], None]]:
    """Within the block the whole terminal shows the last text that was passed on; then what stood there before."""
    from rich.console import Console
    from rich.text import Text

    with Console().screen() as screen:
        yield lambda text: screen.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"))


class _TrialProgress:
    """What is known of one running trial."""

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
        if self.first_step is None:
            self.first_step, self.first_report = step, now
        self.step, self.steps, self.last_report = step, steps, now
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

    def seconds_left(self) -> float | None:
        """Returns the time to the end as of the last report, at the pace since the first one: loading is over by then.

        So it stands still between reports, and does not rise.
        """
        done = self.fraction_here
        return (self.last_report - self.first_report) / done * (1 - self.fraction) if done > 0 else None

    def row(self, name: str, now: float, *, stopping: bool) -> Row:
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


def in_notebook() -> bool:
    """Says whether a notebook's kernel runs this process: it shows what a cell displays, and replaces it when told."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class _NotebookRows:
    """One output of a notebook's cell that shows the rows, written anew twice a second at most."""

    def __init__(self, view: Callable[[int], Group]) -> None:
        from IPython.display import display

        self._view = view
        self._drawn = time.monotonic()
        self._handle: Any = display(self._content(view(_NOTEBOOK_WIDTH)), raw=True, display_id=True)

    def changed(self) -> None:
        """Draws what has changed, unless that was done a moment ago."""
        if time.monotonic() - self._drawn >= _NOTEBOOK_INTERVAL_S:
            self._drawn = time.monotonic()
            self._handle.update(self._content(self._view(_NOTEBOOK_WIDTH)), raw=True)

    def close(self, last: Text) -> None:
        """Leaves ``last`` in the place of the rows."""
        self._handle.update(self._content(last), raw=True)

    @staticmethod
    def _content(view: RenderableType) -> dict[str, str]:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=_NOTEBOOK_WIDTH, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(view)
        return {"text/plain": "\n".join(line.rstrip() for line in capture.get().splitlines())}


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
        self._running: dict[str, _TrialProgress] = {}
        self._stopping = False
        self._standing: tuple[str, ...] = ()
        self._work_done = 0.0  # in trainings, since this display was made
        self._started = self._last_report = time.monotonic()
        self._first_report: float | None = None
        self._live: Live | None = None
        self._notebook: _NotebookRows | None = None
        if in_notebook():
            self._notebook = _NotebookRows(self._view)
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
        self._running[name] = _TrialProgress(time.monotonic())
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
        trial = self._running.setdefault(name, _TrialProgress(now))
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
