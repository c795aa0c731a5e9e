"""Which training counts, when a contestant stops, and that all of them train and detect on the same images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from focalbench.benchmarks import quality
from focalbench.benchmarks.process import answer, call_module, flat_detections
from focalbench.benchmarks.quality import Contestant, Training, climb, next_steps, ratios, seconds_to
from focalbench.benchmarks.torchvision_run import DecodedOnce, build, detect, train
from focalbench.benchmarks.ultralytics_run import write_data
from focalbench.cli import app
from focalbench.config.load import default_config
from focalbench.config.model import RetinaNetConfig
from focalbench.data.synthetic import synthesize
from focalbench.data.voc import VocSplit, join_objects, read_records
from focalbench.errors import ConfigError, FocalbenchError
from focalbench.experiment.build import build_model
from focalbench.metrics.voc import voc_average_precision


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("set"), 6, 3, 64)


@pytest.fixture(scope="module")
def splits(root: Path) -> tuple[VocSplit, VocSplit]:
    learnt = read_records(root, ("2007/train",))
    return learnt, read_records(root, ("2007/val",), learnt.classes)


@pytest.fixture(scope="module")
def asked(splits: tuple[VocSplit, VocSplit]) -> dict[str, Any]:
    keys = ("data.name=voc", "data.image_size=64", "model.backbone=tiny", "optim.batch_size=2", "eval.score_thresh=0")
    config = default_config(keys)
    assert isinstance(config.model, RetinaNetConfig)
    network = quality.request_network(config.model)
    made = quality.request(config, *splits, network) | {"steps": 2, "device": "cpu"}
    return json.loads(json.dumps(made))


def test_a_ladder_starts_at_the_first_length_and_doubles() -> None:
    assert next_steps([], 100, 0.8, 300) == 100
    assert next_steps([Training(100, 50, 0.1)], 100, 0.8, 300) == 200


def test_a_ladder_ends_at_the_highest_level_or_before_the_budget_would_be_exceeded() -> None:
    assert next_steps([Training(100, 50, 0.8)], 100, 0.8, 300) is None
    assert next_steps([Training(100, 150, 0.1)], 100, 0.8, 300) == 200
    assert next_steps([Training(100, 151, 0.1)], 100, 0.8, 300) is None


def test_the_shortest_training_that_reached_a_level_counts() -> None:
    done = [Training(100, 10, 0.3), Training(200, 19, 0.6), Training(400, 37, 0.55), Training(800, 70, 0.9)]
    assert [seconds_to(level, done) for level in (0.3, 0.55, 0.7, 0.95)] == [10, 19, 70, None]


def test_ratios_are_of_the_best_peer_and_absent_where_nobody_or_only_one_side_arrived() -> None:
    found = ratios(
        [
            {"name": "ours", "seconds_to": [10.0, 20.0, None]},
            {"name": "slow", "seconds_to": [80.0, None, 5.0]},
            {"name": "fast", "seconds_to": [40.0, None, None]},
        ]
    )
    assert found == [{"peer": "fast", "ratio": 4.0}, None, None]


def test_a_contestant_that_fails_keeps_the_trainings_before_it(tmp_path: Path) -> None:
    said: list[str] = []

    def give_up(steps: int, folder: Path, limit: float) -> Training:
        assert not any(folder.iterdir())
        assert limit > 100
        if steps > 20:
            raise FocalbenchError("out of memory")
        return Training(steps, float(steps), steps / 100)

    found = climb(Contestant("a b", 10, give_up), tmp_path, 0.8, 100, said.append)
    assert found == {
        "name": "a b",
        "trainings": [Training(10, 10, 0.1), Training(20, 20, 0.2)],
        "failed": "out of memory",
    }
    assert said == ["a b: 10 steps, 10 s, mAP 10.0", "a b: 20 steps, 20 s, mAP 20.0", "a b: out of memory"]


def test_the_same_size_is_the_same_number_of_parameters(asked: dict[str, Any]) -> None:
    ours = build_model(default_config(["model.backbone=tiny"]), 4)
    theirs = build(asked["network"], 4, (64, 64))
    assert [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)] == [
        sum(p.numel() for p in ours.parameters())
    ] * 2


def test_the_same_anchors_are_there_but_for_where_torchvision_puts_them(asked: dict[str, Any]) -> None:
    ours = build_model(default_config(["model.backbone=tiny"]), 4).anchors_for((64, 64))
    theirs = build(asked["network"], 4, (64, 64)).anchor_generator
    assert sum(n * s * s for n, s in zip(theirs.num_anchors_per_location(), (8, 4, 2, 1), strict=True)) == len(ours)
    sides = torch.cat([cell[:, 2:] - cell[:, :2] for cell in theirs.cell_anchors])
    own = ours[:, 2:] - ours[:, :2]
    for width, height in sides.tolist():  # torchvision rounds half sides
        assert (own - torch.tensor([width, height])).abs().amax(dim=1).min() <= 1.0


def test_images_are_decoded_once_and_changed_each_time(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.benchmarks import torchvision_run

    reads: list[str] = []
    real = torchvision_run.to_canvas
    monkeypatch.setattr(torchvision_run, "to_canvas", lambda data, *rest: (reads.append(""), real(data, *rest))[1])
    data = DecodedOnce(asked["train"], (32, 48))
    torch.manual_seed(0)
    images, boxes, labels = zip(*(data[0] for _ in range(8)), strict=True)
    assert len(reads) == 1
    assert images[0].shape == (3, 32, 48)
    assert not torch.equal(images[0], images[1])
    assert all(len(own) == len(label) for own, label in zip(boxes, labels, strict=True))
    assert all((own[:, 2:] <= torch.tensor([48.0, 32.0])).all() for own in boxes)


def test_torchvision_trains_its_steps_and_its_detections_can_be_scored(
    asked: dict[str, Any], splits: tuple[VocSplit, VocSplit]
) -> None:
    model = train(asked, num_loaders=0)
    tracked = [module.num_batches_tracked for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {int(number) for number in tracked} == {2}
    found = detect(model, asked)
    assert set(found["image"]) <= {0, 1, 2}
    assert len(found["image"]) == len(found["box"]) > 0
    assert found["box"].min() >= 0
    assert found["box"].max() <= 64
    assert 0 <= voc_average_precision(found, join_objects(splits[1].records), num_classes=4)["map"] <= 1


def test_detections_on_the_objects_themselves_score_one(
    splits: tuple[VocSplit, VocSplit], asked: dict[str, Any]
) -> None:
    perfect = (
        (torch.tensor(entry["labels"]), torch.ones(len(entry["labels"])), np.array(entry["boxes"]))
        for entry in asked["val"]
    )
    truth = join_objects(splits[1].records)
    found = flat_detections(perfect)
    assert voc_average_precision(found, truth, num_classes=4)["map"] == pytest.approx(1)
    np.testing.assert_array_equal(found["box"], truth["box"])


def test_what_a_process_hands_back_is_read_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(str(tmp_path / "found.npz"), {"image": np.arange(3)}, 0.0)
    assert json.loads(capsys.readouterr().out)["evaluation_s"] > 0
    with np.load(tmp_path / "found.npz") as read:
        np.testing.assert_array_equal(read["image"], [0, 1, 2])


def test_a_process_that_takes_too_long_is_ended() -> None:
    with pytest.raises(FocalbenchError, match="http\\.server 0 was stopped after 0\\.5 s"):
        call_module(["http.server", "0"], {}, limit=0.5)


def test_ultralytics_gets_the_objects_as_shares_of_their_image(asked: dict[str, Any], tmp_path: Path) -> None:
    document = json.loads(write_data(asked, tmp_path / "data").read_text())
    assert list(document["names"].values()) == asked["classes"]
    assert len(list((tmp_path / "data" / "images" / "train").iterdir())) == 6
    rows = np.loadtxt(tmp_path / "data" / "labels" / "val" / "0.txt", ndmin=2)
    entry = asked["val"][0]
    np.testing.assert_array_equal(rows[:, 0], entry["labels"])
    low, high = rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2
    np.testing.assert_allclose(64 * np.hstack([low, high]), entry["boxes"], atol=1e-3)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants that reach .4, .6, .8 with 100, 200, 400 steps, the second at half the speed, the third never."""

    def contestant(name: str, seconds_a_step: float, factor: float) -> Contestant:
        def train_made_up(steps: int, folder: Path, limit: float) -> Training:
            return Training(steps, seconds_a_step * steps, factor * {100: 0.4, 200: 0.6, 400: 0.8}.get(steps, 0.9))

        return Contestant(name, 100, train_made_up)

    made = [contestant("focalbench", 0.1, 1), contestant("peer", 0.2, 1), contestant("other", 0.4, 0.1)]
    monkeypatch.setattr(quality, "_contestants", lambda case: made)


@pytest.fixture
def written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init` in this process: its own is for the real thing."""

    def call(arguments: list[str], environment: dict[str, str], *rest: object, **options: object) -> str:
        ended = CliRunner().invoke(app, arguments[1:])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    monkeypatch.setattr(quality, "call_module", call)


@pytest.mark.usefixtures("made_up", "written")
def test_the_command_tells_the_seconds_to_each_level(root: Path) -> None:
    command = ["bench", "quality", str(root), "--map", "0.6,0.5,0.8", "--budget", "100", "--device", "cpu"]
    ended = CliRunner().invoke(app, [*command, "--json"])
    assert ended.exit_code == 0, ended.output
    document = json.loads(ended.stdout)
    assert document["levels"] == [0.5, 0.6, 0.8]
    assert {entry["name"]: entry["seconds_to"] for entry in document["contestants"]} == {
        "focalbench": [20, 20, 40],
        "peer": [40, 40, 80],
        "other": [None, None, None],
    }
    assert document["ratios"] == [{"peer": "peer", "ratio": 2.0}] * 3
    assert (document["data"]["train"], document["data"]["val"]) == (["2007/train"], ["2007/val"])
    printed = CliRunner().invoke(app, command).stdout
    assert "not within 100 s (best 6.0 after 80 s)" in printed
    assert "mAP 50: 2.0x the speed of the next, peer" in printed


@pytest.mark.usefixtures("written")
def test_splits_that_are_given_replace_those_of_init(root: Path, tmp_path: Path) -> None:
    lists = root / "VOC2007" / "ImageSets" / "Main"
    (lists / "few.txt").write_text("\n".join((lists / "val.txt").read_text().split()[:2]))
    case = quality._Case(tmp_path, root, (), ("2007/few",), "cpu")
    assert (case.facts["train_images"], case.facts["val_images"]) == (6, 2)
    assert case.config.sweep is None
    names = [contestant.name for contestant in quality._contestants(case)]
    assert names[:2] == ["focalbench", "torchvision, same size"]
    assert case.environment["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("levels", ["", "a", "0.5,", "0", "50"])
def test_levels_that_are_none_are_refused(levels: str) -> None:
    ended = CliRunner().invoke(app, ["bench", "quality", "--map", levels])
    assert isinstance(ended.exception, ConfigError)
    assert "--map" in str(ended.exception)


@pytest.mark.slow
def test_whole_and_for_real(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "FIRST_STEPS", 2)
    contestants = quality._contestants
    monkeypatch.setattr(quality, "_contestants", lambda case: contestants(case)[:2])  # ours, and the peer of its size
    document = quality.bench_quality(root, budget=1, device="cpu")
    for entry in document["contestants"]:
        assert entry["failed"] is None
        assert entry["trainings"][0]["seconds"] > 1
