"""What RetinaNet asks of the network below its pyramid: three maps, first weights, and which of its stages learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from focalbench.errors import ConfigError


class FeatureExtractor(nn.Module, ABC):
    """A network from images to the feature maps C3, C4 and C5, of strides 8, 16 and 32.

    Attributes:
        channels: width of C3, C4 and C5.
        num_stages: parts, each behind the other, that :meth:`freeze` counts.
    """

    strides = (8, 16, 32)
    channels: tuple[int, int, int]
    num_stages: int

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns C3, C4, C5: (N, channels[i], ceil(H / stride), ceil(W / stride)) for (N, 3, H, W)."""

    @abstractmethod
    def imagenet_state(self, name: str) -> dict[str, Tensor]:
        """Returns the published ImageNet weights of the backbone ``name``, a classifier's or this network's.

        Raises:
            ConfigError: where there are none.
            DataError: when they cannot be had.
        """

    @abstractmethod
    def adapted(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Returns a classifier's ``state`` under the names that it has here, without the classifier.

        Raises:
            DataError: naming ``source``, when it cannot be of such a classifier.
        """

    @abstractmethod
    def first_parameters(self, num_stages: int) -> Iterable[nn.Parameter]:
        """Returns the parameters of the first ``num_stages`` stages and of all that lies before them."""

    def freeze(self, trainable_stages: int | None) -> None:
        """Lets only the last ``trainable_stages`` stages learn; None: everything.

        What lies before takes no gradient, so that nothing of it is kept for the backward pass, and stays as in
        evaluation: see :meth:`train`.

        Raises:
            ConfigError: when there are not as many stages.
        """
        if trainable_stages is None:
            return
        if trainable_stages > self.num_stages:
            raise ConfigError(
                f"model.trainable_stages: {trainable_stages}: this backbone has {self.num_stages} stages; null "
                "trains all of it"
            )
        for parameter in self.first_parameters(self.num_stages - trainable_stages):
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Sets the mode of every module but those whose parameters are all frozen, which stay in evaluation mode: the
        statistics of their batch norm neither move nor depend on the batch.
        """
        super().train(mode)
        for module in self.modules() if mode else ():
            learns = [parameter.requires_grad for parameter in module.parameters()]
            if learns and not any(learns):
                module.eval()
        return self
