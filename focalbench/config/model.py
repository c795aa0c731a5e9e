"""The ``model`` branch of the configuration: the detectors and their parts, told apart by ``name``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema

from focalbench.config.base import (
    BUILT_IN,
    OF_A_PLUGIN,
    Count,
    Digest,
    Fraction,
    NonNegative,
    OpenFraction,
    Positive,
    Section,
    key_error,
    origin_of,
)
from focalbench.extras import TIMM

PriorBox = tuple[Positive, Positive]
YoloSide = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]

BackboneName = Literal["tiny", "efficientnet_lite0", "resnet18", "resnet34", "resnet50", "mobilenet_v3_large"]
BACKBONE_NAMES = get_args(BackboneName)


class PluginBackbone(Section, extra="allow"):
    """A backbone of a plugin, as a trial keeps it: its further keys were checked where the plugin was at hand."""

    name: Annotated[str, Field(min_length=1)]
    """Which backbone."""
    source: Digest
    """Digest of the plugin's source."""

    def __str__(self) -> str:
        """The name, as built-in backbones are no more than that."""
        return self.name


def _backbone_form(value: Any) -> str | None:
    """Which form of `model.backbone` ``value`` has, so that a fault is reported for that form only."""
    if isinstance(value, str) and value.startswith(TIMM):
        return "<timm>"
    if isinstance(value, PluginBackbone) or (isinstance(value, dict) and "source" in value):
        return OF_A_PLUGIN
    return "<name>" if value in BACKBONE_NAMES else None


def own_backbones(sections: Mapping[str, type[Section]]) -> Any:
    """Returns what `model.backbone` may be where plugins bring these, by name alone or with keys."""

    def form(value: Any) -> str | None:
        name = value.get("name") if isinstance(value, dict) else value
        if isinstance(name, str) and name in sections:
            return f"<{name}>"
        return None if isinstance(value, dict) else _backbone_form(value)

    own = [Annotated[section, BeforeValidator(_with_name), Tag(f"<{name}>")] for name, section in sections.items()]
    return Annotated[reduce(or_, own, _Backbone), _told_by(form, [*sections, *BACKBONE_NAMES])]


def _with_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _told_by(form: Callable[[Any], str | None], choices: Sequence[str]) -> Discriminator:
    return Discriminator(
        form,
        custom_error_type="choice",
        custom_error_message=f"should be one of {{choices}} or {TIMM}NAME",
        custom_error_context={"choices": ", ".join(choices)},
    )


_Backbone = (
    Annotated[BackboneName, Tag("<name>")]
    | Annotated[str, Field(pattern=rf"^{TIMM}[A-Za-z0-9][A-Za-z0-9_.-]{{0,99}}$"), Tag("<timm>")]
)
Backbone = Annotated[
    _Backbone | Annotated[SkipJsonSchema[PluginBackbone], Tag(OF_A_PLUGIN)], _told_by(_backbone_form, BACKBONE_NAMES)
]


class _Detector(Section):
    network: ClassVar[str]
    """Class of the network, a ``focalbench.models.detector.Detector``."""
    criterion: ClassVar[str] = "focalbench.losses.detection:DetectionLoss"
    """Class of the training criterion, a ``focalbench.losses.criterion.Criterion``."""
    canvas_multiple: ClassVar[int] = 1
    """Sides of the canvas are multiples of this many pixels."""
    has_objectness: ClassVar[bool] = False
    """Whether `loss.apply_to` may name more than the classes."""

    def canvas_sizes(self) -> tuple[tuple[int, int], int] | None:
        """Returns smallest and largest side of the canvas in training and the steps between two; None: always one."""
        return None


def _require_loaded(weights: str, trainable_stages: int | None, norm: str | None) -> None:
    """Refuses to freeze what is random."""
    if trainable_stages is not None and weights == "none":
        reason = f"{trainable_stages} needs loaded weights: set weights to imagenet or a file, or this to null"
        raise key_error("trainable_stages", reason)
    if norm == "frozen" and weights == "none":
        raise key_error("norm", "frozen needs loaded weights: set weights to imagenet or a file, or norm to batch")


class RetinaNetConfig(_Detector):
    """RetinaNet: backbone, feature pyramid, a classification and a box subnet (arXiv:1708.02002, sec. 4)."""

    network = "focalbench.models.retinanet:RetinaNet"
    name: Literal["retinanet"] = "retinanet"
    """Which detector."""
    backbone: Backbone = "resnet18"
    """Network below the pyramid. Two are made for two CPU cores: `tiny` (about 0.6 M parameters with everything above
    it), to start from random weights, and `efficientnet_lite0` (3.4 M), to start from ImageNet's. `timm/NAME` (needs
    the extra `timm`) is any timm network with feature maps of strides 8, 16 and 32; NAME may end in the tag of its
    weights, as in `timm/resnet18.a1_in1k`."""
    weights: Annotated[str, Field(min_length=1)] = "none"
    """First weights of the backbone: `none` (random), `imagenet` (torchvision's or timm's, those of
    `efficientnet_lite0` from the extra `pretrained`; there are none for `tiny`), or the path of a torch or safetensors
    file: of torchvision's or timm's classifier, or of a network that holds it under one prefix, such as a RetinaNet or
    a network wrapped by DataParallel."""
    trainable_stages: Annotated[int, Field(ge=0, le=4)] | None = None
    """How many of the backbone's last stages are trained; 0: none. The stem and the stages before them stay as loaded,
    batch norm statistics included, which needs loaded weights. null: the whole backbone is trained."""
    prior_prob: OpenFraction | None = 0.01
    """Initial probability of every class (pi in the paper, sec. 3.3); null: no prior, the bias starts at 0."""
    norm: Literal["batch", "frozen", "sync"] = "batch"
    """Batch norm in the backbone: over the batch, frozen at the loaded weights' statistics, or over all processes;
    `tiny` has `batch` only. With `run.devices` above 1 `batch` is over all processes too."""
    fpn_channels: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Channels of the pyramid. null: the backbone's default (64 for `tiny` and `efficientnet_lite0`, else 256)."""
    fpn_norm: Literal["none", "batch"] | None = None
    """Batch norm behind the pyramid's lateral convolutions. null: the backbone's default (`batch` for
    `efficientnet_lite0`, else `none`)."""
    num_levels: Annotated[int, Field(ge=3, le=7)] | None = None
    """Levels of the pyramid, from P3 (stride 8) up. null: the backbone's default (4 for `tiny` and
    `efficientnet_lite0`, else 5)."""
    head_convs: Annotated[int, Field(ge=0, le=16)] | None = None
    """3x3 convolutions in each subnet. null: the backbone's default (2 for `tiny` and `efficientnet_lite0`, else 4)."""
    anchor_scale: Annotated[float, Field(ge=0.1, le=64)] | None = None
    """Side of the smallest anchor, in strides of its level. null: the backbone's default (2 for `tiny` and
    `efficientnet_lite0`, else 4)."""
    anchor_octaves: Annotated[int, Field(ge=1, le=10)] | None = None
    """Anchor sizes per octave. null: the backbone's default (2 for `tiny` and `efficientnet_lite0`, else 3)."""
    anchor_ratios: Annotated[
        tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(min_length=1, max_length=20)
    ] = (
        0.5,
        1.0,
        2.0,
    )
    """Height / width of the anchors."""
    pos_iou: Fraction = 0.5
    """An anchor with at least this IoU is positive; each object's best anchor is positive in any case."""
    neg_iou: Fraction = 0.4
    """An anchor with less than this IoU is background; between the two it is ignored."""
    box_weight: NonNegative = 1.0
    """Factor on the box loss."""
    box_beta: NonNegative = 0.1
    """Where smooth L1 turns from a parabola into a line, in units of the encoded deltas; 0: L1."""

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> RetinaNetConfig:
        if self.neg_iou > self.pos_iou:
            raise key_error("neg_iou", f"{self.neg_iou:g} should not be above pos_iou ({self.pos_iou:g})")
        return self

    @model_validator(mode="after")
    def _what_is_frozen_was_loaded(self) -> RetinaNetConfig:
        _require_loaded(self.weights, self.trainable_stages, self.norm)
        if self.norm != "batch" and self.backbone == "tiny":
            raise key_error("norm", f"{self.norm} is for the larger backbones: tiny has batch only")
        return self


class YoloV2Config(_Detector):
    """YOLOv2: Darknet-19 with passthrough and boxes predicted from priors (arXiv:1612.08242)."""

    network = "focalbench.models.yolov2:YoloV2"
    criterion = "focalbench.losses.region:RegionLoss"
    canvas_multiple = 32
    has_objectness = True
    name: Literal["yolov2"] = "yolov2"
    """Which detector."""
    backbone: Literal["darknet19", "tiny", "efficientnet_lite0"] = "darknet19"
    """Network below the head. `tiny` (1.6 M parameters with the head, cells of 16 px) is made for two CPU cores, and so
    is `efficientnet_lite0` (5.2 M), to start from ImageNet weights."""
    weights: Annotated[str, Field(min_length=1)] = "none"
    """First weights: `none` (random), `imagenet` (the backbone's, for `efficientnet_lite0`), or the path of a file:
    darknet's for `darknet19` (`darknet19_448.conv.23`, `yolov2-voc.weights`), or a torch file of this network or of its
    trunk."""
    trainable_stages: Annotated[int, Field(ge=0, le=4)] | None = None
    """How many of the last stages of `efficientnet_lite0` are trained: see RetinaNet's. null: the whole network."""
    norm: Literal["batch", "frozen", "sync"] | None = None
    """Batch norm in `efficientnet_lite0`: see RetinaNet's. null: `batch`."""
    priors: Literal["voc", "auto"] | Annotated[tuple[PriorBox, ...], Field(min_length=1, max_length=50)] = "voc"
    """Width and height of the prior boxes: `voc` (the five of the published network), `auto` (k-means with 1 - IoU on
    the training boxes), or a list of [width, height] in units of 32 px."""
    num_priors: Annotated[int, Field(ge=1, le=50)] = 5
    """Number of prior boxes when `priors` is `auto`."""
    prior_prob: OpenFraction | None = None
    """Initial objectness of every box; null: 0.5, as published."""
    ignore_iou: Fraction = 0.6
    """A box with more than this IoU to an object is not pushed towards "no object"."""
    object_scale: NonNegative = 5.0
    """Factor on the squared error of responsible boxes' objectness; without effect where the loss is applied to it."""
    noobject_scale: NonNegative = 1.0
    """Factor on the squared error of all other boxes' objectness; without effect where the loss is applied to it."""
    coord_scale: NonNegative = 1.0
    """Factor on the coordinate loss."""
    class_scale: NonNegative = 1.0
    """Factor on the classification loss, on top of `loss.weight`."""
    rescore: bool = True
    """The objectness target is the IoU of the predicted box, not 1."""
    coord_area_scale: bool = False
    """Scale the coordinate loss by 2 - w h, so that small boxes count more (darknet does)."""
    anneal_images: Annotated[int, Field(ge=0, le=100_000_000)] = 12_800
    """For this many images at the start all boxes are pulled to their priors; 0: never."""
    multiscale: tuple[YoloSide, YoloSide] | None = None
    """Smallest and largest canvas side in training, multiples of 32 px, drawn anew every `multiscale_every` batches;
    the paper's is [320, 608]. null: always `data.image_size`."""
    multiscale_every: Count = 10
    """Batches between two canvas sizes of `multiscale`."""

    @model_validator(mode="after")
    def _what_is_frozen_was_loaded(self) -> YoloV2Config:
        _require_loaded(self.weights, self.trainable_stages, self.norm)
        for key in ("trainable_stages", "norm"):
            if getattr(self, key) is not None and self.backbone != "efficientnet_lite0":
                raise key_error(
                    key, f"{getattr(self, key)} is for efficientnet_lite0: leave it null for {self.backbone}"
                )
        return self

    @model_validator(mode="after")
    def _multiscale_rises(self) -> YoloV2Config:
        if self.multiscale is not None and self.multiscale[0] > self.multiscale[1]:
            raise key_error("multiscale", f"should be [smallest, largest], not {list(self.multiscale)}")
        return self

    def canvas_sizes(self) -> tuple[tuple[int, int], int] | None:
        """See ``_Detector``."""
        return None if self.multiscale is None else (self.multiscale, self.multiscale_every)


class PluginDetector(_Detector, extra="allow"):
    """A detector of a plugin, as a trial keeps it: its further keys were checked where the plugin was at hand."""

    has_objectness = True
    name: Annotated[str, Field(min_length=1)]
    """Which detector."""
    source: Digest
    """Digest of the plugin's source."""


BuiltInDetector = RetinaNetConfig | YoloV2Config
ModelConfig = Annotated[
    Annotated[BuiltInDetector, Field(discriminator="name"), Tag(BUILT_IN)]
    | Annotated[SkipJsonSchema[PluginDetector], Tag(OF_A_PLUGIN)],
    Discriminator(origin_of(BuiltInDetector)),
]
