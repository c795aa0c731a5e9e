"""Every kind of bad, odd and hostile data, one file of a sound set spoilt at a time, and the verdict each must get.

``error``: the check ends with 2 and names the kind. ``warning``: it ends with 0, and the stated repair is told.
``works``: no word is said. ``hostile``: an error too, or accepted as harmless, within bounds of memory and time.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, PngImagePlugin

from injection.voc_set import DOG, HEIGHT, TRAIN, VAL, VICTIM, WIDTH, VocSet, an_object, encoded, picture, size_tag

Group = Literal["error", "warning", "works", "hostile"]
Plant = Callable[[VocSet], object]


@dataclass(frozen=True)
class BadData:
    """One way to spoil a sound set.

    Attributes:
        kinds: of the faults that must be reported, errors or warnings; empty where the data are accepted.
        plant: spoils the set.
        classes: names for ``--classes``, None for those found.
        heavy: takes seconds.
    """

    name: str
    group: Group
    kinds: frozenset[str]
    plant: Plant
    classes: tuple[str, ...] | None = None
    heavy: bool = False


def _cat(**change: object) -> Plant:
    """The victim's cat, changed; the dog stays."""
    return lambda voc: voc.annotate(an_object(**change) + DOG)  # type: ignore[arg-type]


_BOX = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"


def _errors() -> list[tuple[str, str, Plant]]:
    def edited(old: str, new: str) -> Plant:
        return lambda voc: voc.edit(lambda text: text.replace(old, new, 1))

    def respelled(usual: str, rare: str) -> Plant:
        def plant(voc: VocSet) -> None:
            for image_id in (*TRAIN, *VAL):
                voc.annotate(an_object(rare if image_id == VICTIM else usual) + DOG, image_id=image_id)

        return plant

    def empty_val(voc: VocSet) -> None:
        for image_id in VAL:
            voc.annotate("", image_id=image_id)

    return [
        ("x of NaN", "non-finite-box", _cat(box=("nan", 6, 30, 40))),
        ("infinite y", "non-finite-box", _cat(box=(5, 6, 30, "inf"))),
        ("x swapped", "swapped-box", _cat(box=(30, 6, 5, 40))),
        ("y swapped", "swapped-box", _cat(box=(5, 40, 30, 6))),
        ("a word for x", "bad-coordinate", _cat(box=("five", 6, 30, 40))),
        ("an empty coordinate", "bad-coordinate", _cat(box=(5, "", 30, 40))),
        ("no box", "missing-box", lambda voc: voc.edit(lambda text: text.replace("bndbox", "box"))),
        ("no name", "missing-name", _cat(name="")),
        ("difficult: maybe", "bad-difficult", _cat(extra="<difficult>maybe</difficult>")),
        ("class in another case", "class-spelling", _cat(name="Cat")),
        ("no annotation", "missing-annotation", lambda voc: voc.xml().unlink()),
        ("no image", "missing-image", lambda voc: voc.image().unlink()),
        ("three boxes in an object", "repeated-tag", edited("<bndbox>", _BOX * 2 + "<bndbox>")),
        ("two names in an object", "repeated-tag", edited("</name>", "</name><name>puppy</name>")),
        ("two xmin in a box", "repeated-tag", edited("<xmin>", "<xmin>5</xmin><xmin>")),
        ("objects below another tag", "misplaced-tag", lambda voc: voc.annotate(f"<objects>{DOG}</objects>")),
        ("objects in capitals", "misplaced-tag", lambda voc: voc.annotate(DOG.replace("object>", "Object>"))),
        ("a box below the root", "misplaced-tag", lambda voc: voc.annotate(f"<name>cat</name>{_BOX}" + DOG)),
        ("points in place of objects", "misplaced-tag", lambda voc: voc.annotate("<a><points>1,2</points></a>")),
        ("a class in another Unicode form", "class-spelling", respelled("caf\u00e9", "cafe\u0301")),
        ("a class with another separator", "class-spelling", respelled("traffic light", "traffic_light")),
        (
            "a class that train has not",
            "unknown-class",
            lambda voc: voc.annotate(an_object("owl") + DOG, image_id=VAL[0]),
        ),
        ("no object in val", "nothing-to-measure", empty_val),
        ("a list with endings", "list-entry", lambda voc: voc.list("train", [f"{image_id}.jpg" for image_id in TRAIN])),
        ("a list with paths", "list-entry", lambda voc: voc.list("train", [f"JPEGImages/{name}" for name in TRAIN])),
        ("a list in capitals", "list-entry", lambda voc: voc.list("train", [name.upper() for name in TRAIN])),
        ("a list with commas", "list-entry", lambda voc: voc.list("train", [f'"{name}",' for name in TRAIN])),
        ("cut XML", "xml-broken", lambda voc: voc.edit(lambda text: text[: len(text) // 2])),
        ("empty XML", "xml-broken", lambda voc: voc.edit(lambda text: "")),
        ("another root element", "xml-broken", lambda voc: voc.edit(lambda text: text.replace("annotation", "page"))),
        ("half an image", "image-broken", lambda voc: voc.replace_image(encoded(picture())[:2000])),
        ("text for an image", "image-broken", lambda voc: voc.replace_image(b"see attachment")),
        ("an empty image", "image-broken", lambda voc: voc.replace_image(b"")),
        ("an empty list", "bad-split", lambda voc: voc.list("train", ())),
        ("no list", "bad-split", lambda voc: voc.split().unlink()),
        ("a list that is no text", "bad-split", lambda voc: voc.split().write_bytes(b"\x80\x81\xfe")),
        ("no JPEGImages", "bad-split", lambda voc: (voc.year / "JPEGImages").rename(voc.year / "Images")),
    ]


def _empty_train(voc: VocSet) -> None:
    for image_id in TRAIN:
        voc.annotate("", image_id=image_id)


def _warnings() -> list[tuple[str, str, Plant]]:
    def only_difficult(voc: VocSet) -> None:
        for image_id in VAL:
            voc.annotate(an_object(extra="<difficult>1</difficult>") + DOG, image_id=image_id)

    def turned(voc: VocSet) -> None:
        voc.replace_image(_with_orientation(3))

    def twelve_bits(voc: VocSet) -> None:
        samples = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
        voc.replace_image(_png(Image.fromarray(samples)), ".png")

    def renamed(text: str) -> str:
        return text.replace("<size>", f"<filename>{TRAIN[1]}.jpg</filename><size>")

    return [
        ("a box of no width", "zero-size-box", _cat(box=(5, 6, 5, 40))),
        ("a box beyond the border", "box-beyond-border", _cat(box=(5, 6, WIDTH + 9, 40))),
        ("negative x", "box-beyond-border", _cat(box=(-5, 6, 30, 40))),
        ("a box outside", "box-outside", _cat(box=(100, 6, 130, 40))),
        ("an object under 2 px", "tiny-box", _cat(box=(5, 6, 5.5, 40))),
        ("no difficult", "missing-difficult", _cat(extra="")),
        ("another size", "size-differs", lambda voc: voc.annotate(an_object() + DOG, size_tag(300, 200))),
        ("no size", "missing-size", lambda voc: voc.annotate(an_object() + DOG, "")),
        ("a size of zero", "bad-size", lambda voc: voc.annotate(an_object() + DOG, size_tag(0, 0))),
        ("an id twice", "duplicate-id", lambda voc: voc.list("train", (*TRAIN, VICTIM))),
        ("an image of train in val", "train-val-overlap", lambda voc: voc.list("val", (*VAL, VICTIM))),
        (
            "a copy of train in val",
            "train-val-overlap",
            lambda voc: voc.image(VAL[0]).write_bytes(voc.image().read_bytes()),
        ),
        ("an object twice", "duplicate-object", lambda voc: voc.annotate(an_object() * 2 + DOG)),
        ("a class with difficult objects only", "class-without-objects", only_difficult),
        ("a half turn that the size cannot tell", "exif-orientation", turned),
        ("a filename of another image", "other-filename", lambda voc: voc.edit(renamed)),
        ("12-bit samples in 16 bits", "narrow-range", twelve_bits),
        ("two images of one id", "two-images", lambda voc: voc.image(suffix=".png").write_bytes(_png())),
    ]


def _png(image: Image.Image | None = None, **options: object) -> bytes:
    return encoded(image or picture(), "PNG", **options)


def _with_orientation(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(picture(size=size), exif=exif)


def _sound() -> list[tuple[str, Plant]]:
    def as_seen(voc: VocSet) -> None:  # stored on its side, annotated upright
        voc.replace_image(_with_orientation(6, (HEIGHT, WIDTH)))

    def of_mode(mode: str) -> Plant:
        kind, suffix = ("JPEG", ".jpg") if mode in ("L", "CMYK") else ("PNG", ".png")
        return lambda voc: voc.replace_image(encoded(picture().convert(mode), kind), suffix)

    def sixteen_bit(voc: VocSet) -> None:
        samples = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
        voc.replace_image(_png(Image.fromarray(samples)), ".png")

    def namespaced(text: str) -> str:
        return text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">')

    nowhere = "<filename>C:\\photos\\DSC_0001.JPG</filename>"

    def shapes(voc: VocSet) -> None:
        beside = "<polygon><x1>1</x1></polygon><points>1,2</points><actions><jumping>1</jumping></actions>"
        voc.annotate(an_object(extra=f"<difficult>0</difficult>{beside}") + DOG)

    def parts(voc: VocSet) -> None:
        part = "<part><name>head</name><bndbox><xmin>-9</xmin></bndbox></part>"
        voc.annotate(an_object().replace("</object>", f"{part}</object>") + DOG)

    def many(voc: VocSet) -> None:
        boxes = [(1 + i % 30, 1 + i // 30, 32 + i % 30, 30 + i // 30) for i in range(300)]
        voc.annotate("".join(an_object("dog", box) for box in boxes))

    def relist(change: Callable[[str], bytes]) -> Plant:
        return lambda voc: voc.split().write_bytes(change(voc.split().read_text()))

    def suffixed(suffix: str) -> Plant:
        return lambda voc: voc.replace_image(encoded(picture()), suffix)

    return [
        ("a box on the border", _cat(box=(1, 1, WIDTH, HEIGHT))),
        ("a box within a pixel of the border", _cat(box=(0, 0, WIDTH + 1, HEIGHT + 1))),
        ("an image without objects", lambda voc: voc.annotate("")),
        ("a list with CRLF", relist(lambda text: text.replace("\n", "\r\n").encode())),
        ("a list with blank lines", relist(lambda text: text.replace("\n", "\n\n  \n").encode())),
        ("a list with a BOM", relist(lambda text: b"\xef\xbb\xbf" + text.encode())),
        ("a list in UTF-16", relist(lambda text: text.encode("utf-16"))),
        ("a per-class list", relist(lambda text: text.replace("\n", "  1\n", 2).replace("2\n", "2 -1\n").encode())),
        ("XML in UTF-16", lambda voc: voc.edit(lambda text: text.encode("utf-16"))),
        (
            "XML in Latin-1",
            lambda voc: voc.edit(lambda text: f'<?xml version="1.0" encoding="latin-1"?>{text}'.encode("latin-1")),
        ),
        ("XML with a BOM and CRLF", lambda voc: voc.edit(lambda text: f"\ufeff{text}".replace("><", ">\r\n<"))),
        ("XML with a namespace", lambda voc: voc.edit(namespaced)),
        ("parts of an object", parts),
        ("EXIF rotation as annotated", as_seen),
        ("a filename of no image", lambda voc: voc.edit(lambda text: text.replace("<size>", f"{nowhere}<size>"))),
        ("other shapes beside a box", shapes),
        ("a PNG with a profile of 3 MiB", lambda voc: voc.replace_image(_png(icc_profile=bytes(3 * 2**20)), ".png")),
        ("a JPEG with broken EXIF", lambda voc: voc.replace_image(encoded(picture(), exif=b"Exif\0\0MM\0*\xff"))),
        ("a gray image", of_mode("L")),
        ("a CMYK image", of_mode("CMYK")),
        ("an RGBA image", of_mode("RGBA")),
        ("a palette image", of_mode("P")),
        ("a 16-bit PNG", sixteen_bit),
        ("a progressive JPEG", lambda voc: voc.replace_image(encoded(picture(), progressive=True))),
        (".png", lambda voc: voc.replace_image(_png(), ".png")),
        (".jpeg", suffixed(".jpeg")),
        (".JPG", suffixed(".JPG")),
        ("float coordinates", _cat(box=("5.25", "6.5", "30.75", "4.0e1"))),
        ("spaces in a name", lambda voc: voc.rename("a cat and a dog 1")),
        ("unicode in a name", lambda voc: voc.rename("Hündchen-猫")),
        ("300 objects in an image", many),
    ]


def _hostile() -> list[tuple[str, str, Plant]]:
    def prologue(text: str) -> Plant:
        return lambda voc: voc.edit(lambda xml: text + xml.replace("cat", "&a;"))

    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))

    def sparse(name: str, size: int) -> Plant:
        def plant(voc: VocSet) -> None:
            path = voc.year / name
            path.unlink()
            with path.open("wb") as file:
                file.truncate(size)

        return plant

    def special(name: str, make: Callable[[str], object]) -> Plant:
        def plant(voc: VocSet) -> None:
            path = voc.year / name
            path.unlink()
            make(str(path))

        return plant

    def listed(line: str) -> Plant:
        return lambda voc: voc.list("train", (line, *TRAIN[1:]))

    def linked_folder(voc: VocSet) -> None:
        (voc.year / "Annotations").rename(voc.root.parent / f"{voc.root.name}-elsewhere")
        (voc.year / "Annotations").symlink_to(voc.root.parent / f"{voc.root.name}-elsewhere")

    def looping_folder(voc: VocSet) -> None:
        (voc.year / "JPEGImages").rename(voc.year / "images")
        (voc.year / "JPEGImages").symlink_to(voc.year / "JPEGImages")

    def many_lines(voc: VocSet) -> None:
        voc.split().write_text(f"{VICTIM}\n" * 500_001)

    image, xml, split = f"JPEGImages/{VICTIM}.jpg", f"Annotations/{VICTIM}.xml", "ImageSets/Main/train.txt"
    return [
        ("a billion laughs", "xml-refused", prologue(f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]>')),
        ("an external entity", "xml-refused", prologue('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>')),
        ("an external DTD", "xml-refused", prologue('<!DOCTYPE a SYSTEM "http://localhost:9/evil.dtd">')),
        ("a parameter entity", "xml-refused", prologue('<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///dev/zero"> %p;]>')),
        ("6000 objects", "too-many-objects", lambda voc: voc.annotate("<object/>" * 6000)),
        ("a PNG of 60000 x 60000", "image-too-large", lambda voc: voc.replace_image(_png_of_zeros(60_000, 60_000, 9))),
        ("a JPEG of 65535 x 65535", "image-too-large", lambda voc: voc.replace_image(_jpeg_header(65_535, 65_535))),
        ("a JPEG of two million scans", "image-too-large", lambda voc: voc.replace_image(_many_scans())),
        ("FITS named .jpg", "image-broken", lambda voc: voc.replace_image(_fits())),
        ("PostScript named .jpg", "image-broken", lambda voc: voc.replace_image(b"%!PS-Adobe-3.0 EPSF-3.0\n")),
        ("a GIF named .jpg", "image-broken", lambda voc: voc.replace_image(encoded(picture(), "GIF"))),
        ("a TIFF named .jpg", "image-broken", lambda voc: voc.replace_image(encoded(picture(), "TIFF"))),
        ("an image of 1 TB", "too-large", sparse(image, 2**40)),
        ("an annotation of 1 TB", "too-large", sparse(xml, 2**40)),
        ("a list of 1 TB", "bad-split", sparse(split, 2**40)),
        ("a list of 500,001 lines", "bad-split", many_lines),
        ("a FIFO for an image", "not-a-file", special(image, os.mkfifo)),
        ("a FIFO for an annotation", "not-a-file", special(xml, os.mkfifo)),
        ("a FIFO for a list", "bad-split", special(split, os.mkfifo)),
        ("a folder for an image", "not-a-file", special(image, os.mkdir)),
        ("an image linked to itself", "unreadable", special(image, lambda path: os.symlink(path, path))),
        ("an annotation linked to itself", "unreadable", special(xml, lambda path: os.symlink(path, path))),
        ("a list linked to itself", "bad-split", special(split, lambda path: os.symlink(path, path))),
        ("a folder linked to itself", "bad-split", looping_folder),
        ("an image linked to /dev/zero", "outside", special(image, lambda path: os.symlink("/dev/zero", path))),
        ("an annotation linked outside", "outside", special(xml, lambda path: os.symlink("/etc/hostname", path))),
        ("a folder linked outside", "bad-split", linked_folder),
        ("an id with ..", "bad-id", listed("../../VOC2007/JPEGImages/train1")),
        ("an absolute id", "bad-id", listed("/etc/hostname")),
        ("an id with a backslash", "bad-id", listed("a\\b")),
        ("an id with a control character", "bad-id", listed("a\x1b[2Jb")),
        ("an id of 5000 characters", "bad-id", listed("x" * 5000)),
        ("a class name with ..", "bad-name", _cat(name="../../cat")),
        ("a class name with /", "bad-name", _cat(name="a/b")),
        ("a class name of 5000 characters", "bad-name", _cat(name="c" * 5000)),
        ("a class name that turns the text", "bad-name", _cat(name="c\u202eat")),
    ]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of_zeros(width: int, height: int, rows: int) -> bytes:
    """A gray PNG, about a kB for each million of pixels, of which only the first ``rows`` rows are there."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _jpeg_header(width: int, height: int) -> bytes:
    good = encoded(picture())
    place = good.index(b"\xff\xc0") + 5
    return good[:place] + struct.pack(">HH", height, width) + good[place + 4 :]


def _many_scans() -> bytes:
    good = encoded(picture(), progressive=True)
    return good[:-2] + b"\xff\xda" * 2_000_000 + good[-2:]


def _bomb_in_comment(voc: VocSet) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "0" * 200_000_000, zip=True)
    voc.replace_image(_png(pnginfo=info), ".png")


def _fits() -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2"]
    cards += ["NAXIS1  =                60000", "NAXIS2  =                60000", "END"]
    return "".join(card.ljust(80) for card in cards).encode().ljust(2880)


def _wide(voc: VocSet) -> None:
    voc.edit(lambda text: text.replace("</annotation>", "<a/>" * 1_000_000 + "</annotation>"))


def _deep(voc: VocSet) -> None:
    voc.edit(lambda text: text.replace("</annotation>", "<a>" * 500_000 + "</a>" * 500_000 + "</annotation>"))


def _largest_images(voc: VocSet) -> None:
    """Every image as large as is accepted: the most memory that a check can be made to use."""
    content = _png_of_zeros(8000, 8000, 8000)
    for image_id in TRAIN:
        voc.image(image_id).unlink()
        voc.image(image_id, ".png").write_bytes(content)
        voc.annotate(an_object() + DOG, size_tag(8000, 8000), image_id)


def _cases() -> tuple[BadData, ...]:
    cases = [BadData(name, "error", frozenset({kind}), plant) for name, kind, plant in _errors()]
    listed = ("cat", "dog")
    cases += [
        BadData("a class that is not listed", "error", frozenset({"unknown-class"}), _cat(name="zebra"), listed),
        BadData("a listed class in another case", "error", frozenset({"unknown-class"}), _cat(name="CAT"), listed),
        BadData("no object to learn from", "error", frozenset({"nothing-to-learn"}), _empty_train),
    ]
    cases += [BadData(name, "warning", frozenset({kind}), plant) for name, kind, plant in _warnings()]
    cases += [BadData(name, "works", frozenset(), plant) for name, plant in _sound()]
    cases += [BadData(name, "hostile", frozenset({kind}), plant) for name, kind, plant in _hostile()]
    harmless = frozenset[str]()
    cases += [
        BadData("XML of a million elements", "hostile", harmless, _wide, heavy=True),
        BadData("XML half a million levels deep", "hostile", harmless, _deep, heavy=True),
        BadData("six images of 64 million pixels", "hostile", harmless, _largest_images, heavy=True),
        BadData("a PNG with a bomb for a comment", "hostile", harmless, _bomb_in_comment, heavy=True),
    ]
    return tuple(cases)


CASES = _cases()
