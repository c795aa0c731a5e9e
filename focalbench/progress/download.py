"""Shows how far a download is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from focalbench.console import info, is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


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
