"""metrics.jsonl loses and doubles nothing; whole documents are old or new, never half."""

import json
import math
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from focalbench.errors import DataError, StorageError
from focalbench.records.metrics import METRICS_FILE, read_metrics, truncate_after
from focalbench.storage import read_arrays, read_json, remove_unfinished, to_json, write_json, write_output
from focalbench.tracking.metrics import MetricsTracker
from focalbench.tracking.tracker import TrackedTrial


def log_steps(folder: Path, steps: range, resume_step: int | None = None) -> None:
    tracker = MetricsTracker(TrackedTrial(folder, "t", "a", {}, {}, resume_step))
    for step in steps:
        tracker.scalars(step, {"train/loss": 1 / step})
    tracker.close()


def test_lines_come_back_in_order(tmp_path):
    log_steps(tmp_path / "made" / "when missing", range(1, 4))
    records = read_metrics(tmp_path / "made" / "when missing")
    assert records == [{"step": step, "train/loss": 1 / step} for step in (1, 2, 3)]


def test_a_line_is_readable_before_the_tracker_is_closed_or_flushed(tmp_path):
    tracker = MetricsTracker(TrackedTrial(tmp_path, "t", "a", {}, {}))
    tracker.scalars(5, {"val/mAP": 0.5})
    assert read_metrics(tmp_path) == [{"step": 5, "val/mAP": 0.5}]
    tracker.close()
    tracker.close()


def test_undefined_values_are_null_and_the_file_is_strict_json(tmp_path):
    tracker = MetricsTracker(TrackedTrial(tmp_path, "t", "a", {}, {}))
    tracker.scalars(1, {"AP/cat": math.nan, "train/loss": math.inf, "train/lr": np.float32(0.5)})
    tracker.close()

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=refuse)
    assert line == {"step": 1, "AP/cat": None, "train/loss": None, "train/lr": 0.5}


def test_a_fifo_in_a_strangers_folder_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / METRICS_FILE)
    with pytest.raises(DataError, match="not a regular file"):
        read_metrics(tmp_path)
    with pytest.raises(DataError, match="not a regular file"):
        read_json(tmp_path / METRICS_FILE)


def test_json_without_end_of_brackets_is_refused_in_words(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" * 100_000)
    with pytest.raises(DataError, match="not a JSON document"):
        read_json(tmp_path / "a.json")


def test_arrays_come_back_and_others_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(3), b=np.zeros(2))
    assert read_arrays(path, ["a"])["a"].tolist() == [0, 1, 2]
    with pytest.raises(KeyError):
        read_arrays(path, ["c"])
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes(20) + content[60:])
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        read_arrays(path, ["a", "b"])
    np.savez(path, a=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        read_arrays(path, ["a"])


def test_arrays_that_unfold_to_gigabytes_are_refused_before_they_do(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"x")
    content = path.read_bytes()
    place = content.index(b"PK\x01\x02") + 24  # the size in the archive's directory
    path.write_bytes(content[:place] + (2**31).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_arrays(path, ["a"])


def test_only_what_a_killed_writer_left_is_removed(tmp_path):
    for name in (".a.json.0123abcd", ".a.json", ".lock", "a.json", ".a.json.0123abcdef", ".hidden.folder"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert not (tmp_path / ".a.json.0123abcd").exists()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []
    truncate_after(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"step": 9, "tra', b'{"step": 9}', b'{"st\xff', b"\x00\x00\x00\n", b"7\n", b"{}\n"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    log_steps(tmp_path, range(1, 3))
    with (tmp_path / METRICS_FILE).open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_bytes(b'{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(DataError, match=rf"{METRICS_FILE}:2: not a JSON object with a step"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("torn", [b"", b'{"step": 7, "train/lo'])
def test_a_resumed_file_equals_one_never_stopped(tmp_path, torn):
    log_steps(tmp_path / "whole", range(1, 11))
    log_steps(tmp_path / "resumed", range(1, 7))  # died after step 6, the checkpoint is of step 4
    with (tmp_path / "resumed" / METRICS_FILE).open("ab") as file:
        file.write(torn)
    log_steps(tmp_path / "resumed", range(5, 11), resume_step=4)
    assert (tmp_path / "resumed" / METRICS_FILE).read_bytes() == (tmp_path / "whole" / METRICS_FILE).read_bytes()


def test_a_trial_that_starts_anew_keeps_no_line(tmp_path):
    log_steps(tmp_path, range(1, 7))
    log_steps(tmp_path, range(1, 3))
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_the_resumed_step_keeps_all_its_lines(tmp_path):
    tracker = MetricsTracker(TrackedTrial(tmp_path, "t", "a", {}, {}))
    tracker.scalars(4, {"train/loss": 1.0})
    tracker.scalars(4, {"val/mAP": 0.5})
    tracker.close()
    truncate_after(tmp_path, 4)
    assert read_metrics(tmp_path) == [{"step": 4, "train/loss": 1.0}, {"step": 4, "val/mAP": 0.5}]


def test_to_json_takes_what_results_hold():
    value = {"AP": {"cat": np.float64(math.nan)}, "sizes": (np.int64(3), 4), "path": Path("a/b"), 1: True, "none": None}
    assert to_json(value) == {"AP": {"cat": None}, "sizes": [3, 4], "path": "a/b", "1": True, "none": None}
    assert to_json(np.array([[1.0, math.nan]])) == [[1.0, None]]
    with pytest.raises(TypeError, match="set"):
        to_json({"a": {1}})


def test_write_json_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"val/mAP": math.nan})
    write_json(path, {"val/mAP": 0.5})
    assert read_json(path) == {"val/mAP": 0.5}
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_document(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_json(path, {"state": "running"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"status\.json: cannot write: No space left on device"):
        write_json(path, {"state": "done"})
    assert read_json(path) == {"state": "running"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"gone/status\.json"):
        write_json(tmp_path / "gone" / "status.json", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        MetricsTracker(TrackedTrial(tmp_path / "file" / "trial", "t", "a", {}, {}))


@pytest.mark.parametrize("content", [b"", b'{"state": ', b"\xff\xfe"])
def test_read_json_names_a_damaged_file(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError, match=r"result\.json: not a JSON document"):
        read_json(tmp_path / "result.json")


def test_read_json_names_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"result\.json: cannot read"):
        read_json(tmp_path / "result.json")


KILLED_WRITER = """
import sys
from pathlib import Path
from focalbench.tracking.metrics import MetricsTracker
from focalbench.tracking.tracker import TrackedTrial
from focalbench.storage import write_json
folder = Path(sys.argv[1])
tracker = MetricsTracker(TrackedTrial(folder, "t", "a", {}, {}))
print("ready", flush=True)
step = 0
while True:
    step += 1
    tracker.scalars(step, {"train/loss": 1.0 / step, "text": "x" * 300})
    write_json(folder / "status.json", {"state": "running", "step": step, "padding": "y" * 5000})
"""


def test_a_kill_while_writing_leaves_whole_files(tmp_path):
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while not (tmp_path / "status.json").exists() or read_json(tmp_path / "status.json")["step"] < 5 + attempt:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        steps = [record["step"] for record in read_metrics(tmp_path)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= read_json(tmp_path / "status.json")["step"]
        (tmp_path / "status.json").unlink()


def test_records_load_no_torch():
    code = "import sys, focalbench.storage, focalbench.records.metrics; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_output_goes_through_links_and_into_pipes(tmp_path: Path) -> None:
    target = tmp_path / "target.csv"
    target.write_text("old")
    (tmp_path / "link.csv").symlink_to(target)
    write_output(tmp_path / "link.csv", b"new")
    assert target.read_bytes() == b"new"
    assert (tmp_path / "link.csv").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write_output(tmp_path / "pipe", b"through")
    assert reader.communicate(timeout=30)[0] == b"through"
    assert (tmp_path / "pipe").is_fifo()
    write_output(tmp_path / "new.csv", b"made")
    assert (tmp_path / "new.csv").read_bytes() == b"made"
    with pytest.raises(StorageError, match=r"cannot write: .*name another place"):
        write_output(tmp_path / "nowhere" / "new.csv", b"")
