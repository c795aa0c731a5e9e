"""What several tests share: a private cache folder and a configuration small enough to train in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or writes the user's cache; all share one, as the trials of a sweep do."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("FOCALBENCH_CACHE", str(folder))
    patch.delenv("FOCALBENCH_DATA", raising=False)
    return folder


TINY = """\
name: tiny
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
loss: {name: focal}
optim: {name: adamw, lr: 1e-3, steps: 6, batch_size: 4, warmup_steps: 2}
eval: {every: 1, score_thresh: 0.0, max_detections: 20}
run: {log_every: 2, checkpoint_every: 0.001}
"""


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``TINY`` and further lines to a file and returns its path."""

    def write(*lines: str, text: str = TINY) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(text + "".join(f"{line}\n" for line in lines))
        return path

    return write
