"""What was trained with plugins is read, shown and used without a line of their code, unless that is asked for."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focalbench.board.board import Board
from focalbench.config.load import load_config
from focalbench.errors import FocalbenchError
from focalbench.experiment import trial as trial_module
from focalbench.experiment.trial import run_trial
from focalbench.plugins import loading
from focalbench.records.metrics import read_metrics
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag
from focalbench.trained.export import Exported
from focalbench.trained.trial import load_trained

Call = Callable[..., Any]

PLUGIN = """\
from pathlib import Path

import torch.nn.functional as F

import focalbench as fb
from focalbench.models.retinanet import RetinaNet

Path(__file__).with_name("executed").touch()


@fb.loss("own")
def own(logits, targets, *, gamma: float = 2.0, alpha: float = 0.25, slope: float = 1.0):
    '''Cross entropy with weights that it can be told.'''
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return slope * (alpha * targets + (1 - alpha) * (1 - targets)) * ce ** (1 + gamma / 10)


@fb.detector("own_net")
class OwnNet(RetinaNet):
    def __init__(self, num_classes, *, width: int = 8, activation="sigmoid", pre_nms_top=1000):
        super().__init__(
            num_classes, "tiny", fpn_channels=width, head_convs=1, activation=activation, pre_nms_top=pre_nms_top
        )


@fb.tracker("lines")
class Lines(fb.tracking.Tracker):
    def __init__(self, trial, *, file: str = "lines.txt"):
        self.path = trial.folder / file

    def scalars(self, step, values):
        with self.path.open("a") as lines:
            lines.write(f"{step} {len(values)}\\n")
"""

CONFIG = """\
name: plugged
plugins: [plugin.py]
data: {name: synthetic, num_train: 8, num_val: 3, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, lr: 1e-3, steps: 4, batch_size: 4, warmup_steps: 2}
eval: {every: null, score_thresh: 0.0, max_detections: 20}
run: {log_every: 1, checkpoint_every: 100, trackers: [{name: lines, file: own.txt}]}
sweep:
  list:
    - {name: ce, loss: {name: ce}}
    - name: moved
      loss: {name: own, gamma: {schedule: linear, values: [0, 2]}, alpha: auto, match_scale: true, slope: 0.5}
    - {name: net, model: {name: own_net, width: 12}, loss: {name: ce}}
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of three arms; no test may change it."""
    base = tmp_path_factory.mktemp("trusted")
    patch = pytest.MonkeyPatch()
    patch.chdir(base)
    patch.setattr(trial_module, "picture_steps", lambda eval_steps: frozenset())
    (base / "plugin.py").write_text(PLUGIN)
    (base / "c.yaml").write_text(CONFIG)
    experiment = load_config(base / "c.yaml")
    out = SweepFolder(base / "runs" / "plugged")
    out.open(experiment.config.name, experiment.trials, alone=True)
    quiet = {"progress": lambda step, steps, values: None, "warn": lambda message: None}
    for trial in experiment.trials:
        run_trial(trial, out.trial(trial.name).path, device="cpu", stop=StopFlag(), **quiet)
    (base / "executed").unlink()
    patch.undo()
    return out.path


@pytest.fixture
def marks(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """The marks of every execution since the test began, in a process that has not executed the plugin yet."""
    monkeypatch.setattr(loading, "_LOADED", {})

    def found() -> list[Path]:
        paths = list(sweep.parents[1].rglob("executed"))
        for path in paths:
            path.unlink()
        return paths

    yield found
    found()


def arm(sweep: Path, name: str) -> Path:
    (folder,) = sweep.glob(f"{name}-s0-*")
    return folder


def columns(sweep: Path) -> Mapping[str, Any]:
    """The columns of the HPARAMS page, from the event file that declares them."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.plugins.hparams import metadata

    for path in sorted((sweep / "verdict").glob("events.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == metadata.EXPERIMENT_TAG:
                    parsed = metadata.parse_experiment_plugin_data(value.metadata.plugin_data.content)
                    return {info.name: info for info in parsed.hparam_infos}
    raise AssertionError("no columns")


def row(folder: Path) -> Mapping[str, Any]:
    """A trial's row of the HPARAMS page."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.plugins.hparams import metadata

    for path in sorted(folder.glob("events.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    parsed = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                    return {name: found.WhichOneof("kind") for name, found in parsed.hparams.items()}
    raise AssertionError("no row")


def test_schedule_auto_alpha_and_matched_scale_work_as_for_built_in_losses(sweep: Path) -> None:
    lines = [line for line in read_metrics(arm(sweep, "moved")) if "train/loss" in line]
    assert [line["train/gamma"] for line in lines] == pytest.approx([0, 0.5, 1, 1.5])
    alphas = {line["train/alpha"] for line in lines}
    assert len(alphas) == 1
    assert 0.99 < alphas.pop() < 1
    result = TrialFolder(arm(sweep, "moved")).result()
    assert result.loss_weight not in (None, 1.0)
    assert result.initial_loss["observed"] == pytest.approx(result.initial_loss["expected"], rel=0.2)


def test_own_trackers_are_told_what_metrics_holds(sweep: Path) -> None:
    for name in ("ce", "moved", "net"):
        told = (arm(sweep, name) / "own.txt").read_text().splitlines()
        assert {int(line.split()[0]) for line in told} == {0, 1, 2, 3, 4}


def test_own_keys_have_columns_on_the_hparams_page(sweep: Path, marks: Call) -> None:
    Board(sweep).update(wait_s=5)
    declared = columns(sweep)
    own = {"loss.slope", "loss.gamma.schedule", "loss.alpha.text", "model.width", "loss.source", "loss.activation"}
    assert own <= declared.keys()
    names = {value.string_value for value in declared["loss.name"].domain_discrete.values}
    assert {"own", "ce", "focal"} <= names
    assert row(arm(sweep, "moved"))["loss.slope"] == "number_value"
    assert row(arm(sweep, "net"))["model.width"] == "number_value"
    assert "loss.slope" not in row(arm(sweep, "ce"))
    assert marks() == []


READERS = ("ls", "status", "compare", "report", "evaluate", "predict", "export")


def commands(sweep: Path, tmp_path: Path, loss: Path) -> dict[str, list[object]]:
    """What reads a sweep or the trial ``loss``."""
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "one.png")
    return {
        "ls": ["ls", sweep.parent],
        "status": ["status", sweep],
        "compare": ["compare", sweep],
        "report": ["report", sweep, "--out", tmp_path / "report.html"],
        "evaluate": ["evaluate", loss, "--device", "cpu"],
        "predict": ["predict", loss, tmp_path / "one.png", "--out", tmp_path / "drawn", "--device", "cpu"],
        "export": ["export", loss, "--out", tmp_path / "net.onnx"],
    }


@pytest.mark.parametrize("command", READERS)
def test_no_command_that_reads_executes_a_plugin(
    focalbench: Call, sweep: Path, marks: Call, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("focalbench.trained.export.export_onnx", lambda trained, out: Exported(1, None, None))
    done = focalbench(*commands(sweep, tmp_path, arm(sweep, "moved"))[command])
    assert done.code == 0, done.err
    assert marks() == []


def test_the_loss_itself_is_only_asked_with_its_source(
    focalbench: Call, sweep: Path, marks: Call, tmp_path: Path
) -> None:
    trial = arm(sweep, "moved")
    refused = focalbench("analyze", trial, "--device", "cpu")
    assert refused.code == 2
    assert f"pass --plugin {trial / 'plugins' / 'plugin.py'}, once you know what is in it" in refused.err
    other = tmp_path / "other.py"
    other.write_text("raise SystemExit('executed')\n")
    wrong = focalbench("analyze", trial, "--device", "cpu", "--plugin", other)
    assert wrong.code == 2
    assert f"--plugin {other}: is not a source that the trial was trained with" in wrong.err
    assert marks() == []
    copy = tmp_path / "copy"
    shutil.copytree(trial, copy)
    done = focalbench("analyze", copy, "--device", "cpu", "--plugin", copy / "plugins" / "plugin.py")
    assert done.code == 0, done.err
    marks()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_network_of_ones_own_is_only_built_with_its_source(
    focalbench: Call, sweep: Path, marks: Call, tmp_path: Path, command: str
) -> None:
    trial = arm(sweep, "net")
    asked = commands(sweep, tmp_path, trial)[command]
    refused = focalbench(*asked)
    assert refused.code == 2
    assert "its network is a plugin's, whose code is not executed unasked: pass --plugin" in refused.err
    assert marks() == []
    done = focalbench(*asked, "--plugin", trial / "plugins" / "plugin.py")
    assert done.code == 0, done.err
    assert marks() == [trial / "plugins" / "executed"]


def test_a_trial_whose_kept_source_is_gone_is_still_used(
    focalbench: Call, sweep: Path, marks: Call, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(arm(sweep, "moved"), copy)
    shutil.rmtree(copy / "plugins")
    assert focalbench("evaluate", copy, "--device", "cpu").code == 0
    assert "pass --plugin FILE" in focalbench("analyze", copy, "--device", "cpu").err
    assert marks() == []


def test_a_strangers_folder_runs_no_code(focalbench: Call, sweep: Path, marks: Call, tmp_path: Path) -> None:
    """Whatever it says of itself: plugins that lie in it, beside it, in the current folder, or as a module."""
    strange = tmp_path / "runs" / "strange"
    shutil.copytree(sweep, strange)
    hostile = "from pathlib import Path\nPath({!r}).touch()\n".format(str(sweep.parents[1] / "executed"))
    for trial in strange.glob("*-s0-*"):
        for place in (trial / "plugins", trial, strange, Path.cwd()):
            (place / "plugin.py").write_text(hostile)
            (place / "sitecustomize.py").write_text(hostile)
        config = (trial / "config.yaml").read_text()
        assert "plugins: [plugin.py]" in config
        entries = ["plugin.py", str(trial / "plugins" / "plugin.py"), "plugin", "sitecustomize"]
        (trial / "config.yaml").write_text(config.replace("[plugin.py]", json.dumps(entries)))
    listed = json.loads((strange / "sweep.json").read_text())
    listed["plugin_schema"]["properties"]["loss"] = {"$ref": "#/$defs/there_is_none"}
    (strange / "sweep.json").write_text(json.dumps(listed))
    asked = commands(strange, tmp_path, arm(strange, "moved"))
    for command in ("ls", "status", "compare", "evaluate", "predict"):
        done = focalbench(*asked[command])
        assert done.code == 0, (command, done.err)
    for name in ("moved", "net"):
        assert focalbench("analyze", arm(strange, name), "--device", "cpu").code == 2
    with pytest.raises(FocalbenchError):
        Board(strange).update(wait_s=5)
    assert load_trained(arm(strange, "moved"), device="cpu").own_criterion is None
    assert marks() == []
