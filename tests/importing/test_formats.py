"""Every format brings the same set: boxes to the pixel, classes, flags, empty images, splits."""

import json

import numpy as np
import pytest
from imported_sets import PICTURES, SIZE, Picture, write_image, xywh
from PIL import Image

from focalbench.data.check import check_data
from focalbench.data.files import default_splits
from focalbench.data.voc import read_records
from focalbench.errors import DataError
from focalbench.importing.convert import import_data


def boxes_of(root, split):
    """{id: [(class, box, difficult), ...]} as focalbench reads them."""
    found = read_records(root, (f"1/{split}",), ("cat", "dog"))
    return {
        record.image_id: [
            (found.classes[label], *box, flag)
            for label, box, flag in zip(record.labels, record.boxes.tolist(), record.difficult.tolist(), strict=True)
        ]
        for record in found.records
    }


def expected(split):
    members = ("train", "val") if split == "trainval" else (split,)
    return {
        picture.name.split(".")[0]: [(*item[:5], len(item) > 5 and item[5]) for item in picture.objects]
        for picture in PICTURES
        if picture.split in members
    }


def test_a_set_comes_back_to_the_pixel_with_its_splits(format, write_set, unchanged, tmp_path):
    report = import_data(unchanged(write_set(format)), tmp_path / "root")
    assert report.plan.errors == []
    for split in ("train", "val", "trainval", "test"):
        assert boxes_of(tmp_path / "root", split) == expected(split)
    assert default_splits(tmp_path / "root") == (("1/trainval",), ("1/test",))
    assert not check_data(tmp_path / "root", ("1/trainval",), ("1/test",), ("cat", "dog")).errors
    kept = json.loads((tmp_path / "root" / "import.json").read_text())
    assert (kept["images"], kept["empty_images"], kept["objects"]) == (4, 1, 4)
    assert {name: kept["classes"][name] for name in ("cat", "dog")} == {"cat": 2, "dog": 2}


def test_difficult_objects_and_crowds_are_difficult(format, write_set, tmp_path):
    if format == "yolo":
        pytest.skip("YOLO's lines have no place for it")
    pictures = (Picture("a.jpg", objects=(("cat", 5, 6, 20, 25), ("dog", 7, 8, 9, 10, True))),)
    import_data(write_set(format, pictures), tmp_path / "root")
    assert boxes_of(tmp_path / "root", "train")["a"] == [("cat", 5, 6, 20, 25, False), ("dog", 7, 8, 9, 10, True)]


def test_images_are_hard_links_or_copies_on_request(format, write_set, tmp_path):
    source = write_set(format)
    assert import_data(source, tmp_path / "linked").files == {"links": 4, "copies": 0}
    assert import_data(source, tmp_path / "copied", copy=True).files == {"links": 0, "copies": 4}
    for name, shared in (("linked", True), ("copied", False)):
        for image in (tmp_path / name / "VOC1" / "JPEGImages").iterdir():
            assert not image.is_symlink()
            assert (image.stat().st_nlink > 1) == shared


def test_two_images_of_one_name_get_an_id_each(format, write_set, tmp_path):
    pictures = (Picture("x/a.jpg", "train", shade=1), Picture("y/a.jpg", "train", (("dog", 1, 2, 8, 9),), shade=2))
    report = import_data(write_set(format, pictures), tmp_path / "root")
    renamed = {name: image_id for image_id, name in report.plan.renamed.items()}
    first, second = (next(renamed[name] for name in renamed if f"{folder}/a.jpg" in name) for folder in "xy")
    assert first != second
    found = boxes_of(tmp_path / "root", "train")
    assert (found[first][0][0], found[second][0][0]) == ("cat", "dog")
    shade = Image.open(tmp_path / "root" / "VOC1" / "JPEGImages" / f"{second}.jpg").getpixel((0, 0))[0]
    assert shade == pytest.approx(2, abs=1)
    assert json.loads((tmp_path / "root" / "import.json").read_text())["renamed"] == report.plan.renamed


def test_hostile_names_become_safe_ids(format, write_set, tmp_path):
    if format == "cvat":
        pytest.skip("XML has no place for control characters")
    pictures = (Picture("..a\u2028b\t.jpg", listed=None), Picture("é" * 100 + ".jpg", shade=9))
    if format == "yolo":  # a list of lines cannot name the first
        pictures = pictures[1:]
    report = import_data(write_set(format, pictures), tmp_path / "root")
    assert report.plan.errors == []
    assert not check_data(tmp_path / "root", ("1/train",), classes=("cat",)).errors
    assert all(image.image_id.isprintable() and len(image.image_id) <= 200 for image in report.plan.images)


def test_coco_takes_fractions_and_files_of_any_name(tmp_path):
    write_image(tmp_path / "s" / "a.jpg")
    entry = {"id": "x", "file_name": "a.jpg"}
    boxes = [[0.25, 1.5, 10.1, 20.2], [3, 3, 0.4, 9]]
    annotations = [{"id": i, "image_id": "x", "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    document = {"images": [entry], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "s" / "_annotations.coco.json").write_text(json.dumps(document))
    report = import_data(tmp_path / "s" / "_annotations.coco.json", tmp_path / "root")
    assert boxes_of(tmp_path / "root", "all")["a"] == [("cat", *map(np.float32, (1.25, 2.5, 10.35, 21.7)), False)]
    assert [fault.kind for fault in report.plan.warnings] == ["below-a-pixel"]
    assert list(report.plan.lists) == ["all"]


def test_coco_without_boxes_takes_the_bounds_of_polygons_and_counts_what_is_lost(tmp_path):
    write_image(tmp_path / "s" / "a.jpg")
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [[4, 5, 20, 5, 20, 25]],
        "keypoints": [1, 2],
    }
    document = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [annotation]}
    (tmp_path / "s" / "x.json").write_text(json.dumps(document | {"categories": [{"id": 1, "name": "cat"}]}))
    report = import_data(tmp_path / "s", tmp_path / "root")
    assert boxes_of(tmp_path / "root", "all")["a"] == [("cat", 5, 6, 20, 25, False)]
    assert set(report.plan.left_behind.values()) == {1}
    assert len(report.plan.left_behind) == 2


def test_images_may_lie_elsewhere(write_set, tmp_path):
    source = write_set("coco")
    (source / "images").rename(tmp_path / "pictures")
    assert {fault.kind for fault in import_data(source, tmp_path / "root").plan.errors} == {"missing-image"}
    report = import_data(source / "annotations", tmp_path / "root", images=tmp_path / "pictures")
    assert len(report.plan.images) == 4


def yolo_folder(tmp_path, text, images=("images/train/a.jpg", "images/val/b.jpg")):
    for name in images:
        write_image(tmp_path / "s" / name)
    (tmp_path / "s" / "data.yaml").write_text(text)
    return tmp_path / "s"


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\nval: images/val\nnames: [cat]\n",
        "path: .\ntrain: [images/train]\nvalid: images/val\nnames: {0: cat}\n",
        "path: /datasets/elsewhere\ntrain: ../images/train/\nval: ../images/val\nnames:\n  0: cat\nnc: 1\n",
        "path: ../s\ntrain: ./images/train\nval: images\\val\nnames:\n- cat\ndownload: |\n  import os\n",
    ],
)
def test_yolo_finds_the_folders_of_every_kind_of_data_yaml(text, tmp_path):
    source = yolo_folder(tmp_path, text)
    (source / "labels" / "train").mkdir(parents=True)
    (source / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.5 0.2 0.5 0.8\n")
    report = import_data(source, tmp_path / "root")
    assert report.plan.lists == {"train": ["a"], "val": ["b"]}
    box, bounds = boxes_of(tmp_path / "root", "train")["a"]
    assert (box, bounds) == (("cat", 16, 8.5, 25, 22.5, False), ("cat", 5, 7, 20, 24, False))
    assert list(report.plan.left_behind.values()) == [1]


def test_yolo_without_yaml_needs_a_list_of_names(tmp_path):
    write_image(tmp_path / "s" / "a.jpg")
    (tmp_path / "s" / "a.txt").write_text("1 0.5 0.5 1 1\n")
    with pytest.raises(DataError, match="no data set in a known format"):
        import_data(tmp_path / "s", tmp_path / "root")
    (tmp_path / "s" / "classes.txt").write_text("cat\ndog\n")
    import_data(tmp_path / "s", tmp_path / "root")
    assert boxes_of(tmp_path / "root", "all") == {"a": [("dog", 1, 1, *SIZE, False)]}


def test_yolo_labels_belong_to_the_turned_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "s").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "s" / "a.jpg", exif=exif)
    (tmp_path / "s" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "s" / "classes.txt").write_text("cat\n")
    import_data(tmp_path / "s", tmp_path / "root")
    assert boxes_of(tmp_path / "root", "all")["a"] == [("cat", 1, 1, SIZE[1], SIZE[0], False)]


def test_yolo_validating_on_what_it_trains_on_is_an_error(tmp_path):
    source = yolo_folder(tmp_path, "train: images/train\nval: images/train\nnames: [cat]\n")
    (fault,) = import_data(source, tmp_path / "root").plan.errors
    assert (fault.kind, "val: images named before: 1 (" in fault.reason) == ("image-twice", True)


def test_lists_of_a_flat_folder_are_its_splits(write_set, tmp_path):
    source = write_set("voc-flat", [Picture(picture.name, "", picture.objects) for picture in PICTURES])
    (source / "ImageSets" / "Main").mkdir(parents=True)
    for name, ids in {
        "train": "a\nb\n",
        "val": "c\n",
        "trainval": "a\nb\nc\n",
        "test": "d\n",
        "cat_train": "a 1\n",
    }.items():
        (source / "ImageSets" / "Main" / f"{name}.txt").write_text(ids)
    import_data(source, tmp_path / "root")
    assert boxes_of(tmp_path / "root", "trainval") == expected("trainval")
    (source / "ImageSets" / "Main" / "test.txt").write_text("d\na\n")
    assert [fault.kind for fault in import_data(source, tmp_path / "root2").plan.errors] == ["image-twice"]


@pytest.mark.parametrize("format", ["voc-flat", "labelme"])
def test_images_without_annotation_are_left_out_and_counted(format, write_set, tmp_path):
    source = write_set(format)
    write_image(source / "train" / "unseen.jpg")
    report = import_data(source, tmp_path / "root")
    assert len(report.plan.images) == 4
    assert [
        fault.reason.rpartition("; ")[0][-2:] for fault in report.plan.warnings if fault.kind == "not-annotated"
    ] == [" 1"]


def test_cvat_bounds_of_other_shapes_are_taken_and_lines_are_counted(tmp_path):
    write_image(tmp_path / "s" / "images" / "a.jpg")
    shapes = (
        '<polygon label="cat" points="4,5;20,5;20,25"/><ellipse label="cat" cx="12" cy="15" rx="8" ry="10"/>'
        '<mask label="cat" left="4" top="5" width="16" height="20" rle="1"/><polyline label="dog" points="1,1;2,2"/>'
        '<box label="cat" xtl="2" ytl="7" xbr="22" ybr="23" rotation="90"/>'
    )
    text = f'<annotations><image name="a.jpg" width="40" height="30">{shapes}</image></annotations>'
    (tmp_path / "s" / "annotations.xml").write_text(text)
    report = import_data(tmp_path / "s", tmp_path / "root")
    assert boxes_of(tmp_path / "root", "all")["a"] == [("cat", 5, 6, 20, 25, False)] * 4
    assert sum(report.plan.left_behind.values()) == 5


def test_labelme_bounds_of_other_shapes_are_taken_and_lines_are_counted(tmp_path):
    write_image(tmp_path / "s" / "a.jpg")
    shapes = [
        {"label": "cat", "shape_type": "polygon", "points": [[4, 5], [20, 5], [20, 25]]},
        {"label": "cat", "shape_type": "circle", "points": [[12, 15], [12, 23]]},
        {"label": "cat", "shape_type": "line", "points": [[12, 15], [12, 23]]},
    ]
    (tmp_path / "s" / "a.json").write_text(json.dumps({"imagePath": "a.jpg", "shapes": shapes}))
    report = import_data(tmp_path / "s", tmp_path / "root")
    assert boxes_of(tmp_path / "root", "all")["a"] == [("cat", 5, 6, 20, 25, False), ("cat", 5, 8, 20, 23, False)]
    assert sum(report.plan.left_behind.values()) == 3


def test_class_names_that_no_annotation_may_hold_are_rewritten_and_named(tmp_path):
    write_image(tmp_path / "s" / "a.jpg")
    (tmp_path / "s" / "a.txt").write_text("0 0.5 0.5 1 1\n1 0.5 0.5 1 1\n")
    (tmp_path / "s" / "classes.txt").write_text("cup/mug\nno\n")
    report = import_data(tmp_path / "s", tmp_path / "root")
    assert report.plan.classes == ("cup_mug", "no")
    assert [fault.kind for fault in report.plan.warnings] == ["renamed-class"]
    (tmp_path / "s" / "classes.txt").write_text("cup/mug\ncup_mug\n")
    assert [fault.kind for fault in import_data(tmp_path / "s", tmp_path / "other").plan.errors] == ["bad-name"]


def test_supervision_reads_and_writes_the_same_boxes(write_set, tmp_path):
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    import_data(write_set("coco"), tmp_path / "first")
    year = tmp_path / "first" / "VOC1"
    read = sv.DetectionDataset.from_pascal_voc(str(year / "JPEGImages"), str(year / "Annotations"))
    by_name = {path.rsplit("/", 1)[1]: found.xyxy.tolist() for path, found in read.annotations.items()}
    for picture in PICTURES:
        edges = [[x, y, x + width, y + height] for x, y, width, height in map(xywh, picture.objects)]
        assert by_name[picture.name] == edges
    out = tmp_path / "written"
    read.as_coco(str(out / "coco" / "images"), str(out / "coco" / "annotations.json"))
    read.as_yolo(str(out / "yolo" / "images"), str(out / "yolo" / "labels"), str(out / "yolo" / "data.yaml"))
    (out / "yolo" / "data.yaml").write_text("train: images\n" + (out / "yolo" / "data.yaml").read_text())
    read.as_pascal_voc(str(out / "voc-flat"), str(out / "voc-flat"))
    for format, name in (("coco", "all"), ("yolo", "train"), ("voc-flat", "all")):
        import_data(out / format, tmp_path / format)
        everything = {key: boxes for split in ("train", "val", "test") for key, boxes in expected(split).items()}
        assert boxes_of(tmp_path / format, name) == everything


def test_pycocotools_sees_the_boxes_that_were_imported(write_set, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    source = write_set("coco")
    import_data(source, tmp_path / "root")
    for split in ("train", "val", "test"):
        found = coco.COCO(str(source / "annotations" / f"instances_{split}2017.json"))
        for image_id, image in found.imgs.items():
            seen = [
                (found.cats[entry["category_id"]]["name"], x + 1, y + 1, x + width, y + height, bool(entry["iscrowd"]))
                for entry in found.loadAnns(found.getAnnIds(imgIds=image_id))
                for x, y, width, height in [entry["bbox"]]
            ]
            assert boxes_of(tmp_path / "root", split)[image["file_name"].split(".")[0]] == seen
