"""Wide residual networks (Zagoruyko, Komodakis 2016): the WRN student of attention transfer, and its teachers."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, BatchNorm, check_downsample, he_initialize

MakeConv = Callable[[int, int, int], nn.Module]  # inputs, outputs, stride -> a 3×3 convolution


@dataclass(frozen=True)
class WideResNetConfig(BaselineConfig):
    """Everything that determines a `WideResNet`; the defaults are WRN-16-1.

    Attributes:
        depth: 6n + 4 layers.
        width: the factor k; the three groups have 16k, 32k and 64k filters.
        downsample: the groups whose first block has stride 2.
    """

    depth: int = 16
    width: int = 1
    downsample: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wide(self.depth, self.width, self.downsample)


def check_wide(depth: int, width: int, downsample: tuple[int, ...]) -> None:
    """Refuse what is not a wide residual network.

    Raises:
        ValueError: naming the field, what was expected and what came.
    """
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"WideResNet: depth: expected 6n + 4 layers, n >= 1; got {depth}")
    if width < 1:
        raise ValueError(f"WideResNet: width: expected a factor of at least 1; got {width}")
    check_downsample("WideResNet", downsample, 3, "groups")


class WideBlock(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))``; the first x passes a 1×1 convolution where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, conv: MakeConv) -> None:
        super().__init__()
        self.norm1 = BatchNorm(inputs)
        self.conv1 = conv(inputs, outputs, stride)
        self.norm2 = BatchNorm(outputs)
        self.conv2 = conv(outputs, outputs, 1)
        changes = inputs != outputs or stride != 1
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, c', u1/s, u2/s)."""
        y = self.norm1(x).relu()
        short = x if self.short is None else self.short(y)
        return short + self.conv2(self.norm2(self.conv1(y)).relu())


class WideResNet(Baseline):
    """WRN-depth-width (Zagoruyko and Komodakis 2016, "Wide Residual Networks", table 1; no dropout).

    Parameters, all learned numbers counted: WRN-16-1 175,066 (0.2M), WRN-16-2 691,674 (0.7M), WRN-40-1 563,930
    (0.6M), as the attention transfer paper prints them. The HCNN paper's 0.17M are the 174,138 without the scales
    and shifts of the normalizations.

    The HCNN paper's two accuracies of its "WRN-student" (91.23 in table 1, 93.42 in the text) are both of table 1 of
    Zagoruyko and Komodakis 2017 ("Paying More Attention to Attention", CIFAR-10, median of 5 runs, errors in %), and
    neither is of a student that was taught:

    ===========  ===========  =======  ====  ====  =====  =======
    student      teacher      student  AT    KD    AT+KD  teacher
    ===========  ===========  =======  ====  ====  =====  =======
    WRN-16-1     WRN-16-2     8.77     7.93  7.41  7.51   6.31
    WRN-16-1     WRN-40-1     8.77     8.25  8.39  8.01   6.58
    ===========  ===========  =======  ====  ====  =====  =======

    91.23 is WRN-16-1 trained alone; 93.42 = 100 - 6.58 is WRN-40-1, *the teacher* of 0.6M. Taught by it with attention
    transfer the student reaches 91.75, with soft targets too 91.99.

    Args:
        config: a `WideResNetConfig` (or one with the same fields).
        conv: makes the 3×3 convolutions of the blocks.

    Example:
        >>> import torch
        >>> WideResNet(WideResNetConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: WideResNetConfig, conv: MakeConv | None = None) -> None:
        super().__init__(config)
        conv = conv or (lambda inputs, outputs, stride: nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
        widths = [16, 16 * config.width, 32 * config.width, 64 * config.width]
        self.conv = nn.Conv2d(config.channels, 16, 3, 1, 1, bias=False)
        self.groups = nn.ModuleList()
        for group in (1, 2, 3):
            blocks = []
            for n in range((config.depth - 4) // 6):
                step = 2 if n == 0 and group in config.downsample else 1
                blocks.append(WideBlock(widths[group - (n == 0)], widths[group], step, conv))
            self.groups.append(nn.Sequential(*blocks))
        self.norm = BatchNorm(widths[-1])
        self.linear = nn.Linear(widths[-1], config.classes)
        self.stages = ("groups.0", "groups.1", "groups.2")
        he_initialize(self)

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.conv(x)
        for group in self.groups:
            x = group(x)
        return self.linear(self.norm(x).relu().mean((2, 3)))
