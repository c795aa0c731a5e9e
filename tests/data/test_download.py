"""A year of VOC arrives whole and right or not at all, whatever the mirrors do. No test leaves this machine."""

import hashlib
import http.server
import io
import itertools
import os
import shutil
import socket
import tarfile
import threading
import time
import types

import pytest
from filelock import FileLock

from focalbench.data import download as module
from focalbench.data.download import DATASETS, Archive, VocYear, download
from focalbench.errors import DataError, StorageError

TIMEOUT_S = 0.5
TRAINVAL = "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
TEST = "VOCdevkit/VOC2007/ImageSets/Main/test.txt"


def tar(files, *extra):
    """A tar archive of ``{name: content}`` and of further TarInfo members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return buffer.getvalue()


TRAINVAL_TAR = tar({TRAINVAL: b"000001\n", "VOCdevkit/VOC2007/JPEGImages/000001.jpg": os.urandom(1 << 20)})
TEST_TAR = tar({TEST: b"000002\n", "VOCdevkit/VOC2007/JPEGImages/000002.jpg": os.urandom(1 << 16)})


class Mirrors(http.server.BaseHTTPRequestHandler):
    """Serves ``server.content`` under /<behaviour>/<name>; ``server.log`` holds (behaviour, first byte asked for)."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        _, behaviour, name = self.path.split("/")
        content = self.server.content[name]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.server.log.append((behaviour, start))
        getattr(self, f"be_{behaviour}")(content, start)

    def answer(self, content, start, *, length=None, content_range=None):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", content_range or f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length != "none":
            self.send_header("Content-Length", str(len(content) - start if length is None else length))
        self.end_headers()

    def be_good(self, content, start):
        self.answer(content, start)
        self.wfile.write(content[start:])

    def be_unresumable(self, content, start):
        self.be_good(content, 0)

    def be_broken(self, content, start):
        """Hangs up after 300 kB."""
        self.answer(content, start)
        self.wfile.write(content[start : start + 300_000])

    def be_silent(self, content, start):
        time.sleep(2 * TIMEOUT_S)

    def be_stalling(self, content, start):
        self.answer(content, start)
        self.wfile.write(content[start : start + 100_000])
        self.wfile.flush()
        time.sleep(2 * TIMEOUT_S)

    def be_slow(self, content, start):
        self.answer(content, start)
        for position in range(start, len(content), 500):
            try:
                self.wfile.write(content[position : position + 500])
            except OSError:
                return
            time.sleep(0.02)

    def be_lying(self, content, start):
        self.answer(content, start)
        self.wfile.write(b"x" * (len(content) - start))

    def be_other(self, content, start):
        page = b"<html>this file has moved</html>"
        self.answer(page, 0)
        self.wfile.write(page)

    def be_endless(self, content, start):
        self.answer(content, start, length="none")
        try:
            self.wfile.write(content[start:])
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    def be_shifted(self, content, start):
        self.answer(content, start, content_range="bytes 7-8/9")

    def be_gone(self, content, start):
        self.send_error(404)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(module, "_WINDOW_S", 0.2)
    monkeypatch.setattr(module, "_MIN_BYTES_PER_S", 50_000)
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("localhost", 0), Mirrors)
    server.content = {"trainval.tar": TRAINVAL_TAR, "test.tar": TEST_TAR}
    server.log = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def catalogue(server, *behaviours, sha256=None):
    """VOC 2007 as the test server's mirrors have it, asked in this order."""
    archives = []
    for name, content in server.content.items():
        urls = tuple(f"http://localhost:{server.server_port}/{behaviour}/{name}" for behaviour in behaviours)
        archives.append(Archive(name, len(content), sha256 or hashlib.sha256(content).hexdigest(), urls))
    return {"voc2007": VocYear("VOC2007", ("trainval", "test"), tuple(archives))}


def fetch(server, folder, *behaviours, **arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DATASETS", catalogue(server, *behaviours))
        return download("voc2007", folder, **arguments)


def assert_complete(folder):
    assert (folder / TRAINVAL).read_bytes() == b"000001\n"
    assert (folder / TEST).read_bytes() == b"000002\n"
    assert sorted(path.name for path in (folder / "VOCdevkit/VOC2007/JPEGImages").iterdir()) == [
        "000001.jpg",
        "000002.jpg",
    ]
    assert [path.name for path in folder.iterdir()] == ["VOCdevkit"]  # neither archives nor locks stay


def assert_nothing_half_written(folder):
    assert not (folder / "VOCdevkit").exists()


def test_a_year_is_merged_from_its_archives(server, tmp_path):
    seen = []
    devkit = fetch(server, tmp_path / "new folder", "good", progress=lambda *arguments: seen.append(arguments))
    assert devkit == tmp_path / "new folder" / "VOCdevkit"
    assert_complete(tmp_path / "new folder")
    assert seen[-1] == ("test.tar", len(TEST_TAR), len(TEST_TAR))
    assert all(before[1] < after[1] for before, after in itertools.pairwise(seen) if before[0] == after[0])


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    fetch(server, tmp_path, "good")
    server.log.clear()
    fetch(server, tmp_path, "good")
    assert server.log == []


@pytest.mark.parametrize("behaviour", ["silent", "slow", "stalling", "lying", "other", "endless", "gone", "shifted"])
def test_a_bad_mirror_is_left_for_a_good_one(server, tmp_path, behaviour):
    fetch(server, tmp_path, behaviour, "good")
    assert_complete(tmp_path)


def test_a_mirror_that_is_not_there_is_left_for_a_good_one(server, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    known = catalogue(server, "good")
    archives = tuple(
        Archive(one.name, one.size, one.sha256, (f"http://localhost:{port}/x/{one.name}", *one.urls))
        for one in known["voc2007"].archives
    )
    monkeypatch.setattr(module, "DATASETS", {"voc2007": VocYear("VOC2007", ("test",), archives)})
    download("voc2007", tmp_path)
    assert_complete(tmp_path)


def test_a_mirror_that_hangs_up_is_resumed_where_it_stopped(server, tmp_path):
    fetch(server, tmp_path, "broken")
    assert_complete(tmp_path)
    asked = [start for _, start in server.log[:4]]
    assert asked == [0, 300_000, 600_000, 900_000]


def test_an_interrupted_download_goes_on_in_the_next_call(server, tmp_path):
    def interrupt(name, there, size):
        if there > size // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, "good", progress=interrupt)
    assert_nothing_half_written(tmp_path)
    fetch(server, tmp_path, "good")
    assert server.log[0] == ("good", 0)
    assert server.log[1][1] > len(TRAINVAL_TAR) // 2
    assert_complete(tmp_path)


def test_a_mirror_without_ranges_starts_over(server, tmp_path):
    fetch(server, tmp_path, "broken", "unresumable")
    assert_complete(tmp_path)


def test_a_damaged_first_half_is_thrown_away(server, tmp_path):
    work = tmp_path / ".voc2007-download"
    work.mkdir()
    (work / "trainval.tar.part").write_bytes(b"x" * 500_000)
    fetch(server, tmp_path, "good")
    assert [start for _, start in server.log[:2]] == [500_000, 0]
    assert_complete(tmp_path)


def test_no_good_mirror_is_an_error_that_names_each(server, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(server, tmp_path / "made", "lying", "other", "gone", "silent", "endless")
    message = str(caught.value)
    for reason in ("SHA-256 is", "has a file of 32 bytes instead of", "HTTP 404", "no answer in time", "sends more"):
        assert reason in message
    assert "run the same command again" in message
    assert len(message.splitlines()) <= 20
    assert not (tmp_path / "made").exists()
    assert sum(behaviour == "lying" for behaviour, _ in server.log) == 1  # a known liar is not asked again


HOSTILE = {
    "parent": tarfile.TarInfo("VOCdevkit/../../outside.txt"),
    "absolute": tarfile.TarInfo("/tmp/focalbench-outside.txt"),
    "elsewhere": tarfile.TarInfo("outside.txt"),
    "symlink": tarfile.TarInfo("VOCdevkit/VOC2007/link"),
    "hardlink": tarfile.TarInfo("VOCdevkit/VOC2007/link"),
    "fifo": tarfile.TarInfo("VOCdevkit/VOC2007/fifo"),
    "device": tarfile.TarInfo("VOCdevkit/VOC2007/device"),
}
HOSTILE["symlink"].type, HOSTILE["symlink"].linkname = tarfile.SYMTYPE, "/etc/passwd"
HOSTILE["hardlink"].type, HOSTILE["hardlink"].linkname = tarfile.LNKTYPE, "../../../../etc/passwd"
HOSTILE["fifo"].type = tarfile.FIFOTYPE
HOSTILE["device"].type = tarfile.CHRTYPE


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused(server, tmp_path, kind):
    folder = tmp_path / "in" / "here"
    server.content["trainval.tar"] = tar({TRAINVAL: b""}, HOSTILE[kind])
    with pytest.raises(DataError, match=r"trainval\.tar: holds"):
        fetch(server, folder, "good")
    assert_nothing_half_written(folder)
    assert not list(tmp_path.rglob("outside.txt"))
    assert not os.path.lexists("/tmp/focalbench-outside.txt")


@pytest.mark.parametrize("content", [b"not a tar archive" * 100, TRAINVAL_TAR[:700_000]], ids=["text", "truncated"])
def test_what_cannot_be_unpacked_is_named(server, tmp_path, content):
    server.content["trainval.tar"] = content
    with pytest.raises(DataError, match=r"trainval\.tar: not a tar archive"):
        fetch(server, tmp_path, "good")
    assert_nothing_half_written(tmp_path)


def test_an_archive_without_the_year_is_named(server, tmp_path):
    server.content["test.tar"] = tar({"VOCdevkit/VOC2007/readme.txt": b""})
    with pytest.raises(DataError, match="no VOCdevkit/VOC2007 with the splits trainval, test"):
        fetch(server, tmp_path, "good")
    assert_nothing_half_written(tmp_path)


def test_other_years_and_incomplete_folders_are_left_alone(server, tmp_path):
    (tmp_path / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir()
    with pytest.raises(DataError, match=r"VOC2007: exists but is not complete"):
        fetch(server, tmp_path, "good")
    assert server.log == []
    (tmp_path / "VOCdevkit" / "VOC2007").rmdir()
    fetch(server, tmp_path, "good")
    assert sorted(path.name for path in (tmp_path / "VOCdevkit").iterdir()) == ["VOC2007", "VOC2012"]


def test_too_little_space_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    with pytest.raises(StorageError, match=r"2\.3 MB needed to download and unpack, 0\.0 MB free"):
        fetch(server, tmp_path, "good")
    assert server.log == []


def test_a_second_download_into_the_folder_is_refused(server, tmp_path):
    work = tmp_path / ".voc2007-download"
    work.mkdir()
    with FileLock(work / "lock"), pytest.raises(StorageError, match="another download into this folder is running"):
        fetch(server, tmp_path, "good")


def test_a_target_that_is_no_folder_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        fetch(server, tmp_path / "file", "good")


def test_the_published_archives_are_complete():
    """Sizes of tar archives are multiples of 512; checksums are 64 hex digits; every archive has several mirrors."""
    for year in DATASETS.values():
        for archive in year.archives:
            assert archive.size % 512 == 0
            assert len(bytes.fromhex(archive.sha256)) == 32
            assert len(archive.urls) >= 3
            assert all(url.endswith(f"/{archive.name}") for url in archive.urls)
