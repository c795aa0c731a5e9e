"""What a trial found can be read back, and what cannot be used says why."""

from pathlib import Path

import numpy as np
import pytest

from focalbench.records.detections import UnusableDetectionsError, read_detections, write_detections

DETECTIONS = {
    "image": np.array([0, 1]),
    "label": np.array([1, 0]),
    "score": np.array([0.5, 0.25], np.float32),
    "box": np.array([[1, 1, 9, 9], [2, 2, 8, 8]], np.float32),
}
TRUTH = {
    "image": np.array([1]),
    "label": np.array([0]),
    "box": np.array([[2, 2, 8, 8]], np.float32),
    "difficult": np.array([False]),
}


def _write(folder: Path, **truth: object) -> None:
    write_detections(folder, DETECTIONS, TRUTH | truth, image_ids=["a", "b"], classes=["cat", "dog"])


def test_detections_read_back_as_they_were_written(tmp_path: Path) -> None:
    _write(tmp_path)
    stored = read_detections(tmp_path)
    for name, values in DETECTIONS.items():
        np.testing.assert_array_equal(stored.detections[name], values)
        assert stored.detections[name].dtype == values.dtype
    for name, values in TRUTH.items():
        np.testing.assert_array_equal(stored.truth[name], values)
    assert (stored.image_ids.tolist(), stored.classes.tolist()) == (["a", "b"], ["cat", "dog"])


def test_other_objects_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    _write(tmp_path / "one")
    _write(tmp_path / "other", difficult=np.array([True]))
    one, other = read_detections(tmp_path / "one"), read_detections(tmp_path / "other")
    assert one.has_same_objects(one)
    assert not one.has_same_objects(other)


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnusableDetectionsError, match="is missing"):
        read_detections(tmp_path)
    np.savez(tmp_path / "detections.npz", **DETECTIONS)
    with pytest.raises(UnusableDetectionsError, match="written by another version"):
        read_detections(tmp_path)
    (tmp_path / "detections.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UnusableDetectionsError, match="cannot be read"):
        read_detections(tmp_path)
