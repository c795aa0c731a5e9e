"""Figures are files that replace older ones whole, equal for equal numbers; crops become a sheet of tiles."""

from pathlib import Path

import numpy as np
import pytest

from focalbench.errors import StorageError
from focalbench.metrics.calibration import bin_reliability
from focalbench.report.plots import draw_crops, plot_cumulative_loss, plot_errors, plot_reliability, save_figure
from focalbench.tracking.drawing import PREDICTION_COLOR, TRUTH_COLOR

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


def test_a_crop_is_drawn_with_its_boxes() -> None:
    crop = (
        np.zeros((90, 45, 3), np.uint8),
        np.array([5, 5, 30, 60]),
        np.array([[10, 20, 40, 80]]),
        "RBC 0.71\nnothing",
    )
    sheet = draw_crops([crop] * 7, columns=3)
    assert sheet.shape[1] > sheet.shape[0] / 2
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert {TRUTH_COLOR, PREDICTION_COLOR} <= colors
    assert draw_crops([]).shape[2] == 3
