"""HCNN and HCNN(+), the network of the paper's section 4."""

from typing import Any

from torch import nn

from hcnn.functional import Method
from hcnn.layers import AttributeConv, FactorizedConv, HueConv
from hcnn.models.attribute_network import AttributeNetwork, Readout, linear_classes
from hcnn.models.configs import HierarchicalCNNConfig


class HierarchicalCNN(AttributeNetwork):
    """HCNN and HCNN(+): every x_j keeps its last three attributes (paper, section 4).

    Law: covariant as its layers are; the logits are invariant to the translations that `invariant_shift` names,
    exactly if periodic (Proposition 3.1).

    Args:
        config: a `HierarchicalCNNConfig`.
        method: how its layers compute, "auto", "dense", "spectral" or "native"; the results differ in rounding only.

    Shapes:
        x (b, channels, *u) -> logits (b, classes). Attributes of x_j: (K), (K/2, K), then (K/4, K/2, K).

    Example:
        >>> import torch
        >>> model = HierarchicalCNN(HierarchicalCNNConfig(width=8, depth=5, downsample=()))
        >>> logits, arrays = model(torch.randn(2, 3, 8, 8), return_arrays=True)
        >>> arrays[4].axes, tuple(arrays[4].values.shape)
        (('b', 'v2', 'v3', 'v4', 'u1', 'u2'), (2, 2, 4, 10, 8, 8))

    """

    def __init__(self, config: HierarchicalCNNConfig, *, method: Method = "auto") -> None:
        if not isinstance(config, HierarchicalCNNConfig):
            raise ValueError(f"HierarchicalCNN: expected a HierarchicalCNNConfig; got {config!r}")
        c, K = config, config.width
        k1, k2 = c.attribute_support
        layers: list[nn.Module] = []
        sizes: list[tuple[int, ...]] = []
        for j in range(1, c.depth):
            filters = c.classes if j == c.depth - 1 and c.readout == "mean" else K
            support = ((), (k2,), (k1, k2))[min(j, 3) - 1]
            step = 2 if j in c.downsample else 1
            common: dict[str, Any] = {
                "attribute_support": support,
                "spatial_support": (c.spatial_support,) * c.spatial_axes,
                "stride": (2,) * len(support) + (step,) * c.spatial_axes,
                "boundary": c.boundary,
                "average_oldest": 3 <= j < c.depth - 1,
                "method": method,
                "label": f"layer {j}",
            }
            if j == 1 and c.first_attribute == "hue":
                layers.append(HueConv(filters, channels=c.channels, **common))
            elif j < 3:
                layers.append(AttributeConv(filters, channels=c.channels if j == 1 else None, **common))
            else:
                layers.append(
                    FactorizedConv(filters, c.rank, inner_elu=c.inner_elu, inner_affine=c.inner_affine, **common)
                )
            sizes.append((K // 4, K // 2, filters)[3 - min(j, 3) :])
        readout = Readout(sizes[-1][-1], linear_classes(c), c.spatial_axes)
        super().__init__(config, layers, readout, sizes)
