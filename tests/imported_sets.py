"""One small data set, written in every format that can be imported, and bent where a test wants it."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

SIZE = (40, 30)


@dataclass(frozen=True)
class Picture:
    """An image: where it lies, what its annotation calls it, and objects (class, four VOC edges[, difficult])."""

    name: str
    split: str = "train"
    objects: Sequence[tuple] = field(default=(("cat", 5, 6, 20, 25),))
    listed: str | None = None
    shade: int = 0

    @property
    def called(self) -> str:
        return self.name if self.listed is None else self.listed


PICTURES = (
    Picture("a.jpg", "train", (("cat", 5, 6, 20, 25), ("dog", 1, 1, 40, 30)), shade=10),
    Picture("b.png", "train", (), shade=20),
    Picture("c.jpg", "val", (("dog", 11, 2, 13, 30),), shade=30),
    Picture("d.jpg", "test", (("cat", 2, 3, 4, 5),), shade=40),
)


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (shade, 90, 120)).save(path)


def xywh(item: tuple) -> list[float]:
    _, left, top, right, bottom, *_ = item
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]


def write_coco(folder: Path, pictures: Sequence[Picture]) -> None:
    """images/ and annotations/instances_SPLIT.json; ids have gaps, and one category is never used."""
    ids = {"cat": 3, "dog": 17, "unused": 90}
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(picture.split for picture in pictures):
        document = {"images": [], "annotations": [], "categories": [{"id": n, "name": name} for name, n in ids.items()]}
        for number, picture in enumerate(each for each in pictures if each.split == split):
            write_image(folder / "images" / picture.name, picture.shade)
            entry = {"id": 10 * number, "file_name": picture.called, "width": SIZE[0], "height": SIZE[1]}
            document["images"].append(entry)
            for item in picture.objects:
                crowd = int(len(item) > 5 and item[5])
                annotation = {"id": len(document["annotations"]), "image_id": 10 * number, "bbox": xywh(item)}
                document["annotations"].append(annotation | {"category_id": ids.get(item[0], 999), "iscrowd": crowd})
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


def write_yolo(folder: Path, pictures: Sequence[Picture]) -> None:
    """images/, labels/, lists of paths and data.yaml; an image without objects has no label file."""
    names = {"cat": 0, "dog": 1}
    folder.mkdir(parents=True)
    lists: dict[str, list[str]] = {}
    for picture in pictures:
        write_image(folder / "images" / picture.name, picture.shade)
        called = picture.called
        lists.setdefault(picture.split, []).append(called if picture.listed else f"./images/{called}")
        lines = []
        for item in picture.objects:
            x, y, width, height = xywh(item)
            shares = ((x + width / 2) / SIZE[0], (y + height / 2) / SIZE[1], width / SIZE[0], height / SIZE[1])
            lines.append(" ".join([str(names.get(item[0], 9)), *(f"{share:.6f}" for share in shares)]))
        if lines:
            labels = (folder / "labels" / picture.name).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("\n".join(lines) + "\n")
    text = "".join(f"{split}: {split}.txt\n" for split in lists)
    for split, lines in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text(f"{text}nc: 2\nnames: ['cat', 'dog']\n")


def write_voc_flat(folder: Path, pictures: Sequence[Picture]) -> None:
    """SPLIT/ with images and XML side by side."""
    for picture in pictures:
        path = folder / picture.split / picture.name
        write_image(path, picture.shade)
        objects = ""
        for name, *box in picture.objects:
            edges = "".join(f"<{e}>{v}</{e}>" for e, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
            flag = int(len(box) > 4 and box[4])
            objects += f"<object><name>{name}</name><difficult>{flag}</difficult><bndbox>{edges}</bndbox></object>"
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{path.name}</filename>{size}{objects}</annotation>"
        path.with_suffix(".xml").write_text(text)


def write_cvat(folder: Path, pictures: Sequence[Picture]) -> None:
    """annotations.xml and images/."""
    images = ""
    for number, picture in enumerate(pictures):
        write_image(folder / "images" / picture.name, picture.shade)
        shapes = ""
        for name, left, top, right, bottom, *flag in picture.objects:
            attribute = '<attribute name="difficult">true</attribute>' if flag and flag[0] else ""
            shapes += f'<box label="{name}" occluded="0" xtl="{left - 1:.2f}" ytl="{top - 1:.2f}" xbr="{right:.2f}" '
            shapes += f'ybr="{bottom:.2f}" z_order="0">{attribute}</box>'
        images += f'<image id="{number}" name="{picture.called}" subset="{picture.split}" width="{SIZE[0]}" '
        images += f'height="{SIZE[1]}">{shapes}</image>'
    meta = "<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>"
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{meta}{images}</annotations>")


def write_labelme(folder: Path, pictures: Sequence[Picture]) -> None:
    """SPLIT/ with images and JSON side by side."""
    for picture in pictures:
        path = folder / picture.split / picture.name
        write_image(path, picture.shade)
        shapes = [
            {
                "label": name,
                "points": [[right, bottom], [left - 1, top - 1]],  # drawn from the lower right
                "shape_type": "rectangle",
                "flags": {"difficult": True} if flag and flag[0] else {},
            }
            for name, left, top, right, bottom, *flag in picture.objects
        ]
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        document |= {"imagePath": picture.listed or path.name, "imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        path.with_suffix(".json").write_text(json.dumps(document))


WRITERS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc-flat": write_voc_flat,
    "cvat": write_cvat,
    "labelme": write_labelme,
}


def digest(folder: Path) -> str:
    """Of all names, links, times of change and bytes below ``folder``."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)} {path.lstat().st_mtime_ns}".encode("utf-8", "surrogateescape"))
        if path.is_symlink():
            found.update(os.readlink(path).encode())
        elif path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()
