"""Boxes follow pixels whatever is drawn, on both paths, and nothing depends on anything but the generator."""

import numpy as np
import pytest
import torch

from focalbench.data.images import PAD_COLOR
from focalbench.data.loader import step_generator
from focalbench.data.transforms import (
    MEAN,
    STD,
    Augment,
    Windows,
    _color_each,
    _resize_each,
    _warp_batch,
    normalise,
)
from focalbench.structures import Targets

HEIGHT, WIDTH = 48, 64


def make_batch(boxes, height=HEIGHT, width=WIDTH):
    """Gray images with one white box each, and their targets."""
    images = torch.full((len(boxes), height, width, 3), 60, dtype=torch.uint8)
    for image, (left, top, right, bottom) in zip(images, boxes, strict=True):
        image[top:bottom, left:right] = 250
    labels = torch.arange(len(boxes))[:, None]
    return images.permute(0, 3, 1, 2), Targets(torch.tensor(boxes, dtype=torch.float32)[:, None], labels)


def random_boxes(number=32, seed=0):
    rng = np.random.default_rng(seed)
    low = np.stack([rng.integers(4, 30, number), rng.integers(4, 20, number)], 1)
    return np.concatenate([low, low + rng.integers(10, 24, (number, 2))], 1).tolist()


def test_normalise_matches_the_formula():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(normalise(images), expected)


def test_nothing_switched_on_is_normalisation_alone():
    images, targets = make_batch(random_boxes())
    out, kept = Augment(flip=0.0, crop=False, color=False)(images, targets, step_generator(0, 0))
    torch.testing.assert_close(out, normalise(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept.boxes, targets.boxes)
    assert torch.equal(kept.labels, targets.labels)


def test_a_certain_flip_mirrors_pixels_and_boxes():
    images, targets = make_batch(random_boxes())
    out, kept = Augment(flip=1.0, crop=False, color=False)(images, targets, step_generator(0, 0))
    torch.testing.assert_close(out, normalise(images).flip(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept.boxes[..., 0], WIDTH - targets.boxes[..., 2])
    torch.testing.assert_close(kept.boxes[..., 2], WIDTH - targets.boxes[..., 0])


def edges_of(image):
    """Where the white box of a normalised image lies, to half a pixel, by its 50 % level."""
    lit = (image[0] * STD[0] + MEAN[0] > 155).nonzero()
    (top, left), (bottom, right) = lit.min(0).values.tolist(), lit.max(0).values.tolist()
    return [left, top, right + 1, bottom + 1]


@pytest.mark.parametrize("batched", [False, True])
def test_boxes_stay_on_their_pixels(batched):
    images, targets = make_batch(random_boxes())
    augment = Augment(color=False, min_area=0.0)
    out, kept = augment(images, targets, step_generator(3, 1))
    if batched:  # a GPU's way, on a CPU
        draws = torch.rand((len(images), 8), generator=step_generator(3, 1))
        windows = augment._draw_windows(draws, HEIGHT, WIDTH)
        out = _warp_batch(images, *windows.affine(WIDTH), *augment._draw_color(draws))
    checked = 0
    for image, boxes, labels in zip(out, kept.boxes, kept.labels, strict=True):
        if labels[0] >= 0 and (boxes[0, 2:] - boxes[0, :2]).min() > 3:
            assert edges_of(image) == pytest.approx(boxes[0].tolist(), abs=1.01)
            checked += 1
    assert checked > 20


def test_both_paths_give_almost_the_same_images():
    # The CPU smooths where it shrinks, the GPU does not: compared on images without fine detail.
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand((16, 3, 5, 6), generator=rng) * 255
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 255).byte()
    images = smooth.contiguous(memory_format=torch.channels_last)
    augment = Augment()
    out, _ = augment(images, Targets(torch.zeros(16, 1, 4), torch.full((16, 1), -1)), step_generator(0, 0))
    draws = torch.rand((16, 8), generator=step_generator(0, 0))
    windows = augment._draw_windows(draws, HEIGHT, WIDTH)
    warped = _warp_batch(images, *windows.affine(WIDTH), *augment._draw_color(draws))
    assert (out - warped).abs().mean() < 0.03
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert warped.is_contiguous(memory_format=torch.channels_last)


def test_the_batched_path_is_an_affine_map_and_a_matrix_to_within_rounding():
    """Both in float64 by torch's own functions; the pad colour is what lies outside."""
    images = torch.randint(0, 256, (16, HEIGHT, WIDTH, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    augment, draws = Augment(), torch.rand((16, 8), generator=step_generator(0, 0))
    zoom, shift = augment._draw_windows(draws, HEIGHT, WIDTH).affine(WIDTH)
    matrix, offset = augment._draw_color(draws)
    found = _warp_batch(images, zoom, shift, matrix, offset)
    inverse = 1 / zoom.double()
    move = inverse - 1 - 2 * shift.double() * inverse / torch.tensor([WIDTH, HEIGHT])
    theta = torch.cat([torch.diag_embed(inverse), move[..., None]], dim=2)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    pad = torch.tensor(PAD_COLOR, dtype=torch.float64).view(3, 1, 1)
    moved = torch.nn.functional.grid_sample(images.double() - pad, grid, align_corners=False) + pad
    expected = torch.einsum("bij,bjhw->bihw", matrix.double(), moved) + offset.double()[..., None, None]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("start", "corner", "taken", "flipped"),
    [
        ((0, 0), (0, 0), (WIDTH, HEIGHT), False),
        ((0, 0), (0, 0), (WIDTH, HEIGHT), True),
        ((7, 3), (0, 0), (40, 30), False),
        ((0, 5), (9, 2), (50, 40), True),
    ],
)
def test_both_paths_agree_where_nothing_is_resampled(start, corner, taken, flipped):
    """As they are, mirrored, and moved by whole pixels."""
    images = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    pairs = (torch.tensor([pair, pair]) for pair in (start, taken, corner, taken))
    windows = Windows(*pairs, torch.tensor([flipped, flipped]))
    matrix, offset = Augment()._draw_color(torch.rand((2, 8), generator=step_generator(0, 0)))
    expected = _color_each(_resize_each(images, windows), matrix, offset)
    found = _warp_batch(images, *windows.affine(WIDTH), matrix, offset)
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)  # further out one path cuts, the other one shows the image
    left = WIDTH - corner[0] - taken[0] if flipped else corner[0]
    inside[corner[1] : corner[1] + taken[1], left : left + taken[0]] = True
    torch.testing.assert_close(found[..., inside], expected[..., inside], atol=1e-3, rtol=0)


def test_magnification_and_aspect_stay_in_their_ranges():
    augment = Augment(scale=(0.7, 1.7), aspect=0.15)
    windows = augment._draw_windows(torch.rand((4000, 8), generator=torch.Generator().manual_seed(0)), 512, 512)
    zoom, shift = windows.affine(512)
    area, aspect = zoom.abs().prod(1).sqrt(), zoom[:, 0].abs() / zoom[:, 1]
    assert 0.69 < area.min() < 0.72
    assert 1.67 < area.max() < 1.72
    assert 0.84 < aspect.min() < 0.87
    assert 1.13 < aspect.max() < 1.17
    assert 0.45 < (zoom[:, 0] < 0).float().mean() < 0.55
    # The image covers the canvas where it is magnified and lies on it whole where it is not.
    corners = torch.stack([shift, zoom * 512 + shift], 1)
    low, high = corners.amin(1), corners.amax(1)
    grown = zoom.abs() >= 1
    assert (low[grown] <= 0.01).all()
    assert (high[grown] >= 511.99).all()
    assert (low[~grown] >= -0.01).all()
    assert (high[~grown] <= 512.01).all()


def test_boxes_with_too_little_left_are_dropped_and_the_rest_moves_up():
    augment = Augment(min_area=0.35)
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 10, 30, 20], [0, 0, 10, 10], [0, 0, 0, 0]]])
    targets = Targets(boxes, torch.tensor([[4, 5, 6, -1]]))
    # Everything moves left by 6.6: the first and third keep 34 %.
    kept = augment._map_targets(targets, torch.ones(1, 2), torch.tensor([[-6.6, 0.0]]), HEIGHT, WIDTH)
    assert kept.labels.tolist() == [[5, -1, -1, -1]]
    torch.testing.assert_close(kept.boxes[0, 0], torch.tensor([13.4, 10, 23.4, 20]))
    assert kept.boxes[0, 1:].abs().sum() == 0
    kept = augment._map_targets(targets, torch.ones(1, 2), torch.tensor([[-6.4, 0.0]]), HEIGHT, WIDTH)
    assert kept.labels.tolist() == [[4, 5, 6, -1]]
    assert kept.boxes[0, 0].tolist() == pytest.approx([0, 0, 3.6, 10])


def test_brightness_contrast_and_saturation_do_what_they_say():
    images = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(64, 3, 8, 8)
    targets = Targets(torch.zeros(64, 1, 4), torch.full((64, 1), -1))
    std, mean = torch.tensor(STD), torch.tensor(MEAN)

    def colors(**jitter):
        options = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0} | jitter
        out, _ = Augment(flip=0.0, crop=False, **options)(images, targets, step_generator(0, 0))
        return out[:, :, 4, 4] * std + mean

    rgb = torch.tensor([200.0, 100, 50])
    factors = colors(brightness=0.2) / rgb
    assert factors.std(1).max() < 1e-4
    assert 0.8 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2
    contrasts = (colors(contrast=0.2) - mean) / (rgb - mean)
    assert contrasts.std(1).max() < 1e-3
    gray = (rgb * torch.tensor([0.299, 0.587, 0.114])).sum()
    saturations = (colors(saturation=0.2) - gray) / (rgb - gray)
    assert saturations.std(1).max() < 1e-3
    assert 0.8 <= saturations.min() < 1 < saturations.max() <= 1.2 + 1e-5


def test_equal_generators_give_equal_batches_and_others_do_not():
    images, targets = make_batch(random_boxes())
    augment = Augment()
    first, boxes = augment(images, targets, step_generator(7, 5))
    again, same = augment(images, targets, step_generator(7, 5))
    assert torch.equal(first, again)
    assert torch.equal(boxes.boxes, same.boxes)
    assert not torch.equal(first, augment(images, targets, step_generator(7, 6))[0])
    assert not torch.equal(first, augment(images, targets, step_generator(8, 5))[0])


def test_switching_colour_off_leaves_the_geometry():
    images, targets = make_batch(random_boxes())
    _, with_color = Augment()(images, targets, step_generator(0, 0))
    _, without = Augment(color=False)(images, targets, step_generator(0, 0))
    assert torch.equal(with_color.boxes, without.boxes)


def test_images_without_objects_pass():
    images, _ = make_batch(random_boxes(3))
    targets = Targets(torch.zeros(3, 2, 4), torch.full((3, 2), -1))
    out, kept = Augment()(images, targets, step_generator(0, 0))
    assert out.isfinite().all()
    assert (kept.labels == -1).all()
    assert kept.boxes.abs().sum() == 0


def test_odd_canvases_work():
    images, targets = make_batch([[5, 6, 20, 25]] * 3, 33, 47)
    out, _ = Augment()(images, targets, step_generator(0, 0))
    assert out.shape == (3, 3, 33, 47)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_almost_the_same_batch():
    images, targets = make_batch(random_boxes())
    expected, boxes = Augment()(images, targets, step_generator(0, 0))
    out, kept = Augment()(images.cuda(), targets.to("cuda"), step_generator(0, 0))
    torch.testing.assert_close(kept.boxes.cpu(), boxes.boxes, atol=1e-3, rtol=1e-3)
    assert (out.cpu() - expected).abs().mean() < 0.1
