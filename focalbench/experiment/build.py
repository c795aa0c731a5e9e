"""The one place that knows both sides: fields of the configuration go in, objects built from plain arguments come
out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from focalbench.config.base import keys_of_plugin
from focalbench.config.loss import LossConfig, PluginLoss
from focalbench.config.model import ModelConfig, PluginDetector, RetinaNetConfig
from focalbench.config.model import PluginBackbone as PluginBackboneConfig
from focalbench.config.schema import ExperimentConfig, PluginTracker
from focalbench.data.dataset import DetectionData, load_data
from focalbench.data.multiscale import multiscale_size, resize_batch
from focalbench.data.transforms import Augment
from focalbench.data.voc import Classes
from focalbench.errors import ConfigError, PluginError
from focalbench.experiment.batches import AugmentedBatches, Resize
from focalbench.experiment.build_loss import keywords_among
from focalbench.experiment.locations import (
    cache_dir,
    canvas_size,
    class_rule,
    class_setting,
    data_location,
    sample_range,
)
from focalbench.losses import LOSSES
from focalbench.losses.criterion import Criterion
from focalbench.models import MODELS
from focalbench.models.backbones import PluginBackbone
from focalbench.models.batch_norm import synchronise_batch_norm
from focalbench.models.detector import Detector
from focalbench.plugins.loading import calls_of, registered
from focalbench.plugins.registration import registration_of, require_subclass
from focalbench.ranks import rank, world_size
from focalbench.runtime import StopFlag
from focalbench.structures import Targets
from focalbench.tracking.tracker import TrackedTrial, Tracker
from focalbench.training.average import MovingAverage
from focalbench.training.evaluate import DetectionSettings
from focalbench.training.graph import CudaRecorder, GraphedStep
from focalbench.training.loop import Plan, StepFunction, StepSettings, TrainState
from focalbench.training.optim import build_optimizer, learning_rate_factor, start_at_rest


@dataclass(frozen=True)
class DataSets:
    """Training and evaluation images on one canvas, with the same classes."""

    train: DetectionData
    val: DetectionData


def build_data(config: ExperimentConfig, stop: StopFlag | None = None) -> DataSets:
    """Reads, decodes (once for all trials) and joins the splits.

    Raises:
        DataError: for faults of the data set.
        InterruptedTrial: when ``stop`` is set before all is read.
    """
    root, train_splits, val_splits = data_location(config)

    def load(splits: tuple[str, ...], classes: Classes) -> DetectionData:
        return load_data(
            root,
            splits,
            classes,
            image_size=canvas_size(config),
            fit=config.data.fit,
            cache=config.data.cache,
            cache_dir=cache_dir(config),
            stop=stop,
            rule=class_rule(config),
            sample_range=sample_range(config),
        )

    train = load(train_splits, class_setting(config))
    return DataSets(train, load(val_splits, train.classes))


def build_model(
    config: ExperimentConfig, num_classes: int, train: DetectionData | None = None, *, pretrained: bool = True
) -> Detector:
    """Returns the detector with the outputs that the loss asks for; its weights follow from ``seed`` and
    ``model.weights`` alone.

    Args:
        train: the training set, for what is fitted to its boxes; without it a checkpoint must bring that.
        pretrained: whether to read ``model.weights``; a checkpoint replaces them in any case.
    """
    torch.manual_seed(config.seed)
    network = network_class(config.model)
    given = {**config.model.model_dump(), "pre_nms_top": config.eval.top_k, "canvas": canvas_size(config)}
    given["box_sizes"] = None if train is None else partial(_box_sizes, train)
    if config.loss.apply_to != "objectness":  # else the loss says nothing of the classes' scores
        given["activation"] = _activation(config.loss)
    if isinstance(config.model, RetinaNetConfig) and isinstance(config.model.backbone, PluginBackboneConfig):
        given["backbone"] = _plugin_backbone(config.model.backbone)
    if not pretrained:
        given["weights"] = "none"
    with calls_of(registration_of(network)):
        return network(num_classes, **keywords_among(given, network))


def _plugin_backbone(section: PluginBackboneConfig) -> PluginBackbone:
    """What makes a plugin's backbone.

    Raises:
        PluginError: for one that this process has not executed.
    """
    entry = registered("backbone", section.name, section.source)
    make = partial(entry.target, **keys_of_plugin(section))
    return PluginBackbone(entry.name, make, f"{entry.place}: {entry.name}")


def plugin_trackers(config: ExperimentConfig) -> list[Callable[[TrackedTrial], Tracker]]:
    """Returns what opens the trackers of plugins that the configuration names."""

    def opens(section: PluginTracker) -> Callable[[TrackedTrial], Tracker]:
        entry, keys = registered("tracker", section.name, section.source), keys_of_plugin(section)

        def make(trial: TrackedTrial) -> Tracker:
            with calls_of(entry):
                tracker = entry.target(trial, **keys)
            if not isinstance(tracker, Tracker):
                raise PluginError(f"{entry.place}: {entry.name}: a tracker must be a focalbench.tracking.Tracker")
            return tracker

        return make

    return [opens(section) for section in config.run.trackers]


def _activation(loss: LossConfig) -> str:
    """How class logits become scores. A plugin's loss need not be executed for it: a trained network is without."""
    return loss.activation if isinstance(loss, PluginLoss) else LOSSES[loss.name].activation


def network_class(config: ModelConfig) -> type[Detector]:
    """Returns the class of the configured detector's network.

    Raises:
        PluginError: for one of a plugin that this process has not executed, or that is no detector.
    """
    if not isinstance(config, PluginDetector):
        return MODELS[config.name]
    entry = registered("detector", config.name, config.source)
    return require_subclass(entry, entry.target, Detector, "focalbench.models.Detector")  # type: ignore[type-abstract]


def _box_sizes(train: DetectionData) -> np.ndarray:
    """(M, 2) float32 widths and heights of the training boxes on the canvas, pixels."""
    targets = train.targets(range(len(train)))
    return (targets.boxes[..., 2:] - targets.boxes[..., :2])[targets.labels >= 0].numpy()


def build_batches(config: ExperimentConfig, train: DetectionData, device: torch.device) -> AugmentedBatches:
    """Returns the training batches: a function of seed and step, the same for all arms."""
    augment = Augment(**config.data.augment.model_dump())
    return AugmentedBatches(
        train,
        augment,
        batch_size=config.optim.batch_size,
        seed=config.seed,
        device=device,
        channels_last=config.optim.channels_last,
        resize=_multiscale(config),
        rank=rank(),
        num_ranks=world_size(),
    )


def _multiscale(config: ExperimentConfig) -> Resize | None:
    """Returns what changes the canvas size during training, where the detector's section asks for it."""
    asked = config.model.canvas_sizes()
    if asked is None:
        return None
    sizes, every = asked

    def resize(images: Tensor, targets: Targets, step: int) -> tuple[Tensor, Targets]:
        return resize_batch(images, targets, multiscale_size(step, sizes, config.seed, every=every))

    return resize


def build_state(config: ExperimentConfig, model: Detector, criterion: Criterion, step: StepSettings) -> TrainState:
    """Returns model, criterion and optimizer on their device, before the first step."""
    optim, shared = config.optim, world_size() > 1
    memory_format = torch.channels_last if optim.channels_last else torch.contiguous_format
    model = model.to(step.device).to(memory_format=memory_format)
    if shared:
        synchronise_batch_norm(model, step.device)
    options: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    options |= (
        {"momentum": optim.momentum, "nesterov": optim.nesterov} if optim.name == "sgd" else {"betas": optim.betas}
    )
    if optim.backbone_lr is not None:
        options |= {"slowed": _backbone_parameters(config, model), "lr_factor": optim.backbone_lr}
    optimizer = build_optimizer(model, optim.name, **options)
    scaler = torch.amp.GradScaler(step.device.type) if step.precision == torch.float16 else None
    if scaler is not None:
        start_at_rest(optimizer)
    return TrainState(
        model=model,
        criterion=criterion.to(step.device),
        optimizer=optimizer,
        parallel=_in_parallel(model, step.device) if shared else None,
        ema=None if optim.ema is None else MovingAverage(model, optim.ema),
        scaler=scaler,
    )


def _backbone_parameters(config: ExperimentConfig, model: Detector) -> list[nn.Parameter]:
    found = list(model.backbone_parameters())
    if not found:
        raise ConfigError(
            f"optim.backbone_lr: the detector {config.model.name} does not say what its backbone is: use null, or give "
            "its class a method backbone_parameters"
        )
    return found


def _in_parallel(model: Detector, device: torch.device) -> DistributedDataParallel:
    """The model whose backward pass averages gradients over the ranks; batch norm keeps its statistics equal itself."""
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def build_step(
    config: ExperimentConfig, state: TrainState, device: torch.device, warn: Callable[[str], None]
) -> StepFunction | None:
    """Returns what carries out a step: a recording with ``run.cuda_graph`` where that can be, else None."""
    if not config.run.cuda_graph:
        return None
    obstacle = _cannot_be_recorded(config, state, device)
    if obstacle is not None:
        warn(f"run.cuda_graph: {obstacle}: steps are not recorded")
        return None
    return GraphedStep(CudaRecorder(device), warn)


def _cannot_be_recorded(config: ExperimentConfig, state: TrainState, device: torch.device) -> str | None:
    """Why a step cannot become a CUDA graph, or None."""
    if device.type != "cuda":
        return f"there are no CUDA graphs on {device}"
    if world_size() > 1:
        return "several devices train this trial"
    if state.criterion.waits_for_device:
        return f"a step of {config.model.name} with loss {config.loss.name} reads values while it runs"
    return None


def total_steps(config: ExperimentConfig, num_train: int) -> int:
    """Returns the optimizer steps of the whole training."""
    if config.optim.steps is not None:
        return config.optim.steps
    assert config.optim.epochs is not None  # the schema asks for exactly one
    return max(1, round(config.optim.epochs * num_train / config.optim.batch_size))


def warmup_steps(config: ExperimentConfig, total: int) -> float:
    """Returns the steps, or the share, in which the learning rate rises: as asked for, or half of a shorter training.

    The schema refuses that for a training given in steps. One given in epochs has as many as the data set makes them:
    with the defaults, a hundred images are too few.
    """
    asked = config.optim.warmup_steps
    return 0.5 if asked >= total else asked


def build_plan(config: ExperimentConfig, num_train: int) -> Plan:
    """Returns the length, the learning rate and the steps after which an evaluation is due; the end always is one."""
    total = total_steps(config, num_train)
    eval_steps = {total}
    if config.eval.every is not None:
        interval = config.eval.every * num_train / config.optim.batch_size
        eval_steps |= {round(k * interval) for k in range(1, int(total / interval) + 1)}
    optim, warmup = config.optim, warmup_steps(config, total)

    def learning_rate(step: int) -> float:
        factor = learning_rate_factor(
            step,
            total,
            schedule=optim.schedule,
            warmup_steps=warmup,
            warmup_power=optim.warmup_power,
            milestones=optim.milestones,
            factor=optim.factor,
        )
        return optim.lr * factor

    return Plan(
        total_steps=total,
        eval_steps=frozenset(step for step in eval_steps if 0 < step <= total),
        learning_rate=learning_rate,
        log_every=config.run.log_every,
        checkpoint_every=config.run.checkpoint_every,
    )


def detection_settings(config: ExperimentConfig) -> DetectionSettings:
    """Returns what counts as a detection."""
    return DetectionSettings(
        score_thresh=config.eval.score_thresh,
        nms_thresh=config.eval.nms_thresh,
        max_detections=config.eval.max_detections,
        batch_size=config.eval.batch_size or config.optim.batch_size,
    )
