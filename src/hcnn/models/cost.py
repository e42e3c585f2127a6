"""What attribute layers cost: weights, normalization parameters, multiply-adds."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hcnn.layers import AttributeConv, AttributeLayer, FactorizedConv
from hcnn.models.counts import LayerRow, ParameterCount, check_image_size


def attribute_counts(layers: Iterable[nn.Module], readout: nn.Module) -> ParameterCount:
    """The counts of a chain of attribute layers and a readout; of folded layers, biases included."""
    trained, composed, norms = (sum(column) for column in zip(*map(_layer_counts, layers), strict=True))
    linear, scale = _readout_counts(readout)
    return ParameterCount(trained + linear, composed + linear, norms, scale)


def attribute_rows(
    config: Any,
    layers: Iterable[nn.Module],
    readout: nn.Module,
    names: Sequence[str],
    attribute_sizes: Sequence[tuple[int, ...]],
    image_size: Sequence[int],
) -> list[LayerRow]:
    """The rows of a chain of attribute layers and a readout; weights of folded layers include their biases.

    Args:
        config: of the network.
        layers: W_1 … W_{J-1}.
        readout: W_J.
        names: of the axes of x_1 … x_{J-1}, without b.
        attribute_sizes: of the same.
        image_size: one size per spatial axis.

    Raises:
        ValueError: if the number of sizes is not the network's, or a layer is none of this package's.
    """
    extent, before, rows = check_image_size(image_size, config.spatial_axes), (config.channels,), []
    for j, (layer, axes, sizes) in enumerate(zip(layers, names, attribute_sizes, strict=True), start=1):
        if not isinstance(layer, AttributeLayer):
            raise ValueError(
                f"layer {j}: expected one of this package's layers, not wrapped; got {type(layer).__name__}"
            )
        g = layer.geometry
        extent = tuple(math.ceil(n / s) for n, s in zip(extent, g.spatial_stride, strict=True))
        inputs = math.prod(before[len(before) - g.attributes :]) * (g.channels or 1)
        work = math.prod(extent) * layer.multiply_adds(inputs, math.prod(sizes))
        support = (*g.attribute_support, *g.spatial_support)
        rows.append(LayerRow(str(j), axes, (*sizes, *extent), support, g.stride, *_layer_counts(layer), work))
        before = sizes
    linear, scale = _readout_counts(readout)
    last = LayerRow(str(len(rows) + 1), "classes", (config.classes,), (), (), linear, linear, scale, linear)
    return [*rows, last]


def _layer_counts(layer: nn.Module) -> tuple[int, int, int]:
    """Trained and composed weights, and normalization parameters."""
    own = sum(p.numel() for p in layer.parameters(recurse=False))
    norms = sum(p.numel() for p in layer.parameters()) - own
    if isinstance(layer, AttributeConv) or (isinstance(layer, FactorizedConv) and not layer.inner_elu):
        return own, layer.composed_weight().numel(), norms
    return own, own, norms


def _readout_counts(readout: nn.Module) -> tuple[int, int]:
    """Linear weights, and the logit scale."""
    linear = sum(p.numel() for name, p in readout.named_parameters() if name.startswith("linear"))
    return linear, sum(p.numel() for p in readout.parameters()) - linear
