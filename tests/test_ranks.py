"""Two processes that share each batch train as one would: same images, same statistics, same sums."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from focalbench import ranks
from focalbench.config.load import load_config
from focalbench.experiment.trial import run_trial
from focalbench.records.metrics import read_metrics
from focalbench.runtime import StopFlag
from focalbench.storage import read_json
from focalbench.training.checkpoint import load_newest

pytestmark = pytest.mark.slow

_RANK = """
import sys
from pathlib import Path
from focalbench.config.load import load_config
from focalbench.config.sweep import expand
from focalbench.experiment.trial import follow_trial, run_trial
from focalbench.ranks import joined, rank
from focalbench.runtime import StopFlag, set_threads

set_threads(1)
with joined("cpu"):
    for trial in load_config(Path(sys.argv[1])).trials:
        folder = Path(sys.argv[2]) / trial.name
        if rank() == 0:
            run_trial(trial, folder, device="cpu", stop=StopFlag(), progress=lambda step, steps, values: None)
        else:
            follow_trial(trial, folder, device="cpu", stop=StopFlag())
"""

# Between them: the normaliser, matched scale, losses with memory, both criteria, image sizes that change, an average.
# The loss of a plugin too, which is the built-in focal loss bit for bit.
_ARMS = f"""\
plugins: ['{Path(__file__).with_name("own_losses.py")}']
sweep:
  list:
    - {{name: matched, loss: {{name: focal, match_scale: true, alpha: auto}}, optim.ema: 0.9}}
    - {{name: copied, loss: {{name: copied, match_scale: true, alpha: auto}}, optim.ema: 0.9}}
    - {{name: ghm, loss: {{name: ghm}}}}
    - name: yolo
      model: {{name: yolov2, backbone: tiny, multiscale: [32, 96], multiscale_every: 1, anneal_images: 10}}
      loss: {{name: focal, apply_to: both}}
"""
_OPTIM = "optim: {name: sgd, lr: 1e-3, steps: 6, batch_size: 4, warmup_steps: 2, precision: fp32}"


def _timm_arm(weights: Path) -> str:
    """A network with activations inside its batch norm, its first stages frozen, and parts that no map needs."""
    if find_spec("timm") is None:
        return ""
    import timm

    torch.save(timm.create_model("test_efficientnet").state_dict(), weights)
    model = f"{{name: retinanet, backbone: timm/test_efficientnet, weights: {weights}, trainable_stages: 3}}"
    return f"    - {{name: frozen, model: {model}, optim.ema: 0.9}}\n"


def _train_on_two_ranks(config: Path, out: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", _RANK, config, out], env={**os.environ, **address, "RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()


def test_two_ranks_train_as_one_process_does(write_config: Callable[..., Path], tmp_path: Path) -> None:
    lines = write_config().read_text().splitlines()
    text = "\n".join(_OPTIM if line.startswith("optim") else line for line in lines).replace(
        "log_every: 2", "log_every: 1"
    )
    config = write_config(_ARMS + _timm_arm(tmp_path / "net.pth"), text=text + "\n")
    _train_on_two_ranks(config, tmp_path / "two")
    for trial in load_config(config).trials:
        if trial.arm == "copied":  # held to the built-in loss below
            continue
        one, two = tmp_path / "one" / trial.name, tmp_path / "two" / trial.name
        run_trial(trial, one, device="cpu", stop=StopFlag(), progress=lambda step, steps, values: None)
        alone, shared = ([m for m in read_metrics(folder) if "train/loss" in m] for folder in (one, two))
        assert [line["step"] for line in shared] == [1, 2, 3, 4, 5, 6]
        for key in ("train/cls", "train/box", "train/num_pos", "train/grad_norm", "train/lr"):
            expected = [line[key] for line in alone]
            rounding = 1e-3 if trial.arm == "frozen" else 1e-4  # a deeper network adds up more of it
            assert [line[key] for line in shared] == pytest.approx(expected, rel=rounding), (trial.name, key)
        _assert_same_weights(one, two)
        results = [read_json(folder / "result.json") for folder in (one, two)]
        assert [result["devices"] for result in results] == [1, 2]
        assert results[1]["loss_weight"] == pytest.approx(results[0]["loss_weight"], rel=1e-5)
        assert results[1]["initial_loss"]["observed"] == pytest.approx(results[0]["initial_loss"]["observed"], rel=1e-5)
        assert results[1]["val/mAP"] == pytest.approx(results[0]["val/mAP"], abs=0.02)
    own, built_in = (_values(tmp_path / "two", arm) for arm in ("copied", "matched"))
    assert own == built_in


def _values(out: Path, arm: str) -> list[dict[str, float]]:
    """What a trial has logged, clocks left out."""
    (folder,) = out.glob(f"{arm}-*")
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in read_metrics(folder)]


def _assert_same_weights(one: Path, two: Path) -> None:
    """Statistics of batch norm included."""
    expected, found = (load_newest(folder / "checkpoints") for folder in (one, two))
    assert expected is not None
    assert found is not None
    for name, value in expected["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-3, atol=1e-5, msg=f"{one.name}: {name}")


def test_one_process_is_a_rank_of_its_own() -> None:
    value = torch.tensor([1.5])
    assert (ranks.rank(), ranks.world_size()) == (0, 1)
    assert ranks.sum_over_ranks(value) is value
    assert ranks.any_rank(False, True) == [False, True]
    assert ranks.gather("x") == ["x"]
    assert ranks.from_first(3) == 3
