"""What the machine lacks is said before anything is read."""

import subprocess
import sys

import pytest
import torch

from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand
from focalbench.errors import ConfigError
from focalbench.launchers.hardware import require_hardware

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")


def _trials(*precisions: str) -> tuple[Trial, ...]:
    return expand(ExperimentConfig.model_validate({"sweep": {"grid": {"optim.precision": list(precisions)}}}))


def test_what_every_machine_has_is_accepted() -> None:
    require_hardware(_trials("auto", "fp32", "bf16"), "cpu")
    require_hardware(_trials("auto"), "auto")


@without_gpu
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"run\.device: cuda:3: torch sees no GPU .* use --device cpu or auto"):
        require_hardware(_trials("auto"), "cuda:3")


@without_gpu
def test_a_precision_that_the_device_lacks_is_named_with_the_trials_that_want_it() -> None:
    with pytest.raises(ConfigError, match=r"optim\.precision: fp16 needs a GPU; use auto, bf16 or fp32$"):
        require_hardware(_trials("fp16"), "auto")
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU.* \(1 of 2 trials, precision=fp16-s0-\w+ first\)"):
        require_hardware(_trials("fp32", "fp16"), "cpu")


def test_the_usual_case_does_not_load_torch() -> None:
    code = (
        "import sys; from focalbench.config.schema import ExperimentConfig\n"
        "from focalbench.config.sweep import expand\n"
        "from focalbench.launchers.hardware import require_hardware\n"
        "require_hardware(expand(ExperimentConfig()), 'cpu'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
