"""What a network is made of, layer by layer: sizes, supports, weights, multiply-adds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hcnn.layers import AttributeConv, FactorizedConv
from hcnn.models.baselines import Comparator, count_comparator
from hcnn.models.hierarchical import Network


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network.

    Attributes:
        name: "1" … "J"; of a comparator, the module's.
        axes: of its output, for example "v1, v2, v3, u1, u2".
        sizes: of those axes.
        support: of the filter, along the convolved attributes, then space; () for the readout.
        stride: as support.
        trained: convolution (or linear) weights while training.
        composed: of the composed filters.
        normalization: normalization parameters, or the logit scale.
        multiply_adds: of one image, in the dense form (with an inner ELU: of both steps).

    """

    name: str
    axes: str
    sizes: tuple[int, ...]
    support: tuple[int, ...]
    stride: tuple[int, ...]
    trained: int
    composed: int
    normalization: int
    multiply_adds: int


def summarize(model: Network, image_size: Sequence[int]) -> list[LayerRow]:
    """The rows of a network's summary.

    Args:
        model: an unfolded network, or a comparator.
        image_size: one size per spatial axis.

    Returns:
        One row per layer 1 … J; of a comparator, one per convolution or linear map and one for all normalizations.

    Raises:
        ValueError: if the number of spatial sizes is not the network's.

    Example:
        >>> from hcnn import create_model
        >>> rows = summarize(create_model("hcnn_cifar10"), (32, 32))
        >>> sum(row.composed for row in rows), round(sum(row.multiply_adds for row in rows) / 1e9, 2)
        (97650, 1.93)

    """
    config = model.config
    if len(image_size) != config.spatial_axes:
        raise ValueError(f"expected {config.spatial_axes} spatial sizes; got {tuple(image_size)}")
    if isinstance(model, Comparator):
        return _comparator_rows(model, image_size)
    extent, sizes = tuple(image_size), (config.channels,)
    rows = []
    for j, layer in enumerate(model.layers, start=1):
        assert isinstance(layer, AttributeConv | FactorizedConv)
        own, g = sum(p.numel() for p in layer.parameters(recurse=False)), layer.geometry
        extent = tuple(math.ceil(n / s) for n, s in zip(extent, g.spatial_stride, strict=True))
        inputs = math.prod(sizes[len(sizes) - g.attributes :]) * (g.channels or 1)
        outputs, pixels, taps = math.prod(model.attribute_sizes[j - 1]), math.prod(extent), math.prod(g.spatial_support)
        if isinstance(layer, FactorizedConv) and layer.inner_elu:
            rank = len(layer.h)
            multiply_adds, composed = pixels * inputs * rank * (taps + outputs), own
        else:
            multiply_adds, composed = pixels * inputs * outputs * taps, layer.composed_weight().numel()
        norms = sum(p.numel() for p in layer.parameters()) - own
        sizes = model.attribute_sizes[j - 1]
        rows.append(
            LayerRow(
                str(j),
                ", ".join(model.axes(j)[1:]),
                (*sizes, *extent),
                (*g.attribute_support, *g.spatial_support),
                g.stride,
                own,
                composed,
                norms,
                multiply_adds,
            )
        )
    linear = sum(p.numel() for name, p in model.readout.named_parameters() if name.startswith("linear"))
    scale = sum(p.numel() for p in model.readout.parameters()) - linear
    final = str(len(model.layers) + 1)
    rows.append(LayerRow(final, "classes", (config.classes,), (), (), linear, linear, scale, linear))
    return rows


@torch.no_grad()
def _comparator_rows(model: Comparator, image_size: Sequence[int]) -> list[LayerRow]:
    """One row per module with parameters of its own, in the order in which they compute."""
    shapes: dict[str, tuple[int, ...]] = {}
    layers = {
        name: module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False)) and not isinstance(module, nn.BatchNorm2d)
    }

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            shapes[name] = tuple(output.shape[1:])

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, model.config.channels, *image_size))
    model.train(training)
    for handle in handles:
        handle.remove()
    flops = {name.split(".", 1)[-1]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    rows = []
    for name in [*shapes, *(name for name in layers if name not in shapes)]:
        module, shape = layers[name], shapes.get(name, ())
        own = sum(p.numel() for p in module.parameters(recurse=False))
        support = tuple(getattr(module, "kernel_size", ()))
        stride = tuple(getattr(module, "stride", ())) if support else ()
        axes = "c, u1, u2" if len(shape) == 3 else "c" if len(shape) == 1 else ""
        rows.append(LayerRow(name, axes, shape, support, stride, own, own, 0, flops.get(name, 0) // 2))
    trained, composed, norms = count_comparator(model)
    rows.append(LayerRow("normalizations", "", (), (), (), 0, composed - trained, norms, 0))
    return rows
