"""``init``: a configuration that fits the data set, and is valid as written."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from focalbench.cli import app
from focalbench.config.load import load_config
from focalbench.errors import ConfigError, DataError, StorageError
from focalbench.experiment.rehearsal import Rehearsal

OBJECT = """<object><name>{name}</name><difficult>0</difficult>
<bndbox><xmin>{x}</xmin><ymin>10</ymin><xmax>{x2}</xmax><ymax>30</ymax></bndbox></object>"""


def make_set(root, splits, year="2007", size=(64, 48), more=""):
    """A VOC folder: each image of ``splits`` has one cat, and every second one a dog; ``more`` objects as XML."""
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
            objects += more
            (folder / "Annotations" / f"{image_id}.xml").write_text(
                f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
                f"{objects}</annotation>"
            )
    return root


def invoke(*arguments, timing="--no-timing"):
    result = CliRunner().invoke(app, ["init", timing, *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def call(*arguments, timing="--no-timing"):
    return invoke(*arguments, timing=timing).stdout


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, on a machine without a GPU and ImageNet weights: another network would be chosen with them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("focalbench.analysis.suggestion.has_published_file", lambda: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_that_are_installed_are_started_from(here, monkeypatch):
    make_set(here / "pets" / "VOCdevkit", {"trainval": 8, "test": 3})
    call("pets/VOCdevkit")
    config = load_config(Path("pets.yaml")).config
    assert (config.model.backbone, config.model.weights, config.optim.backbone_lr) == ("tiny", "none", None)
    scratch = Path("pets.yaml").read_text()
    assert "focalbench[pretrained]" in scratch

    monkeypatch.setattr("focalbench.analysis.suggestion.has_published_file", lambda: True)
    call("pets/VOCdevkit", "--force")
    config = load_config(Path("pets.yaml")).config
    assert (config.model.backbone, config.model.weights) == ("efficientnet_lite0", "imagenet")
    assert config.optim.backbone_lr is not None
    assert config.optim.backbone_lr < 1
    assert call("pets/VOCdevkit", "--from-scratch", "-o", "-") == scratch
    (yolo,) = re.findall(r"# (\{name: yolov2, .*\})", Path("pets.yaml").read_text())
    swapped = load_config(Path("pets.yaml"), [f"model={yolo}", "data.image_size=[64, 64]"]).config
    assert (swapped.model.name, swapped.model.weights, swapped.model.norm) == ("yolov2", "imagenet", "frozen")


def test_file_is_valid_and_fits_the_data(here):
    make_set(here / "my pets" / "VOCdevkit", {"trainval": 8, "test": 3})
    assert "focalbench run my_pets.yaml" in call("my pets/VOCdevkit")
    experiment = load_config(here / "my_pets.yaml")
    config = experiment.config
    assert (config.name, config.data.root) == ("my_pets", "my pets/VOCdevkit")
    assert (config.data.train, config.data.val) == (("2007/trainval",), ("2007/test",))
    assert config.data.image_size == (48, 64)
    assert config.optim.steps == 500
    assert config.loss == experiment.trials[0].config.loss
    assert {trial.arm for trial in experiment.trials} == {"ce", "balanced_ce", "focal", "focal_matched"}
    text = (here / "my_pets.yaml").read_text()
    assert "#   cat            8\n#   dog: big       4\n" in text
    assert "# 8 training images, 3 to evaluate on" in text
    assert "focalbench data anchors 'my pets/VOCdevkit' --image-size" in text


def test_what_it_declares_can_end_in_words(here):
    """Six seeds are the fewest for a claim."""
    make_set(here / "set", {"train": 4, "val": 2})
    call("set")
    experiment = load_config(here / "set.yaml")
    assert experiment.config.sweep.until == "decided"
    assert len({trial.seed for trial in experiment.trials}) == 6


def test_an_editor_finds_the_schema_that_the_first_line_names(here):
    make_set(here / "set", {"train": 4, "val": 2})
    first = call("set", "-o", "-").splitlines()[0]
    schema = json.loads(Path(first.removeprefix("# yaml-language-server: $schema=")).read_text())
    assert {"data", "model", "loss", "optim", "eval", "sweep"} <= schema["properties"].keys()


def test_limits_and_anchors_come_from_the_objects(here):
    """Seventy tall, narrow objects an image: more than the default limit lets a network find, and hard to match."""
    narrow = "".join(
        OBJECT.format(name="pole", x=5 + 18 * k, x2=16 + 18 * k)
        .replace(">10<", f">{top}<")
        .replace(">30<", f">{top + 59}<")
        for k in range(35)
        for top in (40, 240)
    )
    make_set(here / "set", {"train": 4, "val": 2}, size=(640, 480), more=narrow)
    text = call("set", "-o", "-")
    (here / "set.yaml").write_text(text)
    config = load_config(here / "set.yaml").config
    assert config.eval.max_detections == 150
    assert "the fullest holds 72 objects" in text
    assert config.model.anchor_ratios == (0.25, 0.5, 1, 2, 4)
    assert "of the objects have no anchor of their size" in text


def test_objects_too_small_for_any_canvas_here_are_told(here):
    speck = "".join(OBJECT.format(name="cat", x=50 * k + 1, x2=50 * k + 8).replace(">30<", ">15<") for k in range(30))
    make_set(here / "set", {"train": 2, "val": 2}, size=(2000, 1500), more=speck)
    told = " ".join(invoke("set").stderr.split())
    assert "63 of 63 objects of train are less than 4 px wide or high on it" in told
    assert "would do" in told


def test_the_next_line_says_how_many_trainings_and_how_long(here, monkeypatch):
    """Ten seconds a step: four arms, six to twelve seeds; with two slots half of that one after the other."""
    make_set(here / "set", {"train": 8, "val": 2})
    _pretend(monkeypatch, Rehearsal(num_train=8, num_val=2, step_s=10.0, image_s=0.0), cores=2)
    words = call("set", timing="--timing")
    assert re.search(r"next:  focalbench run set.yaml   # 24 to 48 trials of about 1 h 23 min: 16 h 40 min to ", words)


def test_steps_follow_from_the_hours_that_all_trainings_may_take(here, monkeypatch):
    make_set(here / "set", {"train": 8, "val": 2})
    _pretend(monkeypatch, Rehearsal(num_train=8, num_val=2, step_s=0.1, image_s=0.0), cores=1)
    call("set", "--hours", "1", timing="--timing")
    steps = load_config(here / "set.yaml").config.optim.steps
    assert 48 * 0.1 * steps <= 3600 < 48 * (0.1 * (steps + 10) + 10)
    with pytest.raises(ConfigError, match=r"--hours 0.05: .* fewer than 100 steps.* use --hours 0\.2 or more"):
        call("set", "--hours", "0.05", "--force", timing="--timing")
    with pytest.raises(ConfigError, match="leave out --no-timing or --hours"):
        call("set", "--hours", "1", "--force")


def _pretend(monkeypatch, rehearsal, cores):
    """A machine of so many cores, on which steps take the time that ``rehearsal`` says."""
    monkeypatch.setattr("focalbench.launchers.local.num_cores", lambda: cores)
    monkeypatch.setattr("focalbench.launchers.rehearsal.rehearse_side_by_side", lambda trial, slots: rehearsal)


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
    with pytest.raises(DataError, match="nowhere: does not exist"):
        call("nowhere")
    (here / "empty").mkdir()
    with pytest.raises(DataError, match="holds no VOC<year> folder"):
        call("empty")
    make_set(here / "odd", {"first": 1, "second": 1})
    with pytest.raises(DataError, match=r"found: 2007/first, 2007/second"):
        call("odd")
    make_set(here / "bare", {"train": 1, "val": 1})
    for path in (here / "bare" / "VOC2007" / "Annotations").iterdir():
        path.write_text(path.read_text().split("<object>")[0] + "</annotation>")
    with pytest.raises(DataError, match="no usable object"):
        call("bare")
    make_set(here / "hidden", {"train": 1, "val": 1})
    for path in (here / "hidden" / "VOC2007" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0<", "<difficult>1<"))
    with pytest.raises(DataError, match=r"(?s)nothing-to-learn.*1 difficult, which do not"):
        call("hidden")
