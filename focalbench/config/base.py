"""What every branch of the configuration shares, and the ranges that keep absurd values out."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A branch of the configuration: frozen, unknown keys refused, attribute docstrings document the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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


def named_classes(sections: Any, part: str) -> dict[str, Any]:
    """Returns, by the name of each section of a union, the class that its attribute ``part`` names as "module:class".

    The sections are the one table of what can be configured; the classes are imported here, when their package is.
    """
    union, *_ = get_args(sections)
    return {section.model_fields["name"].default: resolve_name(getattr(section, part)) for section in get_args(union)}
