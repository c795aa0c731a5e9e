"""Draws pictures without a display: boxes on photographs, loss distributions; makes files of matplotlib's figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from focalbench.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(columns: int = 1, rows: int = 1, *, width: float = 6.0, height: float = 4.2) -> tuple[Figure, list]:
    """Returns a figure and its axes, row by row; rows share their x axis. Sizes are inches of one of the axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex="col").flat)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes ``figure`` in the format that the suffix of ``path`` names (.png, .svg), in the place of an older file.

    Raises:
        StorageError: when the folder cannot be written.
    """
    buffer = io.BytesIO()
    # Without a date equal figures are equal files.
    metadata: dict[str, str | None] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=120, metadata=metadata)
    write_atomically(path, buffer.getvalue())


def figure_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Returns (H, W, 3) uint8 pixels of a matplotlib figure, without a display and without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
