"""Batch normalisation over the batches of all ranks: several devices then train as one with the whole batch would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from focalbench.ranks import sum_over_ranks, world_size


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Replaces every trained batch norm in ``model`` by one over all ranks, its parameters and statistics kept."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                norm = CpuSyncBatchNorm(child.num_features, child.eps, child.momentum)
                norm.weight, norm.bias = child.weight, child.bias
                norm.running_mean, norm.running_var = child.running_mean, child.running_var
                norm.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, norm.train(child.training))


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """torch's ``SyncBatchNorm`` refuses to work without a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (N, C, H, W) by mean and variance over N, H, W and all ranks; in eval mode by the averages."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = input.float()
        num_values = sum_over_ranks(torch.tensor(x.numel() / x.shape[1]))
        mean = _SumOverRanks.apply(x.sum((0, 2, 3))) / num_values
        centred = x - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / num_values
        self._average(mean.detach(), variance.detach() * num_values / (num_values - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

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
