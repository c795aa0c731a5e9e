"""The class and box subnets that all pyramid levels share (arXiv:1708.02002, sec. 4)."""

import math

import torch
from torch import Tensor, nn


class Subnet(nn.Module):
    """``num_convs`` 3x3 convolutions with ReLU, then one to ``num_anchors * num_outputs`` channels."""

    def __init__(self, channels: int, num_convs: int, num_anchors: int, num_outputs: int) -> None:
        super().__init__()
        tower: list[nn.Module] = []
        for _ in range(num_convs):
            tower += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        self.tower = nn.Sequential(*tower)
        self.predict = nn.Conv2d(channels, num_anchors * num_outputs, 3, padding=1)
        self.num_outputs = num_outputs
        for module in self.tower:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.get_parameter("bias"))
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.get_parameter("bias"))

    def forward(self, levels: list[Tensor], wanted: Tensor | None = None) -> Tensor:
        """Returns (N, R, num_outputs): levels in order, then rows, columns and the anchors of a cell.

        Args:
            wanted: (N, R) bool, the anchors whose outputs are looked at. An image is left out, its outputs 0, on each
                level where it has none: no gradient would come back from there. None: all.
        """
        # In compiled code each other number of images would be compiled anew.
        if wanted is None or torch.compiler.is_compiling():
            return torch.cat([self._outputs(x) for x in levels], dim=1)
        per_cell = self.predict.out_channels // self.num_outputs
        parts = wanted.split([x.shape[2] * x.shape[3] * per_cell for x in levels], dim=1)
        images = [part.any(dim=1) for part in parts]
        if not any(some.any() for some in images):
            # One all the same: weights without a gradient would miss their decay and momentum, and stop other ranks.
            images[-1][0] = True
        return torch.cat([self._outputs_of(x, some) for x, some in zip(levels, images, strict=True)], dim=1)

    def _outputs(self, x: Tensor) -> Tensor:
        """(N, R of the level, num_outputs)."""
        # shape[0], not len(): an exported network keeps its number of images open.
        return self.predict(self.tower(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.num_outputs)

    def _outputs_of(self, x: Tensor, images: Tensor) -> Tensor:
        """``_outputs``, 0 where ``images`` (N,) is false."""
        if images.all():
            return self._outputs(x)
        if not images.any():
            num_anchors = x.shape[2] * x.shape[3] * self.predict.out_channels // self.num_outputs
            return x.new_zeros(len(x), num_anchors, self.num_outputs)
        rows = images.nonzero().squeeze(1)
        outputs = self._outputs(x.index_select(0, rows))
        return outputs.new_zeros(len(x), *outputs.shape[1:]).index_copy(0, rows, outputs)


def class_subnet(
    channels: int, num_convs: int, num_anchors: int, num_classes: int, activation: str, prior_prob: float | None
) -> Subnet:
    """Returns the class subnet with its bias at the prior: objects start rare (arXiv:1708.02002, sec. 3.3).

    With softmax a background logit is added last. The weights of the K classes are drawn first and the background's
    after them, so that sigmoid and softmax models of one seed start from the same class weights.

    Args:
        activation: sigmoid | softmax.
        prior_prob: probability of an object at the start, in (0, 1), or None for zero biases. Sigmoid: of each class;
            softmax: of all classes together.
    """
    subnet = Subnet(channels, num_convs, num_anchors, num_classes)
    bias = 0.0 if prior_prob is None else -math.log((1 - prior_prob) / prior_prob)
    if activation == "sigmoid":
        nn.init.constant_(subnet.predict.get_parameter("bias"), bias)
        return subnet
    class_weight = subnet.predict.weight.detach().view(num_anchors, num_classes, channels, 3, 3)
    background_weight = torch.empty(num_anchors, 1, channels, 3, 3).normal_(std=0.01)
    subnet.predict = nn.Conv2d(channels, num_anchors * (num_classes + 1), 3, padding=1)
    subnet.num_outputs = num_classes + 1
    background_bias = 0.0 if prior_prob is None else math.log(num_classes) - bias
    with torch.no_grad():
        subnet.predict.weight.copy_(torch.cat((class_weight, background_weight), dim=1).flatten(0, 1))
        biases = subnet.predict.get_parameter("bias").zero_()
        biases.view(num_anchors, -1)[:, -1] = background_bias
    return subnet
