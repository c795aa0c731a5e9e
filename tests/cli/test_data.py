"""``focalbench data``: documents on stdout, faults on stderr with exit code 2, at most 20 lines of them."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from focalbench.cli import data
from focalbench.data.synthetic import synthesize
from focalbench.errors import DataError, StorageError


@pytest.fixture
def root(tmp_path):
    return synthesize(tmp_path, 6, 3, seed=1)


def invoke(*arguments):
    app = typer.Typer()
    app.add_typer(data.data_app)
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_check_of_a_sound_set_says_what_is_there(root):
    result = invoke("check", root)
    assert result.exit_code == 0
    assert "train (2007/train): 6 images" in result.stdout
    assert "val (2007/val): 3 images" in result.stdout


def test_check_as_json_is_the_documented_shape(root):
    result = invoke("check", root, "--train", "2007/train", "--classes", "circle,square,triangle,cross", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["errors"] == []
    assert document["facts"]["train_images"] == 6
    assert document["facts"]["val_images"] == 0
    assert document["classes"] == ["circle", "square", "triangle", "cross"]


def break_files(root, number):
    for path in sorted((root / "VOC2007" / "Annotations").iterdir())[:number]:
        path.write_text("<annotation>")


def test_check_with_errors_ends_with_2_and_names_the_files(root):
    break_files(root, 4)
    result = invoke("check", root, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [fault["kind"] for fault in document["errors"]] == ["xml-broken"] * 4
    assert document["errors"][0]["file"].startswith("VOC2007/Annotations/")
    result = invoke("check", root)
    assert isinstance(result.exception, DataError)
    assert "train_00000.xml" in str(result.exception)


def test_check_with_many_errors_and_warnings_keeps_to_twenty_lines(tmp_path):
    root = synthesize(tmp_path, 40, 3)
    for path in (root / "VOC2007" / "Annotations").iterdir():
        text = path.read_text().replace("<difficult>0</difficult>", "")
        path.write_text(text if "val" in path.name else text.replace("<xmin>", "<xmin>x"))
    command = [sys.executable, "-m", "focalbench", "data", "check", str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len((result.stdout + result.stderr).splitlines()) <= 20
    assert "Traceback" not in result.stderr
    assert "bad-coordinate" in result.stderr


def test_check_of_a_missing_root_is_json_too(tmp_path):
    result = invoke("check", tmp_path / "absent", "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["errors"][0]["kind"] == "bad-root"
    assert document["facts"] == {"train_images": 0, "val_images": 0, "train_objects": 0, "val_objects": 0}
    assert isinstance(invoke("check", tmp_path / "absent").exception, DataError)


def test_stats_count_every_split(root):
    document = json.loads(invoke("stats", root, "--json").stdout)
    assert set(document["splits"]) == {"2007/train", "2007/val"}
    assert document["splits"]["2007/train"]["images"] == 6
    text = invoke("stats", root, "--split", "2007/val").stdout
    assert "2007/val: 3 images" in text
    assert "2007/train" not in text


def test_synthesize_writes_a_set_and_never_over_one(tmp_path):
    result = invoke(
        "synthesize", tmp_path / "new", "--num-train", "3", "--num-val", "2", "--image-size", "64", "--json"
    )
    document = json.loads(result.stdout)
    assert document["root"] == str(tmp_path / "new" / "VOCdevkit")
    assert len(list((tmp_path / "new" / "VOCdevkit" / "VOC2007" / "JPEGImages").iterdir())) == 5
    assert isinstance(invoke("synthesize", tmp_path / "new").exception, StorageError)


@pytest.mark.parametrize("classes", ["a,,b", "a,b,a"])
def test_class_lists_with_holes_or_repeats_are_refused(root, classes):
    assert isinstance(invoke("check", root, "--classes", classes).exception, DataError)


def test_checking_loads_no_torch(root):
    code = (
        "import sys; from focalbench.data.check import check_data\n"
        "check_data(sys.argv[1], ('2007/train',)); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
