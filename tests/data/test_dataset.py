"""Canvas and original pixels, and what of an annotation reaches training and evaluation."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from focalbench.data.dataset import load_data


@pytest.fixture
def mixed(voc, object_of):
    objects = object_of("dog", (1, 1, 40, 30)) + object_of("cat", (11, 7, 20, 12), "<difficult>1</difficult>")
    ids = [
        voc.add("a", objects),
        voc.add("b", ""),
        voc.add("c", object_of("cat", (2.5, 3, 10, 12)) * 3, size=(20, 60)),
    ]
    voc.list("train", ids)
    return voc


def load(voc, image_size=(60, 80), **options):
    return load_data(voc.root, ("2007/train",), "auto", image_size, **options)


def test_a_box_that_covers_the_image_covers_the_canvas(mixed):
    targets = load(mixed).targets([0])
    assert targets.boxes.tolist() == [[[0, 0, 80, 60]]]
    assert targets.labels.tolist() == [[1]]


def test_difficult_objects_are_kept_out_of_training_and_in_the_ground_truth(mixed):
    data = load(mixed)
    assert (data.targets([0]).labels >= 0).sum() == 1
    truth = data.ground_truth()
    assert truth["image"].tolist() == [0, 0, 2, 2, 2]
    assert truth["label"].tolist() == [1, 0, 0, 0, 0]
    assert truth["difficult"].tolist() == [False, True, False, False, False]
    np.testing.assert_array_equal(truth["box"][1], [11, 7, 20, 12])


def test_targets_are_padded_to_the_longest_and_never_to_nothing(mixed):
    data = load(mixed)
    targets = data.targets([1, 2])
    assert targets.boxes.shape == (2, 3, 4)
    assert targets.labels.tolist() == [[-1, -1, -1], [0, 0, 0]]
    assert targets.boxes[0].abs().sum() == 0
    assert data.targets([1]).labels.tolist() == [[-1]]
    assert (targets.boxes.dtype, targets.labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("fit", ["warp", "letterbox"])
@pytest.mark.parametrize("image_size", [64, (60, 80), (33, 97)])
def test_to_original_undoes_the_way_to_the_canvas(mixed, fit, image_size):
    data = load(mixed, image_size, fit=fit)
    for index, record in enumerate(data.records):
        targets = data.targets([index])
        boxes = targets.boxes[0][targets.labels[0] >= 0]
        np.testing.assert_allclose(data.to_original(index, boxes), record.boxes[~record.difficult], atol=1e-4)


def test_to_original_cuts_at_the_image(mixed):
    data = load(mixed, fit="letterbox", image_size=64)
    found = data.to_original(0, torch.tensor([[-50.0, -50, 200, 200]]))
    np.testing.assert_allclose(found, [[1, 1, 40, 30]])
    assert data.to_original(0, torch.zeros(0, 4)).shape == (0, 4)


def test_boxes_follow_the_pixels(voc, object_of, encoded):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[5:25, 4:20] = 255  # VOC's (5, 6, 20, 25)
    voc.list("train", [voc.add("a", object_of(), image=encoded(pixels, "PNG"), suffix=".png")])
    for fit in ("warp", "letterbox"):
        data = load(voc, 120, fit=fit)
        images, targets = data.batch([0])
        left, top, right, bottom = targets.boxes[0, 0].round().int().tolist()
        inside = images[0, 0, top:bottom, left:right]
        assert inside.float().mean() > 240
        lit = (images[0, 0] > 127).nonzero()
        assert lit.min(0).values.tolist() == pytest.approx([top, left], abs=1)
        assert lit.max(0).values.tolist() == pytest.approx([bottom - 1, right - 1], abs=1)


def test_batches_are_uint8_in_channels_last_memory(mixed):
    images, _ = load(mixed).batch(np.array([2, 0]))
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 60, 80)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_val_takes_the_classes_of_train(mixed):
    mixed.list("val", ["c"])
    train = load(mixed)
    val = load_data(mixed.root, ("2007/val",), train.classes, 64)
    assert val.classes == ("cat", "dog")


def test_memory_is_pinned_for_the_gpu_that_will_fetch_it_whatever_the_thread_is_on(mixed, monkeypatch):
    current, pinned_on = [0], []

    @contextmanager
    def on(device):
        before, current[0] = current[0], torch.device(device).index
        yield
        current[0] = before

    def pin(tensor):
        pinned_on.append(current[0])
        return tensor.clone()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    load(mixed, cache="disk").load([2, 0], "cuda:1")
    assert pinned_on == [1, 1, 1]
    assert current == [0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_batch(mixed):
    for cache in ("auto", "disk", "device"):
        data = load(mixed, cache=cache)
        images, targets = data.batch([2, 0], "cuda")
        expected, expected_targets = data.batch([2, 0])
        torch.testing.assert_close(images.cpu(), expected)
        torch.testing.assert_close(targets.boxes.cpu(), expected_targets.boxes)
