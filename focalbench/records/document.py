"""JSON documents with known fields, read without trust: whoever wrote them may have been another version or tool."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import ValidationError

from focalbench.storage import read_regular, write_json


class JsonDocument(BaseModel):
    """A JSON object whose fields are all optional: one that is missing or of a wrong kind reads as the field's default.

    Fields that are not known are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, populate_by_name=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _default_for_what_does_not_fit(
        cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        try:
            return check(value)
        except ValidationError:
            return cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)

    @classmethod
    def read(cls, path: Path) -> tuple[Self, str]:
        """Returns the document in ``path``, and what is wrong with the file: then the document is empty.

        A missing file is an empty document and no fault.
        """
        try:
            content = json.loads(read_regular(path))
        except FileNotFoundError:
            return cls(), ""
        except (OSError, ValueError, RecursionError) as fault:
            return cls(), f"{path.name} cannot be read: {first_line(fault)}"
        if not isinstance(content, dict):
            return cls(), f"{path.name} is not a JSON object"
        return cls.model_validate(content), ""

    def write(self, path: Path) -> None:
        """Replaces ``path`` by this document, by the names that its fields have in JSON.

        Raises:
            StorageError: when the folder cannot be written.
        """
        write_json(path, self.entries())

    def entries(self) -> dict[str, Any]:
        """Returns the entries that were given, by their names in JSON, in the order of the fields."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def first_line(fault: Exception) -> str:
    """Returns the first line of what a fault says."""
    reason = getattr(fault, "strerror", None) or str(fault)
    return reason.splitlines()[0] if reason else type(fault).__name__


def as_number(value: Any) -> float | None:
    """Returns ``value`` as a finite float, or None; booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's integers have no largest
        return None
