"""One training the plain way, as the yardstick of `bench sweep`: a process of its own that decodes every image again
whenever a step asks for it, and augments it by itself, with Pillow and torchvision.

Network, criterion, optimizer and step are focalbench's own, so that what is compared is the way to them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from focalbench.benchmarks.plain_data import DecodedEachTime, batches
from focalbench.config.schema import ExperimentConfig
from focalbench.devices import resolve_device, resolve_precision, set_determinism, use_device
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.structures import Targets
from focalbench.training.loop import StepSettings, train_step
from focalbench.training.optim import set_learning_rate


def run(config: ExperimentConfig, classes: Sequence[str], *, num_loaders: int, device: str) -> dict[str, Any]:
    """Trains ``config`` to its last step, without evaluation, logs or checkpoints.

    Args:
        num_loaders: processes that decode beside the training, 0 for none.

    Returns:
        ``{"step_s": seconds from the first batch asked for to the last step, "loss": of the last step}``.
    """
    where = resolve_device(device)
    use_device(where)
    settings = StepSettings(where, resolve_precision(config.optim.precision, where), config.optim.clip_norm)
    root, (split, *_), _ = build.data_location(config)
    year, name = split.split("/")
    data = DecodedEachTime(root / f"VOC{year}", name, classes, build.canvas_size(config))
    torch.manual_seed(config.seed)
    model = build.build_model(config, len(classes))
    state = build.build_state(config, model, build_criterion(config, model), settings)
    plan = build.build_plan(config, len(data))
    state.model.train()
    began = time.perf_counter()
    loss = torch.zeros(())
    for step, (images, boxes, labels) in zip(
        range(plan.total_steps), batches(data, config.optim.batch_size, num_loaders, where), strict=False
    ):
        set_learning_rate(state.optimizer, plan.learning_rate(step))
        state.criterion.set_progress(step / plan.total_steps)
        memory_format = torch.channels_last if config.optim.channels_last else torch.contiguous_format
        images = images.to(where, non_blocking=True).contiguous(memory_format=memory_format)
        targets = Targets(boxes, labels).to(where, non_blocking=True)
        loss = train_step(state, images, targets, settings)["loss"]
    return {"loss": loss.item(), "step_s": time.perf_counter() - began}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    experiment = ExperimentConfig.model_validate_json(json.dumps(request["config"]))
    set_determinism(experiment.run.deterministic)
    found = run(experiment, request["classes"], num_loaders=request["num_loaders"], device=request["device"])
    print(json.dumps(found))
