"""A small VOC data set that a test bends to its will."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encode(pixels: np.ndarray, kind: str = "JPEG", **options) -> bytes:
    """``pixels`` as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_xml(objects: str = "", size: tuple[int, int] | None = (40, 30)) -> str:
    """An annotation with ``objects`` as raw XML."""
    tag = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><folder>VOC2007</folder>{tag}{objects}</annotation>"


def make_object(
    name: str = "cat", box: Sequence[object] = (5, 6, 20, 25), extra: str = "<difficult>0</difficult>"
) -> str:
    """One ``<object>``."""
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    bndbox = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    return f"<object><name>{name}</name>{extra}<bndbox>{bndbox}</bndbox></object>"


class VocMaker:
    """Writes images, annotations and lists below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.year = root / "VOC2007"
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (self.year / name).mkdir(parents=True)

    def add(
        self,
        image_id: str,
        objects: str | None = None,
        *,
        size: tuple[int, int] = (40, 30),
        xml: str | bytes | None = None,
        image: bytes | None = None,
        suffix: str = ".jpg",
    ) -> str:
        """One image of ``size`` (width, height) with its annotation; returns the id."""
        if image is None:
            rng = np.random.default_rng(abs(hash(image_id)) % 2**32)
            image = encode(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
        (self.year / "JPEGImages" / f"{image_id}{suffix}").write_bytes(image)
        text = xml if xml is not None else make_xml(make_object() if objects is None else objects, size)
        data = text if isinstance(text, bytes) else text.encode()
        (self.year / "Annotations" / f"{image_id}.xml").write_bytes(data)
        return image_id

    def list(self, split: str, ids: Sequence[str] | bytes) -> None:
        """The list of a split."""
        data = ids if isinstance(ids, bytes) else "".join(f"{image_id}\n" for image_id in ids).encode()
        (self.year / "ImageSets" / "Main" / f"{split}.txt").write_bytes(data)


@pytest.fixture
def voc(tmp_path: Path) -> VocMaker:
    """An empty data set."""
    return VocMaker(tmp_path / "devkit")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("FOCALBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def xml_of() -> Callable[..., str]:
    """See :func:`make_xml`."""
    return make_xml


@pytest.fixture
def object_of() -> Callable[..., str]:
    """See :func:`make_object`."""
    return make_object


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """See :func:`encode`."""
    return encode
