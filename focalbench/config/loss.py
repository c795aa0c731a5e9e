"""The ``loss`` branch of the configuration: one frozen model per classification loss, told apart by ``name``.

Every field but those that all losses share is a keyword of the class that ``loss`` names.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, create_model, model_validator
from pydantic.json_schema import SkipJsonSchema

from focalbench.config.base import BUILT_IN, MADE_OF_KEYS, OF_A_PLUGIN, Digest, Section, keys_of_plugin, origin_of
from focalbench.schedule import Kind, place_knots

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Schedule(Section):
    schedule: Kind
    """Between values: a jump (`step`), a line (`linear`), half a cosine wave (`cosine`), nothing (`constant`)."""
    values: tuple[float, ...]
    """The values, in order of training."""
    at: tuple[Fraction, ...] | None = None
    """Fractions of training, in rising order. `linear` and `cosine`: where each value is reached. `step`: where each
    value after the first one starts (a leading 0 for the first may be written too). If left out: evenly spaced."""

    @model_validator(mode="after")
    def _at_fits_values(self) -> _Schedule:
        place_knots(self.schedule, len(self.values), self.at)
        return self


class GammaSchedule(_Schedule):
    """A focusing exponent that changes during training (soft gamma)."""

    values: tuple[NonNegative, ...]
    """The exponents, each >= 0, in order of training."""


class PositiveGammaSchedule(_Schedule):
    """A scale of the logit that changes during training."""

    values: tuple[Positive, ...]
    """The scales, each > 0, in order of training."""


class AlphaSchedule(_Schedule):
    """A weight of the positives that changes during training."""

    values: tuple[Fraction, ...]
    """The weights, each in [0, 1], in order of training."""


def _kind(value: Any) -> str | None:
    """Which form of gamma or alpha ``value`` has, so that a fault is reported for that form only."""
    if value is None:
        return "null"
    if value == "auto":
        return "auto"
    if isinstance(value, dict | _Schedule):
        return "<schedule>"  # no key, so that it cannot pass for one in an error's location
    if isinstance(value, str):  # the YAML loader hands 1e-4 over as text
        try:
            float(value)
        except ValueError:
            return None
    return "per_class" if isinstance(value, list | tuple) else "number"


def _by_kind(message: str) -> Discriminator:
    """What tells the forms of a key apart; ``message`` is the fault of a value that has none of them."""
    return Discriminator(_kind, custom_error_type="form", custom_error_message=message)


_SCHEDULE_FORM = "{schedule: step|linear|cosine, values: [...], at: [...]}"
Gamma = Annotated[
    Annotated[NonNegative, Tag("number")] | Annotated[GammaSchedule, Tag("<schedule>")],
    _by_kind(f"gamma takes a number >= 0 or a schedule {_SCHEDULE_FORM}"),
]
PositiveGamma = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[PositiveGammaSchedule, Tag("<schedule>")],
    _by_kind(f"gamma takes a number > 0 or a schedule {_SCHEDULE_FORM}"),
]
_SingleAlpha = Annotated[Fraction, Tag("number")] | Annotated[AlphaSchedule, Tag("<schedule>")]
_NamedAlpha = Annotated[Literal["auto"], Tag("auto")] | Annotated[None, Tag("null")]
Alpha = Annotated[
    _SingleAlpha | Annotated[tuple[Fraction, ...], Field(min_length=1), Tag("per_class")] | _NamedAlpha,
    _by_kind("alpha takes a number in [0, 1], a schedule, `auto`, null or one number per class"),
]
ClassWeights = Annotated[
    _SingleAlpha | Annotated[tuple[NonNegative, ...], Field(min_length=1), Tag("per_class")] | _NamedAlpha,
    _by_kind(
        "alpha takes a number in [0, 1], a schedule, `auto`, null or one weight per class and a last one for the "
        "background"
    ),
]


def schedulable(name: str, number: Any, *, takes_null: bool) -> Any:
    """Returns what the parameter ``name`` of a plugin's loss may be: ``number``, a float type with its range, or a
    schedule of such; null where that is allowed, and ``auto`` where it is alpha.
    """
    schedule = create_model(
        f"{name}_schedule", __base__=_Schedule, __cls_kwargs__=MADE_OF_KEYS, values=(tuple[number, ...], ...)
    )
    forms = [Annotated[number, Tag("number")], Annotated[schedule, Tag("<schedule>")]]
    forms += [Annotated[None, Tag("null")]] if takes_null else []
    forms += [Annotated[Literal["auto"], Tag("auto")]] if name == "alpha" else []
    named = ["`auto`"] * (name == "alpha") + ["null"] * takes_null
    message = f"{name} takes a number, {', '.join([*named, 'or'])} a schedule {_SCHEDULE_FORM}".replace(", or", " or")
    return Annotated[reduce(or_, forms), _by_kind(message)]


class _Loss(Section):
    loss: ClassVar[str]
    """Class of the loss, a ``focalbench.losses.base.ClassificationLoss``."""
    is_focal: ClassVar[bool] = False
    """Whether it is the focal loss at some gamma and alpha, as cross entropy is."""
    weight: Positive = 1.0
    """Factor on the classification loss; that of the box loss is 1."""
    match_scale: bool = False
    """Choose the factor over the first batches so that the gradient on the logits has cross entropy's norm; `weight`
    still applies."""
    apply_to: Literal["class", "objectness", "both"] = "class"
    """YOLOv2 only: which of its terms this loss replaces. RetinaNet has classes only: leave it at `class`."""

    def parameters(self) -> dict[str, Any]:
        """Returns the keywords of the loss: all keys but those that every loss has."""
        return self.model_dump(exclude=set(SHARED_KEYS))


SHARED_KEYS = frozenset({"name", *_Loss.model_fields})
"""Keys that every loss has."""


class CrossEntropyConfig(_Loss):
    """Cross entropy on independent sigmoids: -log p_t (arXiv:1708.02002, eq. 1-2)."""

    loss = "focalbench.losses.cross_entropy:CrossEntropy"
    is_focal = True
    name: Literal["ce"] = "ce"
    """Which loss."""


class BalancedCrossEntropyConfig(_Loss):
    """Cross entropy with alpha on positives and 1 - alpha on negatives (arXiv:1708.02002, eq. 3)."""

    loss = "focalbench.losses.cross_entropy:BalancedCrossEntropy"
    is_focal = True
    name: Literal["balanced_ce"] = "balanced_ce"
    """Which loss."""
    alpha: Alpha = 0.75
    """Weight of positives, in [0, 1]; 0.75 is the best of the paper's table 1a. `auto`: alpha / (1 - alpha) = negatives
    / positives, counted on the training set after matching. A list: one per class. null: no weights (plain `ce`)."""


class FocalConfig(_Loss):
    """Focal loss on independent sigmoids: -alpha_t (1 - p_t)^gamma log p_t (arXiv:1708.02002, eq. 4-5)."""

    loss = "focalbench.losses.focal:Focal"
    is_focal = True
    name: Literal["focal"] = "focal"
    """Which loss."""
    gamma: Gamma = 2.0
    """Focusing exponent, >= 0; 0 is cross entropy. A number or a schedule."""
    alpha: Alpha = 0.25
    """Weight of POSITIVES, in [0, 1]; negatives get 1 - alpha. A number, a schedule, `auto`, one per class, or null."""


class SoftmaxCrossEntropyConfig(_Loss):
    """Cross entropy on a softmax over the classes and the background."""

    loss = "focalbench.losses.softmax:SoftmaxCrossEntropy"
    is_focal = True
    name: Literal["softmax_ce"] = "softmax_ce"
    """Which loss."""


class SoftmaxBalancedCrossEntropyConfig(_Loss):
    """Weighted cross entropy on a softmax over the classes and the background."""

    loss = "focalbench.losses.softmax:SoftmaxBalancedCrossEntropy"
    is_focal = True
    name: Literal["softmax_balanced_ce"] = "softmax_balanced_ce"
    """Which loss."""
    alpha: ClassWeights = 0.75
    """Weight in [0, 1] of the side named by `alpha_on`; the other gets 1 - alpha. `auto` counts both sides after
    matching. A list: one weight >= 0 per class and a last one for the background. null: no weights."""
    alpha_on: Literal["positives", "background"] = "positives"
    """Which side a single alpha weighs. `background` is the reverse of the focal loss paper, as found in
    public code."""


class SoftmaxFocalConfig(_Loss):
    """Focal loss on a softmax over the classes and the background: -alpha[y] (1 - p_y)^gamma log p_y."""

    loss = "focalbench.losses.softmax:SoftmaxFocal"
    is_focal = True
    name: Literal["softmax_focal"] = "softmax_focal"
    """Which loss."""
    gamma: Gamma = 2.0
    """Focusing exponent, >= 0; 0 is softmax cross entropy. A number or a schedule."""
    alpha: ClassWeights = None
    """null: all weights are 1. Otherwise as in `softmax_balanced_ce`."""
    alpha_on: Literal["positives", "background"] = "positives"
    """Which side a single alpha weighs. `background` is the reverse of the focal loss paper, as found in
    public code."""


class FocalStarConfig(_Loss):
    """FL*, the focal loss's alternate form: -log sigmoid(gamma x_t + beta) / gamma (arXiv:1708.02002, appendix A)."""

    loss = "focalbench.losses.focal_star:FocalStar"
    name: Literal["focal_star"] = "focal_star"
    """Which loss."""
    gamma: PositiveGamma = 2.0
    """Steepness on the logit, > 0; with beta 0, 1 is cross entropy. A number or a schedule."""
    beta: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Shift of the scaled logit; the paper's pairs (gamma, beta) are (2, 1) and (4, 0)."""
    alpha: Alpha = 0.25
    """Weight of positives, as in `focal`."""


class OHEMConfig(_Loss):
    """Cross entropy on the hardest anchors only, after NMS on the loss (arXiv:1604.03540; 1708.02002, table 1d)."""

    loss = "focalbench.losses.ohem:OHEM"
    name: Literal["ohem"] = "ohem"
    """Which loss."""
    num_hardest: Annotated[int, Field(gt=0)] = 128
    """Anchors kept per image (B in the paper: 128, 256 or 512)."""
    nms_thresh: Fraction | None = 0.5
    """IoU above which an easier anchor's predicted box is dropped (paper: 0.5 or 0.7); null: no NMS."""
    negatives_per_positive: Positive | None = None
    """3 is the 1:3 variant: at most this many negatives for each kept positive. null: the hardest, positive
    or negative."""


class GHMConfig(_Loss):
    """GHM-C: cross entropy divided by the density of its gradient norm (arXiv:1811.05181)."""

    loss = "focalbench.losses.ghm:GHM"
    name: Literal["ghm"] = "ghm"
    """Which loss."""
    bins: Annotated[int, Field(ge=1, le=1000)] = 30
    """Equal bins of the gradient norm |p - y| over [0, 1]."""
    momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.75
    """Share of the old counts in each bin's moving average; 0: this batch only."""


class ClassBalancedConfig(_Loss):
    """Focal loss weighted by the effective number of each class's positives (arXiv:1901.05555)."""

    loss = "focalbench.losses.class_balanced:ClassBalanced"
    name: Literal["class_balanced"] = "class_balanced"
    """Which loss."""
    beta: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.9999
    """(1 - beta) / (1 - beta^n) for a class of n positives; 0: no weights; towards 1: inverse frequency."""
    gamma: Gamma = 2.0
    """Focusing exponent, >= 0; 0 is class-balanced cross entropy. A number or a schedule."""
    alpha: Alpha = None
    """Weight of positives against negatives, as in `focal`, on top of the class weights."""


class QualityFocalConfig(_Loss):
    """Quality focal loss: |y - p|^beta times cross entropy to y, the box's IoU (arXiv:2006.04388, eq. 3)."""

    loss = "focalbench.losses.quality:QualityFocal"
    name: Literal["quality_focal"] = "quality_focal"
    """Which loss."""
    beta: NonNegative = 2.0
    """Exponent of the distance to the target, >= 0."""


class VarifocalConfig(_Loss):
    """Varifocal loss: the box's IoU as target of positives, focal weights on negatives (arXiv:2008.13367, eq. 2)."""

    loss = "focalbench.losses.quality:Varifocal"
    name: Literal["varifocal"] = "varifocal"
    """Which loss."""
    gamma: Gamma = 2.0
    """Focusing exponent of negatives, >= 0. A number or a schedule."""
    alpha: Annotated[_SingleAlpha, _by_kind("varifocal's alpha takes a number in [0, 1] or a schedule")] = 0.75
    """Weight of NEGATIVES, in [0, 1]; positives are weighted by their IoU."""


class AsymmetricConfig(_Loss):
    """Asymmetric loss: own exponents for positives and negatives, easy negatives cut off (arXiv:2009.14119)."""

    loss = "focalbench.losses.asymmetric:Asymmetric"
    name: Literal["asymmetric"] = "asymmetric"
    """Which loss."""
    gamma_pos: NonNegative = 0.0
    """Focusing exponent of positives, >= 0."""
    gamma_neg: NonNegative = 4.0
    """Focusing exponent of negatives, >= 0."""
    margin: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.05
    """Negatives with a probability below this have no loss."""


class PluginLoss(_Loss, extra="allow"):
    """A loss of a plugin, as a trial keeps it: its further keys were checked where the plugin was at hand."""

    name: Annotated[str, Field(min_length=1)]
    """Which loss."""
    source: Digest
    """Digest of the plugin's source."""
    activation: Literal["sigmoid", "softmax"]
    """How class logits become scores."""

    def parameters(self) -> dict[str, Any]:
        """See ``_Loss``."""
        return keys_of_plugin(self, SHARED_KEYS)


BuiltInLoss = (
    CrossEntropyConfig
    | BalancedCrossEntropyConfig
    | FocalConfig
    | SoftmaxCrossEntropyConfig
    | SoftmaxBalancedCrossEntropyConfig
    | SoftmaxFocalConfig
    | FocalStarConfig
    | OHEMConfig
    | GHMConfig
    | ClassBalancedConfig
    | QualityFocalConfig
    | VarifocalConfig
    | AsymmetricConfig
)
LossConfig = Annotated[
    Annotated[BuiltInLoss, Field(discriminator="name"), Tag(BUILT_IN)]
    | Annotated[SkipJsonSchema[PluginLoss], Tag(OF_A_PLUGIN)],
    Discriminator(origin_of(BuiltInLoss)),
]

FOCAL_FAMILY = frozenset(section.model_fields["name"].default for section in _Loss.__subclasses__() if section.is_focal)
"""Names of the losses that are the focal loss at some gamma and alpha."""
