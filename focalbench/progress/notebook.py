"""Shows progress in a notebook, as an output of the cell."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

_INTERVAL_S = 0.5
_WIDTH = 100  # columns; what JupyterLab shows without a scroll bar


def in_notebook() -> bool:
    """Says whether a notebook's kernel runs this process: it shows what a cell displays, and replaces it when told."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookRows:
    """One output of a notebook's cell that shows the rows, written anew twice a second at most."""

    def __init__(self, view: Callable[[int], Group]) -> None:
        from IPython.display import display

        self._view = view
        self._drawn = time.monotonic()
        self._handle: Any = display(self._content(view(_WIDTH)), raw=True, display_id=True)

    def changed(self) -> None:
        """Draws what has changed, unless that was done a moment ago."""
        if time.monotonic() - self._drawn >= _INTERVAL_S:
            self._drawn = time.monotonic()
            self._handle.update(self._content(self._view(_WIDTH)), raw=True)

    def close(self, last: Text) -> None:
        """Leaves ``last`` in the place of the rows."""
        self._handle.update(self._content(last), raw=True)

    @staticmethod
    def _content(view: RenderableType) -> dict[str, str]:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(view)
        return {"text/plain": "\n".join(line.rstrip() for line in capture.get().splitlines())}
