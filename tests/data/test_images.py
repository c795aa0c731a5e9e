"""Every form of JPEG and PNG that people have, and the bombs that nobody should open."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from focalbench.data.check import check_data
from focalbench.data.images import BrokenImage, open_image, place, to_canvas


def gradient(height=30, width=40):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 128)], -1).astype(np.uint8)


def save(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height, depth=8, color=2):
    body = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunk = b"IHDR" + body
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "RGB"])
def test_every_mode_becomes_rgb(mode):
    image = Image.fromarray(gradient()).convert(mode)
    kind = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    pixels = to_canvas(save(image, kind), 1, (30, 40), "warp")
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(image.convert("RGB"), np.int16)
    assert np.abs(pixels - expected).mean() < 4


def test_transparent_palettes_are_read_without_a_warning():
    image = Image.fromarray(gradient()).quantize(16)
    assert to_canvas(save(image, "PNG", transparency=bytes(range(16))), 1, (30, 40), "warp").shape == (30, 40, 3)


def test_16_bit_samples_are_scaled_not_clipped():
    samples = np.linspace(0, 65535, 30 * 40).reshape(30, 40).astype(np.uint16)
    pixels = to_canvas(save(Image.fromarray(samples), "PNG"), 1, (30, 40), "warp")
    np.testing.assert_allclose(pixels[..., 0], samples / 257, atol=1)
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_exactly(orientation):
    upright = gradient()
    transposed = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]}
    transposed |= {
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }
    stored = np.ascontiguousarray(transposed[orientation](upright))
    np.testing.assert_array_equal(
        to_canvas(save(Image.fromarray(stored), "PNG"), orientation, (30, 40), "warp"), upright
    )


@pytest.mark.parametrize("as_seen", [True, False])
def test_the_size_tag_decides_whether_the_annotator_saw_the_image_turned(voc, xml_of, object_of, as_seen):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = save(Image.fromarray(gradient()), "JPEG", exif=exif)
    voc.list("train", [voc.add("a", image=image, xml=xml_of(object_of(), (30, 40) if as_seen else (40, 30)))])
    from focalbench.data.voc import read_records

    (record,) = read_records(voc.root, ("2007/train",)).records
    assert (record.width, record.height, record.orientation) == ((30, 40, 6) if as_seen else (40, 30, 1))
    assert check_data(voc.root, ("2007/train",)).warnings == ()


def test_an_orientation_that_the_size_cannot_tell_is_warned_of(voc, xml_of, object_of):
    exif = Image.Exif()
    exif[0x0112] = 3
    voc.list("train", [voc.add("a", image=save(Image.fromarray(gradient()), "JPEG", exif=exif))])
    assert [fault.kind for fault in check_data(voc.root, ("2007/train",)).warnings] == ["exif-orientation"]


def test_fast_jpeg_scaling_looks_like_the_slow_way():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (25, 31, 3), np.uint8)).resize((493, 375), Image.Resampling.BICUBIC)
    data = save(coarse, "JPEG", quality=95)
    slow = coarse.resize((61, 47), Image.Resampling.BILINEAR)
    fast = to_canvas(data, 1, (47, 61), "warp")
    assert np.abs(fast.astype(np.int16) - np.asarray(slow, np.int16)).mean() < 2


def test_letterbox_keeps_the_aspect_and_pads_evenly():
    placement = place(40, 20, (64, 64), "letterbox")
    assert (placement.scale_x, placement.scale_y, placement.offset_x, placement.offset_y) == (1.6, 1.6, 0, 16)
    pixels = to_canvas(save(Image.new("RGB", (40, 20), (255, 0, 0)), "PNG"), 1, (64, 64), "letterbox")
    assert (pixels[16:48] == (255, 0, 0)).all()
    assert (pixels[:16] == pixels[0, 0]).all()
    assert pixels[0, 0].tolist() != [255, 0, 0]


def test_extreme_shapes_still_cover_a_pixel():
    pixels = to_canvas(save(Image.new("RGB", (1000, 1)), "PNG"), 1, (32, 32), "letterbox")
    assert pixels.shape == (32, 32, 3)


def broken_files():
    good = save(Image.fromarray(gradient()), "JPEG")
    yield "empty", b""
    yield "text", b"not an image"
    yield "truncated", good[: len(good) // 2]
    yield "header only", good[:30]
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    yield "truncated png", save(Image.fromarray(noise), "PNG")[:2000]
    yield "gif", save(Image.new("L", (4, 4)), "GIF")
    yield "tiff", save(Image.new("L", (4, 4)), "TIFF")
    yield "bomb png", png_header(60_000, 60_000)
    yield "bomb jpeg", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(20)
    yield "no pixels", png_header(0, 5)
    yield "scans", good[:-2] + b"\xff\xda" * 2_000_000 + good[-2:]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in broken_files()])
def test_broken_and_hostile_images_are_refused(voc, data):
    with pytest.raises(BrokenImage):
        to_canvas(data, 1, (32, 32), "warp")
    voc.list("train", [voc.add("a", image=data)])
    (fault,) = check_data(voc.root, ("2007/train",)).errors
    assert fault.kind in {"image-broken", "image-too-large"}
    assert fault.file == "VOC2007/JPEGImages/a.jpg"


def test_only_the_header_is_read_to_refuse_a_bomb():
    with pytest.raises(BrokenImage, match="60000 x 60000"):
        open_image(png_header(60_000, 60_000))
