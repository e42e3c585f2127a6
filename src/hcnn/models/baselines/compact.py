"""A compact modern network of our own: depthwise convolutions and gated pointwise maps, below 97,530 parameters."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, BatchNorm, check_downsample


@dataclass(frozen=True)
class CompactConfig(BaselineConfig):
    """Everything that determines a `CompactNetwork`.

    Attributes:
        widths: channels of the three stages.
        depths: blocks of the three stages.
        support: of the depthwise convolutions, odd.
        downsample: the stages that begin with a convolution of stride 2.
    """

    recipes: ClassVar[dict[str, str]] = {"fast": "fast_adamw"}

    widths: tuple[int, int, int] = (24, 48, 72)
    depths: tuple[int, int, int] = (3, 4, 2)
    support: int = 5
    downsample: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.widths, *self.depths) < 1:
            raise ValueError(f"CompactNetwork: expected positive widths and depths; got {self.widths}, {self.depths}")
        if self.support < 1 or self.support % 2 == 0:
            raise ValueError(f"CompactNetwork: support: expected an odd support; got {self.support}")
        check_downsample("CompactNetwork", self.downsample, 3, "stages", first=2)  # the first follows a convolution


class GatedBlock(nn.Module):
    """``x + s · W_3 (a · silu(b))`` with (a, b) = W_2 norm(depthwise(x)), s learned per channel from a small start.

    The depthwise convolution mixes space, the two pointwise maps mix channels, and the gate multiplies two linear
    functions of the same pixel, which costs no parameters and stands in for a wider hidden layer.
    """

    def __init__(self, width: int, support: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, support, padding=support // 2, groups=width, bias=False)
        self.norm = BatchNorm(width)
        self.enter = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.leave = nn.Conv2d(width, width, 1, bias=False)
        self.scale = nn.Parameter(torch.full((width,), 0.3))
        nn.init.normal_(self.depthwise.weight, std=1 / support)
        nn.init.normal_(self.enter.weight, std=width**-0.5)
        nn.init.normal_(self.leave.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> the same shape."""
        a, b = self.enter(self.norm(self.depthwise(x))).chunk(2, 1)
        return x + self.scale[:, None, None] * self.leave(a * nn.functional.silu(b))


class CompactNetwork(Baseline):
    """What one would build today with 0.1M parameters; ours, not of a publication.

    A 3×3 convolution, three stages of gated depthwise blocks, normalized 2×2 convolutions of stride 2 between them,
    global averaging, a linear map. For scale: 97,530 parameters are reported to reach 94.4 % on CIFAR-10 with a
    related design; this one stays at or below that size and its accuracy is whatever our own runs show.

    Args:
        config: a `CompactConfig`.

    Example:
        >>> CompactNetwork(CompactConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config, smallest=2 ** len(config.downsample))
        widths = config.widths
        self.conv = nn.Conv2d(config.channels, widths[0], 3, padding=1, bias=False)
        self.groups = nn.ModuleList()
        for stage in (1, 2, 3):
            width = widths[stage - 1]
            layers: list[nn.Module] = []
            if stage > 1:
                before = widths[stage - 2]
                step = 2 if stage in config.downsample else 1
                layers += [BatchNorm(before), nn.Conv2d(before, width, step, step, bias=False)]
            layers += [GatedBlock(width, config.support) for _ in range(config.depths[stage - 1])]
            self.groups.append(nn.Sequential(*layers))
        self.norm = BatchNorm(widths[-1])
        self.linear = nn.Linear(widths[-1], config.classes)
        self.stages = ("groups.0", "groups.1", "groups.2")

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.conv(x)
        for group in self.groups:
            x = group(x)
        return self.linear(self.norm(x).relu().mean((2, 3)))
