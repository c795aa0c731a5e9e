"""Figures are files that replace older ones whole, equal for equal numbers."""

from pathlib import Path

import numpy as np
import pytest

from focalbench.errors import StorageError
from focalbench.figures import save_figure
from focalbench.figures.loss_distribution import plot_cumulative_loss
from focalbench.metrics.calibration import bin_reliability
from focalbench.report.analysis import plot_errors, plot_reliability

_NOTHING = {gamma: (np.zeros(0), np.zeros(0)) for gamma in (0.0, 2.0)}


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    cost = {"classification": 0.1, "missed": -0.001}
    for name in ("a.png", "b.png"):
        save_figure(plot_errors(cost, "trial"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none"):
        save_figure(plot_errors({"missed": 0.0}, "trial"), tmp_path / "none" / "a.png")


def test_empty_groups_and_no_detections_can_be_drawn(tmp_path: Path) -> None:
    save_figure(plot_cumulative_loss(_NOTHING, _NOTHING, "trial"), tmp_path / "a.png")
    save_figure(plot_reliability(bin_reliability(np.zeros(0), np.zeros(0, bool)), "trial"), tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")
