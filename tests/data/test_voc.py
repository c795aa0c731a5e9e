"""What the reader takes as it is, what it repairs and what it refuses."""

import os
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from focalbench.data.check import check_data
from focalbench.data.scanning import list_samples
from focalbench.data.voc import VOC_CLASSES, read_records
from focalbench.errors import DataError


def read(voc, splits=("2007/train",), classes="auto"):
    return read_records(voc.root, splits, classes)


def kinds(voc, **options):
    report = check_data(voc.root, ("2007/train",), **options)
    return {fault.kind for fault in report.errors}, {fault.kind for fault in report.warnings}


def test_records_say_what_the_annotation_says(voc, object_of):
    objects = object_of("dog", (1, 1, 40, 30)) + object_of("cat", (3.5, 4, 9, 11), "<difficult>1</difficult>")
    voc.list("train", [voc.add("000001", objects)])
    split = read(voc)
    (record,) = split.records
    assert split.classes == ("cat", "dog")
    assert (record.image_id, record.year, record.width, record.height) == ("000001", "2007", 40, 30)
    np.testing.assert_array_equal(record.boxes, np.array([[1, 1, 40, 30], [3.5, 4, 9, 11]], np.float32))
    assert record.labels.tolist() == [1, 0]
    assert record.difficult.tolist() == [False, True]
    assert record.boxes.dtype == np.float32
    assert record.labels.dtype == np.int64


def test_splits_are_joined_in_order_and_repeats_are_read_once(voc):
    voc.list("train", [voc.add("b"), voc.add("a")])
    voc.list("val", ["a", voc.add("c")])
    assert [record.image_id for record in read(voc, ("2007/train", "2007/val")).records] == ["b", "a", "c"]


@pytest.mark.parametrize(
    "data",
    [
        b"a\r\nb\r\n",
        b"\n\n  a  \n\n\nb\n\n",
        "\ufeffa\nb\n".encode(),
        "a\nb\n".encode("utf-16"),
        b"a -1\nb  1\n",
        b"a\t0\nb 1",
    ],
    ids=["crlf", "blank lines", "bom", "utf-16", "per-class", "tab"],
)
def test_lists_of_every_form_are_read(voc, data):
    voc.add("a")
    voc.add("b")
    voc.list("train", data)
    assert [record.image_id for record in read(voc).records] == ["a", "b"]


def test_names_with_spaces_unicode_and_a_trailing_number_are_found(voc):
    composed = unicodedata.normalize("NFC", "e\u0301te\u0301 7")
    voc.add(unicodedata.normalize("NFD", composed))  # as a Mac's archive stores it
    voc.add("my image 1", suffix=".JPEG")
    voc.list("train", [composed, "my image 1"])
    assert [record.image_id for record in read(voc).records] == [composed, "my image 1"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_second_file_that_differs_in_case_is_warned_of_and_never_used(voc, object_of, monkeypatch, order):
    voc.list("train", [voc.add("a", object_of(box=(5, 6, 20, 25)))])
    path = voc.year / "Annotations" / "a.xml"
    path.with_suffix(".XML").write_text(path.read_text().replace(">5<", ">7<"))
    image = voc.year / "JPEGImages" / "a.jpg"
    image.with_suffix(".JPG").write_bytes(b"unused")
    scandir = os.scandir
    monkeypatch.setattr(  # the order of a folder's entries is the file system's
        os, "scandir", lambda path: nullcontext(sorted(scandir(path), key=lambda entry: entry.name)[::order])
    )
    listing = list_samples(voc.root, ("2007/train",))
    assert sorted((fault.kind, fault.file) for fault in listing.warnings) == [
        ("two-annotations", "VOC2007/Annotations/a.xml"),
        ("two-images", "VOC2007/JPEGImages/a.jpg"),
    ]
    assert [(sample.image, sample.xml) for sample in listing.samples] == [("JPEGImages/a.jpg", "Annotations/a.xml")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_annotations_in_other_encodings_are_read(voc, xml_of, object_of, encoding):
    declared = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    text = f'<?xml version="1.0" encoding="{declared}"?>\r\n' + xml_of(object_of("böse Katze"))
    voc.list("train", [voc.add("a", xml=text.encode(encoding))])
    assert read(voc).classes == ("böse Katze",)


def test_namespaced_annotations_are_read(voc, xml_of, object_of):
    text = xml_of(object_of()).replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    voc.list("train", [voc.add("a", xml="\n\n" + text)])
    assert read(voc).records[0].boxes.tolist() == [[5, 6, 20, 25]]


def test_parts_are_not_objects_and_lend_no_box(voc, object_of):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    voc.list("train", [voc.add("a", object_of("person", extra=f"{part}<difficult>0</difficult>"))])
    split = read(voc)
    assert split.classes == ("person",)
    assert split.records[0].boxes.tolist() == [[5, 6, 20, 25]]
    report = check_data(voc.root, ("2007/train",))
    assert report.facts["train_objects"] == 1


def test_images_without_objects_and_with_300_are_read(voc, object_of):
    many = "".join(object_of(box=(1 + i % 30, 1 + i % 20, 5 + i % 30, 9 + i % 20)) for i in range(300))
    voc.list("train", [voc.add("empty", ""), voc.add("full", many)])
    assert [len(record.boxes) for record in read(voc).records] == [0, 300]
    assert kinds(voc)[0] == set()


def test_boxes_within_a_pixel_of_the_border_are_cut_without_a_word(voc, object_of):
    voc.list("train", [voc.add("a", object_of(box=(0, 0, 41, 31)))])
    assert read(voc).records[0].boxes.tolist() == [[1, 1, 40, 30]]
    assert kinds(voc) == (set(), set())


@pytest.mark.parametrize(
    ("box", "kind", "left"),
    [
        ((5, 6, 5, 9), "zero-size-box", []),
        ((5, 6, 5, 6), "zero-size-box", []),
        ((5, 6, 80, 25), "box-beyond-border", [[5, 6, 40, 25]]),
        ((-5, 6, 20, 25), "box-beyond-border", [[1, 6, 20, 25]]),
        ((5, -0.4, 20, 25), "box-beyond-border", [[5, 1, 20, 25]]),
        ((-9, 6, -2, 25), "box-outside", []),
        ((60, 6, 80, 25), "box-outside", []),
        ((5, 6, 5.5, 25), "tiny-box", [[5, 6, 5.5, 25]]),
    ],
)
def test_repairs_are_warned_of(voc, object_of, box, kind, left):
    voc.list("train", [voc.add("a", object_of(box=box)), voc.add("b")])
    assert kinds(voc) == (set(), {kind})
    assert read(voc).records[0].boxes.tolist() == left


@pytest.mark.parametrize(
    ("edges", "found", "left"),
    [
        ((40, 45), {"box-beyond-border", "tiny-box"}, (40, 40)),  # touches the last pixel
        ((40.5, 45), {"box-outside"}, None),
        ((0, 1), {"tiny-box"}, (1, 1)),  # touches the first
        ((0, 0.9), {"box-outside"}, None),
        ((30, 41), set(), (30, 40)),
        ((30, 41.1), {"box-beyond-border"}, (30, 40)),
        ((5, 6), set(), (5, 6)),  # two pixels
        ((5, 5.9), {"tiny-box"}, (5, 5.9)),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_where_a_box_starts_to_be_outside_beyond_the_border_or_tiny(voc, object_of, edges, found, left, axis):
    box, kept = [5.0, 5.0, 20.0, 20.0], [5.0, 5.0, 20.0, 20.0]
    box[axis::2] = edges
    voc.list("train", [voc.add("a", object_of(box=box), size=(40, 40)), voc.add("b")])
    assert kinds(voc) == (set(), found)
    boxes = read(voc).records[0].boxes
    if left is None:
        assert len(boxes) == 0
    else:
        kept[axis::2] = left
        np.testing.assert_array_equal(boxes, np.array([kept], np.float32))


@pytest.mark.parametrize(
    ("objects", "kind"),
    [
        (("cat", (5, 6, "nan", 25)), "non-finite-box"),
        (("cat", (5, "-inf", 20, 25)), "non-finite-box"),
        (("cat", (20, 6, 5, 25)), "swapped-box"),
        (("cat", (5, 25, 20, 6)), "swapped-box"),
        (("cat", (5, "six", 20, 25)), "bad-coordinate"),
        (("cat", (5, "", 20, 25)), "bad-coordinate"),
        (("cat", ("1_0", 6, 20, 25)), "bad-coordinate"),
        (("", (5, 6, 20, 25)), "missing-name"),
        (("../cat", (5, 6, 20, 25)), "bad-name"),
        (("a/b", (5, 6, 20, 25)), "bad-name"),
        (("cat", (5, 6, 20, 25), "<difficult>maybe</difficult>"), "bad-difficult"),
    ],
)
def test_misread_objects_are_errors_that_name_file_and_object(voc, object_of, objects, kind):
    voc.list("train", [voc.add("a", object_of("dog") + object_of(*objects))])
    report = check_data(voc.root, ("2007/train",))
    (fault,) = report.errors
    assert fault.kind == kind
    assert fault.file == "VOC2007/Annotations/a.xml"
    assert fault.object.startswith("object 2")
    with pytest.raises(DataError, match=r"VOC2007/Annotations/a\.xml: object 2"):
        read(voc)


def test_an_object_without_a_box_is_an_error(voc):
    voc.list("train", [voc.add("a", "<object><name>cat</name></object>")])
    assert kinds(voc)[0] >= {"missing-box"}


def test_a_missing_difficult_is_taken_as_zero_with_a_warning(voc, object_of):
    voc.list("train", [voc.add("a", object_of(extra="") + object_of("dog", extra="<difficult/>"))])
    assert kinds(voc) == (set(), {"missing-difficult"})
    assert read(voc).records[0].difficult.tolist() == [False, False]


@pytest.mark.parametrize("size", [None, (60, 50), (0, 0)])
def test_the_images_own_size_wins_over_a_wrong_size_tag(voc, xml_of, object_of, size):
    voc.list("train", [voc.add("a", xml=xml_of(object_of(), size))])
    assert (read(voc).records[0].width, read(voc).records[0].height) == (40, 30)
    errors, warnings = kinds(voc)
    assert errors == set()
    assert warnings <= {"missing-size", "bad-size", "size-differs"}
    assert warnings


def test_a_wrong_size_tag_is_shown_beside_the_images_own_size(voc, xml_of, object_of):
    voc.list("train", [voc.add("a", xml=xml_of(object_of(), (60, 50)))])
    (warning,) = check_data(voc.root, train=("2007/train",)).warnings
    assert "<size> says 60 x 50, the image has 40 x 30" in warning.reason


def test_classes_outside_the_list_are_errors_with_a_hint(voc, object_of):
    voc.list("train", [voc.add("a", object_of("Cat")), voc.add("b", object_of("zebra"))])
    with pytest.raises(DataError, match="did you mean 'cat'") as caught:
        read(voc, classes="voc")
    assert "zebra" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 20


def test_two_spellings_of_a_class_are_an_error_unless_both_are_listed(voc, object_of):
    voc.list("train", [voc.add("a", object_of("cat") * 2), voc.add("b", object_of("Cat", (1, 2, 9, 9)))])
    with pytest.raises(DataError, match=r"b\.xml: object 1 'Cat'.*only in case"):
        read(voc)
    assert read(voc, classes=("cat", "Cat")).classes == ("cat", "Cat")


def test_voc_classes_are_the_twenty_in_order():
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_many_errors_come_at_once_in_twenty_lines(voc, object_of):
    voc.list("train", [voc.add(f"{i:03}", object_of(box=(9, 9, 1, 1))) for i in range(50)] + ["absent"])
    with pytest.raises(DataError) as caught:
        read(voc)
    lines = str(caught.value).splitlines()
    assert len(lines) == 20
    assert lines[0] == "52 data errors: swapped-box 50, missing-annotation 1, missing-image 1"
    assert "and 34 more" in lines[-1]
    assert any("absent" in line for line in lines)


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("2007/nothing", "splits found for 2007: train"),
        ("2012/train", "years found: 2007"),
        ("2007", "YEAR/SPLIT"),
        ("../2007/train", "YEAR/SPLIT"),
        ("2007/../../train", "YEAR/SPLIT"),
    ],
)
def test_a_wrong_split_says_what_there_is(voc, split, reason):
    voc.list("train", [voc.add("a")])
    with pytest.raises(DataError, match=reason):
        read(voc, (split,))


@pytest.mark.parametrize(
    ("root", "reason"),
    [("~no-such-user/devkit", "no such home folder"), ("x" * 300, "cannot be read: File name too")],
)
def test_a_root_that_cannot_be_looked_at_is_an_error(root, reason):
    with pytest.raises(DataError, match=reason):
        read_records(root, ("2007/train",))
    assert [fault.kind for fault in check_data(root, ("2007/train",)).errors] == ["bad-root"]


def test_a_root_without_permission_is_an_error(voc, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # the mode of a folder does not stop root
    with pytest.raises(DataError, match=r"devkit: cannot be read: Permission denied"):
        read(voc)


def test_an_empty_list_and_a_missing_root_are_errors(voc, tmp_path):
    voc.list("train", b"\n \n")
    with pytest.raises(DataError, match="lists no image"):
        read(voc)
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "absent", ("2007/train",))
    with pytest.raises(DataError, match="year folder itself"):
        read_records(voc.year, ("2007/train",))
    voc.root.rename(tmp_path / "VOCdevkit")
    with pytest.raises(DataError, match="did you mean"):
        read_records(tmp_path, ("2007/train",))


class TestHostileFiles:
    """Data sets come from anybody: nothing outside is read, nothing hangs, nothing explodes."""

    @pytest.mark.parametrize("image_id", ["../secret", "..", "/etc/passwd", "a/b", "a\\b", "x" * 300])
    def test_ids_that_climb_are_refused(self, voc, image_id):
        voc.list("train", [image_id, voc.add("a")])
        assert kinds(voc)[0] == {"bad-id"}

    @pytest.mark.parametrize("where", ["JPEGImages/a.jpg", "Annotations/a.xml"])
    def test_links_out_of_the_data_set_are_refused(self, voc, tmp_path, where):
        voc.list("train", [voc.add("a")])
        secret = tmp_path / "secret"
        (voc.year / where).rename(secret)
        (voc.year / where).symlink_to(secret)
        assert kinds(voc)[0] >= {"outside"}

    def test_a_linked_folder_that_leaves_is_refused_but_a_linked_year_is_not(self, voc, tmp_path):
        voc.list("train", [voc.add("a")])
        voc.year.rename(tmp_path / "elsewhere")
        voc.year.symlink_to(tmp_path / "elsewhere")
        assert len(read(voc).records) == 1
        (voc.year / "JPEGImages").rename(tmp_path / "images")
        (voc.year / "JPEGImages").symlink_to(tmp_path / "images")
        with pytest.raises(DataError, match="leaves"):
            read(voc)

    @pytest.mark.parametrize("where", ["JPEGImages/a.jpg", "Annotations/a.xml"])
    def test_fifos_loops_and_folders_are_refused_without_waiting(self, voc, where):
        voc.list("train", [voc.add("a")])
        path = voc.year / where
        path.unlink()
        os.mkfifo(path)
        assert kinds(voc)[0] >= {"not-a-file"}
        path.unlink()
        path.symlink_to(path)
        assert kinds(voc)[0] >= {"unreadable"}
        path.unlink()
        path.mkdir()
        assert kinds(voc)[0] >= {"not-a-file"}

    @pytest.mark.parametrize(
        "prologue",
        [
            '<!DOCTYPE a [<!ENTITY b "boom">]>',
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
            '<!DOCTYPE a SYSTEM "http://localhost/evil.dtd">',
            "<!DOCTYPE a>",
        ],
    )
    def test_any_dtd_or_entity_is_refused(self, voc, xml_of, object_of, prologue):
        voc.list("train", [voc.add("a", xml=prologue + xml_of(object_of()))])
        assert kinds(voc)[0] == {"xml-refused"}

    @pytest.mark.parametrize(
        "xml",
        [
            b"",
            b"<annotation>",
            b"\xff\xfe<",
            b"\x00" * 100,
            b'<?xml version="1.0" encoding="none"?><annotation/>',
            b"<a/>",
        ],
    )
    def test_broken_xml_is_named(self, voc, xml):
        voc.list("train", [voc.add("a", xml=xml)])
        assert kinds(voc)[0] == {"xml-broken"}

    def test_endless_lists_are_refused(self, voc):
        voc.add("a")
        voc.list("train", b"a\n" * 500_001)
        with pytest.raises(DataError, match="500,001 lines"):
            read(voc)

    def test_deep_and_wide_xml_is_survived(self, voc):
        deep = b"<annotation>" + b"<a>" * 200_000 + b"</a>" * 200_000 + b"</annotation>"
        voc.list(
            "train",
            [voc.add("a", xml=deep), voc.add("b", xml=b"<annotation>" + b"<object/>" * 6000 + b"</annotation>")],
        )
        assert kinds(voc)[0] == {"too-many-objects"}
