"""FitNet 4, a thin and deep maxout network, and its wide teacher (Romero et al. 2014; Goodfellow et al. 2013)."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, check_downsample


class Maxout(nn.Module):
    """The largest of several affine maps per output (Goodfellow et al. 2013): convolutional, or of a whole vector.

    Weights start with variance 1 / fan-in: the second moment of the larger of two independent normal values is that
    of each, so two pieces keep the scale through any number of layers.

    Args:
        affine: a convolution or linear map with pieces · outputs outputs.
        pieces: maps per output.
    """

    def __init__(self, affine: nn.Conv2d | nn.Linear, pieces: int) -> None:
        super().__init__()
        assert affine.bias is not None
        nn.init.normal_(affine.weight, std=math.prod(affine.weight.shape[1:]) ** -0.5)
        nn.init.zeros_(affine.bias)
        self.affine, self.pieces = affine, pieces

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *u) -> (b, outputs, *u')."""
        return self.affine(x).unflatten(1, (-1, self.pieces)).amax(2)


@dataclass(frozen=True)
class FitNetConfig(BaselineConfig):
    """Everything that determines a `FitNet`; the defaults are FitNet 4.

    Attributes:
        widths: maxout units of each convolutional layer.
        downsample: the layers followed by 2×2 max-pooling; after the last, the maximum over the whole map is taken.
        pieces: linear pieces per unit.
        hidden: maxout units of the fully connected layer.
    """

    recipes: ClassVar[dict[str, str]] = {"fast": "fast_plain", "digits": "digits_plain"}

    widths: tuple[int, ...] = (32, 32, 32, 48, 48, 80, 80, 80, 80, 80, 80, 128, 128, 128, 128, 128, 128)
    downsample: tuple[int, ...] = (5, 11)
    pieces: int = 2
    hidden: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_downsample("FitNet", self.downsample, len(self.widths), "layers")
        if not self.widths or min(*self.widths, self.pieces, self.hidden) < 1:
            raise ValueError(f"FitNet: expected positive widths, pieces and hidden units; got {self}")


class FitNet(Baseline):
    """FitNet 4 (Romero et al. 2014, section 4.2, table 5, and table 7 of the appendix).

    17 convolutional maxout layers of 3×3, a fully connected maxout layer and a linear map; no normalization, which is
    why such a depth needed hints. Hint: layer 11 (``layers.10``, with its pooling) from layer 2 of the teacher; soft
    targets at temperature 3, weighted from 4 down to 1.

    Parameters: 2,548,602 with biases, 2,544,712 without; printed "~2.5M". Two pieces everywhere and no biases give
    this figure and those of table 5 for FitNet 1 and 2 to their last digit (249,576 and 861,928), and its "~382M"
    multiplications; the published configuration file has five pieces in the fully connected layer, which would be
    2.7M.

    Args:
        config: a `FitNetConfig`.

    Example:
        >>> import torch
        >>> FitNet(FitNetConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: FitNetConfig) -> None:
        super().__init__(config, smallest=2 ** len(config.downsample))
        widths = (config.channels, *config.widths)
        self.layers = nn.ModuleList()
        for j, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layer = Maxout(nn.Conv2d(inputs, outputs * config.pieces, 3, padding=1), config.pieces)
            self.layers.append(nn.Sequential(layer, nn.MaxPool2d(2)) if j in config.downsample else layer)
        self.hidden = Maxout(nn.Linear(widths[-1], config.hidden * config.pieces), config.pieces)
        self.linear = nn.Linear(config.hidden, config.classes)
        nn.init.normal_(self.linear.weight, std=config.hidden**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.stages = tuple(f"layers.{j}" for j in range(len(config.widths)))

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        for layer in self.layers:
            x = layer(x)
        return self.linear(self.hidden(x.amax((2, 3))))


@dataclass(frozen=True)
class MaxoutConfig(BaselineConfig):
    """Everything that determines a `MaxoutNetwork`; the defaults are the CIFAR teacher of FitNets.

    Attributes:
        input_side: side of the images, which fixes the size of the fully connected layer.
        widths: units of the three convolutional layers.
        supports: their filter supports.
        paddings: zeros around their inputs.
        pools: supports of the max-pooling after each, with stride 2.
        pieces: linear pieces per unit.
        hidden: units of the fully connected layer.
    """

    recipes: ClassVar[dict[str, str]] = {"fast": "fast_plain", "digits": "digits_plain"}

    input_side: int = 32
    widths: tuple[int, int, int] = (96, 192, 192)
    supports: tuple[int, int, int] = (8, 8, 5)
    paddings: tuple[int, int, int] = (4, 3, 3)
    pools: tuple[int, int, int] = (4, 4, 2)
    pieces: int = 2
    hidden: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.widths, self.pieces, self.hidden) < 1:
            raise ValueError(f"MaxoutNetwork: expected positive widths, pieces and hidden units; got {self}")
        if any(side < 1 for side in self.sides()):
            raise ValueError(
                f"MaxoutNetwork: images of {self.input_side}x{self.input_side} are too small for supports "
                f"{self.supports}, paddings {self.paddings} and pools {self.pools}: the sides after each layer are "
                f"{self.sides()}"
            )

    def sides(self) -> list[int]:
        """Sides of the maps after each layer's pooling, which covers the border."""
        side, found = self.input_side, []
        for support, padding, pool in zip(self.supports, self.paddings, self.pools, strict=True):
            side += 2 * padding - support + 1
            pooled = -((pool - side) // 2) + 1 if side >= pool else 0
            side = pooled - (2 * (pooled - 1) >= side)  # the last window begins within the map
            found.append(side)
        return found


class MaxoutNetwork(Baseline):
    """The teacher of FitNet: the maxout network of Goodfellow et al. 2013, section 4.2.

    Three convolutional maxout layers (8×8 of 96, 8×8 of 192, 5×5 of 192 units), each with overlapping max-pooling, a
    fully connected maxout layer of 500 units, a linear map.

    Parameters: 9,046,330 with biases, 9,044,360 without; printed "~9M" (Romero et al., table 5). Supports, paddings and
    poolings are those of the authors' CIFAR-10 configuration, with two pieces in the fully connected layer: together
    they give the "~725M" multiplications of the same table.

    Args:
        config: a `MaxoutConfig`.

    Example:
        >>> import torch
        >>> MaxoutNetwork(MaxoutConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: MaxoutConfig) -> None:
        super().__init__(config)
        widths = (config.channels, *config.widths)
        self.layers = nn.ModuleList()
        for index, (support, padding, pool) in enumerate(
            zip(config.supports, config.paddings, config.pools, strict=True)
        ):
            conv = nn.Conv2d(widths[index], widths[index + 1] * config.pieces, support, padding=padding)
            pooling = nn.MaxPool2d(pool, 2, ceil_mode=True)
            self.layers.append(nn.Sequential(Maxout(conv, config.pieces), pooling))
        inputs = config.widths[-1] * config.sides()[-1] ** 2
        self.hidden = Maxout(nn.Linear(inputs, config.hidden * config.pieces), config.pieces)
        self.linear = nn.Linear(config.hidden, config.classes)
        nn.init.normal_(self.linear.weight, std=config.hidden**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.stages = ("layers.0", "layers.1", "layers.2")

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        side = self.config.input_side
        if x.shape[2:] != (side, side):
            raise ValueError(
                f"MaxoutNetwork: expected images of {side}x{side}, as input_side says; got {x.shape[2]}x{x.shape[3]}"
            )
        for layer in self.layers:
            x = layer(x)
        return self.linear(self.hidden(x.flatten(1)))
