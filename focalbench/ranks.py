"""Ranks: the processes that train one trial together, each on a device of its own.

Mostly there is one, and then nothing here costs anything or loads more of torch. With several, every rank calls these
functions in the same order; the first one (rank 0) alone writes, logs and scores, within :func:`alone`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")

# A rank that died is noticed by its launcher at once; this is for one that hangs. The first rank may be alone at work
# for minutes: it scores an evaluation, or a cache is built.
_TIMEOUT = timedelta(minutes=30)
_state = {"alone": False}


@contextmanager
def joined(device_type: str) -> Iterator[None]:
    """Within the block this process is one of the ranks that torchrun's environment variables describe.

    Args:
        device_type: cpu, or cuda, where NCCL carries what lies on GPUs and gloo what does not.
    """
    dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Within the block there is one rank, this one: for what the others do not take part in."""
    before, _state["alone"] = _state["alone"], True
    try:
        yield
    finally:
        _state["alone"] = before


def world_size() -> int:
    """Returns the number of ranks."""
    if _state["alone"] or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Returns the number of this rank, 0-based."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(value: Tensor) -> Tensor:
    """Returns the sum of a tensor that every rank has in the same shape; without gradient."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the means of scalars, float32, in one exchange; without gradient."""
    if world_size() == 1:
        return dict(values)
    together = torch.stack([value.detach().float() for value in values.values()])
    return dict(zip(values, sum_over_ranks(together) / world_size(), strict=True))


def any_rank(*flags: bool) -> list[bool]:
    """For each flag whether it is set on any rank, so that all decide alike; no GPU is waited for."""
    if world_size() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [bool(flag) for flag in found.tolist()]


def from_first(value: T) -> T:
    """Returns what the first rank passed, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def gather(value: T) -> list[T]:
    """Returns what each rank passed, in their order, on the first one; elsewhere only what this rank passed."""
    if world_size() == 1:
        return [value]
    everyone: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, everyone)
    return everyone if everyone is not None else [value]
