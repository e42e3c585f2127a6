"""All-CNN-C: convolutions only, strides in place of pooling (Springenberg, Dosovitskiy, Brox, Riedmiller 2014)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hcnn.models.baselines.blocks import Baseline, BaselineConfig, check_downsample, initialize_class_maps


@dataclass(frozen=True)
class AllCNNConfig(BaselineConfig):
    """Everything that determines an `AllCNN`; the defaults are All-CNN-C.

    Attributes:
        width: filters of layers 1 to 3; the later ones have twice as many.
        downsample: the layers with stride 2.
        dropout: probabilities at the input, and after each layer with stride 2.
    """

    recipes: ClassVar[dict[str, str]] = {"digits": "digits_muon"}

    width: int = 96
    downsample: tuple[int, ...] = (3, 6)
    dropout: tuple[float, float] = (0.2, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"AllCNN: width: expected a positive number of filters; got {self.width}")
        check_downsample("AllCNN", self.downsample, 6, "layers")
        if any(not 0 <= p < 1 for p in self.dropout):
            raise ValueError(f"AllCNN: dropout: expected two probabilities in [0, 1); got {self.dropout}")


class AllCNN(Baseline):
    """All-CNN-C (Springenberg et al. 2014, table 1 model C with the replacement of table 2, right column).

    3×3 of 96, 96, 96/2, 192, 192, 192/2, 192 filters, then 1×1 of 192 and of *classes*, all with ReLU and bias; the
    logits are the means of the last maps. The seventh layer is not padded ("global averaging over 6×6"). Training as
    in section 3.1: dropout of 20 % at the input and 50 % after each reduction.

    Parameters: 1,369,738 with biases. The publication prints both "≈ 1.4M" (beside the model in table 3) and "1.3M"
    (in the comparison of table 4, which the HCNN paper quotes): the first rounds this number, the second cuts it.

    Args:
        config: an `AllCNNConfig`.

    Example:
        >>> import torch
        >>> AllCNN(AllCNNConfig())(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: AllCNNConfig) -> None:
        super().__init__(config, smallest=2 ** len(config.downsample) * 2 + 1)
        w = config.width
        widths = [config.channels, w, w, w, 2 * w, 2 * w, 2 * w, 2 * w, 2 * w, config.classes]
        self.layers = nn.ModuleList()
        for j in range(1, 10):
            support = 3 if j < 8 else 1
            step = 2 if j in config.downsample else 1
            self.layers.append(nn.Conv2d(widths[j - 1], widths[j], support, step, padding=int(j < 7)))
        self.drop_input, self.drop = (nn.Dropout(p) for p in config.dropout)
        self.stages = tuple(f"layers.{j}" for j in range(8))
        initialize_class_maps(self)

    def classify(self, x: Tensor) -> Tensor:
        """(b, c, u1, u2) -> (b, classes)."""
        x = self.drop_input(x)
        for j, layer in enumerate(self.layers, start=1):
            x = layer(x).relu()
            if j in self.config.downsample:
                x = self.drop(x)
        return x.mean((2, 3))
