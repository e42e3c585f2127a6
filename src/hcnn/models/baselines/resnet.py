"""ResNet for CIFAR with parameter-free shortcuts (He, Zhang, Ren, Sun 2016)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, BatchNorm, check_downsample, he_initialize


@dataclass(frozen=True)
class ResNetConfig(BaselineConfig):
    """Everything that determines a `ResNet`; the defaults are ResNet-20.

    Attributes:
        depth: 6n + 2 layers.
        width: filters of the first of three stages; each stage has twice as many as the one before.
        downsample: the stages whose first block has stride 2.
    """

    depth: int = 20
    width: int = 16
    downsample: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"ResNet: depth: expected 6n + 2 layers, n >= 1; got {self.depth}")
        if self.width < 1:
            raise ValueError(f"ResNet: width: expected a positive number of filters; got {self.width}")
        check_downsample("ResNet", self.downsample, 3, "stages")


class ResidualBlock(nn.Module):
    """``relu(x' + norm(conv(relu(norm(conv(x))))))``, with x' = x, subsampled and padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = BatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = BatchNorm(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, c', u1/s, u2/s)."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        short = x[:, :, :: self.stride, :: self.stride]
        return (y + F.pad(short, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))).relu()


class ResNet(Baseline):
    """ResNet-20 (He et al. 2016, section 4.2 and table 6), with the identity shortcuts of option A.

    A 3×3 convolution, three stages of n blocks with 16, 32 and 64 filters, global averaging, a linear map.

    Parameters: 269,722, printed as 0.27M; all learned numbers counted (convolutions, normalizations, linear map).

    Args:
        config: a `ResNetConfig`.

    Example:
        >>> import torch
        >>> ResNet(ResNetConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        widths = [config.width, config.width, 2 * config.width, 4 * config.width]
        self.conv = nn.Conv2d(config.channels, config.width, 3, 1, 1, bias=False)
        self.norm = BatchNorm(config.width)
        self.groups = nn.ModuleList()
        for stage in (1, 2, 3):
            blocks = []
            for n in range((config.depth - 2) // 6):
                step = 2 if n == 0 and stage in config.downsample else 1
                blocks.append(ResidualBlock(widths[stage - (n == 0)], widths[stage], step))
            self.groups.append(nn.Sequential(*blocks))
        self.linear = nn.Linear(widths[-1], config.classes)
        self.stages = ("groups.0", "groups.1", "groups.2")
        he_initialize(self)

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.norm(self.conv(x)).relu()
        for group in self.groups:
            x = group(x)
        return self.linear(x.mean((2, 3)))
