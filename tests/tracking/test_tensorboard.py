"""What TensorBoard itself answers about trials: each once, with mAP and status, after failures, retries and kills."""

import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image
from tensorboard_http import tensorboard

from focalbench.errors import StorageError
from focalbench.records.metrics import read_metrics
from focalbench.tracking.hparams import Column
from focalbench.tracking.tensorboard import TensorBoardTracker, precision_recall_rows
from focalbench.tracking.tracker import MatchedScores, TrackedTrial
from focalbench.tracking.trackers import open_trackers

COLUMNS = {
    "trial": Column("string"),
    "arm": Column("string"),
    "seed": Column("number", minimum=0, maximum=9),
    "loss.name": Column("string", values=("ce", "focal")),
    "loss.gamma": Column("number", minimum=0),
    "loss.alpha": Column("number", minimum=0, maximum=1),
    "loss.alpha.text": Column("string"),
    "data.augment.crop": Column("bool"),
}
CURVES = {
    "cat": MatchedScores(np.array([0.9, 0.8, 0.3]), np.array([True, False, True]), num_objects=4),
    "dog": MatchedScores(np.zeros(0), np.zeros(0, dtype=bool), num_objects=0),
}


def open_trial(folder, *, resume_step=None, **hparams):
    arm = folder.name.rsplit("-s", 1)[0]
    hparams = {"seed": 0, "data.augment.crop": True, **hparams}
    return open_trackers(TrackedTrial(folder, folder.name, arm, hparams, COLUMNS, resume_step))


def log(tracker, steps, mean):
    for step in steps:
        tracker.scalars(step, {"train/loss": 1 / step, "train/cls": 0.5 / step, "train/box": 0.5 / step})
    tracker.scalars(steps[-1], {"val/mAP": mean, "val/mAP_best": mean, "AP/cat": mean, "AP/dog": float("nan")})
    tracker.pr_curves(steps[-1], CURVES)
    tracker.images(steps[-1], "val/0", np.full((8, 8, 3), 200, dtype=np.uint8))


DYING = """
import os, sys
from pathlib import Path
from focalbench.tracking.hparams import Column
from focalbench.tracking.tracker import TrackedTrial
from focalbench.tracking.trackers import open_trackers
trial = TrackedTrial(Path(sys.argv[1]), "t", "a", hparams={"seed": 0}, columns=eval(sys.argv[2]))
tracker = open_trackers(trial)
for step in range(1, 8):
    tracker.scalars(step, {"train/loss": 100.0 + step})
tracker.flush()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """Two sweeps: a finished trial, one killed at step 7 and resumed from 4, one failed, one failed and retried, one
    still running under a name that the other sweep has too."""
    root = tmp_path_factory.mktemp("runs")
    done = open_trial(root / "gamma" / "focal-s0-aa", **{"loss.name": "focal", "loss.gamma": 2.0, "loss.alpha": 0.25})
    log(done, range(1, 11), 0.75)
    done.finish("done")
    done.close()

    killed = root / "gamma" / "ce-s0-bb"
    process = subprocess.run([sys.executable, "-c", DYING, str(killed), repr(COLUMNS)], check=False)
    assert process.returncode == -signal.SIGKILL
    for path in killed.glob("events*"):  # the kill tore the last record
        path.write_bytes(path.read_bytes()[:-3])
    resumed = open_trial(killed, resume_step=4, **{"loss.name": "ce", "loss.alpha.text": "auto"})
    log(resumed, range(5, 11), 0.5)
    resumed.finish("done")
    resumed.close()

    failed = open_trial(root / "gamma" / "focal-s1-cc", **{"loss.name": "focal", "seed": 1})
    log(failed, range(1, 3), 0.25)
    failed.finish("failed")
    failed.close()

    retried = root / "other" / "retried-s0-dd"
    for status, resume_step in (("failed", None), ("done", 3)):
        tracker = open_trial(retried, resume_step=resume_step)
        log(tracker, range(1 if resume_step is None else 4, 6), 0.6)
        tracker.finish(status)
        tracker.close()

    running = open_trial(root / "other" / "focal-s0-aa")
    log(running, range(1, 3), 0.1)
    running.flush()
    yield root
    running.close()


@pytest.fixture(scope="module", params=["auto", "false"])
def client(request, logdir):
    """A TensorBoard that has read all five runs, once with its fast loader and once with the plain one."""
    with tensorboard(logdir, load_fast=request.param) as client:
        client.wait_for(
            lambda client: sum(row["sessions"][0]["status"] != "STATUS_UNKNOWN" for row in client.sessions()) == 4
        )
        yield client


def test_each_trial_is_one_row_with_map_and_status(client):
    groups = client.sessions()
    seen = {}
    for group in groups:
        (session,) = group["sessions"]
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert session["name"] not in seen
        seen[session["name"]] = (round(values["val/mAP"], 4), session["status"])
    assert seen == {
        "gamma/focal-s0-aa": (0.75, "STATUS_SUCCESS"),
        "gamma/ce-s0-bb": (0.5, "STATUS_SUCCESS"),
        "gamma/focal-s1-cc": (0.25, "STATUS_FAILURE"),
        "other/retried-s0-dd": (0.6, "STATUS_SUCCESS"),
        "other/focal-s0-aa": (0.1, "STATUS_UNKNOWN"),
    }
    assert len(groups) == 5


def test_failed_trials_can_be_filtered(client):
    assert [group["name"] for group in client.sessions(["STATUS_FAILURE"])] == ["gamma/focal-s1-cc"]


def test_hyperparameters_arrive_in_their_columns(client):
    rows = {group["name"]: group["hparams"] for group in client.sessions()}
    assert rows["gamma/focal-s0-aa"]["loss.gamma"] == 2.0
    assert rows["gamma/focal-s0-aa"]["arm"] == "focal"
    assert rows["gamma/ce-s0-bb"]["seed"] == 0


def test_filters_on_every_column_do_not_break_the_page(client):
    """The page sends a filter for each column; one value of another kind would fail the whole request."""
    everything = {"minValue": "-Infinity", "maxValue": "Infinity"}
    filters = {"number": {"filterInterval": everything}, "string": {"filterRegexp": ""}, "bool": {}}
    columns = [{"hparam": name, **filters[column.kind]} for name, column in COLUMNS.items()]
    body = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": columns, "startIndex": 0, "sliceSize": 9}
    assert client.post("plugin/hparams/session_groups", body)["totalSize"] == 3


def test_a_resumed_trial_has_each_step_once(client):
    run = "gamma/ce-s0-bb"
    points = client.get("plugin/scalars/scalars", run=run, tag="train/loss")
    steps = [step for _, step, _ in points]
    assert steps == list(range(1, 11))
    assert [value for _, _, value in points][:4] == [101.0, 102.0, 103.0, 104.0]
    assert points[4][2] == pytest.approx(1 / 5)


def test_scalars_images_curves_and_layout_are_there(client):
    run = "gamma/focal-s0-aa"
    tags = set(client.get("plugin/scalars/tags")[run])
    assert {"train/loss", "train/cls", "train/box", "val/mAP", "val/mAP_best", "AP/cat"} <= tags
    assert "AP/dog" not in tags  # undefined
    assert set(client.get("plugin/images/tags")[run]) == {"val/0"}
    (picture,) = client.get("plugin/images/images", run=run, tag="val/0", sample=0)
    with urllib.request.urlopen(f"{client.base}plugin/images/individualImage?{picture['query']}") as response:
        assert response.headers["Content-Type"] == "image/jpeg"
        assert abs(np.asarray(Image.open(response)).astype(int) - 200).max() <= 2
    assert set(client.get("plugin/pr_curves/tags")[run]) == {"PR/cat"}


def test_the_curve_on_the_page_counts_objects_never_found(client):
    (curve,) = client.get("plugin/pr_curves/pr_curves", run="gamma/focal-s0-aa", tag="PR/cat")["gamma/focal-s0-aa"]
    assert max(curve["recall"]) == 0.5
    assert curve["precision"][0] == pytest.approx(2 / 3)


def test_no_second_folder_is_made(logdir):
    assert {path.name for path in logdir.iterdir()} == {"gamma", "other"}
    assert all(path.is_file() for trial in logdir.glob("*/*") for path in trial.iterdir())


def test_both_records_are_cut_at_the_same_step(logdir):
    records = read_metrics(logdir / "gamma" / "ce-s0-bb")
    assert [record["step"] for record in records] == [*range(1, 11), 10]


def test_curve_rows_by_hand():
    true, false, negatives, missed, precision, recall = precision_recall_rows(CURVES["cat"])
    assert len(true) == 127
    assert {(t, f) for t, f in zip(true, false, strict=True)} == {(1, 0), (2, 1)}  # the miss alone adds no recall
    assert (true[0], false[0], precision[0], recall[0]) == (2, 1, pytest.approx(2 / 3), 0.5)  # all detections
    assert (true[-1], false[-1], precision[-1], recall[-1]) == (1, 0, 1, 0.25)  # the highest score alone
    assert (missed == 4 - true).all()
    assert not negatives.any()


def test_a_curve_begins_at_recall_0_however_close_the_scores_are():
    """Even thresholds would merge all scores above 125 / 126: the better the detector, the less there was to see."""
    rng = np.random.default_rng(0)
    is_hit = rng.random(2000) < np.linspace(1, 0.2, 2000)
    curve = MatchedScores(1 - np.linspace(0, 1e-4, 2000), is_hit, num_objects=1500)
    true, false, _, _, precision, recall = precision_recall_rows(curve)
    assert recall[-1] <= 1 / 1500
    assert np.diff(recall).max() <= 0
    assert -np.diff(recall).min() <= 1.5 * recall[0] / 125
    assert recall[0] == is_hit.sum() / 1500
    assert (true + false)[0] == 2000
    kept = (true + false).astype(int)
    np.testing.assert_allclose(precision, np.cumsum(is_hit)[kept - 1] / kept)


def test_detections_of_one_score_are_one_point():
    curve = MatchedScores(np.full(6, 0.5), np.array([True, False, True, False, False, True]), num_objects=3)
    true, false, *_ = precision_recall_rows(curve)
    assert set(true) == {3}
    assert set(false) == {3}


def test_a_class_that_nothing_was_found_of_has_a_curve_of_nothing():
    nothing = MatchedScores(np.zeros(0), np.zeros(0, dtype=bool), num_objects=2)
    true, false, _, missed, precision, recall = precision_recall_rows(nothing)
    assert not np.stack([true, false, precision, recall]).any()
    assert (missed == 2).all()


def test_a_new_start_removes_what_an_earlier_one_wrote(tmp_path):
    for _ in range(2):
        tracker = open_trial(tmp_path / "a-s0-ff")
        log(tracker, range(1, 3), 0.5)
        tracker.finish("done")
        tracker.close()
    left = [path for path in (tmp_path / "a-s0-ff").glob("events.out.tfevents.*") if path.stat().st_size]
    assert len(left) == 2  # the run and its end; what TensorBoard may be reading is emptied and stays


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/trial: cannot write"):
        TensorBoardTracker(TrackedTrial(tmp_path / "file" / "trial", "t", "a", {}, {}))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from focalbench.errors import StorageError
from focalbench.tracking.tensorboard import TensorBoardTracker
from focalbench.tracking.tracker import TrackedTrial
tracker = TensorBoardTracker(TrackedTrial(Path(sys.argv[1]), "t", "a", {}, {}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # beyond the limit a write fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    for step in range(100):
        tracker.images(step, "val/0", np.random.default_rng(step).integers(0, 255, (64, 64, 3), dtype=np.uint8))
except StorageError as fault:
    print(fault)
"""


def test_a_full_disk_is_one_error_and_no_traceback(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "trial")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout.startswith(f"{tmp_path / 'trial'}: cannot write: File too large; free some space")
    assert process.stderr == ""


def test_the_import_warns_of_nothing_and_needs_no_tensorflow():
    code = "import sys, focalbench.tracking.tensorboard; raise SystemExit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
