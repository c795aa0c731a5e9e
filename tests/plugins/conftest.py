"""Plugins as files, written by each test."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

LOSS = '''
from typing import Annotated
import torch
import torch.nn.functional as F
from pydantic import Field
import focalbench as fb

@fb.loss("my_focal")
def my_focal(
    logits, targets, *, gamma: Annotated[float, Field(ge=0)] = 2.0, alpha: Annotated[float, Field(ge=0, le=1)] = 0.25
):
    """Focal loss by autograd."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - torch.exp(-ce)) ** gamma * ce
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a plugin into the current folder, an empty one; returns the name of its file."""
    monkeypatch.chdir(tmp_path)

    def write(text: str = LOSS, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(dedent(text))
        return name

    return write
