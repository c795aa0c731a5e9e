"""Darknet-19, the passthrough's reorganisation, and a small trunk of the same make (arXiv:1612.08242, sec. 3).

The layer list and its order are those of darknet's yolov2-voc.cfg: weight files hold the layers in that order.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

# Widths and kernels up to the passthrough (stride 16), and from there to stride 32; "pool" halves the resolution.
_DARKNET19_FINE = (
    (32, 3), "pool", (64, 3), "pool", (128, 3), (64, 1), (128, 3), "pool", (256, 3), (128, 1), (256, 3), "pool",
    (512, 3), (256, 1), (512, 3), (256, 1), (512, 3),
)  # fmt: skip
_DARKNET19_COARSE = ("pool", (1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3))
# One level less, so that the 128-pixel canvas of a quick trial still has 8 x 8 cells.
_TINY_FINE = ((16, 3), "pool", (32, 3), "pool", (64, 3), "pool", (128, 3), (64, 1), (128, 3))
_TINY_COARSE = ("pool", (256, 3), (128, 1), (256, 3))

Layout = tuple[tuple[int, int] | str, ...]


class ConvBlock(nn.Sequential):
    """darknet's ``[convolutional]`` with ``batch_normalize=1``: convolution, batch norm, leaky ReLU of slope 0.1.

    Batch norm moves its statistics by 1 % a batch, as darknet does; darknet's GPU code adds 1e-5 to the variance, as
    here.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, momentum: float = 0.01) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, a=0.1, nonlinearity="leaky_relu")
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv"] = conv
        parts["norm"] = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=momentum)
        parts["activation"] = nn.LeakyReLU(0.1, inplace=True)
        super().__init__(parts)
        self.width = out_channels


class DarknetTrunk(nn.Module):
    """Convolutions and pools in a row, with the feature map before the last pool kept for the passthrough.

    Attributes:
        channels: width of the fine map (half the coarse one's stride) and of the coarse map.
        stride: pixels per cell of the coarse map.
        momentum: of the batch norms.
        takes_unit_range: its images are in 0..1, the range that darknet's networks are trained on.
    """

    takes_unit_range = True

    def __init__(self, fine: Layout, coarse: Layout, *, momentum: float) -> None:
        super().__init__()
        self.fine, fine_channels = _stack(3, fine, momentum)
        self.coarse, coarse_channels = _stack(fine_channels, coarse, momentum)
        self.channels, self.momentum = (fine_channels, coarse_channels), momentum
        self.stride = 2 ** (fine + coarse).count("pool")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the fine map (N, channels[0], 2h, 2w) and the coarse map (N, channels[1], h, w), h = H / stride."""
        fine = self.fine(images)
        return fine, self.coarse(fine)


def _stack(in_channels: int, layout: Layout, momentum: float) -> tuple[nn.Sequential, int]:
    """The layers of ``layout`` and the width of the last one."""
    layers: list[nn.Module] = []
    for entry in layout:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers.append(ConvBlock(in_channels, *entry, momentum=momentum))
            in_channels = entry[0]
    return nn.Sequential(*layers), in_channels


def darknet19() -> DarknetTrunk:
    """Returns Darknet-19 without its classifier: 18 convolutions, widths 512 (stride 16) and 1024 (stride 32)."""
    return DarknetTrunk(_DARKNET19_FINE, _DARKNET19_COARSE, momentum=0.01)


def tiny_darknet() -> DarknetTrunk:
    """Returns a trunk of the same make for a CPU: 9 convolutions, widths 128 (stride 8) and 256 (stride 16).

    Its batch norm moves by 10 % a batch: short trainings have no time for darknet's 1 %.
    """
    return DarknetTrunk(_TINY_FINE, _TINY_COARSE, momentum=0.1)


def reorganise(x: Tensor) -> Tensor:
    """Returns ``x`` at half the resolution with four times the channels, in darknet's order.

    This is NOT space-to-depth. darknet's ``reorg`` layer reads the memory of the (C, H, W) input as if it were a (C/4,
    2H, 2W) image and takes that one apart in 2 x 2 blocks. The network learns around it, so it does no harm, but
    published weights need it.

    Args:
        x: (N, C, H, W), C divisible by 4, H and W by 2.

    Returns:
        (N, 4C, H / 2, W / 2).
    """
    num, channels, height, width = x.shape
    blocks = x.reshape(num, channels // 4, height, 2, width, 2)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(num, 4 * channels, height // 2, width // 2)
