"""One training the plain way, as the yardstick of `bench sweep`: a process of its own that decodes every image again
whenever a step asks for it, and augments it by itself, with Pillow and torchvision.

Network, criterion, optimizer and step are focalbench's own, so that what is compared is the way to them.
"""

from __future__ import annotations

import json
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from focalbench.config.schema import ExperimentConfig
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.runtime import resolve_device, resolve_precision
from focalbench.structures import IMAGE_MEAN, IMAGE_STD, Targets
from focalbench.training.loop import StepSettings, train_step

Example = tuple[Tensor, Tensor, Tensor]


class DecodedEachTime(Dataset[Example]):
    """(3, H, W) float image, (M, 4) xyxy boxes and (M,) labels of a split in VOC's layout."""

    def __init__(self, folder: Path, split: str, classes: Sequence[str], canvas: tuple[int, int]) -> None:
        self._folder, self._classes, self._canvas = folder, list(classes), canvas
        self._ids = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split()
        self._change = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomHorizontalFlip(),
                v2.RandomAffine(degrees=0.0, translate=(0.2, 0.2), scale=(0.7, 1.7)),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGE_MEAN, IMAGE_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Example:
        name = self._ids[index]
        root = ElementTree.parse(self._folder / "Annotations" / f"{name}.xml").getroot()
        objects = root.findall("object")
        corners = [[float(o.findtext(f"bndbox/{c}") or 0) for c in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        height, width = self._canvas
        with Image.open(self._folder / "JPEGImages" / f"{name}.jpg") as file:
            scale = (width / file.width, height / file.height)
            image = file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        boxes = (torch.tensor(corners).reshape(-1, 4) - torch.tensor([1.0, 1, 0, 0])) * torch.tensor([*scale, *scale])
        example = {
            "image": image,
            "boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=self._canvas),
            "labels": torch.tensor([self._classes.index(o.findtext("name") or "") for o in objects]),
        }
        changed = self._change(example)
        return changed["image"].as_subclass(Tensor), changed["boxes"].as_subclass(Tensor), changed["labels"]


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images (B, 3, H, W), boxes (B, M, 4) and labels (B, M), padded with zeros and -1."""
    width = max(1, *(len(labels) for _, _, labels in examples))
    boxes, labels = torch.zeros(len(examples), width, 4), torch.full((len(examples), width), -1)
    for row, (_, own_boxes, own_labels) in enumerate(examples):
        boxes[row, : len(own_labels)], labels[row, : len(own_labels)] = own_boxes, own_labels
    return torch.stack([image for image, _, _ in examples]), boxes, labels


def run(config: ExperimentConfig, classes: Sequence[str], *, num_loaders: int, device: str) -> dict[str, Any]:
    """Trains ``config`` to its last step, without evaluation, logs or checkpoints.

    Args:
        num_loaders: processes that decode beside the training, 0 for none.

    Returns:
        ``{"step_s": seconds from the first batch asked for to the last step, "loss": of the last step}``.
    """
    where = resolve_device(device)
    settings = StepSettings(where, resolve_precision(config.optim.precision, where), config.optim.clip_norm)
    root, (split, *_), _ = build.data_location(config)
    year, name = split.split("/")
    data = DecodedEachTime(root / f"VOC{year}", name, classes, build.canvas_size(config))
    torch.manual_seed(config.seed)
    model = build.build_model(config, len(classes))
    state = build.build_state(config, model, build_criterion(config, model), settings)
    plan = build.build_plan(config, len(data))
    state.model.train()
    began = time.perf_counter()
    loss = torch.zeros(())
    for step, (images, boxes, labels) in zip(
        range(plan.total_steps), _batches(data, config.optim.batch_size, num_loaders, where), strict=False
    ):
        for group in state.optimizer.param_groups:
            group["lr"] = plan.learning_rate(step)
        state.criterion.set_progress(step / plan.total_steps)
        memory_format = torch.channels_last if config.optim.channels_last else torch.contiguous_format
        images = images.to(where, non_blocking=True).contiguous(memory_format=memory_format)
        targets = Targets(boxes, labels).to(where, non_blocking=True)
        loss = train_step(state, images, targets, settings)["loss"]
    return {"loss": loss.item(), "step_s": time.perf_counter() - began}


def _batches(
    data: DecodedEachTime, batch_size: int, num_loaders: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Epoch after epoch without end."""
    loader = DataLoader(
        data,
        batch_size=batch_size,
        sampler=RandomSampler(data),
        drop_last=True,
        num_workers=num_loaders,
        persistent_workers=num_loaders > 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    for epoch in repeat(loader):
        yield from epoch


if __name__ == "__main__":
    request = json.load(sys.stdin)
    experiment = ExperimentConfig.model_validate_json(json.dumps(request["config"]))
    found = run(experiment, request["classes"], num_loaders=request["num_loaders"], device=request["device"])
    print(json.dumps(found))
