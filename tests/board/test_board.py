"""The board's files: written anew from the trials' own, whole or not at all, and never at a trial's expense."""

import math
import os
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2

from focalbench.board.board import Board, kept_up_to_date
from focalbench.board.names import bounds
from focalbench.records.reader import read_trials
from focalbench.records.sweep import SweepFolder
from focalbench.tracking.event_file import PATTERN

LOG = [
    {"step": 10, "train/loss": 2.0},
    {"step": 20, "train/loss": 1.0, "val/mAP": 0.25, "AP/cat": 0.5, "AP/dog": None},
]


def log(scale):
    """``LOG`` with all values but the steps times ``scale``."""
    return [{k: v if v is None or k == "step" else v * scale for k, v in line.items()} for line in LOG]


def append(trial, line):
    with (trial / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")


@pytest.fixture
def sweep(write_trial, tmp_path):
    """Two arms of two seeds, finished."""
    for arm, scale in (("ce", 1.0), ("focal", 1.5)):
        for seed in (0, 1):
            write_trial(f"r/{arm}-s{seed}-0000000{seed}", arm=arm, seed=seed, log=log(scale + 0.1 * seed))
    return tmp_path / "r"


def events(folder):
    """Of the one file that is not empty: what a file has replaced stays, empty, for those that read it."""
    (path,) = (path for path in folder.glob(PATTERN) if path.stat().st_size)
    return list(EventFileLoader(str(path)).Load())


def curves(folder):
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0] if value.tensor.float_val else None
    return found


def layout(folder):
    for event in events(folder / "verdict"):
        for value in event.summary.value:
            if value.tag == "custom_scalars__config__":
                return layout_pb2.Layout.FromString(value.tensor.string_val[0])
    raise AssertionError("no layout")


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_arm_has_its_mean_and_its_interval(sweep):
    Board(sweep).update()
    found = curves(sweep / "arms" / "ce")
    assert found["val/mAP"] == {20: pytest.approx(0.25 * 1.05)}
    assert found["train/loss"] == {10: pytest.approx(2.1), 20: pytest.approx(1.05)}
    low, high = bounds("val/mAP")
    assert found[low][20] < found["val/mAP"][20] < found[high][20]
    assert "difference/val/mAP" not in found
    assert curves(sweep / "arms" / "focal")["difference/val/mAP"] == {20: pytest.approx(0.125)}
    assert "AP/dog" not in found


def test_a_second_run_of_the_same_arms_leaves_the_differences_of_the_first(sweep, write_trial):
    longer = {"settings": {"optim": {"epochs": 9, "batch_size": 4}}, "status": {"state": "running"}}
    for arm in ("ce", "focal"):
        write_trial(f"r/{arm}-s0-0000000{arm[0]}", arm=arm, log=log(9.0), **longer)
    Board(sweep, []).update()
    names = {path.name for path in (sweep / "arms").iterdir()}
    assert names == {f"{arm} (optim.epochs={epochs})" for arm in ("ce", "focal") for epochs in (2, 9)}
    found = curves(sweep / "arms" / "focal (optim.epochs=2)")
    assert found["difference/val/mAP"] == {20: pytest.approx(0.125)}
    assert curves(sweep / "arms" / "ce (optim.epochs=9)")["val/mAP"] == {20: pytest.approx(2.25)}


def test_the_charts_are_map_classes_and_losses(sweep):
    Board(sweep).update()
    charts = {group.title: [chart.title for chart in group.chart] for group in layout(sweep).category}
    assert list(map(sorted, charts.values())) == [["mAP", "mAP minus ce's, paired by seed"], ["cat"], ["loss"]]
    series = [line for group in layout(sweep).category for chart in group.chart for line in chart.margin.series]
    assert all((line.lower, line.upper) == bounds(line.value) for line in series)


def test_nothing_is_written_where_nothing_has_changed(sweep):
    board = Board(sweep)
    board.update()
    before = files(sweep)
    board.update()
    assert files(sweep) == before


def test_what_has_changed_is_in_one_new_file_and_the_rest_stays(sweep):
    board = Board(sweep)
    board.update()
    before = files(sweep / "arms")
    append(sweep / "ce-s0-00000000", '{"step": 30, "train/loss": 0.5}')
    append(sweep / "ce-s1-00000001", '{"step": 30, "train/loss": 0.7}')
    board.update()
    assert curves(sweep / "arms" / "ce")["train/loss"][30] == pytest.approx(0.6)
    after = files(sweep / "arms")
    assert {path: content for path, content in after.items() if path.parent.name == "focal"} == {
        path: content for path, content in before.items() if path.parent.name == "focal"
    }
    assert [content for path, content in after.items() if path.parent.name == "ce" and path in before] == [b""]


def test_an_arm_that_is_no_more_has_no_run(sweep):
    board = Board(sweep)
    board.update()
    for path in list(sweep.glob("focal-*")):
        path.rename(sweep.parent / path.name)
    board.update()
    assert not any(files(sweep / "arms" / "focal").values())  # a TensorBoard may be reading them
    for path in (sweep / "arms" / "focal").iterdir():
        os.utime(path, (0, 0))
    append(sweep / "ce-s0-00000000", '{"step": 30, "train/loss": 0.5}')
    board.update()
    assert [path.name for path in (sweep / "arms").iterdir()] == ["ce"]


def test_the_trials_are_left_alone(sweep):
    before = files(sweep)
    Board(sweep).update()
    assert {path: content for path, content in files(sweep).items() if path in before} == before
    assert len(read_trials([sweep])) == 4  # and are still all that there is


def test_what_a_kill_left_is_written_over(sweep):
    (sweep / "arms" / "ce").mkdir(parents=True)
    (sweep / "arms" / "ce" / ".unfinished").write_bytes(b"half")
    (sweep / "arms" / "ce" / "events.out.tfevents.1.host.1").write_bytes(b"older, and torn")
    Board(sweep).update()
    assert not (sweep / "arms" / "ce" / ".unfinished").exists()
    assert "val/mAP" in curves(sweep / "arms" / "ce")


def test_empty_files_go_when_nobody_can_be_reading_them(sweep):
    Board(sweep).update()
    old = sweep / "arms" / "ce" / "events.out.tfevents.1.host.1"
    recent = sweep / "arms" / "ce" / "events.out.tfevents.2.host.1"
    for path in (old, recent):
        path.touch()
    os.utime(old, (0, 0))
    Board(sweep).update()
    assert not old.exists()
    assert recent.exists()


def test_undefined_and_infinite_values_are_not_drawn(write_trial, tmp_path):
    lines = [{"step": 1, "val/mAP": None, "train/loss": math.inf}, {"step": 2, "val/mAP": 0.5, "train/loss": math.nan}]
    write_trial("r/ce-s0", arm="ce", log=lines)
    Board(tmp_path / "r").update()
    assert curves(tmp_path / "r" / "arms" / "ce") == {tag: {2: 0.5} for tag in ("val/mAP", *bounds("val/mAP"))}


@pytest.mark.parametrize("name", ["a/b", "c++ (old)", "[x].*", "猫", "Ärmel", ""])
def test_class_names_of_any_form(write_trial, tmp_path, name):
    write_trial("r/ce-s0", arm="ce", log=[{"step": 1, f"AP/{name}": 0.5}])
    Board(tmp_path / "r").update()
    assert curves(tmp_path / "r" / "arms" / "ce")[f"AP/{name}"] == {1: 0.5}
    assert [chart.title for group in layout(tmp_path / "r").category for chart in group.chart] == [name]


def test_two_hundred_classes_and_trials_take_seconds(write_trial, tmp_path):
    for number in range(200):
        values = {f"AP/class {place}": place / 200 for place in range(200)}
        arm, seed = divmod(number, 10)
        write_trial(f"r/arm{arm}-s{seed}-{number:08d}", arm=f"arm{arm}", seed=seed, log=[{"step": 1} | values])
    Board(tmp_path / "r").update()
    assert len(list((tmp_path / "r" / "arms").iterdir())) == 20
    assert sum(len(group.chart) for group in layout(tmp_path / "r").category) == 200


def test_while_another_process_writes_it_nobody_waits(sweep):
    board = Board(sweep)
    with FileLock(sweep / ".board.lock"):
        began = time.monotonic()
        board.update()
        assert time.monotonic() - began < 5
        assert not (sweep / "arms").exists()
    board.update()
    assert (sweep / "arms" / "ce").is_dir()


def test_two_processes_on_one_sweep_leave_one_whole_file_each(sweep):
    with kept_up_to_date(Board(sweep), pytest.fail), kept_up_to_date(Board(sweep), pytest.fail):
        append(sweep / "ce-s0-00000000", '{"step": 30, "train/loss": 0.5}')
        append(sweep / "ce-s1-00000001", '{"step": 30, "train/loss": 0.7}')
    assert curves(sweep / "arms" / "ce")["train/loss"][30] == pytest.approx(0.6)


def test_what_goes_wrong_is_said_once_and_nothing_fails(sweep):
    (sweep / "arms").write_text("in the way")
    said = []
    board = Board(sweep)
    with kept_up_to_date(board, said.append):
        time.sleep(0.1)
    assert len(said) == 1
    assert said[0].startswith("warning: TensorBoard's pages of the arms are not up to date: ")
    assert str(sweep / "arms") in said[0]


def test_a_folder_that_vanishes_is_no_fault_of_a_trial(tmp_path):
    said = []
    with kept_up_to_date(Board(tmp_path / "gone"), said.append):
        pass
    assert len(said) == 1


def test_a_search_that_has_proposed_nothing_yet_is_no_fault(tmp_path, write_trial):
    SweepFolder(tmp_path / "r").open("r", ())
    with kept_up_to_date(Board(tmp_path / "r"), pytest.fail):
        pass
    board = Board(tmp_path / "r")
    board.update()
    assert not (tmp_path / "r" / "verdict").exists()
    write_trial("r/ce-s0-00000000", log=LOG)
    board.update()
    assert (tmp_path / "r" / "verdict").exists()


def test_it_is_up_to_date_at_the_end_of_the_block(sweep, write_trial):
    with kept_up_to_date(Board(sweep), pytest.fail):
        write_trial("r/late-s0-00000009", arm="late", log=log(1.0))
    assert "val/mAP" in curves(sweep / "arms" / "late")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from focalbench.board.board import Board, kept_up_to_date
import focalbench.tracking.summaries
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # beyond the limit a write fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
with kept_up_to_date(Board(Path(sys.argv[1])), print):
    print("training")
"""


def test_on_a_full_disk_the_older_pages_stay(sweep):
    Board(sweep).update()
    before = files(sweep / "arms") | files(sweep / "verdict")
    append(sweep / "ce-s0-00000000", '{"step": 30, "val/mAP": 0.5}')
    command = [sys.executable, "-c", FULL_DISK, str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert sorted(line.split(":")[0] for line in done.stdout.splitlines()) == ["training", "warning"]
    assert "Traceback" not in done.stderr
    assert before.items() <= (files(sweep / "arms") | files(sweep / "verdict")).items()


def test_a_launcher_need_not_load_torch():
    modules = "focalbench.board.board, focalbench.tracking.summaries"
    code = f"import sys, {modules}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
