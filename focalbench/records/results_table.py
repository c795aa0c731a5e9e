"""Writes and reads a sweep's table of results (results.csv): one row a trial, which is all that has to be kept of a
sweep to judge its arms again.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focalbench.errors import DataError
from focalbench.records.document import as_number
from focalbench.records.result import TrialResult
from focalbench.records.state import TrialState
from focalbench.storage import read_regular
from focalbench.tags import BEST_MEAN_AP, CLASS_AP, MEAN_AP

RESULTS = "results.csv"
_WHO = ("trial", "arm", "seed", "config_hash", "state")
_FOUND = (MEAN_AP, BEST_MEAN_AP, "step", "protocol")
_NEEDED = ("trial", "arm", "seed", "state", MEAN_AP)
_DATA = "data_fingerprint"
_SEED = re.compile(r"0|[1-9][0-9]{0,9}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_MAX_BYTES, _MAX_SHOWN = 64 * 2**20, 40


@dataclass(frozen=True)
class ResultRow:
    """What a table of results says of one trial.

    Attributes:
        trial, arm, seed, config_hash: as in ``config.sweep.Trial``; the hash is empty where the table has none.
        state: how the trial stood.
        settings: keys of the configuration that the sweep varies, with the trial's values, dotted keys.
        result: what it found; empty where it was not done.
    """

    trial: str
    arm: str
    seed: int
    config_hash: str
    state: TrialState
    settings: Mapping[str, Any]
    result: TrialResult


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows of :func:`table_row` as CSV; a column that a row lacks is empty there."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table_row(listed: Mapping[str, Any], state: TrialState, result: TrialResult | None) -> dict[str, Any]:
    """Returns the row of a trial. It holds no times, so that a sweep that was killed and resumed ends with the same
    bytes as one that never was.

    Args:
        listed: what sweep.json holds of the trial: name, arm, seed, hash, differs.
    """
    row = {"trial": listed["name"], "arm": listed["arm"], "seed": listed["seed"], "config_hash": listed["hash"]}
    row |= {"state": str(state)}
    row |= {key: value for key, value in listed["differs"].items() if not isinstance(value, dict | list)}
    if result is None:
        return row
    row |= {MEAN_AP: result.mean_ap, BEST_MEAN_AP: result.best_mean_ap, "step": result.step}
    row |= {"protocol": result.protocol, _DATA: " ".join(result.data_fingerprint or ())}
    return row | {f"{CLASS_AP}{name}": value for name, value in result.class_ap.items()}


def read_table(path: Path) -> list[ResultRow]:
    """Returns the rows of a table, in its order.

    Raises:
        DataError: when it is no such table; naming the file, the line and the column.
    """
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = Counter(lines.fieldnames or ())
        twice = [column for column, count in columns.items() if count > 1]
        if twice:
            raise DataError(f"{path}: two columns {_shown(twice[0])}")
        missing = [column for column in _NEEDED if column not in columns]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(missing)}; give a table that focalbench wrote, such as "
                f"runs/NAME/{RESULTS}, with commas between its cells"
            )
        rows: dict[tuple[str, int], ResultRow] = {}
        for line in lines:
            row = _read_row(line, where := f"{path}: line {lines.line_num}")
            if rows.setdefault((row.arm, row.seed), row) is not row:
                raise DataError(f"{where}: seed {row.seed} of {row.arm} for the second time")
        return list(rows.values())
    except OSError as fault:
        raise DataError(f"{path}: cannot be read: {fault.strerror}") from fault
    except (UnicodeDecodeError, csv.Error) as fault:
        raise DataError(f"{path}: not a table of results: {fault}") from fault


def _read_row(line: Mapping[str | None, Any], where: str) -> ResultRow:
    if None in line or None in line.values():
        raise DataError(f"{where}: not as many cells as the table has columns")
    cells = {str(column): cell for column, cell in line.items() if cell != ""}
    for column in ("trial", "arm", "seed"):
        if column not in cells:
            raise DataError(f"{where}: {column} is empty")
        if not cells[column].isprintable():
            raise DataError(f"{where}: {column} {_shown(cells[column])} holds control characters")
    if Path(cells["trial"]).name != cells["trial"] or cells["trial"] == "..":
        raise DataError(f"{where}: trial {_shown(cells['trial'])} is not the name of a folder")
    if not _SEED.fullmatch(cells["seed"]):
        raise DataError(f"{where}: seed {_shown(cells['seed'])} is not a whole number, 0 or more")
    if cells.get("state") not in set(TrialState):
        raise DataError(f"{where}: state {_shown(cells.get('state', ''))} is none of {', '.join(TrialState)}")
    known = {*_WHO, *_FOUND, _DATA}
    settings = {key: _value(cell) for key, cell in cells.items() if key not in known and not key.startswith(CLASS_AP)}
    return ResultRow(
        cells["trial"],
        cells["arm"],
        int(cells["seed"]),
        cells.get("config_hash", ""),
        TrialState(cells["state"]),
        settings,
        _read_result(cells, where),
    )


def _read_result(cells: Mapping[str, str], where: str) -> TrialResult:
    if cells["state"] != TrialState.DONE:
        return TrialResult()
    found: dict[str, Any] = {"trial": cells["trial"], "arm": cells["arm"], "seed": int(cells["seed"])}
    found |= {"config_hash": cells.get("config_hash", ""), "protocol": cells.get("protocol")}
    found |= {column: _fraction(cells, column, where) for column in (MEAN_AP, BEST_MEAN_AP)}
    per_class = [column for column in cells if column.startswith(CLASS_AP)]
    found["AP"] = {column.removeprefix(CLASS_AP): _fraction(cells, column, where) for column in per_class}
    if _SEED.fullmatch(cells.get("step", "")):
        found["step"] = int(cells["step"])
    if _DATA in cells:
        found[_DATA] = cells[_DATA].split()
    return TrialResult.model_validate(found)


def _fraction(cells: Mapping[str, str], column: str, where: str) -> float | None:
    """The average precision in a cell; None for an empty one."""
    if column not in cells:
        return None
    value = as_number(_value(cells[column]))
    if value is None or not 0 <= value <= 1:
        raise DataError(f"{where}: {column} {_shown(cells[column])} is not a number from 0 to 1")
    return value


def _value(cell: str) -> Any:
    """A cell as what was written into it: a truth value, a number or text."""
    if cell in ("True", "False"):
        return cell == "True"
    if _INTEGER.fullmatch(cell):
        return int(cell)
    try:
        return cell if "_" in cell else float(cell)
    except ValueError:
        return cell


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= _MAX_SHOWN else cell[:_MAX_SHOWN] + "...")
