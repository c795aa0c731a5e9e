"""The check of a run fills the image caches: every file is read once, and a cache is as if built by itself."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from focalbench.data import cache, files, images
from focalbench.data.cache import CacheSettings, locate_cache, open_cache
from focalbench.data.check import check_data
from focalbench.data.dataset import load_data
from focalbench.data.scanning import list_samples
from focalbench.errors import DataError, InterruptedTrial, StorageError
from focalbench.runtime import StopFlag

TRAIN, VAL = ("2007/train",), ("2007/val",)
CANVASES = (CacheSettings((32, 64), "warp"), CacheSettings((48, 32), "letterbox"))


@pytest.fixture
def photographs(voc, object_of):
    """Two training images and two to evaluate on, one of which is both."""
    voc.list("train", [voc.add("a", object_of("dog")), voc.add("b", object_of("cat"), size=(300, 200))])
    voc.list("val", [voc.add("c", object_of("dog"), suffix=".png"), "b"])
    return voc


@pytest.fixture
def calls(monkeypatch):
    """What is read and decoded from here on: names of files, sizes of images."""
    found = {"read": [], "decoded": []}
    read, decode = files.read_inside, images._decode

    def note_read(folder, relative, max_bytes):
        found["read"].append(relative.rpartition("/")[2])
        return read(folder, relative, max_bytes)

    def note_decoding(image, *arguments):
        found["decoded"].append(image.size)
        return decode(image, *arguments)

    monkeypatch.setattr(files, "read_inside", note_read)
    monkeypatch.setattr(images, "_decode", note_decoding)
    return found


def check(voc, *fill, **options):
    return check_data(voc.root, TRAIN, VAL, fill=fill, **options)


def load(voc, settings=CANVASES[0], **options):
    train = load_data(voc.root, TRAIN, "auto", settings.canvas, settings.fit, **options)
    return train, load_data(voc.root, VAL, train.classes, settings.canvas, settings.fit, **options)


def folders(tmp_path, name="cache"):
    return sorted(path for path in (tmp_path / name).iterdir() if path.is_dir() and path.name != "checks")


def test_check_and_cache_together_read_and_decode_every_file_once(photographs, calls):
    report = check(photographs, CANVASES[0])
    train, val = load(photographs)
    assert sorted(set(calls["read"])) == ["a.jpg", "a.xml", "b.jpg", "b.xml", "c.png", "c.xml", "train.txt", "val.txt"]
    assert len([name for name in calls["read"] if not name.endswith(".txt")]) == 6
    assert len(calls["decoded"]) == 3
    assert report.fingerprints == (train.fingerprint, val.fingerprint)


def test_the_report_is_the_same_with_and_without_caches(photographs, tmp_path):
    assert check(photographs, cache_dir=tmp_path / "other") == check(photographs, *CANVASES)


@pytest.mark.parametrize("settings", CANVASES)
def test_a_cache_is_byte_for_byte_what_opening_it_would_have_built(photographs, tmp_path, settings):
    check(photographs, *CANVASES)
    alone = load(photographs, settings, cache_dir=tmp_path / "o")
    for mine, other in zip(load(photographs, settings), alone, strict=True):
        np.testing.assert_array_equal(mine.batch([0, 1])[0], other.batch([0, 1])[0])
        np.testing.assert_array_equal(mine.ground_truth()["label"], other.ground_truth()["label"])
    built = folders(tmp_path, "o")
    assert len(folders(tmp_path)) == 2 * len(built) == 4
    for folder in built:
        for name in ("images.npy", "meta.json"):
            assert (tmp_path / "cache" / folder.name / name).read_bytes() == (folder / name).read_bytes()


def test_several_canvases_are_filled_from_one_reading(photographs, calls, monkeypatch):
    check(photographs, *CANVASES)
    assert sorted(name for name in calls["read"] if name.endswith(("jpg", "png"))) == ["a.jpg", "b.jpg", "c.png"]
    monkeypatch.setattr(cache, "build_cache", lambda *_: pytest.fail("built twice"))
    for settings in CANVASES:
        assert load(photographs, settings)[0].batch([0])[0].shape[2:] == settings.canvas


def test_only_what_is_missing_is_read(photographs, tmp_path, calls):
    check(photographs, CANVASES[0])
    listings = [list_samples(photographs.root, splits) for splits in (TRAIN, VAL)]
    train, val = (locate_cache(listing.samples, CANVASES[0]).folder for listing in listings)
    calls["decoded"].clear()
    check(photographs, CANVASES[0])
    assert calls["decoded"] == []
    shutil.rmtree(val)
    check(photographs, CANVASES[0])
    assert len(calls["decoded"]) == 2
    calls["decoded"].clear()
    shutil.rmtree(tmp_path / "cache" / "checks")
    stamps = [path.stat().st_ino for path in (train, val)]
    check(photographs, CANVASES[0])
    assert len(calls["decoded"]) == 3
    assert [path.stat().st_ino for path in (train, val)] == stamps


def test_a_set_with_a_fault_on_either_side_gets_no_cache(photographs, object_of, tmp_path):
    photographs.add("c", object_of("dog"), image=b"broken", suffix=".png")
    assert [fault.kind for fault in check(photographs, *CANVASES).errors] == ["image-broken"]
    photographs.add("c", object_of("zebra"), suffix=".png")
    assert [fault.kind for fault in check(photographs, *CANVASES).errors] == ["unknown-class"]
    photographs.list("val", ["c", "absent"])
    assert check(photographs, *CANVASES).errors
    assert folders(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 200, 4000])
def test_a_truncated_image_is_found_at_every_size(voc, object_of, encoded, cut):
    whole = encoded(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    voc.list("train", [voc.add("a", object_of("dog"), size=(300, 200), image=whole[: -2 - cut])])
    for fill in ((), CANVASES[:1], (CacheSettings((200, 300), "warp"),)):
        assert [fault.kind for fault in check_data(voc.root, TRAIN, fill=fill).errors] == ["image-broken"]


@pytest.mark.parametrize("name", ["posix_fallocate", "pwrite", "fsync", "replace"])
def test_a_full_disk_does_not_stop_the_check_and_is_said_where_the_cache_is_needed(
    photographs, tmp_path, monkeypatch, name
):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        assert check(photographs, *CANVASES).errors == ()
        assert folders(tmp_path) == []
        with pytest.raises(StorageError, match="No space left"):
            load(photographs)
    assert len(load(photographs)[0]) == 2


def test_a_cache_folder_that_is_a_file_does_not_stop_the_check(photographs, tmp_path):
    (tmp_path / "file").write_text("")
    assert check(photographs, CacheSettings((32, 64), "warp", tmp_path / "file"), CANVASES[1]).errors == ()
    assert len(folders(tmp_path)) == 2


def test_a_stop_leaves_nothing_half_built(photographs, tmp_path, monkeypatch):
    stop, scan = StopFlag(), images.to_canvas

    def stop_then_scan(*arguments):
        stop.request(signal.SIGTERM)
        return scan(*arguments)

    monkeypatch.setattr("focalbench.data.check.to_canvas", stop_then_scan)
    monkeypatch.setattr("focalbench.data.scanning.num_cores", lambda: 1)
    for number in range(100):
        photographs.add(f"{number}")
    photographs.list("train", [f"{number}" for number in range(100)])
    with pytest.raises(InterruptedTrial):
        check(photographs, *CANVASES, stop=stop)
    assert folders(tmp_path) == []


def test_a_cache_asked_for_twice_is_built_once(photographs, tmp_path):
    photographs.list("val", ["a", "b"])  # as train
    assert (
        check(photographs, CANVASES[0], CacheSettings((32, 64), "warp", tmp_path / "x" / ".." / "cache")).errors == ()
    )
    assert len(folders(tmp_path)) == 1
    assert len(load(photographs)[1]) == 2


def test_two_processes_that_want_the_same_caches_do_not_wait_for_each_other_forever(photographs, tmp_path):
    code = (
        "import sys; from focalbench.data.cache import CacheSettings; from focalbench.data.check import check_data\n"
        "fill = [CacheSettings((side, 64), 'warp') for side in map(int, sys.argv[2:])]\n"
        "print(check_data(sys.argv[1], ('2007/train',), ('2007/val',), fill=fill).fingerprints)"
    )
    command = [sys.executable, "-c", code, str(photographs.root)]
    orders = ("32", "48", "64"), ("64", "48", "32")
    running = [subprocess.Popen([*command, *sides], stdout=subprocess.PIPE, text=True) for sides in orders]
    outputs = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(outputs) == 1
    assert len(folders(tmp_path)) == 6
    assert not [path for path in folders(tmp_path) if path.name.endswith(".partial")]


def test_other_classes_read_the_same_cache(photographs, tmp_path, calls):
    first = load(photographs)[0]
    decoded = len(calls["decoded"])
    other = load_data(photographs.root, TRAIN, ("dog", "bird", "cat"), (32, 64))
    assert (first.classes, first.ground_truth()["label"].tolist()) == (("cat", "dog"), [1, 0])
    assert (other.classes, other.ground_truth()["label"].tolist()) == (("dog", "bird", "cat"), [0, 2])
    assert other.ground_truth()["label"].dtype == np.int64
    assert other.fingerprint != first.fingerprint
    assert len(calls["decoded"]) == decoded
    assert len(folders(tmp_path)) == 2


def test_classes_that_do_not_fit_are_named_with_file_and_object_although_a_cache_is_there(photographs, object_of):
    listing = list_samples(photographs.root, TRAIN)
    open_cache(listing, "auto", CANVASES[0])
    with pytest.raises(DataError, match=r"a\.xml: object 1 'dog': class 'dog' .* is not in data.classes"):
        open_cache(listing, ("cat",), CANVASES[0])
    photographs.add("b", object_of("Dog"), size=(300, 200))
    listing = list_samples(photographs.root, TRAIN)
    open_cache(listing, ("dog", "Dog"), CANVASES[0])
    with pytest.raises(DataError, match=r"differs from 'dog' .*only in case"):
        open_cache(listing, "auto", CANVASES[0])
