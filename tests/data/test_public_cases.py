"""What users of other detectors, labelling tools and converters ran into: neither misread in silence nor a dead end."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from focalbench.config.identity import config_hash
from focalbench.config.schema import ExperimentConfig
from focalbench.data.cache import CacheSettings
from focalbench.data.check import check_data
from focalbench.data.dataset import load_data
from focalbench.data.files import default_splits, find_root, open_root, other_splits
from focalbench.data.images import BrokenImage, decode, open_image, read_header, to_canvas
from focalbench.data.scanning import list_samples
from focalbench.data.sixteen_bit import to_8_bit
from focalbench.data.voc import ClassRule
from focalbench.errors import DataError

TRAIN, VAL = ("2007/train",), ("2007/val",)
BOX = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>25</ymax></bndbox>"


TINY = """\
data:
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
optim: {steps: 2, warmup_steps: 1}
"""


def check(voc, **options):
    return check_data(voc.root, TRAIN, VAL, **options)


@pytest.fixture
def two(voc, object_of):
    """Image ``a`` of train and ``b`` of val, a cat in each."""
    voc.list("train", [voc.add("a", object_of())])
    voc.list("val", [voc.add("b", object_of(box=(2, 3, 30, 20)))])
    return voc


class TestWhatAnObjectHolds:
    @pytest.mark.parametrize(
        ("inside", "told"),
        [
            (f"<name>cat</name><difficult>0</difficult>{BOX * 3}", "has 3 <bndbox>"),
            (f"<name>cat</name><name>puppy</name><difficult>0</difficult>{BOX}", "has 2 <name> ('cat', 'puppy')"),
            (f"<name>cat</name><difficult>0</difficult><difficult>1</difficult>{BOX}", "has 2 <difficult> ('0', '1')"),
            (f"<name>cat</name>{BOX.replace('<xmax>', '<xmin>9</xmin><xmax>')}", "has 2 <xmin> ('5', '9')"),
        ],
    )
    def test_a_second_box_name_flag_or_edge_is_an_error_that_names_object_and_count(self, two, inside, told):
        two.add("a", f"<object>{inside}</object>")
        (fault,) = check(two).errors
        assert (fault.kind, fault.file) == ("repeated-tag", "VOC2007/Annotations/a.xml")
        assert fault.object == "object 1 'cat'"
        assert told in fault.reason

    @pytest.mark.parametrize(
        "beside",
        [
            f"<part><name>head</name>{BOX}</part><part><name>hand</name>{BOX}</part>",
            "<polygon><x1>1</x1></polygon><points><point>1,2</point></points><segm><xmin>1</xmin></segm>",
            "<actions><jumping>1</jumping></actions><point><x>1</x><y>2</y></point>",
            "<attributes><attribute><name>color</name><value>red</value></attribute></attributes>",
            "<robndbox><cx>9</cx></robndbox><visible><xmin>5</xmin></visible><Pose>Left</Pose>",
        ],
    )
    def test_what_other_tools_write_beside_a_box_is_no_fault(self, two, object_of, beside):
        two.add("a", object_of(extra=f"<difficult>0</difficult>{beside}"))
        report = check(two)
        assert (report.errors, report.warnings, report.facts["train_objects"]) == ((), (), 1)

    def test_another_shape_in_place_of_the_box_is_named(self, two):
        two.add("a", "<object><name>cat</name><robndbox><cx>9</cx></robndbox></object>")
        (fault,) = check(two).errors
        assert (fault.kind, fault.reason) == ("missing-box", "has no <bndbox> but <robndbox>: write the box around it")


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        (f"<objects><object><name>cat</name>{BOX}</object></objects>", "holds 1 <object> in <objects>"),
        (f"<Object><name>cat</name>{BOX}</Object>" * 2, "holds 2 <Object> in <annotation>"),
        (f"<name>cat</name><difficult>0</difficult>{BOX}", "holds 1 <bndbox> in <annotation>"),
        ("<item><name>cat</name><bbox>1 2 3 4</bbox></item>", "holds 1 <bbox> in <item>"),
        ("<shape><points><point>1,2</point></points></shape>", "holds 1 <points> in <shape>"),
        ("<item><box><XMin>1</XMin></box></item>", "holds 1 <box> in <item>"),
        (f"<object><name>cat</name>{BOX}<BndBox><xmin>1</xmin></BndBox></object>", "holds 1 <BndBox> in <object>"),
        (f"<object><name>cat</name>{BOX}<object><name>dog</name>{BOX}</object></object>", "1 <object> in <object>"),
        (f"<object><name>cat</name>{BOX}<extra>{BOX}</extra></object>", "1 <bndbox> in <extra>"),
        (f"<object><name>cat</name><Difficult>1</Difficult>{BOX}</object>", "1 <Difficult> in <object>"),
    ],
)
@pytest.mark.parametrize("namespace", ["", ' xmlns="http://example.org/voc"'])
def test_boxes_and_objects_that_would_be_overlooked_are_an_error_that_says_where(two, xml_of, objects, told, namespace):
    two.add("a", xml=xml_of(objects).replace("<annotation>", f"<annotation{namespace}>"))
    (fault,) = check(two).errors
    assert (fault.kind, fault.file) == ("misplaced-tag", "VOC2007/Annotations/a.xml")
    assert told in fault.reason


def test_an_empty_list_of_objects_is_an_image_without_objects(two):
    two.add("c", "<objects/><polygon/>")
    two.list("train", ["a", "c"])
    assert check(two).errors == ()


@pytest.mark.parametrize("edge", range(4))
def test_all_four_borders_are_alike(two, object_of, edge):
    """A 40 x 30 image: up to a pixel beyond is cut without a word, more with one, wholly outside is left out."""
    limits = ((0, -0.4, 1), (0, -0.4, 1), (41, 41.4, 40), (31, 31.4, 30))[edge]
    for value, kinds in zip(limits, ([], ["box-beyond-border"], []), strict=True):
        box = [5, 6, 20, 25]
        box[edge] = value
        two.add("a", object_of(box=box))
        report = check(two)
        assert (report.errors, [fault.kind for fault in report.warnings]) == ((), kinds)


class TestASideWithNothingThatCounts:
    DIFFICULT = "<difficult>1</difficult>"

    @pytest.mark.parametrize("image", ["a", "b"])
    @pytest.mark.parametrize("objects", ["", "difficult", "left out"])
    @pytest.mark.parametrize("classes", ["auto", ("cat", "dog")])
    def test_is_one_error_whatever_is_in_the_other(self, two, object_of, image, objects, classes):
        what = {"difficult": {"extra": self.DIFFICULT}, "left out": {"box": (7, 7, 7, 7)}}
        two.add(image, object_of(**what[objects]) if objects else "")
        report = check(two, classes=classes)
        if image == "a" and classes == "auto" and objects != "difficult":
            two.list("val", [two.add("b", "")])  # or its cat is of a class that train has not
            report = check(two, classes=classes)
        faults = [(fault.kind, fault.file) for fault in report.errors]
        expected = ("nothing-to-learn", "train") if image == "a" else ("nothing-to-measure", "val")
        assert expected in faults
        assert len(report.errors) == 1 + (image == "a" and classes == "auto" and objects != "difficult")
        side = expected[1]
        assert not [fault for fault in report.warnings if fault.kind == "class-without-objects" and fault.file == side]

    def test_one_side_alone_is_checked_as_ever(self, two):
        assert check_data(two.root, TRAIN).errors == check_data(two.root, (), VAL).errors == ()

    def test_is_no_verdict_where_other_errors_hide_objects(self, two, object_of):
        two.add("b", object_of(box=(9, 9, 1, 1)))
        assert [fault.kind for fault in check(two).errors] == ["swapped-box"]

    def test_ends_a_run_before_training(self, two, write_config, focalbench):
        two.add("b", "")
        data = f"data: {{name: voc, root: '{two.root}', train: [2007/train], val: [2007/val], image_size: 64}}"
        lines = [data if line.startswith("data:") else line for line in TINY.splitlines()]
        result = focalbench("run", write_config(text="\n".join(lines)), "--out", two.root.parent / "out")
        assert result.code == 2
        assert "val: has no objects: mAP would be undefined for every arm" in result.err
        assert not (two.root.parent / "out").exists()


class TestSpellings:
    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (("cat", "Cat"), "'Cat' (1 object) differs from 'cat' (2 objects in 2 images) only in case"),
            (("caf\u00e9", "cafe\u0301"), "'cafe\\u0301' (1 object) differs from 'caf\\xe9'"),
            (("no 1", "no \uff11"), "only in Unicode form"),
            (("a b", "a_b"), "only in separators"),
            (("a b", "a  b"), "only in separators"),
            (("a-b", "a\u2013b"), "only in separators"),
            (("a b", "A_b"), "only in case and separators"),
        ],
    )
    @pytest.mark.parametrize("odd", ["a", "b"])
    def test_of_one_name_are_an_error_in_train_as_in_val_unless_both_are_listed(self, two, object_of, names, told, odd):
        two.list("train", ["a", two.add("c", object_of(names[0]))])
        for image in ("a", "b"):
            two.add(image, object_of(names[image == odd]))
        (fault,) = check(two).errors
        assert (fault.kind, fault.file) == ("class-spelling", f"VOC2007/Annotations/{odd}.xml")
        assert told in fault.reason
        assert check(two, classes=names).errors == ()

    @pytest.mark.parametrize("other", ["cats", "act", "\u0441at", "catt"])
    def test_names_that_are_only_alike_are_left_alone_with_a_word(self, two, object_of, other):
        two.list("train", ["a", two.add("c", object_of(other))])
        report = check(two)
        assert report.errors == ()
        (fault,) = report.warnings
        assert fault.reason.endswith("did you mean 'cat'?")

    @pytest.mark.parametrize("other", ["car", "cow", "dog"])
    def test_other_names_have_no_such_word(self, two, object_of, other):
        two.list("train", ["a", two.add("c", object_of(other))])
        assert "did you mean" not in check(two).warnings[0].reason


class TestOtherClasses:
    @pytest.fixture
    def zoo(self, two, object_of):
        """Cats in train; in val three zebras more, of which two are in one image."""
        zebra = object_of("zebra", (1, 1, 9, 9))
        two.list("val", [two.add("b", object_of() + zebra + object_of("zebra")), two.add("c", object_of() + zebra)])
        return two

    @pytest.mark.parametrize(
        ("classes", "source"),
        [
            ("auto", "is not among those of the training images (cat)"),
            (("cat", "dog"), "is not in data.classes (cat, dog)"),
            ("voc", "is not among Pascal VOC's (data.classes: voc)"),
        ],
    )
    def test_are_one_error_a_class_that_says_where_the_list_comes_from(self, zoo, classes, source):
        (fault,) = check(zoo, classes=classes).errors
        assert (fault.kind, fault.file) == ("unknown-class", "VOC2007/Annotations/b.xml")
        assert f"class 'zebra' (3 objects in 2 images) {source}" in fault.reason
        assert fault.reason.endswith("or leave such objects out with data.other_classes: ignore")

    def test_are_left_out_with_a_warning_where_the_rule_says_so(self, zoo):
        report = check(zoo, rule=ClassRule(ignore=True))
        assert (report.errors, report.classes) == ((), ("cat",))
        assert [(fault.kind, fault.reason) for fault in report.warnings] == [
            ("other-class", "class 'zebra' (3 objects in 2 images) is left out")
        ]
        assert (report.facts["val_images"], report.facts["val_objects"]) == (2, 2)

    @pytest.mark.parametrize("cache", ["none", "ram", "disk"])
    def test_the_rule_reaches_every_way_to_read_and_the_fingerprint(self, zoo, cache):
        rule = ClassRule(ignore=True)
        report = check(zoo, rule=rule)
        for _ in range(2):  # the second time from the cache
            data = load_data(zoo.root, VAL, ("cat",), 64, cache=cache, rule=rule)
            assert data.ground_truth()["label"].tolist() == [0, 0]
            assert data.fingerprint == report.fingerprints[1]
        with pytest.raises(DataError, match=r"class 'zebra' .* is not among the classes of the trial"):
            load_data(zoo.root, VAL, ("cat",), 64, cache=cache, rule=ClassRule(trained=True))

    def test_nothing_left_is_an_error(self, zoo):
        report = check(zoo, classes=("dog",), rule=ClassRule(ignore=True))
        assert [fault.kind for fault in report.errors] == ["nothing-to-learn", "nothing-to-measure"]


class TestListsThatNameImagesOtherwise:
    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            (["im01.jpg", "im02.JPG"], "lists 2 images with an ending, such as 'im01.jpg': write 'im01'"),
            (["im01.xml", "im02"], "lists 1 image with an ending, such as 'im01.xml': write 'im01'"),
            (["./im01", "im02"], "lists 1 image with a folder, such as './im01': write 'im01'"),
            (["JPEGImages/im01", "VOC2007/JPEGImages/im02"], "lists 2 images with a folder, such as"),
            (["C:\\\\data\\\\im01", "im02"], "lists 1 image with a folder"),
            (
                ["/d/im01.jpg /d/im01.png", "im02"],
                "lists 1 image with further columns and with a folder and with an ending",
            ),
            (["im01 7", "im02"], "lists 1 image with further columns, such as 'im01 7'"),
            (["im01,", "im02;"], "lists 2 images with a comma"),
            (['"im01"', "'im02',"], "lists 1 image in quotes, such as '\"im01\"': write 'im01'"),
            (["IM01", "im02"], "lists 1 image in another case, such as 'IM01'"),
            (["im1", "im0002"], "lists 2 images with other zeros, such as 'im1': write 'im01'"),
        ],
    )
    def test_are_one_error_a_list_and_kind_with_an_example(self, two, lines, told):
        for name in ("im01", "im02"):
            two.add(name)
        two.list("train", lines)
        report = check(two)
        assert {(fault.kind, fault.file) for fault in report.errors} == {
            ("list-entry", "VOC2007/ImageSets/Main/train.txt")
        }
        assert len(report.errors) <= 2
        assert told in report.errors[0].reason

    @pytest.mark.parametrize("line", ["../JPEGImages/a", "x/../a"])
    def test_names_that_climb_stay_what_they_are(self, two, line):
        two.list("train", [line])
        assert [fault.kind for fault in check(two).errors] == ["bad-id"]

    def test_names_that_are_files_are_never_touched(self, two):
        names = [two.add(name) for name in ("x.jpg", "x", "my image 1", "01", "1", "q,")]
        two.list("train", names)
        report = check(two)
        assert (report.errors, report.facts["train_images"]) == ((), 6)

    def test_an_image_of_a_format_that_is_not_read_is_named(self, two):
        (two.year / "JPEGImages" / "a.jpg").rename(two.year / "JPEGImages" / "a.bmp")
        (fault,) = check(two).errors
        assert "exists only as .bmp, which is not read" in fault.reason


@pytest.mark.parametrize(
    ("filename", "warned"),
    [
        ("b.jpg", True),
        ("b", True),
        ("C:\\photos\\b.png", True),
        ("/home/x/b.jpg", True),
        ("a.jpg", False),
        ("a.jpeg", False),
        ("a", False),
        ("B.jpg", False),
        ("nowhere.jpg", False),
        ("", False),
    ],
)
def test_a_filename_that_names_another_image_of_the_set_is_warned_of(two, xml_of, object_of, filename, warned):
    two.add("a", xml=xml_of(f"<filename>{filename}</filename>{object_of()}"))
    warnings = [(fault.kind, fault.file) for fault in check(two).warnings]
    assert warnings == [("other-filename", "VOC2007/Annotations/a.xml")] * warned


class TestFoldersOfAnotherLayout:
    def test_a_year_folder_by_name_is_told_how_to_be_called_from_both_sides(self, two):
        named = two.year.rename(two.root / "my parts")
        for root in (two.root, named):
            with pytest.raises(DataError, match="name must be VOC and a number: rename it VOC1") as told:
                open_root(root)
            assert f"ln -s 'my parts' {two.root / 'VOC1'}" in str(told.value)
        (two.root / "VOC1").symlink_to("my parts")  # what was told
        assert check_data(two.root, ("1/train",), ("1/val",)).errors == ()

    def test_what_is_meant_is_found_one_level_up_or_down(self, two):
        assert find_root(two.year) == find_root(two.root) == two.root
        assert find_root(two.root.rename(two.root.with_name("VOCdevkit")).parent).name == "VOCdevkit"
        with pytest.raises(DataError, match=r"did you mean .*VOCdevkit\?"):
            open_root(two.root.parent)

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            (
                ["train/a_jpg.rf.0.jpg", "train/a_jpg.rf.0.xml", "valid/b.png", "valid/b.xml"],
                r"XML files \(train, valid\)",
            ),
            (["a.jpg", "a.xml"], "images beside XML files"),
            (["images/a.png", "annotations/a.xml"], "images and XML files"),
            (["annotations/instances_val.json", "val/a.jpg"], "COCO export"),
            (["train/_annotations.coco.json", "train/a.jpg"], "COCO export"),
            (["data.yaml", "train/images/a.jpg", "train/labels/a.txt"], "YOLO export"),
            (["a.jpg", "a.txt"], "YOLO export"),
            (["a.jpg", "a.json"], "labelme export"),
            (["annotations.xml", "images/a.jpg"], "CVAT export"),
        ],
    )
    def test_exports_are_recognised_and_led_on(self, tmp_path, files, told):
        for name in files:
            (tmp_path / "export" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "export" / name).touch()
        with pytest.raises(DataError, match=told) as raised:
            open_root(tmp_path / "export")
        assert f"`focalbench data import {tmp_path / 'export'} -o NEW_FOLDER`" in str(raised.value)

    def test_anything_else_says_what_was_found(self, tmp_path):
        (tmp_path / "notes").mkdir()
        with pytest.raises(DataError, match=r"holds no VOC<year> folder \(expected .*; found: .*notes/"):
            open_root(tmp_path)

    def test_a_set_without_lists_is_told_how_to_make_them(self, two):
        for name in ("train", "val"):
            (two.year / "ImageSets" / "Main" / f"{name}.txt").unlink()
        for call in (lambda: default_splits(two.root), lambda: list_samples(two.root, TRAIN)):
            with pytest.raises(DataError, match=r"none; `focalbench data split .*devkit` makes them"):
                call()

    def test_lists_that_are_passed_over_are_named_with_the_way_to_use_one(self, two, focalbench):
        (two.year / "ImageSets" / "Main" / "val.txt").rename(two.year / "ImageSets" / "Main" / "valid.txt")
        told = focalbench("data", "check", two.root)
        assert "not read: 2007/valid; include with --train 2007/train --val 2007/valid" in told.out
        used = focalbench("data", "check", two.root, *told.out.split("include with ")[1].splitlines()[0].split())
        assert (used.code, "not read" in used.out) == (0, False)
        assert "val (2007/valid): 1 image," in used.out

    def test_a_list_that_holds_training_images_is_not_recommended(self, two, focalbench):
        two.list("all", ["a", "b"])
        told = focalbench("data", "check", two.root)
        assert "not read: 2007/all\n" in told.out
        two.list("extra", ["c"])
        told = focalbench("data", "check", two.root)
        assert "not read: 2007/all, 2007/extra; include with " in told.out
        assert "--val 2007/extra" in told.out

    def test_parts_of_a_trainval_are_not_called_passed_over(self, two):
        two.list("trainval", ["a", "b"])
        two.list("test", ["b"])
        assert other_splits(two.root, ("2007/trainval", "2007/test")) == ()
        assert other_splits(two.root, ("2007/train", "2007/test")) == ("2007/trainval", "2007/val")


def filtered_rows(samples: np.ndarray, kind: int) -> bytes:
    """The lines of a PNG of (H, W, channels) uint16 samples, each by filter ``kind`` of the PNG specification."""
    rows = samples.astype(">u2").reshape(len(samples), -1).view(np.uint8).astype(int)
    size = 2 * samples.shape[2]
    up = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    left, corner = (np.hstack([np.zeros((len(rows), size), int), part[:, :-size]]) for part in (rows, up))
    distances = np.abs(np.stack([up - corner, left - corner, left + up - 2 * corner]))
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    values = rows - [np.zeros_like(rows), left, up, (left + up) // 2, paeth][kind]
    return np.hstack([np.full((len(rows), 1), kind), values % 256]).astype(np.uint8).tobytes()


def png(samples: np.ndarray, filter_kind: int = 0, interlaced: bool = False) -> bytes:
    """A 16-bit PNG of (H, W) or (H, W, channels) samples, in any number of channels that PNG knows."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    samples = samples.reshape(*samples.shape[:2], -1)
    passes = [samples]
    if interlaced:
        starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [samples[top::down, left::right] for top, left, down, right in starts]
    rows = b"".join(filtered_rows(part, filter_kind) for part in passes if part.size)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, color, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class TestSixteenBits:
    @pytest.fixture
    def sixteen(self, two):
        """Makes both images 16-bit PNG with samples from ``low`` to ``high``."""

        def make(low, high, shape=(30, 40)):
            for name in ("a", "b"):
                path = two.year / "JPEGImages" / f"{name}.jpg"
                path.unlink(missing_ok=True)
                samples = np.linspace(low, high, int(np.prod(shape))).astype(np.uint16).reshape(shape)
                samples = samples if name == "a" else samples[::-1]
                path.with_suffix(".png").write_bytes(png(samples))
            return two

        return make

    @pytest.mark.parametrize(
        ("low", "high", "told"),
        [
            (600, 3900, "2 16-bit images with values 600 to 3,900 of 65,535, which would leave 14 of 256 grey levels"),
            (0, 200, "data.sample_range: [0, 255]"),
            (0, 1, "data.sample_range: [0, 1]"),
            (100, 1000, "data.sample_range: [0, 1023]"),
            (29300, 31900, "data.sample_range: [0, 32767]"),
            (40000, 43000, "data.sample_range: [39936, 43007]"),
        ],
    )
    @pytest.mark.parametrize("fill", [(), (CacheSettings((32, 32), "warp"),)])
    def test_a_set_that_uses_a_small_part_of_the_range_is_warned_of_once(self, sixteen, low, high, told, fill):
        report = check(sixteen(low, high), fill=fill)
        (fault,) = report.warnings
        assert (report.errors, fault.kind, fault.file) == ((), "narrow-range", "train and val")
        assert told in fault.reason
        assert check(sixteen(low, high), fill=fill).warnings == report.warnings  # kept
        assert check(sixteen(low, high), sample_range=(0, 4095)).warnings == ()

    @pytest.mark.parametrize(("low", "high"), [(0, 65535), (10000, 60000), (0, 30000)])
    def test_a_set_that_uses_the_range_is_not(self, sixteen, low, high):
        assert check(sixteen(low, high)).warnings == ()

    def test_pixels_that_are_marked_as_without_a_value_do_not_count(self, sixteen):
        voc = sixteen(600, 3900)
        samples = np.full((30, 40), 1000, np.uint16)
        samples[0, :2] = 0, 65535
        (voc.year / "JPEGImages" / "a.png").write_bytes(png(samples))
        assert "values 600 to 3,900" in check(voc).warnings[0].reason

    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_several_channels_are_measured_alike(self, sixteen, channels):
        (fault,) = check(sixteen(0, 4095, (30, 40, channels))).warnings
        assert "data.sample_range: [0, 4095]" in fault.reason

    @pytest.mark.parametrize("shape", [(30, 40), (30, 40, 2), (30, 40, 3), (30, 40, 4)])
    @pytest.mark.parametrize("sample_range", [(0, 255), (0, 4095), (600, 3900), (0, 65535)])
    def test_the_range_decides_what_is_black_and_white(self, shape, sample_range):
        samples = np.random.default_rng(0).integers(0, 5000, shape).astype(np.uint16)
        low, high = sample_range
        expected = np.clip((samples.astype(float) - low) / (high - low) * 255, 0, 255).round()
        colors = expected[..., None] if expected.ndim == 2 else expected[..., : 1 if shape[2] == 2 else 3]
        pixels = to_canvas(png(samples), 1, (30, 40), "warp", sample_range)
        np.testing.assert_array_equal(pixels, np.broadcast_to(colors, (30, 40, 3)).astype(np.uint8))

    @pytest.mark.parametrize("filtered", range(5))
    @pytest.mark.parametrize("interlaced", [False, True])
    @pytest.mark.parametrize("size", [(9, 13), (1, 1), (3, 20)])
    def test_filters_and_interlacing_of_colors_change_nothing(self, filtered, interlaced, size):
        samples = np.random.default_rng(1).integers(0, 65536, (*size, 3)).astype(np.uint16)
        expected = to_8_bit(samples, (100, 50000))
        pixels = decode(open_image(png(samples, filtered, interlaced)), sample_range=(100, 50000))
        np.testing.assert_array_equal(np.asarray(pixels), expected)

    def test_8_bit_samples_in_16_bits_become_the_same_pixels(self, encoded):
        samples = np.random.default_rng(0).integers(0, 256, (30, 40))
        wide = to_canvas(png(samples), 1, (64, 64), "letterbox", (0, 255))
        small = encoded(samples.astype(np.uint8), "PNG")
        np.testing.assert_array_equal(wide, to_canvas(small, 1, (64, 64), "letterbox"))
        np.testing.assert_array_equal(wide, to_canvas(small, 1, (64, 64), "letterbox", (100, 200)))  # not touched

    @pytest.mark.parametrize("cache", ["none", "ram", "disk"])
    def test_the_range_reaches_every_way_to_read(self, sixteen, cache):
        voc = sixteen(0, 4095)
        seen = []
        for sample_range in (None, (0, 4095), (0, 255)):
            data = load_data(voc.root, TRAIN, "auto", 32, cache=cache, sample_range=sample_range)
            seen.append(float(data.images[np.array([0])].mean()))
        assert seen[0] < 8 < 120 < seen[1] < 135 < 200 < seen[2]

    def test_the_key_is_part_of_a_trial_only_where_it_is_set(self):
        hashes = {
            config_hash(ExperimentConfig.model_validate({"data": {"name": "voc"} | data}))
            for data in ({}, {"sample_range": None}, {"other_classes": None})
        }
        assert len(hashes) == 1
        for data in ({"sample_range": (0, 4095)}, {"other_classes": "ignore"}):
            hashes.add(config_hash(ExperimentConfig.model_validate({"data": {"name": "voc"} | data})))
        assert len(hashes) == 3
        with pytest.raises(ValueError, match="rising"):
            ExperimentConfig.model_validate({"data": {"name": "voc", "sample_range": (9, 9)}})


class TestMetadata:
    """No profile, text or preview decides about pixels."""

    PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)

    def with_chunks(self, encoded, *chunks):
        """A PNG with ``chunks`` before its pixels and after them."""
        data = encoded(self.PIXELS, "PNG")
        parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc) for kind, body, crc in chunks]
        return data[:33] + b"".join(parts) + data[33:-12] + b"".join(parts) + data[-12:]

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (b"iCCP", b"p\0\0" + zlib.compress(bytes(3 * 2**20))),
            (b"iCCP", b""),
            (b"zTXt", b"c\0\0" + zlib.compress(bytes(20 * 2**20))),
            (b"iTXt", b"c\0\1\0\0\0" + zlib.compress(bytes(20 * 2**20))),
            (b"tEXt", b"\xff" * 3_000_000),
            (b"eXIf", b"MM\0*\xff\xff\xff\xff"),
            (b"eXIf", b"x" * 200_000),
            (b"acTL", struct.pack(">II", 5, 0)),
            (b"pHYs", b"1"),
            (b"prVt", b"anything"),
        ],
    )
    @pytest.mark.parametrize("whole", [True, False])
    def test_chunks_of_a_png_are_passed_over_whatever_is_in_them(self, two, encoded, kind, body, whole):
        data = self.with_chunks(encoded, (kind, body, zlib.crc32(kind + body) if whole else 1))
        np.testing.assert_array_equal(to_canvas(data, 1, (30, 40), "warp"), self.PIXELS)
        (two.year / "JPEGImages" / "a.jpg").unlink()
        two.add("a", image=data, suffix=".png")
        assert check(two).errors == ()

    def test_many_texts_cost_no_memory(self, encoded):
        body = b"c\0\0" + zlib.compress(bytes(900_000))
        data = self.with_chunks(encoded, *[(b"zTXt", body, zlib.crc32(b"zTXt" + body))] * 200)  # 360 MB unpacked
        tracemalloc.start()
        to_canvas(data, 1, (30, 40), "warp")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * len(data) + 2**20

    @pytest.mark.parametrize(
        "segment",
        [
            b"\xff\xe1%sExif\0\0MM\0*\xff\xff\xff\xff",
            b"\xff\xe1%sExif\0\0",
            b"\xff\xe2%sICC_PROFILE\0",
            b"\xff\xe2%sICC_PROFILE\0\x09\x01" + bytes(60_000),
            b"\xff\xe2%sMPF\0II*\0\xff\xff\0\0",
            b"\xff\xed%sPhotoshop 3.0\x008BIM\x03\xed\xff",
            b"\xff\xee%sAdobe",
            b"\xff\xe0%sJFIF",
            b"\xff\xfe%s\xff\xda\xff\xda",
        ],
    )
    def test_segments_of_a_jpeg_are_passed_over_whatever_is_in_them(self, encoded, segment):
        data = encoded(self.PIXELS, "JPEG")
        part = segment.replace(b"%s", struct.pack(">H", len(segment) - 2), 1)[: len(segment)]
        other = data[:2] + part + data[2:]
        np.testing.assert_array_equal(to_canvas(other, 1, (30, 40), "warp"), to_canvas(data, 1, (30, 40), "warp"))
        assert read_header(open_image(other)).orientation == 1

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    @pytest.mark.parametrize("orientation", range(10))
    def test_the_orientation_is_the_one_that_pillow_finds(self, encoded, kind, orientation):
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "maker", orientation
        data = encoded(self.PIXELS, kind, exif=exif)
        found = Image.open(io.BytesIO(data)).getexif()[0x0112]
        assert read_header(open_image(data)).orientation == (found if 1 <= found <= 8 else 1)


def test_an_image_above_the_bound_is_told_how_to_go_on():
    header = struct.pack(">IIBBBBB", 12000, 9000, 8, 0, 0, 0, 0)
    with pytest.raises(BrokenImage, match=r"12000 x 9000 pixels.*scale down the image and the boxes of its annotation"):
        open_image(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4))
