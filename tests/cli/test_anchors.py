"""``data anchors``: priors and coverage as text and as one JSON document; settings that the configuration takes."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from focalbench.cli import data
from focalbench.config.load import default_config
from focalbench.data.synthetic import synthesize
from focalbench.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("anchors"), 6, 3, seed=1)


def invoke(*arguments):
    app = typer.Typer()
    app.add_typer(data.data_app)
    return CliRunner().invoke(app, ["data", "anchors", *map(str, arguments)])


def document_of(*arguments):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_priors_go_into_a_configuration(root):
    document = document_of(root, "-k", 3, "--image-size", 128)
    assert len(document["priors"]) == 3
    assert 0.5 < document["average_iou"] <= 1
    assert all(0.2 < side < 1.4 for prior in document["priors"] for side in prior)
    text = invoke(root, "-k", 3, "--image-size", 128).stdout
    (line,) = [line for line in text.splitlines() if line.startswith("model.priors: [[")]
    priors = line.removeprefix("model.priors: ")
    assert len(default_config(["model.name=yolov2", f"model.priors={priors}"]).model.priors) == 3


def test_coverage_adds_up_over_classes_and_sizes(root):
    document = document_of(root, "-k", 2, "--image-size", 128, "-s", "model.backbone=tiny")
    found = document["coverage"]
    assert found["objects"] == document["objects"] == found["matched"] + found["forced"] + found["without"]
    assert set(found["classes"]) == {"circle", "cross", "square", "triangle"}
    for groups in (found["classes"], found["sizes"]):
        for key in ("objects", "matched", "forced", "without"):
            assert sum(group[key] for group in groups.values()) == found[key]
    assert found["advice"]


def test_every_alternative_is_a_setting_that_validates(root):
    for one in document_of(root, "-k", 2, "--image-size", 128)["coverage"]["alternatives"]:
        if one["set"]:
            default_config([one["set"]])


def test_a_change_of_the_anchors_is_seen(root):
    shares = {}
    for scale in (2, 16):
        found = document_of(
            root, "-k", 2, "--image-size", 128, "-s", "model.backbone=tiny", "-s", f"model.anchor_scale={scale}"
        )["coverage"]
        shares[scale] = found["matched"] / found["objects"]
    assert shares[2] > 0.8 > 0.1 > shares[16]


def test_text_names_classes_sizes_and_advice_in_80_columns(root):
    lines = invoke(root, "-k", 2, "--image-size", "96,128", "-s", "model.backbone=tiny").stdout.splitlines()
    text = "\n".join(lines)
    for words in ("96 x 128 px", "circle", "16 to 32 px", "matched", "forced", "without", "as it is", "advice: "):
        assert words in text
    assert max(len(line) for line in lines) <= 80


def test_objects_of_fewer_sizes_than_priors_get_as_many_priors_as_there_are_sizes(root):
    """The table of RetinaNet's anchors needs no priors: it is printed in any case."""
    result = invoke(root, "-k", 50, "--image-size", 128)
    assert result.exit_code == 0
    num_sizes = int(
        re.search(r"-k 50: the objects have only (\d+) different sizes", " ".join(result.stderr.split()))[1]
    )
    assert f"YOLOv2: {num_sizes} priors on" in result.stdout
    assert "advice: " in result.stdout
    assert len(document_of(root, "-k", 50, "--image-size", 128)["priors"]) == num_sizes < 50


def test_a_split_without_objects_that_count_is_the_users_fault(tmp_path):
    root = synthesize(tmp_path, 2, 1, image_size=64)
    for path in root.rglob("*.xml"):
        path.write_text(path.read_text().replace("<difficult>0<", "<difficult>1<"))
    error = invoke(root).exception
    assert isinstance(error, DataError)
    assert "has no objects that count" in str(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--image-size", "8"), "--image-size"),
        (("--image-size", "64,64,64"), "--image-size"),
        (("--image-size", "wide"), "--image-size"),
        (("-s", "loss.gamma=1"), "only model"),
        (("-s", "model.name=yolov2"), "YOLOv2"),
        (("-s", "model.anchor_scal=1"), "anchor_scale"),
    ],
)
def test_bad_arguments_name_what_is_wrong(root, arguments, words):
    error = invoke(root, *arguments).exception
    assert isinstance(error, ConfigError)
    assert words in str(error)
