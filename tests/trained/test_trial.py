"""A trained trial speaks from its folder alone: the figure of its result, wherever it lies and without its data."""

import dataclasses
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focalbench.config.load import load_config
from focalbench.errors import CheckpointError, ConfigError, DataError, FocalbenchError
from focalbench.experiment.trial import run_trial
from focalbench.models import MODELS
from focalbench.runtime import StopFlag
from focalbench.storage import to_json
from focalbench.trained import export as export_module
from focalbench.trained.export import export_onnx
from focalbench.trained.inference import find_images, predict_image
from focalbench.trained.trial import TrainedTrial, find_trial, load_trained
from focalbench.training.checkpoint import load_newest, save_checkpoint
from focalbench.training.evaluate import score

Write = Callable[..., Path]


@pytest.fixture
def folder(trained: Any, tmp_path: Path) -> Path:
    """A copy of the trained trial under another name, for a test to damage."""
    return Path(shutil.copytree(trained.folder, tmp_path / "moved ü" / "renamed"))


@pytest.fixture(scope="module")
def loaded(trained: Any) -> TrainedTrial:
    return load_trained(trained.folder, device="cpu")


def _train(config: Path, folder: Path) -> None:
    (trial,) = load_config(config).trials
    run_trial(trial, folder, device="cpu", stop=StopFlag(), progress=lambda *_: None, warn=lambda _: None)


def test_a_moved_trial_scores_what_its_result_says(folder: Path) -> None:
    trial = load_trained(folder, device="cpu")
    data = trial.data()
    found = score(trial.detect(data), data.ground_truth(), trial.classes, "voc07")
    result = json.loads((folder / "result.json").read_text())
    assert found.mean_ap == result["val/mAP"]
    assert to_json(found.ap) == result["AP"]
    assert trial.name == result["trial"]
    assert (trial.canvas, trial.step, trial.model.training) == ((64, 64), 6, False)


def test_a_run_with_one_trial_stands_for_it(trained: Any) -> None:
    assert load_trained(trained.folder.parent, device="cpu").name == trained.folder.name


def test_the_average_is_what_was_evaluated(write_config: Write, tmp_path: Path) -> None:
    config = write_config()
    config.write_text(config.read_text().replace("warmup_steps: 2", "warmup_steps: 2, ema: 0.9"))
    _train(config, tmp_path / "ema")
    trial = load_trained(tmp_path / "ema", device="cpu")
    checkpoint = load_newest(tmp_path / "ema" / "checkpoints")
    assert checkpoint is not None
    name, weight = next(iter(trial.model.named_parameters()))
    assert torch.equal(weight, checkpoint["ema"][f"module.{name}"])
    assert not torch.equal(weight, checkpoint["model"][name])
    data = trial.data()
    found = score(trial.detect(data), data.ground_truth(), trial.classes, "voc07")
    assert found.mean_ap == trial.result.mean_ap


def test_counted_parameters_come_from_the_checkpoint(write_config: Write, tmp_path: Path) -> None:
    config = write_config()
    config.write_text(config.read_text().replace("loss: {name: focal}", "loss: {name: balanced_ce, alpha: auto}"))
    _train(config, tmp_path / "auto")
    alpha = load_trained(tmp_path / "auto", device="cpu").criterion.classification.scheduled()["alpha"]
    checkpoint = load_newest(tmp_path / "auto" / "checkpoints")
    assert checkpoint is not None
    assert alpha == float(checkpoint["criterion"]["classification.alpha"]) > 0.9


def test_data_are_found_by_option_then_configuration_then_environment(
    folder: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(trained.data_root), "/nowhere"))
    trial = load_trained(folder, device="cpu")
    with pytest.raises(DataError, match="/nowhere"):
        trial.data()
    assert len(trial.data(root=trained.data_root)) == 6
    monkeypatch.setenv("FOCALBENCH_DATA", str(trained.data_root))
    assert len(trial.data(splits=["2007/train"])) == 12


def test_a_class_that_the_network_does_not_know_is_refused(loaded: TrainedTrial) -> None:
    fewer = dataclasses.replace(loaded, classes=("circle", "cross", "square"))
    with pytest.raises(DataError, match="triangle"):
        fewer.data()


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (
            lambda f: (f / "status.json").write_text('{"state": "interrupted", "step": 4}'),
            DataError,
            "step 4.*unfinished",
        ),
        (lambda f: [(f / name).unlink() for name in ("status.json", "result.json")], DataError, "not finished"),
        (lambda f: (f / "config.yaml").unlink(), DataError, "is not a trial"),
        (lambda f: (f / "config.yaml").write_text("name: [\n"), ConfigError, "config.yaml:"),
        (lambda f: shutil.rmtree(f / "checkpoints"), CheckpointError, "no intact checkpoint"),
        (lambda f: (f / "result.json").write_text("{"), DataError, "result.json"),
        (lambda f: [p.write_bytes(b"x") for p in f.glob("checkpoints/*.pt")], CheckpointError, "damaged"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    folder: Path, damage: Callable[[Path], object], kind: type[FocalbenchError], says: str
) -> None:
    damage(folder)
    with pytest.raises(kind, match=says):
        load_trained(folder, device="cpu")


def test_paths_that_hold_no_one_trial_are_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_trained(tmp_path / "none")
    with pytest.raises(DataError, match="is a file"):
        load_trained(trained.folder / "config.yaml")
    for name in ("one", "two"):
        shutil.copytree(trained.folder, tmp_path / "run" / name)
    with pytest.raises(DataError, match=r"holds 2 trials; give one of them: .*one, .*two"):
        load_trained(tmp_path / "run")


def test_the_beginning_of_one_name_is_enough(write_trial: Callable[..., Path]) -> None:
    first, second = write_trial("runs/x/ce-s0-1111"), write_trial("runs/x/ce-s1-2222")
    assert find_trial(first.with_name("ce-s0")) == first
    assert find_trial(second) == second
    with pytest.raises(DataError, match=r"ce: begins the names of 2 trials; give one of them: .*ce-s0-1111, .*ce-s1-"):
        find_trial(first.with_name("ce"))
    with pytest.raises(DataError, match="focal: does not exist"):
        find_trial(first.with_name("focal"))


def test_an_edited_configuration_is_refused_where_the_network_depends_on_it(folder: Path) -> None:
    config = folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("fpn_channels: 8", "fpn_channels: 16"))
    with pytest.raises(CheckpointError, match=r"model\.fpn_channels is 16, but .* trained with 8"):
        load_trained(folder, device="cpu")
    config.write_text(text.replace("max_detections: 20", "max_detections: 5"))
    assert load_trained(folder, device="cpu").settings.max_detections == 5


def test_an_unfinished_trial_may_be_asked_for(folder: Path) -> None:
    (folder / "status.json").write_text('{"state": "running"}')
    (folder / "result.json").unlink()
    assert load_trained(folder, device="cpu", unfinished=True).step == 6


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(folder: Path) -> None:
    state = load_newest(folder / "checkpoints")
    assert state is not None
    save_checkpoint(folder / "checkpoints", {**state, "step": 3}, step=3, keep=1)  # a finished trial has one alone
    newest = save_checkpoint(folder / "checkpoints", state, step=state["step"], keep=2)
    newest.write_bytes(newest.read_bytes()[:-7] + b"damaged")
    said: list[str] = []
    assert load_trained(folder, device="cpu", warn=said.append).step == 3
    assert "damaged" in said[0]


def test_a_picture_gets_the_boxes_of_the_evaluation(loaded: TrainedTrial) -> None:
    loaded = dataclasses.replace(loaded, precision=torch.float32)  # in bf16 the batch size decides ties of scores
    data = loaded.data()
    detections = loaded.detect(data)
    for index in (0, 5):
        rows = detections["image"] == index
        found = predict_image(loaded, data.records[index].image_path, score_thresh=0.0)
        assert found.image.shape == (64, 64, 3)
        np.testing.assert_allclose(found.voc_boxes, detections["box"][rows], atol=1e-3)
        np.testing.assert_allclose(found.scores, detections["score"][rows], atol=1e-6)
        np.testing.assert_array_equal(found.labels, detections["label"][rows])


def test_boxes_lie_in_the_upright_image_at_its_own_size(loaded: TrainedTrial, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture.save(tmp_path / "turned.jpg", exif=exif)
    found = predict_image(loaded, tmp_path / "turned.jpg", score_thresh=0.0)
    assert found.image.shape == (200, 90, 3)
    assert len(found.boxes) == 20
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= 90).all()
    assert (found.boxes[:, 3] <= 200).all()
    assert found.boxes[:, 3].max() > 90


def _huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.write_text("not an image"), "neither a JPEG nor a PNG"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(_huge_png()), "60000 x 60000"),
        (lambda p: os.mkfifo(p), "not a regular file"),
        (lambda p: p.symlink_to(p), "cannot be read"),
        (lambda p: p.mkdir(), "cannot be|not a regular"),
    ],
)
def test_files_that_are_no_images_are_named(
    loaded: TrainedTrial, tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "input.png"
    make(path)
    with pytest.raises(DataError, match=rf"input\.png.*({says})"):
        predict_image(loaded, path, score_thresh=0.3)


def test_files_folders_and_patterns_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "note.txt", "[odd].jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to("a.png")
    paths, faults = find_images([str(tmp_path / "b.JPG"), str(tmp_path), str(tmp_path / "*.png")])
    assert [path.name for path in paths] == ["b.JPG", "[odd].jpeg", "a.png"]
    assert faults == []
    assert [path.name for path in find_images([str(tmp_path / "[odd].jpeg")])[0]] == ["[odd].jpeg"]
    paths, faults = find_images([str(tmp_path / "none*"), str(tmp_path / "sub")])
    assert paths == []
    assert "does not exist" in faults[0]
    assert "holds no .jpg" in faults[1]


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(
    extra_onnx: None, loaded: TrainedTrial, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, export_module.Exported]:
    path = tmp_path_factory.mktemp("export") / "new" / "model.onnx"
    return path, export_onnx(loaded, path)


def test_the_exported_network_computes_what_torch_does_for_any_batch(
    loaded: TrainedTrial, exported: tuple[Path, export_module.Exported]
) -> None:
    path, done = exported
    assert done.score_difference is not None
    assert done.score_difference < 1e-4
    session = _session(path)
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    scores, boxes = session.run(["scores", "boxes"], {"images": images.numpy()})
    with torch.no_grad():
        outputs = loaded.model(images)
    assert scores.shape == (5, done.num_boxes, 4)
    np.testing.assert_allclose(scores, outputs.cls_logits.sigmoid().numpy(), atol=1e-4)
    best = int(scores[2].max(axis=1).argmax())
    (found, *_) = loaded.model.decode(loaded.model(images[2:3]), score_thresh=0.0, nms_thresh=0.5, max_detections=1)
    np.testing.assert_allclose(boxes[2, best].clip(0, 64), found.boxes[0].numpy(), atol=1e-2)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["focalbench.classes"]) == list(loaded.classes)
    assert json.loads(metadata["focalbench.canvas"]) == {"height": 64, "width": 64, "fit": "warp"}
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.usefixtures("extra_onnx")
def test_yolov2_is_exported_too(loaded: TrainedTrial, tmp_path: Path) -> None:
    model = MODELS["yolov2"](num_classes=4, backbone="tiny").eval()
    done = export_onnx(dataclasses.replace(loaded, model=model), tmp_path / "yolo.onnx")
    assert done.num_boxes == 5 * 16
    images = torch.randn(1, 3, 64, 64)
    scores, _ = _session(tmp_path / "yolo.onnx").run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = model.scores(model(images))
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)


@pytest.mark.usefixtures("extra_onnx")
def test_a_missing_extra_is_named_and_nothing_is_written(
    loaded: TrainedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'focalbench\[onnx\]'"):
        export_onnx(loaded, tmp_path / "model.onnx")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="is a folder"):
        export_onnx(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_disagrees_is_not_kept(
    loaded: TrainedTrial,
    exported: tuple[Path, export_module.Exported],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other_weights(network: torch.nn.Module, example: torch.Tensor, path: Path, metadata: object) -> int:
        shutil.copy(exported[0], path)
        return 0

    monkeypatch.setattr(export_module, "_write", other_weights)
    model = MODELS["retinanet"](num_classes=4, backbone="tiny", fpn_channels=8, head_convs=1, prior_prob=0.3).eval()
    loaded = dataclasses.replace(loaded, model=model)
    (tmp_path / "model.onnx").write_bytes(b"older")
    with pytest.raises(RuntimeError, match="differs"):
        export_onnx(loaded, tmp_path / "model.onnx")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model.onnx", b"older")]


def test_the_gpu_that_was_asked_for_is_the_current_one_before_the_network_goes_there(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of libraries start on the current one, and without this that is the first of the machine."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(f"set {device}"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: calls.append(f"to {device}"))
    with pytest.raises(AttributeError):
        load_trained(trained.folder, device="cuda:1")
    assert calls == ["set cuda:1", "to cuda:1"]
