"""Training images the plain way, for the yardsticks that are processes of their own: augmented one by one, with
torchvision's transforms.

Nothing of focalbench's own training is imported: what starts with this module pays for torch and torchvision alone.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from focalbench.structures import IMAGE_MEAN, IMAGE_STD

Example = tuple[Tensor, Tensor, Tensor]


class Augmented:
    """Flips, scales, shifts and colours an image on the canvas at random, its boxes with it, and normalises it.

    Args:
        on_tensors: change tensors instead of Pillow's images, which takes longer on a CPU.
    """

    def __init__(self, *, on_tensors: bool) -> None:
        change = [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(degrees=0.0, translate=(0.2, 0.2), scale=(0.7, 1.7)),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(),
        ]
        finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGE_MEAN, IMAGE_STD)]
        self._change = v2.Compose([v2.ToImage(), *change, *finish] if on_tensors else [*change, v2.ToImage(), *finish])

    def __call__(self, image: Image.Image, boxes: Tensor, labels: Tensor) -> Example:
        """Returns (3, H, W) float32, (M', 4) xyxy pixels and (M',); boxes that left the canvas are dropped."""
        size = (image.height, image.width)
        example = {"image": image, "boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=size), "labels": labels}
        changed = self._change(example)
        return changed["image"].as_subclass(Tensor), changed["boxes"].as_subclass(Tensor), changed["labels"]


class DecodedEachTime(Dataset[Example]):
    """(3, H, W) float image, (M, 4) xyxy boxes and (M,) labels of a split in VOC's layout."""

    def __init__(self, folder: Path, split: str, classes: Sequence[str], canvas: tuple[int, int]) -> None:
        self._folder, self._classes, self._canvas = folder, list(classes), canvas
        self._ids = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split()
        self._change = Augmented(on_tensors=True)

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
        labels = torch.tensor([self._classes.index(o.findtext("name") or "") for o in objects])
        return self._change(image, boxes, labels)


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images (B, 3, H, W), boxes (B, M, 4) and labels (B, M), padded with zeros and -1."""
    width = max(1, *(len(labels) for _, _, labels in examples))
    boxes, labels = torch.zeros(len(examples), width, 4), torch.full((len(examples), width), -1)
    for row, (_, own_boxes, own_labels) in enumerate(examples):
        boxes[row, : len(own_labels)], labels[row, : len(own_labels)] = own_boxes, own_labels
    return torch.stack([image for image, _, _ in examples]), boxes, labels


def batches(
    data: Dataset[Example], batch_size: int, num_loaders: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Returns collated batches, epoch after epoch without end; ``num_loaders`` processes read ahead, 0 for none."""
    loader = DataLoader(
        data,
        batch_size=batch_size,
        sampler=RandomSampler(data),  # type: ignore[arg-type]
        drop_last=True,
        num_workers=num_loaders,
        persistent_workers=num_loaders > 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    for epoch in repeat(loader):
        yield from epoch
