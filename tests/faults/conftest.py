"""A machine for faults: a sandbox, a server that forks trials, and one run that nobody disturbed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from injection.commands import Sandbox
from injection.fork_server import Forked, ForkServer, KillAtMoment, KillAtWrite
from injection.voc_set import VocSet

CONFIG = """\
name: tiny
data: {{name: voc, root: {root}, train: [2007/train], val: [2007/val], image_size: 64}}
model: {{name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}}
loss: {{name: ghm}}
optim: {{name: adamw, lr: 1e-3, steps: 6, batch_size: 2, warmup_steps: 2, ema: 0.9}}
eval: {{every: 1, score_thresh: 0.0, max_detections: 20}}
run: {{log_every: 2, checkpoint_every: 0.001}}
"""


@dataclass(frozen=True)
class Bench:
    """Trials of one configuration: six steps, evaluated after three and six, a checkpoint after every step.

    Attributes:
        whole: the folder of the run that nobody disturbed.
        writes: labels of its writes, in their order.
    """

    server: ForkServer
    sandbox: Sandbox
    config: Path
    whole: Path
    writes: tuple[str, ...]

    def run(self, folder: Path, kill: KillAtWrite | KillAtMoment | None = None) -> Forked:
        """Trains in ``folder``, from what lies there."""
        return self.server.run(self.config, folder, kill=kill)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One for all tests of a process: importing torch takes seconds."""
    base = tmp_path_factory.mktemp("faults")
    sandbox = Sandbox(base / "sandbox")
    config, record = base / "tiny.yaml", base / "writes.txt"
    config.write_text(CONFIG.format(root=VocSet(base / "data").root))
    with ForkServer(sandbox.environment(), sandbox.work) as server:
        ended = server.run(config, base / "whole", record=record)
        assert ended.code == 0, ended.text
        yield Bench(server, sandbox, config, base / "whole", tuple(record.read_text().splitlines()))
