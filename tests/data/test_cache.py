"""The decode-once cache: shared, whole or absent, and never out of date."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from focalbench.data import cache, dataset
from focalbench.data.dataset import load_data
from focalbench.errors import DataError, StorageError


@pytest.fixture
def small(voc):
    voc.list("train", [voc.add(f"{i:02}") for i in range(6)])
    return voc


def load(voc, **options):
    return load_data(voc.root, ("2007/train",), "auto", (32, 64), **options)


def folders(tmp_path):
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.is_dir())


def test_all_modes_hold_the_same_pixels_and_fingerprint(small):
    indices = np.array([3, 0, 3])
    found = {mode: load(small, cache=mode) for mode in ("disk", "ram", "none", "auto")}
    reference = found["disk"].batch(indices)[0].numpy()
    assert reference.shape == (3, 3, 32, 64)
    for data in found.values():
        np.testing.assert_array_equal(data.batch(indices)[0].numpy(), reference)
    assert len({data.fingerprint for data in found.values()}) == 1


def test_a_second_opening_decodes_nothing(small, tmp_path, monkeypatch):
    first = load(small)
    monkeypatch.setattr(cache, "build_cache", lambda *_: pytest.fail("built twice"))
    second = load(small)
    assert isinstance(second.images, np.memmap)
    assert second.fingerprint == first.fingerprint
    for old, new in zip(first.records, second.records, strict=True):
        np.testing.assert_array_equal(old.boxes, new.boxes)
        np.testing.assert_array_equal(old.labels, new.labels)
        assert (old.image_id, old.width, old.image_path) == (new.image_id, new.width, new.image_path)
    assert len(folders(tmp_path)) == 1


def test_a_changed_image_or_annotation_is_another_cache_and_fingerprint(small, object_of, tmp_path):
    before = load(small)
    small.add("00", object_of(box=(7, 8, 19, 20)))
    assert load(small).records[0].boxes.tolist() == [[7, 8, 19, 20]]
    assert load(small).fingerprint != before.fingerprint
    small.add("01", image=(small.year / "JPEGImages" / "02.jpg").read_bytes())
    changed = load(small)
    np.testing.assert_array_equal(changed.batch([1])[0], changed.batch([2])[0])
    assert changed.fingerprint != before.fingerprint
    assert len(folders(tmp_path)) == 3


@pytest.mark.parametrize("mode", ["disk", "ram", "none"])
def test_another_canvas_or_fit_is_another_cache_of_the_same_data(small, tmp_path, mode):
    usual, boxed = load(small, cache=mode), load(small, cache=mode, fit="letterbox")
    square = load_data(small.root, ("2007/train",), "auto", 32, cache=mode)
    assert square.batch([0])[0].shape == (1, 3, 32, 32)
    assert not np.array_equal(usual.batch([0])[0], boxed.batch([0])[0])
    assert usual.fingerprint == boxed.fingerprint == square.fingerprint
    assert mode != "disk" or len(folders(tmp_path)) == 3


def test_a_change_behind_a_link_is_another_cache(small, object_of):
    path = small.year / "Annotations" / "00.xml"
    target = small.year / "shared.xml"
    path.rename(target)
    path.symlink_to(target)
    before = load(small)
    small.add("elsewhere", object_of(box=(7, 8, 19, 20)))
    (small.year / "Annotations" / "elsewhere.xml").rename(target)
    assert load(small).records[0].boxes.tolist() == [[7, 8, 19, 20]] != before.records[0].boxes.tolist()


def test_the_fingerprint_is_the_same_for_a_copy_elsewhere(small, tmp_path):
    shutil.copytree(small.root, tmp_path / "copy")
    assert load_data(tmp_path / "copy", ("2007/train",), "auto", (32, 64)).fingerprint == load(small).fingerprint


@pytest.mark.parametrize("name", ["images.npy", "records.npz", "meta.json"])
def test_a_damaged_cache_is_rebuilt(small, tmp_path, name):
    expected = load(small).batch(range(6))[0].numpy().copy()
    path = folders(tmp_path)[0] / name
    path.write_bytes(path.read_bytes()[:-20])
    np.testing.assert_array_equal(load(small).batch(range(6))[0].numpy(), expected)
    path.unlink()
    np.testing.assert_array_equal(load(small).batch(range(6))[0].numpy(), expected)


def test_what_a_killed_builder_left_is_cleared(small, tmp_path):
    load(small)
    (folder,) = folders(tmp_path)
    shutil.rmtree(folder)
    stale = folder.parent / f"{folder.name}-abc.partial"
    stale.mkdir()
    (stale / "images.npy").write_bytes(b"half")
    load(small)
    assert folders(tmp_path) == [folder]


def test_a_fault_in_the_data_leaves_no_cache(small, tmp_path):
    (small.year / "JPEGImages" / "03.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"03\.jpg"):
        load(small)
    assert folders(tmp_path) == []


def test_a_full_disk_is_said_in_words_and_leaves_nothing(small, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("posix_fallocate", "pwrite", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StorageError, match=r"cache.*No space left.*FOCALBENCH_CACHE"):
                load(small)
        assert folders(tmp_path) == []
    assert len(load(small)) == 6


def test_all_is_on_the_disk_before_the_cache_has_its_name_and_the_name_after(small, tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor):
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_replace(source, target):
        steps.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    load(small)
    *before, renamed, after = steps
    assert (renamed, after) == ("renamed", "cache")
    assert {"images.npy", "records.npz", "meta.json"} < set(before)
    assert before[-1].endswith(".partial")


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(small, monkeypatch):
    monkeypatch.setattr(dataset, "free_memory", lambda: 6 * 32 * 64 * 3 - 1)
    with pytest.raises(StorageError, match=r"data\.cache: ram needs .* for 6 images of 64 x 32 .*data\.cache: disk"):
        load(small, cache="ram")
    assert len(load(small, cache="disk")) == 6
    monkeypatch.setattr(dataset, "free_memory", lambda: 6 * 32 * 64 * 3)
    assert len(load(small, cache="ram")) == 6


def test_a_cache_folder_that_is_a_file_is_said_in_words(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        load(small, cache_dir=tmp_path / "file")


def test_two_processes_build_one_cache(small, tmp_path):
    code = (  # without torch, whose import would take longer than the rest
        "import sys; from focalbench.data.cache import *; from focalbench.data.scanning import list_samples\n"
        "listing = list_samples(sys.argv[1], ('2007/train',))\n"
        "decoded = open_cache(listing, 'auto', CacheSettings((32, 64), 'warp', sys.argv[2]))\n"
        "print(decoded.fingerprint, int(decoded.images.sum()))"
    )
    command = [sys.executable, "-c", code, str(small.root), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(outputs) == 1
    assert len(folders(tmp_path)) == 1


def test_the_data_set_is_never_written_to(small):
    def snapshot():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in small.root.rglob("*")}

    before = snapshot()
    load(small)
    assert snapshot() == before
