"""Whatever is wrong with a source: all of it is said at once, nothing is written, and the source stays as it was."""

import json
import os
import signal
import subprocess
import sys

import pytest
from imported_sets import PICTURES, Picture, write_image

from focalbench.errors import DataError, StorageError
from focalbench.importing.convert import FORMATS, import_data
from focalbench.importing.plan import choose_ids


def refused(source, root, format="auto", **options):
    """The errors of an import that must leave nothing behind."""
    beside = sorted(root.parent.iterdir())
    report = import_data(source, root, format, **options)
    assert report.plan.errors
    assert sorted(root.parent.iterdir()) == beside
    return report.plan.errors


def kinds(faults):
    return {fault.kind for fault in faults}


DOCUMENTS = {"coco": "*.json", "yolo": "data.yaml", "voc-flat": "*.xml", "cvat": "*.xml", "labelme": "*.json"}


@pytest.mark.parametrize("keep", [0, 0.5, 0.9])
def test_a_truncated_document_is_an_error_that_names_it(keep, format, write_set, unchanged, tmp_path):
    source = write_set(format)
    for path in source.rglob(DOCUMENTS[format]):
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    faults = refused(unchanged(source), tmp_path / "root", format)
    kind = kinds(faults)
    assert kind & {"json-broken", "yaml-broken", "xml-broken"} or kind & {"no-names", "bad-names", "no-annotations"}


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", '{"images": 3, "annotations": [], "categories": []}', "[" * 5000, "\x00"]
)
@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_json_of_another_shape_is_an_error(text, format, write_set, tmp_path):
    source = write_set(format)
    for path in source.rglob("*.json"):
        path.write_text(text)
    assert kinds(refused(source, tmp_path / "root", format)) <= {
        "json-broken",
        "not-coco",
        "not-labelme",
        "no-images",
        "no-annotations",
    }


def test_boxes_outside_the_image_come_over_and_are_counted(format, write_set, unchanged, tmp_path):
    pictures = (Picture("a.jpg", objects=(("cat", 30, 20, 60, 45), ("cat", 50, 1, 60, 20), ("dog", 1, 1, 9, 9))),)
    report = import_data(unchanged(write_set(format, pictures)), tmp_path / "root")
    assert sorted(fault.kind for fault in report.plan.warnings) == ["box-beyond-border", "box-outside"]
    assert "<xmax>60</xmax>" in (tmp_path / "root" / "VOC1" / "Annotations" / "a.xml").read_text()


@pytest.mark.parametrize("box", [(20, 6, 5, 25), (5, float("nan"), 20, 25), (5, 6, float("inf"), 25)])
def test_impossible_boxes_are_errors(box, format, write_set, unchanged, tmp_path):
    if format == "labelme" and box[0] > box[2]:
        pytest.skip("two corners in any order")
    source = write_set(format, (Picture("a.jpg", objects=(("cat", *box),)), Picture("b.jpg", "val")))
    (fault,) = refused(unchanged(source), tmp_path / "root")
    assert fault.kind in {"negative-size", "swapped-box", "non-finite-box", "bad-box", "not-normalised"}
    assert len(import_data(source, tmp_path / "sound", skip_faulty=True).plan.images) == 1


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_ids_that_do_not_match_are_errors(format, write_set, unchanged, tmp_path):
    source = write_set(format, (Picture("a.jpg", objects=(("lynx", 1, 2, 8, 9),)), Picture("b.jpg", "val")))
    expected = {"unknown-category"} if format == "coco" else {"unknown-class"}
    if format == "coco":
        path = source / "annotations" / "instances_val2017.json"
        document = json.loads(path.read_text())
        document["annotations"][0]["image_id"] = 4711
        path.write_text(json.dumps(document))
        expected.add("unknown-image")
    assert kinds(refused(unchanged(source), tmp_path / "root")) == expected


def test_ids_of_coco_used_twice_are_errors_but_for_annotations(write_set, tmp_path):
    source = write_set("coco", PICTURES[:2])
    path = source / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"][1]["id"] = document["annotations"][0]["id"]
    path.write_text(json.dumps(document))
    assert kinds(import_data(source, tmp_path / "root").plan.warnings) == {"duplicate-annotation-id"}
    document["images"][1]["id"] = document["images"][0]["id"]
    document["categories"][1]["id"] = document["categories"][0]["id"]
    path.write_text(json.dumps(document))
    assert kinds(refused(source, tmp_path / "other")) >= {"duplicate-image-id", "duplicate-category-id"}


@pytest.mark.parametrize("value", [None, True, [1], {}, "x", 1e400, 10**400])
@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "iscrowd"])
def test_values_of_a_wrong_type_in_coco_are_errors(key, value, write_set, tmp_path):
    source = write_set("coco", PICTURES[:1])
    path = source / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0][key] = [value, 1, 2, 3] if key == "bbox" else value
    path.write_text(json.dumps(document))
    if key == "iscrowd" and value is True:
        return  # JSON's other way to say 1
    refused(source, tmp_path / "root")


def test_missing_images_are_errors(format, write_set, unchanged, tmp_path):
    source = write_set(format)
    for name in ("a.jpg", "d.jpg"):
        (path,) = source.rglob(name)
        path.unlink()
    faults = refused(unchanged(source), tmp_path / "root")
    assert kinds(faults) == {"missing-image"}
    assert len(faults) == 2
    assert len(import_data(source, tmp_path / "sound", skip_faulty=True).plan.images) == 2


def test_a_yolo_label_without_its_image_is_an_error_where_folders_are_named(unchanged, tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            write_image(tmp_path / "s" / split / "images" / f"{name}_{split}.jpg")
            (labels := tmp_path / "s" / split / "labels").mkdir(exist_ok=True)
            (labels / f"{name}_{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (labels / "classes.txt").write_text("cat\n")
    (labels / "empty.txt").write_text("\n")
    (labels / "results.txt").write_text("0.1 0.2 0.3 0.4 0.5\n")
    (labels / "gone").mkdir()
    (labels / "gone" / "c.txt").write_text("\n0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "s" / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [cat]\n")
    (tmp_path / "s" / "train" / "images" / "b_train.jpg").unlink()
    faults = refused(unchanged(tmp_path / "s"), tmp_path / "root")
    assert kinds(faults) == {"missing-image"}
    assert {fault.file for fault in faults} == {"train/labels/b_train.txt", "val/labels/gone/c.txt"}
    assert len(import_data(tmp_path / "s", tmp_path / "sound", skip_faulty=True).plan.images) == 3


def test_one_image_in_two_splits_is_an_error(format, write_set, unchanged, tmp_path):
    if format in ("voc-flat", "labelme"):
        pytest.skip("the folders of its splits hold the images")
    source = write_set(format, (Picture("a.jpg", "train"), Picture("a.jpg", "test")))
    assert kinds(refused(unchanged(source), tmp_path / "root")) == {"image-twice"}


@pytest.mark.parametrize(
    "listed", ["../secret.jpg", "x/../../secret.jpg", "..\\secret.jpg", "/{tmp}/secret.jpg", "C:\\a.jpg"]
)
def test_paths_that_lead_out_are_refused(listed, format, write_set, unchanged, tmp_path):
    if format == "voc-flat":
        pytest.skip("its files name no paths")
    write_image(tmp_path / "secret.jpg")
    source = write_set(
        format, (Picture("a.jpg", listed=listed.replace("{tmp}", str(tmp_path))), Picture("b.jpg", "val"))
    )
    assert kinds(refused(unchanged(source), tmp_path / "root")) == {"bad-path"}


def test_links_that_leave_the_source_are_refused_and_links_within_are_followed(format, write_set, unchanged, tmp_path):
    write_image(tmp_path / "secret.jpg")
    source = write_set(format)
    (inner,), (outer,) = source.rglob("a.jpg"), source.rglob("c.jpg")
    (source / "store").mkdir()
    inner.rename(source / "store" / "kept.jpg")
    inner.symlink_to(source / "store" / "kept.jpg")
    assert not import_data(source, tmp_path / "followed").plan.errors
    outer.unlink()
    outer.symlink_to(tmp_path / "secret.jpg")
    assert kinds(refused(unchanged(source), tmp_path / "root")) == {"outside"}


def test_a_loop_of_links_and_a_pipe_end_as_errors(format, write_set, tmp_path):
    source = write_set(format)
    (first,), (second,) = source.rglob("a.jpg"), source.rglob("c.jpg")
    first.unlink()
    first.symlink_to(first)
    second.unlink()
    os.mkfifo(second)
    assert kinds(refused(source, tmp_path / "root")) == {"unreadable", "not-a-file"}


def test_images_of_other_kinds_and_broken_ones_are_errors(format, write_set, unchanged, tmp_path):
    source = write_set(format, (Picture("a.bmp", shade=1), Picture("b.jpg", "val"), Picture("c.jpg", "test")))
    (broken,) = source.rglob("b.jpg")
    broken.write_bytes(b"GIF89a")
    assert kinds(refused(unchanged(source), tmp_path / "root")) == {"other-format", "image-broken"}
    assert len(import_data(source, tmp_path / "sound", skip_faulty=True).plan.images) == 1


def test_a_target_that_is_not_empty_or_lies_in_the_source_is_refused(format, write_set, unchanged, tmp_path):
    source = unchanged(write_set(format))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    for root in (tmp_path / "full", tmp_path / "full" / "mine.txt", source / "new"):
        with pytest.raises(StorageError):
            import_data(source, root)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert not import_data(source, tmp_path / "empty").plan.errors


@pytest.mark.parametrize("format", ["voc-flat", "cvat"])
def test_entities_are_never_expanded(format, write_set, tmp_path):
    source = write_set(format)
    for path in source.rglob("*.xml"):
        path.write_text(f'<!DOCTYPE x [<!ENTITY a "b">]>{path.read_text()}')
    assert kinds(refused(source, tmp_path / "root", format)) <= {"xml-refused", "no-images"}


def test_yaml_that_unfolds_without_end_is_read_in_a_moment(tmp_path):
    write_image(tmp_path / "s" / "a.jpg")
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "s" / "data.yaml").write_text("\n".join([*lines, "names: *a11", "train: ."]))
    assert "bad-names" in kinds(refused(tmp_path / "s", tmp_path / "root"))


def test_videos_of_cvat_are_sent_back(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "annotations.xml").write_text('<annotations><track id="0"/></annotations>')
    (fault, *_) = refused(tmp_path / "s", tmp_path / "root")
    assert "CVAT for images 1.1" in fault.reason


def test_formats_that_cannot_be_told_apart_are_asked_for(write_set, tmp_path):
    write_set("coco")
    source = write_set("cvat")
    with pytest.raises(DataError, match="coco or cvat"):
        import_data(source, tmp_path / "root")
    with pytest.raises(DataError, match="does not exist"):
        import_data(tmp_path / "absent", tmp_path / "root")
    with pytest.raises(DataError, match="already in VOC layout"):
        import_data(import_data(source, tmp_path / "root", "cvat").root, tmp_path / "again")


def test_every_format_is_told_by_itself(format, write_set, tmp_path):
    assert import_data(write_set(format), tmp_path / "root").plan.format == FORMATS[format].title


KILLED = """\
import os, signal, sys
from focalbench.importing import layout
from focalbench.importing.convert import import_data
write, left = layout.annotation, [2]
def annotation(image):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(image)
layout.annotation = annotation
import_data(sys.argv[1], sys.argv[2])
"""


def test_a_kill_midway_leaves_no_root_and_the_next_import_clears_up(write_set, unchanged, tmp_path):
    source, root = unchanged(write_set("coco")), tmp_path / "root"
    done = subprocess.run([sys.executable, "-c", KILLED, str(source), str(root)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not root.exists()
    assert (tmp_path / ".root.importing" / "root" / "VOC1" / "Annotations" / "a.xml").is_file()
    assert len(import_data(source, root).plan.images) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "source"]


def test_a_foreign_folder_in_the_way_is_named_and_kept(write_set, tmp_path):
    (tmp_path / ".root.importing").mkdir()
    (tmp_path / ".root.importing" / "mine").write_text("kept")
    with pytest.raises(StorageError, match="move it away"):
        import_data(write_set("coco"), tmp_path / "root")
    assert (tmp_path / ".root.importing" / "mine").read_text() == "kept"


def test_ids_do_not_depend_on_the_order_and_differ_in_more_than_case():
    names = ["x/a.jpg", "y/A.png", "a.jpg", "x_a.jpg", "b c 1.jpg", "\\.jpg"]
    ids = dict(zip(names, choose_ids(names), strict=True))
    assert dict(zip(names[::-1], choose_ids(names[::-1]), strict=True)) == ids
    assert len({image_id.casefold() for image_id in ids.values()}) == len(names)
    assert ids["b c 1.jpg"] == "b c 1"
    assert ids["x_a.jpg"] == "x_a"
