"""Batch norm over ranks: what replaces a layer does the same on one rank."""

import pytest
import torch
from torch import nn

from focalbench.models.batch_norm import synchronise_batch_norm


class NormAndReLU(nn.BatchNorm2d):
    """Batch norm with its activation inside, as timm's ``BatchNormAct2d``."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.BatchNorm2d, (4, 3, 5, 6)), (NormAndReLU, (4, 3, 5, 6)), (nn.BatchNorm1d, (4, 3, 7))]
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])  # the class for a GPU works on a CPU too where there is one rank
def test_a_replaced_layer_normalises_as_before(layer, shape, device):
    torch.manual_seed(0)
    model, x = nn.Sequential(layer(3)), torch.randn(shape)
    expected = nn.Sequential(layer(3))
    synchronise_batch_norm(model, torch.device(device))
    assert type(model[0]) is not layer
    torch.testing.assert_close(model(x), expected(x))
    torch.testing.assert_close(model.eval()(x), expected.eval()(x))
    assert model.state_dict().keys() == expected.state_dict().keys()


def test_the_sum_over_ranks_is_batch_norm_where_there_is_one(monkeypatch):
    model = nn.Sequential(NormAndReLU(3), nn.Conv2d(3, 3, 1), nn.Flatten(2), nn.BatchNorm1d(3))
    x = torch.randn(4, 3, 5, 6)
    expected = model(x)
    synchronise_batch_norm(model, torch.device("cpu"))
    monkeypatch.setattr("focalbench.models.batch_norm.world_size", lambda: 2)
    torch.testing.assert_close(model(x), expected)
