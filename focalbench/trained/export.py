"""A trained network as an ONNX file, checked against the network it came from."""

from __future__ import annotations

import json
import secrets
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from focalbench.errors import ConfigError
from focalbench.models.detector import Detector
from focalbench.storage import storage_faults, write_output
from focalbench.structures import IMAGE_MEAN, IMAGE_STD
from focalbench.trained.trial import TrainedTrial

SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 1e-3
"""Largest difference between the file and the network that passes: of a probability, and of an edge as a share of the
canvas."""
_CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        num_boxes: R, boxes an image.
        score_difference: largest difference of a score between onnxruntime and torch; None when not checked.
        box_difference: the same of an edge, pixels.
    """

    num_boxes: int
    score_difference: float | None
    box_difference: float | None


class _Dense(nn.Module):
    """The network with scores and boxes instead of raw outputs."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.dense(self.model(images))


def export_onnx(trained: TrainedTrial, path: Path) -> Exported:
    """Writes the network to ``path``; where onnxruntime is installed, a file that disagrees with torch is not kept.

    Input ``images`` (N, 3, H, W) float32, normalised, on the trial's canvas, any N. Outputs ``scores`` (N, R, K) in
    [0, 1] and ``boxes`` (N, R, 4), xyxy pixels of the canvas, of all R anchors: threshold and non-maximum suppression
    are the user's, with the values that the metadata name beside classes, canvas and normalisation.

    Args:
        trained: loaded on the CPU.

    Raises:
        ConfigError: when the libraries of the extra ``onnx`` are missing.
        StorageError: when the file cannot be written; an older one stays.
        RuntimeError: when the check fails.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"export needs {' and '.join(missing)}: pip install 'focalbench[onnx]'")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give a file name such as {path / 'model.onnx'}")
    network = _Dense(trained.model.float().to(memory_format=torch.contiguous_format)).eval()
    example = torch.randn(2, 3, *trained.canvas, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(example)  # anchors are placed once and kept: the export finds them as constants
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            num_boxes = _write(network, example, temporary, _metadata(trained))
            differences = _check(network, temporary, trained.canvas)
            write_output(path, temporary.read_bytes())
        finally:
            temporary.unlink(missing_ok=True)
    return Exported(num_boxes, *differences)


def _write(network: nn.Module, example: Tensor, path: Path, metadata: dict[str, str]) -> int:
    """One file with the weights inside; returns R."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of the exporter on its own libraries
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["scores", "boxes"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # only the legacy exporter returns nothing
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)
    with torch.no_grad():
        return int(network(example)[0].shape[1])


def _metadata(trained: TrainedTrial) -> dict[str, str]:
    """What a user of the file has to know, as JSON texts."""
    height, width = trained.canvas
    samples = {"sample_range": trained.sample_range} if trained.sample_range else {}
    facts = {
        "classes": list(trained.classes),
        "canvas": {"height": height, "width": width, "fit": trained.fit} | samples,
        "normalisation": {"mean": IMAGE_MEAN, "std": IMAGE_STD, "of": "RGB / 255"},
        "score_thresh": trained.settings.score_thresh,
        "nms_thresh": trained.settings.nms_thresh,
        "max_detections": trained.settings.max_detections,
        "trial": trained.name,
        "step": trained.step,
    }
    return {f"focalbench.{name}": json.dumps(value) for name, value in facts.items()}


def _check(network: nn.Module, path: Path, canvas: tuple[int, int]) -> tuple[float | None, float | None]:
    """Largest differences of scores and of boxes (pixels) on random images, in batches of several sizes."""
    if find_spec("onnxruntime") is None:
        return None, None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    worst = np.zeros(2)
    for batch in _CHECKED_BATCHES:
        images = torch.randn(batch, 3, *canvas, generator=generator)
        with torch.no_grad():
            expected = network(images)
        found = session.run(["scores", "boxes"], {"images": images.numpy()})
        differences = [np.abs(f - e.numpy()).max(initial=0) for f, e in zip(found, expected, strict=True)]
        worst = np.maximum(worst, differences)
    if not (worst[0] <= SCORE_TOLERANCE and worst[1] <= BOX_TOLERANCE * max(canvas)):
        raise RuntimeError(
            f"the exported network differs from the trained one by {worst[0]:.2g} in a score and {worst[1]:.2g} px in "
            "a box; nothing was written"
        )
    return float(worst[0]), float(worst[1])
