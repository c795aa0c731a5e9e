"""Reading darknet's binary weight files.

A file is a header (int32 major, minor, revision; then the number of images seen: 8 bytes from version 0.2 on, 4
before) and float32 values, little endian, layer after layer. A convolution with batch norm stores beta, gamma, running
mean, running variance, kernel; one without stores bias, kernel. Nothing in the file says which layers it holds: only
its length can tell whether it fits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from focalbench.errors import DataError
from focalbench.models.darknet import ConvBlock

# Later versions than darknet ever had: what is read as a header is something else.
_MAX_VERSION = 1000
Layer = ConvBlock | nn.Conv2d


@dataclass(frozen=True)
class DarknetFile:
    """The contents of a weight file.

    Attributes:
        version: major, minor, revision.
        seen: images that the network was trained on.
        values: (F,) float32.
    """

    version: tuple[int, int, int]
    seen: int
    values: Tensor


def read_darknet_file(path: Path) -> DarknetFile:
    """Returns the header and the values of ``path``, either header version.

    Raises:
        DataError: when the file cannot be read, has no darknet header, or ends within a number.
    """
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise DataError(f"{path}: cannot read the weight file: {fault.strerror or fault}") from fault
    if len(content) < 16:
        raise DataError(f"{path}: {len(content)} bytes are too few for a darknet weight file: download it again")
    version = struct.unpack_from("<3i", content)
    if not all(0 <= number < _MAX_VERSION for number in version):
        raise DataError(f"{path}: not a darknet weight file (its header reads {version}): check model.weights")
    long_header = version[0] * 10 + version[1] >= 2
    start = 20 if long_header else 16
    if len(content) < start or (len(content) - start) % 4:
        raise DataError(f"{path}: cut off: {len(content)} bytes end within a number: download it again")
    (seen,) = struct.unpack_from("<Q" if long_header else "<I", content, 12)
    values = np.frombuffer(content, dtype="<f4", offset=start).astype(np.float32)
    return DarknetFile(version, seen, torch.from_numpy(values))


def count_values(layer: Layer) -> int:
    """Returns how many float32 values ``layer`` takes in a weight file."""
    return sum(slot.numel() for slot in _slots(layer))


def load_darknet_weights(layers: Sequence[Layer], path: Path, *, num_trunk: int) -> int:
    """Fills ``layers`` from the file and returns how many of them it held; nothing is changed when it does not fit.

    Three kinds of files fit: all layers (a detector), a cut behind any layer from the trunk's last on
    (``darknet19_448.conv.23``), and the trunk with its classifier behind it (``darknet19_448.weights``), whose
    classifier is left out.

    Args:
        layers: convolutions in the file's order: ``ConvBlock`` with batch norm, ``nn.Conv2d`` without.
        num_trunk: how many of the first layers are the trunk.

    Raises:
        DataError: when the file is damaged or of another network.
    """
    file = read_darknet_file(path)
    sizes = [count_values(layer) for layer in layers]
    ends = np.cumsum(sizes).tolist()
    found = len(file.values)
    kept = next((n for n in range(num_trunk, len(layers) + 1) if ends[n - 1] == found), None)
    if kept is None and _is_classifier(layers[num_trunk - 1], found - ends[num_trunk - 1]):
        kept = num_trunk
    if kept is None:
        raise DataError(
            f"{path}: holds {found} values, but this network takes {ends[-1]} ({ends[num_trunk - 1]} for the "
            "trunk alone)" + _hint(layers, found, ends)
        )
    values = file.values[: ends[kept - 1]]
    _check_values(path, layers[:kept], values)
    for layer, chunk in zip(layers, values.split(sizes[:kept]), strict=False):
        _fill(layer, chunk)
    return kept


def _slots(layer: Layer) -> list[Tensor]:
    """The tensors of ``layer`` in the file's order."""
    if isinstance(layer, ConvBlock):
        norm, conv = layer.norm, layer.conv
        statistics = [norm.get_buffer("running_mean"), norm.get_buffer("running_var")]
        return [norm.bias, norm.weight, *statistics, conv.weight]
    return [layer.get_parameter("bias"), layer.weight]


def _fill(layer: Layer, values: Tensor) -> None:
    slots = _slots(layer)
    with torch.no_grad():
        for slot, part in zip(slots, values.split([slot.numel() for slot in slots]), strict=True):
            slot.copy_(part.view_as(slot))


def _check_values(path: Path, layers: Sequence[Layer], values: Tensor) -> None:
    """Raises DataError where the numbers cannot be weights: a length alone does not prove the network."""
    if not bool(values.isfinite().all()):
        raise DataError(f"{path}: holds numbers that are not finite: it is damaged, download it again")
    start = 0
    for number, layer in enumerate(layers):
        if isinstance(layer, ConvBlock):
            width = layer.width
            if bool((values[start + 3 * width : start + 4 * width] < 0).any()):
                raise DataError(f"{path}: negative variances in convolution {number}: damaged, or from another network")
        start += count_values(layer)


def _is_classifier(last: Layer, rest: int) -> bool:
    """Whether ``rest`` values behind the trunk are a 1x1 convolution with bias, the classifier of darknet19."""
    return isinstance(last, ConvBlock) and rest == 1000 * (last.width + 1)


def _hint(layers: Sequence[Layer], found: int, ends: list[int]) -> str:
    """What the file may be: cut off, or a detector with other outputs."""
    if found < ends[-1]:
        return ": cut off, or from another network; download it again, or use model.weights: none"
    last = layers[-1]
    assert isinstance(last, nn.Conv2d)
    outputs, rest = divmod(found - ends[-2], last.in_channels + 1)
    if rest == 0 and outputs > 0:
        return (
            f": a network of {outputs} outputs a cell, this one has {last.out_channels}: priors x (5 + classes); "
            "use its classes and priors, or a file cut behind an earlier layer (darknet's `partial`)"
        )
    return ": from another network; use model.weights: none or a file of this one"
