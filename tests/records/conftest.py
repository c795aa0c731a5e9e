"""A trial that nobody trains."""

from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial, expand


@pytest.fixture
def one_trial(write_config: Callable[..., Path]) -> Trial:
    """The trial of ``TINY``."""
    (trial,) = expand(load_config(write_config()))
    return trial
