"""A trial that nobody trains."""

from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial


@pytest.fixture
def one_trial(write_config: Callable[..., Path]) -> Trial:
    """The trial of ``TINY``."""
    (trial,) = load_config(write_config()).trials
    return trial
