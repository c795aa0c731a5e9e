"""What the shell completes: keys of -s, arms and metrics of the folders that are named, devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from focalbench.errors import FocalbenchError
from focalbench.tags import CLASS_AP, MEAN_AP

_DEVICES = ("auto", "cpu", "cuda")


def complete_key(incomplete: str) -> list[str]:
    """Returns the keys that begin so, each with its equals sign."""
    from focalbench.config.faults import all_keys

    return [f"{key}=" for key in all_keys() if key.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Returns the devices that begin so."""
    return [name for name in _DEVICES if name.startswith(incomplete)]


def complete_arm(ctx: Any, incomplete: str) -> list[str]:
    """Returns the arms, in the folders and tables before the cursor, that begin so."""
    from focalbench.records.reader import is_table
    from focalbench.records.results_table import read_table
    from focalbench.records.sweep import SweepFolder

    arms: dict[str, None] = {}
    for path in _typed(ctx):
        with suppress(FocalbenchError, OSError):
            named = [row.arm for row in read_table(path)] if is_table(path) else SweepFolder(path).arms()
            arms |= dict.fromkeys(named)
    return [arm for arm in arms if arm.startswith(incomplete)]


def complete_metric(ctx: Any, incomplete: str) -> list[str]:
    """Returns mAP, and AP of the classes of the first finished trial in the folders before the cursor."""
    from focalbench.records.result import TrialResult
    from focalbench.records.trial import TrialFolder

    metrics = [MEAN_AP]
    for folder in _typed(ctx):
        with suppress(OSError):
            path = next(folder.glob(f"*/{TrialFolder.RESULT}"), None)
            result = TrialResult() if path is None else TrialResult.read(path)[0]
            metrics += [f"{CLASS_AP}{name}" for name in result.class_ap]
    return [name for name in dict.fromkeys(metrics) if name.startswith(incomplete)]


def _typed(ctx: Any) -> Iterator[Path]:
    """The paths typed so far; behind an option that still lacks its value they are not sorted out yet."""
    return map(Path, ctx.params.get("paths") or [argument for argument in ctx.args if not argument.startswith("-")])
