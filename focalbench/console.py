"""Prints results and tables on stdout, log lines on stderr.

On a terminal there are colours; in a pipe or a log file the same content comes as plain aligned lines. Only this module
and ``progress`` import rich.
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
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

from focalbench.errors import StorageError

if TYPE_CHECKING:
    from rich.console import RenderableType

Styles = Mapping[str, Mapping[str, str]]
_GAP = 2  # blanks between two columns
_LEAST_NAME = 12  # columns that are left for the first one before words of the others are broken
_LEAST_TEXT = 6  # columns for text where they are


def print_text(text: str) -> None:
    """Prints ``text`` as a result, on stdout.

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


def drop_output() -> None:
    """Lets whatever is still to be printed on stdout go nowhere."""
    _sink(sys.stdout)


def _sink(stream: TextIO) -> None:
    """Lets what the stream still holds go nowhere: Python would fail on it again at its end, with a code of its own."""
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as sink:  # in memory there is no file
        os.dup2(sink.fileno(), stream.fileno())


def print_json(document: object) -> None:
    """Prints ``document`` as one JSON document on stdout; NaN and infinities become null."""
    text = json.dumps(_without_nan(document), indent=2, ensure_ascii=not takes_unicode(), allow_nan=False)
    print_text(text)


def takes_unicode() -> bool:
    """Says whether stdout can show every character: elsewhere names have to be escaped, or they would become ``?``."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def info(message: str) -> None:
    """Prints a line of the log, on stderr."""
    _log(message)


def warn(message: str) -> None:
    """Prints a warning, on stderr."""
    _log(message, "warning: ", "33")


def error(message: str) -> None:
    """Prints what went wrong, on stderr."""
    _log(message, "error: ", "1;31")


def _log(message: str, label: str = "", colour: str = "") -> None:
    if label and colour and is_terminal(sys.stderr) and not os.environ.get("NO_COLOR"):
        label = f"\x1b[{colour}m{label}\x1b[0m"
    _write(sys.stderr, f"{label}{message}\n")


def is_terminal(stream: TextIO) -> bool:
    """Says whether ``stream`` is a terminal on which lines can be drawn anew; with TERM=dumb none is."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    note: str | None = None,
    styles: Styles = MappingProxyType({}),
) -> None:
    """Prints a table on stdout; columns whose cells are all numbers stand to the right.

    Args:
        columns: headings.
        rows: cells, written by ``str``; one for each column.
        title: a line above the table.
        note: a line below it.
        styles: colours on a terminal: for a column's heading, the style (in rich's words) of each cell that has one.
    """
    print_text(table_text(columns, rows, title=title, note=note, styles=styles))


def table_text(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    note: str | None = None,
    styles: Styles = MappingProxyType({}),
) -> str:
    """Returns what ``print_table`` prints."""
    if not is_terminal(sys.stdout):
        return plain_table_text(columns, rows, title=title, note=note)
    cells, right = _laid_out(columns, rows)
    body = _rich_table(columns, cells, right, [styles.get(column, {}) for column in columns])
    return "\n".join(part for part in (title, body, _wrapped(note)) if part)


def plain_table_text(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, note: str | None = None
) -> str:
    """Returns what ``print_table`` prints where stdout is no terminal."""
    body = _plain_table(columns, *_laid_out(columns, rows))
    return "\n".join(part for part in (title, body, note) if part)


def _laid_out(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[list[str]], list[bool]]:
    """The cells as text, and which columns stand to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    return cells, [bool(cells) and all(_is_number(row[index]) for row in cells) for index in range(len(columns))]


def _wrapped(note: str | None) -> str | None:
    """``note`` with its lines broken between words where a terminal would break them anywhere."""
    if not note:
        return note
    width = shutil.get_terminal_size().columns
    lines = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in note.split("\n"))
    return "\n".join("\n".join(parts) for parts in lines)


def _is_number(text: str) -> bool:
    first = text.strip().lstrip("+-~").split(" ")[0].rstrip("%")
    plain = first.replace(".", "", 1).replace("e-", "", 1)
    return text.strip() in {"", "-"} or plain.isdigit() or re.fullmatch(r"\d+([:/]\d+)+", first) is not None


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    widths = [max(_num_cells(line[index]) for line in [columns, *rows]) for index in range(len(columns))]
    lines = []
    for line in [columns, ["-" * width for width in widths], *rows]:
        blanks = [" " * (width - _num_cells(cell)) for cell, width in zip(line, widths, strict=True)]
        padded = [
            blank + cell if to_right else cell + blank
            for cell, blank, to_right in zip(line, blanks, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _num_cells(text: str) -> int:
    """How many columns of a terminal ``text`` takes: signs of some scripts take two, or none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _rich_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    styles: Sequence[Mapping[str, str]],
) -> str:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    width = terminal_width()
    cell_styles = [[found.get(cell, "") for cell, found in zip(row, styles, strict=True)] for row in rows]
    narrowest = _longest_words(columns, rows)
    room = width - sum(narrowest[1:]) - _GAP * (len(columns) - 1)
    if room >= _LEAST_NAME:  # whole words, and as much of the first column, which names the row, as the others leave
        rows = [[_name_in_lines(first, room), *others] for first, *others in rows]
        widths = _widths(columns, rows, width)
    else:
        widths = _least_widths(columns, rows, right, width)
        width = max(width, sum(widths) + _GAP * (len(widths) - 1))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for name, to_right, column_width in zip(columns, right, widths, strict=True):
        table.add_column(name, justify="right" if to_right else "left", overflow="fold", width=column_width)
    for row, row_styles in zip(rows, cell_styles, strict=True):
        table.add_row(*(Text(cell, style) for cell, style in zip(row, row_styles, strict=True)))
    return rendered(table, width)


def terminal_width() -> int:
    """Returns how many columns the terminal has; 80 without one."""
    from rich.console import Console

    return Console().width


def rendered(content: RenderableType, width: int) -> str:
    """Returns what rich makes of ``content`` on a terminal of ``width`` columns, with its colours unless $NO_COLOR is
    set.
    """
    from rich.console import Console

    colours: Any = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system=colours)
    with console.capture() as capture:
        console.print(content)
    return capture.get().rstrip("\n")


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> list[int]:
    """Of each column: the lines of the first, the longest words of the others; what is left goes to them in turn."""
    table = list(zip(columns, *rows, strict=True))
    whole = [max(_num_cells(line) for cell in column for line in [*cell.split("\n"), ""]) for column in table]
    widths = [whole[0], *_longest_words(columns, rows)[1:]]
    spare = total - sum(widths) - _GAP * (len(columns) - 1)
    for index, wanted in enumerate(whole):
        more = max(0, min(wanted - widths[index], spare))
        widths[index] += more
        spare -= more
    return widths


def _longest_words(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column, its heading included."""
    return [max(map(_num_cells, " ".join(cells).split()), default=0) for cells in zip(columns, *rows, strict=True)]


def _least_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], total: int
) -> list[int]:
    """Of each column where the words do not fit: text is broken, then headings, but never a number: it would be read as
    two.
    """
    widths = _longest_words(columns, rows)
    numbers = _longest_words([""] * len(columns), rows)
    least = [numbers[i] if right[i] else min(widths[i], _LEAST_TEXT) for i in range(len(columns))]
    for of_numbers in (False, True):
        shrinking = [i for i, to_right in enumerate(right) if to_right == of_numbers]
        while sum(widths) + _GAP * (len(widths) - 1) > total and any(widths[i] > least[i] for i in shrinking):
            widths[max(shrinking, key=lambda i: widths[i] - least[i])] -= 1
    return widths


def _name_in_lines(name: str, width: int) -> str:
    """``name`` broken where it is put together, as in focal-/0.5-/matched, not in the middle of a word."""
    from rich.cells import chop_cells

    lines = [""]
    for part in re.findall(r"[^-=_ ]*[-=_ ]*", name):
        if lines[-1] and _num_cells(lines[-1]) + _num_cells(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    # A part that is wider still is broken anywhere.
    return "\n".join(piece for line in lines for piece in chop_cells(line, width) or [""])


def duration(seconds: float) -> str:
    """Writes a time short enough for a table: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(seconds: float) -> str:
    """Writes a time as a clock shows it, for columns of a live view: 0:42, 3:05, 2:10:07."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Writes a number with its noun: ``1 image``, ``1,500 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def points(share: float, decimals: int = 2) -> str:
    """Writes an average precision, which lies in [0, 1], in points: 78.71 for 0.7871; a dash for nan."""
    return "-" if math.isnan(share) else f"{100 * share:z.{decimals}f}"
