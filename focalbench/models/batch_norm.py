"""Batch normalisation over the batches of all ranks: several devices then train as one with the whole batch would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from focalbench.ranks import sum_over_ranks, world_size


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Replaces every batch norm in ``model`` by one over all ranks. Parameters, statistics and mode are kept, and what
    timm's batch norm does beside its norm.
    """
    synchronised = _GpuSyncBatchNorm if device.type == "cuda" else CpuSyncBatchNorm
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                norm = synchronised(child.num_features, child.eps, child.momentum)
                norm.weight, norm.bias = child.weight, child.bias
                norm.running_mean, norm.running_var = child.running_mean, child.running_var
                norm.num_batches_tracked = child.num_batches_tracked
                norm.drop, norm.act = getattr(child, "drop", nn.Identity()), getattr(child, "act", nn.Identity())
                setattr(parent, name, norm.train(child.training))


class _GpuSyncBatchNorm(nn.SyncBatchNorm):
    """torch's, and then dropout and activation, which timm's ``BatchNormAct2d`` has inside."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


class CpuSyncBatchNorm(_BatchNorm):
    """As ``_GpuSyncBatchNorm``: torch's own refuses to work without a GPU."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (N, C, ...) by mean and variance of a channel on all ranks; in eval mode by the averages."""
        normalised = super().forward(input) if not self.training or world_size() == 1 else self._over_ranks(input)
        return self.act(self.drop(normalised))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def _over_ranks(self, input: Tensor) -> Tensor:
        x = input.float()
        num_values = sum_over_ranks(torch.tensor(x.numel() / x.shape[1]))
        others = [dim for dim in range(x.dim()) if dim != 1]
        channels = (-1, *[1] * (x.dim() - 2))
        mean = _SumOverRanks.apply(x.sum(others)) / num_values
        centred = x - mean.view(channels)
        variance = _SumOverRanks.apply(centred.square().sum(others)) / num_values
        self._average(mean.detach(), variance.detach() * num_values / (num_values - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(channels) + self.bias.view(channels)).to(input.dtype)

    @torch.no_grad()
    def _average(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Moves the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased_variance, share)


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks. So is its gradient: the loss of every rank depends on the summand of every rank."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0])
