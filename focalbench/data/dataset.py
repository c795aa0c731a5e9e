"""A split on its canvas: pixels and targets for the network, ground truth and back-projection for the evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from focalbench.boxes.voc import continuous_from_voc, voc_from_continuous
from focalbench.data.cache import CacheSettings, decode_split, fingerprint_split, open_cache
from focalbench.data.images import Fit, place, to_canvas
from focalbench.data.scanning import list_samples, scan_samples
from focalbench.data.sixteen_bit import SampleRange
from focalbench.data.transforms import normalise
from focalbench.data.voc import STRICT, Classes, ClassRule, Record, join_objects, make_split
from focalbench.errors import StorageError
from focalbench.runtime import StopFlag, free_memory
from focalbench.structures import Targets

CacheMode = Literal["auto", "none", "disk", "ram", "device"]
# Of the memory that is free on a GPU, what `auto` may fill with images: the rest is the network's.
_DEVICE_SHARE = 0.25


class ImageStore(Protocol):
    """Canvas images by index: a memory map, an array, or files decoded on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray) -> np.ndarray: ...


class FileImages:
    """Images decoded from their files whenever they are asked for: ``cache: none``."""

    def __init__(
        self, records: Sequence[Record], canvas: tuple[int, int], fit: Fit, sample_range: SampleRange | None = None
    ) -> None:
        self._records, self._layout = records, (canvas, fit, sample_range)
        self._pool = ThreadPoolExecutor(max(1, torch.get_num_threads()))

    def __len__(self) -> int:
        return len(self._records)

    def _decode(self, index: int) -> np.ndarray:
        record = self._records[index]
        return to_canvas(record.image_path.read_bytes(), record.orientation, *self._layout)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8."""
        return np.stack(list(self._pool.map(self._decode, np.asarray(indices).tolist())))


@dataclass(frozen=True)
class _FlatObjects:
    """Objects of all images, one after the other.

    Attributes:
        boxes: (G, 4) float32, xyxy canvas pixels.
        labels: (G,) int64.
        counts: (N,) objects of each image; ``starts`` (N,) says where they begin.
    """

    boxes: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    starts: np.ndarray

    def of_images(self, chosen: np.ndarray) -> Targets:
        """Those of some images, (B,) int64, padded to the longest."""
        counts = self.counts[chosen]
        width = max(1, int(counts.max(initial=0)))
        slot = np.arange(width)
        filled = slot < counts[:, None]
        source = np.where(filled, self.starts[chosen][:, None] + slot, 0)
        boxes = np.zeros((len(chosen), width, 4), np.float32)
        labels = np.full((len(chosen), width), -1, np.int64)
        boxes[filled] = self.boxes[source[filled]]
        labels[filled] = self.labels[source[filled]]
        return Targets(torch.from_numpy(boxes), torch.from_numpy(labels))


@dataclass
class DetectionData:
    """Images on the canvas with their objects.

    Attributes:
        images: uint8, indexed by an int64 array, gives (B, H, W, 3).
        records: what the annotations say, in original pixels, difficult objects included.
        classes: names in label order.
        canvas: (height, width) of every image.
        fit: how images met the canvas.
        fingerprint: hex digits over the content; equal for equal data on any machine.
        cache: where :meth:`batch` takes images from when the device is a GPU.
        sample_range: how 16-bit samples became 8-bit ones.
    """

    images: ImageStore
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    canvas: tuple[int, int]
    fit: Fit
    fingerprint: str
    cache: CacheMode = "disk"
    sample_range: SampleRange | None = None
    _resident: dict[torch.device, Tensor | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Lays the training targets of all images out flat, once: a batch is then a gather."""
        scales = [place(record.width, record.height, self.canvas, self.fit) for record in self.records]
        self._scale = np.array([(s.scale_x, s.scale_y) for s in scales], np.float64).reshape(-1, 2)
        self._offset = np.array([(s.offset_x, s.offset_y) for s in scales], np.float64).reshape(-1, 2)
        objects = join_objects(self.records)
        self._learned = self._lay_flat(objects, ~objects["difficult"])
        self._difficult = self._lay_flat(objects, objects["difficult"])

    def _lay_flat(self, objects: dict[str, np.ndarray], kept: np.ndarray) -> _FlatObjects:
        """The objects that ``kept`` (G,) names, on the canvas."""
        image = objects["image"][kept]
        counts = np.bincount(image, minlength=len(self.records))
        boxes = continuous_from_voc(objects["box"][kept])
        on_canvas = boxes * np.tile(self._scale[image], 2) + np.tile(self._offset[image], 2)
        return _FlatObjects(on_canvas.astype(np.float32), objects["label"][kept], counts, np.cumsum(counts) - counts)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def targets(self, indices: np.ndarray | Sequence[int]) -> Targets:
        """Returns the training targets of some images, on the CPU; difficult objects are left out.

        Args:
            indices: (B,) integers in 0..N-1.

        Returns:
            boxes (B, M, 4) canvas pixels and labels (B, M), M the largest count among them and at least 1.
        """
        return self._learned.of_images(np.asarray(indices, np.int64))

    def difficult(self, indices: np.ndarray | Sequence[int]) -> Targets:
        """Returns the objects that :meth:`targets` leaves out, in the same form."""
        return self._difficult.of_images(np.asarray(indices, np.int64))

    def batch(self, indices: np.ndarray | Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Targets]:
        """Returns some images with their targets, on ``device``.

        Returns:
            (B, 3, H, W) uint8 in channels-last memory, and :meth:`targets`.
        """
        return self.send(self.load(indices, device), device)

    def normalised(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Returns some images as a network takes them: (B, 3, H, W) float32 on ``device``, in channels-last memory."""
        images, _ = self.batch(indices, device)
        return normalise(images).contiguous(memory_format=torch.channels_last)

    def load(self, indices: np.ndarray | Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Targets]:
        """Does the host's part of :meth:`batch`, which may be done ahead, on another thread.

        Returns:
            what :meth:`send` takes; for a GPU in pinned memory, which it fetches without making the host wait.
        """
        target = torch.device(device)
        chosen = np.asarray(indices, np.int64)
        targets = self.targets(chosen)
        if target.type == "cpu":
            return torch.from_numpy(self.images[chosen]), targets
        # A thread starts on the first GPU whatever the others are on, and would pin memory there.
        with torch.cuda.device(target):
            source = torch.from_numpy(chosen if self._move_to(target) is not None else self.images[chosen])
            return source.pin_memory(), Targets(targets.boxes.pin_memory(), targets.labels.pin_memory())

    def send(self, loaded: tuple[Tensor, Targets], device: torch.device | str = "cpu") -> tuple[Tensor, Targets]:
        """Does the device's part of :meth:`batch`."""
        target = torch.device(device)
        source, targets = loaded
        if target.type == "cpu":
            return source.permute(0, 3, 1, 2), targets
        images, resident = source.to(target, non_blocking=True), self._move_to(target)
        images = images if resident is None else resident[images]
        return images.permute(0, 3, 1, 2), targets.to(target, non_blocking=True)

    def _move_to(self, device: torch.device) -> Tensor | None:
        """All images on ``device``, copied there once; None where ``cache`` says no or they do not fit."""
        if self.cache not in ("auto", "device"):
            return None
        if device not in self._resident:
            num_bytes = len(self) * self.canvas[0] * self.canvas[1] * 3
            free = torch.cuda.mem_get_info(device)[0]
            fits = num_bytes <= free * (_DEVICE_SHARE if self.cache == "auto" else 0.95)
            if not fits and self.cache == "device":
                raise StorageError(
                    f"data.cache: device needs {num_bytes / 2**30:.1f} GiB, {device} has {free / 2**30:.1f} free; "
                    "use data.cache: disk or a smaller data.image_size"
                )
            self._resident[device] = _upload(self.images, len(self), device) if fits else None
        return self._resident[device]

    def ground_truth(self) -> dict[str, np.ndarray]:
        """Returns all objects as the metrics take them: those of :func:`focalbench.data.voc.join_objects`."""
        return join_objects(self.records)

    def to_original(self, image_index: int, boxes: Tensor | np.ndarray) -> np.ndarray:
        """Maps boxes of one image from the canvas to its original pixels and cuts them to the image.

        Args:
            image_index: which record.
            boxes: (D, 4) xyxy canvas pixels.

        Returns:
            (D, 4) float32, VOC 1-based inclusive.
        """
        array = boxes.detach().cpu().numpy() if isinstance(boxes, Tensor) else np.asarray(boxes)
        record = self.records[image_index]
        scale, offset = np.tile(self._scale[image_index], 2), np.tile(self._offset[image_index], 2)
        original = (array.astype(np.float64).reshape(-1, 4) - offset) / scale
        return voc_from_continuous(original.clip(0, (record.width, record.height) * 2)).astype(np.float32)


def _upload(images: ImageStore, num_images: int, device: torch.device) -> Tensor:
    """Copies in slices: the set never lies in the host's memory as a whole."""
    first = images[np.arange(min(1, num_images))]
    resident = torch.empty((num_images, *first.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, num_images, 256):
        part = np.arange(start, min(start + 256, num_images))
        resident[start : start + len(part)] = torch.from_numpy(images[part]).to(device)
    return resident


def _require_memory(num_images: int, canvas: tuple[int, int]) -> None:
    """Raises StorageError when the images do not fit into memory: to be killed on the way would say nothing."""
    needed, free = num_images * canvas[0] * canvas[1] * 3, free_memory()
    if free is not None and needed > free:
        raise StorageError(
            f"data.cache: ram needs {needed / 2**30:.1f} GiB for {num_images} images of {canvas[1]} x {canvas[0]} "
            f"pixels, {free / 2**30:.1f} are free; use data.cache: disk or a smaller data.image_size"
        )


def load_data(
    root: str | os.PathLike[str],
    splits: Sequence[str],
    classes: Classes,
    image_size: int | tuple[int, int],
    fit: Fit = "warp",
    cache: CacheMode = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    stop: StopFlag | None = None,
    rule: ClassRule = STRICT,
    sample_range: SampleRange | None = None,
) -> DetectionData:
    """Opens joined splits on a canvas; the first time this decodes every image, later it takes milliseconds.

    Args:
        root: the folder that holds VOC2007, ...
        splits: ``YEAR/SPLIT``.
        classes: ``auto`` for training splits; pass the training data's ``classes`` for the others.
        image_size: canvas in pixels, one number or (height, width).
        fit: ``warp`` or ``letterbox``.
        cache: ``disk`` shares a memory map between processes, ``ram`` decodes into memory, ``none`` decodes each time,
            ``device`` keeps a copy on the GPU (from the disk cache), ``auto`` is ``device`` where that fits easily and
            ``disk`` elsewhere.
        cache_dir: folder of the disk caches, None for the usual one.
        rule: for objects of other classes.
        sample_range: 16-bit samples that become black and white; None for all they can be.

    Raises:
        DataError: with all faults of the data set at once.
        StorageError: if the cache cannot be written, or images asked into memory do not fit.
        InterruptedTrial: when ``stop`` is set before the images are read.
    """
    canvas = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    listing = list_samples(root, splits)
    if cache == "none":
        scans = [scan for scan, _ in scan_samples(listing.samples, stop=stop)]
        split = make_split(listing, scans, classes, rule)
        files = FileImages(split.records, canvas, fit, sample_range)
        fingerprint = fingerprint_split(split, (scan.digest for scan in scans))
        return DetectionData(files, split.records, split.classes, canvas, fit, fingerprint, cache, sample_range)
    if cache == "ram":
        _require_memory(len(listing.samples), canvas)
        decoded = decode_split(listing, classes, canvas, fit, sample_range=sample_range, rule=rule, stop=stop)
    else:
        settings = CacheSettings(canvas, fit, cache_dir, sample_range)
        decoded = open_cache(listing, classes, settings, rule=rule, stop=stop)
    records, names = decoded.split.records, decoded.split.classes
    return DetectionData(decoded.images, records, names, canvas, fit, decoded.fingerprint, cache, sample_range)
