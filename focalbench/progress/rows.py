"""Draws running trials as rows with bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from focalbench.console import clock, is_terminal, points, rendered, table_text, terminal_width

if TYPE_CHECKING:
    from rich.table import Table


def mean_ap_text(value: float) -> str:
    """Returns the mAP of a single trial in points, with one decimal: seeds differ by more than a second one says."""
    return points(value, decimals=1)


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
            (self.mean_ap, mean_ap_text),
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
