"""A network of 97,530 parameters with 94.4 % on CIFAR-10, the best reported at that size (xvel/cifar10-tiniest)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig


@dataclass(frozen=True)
class TiniestConfig(BaselineConfig):
    """Everything that determines a `TiniestNetwork`.

    Attributes:
        widths: channels of the two stages, multiples of 16.
        depth: blocks of each stage.
        downsample: whether the resolution is halved between the stages.
    """

    recipes: ClassVar[dict[str, str]] = {"fast": "fast_adamw", "digits": "digits_plain"}

    widths: tuple[int, int] = (48, 80)
    depth: int = 3
    downsample: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width < 16 or width % 16 for width in self.widths):
            raise ValueError(f"TiniestNetwork: widths: expected positive multiples of 16; got {self.widths}")
        if self.depth < 1:
            raise ValueError(f"TiniestNetwork: depth: expected a positive number of blocks; got {self.depth}")


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of each pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """(b, c, u1, u2) -> the same shape."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ChannelScale(nn.Module):
    """A learned factor per channel, 1 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> the same shape."""
        return x * self.factor[:, None, None]


class SplitBlock(nn.Module):
    """``s·x + W_2 (φ(a) · b)`` with (a, b) = W_1 norm(split(x)) and φ(a) = a tanh(exp(a)).

    The channels are split into quarters: one passes, one is filtered by 3×3, one by 7×7, and one is averaged over 3×3
    and filtered by 7×7 with dilation 3; the filters are depthwise.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = width // 4
        self.near = nn.Conv2d(quarter, quarter, 3, padding=1, groups=quarter)
        self.middle = nn.Conv2d(quarter, quarter, 7, padding=3, groups=quarter)
        self.far = nn.Conv2d(quarter, quarter, 7, padding=9, dilation=3, groups=quarter)
        self.norm = ChannelNorm(width)
        self.enter = nn.Conv2d(width, 2 * width, 1)
        self.leave = nn.Conv2d(width, width, 1)
        self.scale = ChannelScale(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> the same shape."""
        same, near, middle, far = x.chunk(4, 1)
        # In bfloat16 the weights' gradient of a dilated depthwise convolution is NaN on CPUs (torch 2.13).
        with torch.autocast("cpu", enabled=False):
            far = self.far(F.avg_pool2d(far.to(self.far.weight.dtype), 3, 1, 1))
        mixed = self.enter(self.norm(torch.cat([same, self.near(near), self.middle(middle), far], 1)))
        a, b = mixed.chunk(2, 1)
        return self.scale(x) + self.leave(torch.tanh(torch.exp(a)) * a * b)


class TiniestNetwork(Baseline):
    """Split depthwise convolutions up to 19 pixels wide, gated pointwise maps, layer normalization.

    A 3×3 convolution, three blocks of 48 channels, a 4×4 convolution of stride 2 in 16 groups, three blocks of 80
    channels, global averaging, a linear map. The published program (xvel/cifar10-tiniest on GitHub) reports 94.4 %, the
    mean of five runs; it is not a paper. The network is written here from its description, with PyTorch's default
    initialization, as there.

    Parameters: 97,530, all learned numbers counted. 43.9M multiply-adds.

    Args:
        config: a `TiniestConfig`.

    Example:
        >>> TiniestNetwork(TiniestConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: TiniestConfig) -> None:
        super().__init__(config, smallest=2)
        first, second = config.widths
        self.conv = nn.Conv2d(config.channels, first, 3, padding=1)
        self.norm1 = ChannelNorm(first)
        self.fine = nn.Sequential(*[SplitBlock(first) for _ in range(config.depth)])
        support, stride, padding = (4, 2, 1) if config.downsample else (3, 1, 1)
        self.between = nn.Conv2d(first, second, support, stride, padding, groups=16)
        self.norm2 = ChannelNorm(second)
        self.coarse = nn.Sequential(*[SplitBlock(second) for _ in range(config.depth)])
        self.linear = nn.Linear(second, config.classes)
        self.stages = ("norm1", "fine", "coarse")
        self.stage_ends = ((), ("between", "norm2"))

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.fine(self.norm1(self.conv(x)))
        x = self.coarse(self.norm2(self.between(x)))
        return self.linear(x.mean((2, 3)))
