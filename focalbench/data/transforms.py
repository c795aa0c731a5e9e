"""Batched augmentation and normalisation on the training device: one affine and one colour map for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.data.images import PAD_COLOR
from focalbench.structures import IMAGE_MEAN, IMAGE_STD, Targets

# On the 0..255 scale.
MEAN = tuple(255 * value for value in IMAGE_MEAN)
STD = tuple(255 * value for value in IMAGE_STD)
# Rec. 601 luma: the gray that saturation fades to.
_LUMA = (0.299, 0.587, 0.114)


def normalise(images: Tensor) -> Tensor:
    """Takes ImageNet's mean off the pixels and divides them by its standard deviation.

    Args:
        images: (B, 3, H, W) uint8 in any memory format, which is kept.

    Returns:
        (B, 3, H, W) float32.
    """
    scale = _per_channel([1 / value for value in STD], images.device)
    shift = _per_channel([-mean / std for mean, std in zip(MEAN, STD, strict=True)], images.device)
    return torch.addcmul(shift, images.float(), scale)


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(3, 1, 1) float32, filled in on the device: nothing is copied over."""
    return torch.cat([torch.full((1, 1, 1), value, device=device) for value in values])


def pixels_of(images: Tensor) -> Tensor:
    """Takes :func:`normalise` back: the picture that a network sees.

    Args:
        images: (B, 3, H, W) float, normalised; what lies outside of 0..255 is cut.

    Returns:
        (B, H, W, 3) uint8 on the CPU.
    """
    colors = images.detach().float().cpu().permute(0, 2, 3, 1)
    return (colors * torch.tensor(STD) + torch.tensor(MEAN)).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Windows:
    """Which part of each image lands on which part of its canvas: (B, 2) int64 CPU tensors for (x, y), in whole pixels.

    Whole pixels make a plain crop and resize the same map as the affine one that boxes take.

    Attributes:
        start: first pixel taken from the image.
        taken: pixels taken.
        corner: first canvas pixel filled, before mirroring.
        filled: canvas pixels filled.
        flipped: (B,) bool, whether the canvas is mirrored afterwards.
    """

    start: Tensor
    taken: Tensor
    corner: Tensor
    filled: Tensor
    flipped: Tensor

    def affine(self, width: int) -> tuple[Tensor, Tensor]:
        """Returns zoom and shift of ``canvas' = zoom * canvas + shift``, (B, 2) float32; negative zoom in x mirrors."""
        zoom = self.filled / self.taken
        shift = self.corner - self.start * zoom
        sign = torch.where(self.flipped, -1.0, 1.0)
        mirrored = torch.where(self.flipped, width - shift[:, 0], shift[:, 0])
        return torch.stack([zoom[:, 0] * sign, zoom[:, 1]], 1), torch.stack([mirrored, shift[:, 1]], 1)


class Augment:
    """Changes flip, scale, aspect, position and colour of a batch at random, and normalises it.

    Everything random is drawn on the CPU from the generator that is passed, and reaches the device in one small copy: a
    step depends on its generator only, and a GPU is never waited for. The number of draws does not depend on what is
    switched on, so switching one change off leaves the others as they were.

    Args:
        flip: probability of a mirrored image.
        crop: whether scale, aspect and position change.
        color: whether brightness, contrast and saturation change.
        scale: smallest and largest magnification, drawn uniformly; above 1 a random part of the image fills the canvas,
            below 1 the image lies somewhere on a canvas of the mean colour (its window is rounded to whole pixels).
        aspect: width / height changes by a factor of 1 - aspect to 1 + aspect.
        min_area: a box that keeps less than this share of its area on the canvas is dropped.
        brightness: half width of the factor's range around 1; likewise ``contrast`` (about the mean colour) and
            ``saturation``.
    """

    def __init__(
        self,
        flip: float = 0.5,
        crop: bool = True,
        color: bool = True,
        *,
        scale: tuple[float, float] = (0.7, 1.7),
        aspect: float = 0.15,
        min_area: float = 0.35,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
    ) -> None:
        self.flip, self.crop, self.color = flip, crop, color
        self.scale, self.aspect, self.min_area = scale, aspect, min_area
        self.jitter = (brightness, contrast, saturation)

    def __call__(
        self, images: Tensor, targets: Targets, generator: torch.Generator, *, skip: int = 0
    ) -> tuple[Tensor, Targets]:
        """Augments a batch.

        Args:
            images: (B, 3, H, W) uint8; channels-last memory is the fast case.
            targets: boxes in canvas pixels, on the same device.
            generator: CPU generator that all draws come from.
            skip: images of the batch before these, which others augment: their draws are passed over.

        Returns:
            (B, 3, H, W) float32 normalised images in channels-last memory, and targets of the same padded shape,
            those left first in their order.
        """
        height, width = images.shape[-2:]
        draws = torch.rand((skip + len(images), 8), generator=generator)[skip:]
        windows = self._draw_windows(draws, height, width)
        matrix, offset = self._draw_color(draws)
        if images.device.type == "cpu":
            out = _color_each(_resize_each(images, windows), matrix, offset)
            zoom, shift = windows.affine(width)
        else:
            # One transfer for everything drawn.
            drawn = torch.cat([*windows.affine(width), offset, matrix.flatten(1)], dim=1).pin_memory()
            zoom, shift, offset, flat = drawn.to(images.device, non_blocking=True).split([2, 2, 3, 9], dim=1)
            out = _warp_batch(images, zoom, shift, flat.reshape(-1, 3, 3), offset)
        return out, self._map_targets(targets, zoom, shift, height, width)

    def _draw_windows(self, draws: Tensor, height: int, width: int) -> Windows:
        flipped = draws[:, 0] < self.flip
        size = torch.tensor([width, height], dtype=torch.float32).expand(len(draws), 2)
        if not self.crop:
            nothing, whole = torch.zeros_like(size).long(), size.long()
            return Windows(nothing, whole, nothing, whole, flipped)
        smallest, largest = self.scale
        magnified = smallest + (largest - smallest) * draws[:, 1]
        root = (1 + self.aspect * (2 * draws[:, 2] - 1)).sqrt()
        zoom = torch.stack([magnified * root, magnified / root], dim=1)
        # Zoomed in, a part of the image fills the canvas; zoomed out, the image fills a part of the canvas.
        taken = (size / zoom.clamp(min=1)).round().clamp(min=1)
        filled = (size * zoom.clamp(max=1)).round().clamp(min=1)
        start = (draws[:, 3:5] * (size - taken + 1)).floor()
        corner = (draws[:, 3:5] * (size - filled + 1)).floor()
        return Windows(start.long(), taken.long(), corner.long(), filled.long(), flipped)

    def _draw_color(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """``normalised = matrix @ rgb + offset``: (B, 3, 3) and (B, 3), colour jitter and normalisation in one."""
        mean, std, luma = torch.tensor(MEAN), torch.tensor(STD), torch.tensor(_LUMA)
        spread = torch.tensor(self.jitter) if self.color else torch.zeros(3)
        brightness, contrast, saturation = (1 + spread * (2 * draws[:, 5:8] - 1)).T[..., None, None]
        mix = saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3)
        matrix = brightness * contrast * mix
        offset = (1 - contrast[:, :, 0]) * mean
        return matrix / std[:, None], (offset - mean) / std

    def _map_targets(self, targets: Targets, zoom: Tensor, shift: Tensor, height: int, width: int) -> Targets:
        """Boxes after the affine map, cut at the border; those with too little left are dropped, the rest move up."""
        corners = targets.boxes.unflatten(-1, (2, 2)) * zoom[:, None, None] + shift[:, None, None]
        low, high = corners.amin(2), corners.amax(2)
        whole = (high - low).prod(-1)
        left, top = low[..., 0].clamp(0, width), low[..., 1].clamp(0, height)
        right, bottom = high[..., 0].clamp(0, width), high[..., 1].clamp(0, height)
        area = (right - left) * (bottom - top)
        kept = (targets.labels >= 0) & (area >= self.min_area * whole) & (area > 0)
        order = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        boxes = torch.stack([left, top, right, bottom], dim=-1) * kept[..., None]
        labels = targets.labels.masked_fill(~kept, -1)
        return Targets(boxes.gather(1, order[..., None].expand_as(boxes)), labels.gather(1, order))


def _resize_each(images: Tensor, windows: Windows) -> Tensor:
    """Crops and resizes image by image in uint8: on a CPU three times faster than ``grid_sample``, and antialiased.

    Returns:
        (B, H, W, 3) uint8.
    """
    height, width = images.shape[-2:]
    out = torch.empty((len(images), height, width, 3), dtype=torch.uint8)
    pad = torch.tensor(PAD_COLOR, dtype=torch.uint8)
    columns = (windows.start, windows.taken, windows.corner, windows.filled, windows.flipped[:, None])
    for index, row in enumerate(torch.cat(columns, dim=1).tolist()):
        x, y, taken_x, taken_y, left, top, filled_x, filled_y, mirrored = row
        part = images[index : index + 1, :, y : y + taken_y, x : x + taken_x]
        if (taken_x, taken_y) != (filled_x, filled_y):
            part = F.interpolate(part, (filled_y, filled_x), mode="bilinear", antialias=True)
        hwc = part[0].permute(1, 2, 0)
        if filled_x < width or filled_y < height:
            out[index] = pad
        # The window is placed as seen before mirroring, so that mirroring moves it too.
        if mirrored:
            hwc, left = hwc.flip(1), width - left - filled_x
        out[index, top : top + filled_y, left : left + filled_x] = hwc
    return out


def _color_each(pixels: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """(B, 3, H, W) float32 ``matrix @ rgb + offset`` from (B, H, W, 3) uint8, in channels-last memory.

    A product with a 3 x 3 matrix leaves a CPU's vector units idle: 8 pixels side by side and a block-diagonal 24 x 24
    matrix are five times as fast. Image by image, for the scratch then stays in the cache.
    """
    num_pixels = pixels.shape[1] * pixels.shape[2]
    block = math.gcd(num_pixels, 8)
    wide = torch.zeros(len(pixels), block, 3, block, 3)
    diagonal = torch.arange(block)
    # Pixels are rows here, so the matrix acts from the right, transposed.
    wide[:, diagonal, :, diagonal] = matrix.mT
    wide = wide.view(-1, 3 * block, 3 * block)
    offsets = offset.repeat(1, block)
    rows = pixels.view(len(pixels), num_pixels // block, 3 * block)
    out = torch.empty(rows.shape, dtype=torch.float32)
    for source, factor, shift, result in zip(rows, wide, offsets, out, strict=True):
        torch.addmm(shift, source.float(), factor, out=result)
    return out.view(pixels.shape).permute(0, 3, 1, 2)


def _warp_batch(images: Tensor, zoom: Tensor, shift: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Colour map and bilinear resampling at ``canvas' = zoom * canvas + shift`` of a whole batch at once: a GPU's way.

    No matrix product takes part, so that TF32 rounds neither colours nor positions.

    Args:
        images: (B, 3, H, W) uint8.
        zoom: (B, 2) for (x, y), negative where mirrored; likewise ``shift``, in pixels.
        matrix: (B, 3, 3); ``offset`` (B, 3).

    Returns:
        (B, 3, H, W) float32 in channels-last memory.
    """
    height, width = images.shape[-2:]
    # Less the pad colour, so that zero is what lies outside.
    columns = matrix[..., None, None].unbind(2)
    pad = columns[0] * PAD_COLOR[0]
    for column, value in zip(columns[1:], PAD_COLOR[1:], strict=True):
        pad.add_(column, alpha=value)
    colored = -pad
    for channel, column in zip(images.split(1, dim=1), columns, strict=True):
        colored = torch.addcmul(colored, channel, column)
    x, y = _sampled(zoom[:, 0], shift[:, 0], width), _sampled(zoom[:, 1], shift[:, 1], height)
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    moved = F.grid_sample(colored, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.add_(pad + offset[..., None, None]).contiguous(memory_format=torch.channels_last)


def _sampled(zoom: Tensor, shift: Tensor, size: int) -> Tensor:
    """Where ``grid_sample`` finds the pixels of one axis of the canvas: (B, size), the image spans -1..1.

    An axis has a map of its own, because nothing is rotated.
    """
    centres = torch.arange(0.5, size, device=zoom.device)
    return (centres - shift[:, None]) / zoom[:, None] * (2 / size) - 1
