"""What several tests share: a private cache folder, the command line in the process of the tests, a configuration small
enough to train in a second, and run folders as trials leave them, written in a moment.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from focalbench.cli import main


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: what is left at the end is small, and no process waits long for another."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or writes the user's cache; all share one, as the trials of a sweep do."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("FOCALBENCH_CACHE", str(folder))
    patch.delenv("FOCALBENCH_DATA", raising=False)
    return folder


@pytest.fixture(autouse=True, scope="session")
def checkout_for_subprocesses() -> None:
    """Python in any folder finds this checkout first, installed or not, then whatever PYTHONPATH names here."""
    named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    folders = [str(Path(__file__).parents[1]), *map(os.path.abspath, named)]
    pytest.MonkeyPatch().setenv("PYTHONPATH", os.pathsep.join(folders))


@pytest.fixture(scope="session")
def extra_search() -> None:
    """For tests that need the extra ``search``, which are skipped where it is not installed."""
    pytest.importorskip("optuna", reason="the extra search is not installed")


@pytest.fixture(scope="session")
def extra_onnx() -> None:
    """For tests that need the extra ``onnx``, which are skipped where it is not installed."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra onnx is not installed")


@pytest.fixture(scope="session")
def extra_pandas() -> None:
    """For tests that need the extra ``pandas``, which are skipped where it is not installed."""
    pytest.importorskip("pandas", reason="the extra pandas is not installed")


@pytest.fixture(scope="session")
def extra_timm() -> None:
    """For tests that need the extra ``timm``, which are skipped where it is not installed."""
    pytest.importorskip("timm", reason="the extra timm is not installed")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def focalbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """``focalbench ARGUMENTS`` in an empty folder and in this process: one import of torch for all tests."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["focalbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return Done(int(end.value.code or 0), streams.out, streams.err)

    return call


TINY = """\
name: tiny
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
loss: {name: focal}
optim: {name: adamw, lr: 1e-3, steps: 6, batch_size: 4, warmup_steps: 2}
eval: {every: 1, score_thresh: 0.0, max_detections: 20}
run: {log_every: 2, checkpoint_every: 0.001}
"""


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``TINY`` and further lines to a file and returns its path."""

    def write(*lines: str, text: str = TINY) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(text + "".join(f"{line}\n" for line in lines))
        return path

    return write


@dataclass(frozen=True)
class Trained:
    """A finished trial; ``folder`` belongs to all tests and must not be changed."""

    folder: Path
    data_root: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """``TINY`` on a set in VOC's layout (splits 2007/train and 2007/val), trained once."""
    from focalbench.config.load import load_config
    from focalbench.data.synthetic import synthesize
    from focalbench.experiment.trial import run_trial
    from focalbench.runtime import StopFlag

    base = tmp_path_factory.mktemp("trained")
    root = synthesize(base / "data", num_train=12, num_val=6, image_size=64)
    data = f"data: {{name: voc, root: {json.dumps(str(root))}, train: [2007/train], val: [2007/val], image_size: 64}}"
    config = base / "tiny.yaml"
    config.write_text("\n".join(data if line.startswith("data:") else line for line in TINY.splitlines()))
    (trial,) = load_config(config).trials
    folder = base / "runs" / "tiny" / trial.name
    quiet = {"progress": lambda step, steps, values: None, "warn": lambda message: None}
    run_trial(trial, folder, device="cpu", stop=StopFlag(), **quiet)
    return Trained(folder, root)


WriteTrial = Callable[..., Path]


@pytest.fixture
def write_trial(tmp_path: Path) -> WriteTrial:
    """Writes one finished trial; keywords change what is in it.

    ``loss`` is the loss section; ``settings`` are further sections of config.yaml; ``result`` and ``status`` replace
    entries of the documents; ``log`` are lines of metrics.jsonl.
    """

    def write(
        folder: str,
        *,
        arm: str = "ce",
        seed: int = 0,
        value: float | None = 0.5,
        loss: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        status: dict[str, Any] | None = None,
        log: list[dict[str, Any]] | None = None,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        config = {
            "name": "test",
            "seed": seed,
            "data": {"name": "voc", "root": "/somewhere", "cache": "auto"},
            "model": {"name": "retinanet"},
            "loss": loss or {"name": "ce" if arm == "ce" else "focal", "weight": 1.0},
            "optim": {"epochs": 2, "batch_size": 4},
            "eval": {"protocol": "voc07", "score_thresh": 0.05, "nms_thresh": 0.5},
            "run": {"devices": 1},
        }
        (path / "config.yaml").write_text(yaml.safe_dump(config | (settings or {})))
        document = {
            "trial": path.name,
            "arm": arm,
            "seed": seed,
            "config_hash": f"{abs(hash((arm, seed))):08x}"[:8],
            "val/mAP": value,
            "AP": {"cat": value, "dog": None},
            "protocol": "voc07",
            "split": ["2007/test"],
            "classes": ["cat", "dog"],
            "steps": 50,
            "data_fingerprint": ["aa", "bb"],
            "wall_s": 100.0 + seed,
        }
        (path / "result.json").write_text(json.dumps(document | (result or {})))
        (path / "status.json").write_text(json.dumps({"state": "done", "arm": arm, "seed": seed, **(status or {})}))
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log or []))
        return path

    return write


@pytest.fixture
def write_arms(write_trial: WriteTrial, tmp_path: Path) -> Callable[..., Path]:
    """Writes arms of several seeds below runs/test: name -> values by seed; keywords go to every trial."""

    def write(arms: dict[str, list[float | None]], **keywords: Any) -> Path:
        for number, (arm, values) in enumerate(arms.items()):
            loss = {"name": "ce"} if arm == "ce" else {"name": "focal", "label": number}
            for seed, value in enumerate(values):
                folder = f"runs/test/{number}-{arm}-s{seed}-0000000{seed}"
                write_trial(folder, **({"arm": arm, "seed": seed, "value": value, "loss": loss} | keywords))
        return tmp_path / "runs" / "test"

    return write


@pytest.fixture
def write_detections() -> Callable[..., None]:
    """Writes a trial's detections.npz: 40 images with one object each, of which ``found`` are detected."""

    def write(folder: Path, found: list[int], **replaced: Any) -> None:
        images = np.arange(40)
        box = np.tile(np.array([[10.0, 10, 30, 30]], np.float32), (40, 1))
        arrays: dict[str, Any] = {
            "image": np.array(found, int),
            "label": np.zeros(len(found), int),
            "score": np.linspace(0.9, 0.5, len(found), dtype=np.float32),
            "box": box[: len(found)],
            "gt_image": images,
            "gt_label": np.zeros(40, int),
            "gt_box": box,
            "gt_difficult": np.zeros(40, bool),
            "image_ids": np.array([f"{image:06d}" for image in images]),
            "classes": np.array(["cat", "dog"]),
        }
        np.savez(folder / "detections.npz", **(arrays | replaced))

    return write


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    """Makes stderr, or another stream, a terminal of so many columns that takes colours; returns what is written."""

    def make(columns: int, stream: str = "stderr") -> io.StringIO:
        written = _Terminal()
        monkeypatch.setattr(sys, stream, written)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.delenv("NO_COLOR", raising=False)
        return written

    return make
