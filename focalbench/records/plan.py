"""What a sweep declares before its results are looked at, and the looks taken since: both kept in sweep.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from focalbench.errors import ConfigError, DataError
from focalbench.statistics.looks import FIRST_LOOK, MOST_SEEDS


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class SweepPlan(_Entry):
    """What is declared.

    Attributes:
        seeds: those of every arm; with ``until`` those of all looks, in their order.
        until: ``decided`` where seeds are added until every arm has a word; None for all seeds at once.
        looks: numbers of seeds at which the arms are looked at, rising to all of them; empty without ``until``.
        margin: largest difference in mAP that does not matter in practice.
        baseline: arm that the others are compared with; empty without ``until``: whoever compares says which.
    """

    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    until: Literal["decided"] | None = None
    looks: tuple[Annotated[int, Field(ge=FIRST_LOOK, le=MOST_SEEDS)], ...] = ()
    margin: Annotated[float, Field(gt=0, lt=1)]
    baseline: str = ""

    @model_validator(mode="after")
    def _looks_rise(self) -> SweepPlan:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: lists one twice")
        if self.until is not None and (list(self.looks) != sorted(set(self.looks)) or not self.looks):
            raise ValueError("looks: should be in rising order")
        if self.until is not None and self.looks[-1] != len(self.seeds):
            raise ValueError("looks: the last one should be at all seeds")
        return self


class Look(_Entry):
    """One time that somebody was told how the arms stand.

    Attributes:
        seeds: with ``until`` those that counted; else those that were declared then.
        words: verdicts, by arm.
        margin: by which they were given; None in the list of an older version.
    """

    seeds: tuple[int, ...]
    words: dict[str, str]
    margin: float | None = None


def read_plan(document: dict[str, Any], where: str) -> SweepPlan | None:
    """Returns the plan in the content of a sweep's list; None where it has none.

    Raises:
        DataError: naming the entry that is not what focalbench writes.
    """
    if document.get("plan") is None:
        return None
    try:
        return SweepPlan.model_validate(document["plan"])
    except ValidationError as fault:
        raise DataError(_words(fault, where, "plan")) from fault


def read_looks(document: dict[str, Any], where: str) -> tuple[Look, ...]:
    """Returns the looks in the content of a sweep's list, the first one first.

    Raises:
        DataError: naming the entry that is not what focalbench writes.
    """
    found = document.get("looks", [])
    if not isinstance(found, list):
        raise DataError(f"{where}: looks: should be a list; {_WAY_OUT}")
    looks = []
    for number, look in enumerate(found):
        try:
            looks.append(Look.model_validate(look))
        except ValidationError as fault:
            raise DataError(_words(fault, where, f"looks.{number}")) from fault
    return tuple(looks)


_WAY_OUT = "it has been changed by hand: undo that, or start over with --fresh (the trials are set aside, not deleted)"


def _words(fault: ValidationError, where: str, entry: str) -> str:
    first = fault.errors()[0]
    key = ".".join(map(str, (entry, *first["loc"])))
    return f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}; {_WAY_OUT}"


def require_same(declared: SweepPlan, wanted: SweepPlan, where: str) -> None:
    """Refuses to change what was declared before the arms were looked at.

    Raises:
        ConfigError: naming the key and both values.
    """
    keys = {"seeds": "seeds or sweep.max_seeds", "looks": "seeds", "baseline": "list (the baseline)"}
    for name in ("until", "margin", "seeds", "looks", "baseline"):
        own, other = getattr(wanted, name), getattr(declared, name)
        if own != other:
            raise ConfigError(
                f"sweep.{keys.get(name, name)}: {_shown(own)}: {where} declares {_shown(other)}, and the arms have "
                "been looked at since: stopping at what one sees is what `until: decided` guards against. Keep to "
                "what was declared, or use another --out or --fresh (the trials are set aside, not deleted)"
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        first = ", ".join(map(str, value[:3]))
        return f"{first}, ... {value[-1]} ({len(value)} in all)" if len(value) > 4 else ", ".join(map(str, value))
    return "none" if value in (None, "") else str(value)
