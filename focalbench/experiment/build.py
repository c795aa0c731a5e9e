"""The one place that knows both sides: fields of the configuration go in, objects built from plain arguments come out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from focalbench.config.data import SyntheticData
from focalbench.config.paths import data_root
from focalbench.config.model import RetinaNetConfig
from focalbench.config.schema import ExperimentConfig
from focalbench.data.cache import choose_cache_dir
from focalbench.data.dataset import DetectionData, load_data
from focalbench.data.synthetic import ensure_synthetic
from focalbench.data.transforms import Augment
from focalbench.experiment.batches import AugmentedBatches
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.detection import DetectionLoss
from focalbench.models import MODELS
from focalbench.training.evaluate import DetectionSettings
from focalbench.training.loop import Plan, StepSettings, TrainState
from focalbench.training.optim import build_optimizer, learning_rate_factor

# Cross entropy on the same outputs: what other losses are matched to, and what counts positives and negatives.
REFERENCE = {"sigmoid": "ce", "softmax": "softmax_ce"}
# Keys of the loss's section that the criterion or the trial acts on; all others are arguments of the loss.
_NOT_LOSS_ARGUMENTS = {"name", "weight", "match_scale", "apply_to"}
_COUNT_CHUNK = 64


@dataclass(frozen=True)
class DataSets:
    """Training and evaluation images on one canvas, with the same classes."""

    train: DetectionData
    val: DetectionData


def data_location(config: ExperimentConfig) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """Root folder, training splits and evaluation splits; a synthetic set is made where it is not there yet.

    Raises:
        ConfigError: when no root is given.
    """
    data = config.data
    if isinstance(data, SyntheticData):
        root = ensure_synthetic(cache_dir(config), num_train=data.num_train, num_val=data.num_val, seed=data.seed)
        return root, ("2007/train",), ("2007/val",)
    return data_root(config), data.train, data.val


def cache_dir(config: ExperimentConfig) -> Path:
    """Where decoded images are kept."""
    return choose_cache_dir(config.data.cache_dir)


def canvas_size(config: ExperimentConfig) -> tuple[int, int]:
    """(height, width) of the network's input in pixels."""
    size = config.data.image_size
    return (size, size) if isinstance(size, int) else size


def build_data(config: ExperimentConfig) -> DataSets:
    """Reads, decodes (once for all trials) and joins the splits.

    Raises:
        DataError: for faults of the data set.
    """
    root, train_splits, val_splits = data_location(config)
    classes = "auto" if isinstance(config.data, SyntheticData) else config.data.classes
    options = {
        "image_size": canvas_size(config),
        "fit": config.data.fit,
        "cache": config.data.cache,
        "cache_dir": cache_dir(config),
    }
    train = load_data(root, train_splits, classes, **options)
    return DataSets(train, load_data(root, val_splits, train.classes, **options))


def build_model(config: ExperimentConfig, num_classes: int) -> nn.Module:
    """The detector with the outputs that the loss asks for; weights follow from ``seed`` alone."""
    torch.manual_seed(config.seed)
    options = config.model.model_dump(exclude={"name", "weights"})
    if isinstance(config.model, RetinaNetConfig):
        for key in ("pos_iou", "neg_iou", "box_weight", "box_beta"):
            options.pop(key)
    return MODELS[config.model.name](
        num_classes=num_classes,
        activation=LOSSES[config.loss.name].activation,
        pre_nms_top=config.eval.top_k,
        **options,
    )


def build_criterion(config: ExperimentConfig, model: nn.Module, train: DetectionData) -> nn.Module:
    """The training criterion around the configured classification loss."""
    num_classes = len(train.classes)
    criterion = DetectionLoss(
        reference_loss(config, num_classes),
        num_classes=num_classes,
        weight=config.loss.weight,
        pos_iou=config.model.pos_iou,
        neg_iou=config.model.neg_iou,
        box_weight=config.model.box_weight,
        box_beta=config.model.box_beta,
    )
    counts = count_anchors(model, criterion, train) if needs_counts(config) else None
    arguments = config.loss.model_dump(exclude=_NOT_LOSS_ARGUMENTS)
    criterion.classification = LOSSES[config.loss.name](num_classes=num_classes, counts=counts, **arguments)
    return criterion


def reference_loss(config: ExperimentConfig, num_classes: int) -> ClassificationLoss:
    """Cross entropy on the same outputs as the configured loss."""
    return LOSSES[REFERENCE[LOSSES[config.loss.name].activation]](num_classes=num_classes, counts=None)


def needs_counts(config: ExperimentConfig) -> bool:
    """Whether the loss depends on how many anchors are positive and negative in the training set."""
    return getattr(config.loss, "alpha", None) == "auto" or config.loss.name == "class_balanced"


def count_anchors(model: nn.Module, criterion: DetectionLoss, train: DetectionData) -> Counts:
    """Positives of each class and negatives over the training set, after matching, without augmentation."""
    anchors = model.anchors_for(train.canvas)  # type: ignore[operator]
    positives, negatives = [0] * len(train.classes), 0
    for start in range(0, len(train), _COUNT_CHUNK):
        targets = train.targets(range(start, min(start + _COUNT_CHUNK, len(train))))
        part = criterion.count(anchors, targets)
        positives = [a + b for a, b in zip(positives, part.positives_per_class, strict=True)]
        negatives += part.negatives
    return Counts(tuple(positives), negatives)


def build_batches(config: ExperimentConfig, train: DetectionData, device: torch.device) -> AugmentedBatches:
    """The training batches: a function of seed and step, the same for all arms."""
    augment = Augment(**config.data.augment.model_dump())
    return AugmentedBatches(
        train,
        augment,
        batch_size=config.optim.batch_size,
        seed=config.seed,
        device=device,
        channels_last=config.optim.channels_last,
    )


def build_state(config: ExperimentConfig, model: nn.Module, criterion: nn.Module, step: StepSettings) -> TrainState:
    """Model, criterion and optimizer on their device, before the first step."""
    optim = config.optim
    memory_format = torch.channels_last if optim.channels_last else torch.contiguous_format
    model = model.to(step.device, memory_format=memory_format)  # type: ignore[call-overload]
    options = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    options |= (
        {"momentum": optim.momentum, "nesterov": optim.nesterov} if optim.name == "sgd" else {"betas": optim.betas}
    )
    ema = None
    if optim.ema is not None:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(optim.ema)
        ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    scaler = torch.amp.GradScaler(step.device.type) if step.precision == torch.float16 else None
    return TrainState(
        model=model,
        criterion=criterion.to(step.device),
        optimizer=build_optimizer(model, optim.name, **options),
        ema=ema,
        scaler=scaler,
    )


def total_steps(config: ExperimentConfig, num_train: int) -> int:
    """Optimizer steps of the whole training."""
    if config.optim.steps is not None:
        return config.optim.steps
    assert config.optim.epochs is not None  # the schema asks for exactly one
    return max(1, round(config.optim.epochs * num_train / config.optim.batch_size))


def build_plan(config: ExperimentConfig, num_train: int) -> Plan:
    """Length, learning rate and the steps after which an evaluation is due; the end always is one."""
    total = total_steps(config, num_train)
    eval_steps = {total}
    if config.eval.every is not None:
        interval = config.eval.every * num_train / config.optim.batch_size
        eval_steps |= {round(k * interval) for k in range(1, int(total / interval) + 1)}
    optim = config.optim

    def learning_rate(step: int) -> float:
        factor = learning_rate_factor(
            step,
            total,
            schedule=optim.schedule,
            warmup_steps=optim.warmup_steps,
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
    """Which boxes count as detections."""
    return DetectionSettings(
        score_thresh=config.eval.score_thresh,
        nms_thresh=config.eval.nms_thresh,
        max_detections=config.eval.max_detections,
        batch_size=config.eval.batch_size or config.optim.batch_size,
    )
