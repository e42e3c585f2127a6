"""The multiscale hierarchical CNN of the paper's section 3, to be studied at a small size."""

from torch import nn

from hcnn.functional import Method
from hcnn.layers import AttributeConv, HueConv
from hcnn.models.attribute_network import AttributeNetwork, Readout
from hcnn.models.configs import MultiscaleHierarchicalCNNConfig


class MultiscaleHierarchicalCNN(AttributeNetwork):
    """Every x_j keeps every earlier attribute and W_j convolves along all of them (paper, section 3).

    Law: as for `HierarchicalCNN`; with attribute stride 1 (the default) and periodic boundaries the logits are
    invariant to *every* translation of every x_j, j < J-1, along attributes: Proposition 3.1 to the letter.

    Args:
        config: a `MultiscaleHierarchicalCNNConfig`.
        method: how its layers compute, "auto", "dense", "spectral" or "native"; the results differ in rounding only.

    Shapes:
        x (b, channels, *u) -> logits (b, classes).

    Example:
        >>> import torch
        >>> model = MultiscaleHierarchicalCNN(MultiscaleHierarchicalCNNConfig(width=2, depth=4, downsample=()))
        >>> model(torch.randn(2, 3, 4, 4), return_arrays=True)[1][3].axes
        ('b', 'v1', 'v2', 'v3', 'u1', 'u2')

    """

    def __init__(self, config: MultiscaleHierarchicalCNNConfig, *, method: Method = "auto") -> None:
        if not isinstance(config, MultiscaleHierarchicalCNNConfig):
            raise ValueError(f"MultiscaleHierarchicalCNN: expected a MultiscaleHierarchicalCNNConfig; got {config!r}")
        c = config
        layers: list[nn.Module] = []
        sizes: list[tuple[int, ...]] = []
        previous: tuple[int, ...] = ()
        for j in range(1, c.depth):
            filters = c.classes if j == c.depth - 1 else c.width
            step = 2 if j in c.downsample else 1
            kind = HueConv if j == 1 and c.first_attribute == "hue" else AttributeConv
            layers.append(
                kind(
                    filters,
                    attribute_support=(c.support,) * (j - 1),
                    spatial_support=(c.support,) * c.spatial_axes,
                    stride=(c.attribute_stride,) * (j - 1) + (step,) * c.spatial_axes,
                    boundary=c.boundary,
                    channels=c.channels if j == 1 else None,
                    method=method,
                    label=f"layer {j}",
                )
            )
            previous = (*(n // c.attribute_stride for n in previous), filters)
            sizes.append(previous)
        super().__init__(config, layers, Readout(c.classes, None, c.spatial_axes), sizes)
