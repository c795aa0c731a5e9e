"""The generated set: the same everywhere, imbalanced as stated, and readable like any other."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from focalbench.data.check import check_data
from focalbench.data.synthetic import (
    CLASSES,
    FREQUENCIES,
    encode_png,
    ensure_synthetic,
    generate_image,
    synthesize,
)
from focalbench.data.voc import read_records
from focalbench.errors import DataError, StorageError


def test_equal_arguments_give_equal_images_and_others_do_not():
    first, again = generate_image(0, "train", 3), generate_image(0, "train", 3)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    for other in (generate_image(1, "train", 3), generate_image(0, "val", 3), generate_image(0, "train", 4)):
        assert (first.pixels != other.pixels).any()


def test_sizes_counts_and_frequencies_are_as_stated():
    images = [generate_image(0, "train", number) for number in range(400)]
    assert all(1 <= len(image.boxes) <= 4 for image in images)
    boxes = np.concatenate([image.boxes for image in images])
    labels = np.concatenate([image.labels for image in images])
    assert boxes.min() >= 1
    assert boxes.max() <= 128
    longest = (boxes[:, 2:] - boxes[:, :2] + 1).max(1)
    assert longest.min() >= 8  # shapes of 12 px and their tight boxes, whatever way they are turned
    assert 38 <= longest.max() <= 40
    shares = np.bincount(labels, minlength=4) / len(labels)
    np.testing.assert_allclose(shares, FREQUENCIES, atol=0.06)
    assert sum(FREQUENCIES) == pytest.approx(1)


def test_a_box_is_where_something_was_painted():
    image = generate_image(5, "val", 0)
    for left, top, right, bottom in image.boxes:
        inside = image.pixels[top - 1 : bottom, left - 1 : right].astype(np.float32)
        middle = inside[len(inside) // 4 : -len(inside) // 4, inside.shape[1] // 4 : -inside.shape[1] // 4]
        ring = image.pixels[max(top - 8, 0) : bottom + 7, max(left - 8, 0) : right + 7].astype(np.float32)
        outside = (ring.sum((0, 1)) - inside.sum((0, 1))) / (ring[..., 0].size - inside[..., 0].size)
        assert np.abs(middle.mean((0, 1)) - outside).max() > 10


def test_png_files_hold_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels)))
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_set_is_read_without_a_fault(tmp_path):
    root = synthesize(tmp_path / "with space", 12, 5, seed=4)
    assert root == tmp_path / "with space" / "VOCdevkit"
    report = check_data(root, ("2007/train",), ("2007/val",), CLASSES)
    assert report.errors == ()
    assert {fault.kind for fault in report.warnings} <= {"class-without-objects"}
    assert (report.facts["train_images"], report.facts["val_images"]) == (12, 5)
    drawn = generate_image(4, "val", 2)
    record = read_records(root, ("2007/val",), CLASSES).records[2]
    np.testing.assert_array_equal(record.boxes, drawn.boxes)
    np.testing.assert_array_equal(record.labels, drawn.labels)
    np.testing.assert_array_equal(np.asarray(Image.open(record.image_path)), drawn.pixels)


def test_a_larger_set_starts_with_the_smaller_one(tmp_path):
    small, large = synthesize(tmp_path / "small", 2, 1), synthesize(tmp_path / "large", 4, 3)
    for path in (small / "VOC2007" / "JPEGImages").iterdir():
        assert path.read_bytes() == (large / "VOC2007" / "JPEGImages" / path.name).read_bytes()


def test_nothing_is_overwritten_and_nothing_left_half_written(tmp_path, monkeypatch):
    root = synthesize(tmp_path, 1, 1)
    with pytest.raises(StorageError, match="exists already"):
        synthesize(tmp_path, 1, 1)
    monkeypatch.setattr("focalbench.data.synthetic._annotate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthesize(tmp_path / "other", 1, 1)
    assert list((tmp_path / "other").iterdir()) == []
    assert root.is_dir()


@pytest.mark.parametrize("numbers", [(0, 1, 128, 0), (1, 0, 128, 0), (1, 1, 8, 0), (1, 1, 4096, 0), (1, 1, 128, -1)])
def test_numbers_out_of_range_are_refused(tmp_path, numbers):
    with pytest.raises(DataError, match="synthetic"):
        synthesize(tmp_path, *numbers)


def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        synthesize(tmp_path / "file", 1, 1)
    with pytest.raises(StorageError, match="cannot be written"):
        ensure_synthetic(tmp_path / "file", 1, 1)


def test_processes_that_ask_at_once_share_one_set(tmp_path):
    code = "import sys; from focalbench.data.synthetic import ensure_synthetic as e; print(e(sys.argv[1], 20, 5))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert outputs == {str(ensure_synthetic(tmp_path, 20, 5))}
    assert len(list(tmp_path.iterdir())) == 1
