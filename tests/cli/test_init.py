"""``init``: a configuration that fits the data set, and is valid as written."""

import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from focalbench.cli import app
from focalbench.cli.init import canvas
from focalbench.config.load import load_config
from focalbench.errors import DataError, StorageError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
OBJECT = """<object><name>{name}</name><difficult>0</difficult>
<bndbox><xmin>{x}</xmin><ymin>10</ymin><xmax>{x2}</xmax><ymax>30</ymax></bndbox></object>"""


def make_set(root, splits, year="2007", size=(64, 48)):
    """A VOC folder: each image of ``splits`` has one cat, and every second one a dog."""
    folder = root / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split, count in splits.items():
        ids = [f"{split}{index:03d}" for index in range(count)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for index, image_id in enumerate(ids):
            Image.new("RGB", size, (index, 90, 120)).save(folder / "JPEGImages" / f"{image_id}.jpg")
            objects = OBJECT.format(name="cat", x=5, x2=25)
            objects += OBJECT.format(name="dog: big", x=30, x2=50) if index % 2 else ""
            (folder / "Annotations" / f"{image_id}.xml").write_text(
                f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
                f"{objects}</annotation>"
            )
    return root


def call(*arguments):
    result = CliRunner().invoke(app, ["init", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_file_is_valid_and_fits_the_data(here):
    make_set(here / "my pets" / "VOCdevkit", {"trainval": 8, "test": 3})
    assert "focalbench run my_pets.yaml" in call("my pets/VOCdevkit")
    experiment = load_config(here / "my_pets.yaml")
    config = experiment.config
    assert (config.name, config.data.root) == ("my_pets", "my pets/VOCdevkit")
    assert (config.data.train, config.data.val) == (("2007/trainval",), ("2007/test",))
    height, width = config.data.image_size
    assert width / height == pytest.approx(64 / 48, rel=0.2)
    assert config.optim.steps == 500
    assert {trial.arm for trial in experiment.trials} == {"ce", "balanced_ce", "focal", "focal_matched"}
    text = (here / "my_pets.yaml").read_text()
    assert "#   cat            8\n#   dog: big       4\n" in text
    assert "# 8 training images, 3 to evaluate on" in text
    assert "focalbench data anchors 'my pets/VOCdevkit' --image-size" in text


def test_photographs_of_4_to_3_get_the_canvas_and_steps_of_bccd(here, monkeypatch):
    """So that what experiments/bccd.yaml reaches is what `init` and `run` reach on that set, without an edit."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_set(here / "set", {"trainval": 292, "test": 1}, size=(64, 48))
    call("set")
    ours, theirs = load_config(here / "set.yaml"), load_config(EXPERIMENTS / "bccd.yaml")
    assert ours.config.data.image_size == theirs.config.data.image_size == (240, 320)
    assert (ours.config.model, ours.config.optim) == (theirs.config.model, theirs.config.optim)
    arms = {trial.config.loss for trial in ours.trials}
    assert {trial.config.loss for trial in theirs.trials} <= arms


def test_the_section_for_yolov2_is_valid_as_written(here):
    make_set(here / "set", {"train": 4, "val": 2})
    lines = call("set", "-o", "-").splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("  # {name: yolov2")]
    (canvas_line,) = [line for line in lines if "data.image_size by" in line]
    height, width = re.search(r"\[(\d+), (\d+)\]", canvas_line).groups()
    start = lines.index("model:")
    lines[start : at + 1] = [f"model: {lines[at].lstrip(' #')}"]
    (size,) = [number for number, line in enumerate(lines) if line.startswith("  image_size:")]
    lines[size] = f"  image_size: [{height}, {width}]"
    (here / "yolo.yaml").write_text("\n".join(lines))
    model = load_config(here / "yolo.yaml", ["sweep=null"]).config.model
    assert model.name == "yolov2"
    assert 1 <= len(model.priors) <= 5


def test_train_and_val_where_there_is_no_test_list(here):
    make_set(here / "set", {"train": 2, "val": 2}, year="2012")
    call("set", "-o", "x.yaml")
    config = load_config(here / "x.yaml").config
    assert (config.data.train, config.data.val) == (("2012/train",), ("2012/val",))


@pytest.mark.parametrize("given", ["set", "set/VOCdevkit", "set/VOCdevkit/VOC2007"])
def test_root_may_be_given_one_level_off(here, given):
    make_set(here / "set" / "VOCdevkit", {"train": 2, "val": 2})
    call(given, "-o", "x.yaml")
    assert load_config(here / "x.yaml").config.data.root == "set/VOCdevkit"


def test_stdout_and_existing_files(here):
    make_set(here / "set", {"train": 2, "val": 2})
    text = call("set", "-o", "-")
    (here / "set.yaml").write_text("precious")
    with pytest.raises(StorageError, match=r"set\.yaml: exists; --force"):
        call("set")
    assert (here / "set.yaml").read_text() == "precious"
    call("set", "--force")
    assert (here / "set.yaml").read_text() == text
    with pytest.raises(StorageError, match="cannot be written"):
        call("set", "-o", here / "no" / "folder.yaml")


def test_faulty_folders(here):
    with pytest.raises(DataError, match="no such folder"):
        call("nowhere")
    (here / "empty").mkdir()
    with pytest.raises(DataError, match="holds no folder VOC2007"):
        call("empty")
    make_set(here / "odd", {"first": 1, "second": 1})
    with pytest.raises(DataError, match=r"found: 2007/first, 2007/second"):
        call("odd")
    make_set(here / "bare", {"train": 1, "val": 1})
    for path in (here / "bare" / "VOC2007" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("object>", "thing>"))
    with pytest.raises(DataError, match="no object"):
        call("bare")
    make_set(here / "hidden", {"train": 1, "val": 1})
    for path in (here / "hidden" / "VOC2007" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0<", "<difficult>1<"))
    with pytest.raises(DataError, match="difficult ones do not count"):
        call("hidden")


@pytest.mark.parametrize(
    ("width", "height", "area", "expected"),
    [
        (640, 480, 192 * 256, (192, 256)),
        (640, 480, 240 * 320, (240, 320)),
        (480, 640, 192 * 256, (256, 192)),
        (500, 500, 192 * 256, (224, 224)),
        (500, 375, 384 * 512, (384, 512)),
        (5000, 100, 192 * 256, (128, 384)),
    ],
)
def test_canvas_keeps_the_aspect_in_multiples_of_16(width, height, area, expected):
    assert canvas([width] * 3, [height] * 3, area) == expected
