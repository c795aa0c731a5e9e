"""Triton's kernels for tensors on a GPU: each module of them stands beside the code that it replaces there."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


@cache
def triton_kernels(module: str) -> ModuleType | None:
    """Returns the module of the dotted name ``module``, loaded when first asked for; None where Triton is missing."""
    return import_module(module) if find_spec("triton") else None
