"""The moving average: what it is, what it equals, that a checkpoint brings it back."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from focalbench.training.average import MovingAverage


class _Calls(TorchDispatchMode):
    """Remembers which operations ran."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.append(func)
        return func(*args, **(kwargs or {}))


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def _disturb(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(1)


def test_it_follows_the_definition_and_counts_are_copied() -> None:
    model = _network()
    average = MovingAverage(model, 0.75)
    expected = None
    for seed in range(4):
        _disturb(model, seed)
        average.update_parameters(model)
        now = model[0].weight.detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    torch.testing.assert_close(average.module[0].weight, expected)
    assert average.module[1].num_batches_tracked == model[1].num_batches_tracked == 4


def test_it_equals_torchs_bit_by_bit_and_fits_its_checkpoints() -> None:
    model = _network()
    ours = MovingAverage(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for seed in range(5):
        _disturb(model, seed)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    for mine, their in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(mine, their)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("updates", [0, 1, 3])
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened(updates: int) -> None:
    model = _network()
    first = MovingAverage(model, 0.5)
    for seed in range(updates):
        _disturb(model, seed)
        first.update_parameters(model)
    second = MovingAverage(_network(), 0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _disturb(model, 9)
    first.update_parameters(model)
    second.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(first.module.buffers(), second.module.buffers(), strict=True))
    assert torch.equal(first.module[0].weight, second.module[0].weight)


def test_an_update_reads_no_value_and_copies_none_elsewhere() -> None:
    model = _network()
    average = MovingAverage(model, 0.9)
    for _ in range(2):  # the first one copies, the others move
        with _Calls() as calls:
            average.update_parameters(model)
        assert not any("_to_copy" in str(name) or "local_scalar" in str(name) for name in calls.found)


def test_its_count_lies_beside_the_model() -> None:
    assert MovingAverage(_network().to("meta"), 0.9).n_averaged.device.type == "meta"
