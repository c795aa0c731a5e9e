"""What a training step keeps in memory, counted from its tensors on a CPU: the table of docs/gpu.md.

Usage: python scripts/step_memory.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from focalbench.benchmarks.step import training_step
from focalbench.config.schema import ExperimentConfig
from focalbench.devices import autocast

_BATCHES = (2, 4)  # what does not grow with the batch, such as copies of the weights in 16 bits, is left out
_CLASSES = 20
_BYTES_A_WEIGHT = 16  # AdamW: the weight, its gradient and two moments, float32 each
_CASES = [
    ("retinanet", "tiny", (192, 256)),
    ("retinanet", "resnet18", (256, 256)),
    ("retinanet", "resnet18", (320, 320)),
    ("retinanet", "resnet50", (512, 512)),
    ("yolov2", "darknet19", (416, 416)),
]


def state_bytes(config: ExperimentConfig) -> int:
    """Returns the bytes of weights, gradients and moments."""
    model = training_step(config, torch.device("cpu"), _CLASSES).state.model
    return _BYTES_A_WEIGHT * sum(parameter.numel() for parameter in model.parameters())


def kept_bytes(config: ExperimentConfig, precision: torch.dtype) -> int:
    """Returns the bytes that the forward pass of a batch keeps for the backward pass."""
    cpu = torch.device("cpu")
    step = training_step(config, cpu, _CLASSES)
    weights = {parameter.untyped_storage().data_ptr() for parameter in step.state.model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    images, targets = step.batch
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(cpu, precision):
            outputs = step.state.model(images)
        step.state.criterion(outputs, targets)
    return sum(one.untyped_storage().nbytes() for one in kept.values())


def training(detector: str, backbone: str, canvas: tuple[int, int], batch_size: int) -> ExperimentConfig:
    """Returns a training whose steps are counted."""
    return ExperimentConfig.model_validate(
        {
            "name": "memory",
            "data": {"name": "synthetic", "num_train": 16, "num_val": 4, "image_size": canvas},
            "model": {"name": detector, "backbone": backbone},
            "optim": {"name": "adamw", "steps": 100, "batch_size": batch_size},
        }
    )


def main() -> None:
    """Prints a Markdown table, in MiB."""
    print("| network | canvas | weights and state | kept an image, bf16 | fp32 |\n|---|---|---|---|---|")
    for detector, backbone, canvas in _CASES:
        small, large = (training(detector, backbone, canvas, size) for size in _BATCHES)
        an_image = [
            (kept_bytes(large, precision) - kept_bytes(small, precision)) / (_BATCHES[1] - _BATCHES[0])
            for precision in (torch.bfloat16, torch.float32)
        ]
        sides = f"{canvas[0]} x {canvas[1]}" if canvas[0] != canvas[1] else canvas[0]
        mib = " | ".join(f"{value / 2**20:.0f} MiB" for value in (state_bytes(small), *an_image))
        print(f"| `{backbone}`{' (YOLOv2)' if detector == 'yolov2' else ''} | {sides} | {mib} |")


if __name__ == "__main__":
    main()
