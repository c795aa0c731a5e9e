"""What several tests share: a private cache folder and a configuration small enough to train in a second."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or writes the user's cache; all share one, as the trials of a sweep do."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("FOCALBENCH_CACHE", str(folder))
    patch.delenv("FOCALBENCH_DATA", raising=False)
    return folder


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
