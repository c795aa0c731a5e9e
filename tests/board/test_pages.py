"""What TensorBoard, which reads all the while, says of a sweep that was killed with its workers and went on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard_http import tensorboard

from focalbench.board.names import bounds
from focalbench.records.metrics import read_metrics
from focalbench.records.reader import read_trials

pytestmark = pytest.mark.slow
SWEEP = """
sweep:
  seeds: [0, 1]
  list:
    - {name: ce, loss: {name: ce}}
    - {name: balanced, loss: {name: balanced_ce, alpha: auto}}
    - {name: focal, loss: {name: focal, gamma: 2.0, alpha: null}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "sweep"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def clients(folder):
    """TensorBoard's two loaders, which have met every state of a sweep that was killed once and is finished now."""
    from conftest import TINY

    config = folder.parent / "tiny.yaml"
    config.write_text(TINY.replace("loss: {name: focal}\n", "") + SWEEP)
    command = [sys.executable, "-m", "focalbench", "run", str(config), "--out", str(folder)]
    with tensorboard(folder, load_fast="auto") as fast, tensorboard(folder, load_fast="false") as plain:
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while not list(folder.glob("*/result.json")):
            assert first.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        for client in (fast, plain):
            client.wait_for(lambda client: any("val/mAP" in tags for tags in client.tags().values()))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for client in (fast, plain):
            client.wait_for(is_read)
        yield {"fast": fast, "plain": plain}


def is_read(client):
    """Whether the last of all files are read: those that end the trials, and that of the verdict."""
    with contextlib.suppress(OSError):
        ended = client.sessions(("STATUS_SUCCESS",))
        return len(ended) == 6 and "6 of 6 trials done" in "".join(client.texts("verdict", "verdict"))
    return False


@pytest.fixture(params=["fast", "plain"])
def client(request, clients):
    return clients[request.param]


def logged(folder, arm, tag):
    """Step -> the values of the arm's seeds."""
    values = {}
    for trial in read_trials([folder]):
        if trial.arm == arm:
            for line in read_metrics(trial.folder):
                if line.get(tag) is not None:
                    values.setdefault(line["step"], []).append(line[tag])
    return values


def test_every_trial_is_one_row_without_an_empty_gamma_or_alpha(client, folder):
    rows = client.sessions()
    assert sorted(row["name"] for row in rows) == sorted(trial.folder.name for trial in read_trials([folder]))
    assert all(session["status"] == "STATUS_SUCCESS" for row in rows for session in row["sessions"])
    forms = {row["hparams"]["arm"]: (row["hparams"]["loss.gamma"], row["hparams"]["loss.alpha"]) for row in rows}
    assert len(rows) == 6
    assert forms["ce"] == (0, 0.5)
    assert forms["focal"] == (2, 0.5)
    assert forms["balanced"][0] == 0
    assert 0.5 < forms["balanced"][1] < 1  # what `auto` counted
    said = {row["hparams"]["arm"]: row["hparams"].get("loss.alpha.text") for row in rows}
    assert said == {"ce": None, "balanced": "auto", "focal": "none"}


def test_what_varies_is_ticked_and_map_is_the_metric(client):
    experiment = client.experiment()
    ticked = {info["name"] for info in experiment["hparamInfos"] if info["differs"]}
    assert ticked == {"loss.name", "loss.gamma", "loss.alpha", "seed", "optim.lr"}
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == ["val/mAP"]


def test_each_trial_shows_what_its_metrics_say(client, folder):
    for trial in read_trials([folder]):
        lines = read_metrics(trial.folder)
        for tag in client.tags()[trial.folder.name]:
            expected = {line["step"]: line[tag] for line in lines if line.get(tag) is not None}
            assert client.curve(trial.folder.name, tag) == pytest.approx(expected, rel=1e-6), (trial.folder.name, tag)


@pytest.mark.parametrize("arm", ["ce", "balanced", "focal"])
@pytest.mark.parametrize("tag", ["val/mAP", "train/cls", "AP/circle"])
def test_each_arm_shows_the_mean_of_its_seeds(client, folder, arm, tag):
    values = logged(folder, arm, tag)
    means = {step: np.mean(pair) for step, pair in values.items() if len(pair) == 2}
    assert client.curve(f"arms/{arm}", tag) == pytest.approx(means, rel=1e-5)
    low, high = (client.curve(f"arms/{arm}", name) for name in bounds(tag))
    assert all(low[step] <= mean <= high[step] + 1e-9 for step, mean in means.items())


def test_the_difference_is_that_to_the_baseline(client, folder):
    ce, focal = logged(folder, "ce", "val/mAP"), logged(folder, "focal", "val/mAP")
    expected = {step: np.mean(focal[step]) - np.mean(ce[step]) for step in ce}
    assert client.curve("arms/focal", "difference/val/mAP") == pytest.approx(expected, abs=1e-6)
    assert "difference/val/mAP" not in client.tags()["arms/ce"]


def test_sections_are_the_training_the_evaluation_and_the_speed(client):
    for run, tags in client.tags().items():
        sections = {tag.split("/")[0] for tag in tags}
        assert sections <= {"train", "val", "AP", "perf", "arm", "difference"}, run
    assert "perf/images_per_s" in client.tags()["arms/ce"]


def test_there_is_one_verdict_and_it_is_the_last(client, folder):
    (text,) = client.texts("verdict", "verdict")
    assert "<h1>sweep: verdict</h1>" in text
    assert "not enough seeds" in text
    assert f"focalbench run {folder.parent / 'tiny.yaml'} --out {folder}" in text.replace("<span>", "")


def test_there_is_one_chart_a_metric(client):
    groups = client.charts()
    assert len(groups) == 3
    first, classes, losses = groups.values()
    assert set(first) == {"mAP", "mAP minus ce's, paired by seed"}
    assert len(set(classes)) == len(classes) == len(logged_classes(client))
    assert set(losses) == {"loss", "cls", "box"}


def logged_classes(client):
    return [tag for tag in client.tags()["arms/ce"] if tag.startswith("AP/")]


def test_one_that_starts_later_reads_the_same(folder, clients):
    """The plain loader begins with the files that are empty by now."""
    with tensorboard(folder, load_fast="false") as late:
        late.wait_for(lambda client: "arms/ce" in client.tags() and is_read(client))
        assert late.curve("arms/ce", "val/mAP") == clients["fast"].curve("arms/ce", "val/mAP")


def test_one_file_an_arm_is_left(folder, clients):
    for run in [*Path(folder, "arms").iterdir(), folder / "verdict"]:
        assert len([path for path in run.iterdir() if path.stat().st_size]) == 1
