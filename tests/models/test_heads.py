"""The subnets: order of outputs, and the prior in the bias."""

import math

import pytest
import torch

from focalbench.models.heads import Subnet, class_subnet
from focalbench.models.postprocess import class_scores


def test_outputs_run_over_levels_rows_columns_and_anchors():
    """With an identity as its convolution the subnet gives the input's channels, place by place."""
    subnet = Subnet(6, num_convs=0, num_anchors=2, num_outputs=3)
    with torch.no_grad():
        subnet.predict.weight.zero_()
        subnet.predict.weight[range(6), range(6), 1, 1] = 1
    levels = [torch.randn(2, 6, 3, 4), torch.randn(2, 6, 1, 2)]
    found = subnet(levels)
    assert found.shape == (2, (12 + 2) * 2, 3)
    row, column, anchor = 2, 1, 1
    torch.testing.assert_close(found[1, (row * 4 + column) * 2 + anchor], levels[0][1, 3:6, row, column])
    torch.testing.assert_close(found[0, 24 + 1 * 2 + 0], levels[1][0, 0:3, 0, 1])


@pytest.mark.parametrize("prior", [0.01, 0.2])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_the_prior_is_the_first_probability(prior, num_classes):
    """Sigmoid: of each class. Softmax: of all classes together, shared evenly."""
    for activation in ("sigmoid", "softmax"):
        subnet = class_subnet(8, 1, 3, num_classes, activation, prior)
        torch.nn.init.zeros_(subnet.predict.weight)
        scores = class_scores(subnet([torch.randn(1, 8, 2, 2)]), activation)
        assert scores.shape == (1, 12, num_classes)
        expected = prior if activation == "sigmoid" else prior / num_classes
        torch.testing.assert_close(scores, torch.full_like(scores, expected))


def test_without_a_prior_the_bias_is_zero():
    assert class_subnet(8, 1, 3, 4, "sigmoid", None).predict.bias.abs().max() == 0
    assert class_subnet(8, 1, 3, 4, "softmax", None).predict.bias.abs().max() == 0


def test_the_papers_bias():
    bias = class_subnet(8, 1, 3, 4, "sigmoid", 0.01).predict.bias
    torch.testing.assert_close(bias, torch.full_like(bias, -math.log(99)))


def test_sigmoid_and_softmax_share_their_class_weights():
    subnets = []
    for activation in ("sigmoid", "softmax"):
        torch.manual_seed(3)
        subnets.append(class_subnet(8, 2, 3, 4, activation, 0.01))
    sigmoid, softmax = subnets
    for a, b in zip(sigmoid.tower.parameters(), softmax.tower.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(sigmoid.predict.weight.view(3, 4, -1), softmax.predict.weight.view(3, 5, -1)[:, :4])


def wanted_of(levels, num_anchors, pairs):
    """(N, R) bool: one anchor each on the (image, level) ``pairs``."""
    parts = [torch.zeros(len(x), x.shape[2] * x.shape[3] * num_anchors, dtype=torch.bool) for x in levels]
    for image, level in pairs:
        parts[level][image, -1] = True
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "pairs", [[], [(0, 0)], [(2, 1)], [(0, 0), (2, 0), (1, 1)], [(n, m) for n in range(3) for m in (0, 1)]]
)
def test_images_without_a_wanted_anchor_are_left_out_and_no_gradient_misses_them(pairs, dtype):
    torch.manual_seed(0)
    subnet = Subnet(8, 2, num_anchors=3, num_outputs=4)
    levels = [torch.randn(3, 8, *size, dtype=dtype, requires_grad=True) for size in ((6, 4), (3, 2))]
    wanted = wanted_of(levels, 3, pairs)
    found = []
    for asked in (None, wanted):
        for leaf in (*levels, *subnet.parameters()):
            leaf.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = subnet(levels, asked)
        outputs[wanted].float().square().sum().backward()
        found.append((outputs, [leaf.grad for leaf in (*levels, *subnet.parameters())]))
    (dense, all_gradients), (sparse, gradients) = found
    assert (sparse.dtype, sparse.shape) == (dense.dtype, dense.shape)
    torch.testing.assert_close(sparse[wanted], dense[wanted])
    left_out = torch.tensor([(n, m) not in pairs for n in range(3) for m in (0, 1)]).view(3, 2)
    left_out = torch.repeat_interleave(left_out, torch.tensor([72, 18]), dim=1)
    assert sparse[left_out].count_nonzero() == 0 or not pairs
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    for own, expected in zip(gradients[2:], all_gradients[2:], strict=True):  # none is None: decay and momentum go on
        torch.testing.assert_close(own, expected, **tolerance)
    for own, expected in zip(gradients[:2], all_gradients[:2], strict=True):
        torch.testing.assert_close(torch.zeros_like(expected) if own is None else own, expected, **tolerance)
