"""``evaluate``, ``predict``, ``analyze`` and ``export`` as a user types them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focalbench.cli.evaluate import _cut

Call = Callable[..., Any]


@pytest.fixture
def pictures(trained: Any, tmp_path: Path) -> Path:
    """Two images in a folder."""
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for path in sorted((trained.data_root / "VOC2007" / "JPEGImages").iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_evaluate_gives_the_figure_of_the_result(focalbench: Call, trained: Any) -> None:
    result = json.loads((trained.folder / "result.json").read_text())
    found = json.loads(focalbench("evaluate", trained.folder, "--json").out)
    assert found["mAP"] == found["val/mAP"] == result["val/mAP"]
    assert found["AP"] == result["AP"]
    assert (found["split"], found["images"], found["protocol"]) == (["2007/val"], 6, "voc07")
    table = focalbench("evaluate", trained.folder)
    assert table.code == 0
    assert f"{100 * result['val/mAP']:.2f}" in table.out
    assert "AP voc07, points" in table.out
    assert "triangle" in table.out


def test_evaluate_takes_any_split_and_root(focalbench: Call, trained: Any, tmp_path: Path) -> None:
    moved = shutil.copytree(trained.data_root, tmp_path / "elsewhere")
    done = focalbench("evaluate", trained.folder, "--split", "2007/train", "--root", moved, "--json")
    assert json.loads(done.out)["images"] == 12
    assert json.loads(done.out)["split"] == ["2007/train"]
    missing = focalbench("evaluate", trained.folder, "--split", "2012/val")
    assert missing.code == 2
    assert "VOC2012" in missing.err


def test_all_protocols_come_from_one_set_of_boxes(focalbench: Call, trained: Any) -> None:
    done = focalbench("evaluate", trained.folder, "--protocol", "all", "--json")
    rows = json.loads(done.out)["protocols"]
    for protocol, row in (("voc07", "voc07 (11 points)"), ("voc12", "voc12 (area)"), ("coco", "coco (IoU .50:.95)")):
        single = json.loads(focalbench("evaluate", trained.folder, "--protocol", protocol, "--json").out)
        assert rows[row]["mAP"] == single["mAP"]
        assert rows[row]["AP"] == single["AP"]
    assert {"voc07, difficult counted", "voc07, no +1 pixel", "coco, 50", "coco, small"} <= set(rows)
    table = focalbench("evaluate", trained.folder, "--protocol", "all").out
    assert "voc12 (area)" in table
    assert "mAP and AP in points" in table


@pytest.mark.parametrize("command", ["evaluate", "analyze"])
def test_faults_are_short_and_end_with_2(
    focalbench: Call, trained: Any, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(f"root: {trained.data_root}", "root: null"))
    done = focalbench(command, folder)
    assert done.code == 2
    assert "FOCALBENCH_DATA" in done.err
    (folder / "status.json").write_text('{"state": "failed"}')
    done = focalbench(command, folder)
    assert done.code == 2
    assert "not finished (failed)" in done.err
    assert "Traceback" not in done.err
    done = focalbench(command, tmp_path / "none")
    assert (done.code, done.out) == (2, "")


def test_predict_draws_and_lists_every_image(focalbench: Call, trained: Any, pictures: Path) -> None:
    before = _contents(pictures)
    done = focalbench("predict", trained.folder, pictures, "--score-thresh", "0", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    assert [Path(row["image"]).name for row in rows] == sorted(before)
    for row in rows:
        assert (row["width"], row["height"]) == (64, 64)
        assert len(row["detections"]) == 20
        for box in row["detections"]:
            assert box["class"] in ("circle", "cross", "square", "triangle")
            assert 0 <= box["score"] <= 1
            assert all(1 <= value <= 65 for value in box["box"][:2])
            assert all(0 <= value <= 64 for value in box["box"][2:])
        with Image.open(row["picture"]) as picture:
            assert picture.width == 384  # enlarged so that names can be read
    assert Path("predictions").is_dir()
    assert _contents(pictures) == before


def test_predict_prints_lines_and_leaves_out_low_scores(focalbench: Call, trained: Any, pictures: Path) -> None:
    done = focalbench("predict", trained.folder, pictures / "*.png", "--score-thresh", "1", "-o", "out")
    assert done.code == 0
    lines = [line.partition(": ")[2] for line in done.out.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(r"0 boxes \(highest score 0\.\d{3}, below 1\), drawn in out/train_0000\d\.jpg", line)


@pytest.mark.parametrize(
    ("score", "shown"), [(0.29996, "0.299"), (0.0131, "0.013"), (0.001, "0.001"), (3.21e-5, "3e-05"), (0.0, "0")]
)
def test_a_score_below_the_threshold_is_never_rounded_up_to_it(score: float, shown: str) -> None:
    assert _cut(score) == shown


def test_predict_says_how_near_an_image_came_to_a_box(focalbench: Call, trained: Any, pictures: Path) -> None:
    def look(threshold: str) -> dict[str, Any]:
        done = focalbench("predict", trained.folder, pictures / "*0.png", "--score-thresh", threshold, "--json")
        return json.loads(done.out)[0]

    nothing, all_boxes = look("1"), look("0")
    assert nothing["detections"] == []
    assert nothing["highest_score"] == all_boxes["highest_score"] == all_boxes["detections"][0]["score"]


def test_predict_draws_strips_and_goes_on_after_an_image_that_cannot_be_drawn(
    focalbench: Call, trained: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"tall": (2, 3440), "long": (30_000, 2), "dot": (1, 1)}.items():
        Image.new("RGB", size).save(pictures / f"{name}.png")
    save = Image.Image.save

    def refuse(image: Image.Image, *arguments: Any, **options: Any) -> None:
        if image.height > 3440:
            raise OSError("broken data stream")
        save(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", refuse)
    done = focalbench("predict", trained.folder, pictures, "--json")
    assert done.code == 2
    assert "tall.png: cannot be drawn: broken data stream" in done.err
    sizes = {}
    for row in json.loads(done.out):
        with Image.open(row["picture"]) as picture:
            sizes[Path(row["image"]).stem] = picture.size
    assert sizes["long"][0] == 16_384
    assert sizes["dot"][0] == 384
    assert len(sizes) == 4


def test_predict_goes_on_after_a_broken_image_and_ends_with_2(focalbench: Call, trained: Any, pictures: Path) -> None:
    (pictures / "broken.jpg").write_text("no image")
    os.mkfifo(pictures / "fifo.png")
    done = focalbench("predict", trained.folder, pictures, "gone.jpg", "--json")
    assert done.code == 2
    assert len(json.loads(done.out)) == 2
    for name in ("broken.jpg: is neither", "fifo.png: is not a regular file", "gone.jpg: does not exist"):
        assert name in done.err
    assert len(done.err.splitlines()) <= 20


def test_predict_never_overwrites_anything_but_its_own_pictures(focalbench: Call, trained: Any, pictures: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    noise.save(pictures / "a.jpg")
    noise.save(pictures / "a.png")
    Path("predictions").mkdir()
    noise.save("predictions/a.jpg")
    foreign = Path("predictions/a.jpg").read_bytes()
    before = _contents(pictures)
    for _ in range(2):
        rows = json.loads(focalbench("predict", trained.folder, pictures / "a.*", "--json").out)
        assert [row["picture"] for row in rows] == ["predictions/a-2.jpg", "predictions/a-3.jpg"]
    assert Path("predictions/a.jpg").read_bytes() == foreign
    rows = json.loads(focalbench("predict", trained.folder, pictures / "a.*", "-o", pictures, "--json").out)
    assert [Path(row["picture"]).name for row in rows] == ["a-2.jpg", "a-3.jpg"]
    after = _contents(pictures)
    assert {name: after[name] for name in before} == before


def test_predict_into_a_file_is_refused(focalbench: Call, trained: Any, pictures: Path) -> None:
    Path("taken").touch()
    done = focalbench("predict", trained.folder, pictures, "-o", "taken")
    assert done.code == 2
    assert "taken" in done.err
    assert "Traceback" not in done.err


def test_analyze_writes_figures_and_numbers(focalbench: Call, trained: Any) -> None:
    done = focalbench("analyze", trained.folder, "-o", "analysis", "--errors", "--json")
    assert done.code == 0
    names = {path.name for path in Path("analysis").iterdir()}
    assert names == {
        "analysis.json", "calibration.png", "cumulative_loss.png", "errors.png", "gradient_norms.png",
        "hard_negatives.png", "loss_against_p_t.png",
    }  # fmt: skip
    document = json.loads(done.out)
    assert document == json.loads(Path("analysis/analysis.json").read_text())
    for name in names - {"analysis.json"}:
        with Image.open(Path("analysis") / name) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 5
    assert set(document["errors"]["by_cause"]) == {
        "classification", "localisation", "both", "duplicate", "background", "missed",
    }  # fmt: skip
    shares = document["loss"]["negatives"]["share_of_hardest"]["2"]
    assert 0 < shares["0.001"] < shares["0.01"] < shares["0.2"] <= 1
    assert len(document["calibration"]["precision"]) == 20
    assert document["hard_tail"]["shown"]["regions"] == len(document["hard_tail"]["regions"]) > 0


def test_analyze_prints_tables(focalbench: Call, trained: Any) -> None:
    done = focalbench("analyze", trained.folder, "-o", "analysis")
    assert "hardest 0.1 %" in done.out
    assert "nothing" in done.out
    assert "D-ECE" in done.out
    assert "errors by cause" not in done.out


@pytest.mark.usefixtures("extra_onnx")
def test_export_says_what_was_written_and_checked(
    focalbench: Call, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from focalbench.trained import export

    def fake(network: object, example: object, path: Path, metadata: dict[str, str]) -> int:
        path.write_bytes(b"onnx")
        return 504

    monkeypatch.setattr(export, "_write", fake)  # the real one takes ten seconds and has its own test
    monkeypatch.setattr(export, "_check", lambda *arguments: (1e-6, 2e-5))
    done = focalbench("export", trained.folder, "-o", "model.onnx")
    assert done.code == 0
    assert "scores (N, 504, 4)" in done.out
    assert "checked with onnxruntime" in done.out
    assert Path("model.onnx").read_bytes() == b"onnx"
    monkeypatch.setattr(export, "_check", lambda *arguments: (None, None))
    assert "not checked" in focalbench("export", trained.folder, "-o", "model.onnx").err
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    missing = focalbench("export", trained.folder, "-o", "other.onnx")
    assert missing.code == 2
    assert "pip install 'focalbench[onnx]'" in missing.err
