"""Sections of the configuration for what plugins bring: keys, types, ranges and defaults as in their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, create_model, field_validator
from pydantic.fields import FieldInfo

from focalbench.config.base import MADE_OF_KEYS, PLUGIN_KEYS, Section
from focalbench.config.loss import SHARED_KEYS, BuiltInLoss, PluginLoss
from focalbench.config.model import (
    BACKBONE_NAMES,
    BuiltInDetector,
    PluginBackbone,
    PluginDetector,
    RetinaNetConfig,
    own_backbones,
)
from focalbench.config.schema import ExperimentConfig, PluginTracker, RunConfig
from focalbench.config.signature import Key, keys_of
from focalbench.errors import PluginError
from focalbench.plugins.loading import Plugin
from focalbench.plugins.registration import Registration
from focalbench.plugins.source import PluginSource

_AnySection = TypeVar("_AnySection", bound=Section)
_OF_NETWORKS = ("num_classes", "activation", "pre_nms_top", "box_sizes", "canvas")
"""Keywords of a network that come from the data, the loss or other sections."""
_OF_CRITERIA = ("classification", "objectness", "num_classes", "weight", "apply_to")


def schema_with(plugins: Sequence[Plugin]) -> type[ExperimentConfig]:
    """Returns the schema of a configuration that names these plugins.

    Raises:
        PluginError: a name that is built in or taken, or a parameter that cannot be a key: with file and line.
    """
    plugins = list({plugin.source.digest: plugin for plugin in plugins}.values())
    found = [(plugin, registration) for plugin in plugins for registration in plugin.registrations]
    _require_free_names([registration for _, registration in found])
    sections: dict[str, dict[str, type[Section]]] = {kind: {} for kind in _SECTIONS}
    for plugin, entry in found:
        sections[entry.kind][entry.name] = _SECTIONS[entry.kind](entry, plugin.source)
    fields = _fields_with(sections)
    schema = create_model(
        "ExperimentConfig", __base__=ExperimentConfig, __module__=__name__, __cls_kwargs__=MADE_OF_KEYS, **fields
    )
    schema.plugin_sources = {plugin.source.digest: plugin.source for plugin in plugins}
    schema.plugin_schema = _only(sections).model_json_schema()
    return schema


def _fields_with(sections: Mapping[str, Mapping[str, type[Section]]]) -> dict[str, Any]:
    """The fields of the schema that these sections change."""
    fields: dict[str, Any] = {}
    if losses := list(sections["loss"].values()):
        fields["loss"] = (
            Annotated[reduce(or_, losses, BuiltInLoss), Field(discriminator="name")],
            _like(ExperimentConfig, "loss"),
        )
    if sections["backbone"] or sections["detector"]:
        retinanet = _retinanet_with(sections["backbone"])
        detectors = [retinanet, *(other for other in get_args(BuiltInDetector) if other is not RetinaNetConfig)]
        union: Any = reduce(or_, [*detectors, *sections["detector"].values()])
        fields["model"] = (Annotated[union, Field(discriminator="name")], _like(ExperimentConfig, "model"))
    if trackers := list(sections["tracker"].values()):
        run = _run_with(trackers)
        fields["run"] = (run, Field(run(), description=ExperimentConfig.model_fields["run"].description))
    return fields


def _only(sections: Mapping[str, Mapping[str, type[Section]]]) -> type[BaseModel]:
    """A model of what plugins add to a trial's hyperparameters."""
    added: dict[str, list[type[BaseModel]]]
    added = {"loss": [*sections["loss"].values()], "model": [*sections["detector"].values()]}
    if backbones := list(sections["backbone"].values()):
        added["model"].append(create_model("OwnBackbone", backbone=(reduce(or_, backbones), ...)))
    fields: dict[str, Any] = {branch: (reduce(or_, models), ...) for branch, models in added.items() if models}
    return create_model("Plugins", **fields)


def _like(section: type[Section], key: str) -> Any:
    """Default and documentation of a key as focalbench has it."""
    field = section.model_fields[key]
    return Field(field.default, description=field.description)


def _retinanet_with(backbones: Mapping[str, type[Section]]) -> type[RetinaNetConfig]:
    """The section of RetinaNet with these backbones to choose from too."""
    if not backbones:
        return RetinaNetConfig
    return _with_field(RetinaNetConfig, "backbone", own_backbones(backbones))


def _require_free_names(registrations: Sequence[Registration]) -> None:
    built_in = {"loss": _names(BuiltInLoss), "detector": _names(BuiltInDetector), "backbone": BACKBONE_NAMES}
    taken: dict[tuple[str, str], Registration] = {}
    for entry in registrations:
        if entry.name in built_in.get(entry.kind, ()):
            raise PluginError(f"{entry.place}: the {entry.kind} {entry.name} is built in: give yours another name")
        other = taken.setdefault((entry.kind, entry.name), entry)
        if other is not entry:
            raise PluginError(f"{entry.place}: the {entry.kind} {entry.name} is defined at {other.place} too")


def _names(built_in: Any) -> list[str]:
    return [section.model_fields["name"].default for section in get_args(built_in)]


def schema_of_keys(entry: Registration) -> dict[str, Any]:
    """Returns the JSON Schema of a mapping with the keys that a registration means, each with its default.

    Raises:
        PluginError: a parameter that cannot be a key: with file and line.
    """
    of_kind: dict[str, Callable[[Registration], dict[str, Key]]]
    of_kind = {"loss": _loss_keys, "detector": _detector_keys, "tracker": _tracker_keys, "backbone": _backbone_keys}
    keys = of_kind[entry.kind](entry)
    fields: dict[str, Any] = {name: (key.annotation, key.default) for name, key in keys.items()}
    return create_model(entry.name, **fields).model_json_schema()


def _backbone_keys(entry: Registration) -> dict[str, Key]:
    return keys_of(entry, entry.target)


def _backbone_section(entry: Registration, source: PluginSource) -> type[Section]:
    return _section(entry, source, PluginBackbone, _backbone_keys(entry), reserved={"name"})


def _loss_keys(entry: Registration) -> dict[str, Key]:
    is_class = isinstance(entry.target, type)
    keys = keys_of(entry, entry.target, skip=("num_classes", "counts"), positional=0 if is_class else 2)
    moving = {name: key for name, key in keys.items() if not is_class or key.is_marked_moving}
    return keys | {name: key.moving(name) for name, key in moving.items()}


def _loss_section(entry: Registration, source: PluginSource) -> type[Section]:
    is_class = isinstance(entry.target, type)
    activation = getattr(entry.target, "activation", None) if is_class else entry.options["activation"]
    if activation not in ("sigmoid", "softmax"):
        raise PluginError(
            f"{entry.place}: {entry.name}: the class should be a focalbench.losses.ClassificationLoss whose "
            f"activation is sigmoid or softmax"
        )
    return _section(entry, source, PluginLoss, _loss_keys(entry), reserved=SHARED_KEYS, activation=activation)


def _detector_keys(entry: Registration) -> dict[str, Key]:
    criterion = entry.options["criterion"]
    of_criterion = keys_of(entry, criterion, skip=_OF_CRITERIA) if criterion is not None else _default_criterion_keys()
    return keys_of(entry, entry.target, skip=_OF_NETWORKS) | of_criterion


def _detector_section(entry: Registration, source: PluginSource) -> type[Section]:
    section = _section(entry, source, PluginDetector, _detector_keys(entry), reserved={"name"})
    section.canvas_multiple = entry.options["canvas_multiple"]  # type: ignore[attr-defined]
    section.has_objectness = entry.options["has_objectness"]  # type: ignore[attr-defined]
    return section


def _tracker_keys(entry: Registration) -> dict[str, Key]:
    return keys_of(entry, entry.target, positional=1)


def _tracker_section(entry: Registration, source: PluginSource) -> type[Section]:
    return _section(entry, source, PluginTracker, _tracker_keys(entry), reserved={"name"})


def _run_with(trackers: Sequence[type[Section]]) -> type[RunConfig]:
    """The section ``run`` with these trackers to choose from."""
    choice: Any = reduce(or_, trackers)
    choice = Annotated[choice, Field(discriminator="name")] if len(trackers) > 1 else choice
    one = Annotated[choice, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
    return _with_field(RunConfig, "trackers", tuple[one, ...])


def _with_field(section: type[_AnySection], key: str, takes: Any) -> type[_AnySection]:
    """``section``, whose ``key`` takes something else; default and documentation stay."""
    fields: dict[str, Any] = {key: (takes, _like(section, key))}
    return create_model(
        section.__name__,
        __base__=section,
        __module__=__name__,
        __cls_kwargs__=MADE_OF_KEYS,
        __doc__=section.__doc__,
        **fields,
    )


def _default_criterion_keys() -> dict[str, Key]:
    """Keys of RetinaNet's criterion, as its section has them."""
    names = ("pos_iou", "neg_iou", "box_weight", "box_beta")
    fields = {name: RetinaNetConfig.model_fields[name] for name in names}
    return {name: Key(_annotated(field), field.default) for name, field in fields.items()}


def _annotated(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _section(
    entry: Registration,
    source: PluginSource,
    base: type[Section],
    keys: Mapping[str, Key],
    *,
    reserved: Iterable[str],
    **facts: str,
) -> type[Section]:
    """The section of a registration: its keys, and the facts that focalbench writes down with them."""
    taken = [name for name in keys if name in {*reserved, *PLUGIN_KEYS}]
    if taken:
        raise PluginError(
            f"{entry.place}: {entry.name}: {taken[0]} is a key that focalbench itself uses here: rename the parameter"
        )
    facts = {"source": source.digest, **facts}
    fields: dict[str, Any] = {name: (key.annotation, key.default) for name, key in keys.items()}
    fields |= {name: (str, value) for name, value in facts.items()}
    fields["name"] = (Literal[entry.name], entry.name)

    def keep(cls: type[Section], value: str, info: Any) -> str:
        if value != facts[info.field_name]:
            raise ValueError(
                f"is {facts[info.field_name]} in {source.name}, not {value}: focalbench writes this key; leave it out, "
                "or restore the file that it was written for"
            )
        return value

    return create_model(
        f"{entry.kind}_{entry.name}",
        __base__=base,
        __module__=__name__,
        __doc__=inspect.getdoc(entry.target) or f"{entry.kind.capitalize()} {entry.name} of {source.name}.",
        __validators__={"keep": field_validator(*facts, mode="after")(keep)},
        __cls_kwargs__={"extra": "forbid", **MADE_OF_KEYS},
        **fields,
    )


_SECTIONS: dict[str, Callable[[Registration, PluginSource], type[Section]]] = {
    "loss": _loss_section,
    "backbone": _backbone_section,
    "detector": _detector_section,
    "tracker": _tracker_section,
}
