"""Network in Network: small perceptrons slid over the image, and no linear map at the end (Lin, Chen, Yan 2013)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, check_downsample, initialize_class_maps


@dataclass(frozen=True)
class NetworkInNetworkConfig(BaselineConfig):
    """Everything that determines a `NetworkInNetwork`; the defaults are its authors' CIFAR network.

    Attributes:
        widths: filters of the three layers of each of the three blocks; *classes* replace the last.
        downsample: the blocks that end in pooling (3×3, stride 2).
        dropout: probability after each of the first two blocks.
        second_pool: what the pooling of the second block takes, "max" as in the publication, or "mean" as in its
            authors' later model for Caffe; that of the first takes maxima.
    """

    recipes: ClassVar[dict[str, str]] = {"digits": "digits_muon"}

    widths: tuple[int, ...] = (192, 160, 96, 192, 192, 192, 192, 192)
    downsample: tuple[int, ...] = (1, 2)
    dropout: float = 0.5
    second_pool: Literal["max", "mean"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_downsample("NetworkInNetwork", self.downsample, 2, "blocks")
        if len(self.widths) != 8 or min(self.widths) < 1:
            raise ValueError(f"NetworkInNetwork: widths: expected eight numbers of filters; got {self.widths}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"NetworkInNetwork: dropout: expected a probability in [0, 1); got {self.dropout}")
        if self.second_pool not in ("max", "mean"):
            raise ValueError(f"NetworkInNetwork: second_pool: expected 'max' or 'mean'; got {self.second_pool!r}")


class NetworkInNetwork(Baseline):
    """Network in Network (Lin et al. 2013, sections 3.1, 3.2 and 4.2).

    Three blocks of a 5×5, 5×5 or 3×3 convolution and two of 1×1, each with ReLU and bias; the logits are the means of
    the last maps. The publication gives the principle, maxima over windows after the first two blocks, and figure 2;
    numbers of filters, supports and poolings are those of its authors' configuration for cuda-convnet (192-160-96,
    192-192-192, 192-192-10).

    Parameters: 966,986 for CIFAR-10 and 984,356 for CIFAR-100. The publication prints no count; the HCNN paper's
    0.98M, which it gives for both data sets, is that of the CIFAR-100 network.

    Args:
        config: a `NetworkInNetworkConfig`.

    Example:
        >>> import torch
        >>> NetworkInNetwork(NetworkInNetworkConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: NetworkInNetworkConfig) -> None:
        super().__init__(config, smallest=4)
        widths = [config.channels, *config.widths, config.classes]
        self.blocks = nn.ModuleList()
        for block, support in enumerate((5, 5, 3)):
            layers: list[nn.Module] = []
            for place in range(3):
                inputs, outputs = widths[3 * block + place : 3 * block + place + 2]
                k = support if place == 0 else 1
                layers += [nn.Conv2d(inputs, outputs, k, padding=k // 2), nn.ReLU()]
            self.blocks.append(nn.Sequential(*layers))
        self.drop = nn.Dropout(config.dropout)
        self.stages = ("blocks.0", "blocks.1", "blocks.2")
        initialize_class_maps(self)

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.config.downsample:
                mean = number == 2 and self.config.second_pool == "mean"
                x = F.avg_pool2d(x, 3, 2, 1) if mean else F.max_pool2d(x, 3, 2, 1)
            if number < 3:
                x = self.drop(x)
        return x.mean((2, 3))
