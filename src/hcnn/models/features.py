"""A network as a backbone: the arrays x_j at several depths, with their strides and channel counts."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from hcnn.models.attribute_network import AttributeNetwork


class FeatureExtractor(nn.Module):
    """The arrays of a network at several depths, attributes flattened to channels, as detection and segmentation want.

    Args:
        model: an attribute network; its layers are used, not copied.
        depths: which x_j to give, 1 … J-1; by default the last before each spatial stride, and the last before the
            class layer.

    Attributes:
        feature_info: for each depth a dict with "module" (path in the network), "depth", "reduction" (product of the
            spatial strides so far) and "num_chs" (channels of the flattened array).

    Shapes:
        x (b, channels, *u) -> a list of (b, c, *u'), one for each depth.

    Raises:
        ValueError: if it is not an attribute network, or a depth does not exist.

    Example:
        >>> import torch
        >>> from hcnn import create_model
        >>> features = create_model("hcnn_small_cifar10", features_only=True)
        >>> [(one["depth"], one["reduction"], one["num_chs"]) for one in features.feature_info]
        [(4, 1, 64), (8, 2, 64), (10, 4, 64)]
        >>> [tuple(one.shape) for one in features(torch.randn(2, 3, 32, 32))]
        [(2, 64, 32, 32), (2, 64, 16, 16), (2, 64, 8, 8)]

    """

    def __init__(self, model: AttributeNetwork, depths: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(model, AttributeNetwork):
            raise ValueError(f"features: expected an attribute network; got a {type(model).__name__}")
        self.model = model
        strides = [_spatial_stride(layer, model.config.spatial_axes) for layer in model.layers]
        last = len(model.layers) - 1
        if depths is None:
            depths = [j for j in range(1, last) if strides[j] > 1] + [last]
        known = range(1, len(model.layers) + 1)
        if not isinstance(depths, Collection) or not depths or any(j not in known for j in depths):
            raise ValueError(f"features: expected depths from 1 to {len(model.layers)}; got {depths!r}")
        self.depths = tuple(sorted(set(depths)))
        self.feature_info: list[dict[str, Any]] = [
            {
                "module": f"layers.{j - 1}",
                "depth": j,
                "reduction": math.prod(strides[:j]),
                "num_chs": math.prod(model.attribute_sizes[j - 1]),
            }
            for j in self.depths
        ]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The arrays of a batch of standardized images."""
        arrays = self.model.first_arrays(x, self.depths[-1])
        found = (arrays[j].values for j in self.depths)
        return [one.flatten(1, one.ndim - 1 - self.model.config.spatial_axes) for one in found]


def _spatial_stride(layer: nn.Module, axes: int) -> int:
    geometry: Any = layer.geometry
    return max(geometry.stride[len(geometry.stride) - axes :])
