"""A trial leaves what the contract lists, repeats bit for bit, and resumes as if it had never stopped."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from focalbench import devices
from focalbench.config.load import load_config
from focalbench.config.sweep import Trial
from focalbench.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    DeviceLostError,
    DeviceMemoryError,
    DivergedError,
    InterruptedTrial,
    StorageError,
)
from focalbench.experiment import events
from focalbench.experiment import trial as trial_module
from focalbench.experiment.memory import ways_out
from focalbench.experiment.resume import require_same
from focalbench.experiment.trial import run_trial
from focalbench.records.metrics import read_metrics
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag
from focalbench.trained.trial import load_trained
from focalbench.training.checkpoint import keep_weights, list_checkpoints, load_checkpoint, load_newest, save_checkpoint

_MEMORY = ("peak_memory_mb", "gpu_memory_mb", "gpu_reserved_mb")
_CLOCKS = ("images_per_s", "perf/images_per_s", "perf/time_s", "wall_s", "train_s", *_MEMORY)

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _trial(path: Path, *overrides: str) -> Trial:
    (trial,) = load_config(path, overrides).trials
    return trial


def _run(trial: Trial, folder: Path, stop: StopFlag | None = None, progress: Any = None) -> dict[str, Any]:
    warnings: list[str] = []
    result = run_trial(
        trial,
        folder,
        device="cpu",
        stop=stop or StopFlag(),
        progress=progress or (lambda step, steps, values: None),
        warn=warnings.append,
    )
    return {**result.entries(), "warnings": warnings}


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in _CLOCKS} for line in read_metrics(folder)]


def _stop_at(step: int, flag: StopFlag) -> Callable[[int, int, Mapping[str, float]], None]:
    def progress(now: int, steps: int, values: Mapping[str, float]) -> None:
        if now >= step:
            flag.request(15)

    return progress


def test_a_trial_leaves_the_files_of_the_contract(write_config: Write, tmp_path: Path) -> None:
    folder = tmp_path / "trial with space"
    result = _run(_trial(write_config()), folder)
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "status.json", "metrics.jsonl", "result.json", "detections.npz", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert load_config(folder / "config.yaml").config == _trial(write_config()).config
    saved = json.loads((folder / "result.json").read_text())
    assert saved["val/mAP"] == pytest.approx(result["val/mAP"])
    assert set(saved["AP"]) == {"circle", "cross", "square", "triangle"}
    assert saved["config_hash"] == _trial(write_config()).hash
    assert {"wall_s", "images_per_s", "environment"} <= set(saved)
    checkpoints = {path.name for path in (folder / "checkpoints").iterdir()}
    assert {"best.pt", "step-00000006.pt", "step-00000006.pt.sha256"} <= checkpoints
    assert len(list_checkpoints(folder / "checkpoints")) == 1
    last = [line for line in read_metrics(folder) if "val/mAP" in line][-1]
    assert last["val/mAP"] == saved["val/mAP"]
    tags = set().union(*read_metrics(folder))
    assert {"train/loss", "train/cls", "train/box", "train/lr", "train/gamma", "train/alpha"} <= tags


def test_two_runs_of_one_seed_are_identical(write_config: Write, tmp_path: Path) -> None:
    trial = _trial(write_config())
    _run(trial, tmp_path / "a")
    _run(trial, tmp_path / "b")
    assert _lines(tmp_path / "a") == _lines(tmp_path / "b")
    assert len(_lines(tmp_path / "a")) >= 5


@pytest.mark.parametrize(("loss", "stop_at"), [("focal", 2), ("ghm", 4), ("focal", 4)])
def test_resumed_equals_unbroken(
    write_config: Write, tmp_path: Path, loss: str, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "keep_weights", lambda folder: 0)  # the optimizer is to be equal too
    ema = "optim.ema=0.5" if stop_at == 2 else "optim.ema=null"
    trial = _trial(write_config(), f"loss.name={loss}", ema)  # evaluated after steps 3 and 6
    _run(trial, tmp_path / "whole")
    stop = StopFlag()
    with pytest.raises(InterruptedTrial):
        _run(trial, tmp_path / "broken", stop, _stop_at(stop_at, stop))
    status = json.loads((tmp_path / "broken" / "status.json").read_text())
    assert status["state"] == "interrupted"
    steps = [line["step"] for line in _lines(tmp_path / "broken")]
    assert max(steps) < 6
    _run(trial, tmp_path / "broken")
    assert _lines(tmp_path / "broken") == _lines(tmp_path / "whole")
    whole, resumed = (load_newest(tmp_path / name / "checkpoints") for name in ("whole", "broken"))
    assert whole is not None
    assert resumed is not None
    assert {"model", "optimizer", "criterion", "rng"} <= whole.keys() == resumed.keys()
    for part in whole.keys() - {"seconds", "wall_s"}:
        assert _equal(whole[part], resumed[part]), part


def test_an_evaluation_that_was_written_before_a_kill_and_not_in_a_checkpoint_is_written_once(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, stop, folder = _trial(write_config()), StopFlag(), tmp_path / "broken"
    _run(trial, tmp_path / "whole")

    def detect(*arguments: object, **options: object) -> None:
        stop.request(15)
        stop.raise_if_set("in an evaluation")

    with monkeypatch.context() as patch:
        patch.setattr(events, "detect", detect)
        with pytest.raises(InterruptedTrial):
            _run(trial, folder, stop)

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt  # after the evaluation's line

    with monkeypatch.context() as patch:
        patch.setattr(events, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(trial, folder)
    assert [line["step"] for line in read_metrics(folder) if "val/mAP" in line] == [3]
    _run(trial, folder)
    assert _lines(folder) == _lines(tmp_path / "whole")


def test_the_status_says_how_far_a_trial_is_whatever_becomes_of_it(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status() -> tuple[str, int, int | None]:
        found = json.loads((tmp_path / "t" / "status.json").read_text())
        return found["state"], found["step"], found.get("steps")

    trial, stop, seen = _trial(write_config()), StopFlag(), []
    with pytest.raises(InterruptedTrial):
        _run(trial, tmp_path / "t", stop, _stop_at(2, stop))
    assert status() == ("interrupted", 2, 6)

    def prepare(*arguments: object) -> None:
        seen.append(status())
        raise ConfigError("found wrong before the first step")

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "_prepare", prepare)
        with pytest.raises(ConfigError):
            _run(trial, tmp_path / "t")
    assert seen == [("running", 2, 6)]
    assert status() == ("failed", 2, 6)


def test_a_warm_up_longer_than_the_training_is_cut_and_told(write_config: Write, tmp_path: Path) -> None:
    options = ["optim.epochs=2", "optim.warmup_steps=100", "optim.schedule=cosine", "run.log_every=1"]
    (warning,) = _run(_trial(write_config(), *options), tmp_path / "t")["warnings"]
    assert "optim.warmup_steps: 100 would not end before the training, after 6 steps" in warning
    rates = [line["train/lr"] for line in read_metrics(tmp_path / "t") if "train/lr" in line]
    assert rates.index(max(rates)) == 3
    assert max(rates) == pytest.approx(1e-3)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_arms_of_one_seed_share_weights_batches_and_augmentation(write_config: Write) -> None:
    from focalbench.experiment import build

    seen = []
    for loss in ("ce", "focal", "softmax_ce"):
        config = _trial(write_config(), f"loss.name={loss}").config
        data = build.build_data(config)
        model = build.build_model(config, 4)
        images, targets = build.build_batches(config, data.train, torch.device("cpu"))(3)
        weights = {k: v for k, v in model.state_dict().items() if not k.startswith("class_subnet.predict")}
        seen.append((weights, images, targets.boxes, model.state_dict()["class_subnet.predict.weight"]))
    for weights, images, boxes, _ in seen[1:]:
        assert all(torch.equal(weights[key], seen[0][0][key]) for key in seen[0][0])
        assert torch.equal(images, seen[0][1])
        assert torch.equal(boxes, seen[0][2])
    softmax = seen[2][3].unflatten(0, (-1, 5))[:, :4]
    assert torch.equal(softmax.flatten(0, 1), seen[0][3])


def test_another_seed_is_another_trial(write_config: Write, tmp_path: Path) -> None:
    a = _run(_trial(write_config(), "seed=0"), tmp_path / "a")
    b = _run(_trial(write_config(), "seed=1"), tmp_path / "b")
    assert a["config_hash"] != b["config_hash"]
    assert _lines(tmp_path / "a") != _lines(tmp_path / "b")


def test_matched_scale_gives_cross_entropys_gradient_norm(write_config: Write, tmp_path: Path) -> None:
    plain = _run(_trial(write_config(), "loss.name=ce", "loss.match_scale=true"), tmp_path / "ce")
    focal = _run(_trial(write_config(), "loss.match_scale=true"), tmp_path / "focal")
    assert plain["loss_weight"] == pytest.approx(1.0)
    assert focal["loss_weight"] > 2  # alpha .25 alone is a factor of 4 on the positives
    lines = [line for line in read_metrics(tmp_path / "focal") if "train/loss_weight" in line]
    assert [line["train/loss_weight"] for line in lines] == [pytest.approx(focal["loss_weight"])]


def test_the_first_loss_is_what_theory_says_and_a_missing_prior_is_told(write_config: Write, tmp_path: Path) -> None:
    good = _run(_trial(write_config()), tmp_path / "good")["initial_loss"]
    assert good["observed"] == pytest.approx(good["expected"], rel=0.2)
    assert good["diagnosis"] is None


def test_a_finished_trial_is_not_trained_again(write_config: Write, tmp_path: Path) -> None:
    trial = _trial(write_config())
    first = _run(trial, tmp_path / "t")
    before = (tmp_path / "t" / "metrics.jsonl").read_bytes()
    assert _run(trial, tmp_path / "t")["val/mAP"] == pytest.approx(first["val/mAP"])
    assert (tmp_path / "t" / "metrics.jsonl").read_bytes() == before


def test_a_kill_after_the_last_checkpoint_still_gives_the_same_result(write_config: Write, tmp_path: Path) -> None:
    trial, folder = _trial(write_config()), tmp_path / "t"
    first = _run(trial, folder)
    lines = _lines(folder)
    (folder / "result.json").unlink()
    again = _run(trial, folder)
    assert again["AP"] == pytest.approx(first["AP"], nan_ok=True)
    assert _lines(folder) == lines


@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_a_finished_trial_keeps_its_weights_alone_and_the_best_evaluations(
    ema: str, write_config: Write, tmp_path: Path
) -> None:
    trial, folder = _trial(write_config(), f"optim.ema={ema}"), tmp_path / "t"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "keep_weights", lambda folder: 0)
        _run(trial, folder)
    whole, best = load_newest(folder / "checkpoints"), load_checkpoint(folder / "checkpoints" / "best.pt")
    assert keep_weights(folder / "checkpoints") > 0
    assert keep_weights(folder / "checkpoints") == 0
    kept, kept_best = load_newest(folder / "checkpoints"), load_checkpoint(folder / "checkpoints" / "best.pt")
    assert kept["optimizer"] is None
    assert all(_equal(kept[part], whole[part]) for part in whole.keys() - {"optimizer"})
    assert all(_equal(kept_best[part], best[part]) for part in best)
    (step,) = list_checkpoints(folder / "checkpoints")
    assert step.samefile(folder / "checkpoints" / "best.pt") == (ema == "null" and kept_best["step"] == kept["step"])
    assert load_trained(folder, device="cpu").step == kept["step"]


def test_weights_alone_are_no_checkpoint_to_train_on_from(write_config: Write, tmp_path: Path) -> None:
    trial, folder = _trial(write_config()), tmp_path / "t"
    state = _checkpoint_after_a_stop(trial, folder)
    save_checkpoint(folder / "checkpoints", {**state, "optimizer": None}, step=state["step"], keep=1)
    with pytest.raises(CheckpointError, match="weights only, as of a finished training; to start this trial over"):
        _run(trial, folder)


def test_resume_under_another_configuration_names_the_key_and_both_values(write_config: Write, tmp_path: Path) -> None:
    stop = StopFlag()
    with pytest.raises(InterruptedTrial):
        _run(_trial(write_config()), tmp_path / "t", stop, _stop_at(2, stop))
    words = r"loss\.gamma: 2\.0, now it is 1\.0; restore the old value, or .*move its folder"
    with pytest.raises(CheckpointError, match=words):
        _run(_trial(write_config(), "loss.gamma=1.0"), tmp_path / "t")


@pytest.mark.parametrize(("began", "elsewhere"), [("fp32", torch.bfloat16), ("bf16", torch.float32)])
def test_auto_precision_stays_what_it_was_on_a_machine_that_would_choose_another(
    began: str, elsewhere: torch.dtype, write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = torch.float32 if began == "fp32" else torch.bfloat16
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: here == torch.bfloat16)
    trial, stop = _trial(write_config()), StopFlag()
    unbroken = _run(trial, tmp_path / "unbroken")
    with pytest.raises(InterruptedTrial):
        _run(trial, tmp_path / "t", stop, _stop_at(2, stop))
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: elsewhere == torch.bfloat16)
    result = _run(trial, tmp_path / "t")
    assert result["precision"] == unbroken["precision"] == str(here).removeprefix("torch.")
    assert _lines(tmp_path / "t") == _lines(tmp_path / "unbroken")
    assert [text for text in result["warnings"] if f"began in {began} and continues in it" in text]


def _checkpoint_after_a_stop(trial: Trial, folder: Path) -> dict[str, Any]:
    stop = StopFlag()
    with pytest.raises(InterruptedTrial):
        _run(trial, folder, stop, _stop_at(2, stop))
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[0])


def test_time_spent_before_a_stop_counts(write_config: Write, tmp_path: Path) -> None:
    trial, folder = _trial(write_config()), tmp_path / "t"
    state = _checkpoint_after_a_stop(trial, folder)
    assert 0 < state["wall_s"] < 3600
    save_checkpoint(folder / "checkpoints", {**state, "wall_s": 7200.0}, step=state["step"], keep=1)
    assert _run(trial, folder)["wall_s"] > 7200


def test_a_checkpoint_that_lacks_a_part_is_refused_in_words(write_config: Write, tmp_path: Path) -> None:
    trial, folder = _trial(write_config()), tmp_path / "t"
    state = _checkpoint_after_a_stop(trial, folder)
    del state["optimizer"]
    save_checkpoint(folder / "checkpoints", state, step=state["step"], keep=1)
    with pytest.raises(CheckpointError, match="does not fit: 'optimizer'; to start this trial over, move its folder"):
        _run(trial, folder)


def test_resume_with_another_class_order_is_refused(write_config: Write, tmp_path: Path) -> None:
    stop = StopFlag()
    with pytest.raises(InterruptedTrial):
        _run(_trial(write_config()), tmp_path / "t", stop, _stop_at(2, stop))
    path = list_checkpoints(tmp_path / "t" / "checkpoints")[0]
    identity = {"config": load_checkpoint(path)["config"], "classes": ["b", "a"], "data": ["x", "y"]}
    with pytest.raises(CheckpointError, match="classes"):
        require_same(load_checkpoint(path), identity, tmp_path / "t")


def test_divergence_stops_the_trial_and_keeps_the_good_checkpoint(write_config: Write, tmp_path: Path) -> None:
    trial = _trial(write_config(), "optim.lr=1e-3", "optim.clip_norm=null")
    with pytest.MonkeyPatch.context() as patch:
        _poison(patch, at_step=4)
        with pytest.raises(DivergedError, match="diverged at step 4: loss nan"):
            _run(trial, tmp_path / "t")
    status = json.loads((tmp_path / "t" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "step 4" in status["error"]
    newest = load_newest(tmp_path / "t" / "checkpoints")
    assert newest is not None
    assert newest["step"] == 3
    assert all(torch.isfinite(v).all() for v in newest["model"].values() if v.is_floating_point())


def test_on_divergence_retry_goes_on_at_half_the_rate_and_says_so(write_config: Write, tmp_path: Path) -> None:
    trial = _trial(write_config(), "run.on_divergence=retry")
    with pytest.MonkeyPatch.context() as patch:
        _poison(patch, at_step=4, times=1)
        result = _run(trial, tmp_path / "t")
    assert result["lr_scale"] == 0.5
    assert any("0.5 of the learning rate" in warning for warning in result["warnings"])
    assert result["step"] == 6


def _poison(patch: pytest.MonkeyPatch, *, at_step: int, times: int = 10**9) -> None:
    """Makes the loss of one step NaN, the first ``times`` times that it is reached."""
    from focalbench.training import loop

    real, left = loop.train_step, [times]

    def train_step(state: Any, images: Any, targets: Any, settings: Any) -> dict[str, torch.Tensor]:
        values = real(state, images, targets, settings)
        if state.step == at_step - 1 and left[0] > 0:
            left[0] -= 1
            values["loss"] = torch.tensor(math.nan)
        return values

    patch.setattr(loop, "train_step", train_step)


def test_a_full_disk_leaves_a_trial_that_goes_on(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, folder = _trial(write_config()), tmp_path / "t"

    def full(*arguments: object, **options: object) -> None:
        raise StorageError("checkpoints: cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(events, "save_checkpoint", full)
        with pytest.raises(StorageError):
            _run(trial, folder)
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert _run(trial, folder)["step"] == 6


def test_two_processes_on_one_folder_the_second_is_refused(write_config: Write, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "t").mkdir()
    with FileLock(tmp_path / "t" / ".lock"), pytest.raises(BusyError, match="another process"):
        _run(_trial(write_config()), tmp_path / "t")


def test_a_stale_lock_file_blocks_nobody(write_config: Write, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".lock").touch()
    assert _run(_trial(write_config()), tmp_path / "t")["step"] == 6


def test_a_weight_list_of_the_wrong_length_is_the_users_fault(write_config: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loss: alpha"):
        _run(_trial(write_config(), "loss.alpha=[0.1, 0.2]"), tmp_path / "t")


def test_alpha_auto_is_counted_on_the_training_set(write_config: Write, tmp_path: Path) -> None:
    _run(_trial(write_config(), "loss.name=balanced_ce", "loss.alpha=auto"), tmp_path / "t")
    alphas = {line["train/alpha"] for line in read_metrics(tmp_path / "t") if "train/alpha" in line}
    (alpha,) = alphas
    assert 0.8 < alpha < 1  # far more background than objects


class _Reached(Exception):  # noqa: N818 - ends a training where the test has seen enough
    pass


def _reach(*arguments: Any, **keywords: Any) -> None:
    raise _Reached


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with two GPUs as torch shows it; returns what takes memory on one, in the order of the calls."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for name in ("set_device", "reset_peak_memory_stats", "mem_get_info", "synchronize", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None, name=name: calls.append(f"{name} {device}"))
    return calls


def test_a_trial_on_the_second_gpu_makes_it_the_current_one_before_anything_else_takes_memory(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_gpus: list[str]
) -> None:
    monkeypatch.setattr(trial_module.build, "build_data", _reach)
    with pytest.raises(_Reached):
        run_trial(
            _trial(write_config()), tmp_path / "t", device="cuda:1", stop=StopFlag(), progress=lambda *values: None
        )
    assert two_gpus == ["set_device cuda:1", "reset_peak_memory_stats cuda:1"]


def test_memory_that_runs_out_names_keys_for_a_step_and_for_an_evaluation(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*arguments: Any, **keywords: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    config = _trial(write_config(), "optim.precision=fp32", "run.trials_per_device=3", "eval.batch_size=9").config
    assert ways_out(config, "cuda") == (
        "set run.trials_per_device below 3 (that many trials share a GPU, and one may take the memory that "
        "another needs), "
        "data.cache: disk, run.devices above 1 (each takes its share of a batch), optim.precision: bf16, "
        "optim.batch_size below 4 or data.image_size below 64"
    )
    trial = _trial(write_config(), "eval.batch_size=9")
    monkeypatch.setattr(trial_module, "fit", run_out)
    with pytest.raises(DeviceMemoryError, match=r"optim\.batch_size below 4 or data\.image_size below 64$"):
        _run(trial, tmp_path / "step")
    assert TrialFolder(tmp_path / "step").state() == "failed"
    monkeypatch.undo()
    monkeypatch.setattr(events, "detect", run_out)
    with pytest.raises(DeviceMemoryError, match=r"set eval\.batch_size below 9, .* or data\.image_size below 64$"):
        _run(trial, tmp_path / "evaluation")


def test_memory_that_runs_out_at_a_resume_is_no_fault_of_the_checkpoint(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, stop = _trial(write_config()), StopFlag()
    with pytest.raises(InterruptedTrial):
        _run(trial, tmp_path / "t", stop, _stop_at(2, stop))

    def run_out(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr(trial_module.TrainState, "load_state_dict", run_out)
    with pytest.raises(DeviceMemoryError):
        _run(trial, tmp_path / "t")


def test_a_lost_gpu_leaves_a_trial_to_go_on_with(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*arguments: Any) -> None:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(trial_module, "fit", lose)
    with pytest.raises(DeviceLostError, match="uncorrectable ECC"):
        _run(_trial(write_config()), tmp_path / "t")
    assert TrialFolder(tmp_path / "t").state() == "interrupted"


def test_a_result_has_the_memory_of_the_gpu_and_none_of_a_processor(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "gpu_peaks_mb", lambda device: (12.5, 20.0))
    result = _run(_trial(write_config()), tmp_path / "gpu")
    assert (result["gpu_memory_mb"], result["gpu_reserved_mb"]) == (12.5, 20.0)
