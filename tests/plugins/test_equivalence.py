"""A focal loss that a plugin brings trains what the built-in one does: as a class bit for bit, by autograd within
rounding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from focalbench.config.load import load_config
from focalbench.experiment import trial as trial_module
from focalbench.experiment.trial import run_trial
from focalbench.records.metrics import read_metrics
from focalbench.runtime import StopFlag
from focalbench.training.checkpoint import load_newest

OWN = Path(__file__).parents[1] / "own_losses.py"
RETINANET = "model={name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}"
YOLO = "model={name: yolov2, backbone: tiny}"
CASES = {
    "RetinaNet": (RETINANET, "class"),
    "classes of YOLOv2": (YOLO, "class"),
    "objectness of YOLOv2": (YOLO, "objectness"),
    "both of YOLOv2": (YOLO, "both"),
}
STEPS = 10

Train = Callable[[str, str, str], Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains a loss in a network, once, without pictures; returns the trial's folder.

    In float32: bfloat16 makes 1e-7 in a gradient, rounded the other way, one part in 256, on some processors.
    """
    base, done = tmp_path_factory.mktemp("equivalence"), {}
    patch = pytest.MonkeyPatch()
    patch.setattr(trial_module, "picture_steps", lambda eval_steps: frozenset())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = base / "tiny.yaml"
    config.write_text(
        f"plugins: ['{OWN}']\n"
        "data: {name: synthetic, num_train: 12, num_val: 2, image_size: 64}\n"
        f"optim: {{name: adamw, lr: 1e-3, steps: {STEPS}, batch_size: 4, warmup_steps: 2, precision: fp32}}\n"
        "eval: {every: null, score_thresh: 0.0, max_detections: 20}\n"
        "run: {log_every: 1, checkpoint_every: 100}\n"
    )

    def once(loss: str, model: str, apply_to: str) -> Path:
        if (loss, model, apply_to) not in done:
            folder = done[loss, model, apply_to] = base / str(len(done))
            (trial,) = load_config(config, [model, f"loss.name={loss}", f"loss.apply_to={apply_to}"]).trials
            quiet = {"progress": lambda step, steps, values: None, "warn": lambda message: None}
            run_trial(trial, folder, device="cpu", stop=StopFlag(), **quiet)
        return done[loss, model, apply_to]

    yield once
    torch.set_num_threads(threads)
    patch.undo()


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, clocks left out."""
    found = [
        {key: value for key, value in line.items() if not key.startswith("perf/")} for line in read_metrics(folder)
    ]
    assert [line["step"] for line in found if "train/loss" in line] == list(range(1, STEPS + 1))
    return found


@pytest.mark.parametrize(("model", "apply_to"), CASES.values(), ids=CASES)
def test_a_class_that_calls_the_library_gives_the_bits_of_the_built_in_loss(
    train: Train, model: str, apply_to: str
) -> None:
    own, built_in = (train(loss, model, apply_to) for loss in ("copied", "focal"))
    assert lines(own) == lines(built_in)
    weights, expected = (load_newest(folder / "checkpoints")["model"] for folder in (own, built_in))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("case", "later"), [("RetinaNet", 1e-3), ("both of YOLOv2", 1e-2)])
def test_autograd_gives_the_losses_of_the_built_in_one_within_rounding(train: Train, case: str, later: float) -> None:
    """``later``: after three steps training has amplified the rounding, where a ReLU's input changes its sign, and most
    where YOLOv2 looks at its own boxes.
    """
    own, built_in = (train(loss, *CASES[case]) for loss in ("written", "focal"))
    for found, expected in zip(lines(own), lines(built_in), strict=True):
        for key in ("train/cls", "train/box", "train/loss", "train/grad_norm"):
            if key in expected:
                tolerance = 1e-5 if expected["step"] <= 3 else later
                assert found[key] == pytest.approx(expected[key], rel=tolerance), (expected["step"], key)
