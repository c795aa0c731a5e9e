"""Whether the first weights that trials ask for can be had and fit: told once, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from focalbench.config.model import RetinaNetConfig, YoloV2Config
from focalbench.config.schema import ExperimentConfig
from focalbench.errors import FocalbenchError
from focalbench.experiment.locations import canvas_size


def require_weights(configs: Iterable[ExperimentConfig]) -> None:
    """Reads every weight file that ``configs`` name once, and holds it against a network without memory.

    A plugin's backbone is not built here: of its file only the format is looked at. torch loads where a trial asks for
    weights, and only there.

    Raises:
        ConfigError: for ``imagenet`` where there are no such weights.
        DataError: with all files that are missing, are no weights or do not fit.
    """
    faults: dict[str, FocalbenchError] = {}
    seen = set()
    for config in configs:
        model = config.model
        if not isinstance(model, RetinaNetConfig | YoloV2Config) or model.weights == "none":
            continue
        place = (model.name, str(model.backbone), getattr(model, "norm", ""), model.weights, canvas_size(config))
        if place in seen:
            continue
        seen.add(place)
        try:
            _require(model, canvas_size(config))
        except FocalbenchError as fault:
            faults.setdefault(str(fault), fault)
    if len(faults) == 1:
        raise next(iter(faults.values()))
    if faults:
        raise type(next(iter(faults.values())))("\n".join(faults))


def _require(model: RetinaNetConfig | YoloV2Config, canvas: tuple[int, int]) -> None:
    import torch

    from focalbench.models.backbones import build_backbone
    from focalbench.models.weight_files import read_state_dict
    from focalbench.models.weights import check_backbone_weights
    from focalbench.models.yolov2 import check_yolov2_weights

    if isinstance(model, YoloV2Config):
        check_yolov2_weights(model.backbone, model.weights)
    elif isinstance(model.backbone, str):
        with torch.device("meta"):
            backbone = build_backbone(model.backbone, model.norm, canvas)
        check_backbone_weights(backbone, model.backbone, model.weights)
    elif model.weights != "imagenet":
        read_state_dict(Path(model.weights))
