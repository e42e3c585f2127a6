"""ResNet-8, the image classifier of the MLPerf Tiny benchmark (Banbury et al. 2021)."""

from dataclasses import dataclass

from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, BatchNorm, check_downsample, he_initialize


@dataclass(frozen=True)
class ResNet8Config(BaselineConfig):
    """Everything that determines a `ResNet8`.

    Attributes:
        width: filters of the first of three stages; each stage has twice as many as the one before.
        downsample: the stages that begin with stride 2.
    """

    width: int = 16
    downsample: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"ResNet8: width: expected a positive number of filters; got {self.width}")
        check_downsample("ResNet8", self.downsample, 3, "stages")


class ProjectedBlock(nn.Module):
    """``relu(x' + norm(conv(relu(norm(conv(x))))))``; x' is x, or a 1×1 convolution of x where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm1 = BatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm2 = BatchNorm(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, c', u1/s, u2/s)."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (self.shortcut(x) + y).relu()


class ResNet8(Baseline):
    """ResNet-8 as MLPerf Tiny defines it: the network that microcontrollers are compared with.

    A 3×3 convolution and three blocks of two 3×3 convolutions with 16, 32 and 64 filters; the second and third have
    stride 2 and a 1×1 convolution, without a normalization, as their shortcut. All convolutions have biases.

    Parameters: 78,666 as printed, which counts the 480 running statistics of the normalizations; 78,186 are learned and
    77,706 remain when the normalizations are folded. 12.5M multiply-adds. 3×3 convolutions of stride 2 are centred on
    every second pixel from the first, as the 1×1 ones are; those of the published program on every second from the
    second.

    Args:
        config: a `ResNet8Config`.

    Example:
        >>> import torch
        >>> ResNet8(ResNet8Config())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: ResNet8Config) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(config.channels, config.width, 3, 1, 1)
        self.norm = BatchNorm(config.width)
        self.blocks = nn.ModuleList()
        before = config.width
        for stage in (1, 2, 3):
            width = config.width << (stage - 1)
            self.blocks.append(ProjectedBlock(before, width, 2 if stage in config.downsample else 1))
            before = width
        self.linear = nn.Linear(before, config.classes)
        self.stages = ("blocks.0", "blocks.1", "blocks.2")
        he_initialize(self)

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.norm(self.conv(x)).relu()
        for block in self.blocks:
            x = block(x)
        return self.linear(x.mean((2, 3)))
