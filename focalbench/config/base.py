"""What every branch of the configuration shares, and the ranges that keep absurd values out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pkgutil import resolve_name
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A branch of the configuration: frozen, unknown keys refused, attribute docstrings document the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


MADE_OF_KEYS: dict[str, Any] = {"use_attribute_docstrings": False}
"""Keywords of a section that is made while the program runs: it has no source to be searched for documentation."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A share, a probability or a threshold."""
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
"""A probability that is neither impossible nor certain."""
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
SeedNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What seeds a random stream."""


def key_error(key: str, reason: str) -> PydanticCustomError:
    """Makes the error that a validator of several keys raises; it is reported at ``key``, counted from the section."""
    return PydanticCustomError("between_keys", "{reason}", {"key": key, "reason": reason})


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""Of a plugin's source."""
PLUGIN_KEYS = frozenset({"source", "activation"})
"""What focalbench itself writes into the sections of plugins, so that a trial can be read without them."""
BUILT_IN, OF_A_PLUGIN = "<built in>", "<plugin>"
"""Tags of the two kinds of sections of a branch; no keys, so that they cannot pass for one in an error's location."""


def keys_of_plugin(section: BaseModel, shared: Collection[str] = ()) -> dict[str, Any]:
    """Returns the keys of a plugin's section that are its own: without the name, ``shared`` ones and what focalbench
    writes.
    """
    own = section.model_dump(exclude={"name", *shared, *PLUGIN_KEYS})
    return {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}


def origin_of(built_in: Any) -> Callable[[Any], str]:
    """Returns what tells which kind of section a value is: of a plugin, where its name is not among those of
    ``built_in`` and it says its source.
    """
    names = {section.model_fields["name"].default for section in get_args(built_in)}

    def origin(value: Any) -> str:
        if isinstance(value, dict):
            return OF_A_PLUGIN if "source" in value and value.get("name") not in names else BUILT_IN
        return OF_A_PLUGIN if hasattr(value, "source") else BUILT_IN

    return origin


def named_classes(sections: Any, part: str) -> dict[str, Any]:
    """Returns, by the name of each built-in section of a branch, the class that its attribute ``part`` names as
    "module:class".

    The sections are the one table of what can be configured; the classes are imported here, when their package is.
    """
    return {
        section.model_fields["name"].default: resolve_name(getattr(section, part)) for section in get_args(sections)
    }
