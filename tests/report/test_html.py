"""The page from files to HTML: what it must say, what it must never let through, and how a browser shows it."""

import json
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import defusedxml.ElementTree
import numpy as np
import pytest
import yaml
from PIL import Image

from focalbench.analysis.formats import WORDS
from focalbench.analysis.judged_arms import NOT_COMPARABLE
from focalbench.config.load import Written
from focalbench.errors import ConfigError, DataError, StorageError
from focalbench.figures import lettering
from focalbench.records.source import keep_source
from focalbench.report import curves, evidence, html
from focalbench.report.evidence import MAX_CLASSES_DRAWN
from focalbench.report.html import breakable, write_report
from focalbench.report.photographs import _resized
from focalbench.statistics.verdict import Word

CE = [0.600, 0.605, 0.595, 0.602, 0.598, 0.601]
GRID = {"ce": ({"name": "ce"}, CE)} | {
    f"gamma={gamma:g},alpha={alpha:g}": (
        {"name": "focal", "gamma": gamma, "alpha": alpha},
        [value + 0.02 * gamma - 0.01 * (alpha == 0.5) + 0.0005 * seed for seed, value in enumerate(CE)],
    )
    for gamma in (0.5, 1.0, 2.0)
    for alpha in (0.25, 0.5)
}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> $\\frac{1$ & {{ 7 * 7 }} 漢'
WriteRun = Callable[..., Path]


class Reader(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.source = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"
        self.text += "" if tag == "wbr" else " "

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(run: Path, **keywords: Any) -> Reader:
    page = run.parent / "page.html"
    write_report([run], page, **keywords)
    return Reader(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def grid_page(new_writer: Callable[[Path], WriteRun], tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The page of ``GRID``, made once."""
    return report(new_writer(tmp_path_factory.mktemp("grid"))(GRID))


def test_page_says_what_the_sweep_showed(grid_page: Reader) -> None:
    for words in (
        "gamma=2,alpha=0.25 (+4.13 points)",  # the lead: better, with the difference
        "42 finished of 42; 7 arms, seeds 0, 1, 2, 3, 4, 5",
        "2007/train, 6 images",
        "2007/val, 8 images",
        "What these seeds can resolve",
        "loss.gamma",
        "focal loss by gamma, best alpha each: underpowered",  # three values, whatever their order
        "p over values .1667. 3 values are too few for a claim",
        "Holm-corrected",
        "torch 2.15.0",
        "focalbench run",
        "name: gamma-alpha",  # the resolved configuration
        "2026-09-21 14:13 UTC",
    ):
        assert words in grid_page.text, words
    assert "Better: gamma=0.5,alpha=0.25" in grid_page.text


def test_heat_map_has_a_cell_for_each_arm_and_the_sd_over_the_seeds(grid_page: Reader) -> None:
    cells = re.findall(r"(\d\d\.\d\d) ± (\d\.\d\d), n 6", grid_page.text)
    values = 100 * np.array(GRID["gamma=2,alpha=0.25"][1])
    assert len(cells) == 6
    assert (f"{values.mean():.2f}", f"{values.std(ddof=1):.2f}") in cells
    assert grid_page.text.count("±: standard deviation over seeds") == 2  # of the map, and of the classes


def test_interval_is_drawn_where_the_figures_are(grid_page: Reader) -> None:
    lines = [tag for name, tag in grid_page.tags if name in ("svg", "line", "ellipse")]
    start = next(n for n, tag in enumerate(lines) if (tag.get("aria-label") or "").startswith("+4.13"))
    zero, interval, dot = lines[start + 1 : start + 4]
    low, high, point = (float(tag[key] or "nan") for tag, key in ((interval, "x1"), (interval, "x2"), (dot, "cx")))
    assert float(zero["x1"] or "nan") < low < point < high <= 200


def test_pictures_are_inside_and_described(grid_page: Reader) -> None:
    pictures = grid_page.named("img")
    # 2 learning curves, AP per class, precision and recall with 4 classes, F1; 4 images and 6 crops of each of 7 arms
    assert len(pictures) == 2 + 1 + 5 + 1 + 4 * 7 + 6 * 7
    for picture in pictures:
        assert re.match(r"data:image/(svg\+xml|jpeg|png);base64,", picture["src"] or "")
        assert len(picture["alt"] or "") > 10
        assert int(picture["width"] or 0) > 0


def test_nothing_is_loaded_and_nothing_runs_but_the_sorting_of_tables(grid_page: Reader) -> None:
    assert grid_page.named("script") == [{}]
    assert not grid_page.named("iframe")
    for _, attributes in grid_page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert (value or "").startswith(("data:", "#")), value
            assert not name.startswith("on")
    policy = next(
        tag["content"] for tag in grid_page.named("meta") if tag.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in (policy or "")
    own = (Path(html.__file__).parent / "report.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "")
    assert f"<script>{own}</script>" in grid_page.source


def test_anchors_headings_and_tables_are_sound(grid_page: Reader) -> None:
    ids = [attributes["id"] for _, attributes in grid_page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} == {link["href"] for link in grid_page.named("a")}
    assert len(grid_page.named("caption")) == len(grid_page.named("table"))
    assert len(grid_page.named("h1")) == 1
    assert grid_page.named("html")[0]["lang"] == "en"
    assert all("scope" in cell for cell in grid_page.named("th"))


def test_hostile_names_stay_text(write_run: WriteRun) -> None:
    classes = [HOSTILE, "_cross", "square", "triangle"]
    arms = {"ce": ({"name": "ce"}, CE), HOSTILE: ({"name": "focal", "label": HOSTILE}, CE)}
    run = write_run(arms, name=HOSTILE, classes=classes)
    failed = next(run.glob("1-s5-*"))
    (failed / "status.json").write_text(json.dumps({"state": "failed", "error": HOSTILE}))
    page = report(run)
    assert page.named("script") == [{}]
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert all((tag["src"] or "").startswith("data:") for tag in page.named("img"))
    assert " ".join(HOSTILE.split()) in page.text
    assert ("numbers stand for them: #0 is" in page.text) is not lettering.drawable(HOSTILE)
    drawings = [(tag["src"] or "").split(",")[1] for tag in page.named("img") if "svg" in (tag["src"] or "")]
    assert len(drawings) == 2 + 1 + 5 + 1
    for drawing in drawings:
        tags = {
            element.tag.rpartition("}")[2] for element in defusedxml.ElementTree.fromstring(b64decode(drawing)).iter()
        }
        assert not tags & {"script", "img", "image", "foreignObject"}


def test_a_class_that_no_font_can_write_has_its_number_in_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_installed", lambda: ())
    lettering._font_file.cache_clear()
    drawn: list[str] = []
    monkeypatch.setattr(curves, "_in_its_font", lambda place, text: drawn.append(text))
    classes = {0: "größe", 2: "車", 3: "собака", 5: "γάτα"}
    curves.plot_class_ap(classes, [], {})
    curves.plot_precision_recall({"ce": [np.ones(101)]}, "車", curves.line_styles(["ce"]), label=2)
    lettering._font_file.cache_clear()
    assert drawn == ["größe", "#2", "собака", "γάτα", "#2"]


def test_a_strip_is_no_larger_on_the_page_than_a_viewer_can_show() -> None:
    shown, factor = _resized(np.zeros((3000, 8, 3), np.uint8))
    assert shown.shape == (4096, 11, 3)
    assert factor == pytest.approx(4096 / 3000)


def test_breaks_are_the_only_markup_in_a_name() -> None:
    assert breakable("a<b>,c_d") == "a&lt;b&gt;,<wbr>c_<wbr>d"


def test_images_that_are_gone_are_said_to_be(write_run: WriteRun, tmp_path: Path) -> None:
    page = report(write_run({"ce": ({"name": "ce"}, CE)}, root=tmp_path / "gone"))
    assert "Not drawn: " in page.text
    assert str(tmp_path / "gone") in page.text
    assert "nothing is annotated there" in page.text  # false positives need no image
    assert all("Crop" not in (picture["alt"] or "") for picture in page.named("img"))


def test_images_that_moved_are_found_where_the_environment_says(
    write_run: WriteRun, tmp_path: Path, voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCALBENCH_DATA", str(voc_root))
    page = report(write_run({"ce": ({"name": "ce"}, CE)}, root=tmp_path / "gone"))
    assert any("Crop" in (picture["alt"] or "") for picture in page.named("img"))


@pytest.mark.parametrize("name", ["val_" + "9" * 5000, "val_x", "train_1"])
def test_foreign_names_of_generated_images_are_said_to_be(write_run: WriteRun, name: str) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6])})
    (folder,) = run.iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"data": {"name": "synthetic"}}))
    arrays = dict(np.load(folder / "detections.npz"))
    np.savez(folder / "detections.npz", **(arrays | {"image_ids": np.array([name] * len(arrays["image_ids"]))}))
    assert "is not an image of the generated set" in report(run).text


def test_images_annotated_otherwise_by_now_are_not_shown(write_run: WriteRun, tmp_path: Path, voc_root: Path) -> None:
    changed = shutil.copytree(voc_root, tmp_path / "changed")
    for annotation in (changed / "VOC2007" / "Annotations").glob("val_*.xml"):
        text = annotation.read_text()
        annotation.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>1</xmin>", text))
    page = report(write_run({"ce": ({"name": "ce"}, CE)}, root=changed))
    assert "different objects than when it was evaluated" in page.text


def test_without_detections_the_rest_is_there(write_run: WriteRun) -> None:
    run = write_run(GRID, detections=False)
    page = report(run)
    assert "no trial has usable detections" in page.text
    assert "detections.npz is missing" in page.text
    assert len(page.named("img")) == 3  # learning curves and AP per class


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a zip"])
def test_damaged_detections_leave_one_trial_out(write_run: WriteRun, content: bytes) -> None:
    run = write_run({"ce": ({"name": "ce"}, CE)})
    damaged = next(run.glob("0-s3-*"))
    (damaged / "detections.npz").write_bytes(content)
    page = report(run)
    assert "ce, seed 3" in page.text
    assert "cannot be read" in page.text


def test_detections_that_contradict_themselves_are_left_out(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6])})
    path = next(run.glob("*/detections.npz"))
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"image": arrays["image"] + 1000}))
    assert "image numbers beyond its list of images" in report(run).text


@pytest.mark.parametrize("array", ["image_ids", "classes"])
def test_detections_that_list_no_names_are_left_out(write_run: WriteRun, array: str) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6]), "focal": ({"name": "focal"}, [0.6])})
    for path in run.glob("*/detections.npz"):
        np.savez(path, **(dict(np.load(path)) | {array: np.array(3)}))
    assert f"{array} is not a list of names" in report(run).text


def test_the_commands_repeat_every_seed_of_every_arm(grid_page: Reader) -> None:
    commands = re.findall(r"focalbench run (\S+) -s 'sweep.seeds=\[0,1,2,3,4,5\]' --out runs/again", grid_page.text)
    assert len(commands) == len(GRID)
    assert all(command.endswith("/config.yaml") for command in commands)


def test_a_sweep_that_keeps_its_file_is_repeated_by_it(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6]), "focal": ({"name": "focal"}, [0.6])})
    keep_source(run, Written("name: x\n", ("sweep.seeds=2",)), "focalbench run x.yaml -s sweep.seeds=2")
    (commands,) = re.findall(r"(focalbench run .*?)focalbench compare", report(run).text)
    assert re.fullmatch(
        rf"focalbench run {run}/source/experiment-\w{{8}}\.yaml -s sweep\.seeds=2 --out runs/again ", commands
    )


def test_of_many_classes_those_that_are_confused_most_are_shown_and_the_others_counted_together() -> None:
    classes = tuple(f"c{number}" for number in range(MAX_CLASSES_DRAWN + 6))
    matrix = np.diag(np.arange(len(classes) + 1))
    matrix[-1, 3] = matrix[7, 9] = 5
    found: Any = SimpleNamespace(classes=classes, confusion=matrix)
    shown = evidence._confusion("ce", 0, found)
    assert len(shown.classes) == MAX_CLASSES_DRAWN + 1
    assert {"c3", "c7", "c9", "other classes"} <= set(shown.classes)
    assert shown.matrix.sum() == matrix.sum()
    assert shown.matrix[shown.classes.index("c7"), shown.classes.index("c9")] == 5
    assert shown.matrix[-1, shown.classes.index("c3")] == 5


def test_a_number_logged_once_is_no_curve(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6])}, detections=False)
    (log,) = run.glob("*/metrics.jsonl")
    lines = [line for line in log.read_text().splitlines(keepends=True) if '"step": 25' not in line]
    log.write_text("".join(lines))
    page = report(run)
    alts = [picture["alt"] or "" for picture in page.named("img")]
    assert not any(alt.startswith("evaluated mAP in points") for alt in alts)
    assert any(alt.startswith("training loss") for alt in alts)
    log.write_text(lines[0])
    assert "no trial's metrics.jsonl has more than one step" in report(run).text


def test_two_keys_changed_together_are_drawn_as_a_line(write_run: WriteRun) -> None:
    cells = ((0.5, 0.5), (1.0, 0.25), (2.0, 0.25), (5.0, 0.25))
    arms = {f"gamma={g:g}": ({"name": "focal", "gamma": g, "alpha": a}, [0.5 + g / 10]) for g, a in cells}
    page = report(write_run(arms, detections=False))
    alts = [picture["alt"] or "" for picture in page.named("img")]
    line = next(alt for alt in alts if alt.startswith("val/mAP in points against loss.gamma with loss.alpha"))
    assert "0.5, 0.5: 55.00; 1, 0.25: 60.00" in line
    assert "fewer than half" not in page.text


def test_one_seed_makes_no_claim(write_run: WriteRun) -> None:
    page = report(write_run({"ce": ({"name": "ce"}, [0.6]), "focal": ({"name": "focal"}, [0.7])}))
    assert "One seed, no claim: focal." in page.text
    assert "A claim needs at least 6 paired seeds; the arm with the fewest has 1." in page.text
    assert "no interval from one pair" in page.text


def test_one_arm_and_a_single_trial(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, CE)})
    assert "One arm: nothing to compare it with." in report(run).text
    assert "1 finished of 1" in report(next(run.glob("0-s0-*"))).text


def test_unfinished_trials_are_listed_with_their_reasons(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, CE), "focal": ({"name": "focal"}, CE)})
    folders = sorted(run.glob("1-*"))
    (folders[0] / "status.json").write_text(json.dumps({"state": "failed", "step": 7, "error": "the loss is NaN"}))
    (folders[1] / "result.json").write_text('{"val/mAP": 0.')
    (folders[2] / "status.json").write_text(json.dumps({"state": "running", "step": 3, "steps": 50}))
    page = report(run)
    assert "Not counted (3), and why." in page.text
    assert "failed at step 7: the loss is NaN" in page.text
    assert "result.json cannot be read" in page.text
    assert "running at step 3 of 50" in page.text


def test_trials_to_come_are_no_list_of_reasons(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, CE)}, detections=False)
    (run / "0-s5-00000005" / "status.json").write_text(json.dumps({"state": "running", "step": 3}))
    listed = [path.name[-8:] for path in sorted(run.iterdir())] + ["aaaaaaaa", "bbbbbbbb"]
    rows = [{"name": f"t-{number}", "arm": "ce", "seed": 0, "hash": number} for number in listed]
    (run / "sweep.json").write_text(json.dumps({"trials": rows}))
    page = report(run)
    assert "Not counted (3), and why. Not started, and in the next table only: 2." in page.text
    assert page.text.count("t-aaaaaaaa") == 1
    assert "no folder yet" not in page.text


def test_every_word_of_a_verdict_is_explained(write_run: WriteRun) -> None:
    explained = ", ".join(word for word, _ in WORDS)
    unexplained = {word for word in (*get_args(Word), NOT_COMPARABLE) if word not in explained}
    assert unexplained == {"higher", "lower", "one seed: no claim"}  # they say it themselves
    page = report(write_run({"ce": ({"name": "ce"}, CE), "focal": ({"name": "focal"}, CE)}))
    assert all(meaning in page.text for _, meaning in WORDS)


def test_arms_that_a_search_stopped_are_marked(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, CE), "focal": ({"name": "focal"}, CE), "ghm": ({"name": "ghm"}, CE)})
    status = {"state": "stopped", "arm": "ghm", "step": 7, "steps": 50, "error": "by sweep.search: mAP 0.1, median 0.2"}
    for folder in run.glob("2-*"):
        (folder / "result.json").unlink()
        (folder / "status.json").write_text(json.dumps(status))
    page = report(run)
    assert "Not comparable: ghm." in page.text
    assert "not comparable: stopped at step 7 of 50: by sweep.search: mAP 0.1, median 0.2" in page.text
    assert "A claim needs" not in page.text


def test_nan_metrics_are_left_out_in_words(write_run: WriteRun) -> None:
    page = report(write_run({"ce": ({"name": "ce"}, CE), "focal": ({"name": "focal"}, [None, *CE[1:]])}))
    assert "focal: val/mAP is undefined (NaN) or missing for seed 0" in page.text


def test_no_value_at_all_is_an_error_in_words(write_run: WriteRun) -> None:
    with pytest.raises(DataError, match="undefined \\(NaN\\) in every finished trial"):
        report(write_run({"ce": ({"name": "ce"}, [None, None])}))


def test_arms_beyond_what_a_figure_holds_are_in_the_tables_only(write_run: WriteRun) -> None:
    arms = {f"a{n}": ({"name": "focal", "gamma": float(n)}, [0.5 + 0.01 * n]) for n in range(10)}
    page = report(write_run({"ce": ({"name": "ce"}, [0.1])} | arms, detections=False))
    assert "in the tables only: a0, a1, a2" in page.text
    assert "a0" in page.text.split("Trials")[-1]


def test_loss_figures_of_analyze_are_taken_over(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6])})
    folder = next(run.glob("0-*")) / "analysis"
    assert "no trial was analysed" in report(run).text
    folder.mkdir()
    Image.new("RGB", (30, 20)).save(folder / "cumulative_loss.png")
    (folder / "calibration.png").write_text("<svg onload=alert(1)>")
    page = report(run)
    taken = [picture for picture in page.named("img") if "hardest elements" in (picture["alt"] or "")]
    assert [(picture["width"], picture["height"]) for picture in taken] == [("30", "20")]
    assert not any("Reliability" in (picture["alt"] or "") for picture in page.named("img"))


def test_baseline_can_be_chosen(write_run: WriteRun) -> None:
    run = write_run({"ce": ({"name": "ce"}, CE), "focal": ({"name": "focal"}, [v + 0.05 for v in CE])})
    assert "val/mAP against focal, paired by seed. Worse: ce (-5.00 points)." in report(run, baseline="focal").text
    with pytest.raises(ConfigError, match="no such arm; did you mean 'focal'"):
        report(run, baseline="focl")


def test_page_is_replaced_whole_or_not_at_all(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run({"ce": ({"name": "ce"}, [0.6])}, detections=False)
    page = tmp_path / "new" / "folder" / "page.html"
    write_report([run], page)
    before = page.read_bytes()
    shutil.rmtree(run)
    with pytest.raises(DataError):
        write_report([run], page)
    assert page.read_bytes() == before
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_a_file_in_the_way_of_the_folder(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_report([write_run({"ce": ({"name": "ce"}, [0.6])}, detections=False)], tmp_path / "file" / "page.html")
