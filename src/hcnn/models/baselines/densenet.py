"""DenseNet with bottlenecks and compression (Huang, Liu, van der Maaten, Weinberger 2017)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, BatchNorm, check_downsample, he_initialize


@dataclass(frozen=True)
class DenseNetConfig(BaselineConfig):
    """Everything that determines a `DenseNet`; the defaults are DenseNet-BC-40, k = 12.

    Attributes:
        depth: 6n + 4 layers.
        growth: k, maps that each layer adds.
        downsample: the transitions (1 or 2) that average 2×2 pixels.
    """

    depth: int = 40
    growth: int = 12
    downsample: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"DenseNet: depth: expected 6n + 4 layers, n >= 1; got {self.depth}")
        if self.growth < 1:
            raise ValueError(f"DenseNet: growth: expected a positive number of maps; got {self.growth}")
        check_downsample("DenseNet", self.downsample, 2, "transitions")


class DenseLayer(nn.Module):
    """``[x, conv3(relu(norm(conv1(relu(norm(x))))))]``: a 1×1 bottleneck of 4k maps, then k new ones."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = BatchNorm(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, c + k, u1, u2)."""
        return torch.cat([x, self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())], 1)


class Transition(nn.Module):
    """Half of the maps by a 1×1 convolution, then 2×2 averages."""

    def __init__(self, inputs: int, *, pool: bool) -> None:
        super().__init__()
        self.norm = BatchNorm(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, c/2, u1/2, u2/2)."""
        x = self.conv(self.norm(x).relu())
        return F.avg_pool2d(x, 2) if self.pool else x


class DenseNet(Baseline):
    """DenseNet-BC (Huang et al. 2017, section 3; CIFAR networks of section 4.2), compression 0.5.

    A 3×3 convolution of 2k maps, three dense blocks with transitions between, global averaging, a linear map.

    Parameters of DenseNet-BC-40, k = 12: 176,122, all learned numbers counted. The publication's own table starts at
    depth 100 (0.8M); the 0.18M of depth 40 is what later comparisons print.

    Args:
        config: a `DenseNetConfig`.

    Example:
        >>> DenseNet(DenseNetConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__(config, smallest=2 ** len(config.downsample))
        width = 2 * config.growth
        self.conv = nn.Conv2d(config.channels, width, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for block in (1, 2, 3):
            layers = []
            for _ in range((config.depth - 4) // 6):
                layers.append(DenseLayer(width, config.growth))
                width += config.growth
            self.blocks.append(nn.Sequential(*layers))
            if block < 3:
                self.transitions.append(Transition(width, pool=block in config.downsample))
                width //= 2
        self.norm = BatchNorm(width)
        self.linear = nn.Linear(width, config.classes)
        self.stages = ("blocks.0", "blocks.1", "blocks.2")
        self.stage_ends = (("transitions.0",), ("transitions.1",))
        he_initialize(self)

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.transitions[0](self.blocks[0](self.conv(x)))
        x = self.transitions[1](self.blocks[1](x))
        return self.linear(self.norm(self.blocks[2](x)).relu().mean((2, 3)))
