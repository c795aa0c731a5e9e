"""What a person sees: tables on stdout, log lines and progress on stderr. The only module that imports rich.

On a terminal there are colours and bars; in a pipe or a log file the same content comes as plain aligned lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from focalbench.errors import StorageError

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID
    from rich.table import Table

PLAIN_INTERVAL_S = 30.0
"""Without a terminal: seconds between two lines of a trial that has nothing new but its step."""
_GAP = 2  # blanks between two columns
_LEAST_NAME = 12  # columns that are left for the first one before words of the others are broken
_GOOD, _BAD = "green", "bold red"


def print_text(text: str) -> None:
    """``text`` as a result, on stdout.

    Raises:
        StorageError: when stdout is a file on a full disk.
    """
    _write(sys.stdout, text if text.endswith("\n") else text + "\n")


def _write(stream: TextIO, text: str) -> None:
    """Write and flush. A reader that went away (``| head``) wants no more: the rest is dropped in silence."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _sink(stream)
    except OSError as problem:
        if stream is sys.stderr:
            return  # nowhere left to say it, and the training should go on
        _sink(stream)
        raise StorageError(f"standard output cannot be written: {problem.strerror}") from None


def _sink(stream: TextIO) -> None:
    """Lets what the stream still holds go nowhere: Python would fail on it again at its end, with a code of its own."""
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as sink:  # in memory there is no file
        os.dup2(sink.fileno(), stream.fileno())


def print_json(document: object) -> None:
    """``document`` as one JSON document on stdout; NaN and infinities become null."""
    text = json.dumps(_without_nan(document), indent=2, ensure_ascii=not takes_unicode(), allow_nan=False)
    print_text(text)


def takes_unicode() -> bool:
    """Whether stdout can show every character: elsewhere names have to be escaped, or they would become ``?``."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def info(message: str) -> None:
    """A line of the log, on stderr."""
    _log(message)


def warn(message: str) -> None:
    """A warning, on stderr."""
    _log(message, "warning: ", "33")


def error(message: str) -> None:
    """What went wrong, on stderr."""
    _log(message, "error: ", "1;31")


def _log(message: str, label: str = "", colour: str = "") -> None:
    if label and colour and _is_terminal(sys.stderr):
        label = f"\x1b[{colour}m{label}\x1b[0m"
    _write(sys.stderr, f"{label}{message}\n")


def _is_terminal(stream: Any) -> bool:
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, note: str | None = None
) -> None:
    """A table on stdout; columns whose cells are all numbers stand to the right.

    Args:
        columns: headings.
        rows: cells, written by ``str``; one for each column.
        title: a line above the table.
        note: a line below it.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    right = [bool(cells) and all(_is_number(row[index]) for row in cells) for index in range(len(columns))]
    if _is_terminal(sys.stdout):
        body = _rich_table(columns, cells, right)
    else:
        body = _plain_table(columns, cells, right)
    print_text("\n".join(part for part in (title, body, _wrapped(note)) if part))


def _wrapped(note: str | None) -> str | None:
    """``note`` with its lines broken between words where a terminal would break them anywhere."""
    if not note or not _is_terminal(sys.stdout):
        return note
    width = shutil.get_terminal_size().columns
    lines = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in note.split("\n"))
    return "\n".join("\n".join(parts) for parts in lines)


def _is_number(text: str) -> bool:
    first = text.strip().lstrip("+-~").split(" ")[0].rstrip("%")
    return text.strip() in {"", "-"} or first.replace(".", "", 1).replace("e-", "", 1).isdigit()


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    widths = [max(len(line[index]) for line in [columns, *rows]) for index in range(len(columns))]
    lines = []
    for line in [columns, ["-" * width for width in widths], *rows]:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = Console().width
    narrowest = [max(map(len, " ".join(column).split()), default=0) for column in zip(columns, *rows, strict=True)]
    room = width - sum(narrowest[1:]) - _GAP * (len(columns) - 1)
    fits = room >= _LEAST_NAME
    if fits:  # whole words, and as much of the first column, which names the row, as the others leave
        rows = [[_name_in_lines(first, room), *others] for first, *others in rows]
    widths = _widths(columns, rows, width) if fits else [None] * len(columns)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for name, to_right, column_width in zip(columns, right, widths, strict=True):
        table.add_column(name, justify="right" if to_right else "left", overflow="fold", width=column_width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> list[int]:
    """Of each column: the lines of the first, the longest words of the others; what is left goes to them in turn."""
    table = list(zip(columns, *rows, strict=True))
    whole = [max(len(line) for cell in column for line in [*cell.split("\n"), ""]) for column in table]
    words = [max(map(len, " ".join(column).split()), default=0) for column in table]
    widths = [whole[0], *words[1:]]
    spare = total - sum(widths) - _GAP * (len(columns) - 1)
    for index, wanted in enumerate(whole):
        more = max(0, min(wanted - widths[index], spare))
        widths[index] += more
        spare -= more
    return widths


def _name_in_lines(name: str, width: int) -> str:
    """``name`` broken where it is put together, as in focal-/0.5-/matched, not in the middle of a word."""
    lines = [""]
    for part in re.findall(r"[^-=_ ]*[-=_ ]*", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    # A part that is wider still is broken anywhere.
    lines = [line[start : start + width] for line in lines for start in range(0, max(len(line), 1), width)]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in words short enough for a table: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
        """The share of the training done since this trial was started or resumed."""
        return (self.step - (self.first_step or 0)) / self.steps if self.steps else 0.0

    def work_done(self, to_the_end: bool) -> float:
        """``fraction_here`` of a trial that has ended; the last step of one that came to its end need not be known."""
        if not to_the_end:
            return self.fraction_here
        return 1 - (self.first_step or 0) / self.steps if self.steps else 1.0

    def seconds_left(self, now: float) -> float | None:
        done = self.fraction_here
        return (now - self.started) / done * (1 - self.fraction) if done > 0 else None


class SweepDisplay:
    """Progress on stderr: a row for each running trial and one for the sweep; plain lines without a terminal.

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
        if _is_terminal(sys.stderr):
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

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def message(self, text: str) -> None:
        """A line of the log, above the rows."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            info(text)

    def trial_started(self, name: str) -> None:
        """A trial begins, or goes on from its checkpoint."""
        self._begun.pop(name, None)
        self._running[name] = _TrialProgress(time.monotonic())
        if self._live is None:
            self.message(f"{name}: started")

    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        """A trial has reached ``step`` of ``steps``; ``values`` are the newest metrics, by their TensorBoard tags."""
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
        """A trial has ended as ``state`` (done, failed, interrupted, ...) or, paused before, is stopped; ``values`` are
        its results.
        """
        trial = self._running.pop(name, None)
        if trial is not None:
            trial.update(trial.step, trial.steps, values)
            self._work_done += trial.work_done(state == "done")
        self._begun.pop(name, None)
        if state == "done":
            self.num_done += 1
        elif state == "failed":
            self.num_failed += 1
        elif state == "stopped":
            self.num_stopped += 1
        elif trial is not None:
            self._begun[name] = trial.fraction
        known = {tag: value for tag, value in values.items() if value is not None}
        self.message(f"{name}: {state}{_values_text(known, ', ')} ({self._sweep_text()})")

    def close(self) -> None:
        """Take the rows off the terminal; safe to call twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def seconds_left(self) -> float | None:
        """Time to the end of the sweep at the pace since this display was made; None before there is a pace.

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
        style = _BAD if self.num_failed else _GOOD
        count = Text(f"{self.num_done} of {self.num_trials} trials{self._failed_text()}", style=style)
        table.add_row(count, bar, f"{duration(left)} left" if left is not None else "", "")
        return table


_SHOWN_VALUES = (("val/mAP", "mAP", "{:.3f}"), ("train/loss", "loss", "{:.3g}"), ("train/lr", "lr", "{:.2g}"))


def _values_text(values: Mapping[str, float], lead: str) -> str:
    parts = [f"{label} {form.format(values[tag])}" for tag, label, form in _SHOWN_VALUES if tag in values]
    return lead + ", ".join(parts) if parts else ""


class DownloadDisplay:
    """How far a download is, on stderr: a bar for each file, or a plain line at every tenth of it. A context manager.

    Calling it is a ``focalbench.data.download.Progress``.
    """

    def __init__(self) -> None:
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> DownloadDisplay:
        if _is_terminal(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as SpeedColumn

            name = TextColumn("{task.description}", markup=False)
            columns = (name, BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
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
