"""darknet files written here byte by byte; the network evaluated layer by layer in float64 is the oracle."""

import struct

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from focalbench.errors import ConfigError, DataError
from focalbench.models.darknet import ConvBlock
from focalbench.models.darknet_weights import count_values, load_darknet_weights, read_darknet_file
from focalbench.models.yolov2 import YoloV2
from focalbench.structures import IMAGE_MEAN, IMAGE_STD

# (filters, kernel, inputs) of the convolutions before the output layer, in the order of the file.
FINE = [(32, 3, 3), "pool", (64, 3, 32), "pool", (128, 3, 64), (64, 1, 128), (128, 3, 64), "pool",
        (256, 3, 128), (128, 1, 256), (256, 3, 128), "pool",
        (512, 3, 256), (256, 1, 512), (512, 3, 256), (256, 1, 512), (512, 3, 256)]  # fmt: skip
COARSE = ["pool", (1024, 3, 512), (512, 1, 1024), (1024, 3, 512), (512, 1, 1024), (1024, 3, 512)]
HEAD = [(1024, 3, 1024), (1024, 3, 1024)]
PASSTHROUGH, FUSE = (64, 1, 512), (1024, 3, 1280)


def header(*, old):
    return struct.pack("<iiii", 0, 1, 0, 32_013_312) if old else struct.pack("<iiiq", 0, 2, 0, 32_013_312)


def random_layer(rng, filters, kernel, inputs, *, norm=True):
    """The arrays of one layer in file order."""
    weight = rng.standard_normal((filters, inputs, kernel, kernel), dtype=np.float32)
    weight *= np.float32(np.sqrt(2 / (inputs * kernel**2)))
    if not norm:
        return [rng.normal(0, 0.1, filters), weight * np.float32(0.3)]
    return [
        rng.normal(0, 0.1, filters), rng.uniform(0.8, 1.2, filters),
        rng.normal(0, 0.1, filters), rng.uniform(0.5, 1.5, filters), weight,
    ]  # fmt: skip


def random_network():
    """A random YOLOv2 for 3 classes and 2 priors: its layers, in file order, in float32."""
    rng = np.random.default_rng(5)
    blocks = [entry for entry in (*FINE, *COARSE, *HEAD, PASSTHROUGH, FUSE) if entry != "pool"]
    layers = [random_layer(rng, *entry) for entry in blocks] + [random_layer(rng, 2 * 8, 1, 1024, norm=False)]
    return [[part.astype("<f4", copy=False) for part in layer] for layer in layers]


def convolve(x, layer, *, norm):
    """One darknet layer by the book."""
    if not norm:
        bias, weight = (torch.from_numpy(part).double() for part in layer)
        return F.conv2d(x, weight) + bias[:, None, None]
    beta, gamma, mean, var, weight = (torch.from_numpy(part).double() for part in layer)
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * gamma[:, None, None] + beta[:, None, None]
    return torch.where(x > 0, x, 0.1 * x)


def evaluate(arrays, x):
    """(N, 16, h, w) float64: the layer list from top to bottom, the reorganisation by darknet's indices."""
    layers = iter(arrays)

    def run(x, entries):
        for entry in entries:
            x = F.max_pool2d(x, 2) if entry == "pool" else convolve(x, next(layers), norm=True)
        return x

    fine = run(x.double(), FINE)
    top = run(run(fine, COARSE), HEAD)
    side = run(fine, [PASSTHROUGH])
    num, channels, height, width = side.shape
    k, j, i = np.ogrid[:channels, :height, :width]
    offset = k // (channels // 4)
    source = 2 * i + offset % 2 + 2 * width * (2 * j + offset // 2 + 2 * height * (k % (channels // 4)))
    side = side.flatten(1)[:, torch.from_numpy(source.ravel())].view(num, 4 * channels, height // 2, width // 2)
    x = run(torch.cat((side, top), 1), [FUSE])
    return convolve(x, next(layers), norm=False)


def test_the_network_computes_what_the_file_says(tmp_path):
    arrays = random_network()
    path = tmp_path / "yolo.weights"
    path.write_bytes(header(old=True) + b"".join(part.tobytes() for layer in arrays for part in layer))
    priors = ((1.0, 2.0), (3.0, 1.5))
    model = YoloV2(num_classes=3, priors=priors, weights=str(path)).eval()
    images = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    with torch.no_grad():
        outputs = model((images - mean) / std)
        expected = evaluate(arrays, images).view(1, 2, 8, 1, 2).permute(0, 3, 4, 1, 2).reshape(1, 4, 8)
    found = torch.cat((outputs.box_deltas, outputs.objectness[..., None], outputs.cls_logits), dim=-1)
    assert expected.std() > 0.1  # the figures are not all but zero
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_both_headers_are_read(tmp_path):
    values = np.arange(5, dtype="<f4")
    for old, version in ((True, (0, 1, 0)), (False, (0, 2, 0))):
        path = tmp_path / "some.weights"
        path.write_bytes(header(old=old) + values.tobytes())
        file = read_darknet_file(path)
        assert (file.version, file.seen, file.values.tolist()) == (version, 32_013_312, values.tolist())


def small_layers():
    """Two blocks and an output layer: the reader does not care which network it is."""
    torch.manual_seed(0)
    return [ConvBlock(3, 4, 3), ConvBlock(4, 8, 1), torch.nn.Conv2d(8, 6, 1)]


def state_of(layers):
    return [value.clone() for layer in layers for value in layer.state_dict().values()]


TOTAL = 4 * (27 + 4) + 8 * (4 + 4) + 6 * 9


def values_that_fit(count=TOTAL):
    return np.full(count, 0.5, dtype="<f4")


@pytest.mark.parametrize("old", [True, False])
def test_the_small_network_takes_what_was_counted(tmp_path, old):
    layers = small_layers()
    assert sum(count_values(layer) for layer in layers) == TOTAL
    path = tmp_path / "w"
    path.write_bytes(header(old=old) + np.arange(TOTAL, dtype="<f4").tobytes())
    assert load_darknet_weights(layers, path, num_trunk=1) == 3
    first = layers[0]
    parts = [first.norm.bias, first.norm.weight, first.norm.running_mean, first.norm.running_var, first.conv.weight]
    read = torch.cat([part.detach().flatten() for part in (*parts, layers[1].norm.bias)])
    assert read.tolist() == list(range(4 * (27 + 4) + 8))
    last = torch.cat([layers[2].bias.detach(), layers[2].weight.detach().flatten()])
    assert last.tolist() == list(range(TOTAL - 54, TOTAL))


@pytest.mark.parametrize("classifier", [0, 1000])
def test_a_classifier_fills_the_trunk_alone(tmp_path, classifier):
    """darknet19_448.conv.23 ends with the trunk; darknet19_448.weights has 1000 outputs behind it."""
    layers = small_layers()
    before = state_of(layers[2:])
    path = tmp_path / "w"
    path.write_bytes(header(old=False) + values_that_fit(TOTAL - 54 + classifier * 9).tobytes())
    assert load_darknet_weights(layers, path, num_trunk=2) == 2
    assert all((value == 0.5).all() for value in state_of(layers[:2]) if value.is_floating_point())
    assert all(torch.equal(old, new) for old, new in zip(before, state_of(layers[2:]), strict=True))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "too few"),
        (b"GIF89a" + bytes(100), "not a darknet weight file"),
        (header(old=False) + values_that_fit().tobytes()[:-1], "within a number"),
        (header(old=False) + values_that_fit(TOTAL - 1).tobytes(), "cut off"),
        (header(old=False) + values_that_fit(TOTAL - 7).tobytes(), "cut off"),
        (header(old=False) + values_that_fit(TOTAL + 9).tobytes(), "7 outputs a cell, this one has 6"),
        (header(old=False) + values_that_fit(TOTAL + 5).tobytes(), "from another network"),
        (header(old=False) + np.full(TOTAL, np.nan, dtype="<f4").tobytes(), "not finite"),
        (header(old=False) + np.full(TOTAL, -0.5, dtype="<f4").tobytes(), "negative variances in convolution 0"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, content, reason):
    path = tmp_path / "bad.weights"
    path.write_bytes(content)
    layers = small_layers()
    before = state_of(layers)
    with pytest.raises(DataError, match=reason) as fault:
        load_darknet_weights(layers, path, num_trunk=1)
    assert str(path) in str(fault.value)
    assert all(torch.equal(old, new) for old, new in zip(before, state_of(layers), strict=True))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path, reason in ((tmp_path / "none.weights", "no such weight file"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=reason):
            YoloV2(num_classes=2, backbone="tiny", weights=str(path))


def test_darknet_files_are_for_darknet19(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(header(old=True) + values_that_fit().tobytes())
    with pytest.raises(ConfigError, match="fit backbone darknet19"):
        YoloV2(num_classes=2, backbone="tiny", weights=str(path))
