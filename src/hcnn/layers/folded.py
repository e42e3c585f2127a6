"""Folding: from a trained layer to the equivalent inference layer, its normalizations inside its weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_map_only

from hcnn.functional import Method, conv_matrix
from hcnn.functional import normalize_elu as kernels
from hcnn.functional.composition import compose
from hcnn.functional.dtypes import autocast_dtype
from hcnn.functional.plus_step import attribute_plus_step, plus_matrix, plus_method
from hcnn.layers.base import AttributeLayer, enter
from hcnn.layers.factorized import FactorizedConv, scale_rows
from hcnn.layers.kept import Kept
from hcnn.layers.normalization import in_double, running, scale_shift
from hcnn.layers.plain import AttributeConv, convolve


@torch.no_grad()
def fold_layer(layer: nn.Module, sizes: Sequence[int], where: str = "fold") -> "FoldedConv | FoldedPlusConv":
    """The inference layer with equal outputs: w and a bias, or with an inner ELU the scaled h and g and their biases.

    Everything is composed in float64 and rounded once.

    Args:
        layer: an `AttributeConv` or `FactorizedConv`, in eval mode or not; its running statistics count.
        sizes: lengths of the convolved attribute axes, on which the bias depends under zeros.
        where: what an error begins with.

    Returns:
        A layer whose outputs equal those of `layer` in eval mode.

    Raises:
        ValueError: if it is another layer, or a normalization keeps no running statistics.

    Example:
        >>> layer = FactorizedConv(4, 9, attribute_support=(3,), stride=(2, 1, 1)).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> bool(torch.allclose(fold_layer(layer, (8,))(x), layer(x), atol=1e-5))
        True

    """
    if not isinstance(layer, AttributeConv | FactorizedConv):
        raise ValueError(f"{where}: expected an AttributeConv or FactorizedConv; got {_described(layer)}")
    _set_newest_weights(layer)
    norm = in_double(layer.norm)
    outer_scale, outer_shift = scale_shift(norm, *running(norm))
    if isinstance(layer, AttributeConv):
        weight = layer.composed_weight().double()
        scale, shift = (one.expand(len(weight)) for one in (outer_scale, outer_shift))  # of a HueConv, one for all
        return _folded(layer, scale_rows(weight, scale), shift)
    inner = in_double(layer.inner_norm)
    scale, shift = scale_shift(inner, *running(inner))
    h, g = scale_rows(layer.h.double(), scale), scale_rows(layer.g.double(), outer_scale)
    if layer.inner_elu:
        dtype = layer.h.dtype
        return FoldedPlusConv(layer, h.to(dtype), shift.to(dtype), g.to(dtype), outer_shift.to(dtype))
    geometry = layer.geometry
    weight, bias = compose(h, torch.ones_like(scale), shift, g, sizes, geometry.attribute_stride, geometry.boundary)
    bias = bias + outer_shift  # (*v', k)
    if geometry.boundary == "circular":  # constant along v'
        bias = bias.reshape(-1, bias.shape[-1])[0]
    return _folded(layer, weight, bias)


def _set_newest_weights(layer: nn.Module) -> None:
    """Set the weights that the next forward pass in eval mode would set, by the hooks of `torch.nn.utils`."""
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod | WeightNorm):
            hook(layer, ())
        elif isinstance(hook, SpectralNorm):  # called in training mode, it would take a step of its power iteration
            setattr(layer, hook.name, hook.compute_weight(layer, do_power_iteration=False))


def _described(layer: nn.Module) -> str:
    """A module, and what it wraps."""
    inner = [type(one).__name__ for one in layer.modules() if isinstance(one, AttributeLayer) and one is not layer]
    return type(layer).__name__ + (f" around {', '.join(inner)}: unwrap it first" if inner else "")


def _folded(layer: AttributeConv | FactorizedConv, weight: Tensor, bias: Tensor) -> "FoldedConv":
    dtype = layer.norm.weight.dtype
    return FoldedConv(layer, weight.to(dtype), bias.to(dtype))


class FoldedConv(AttributeLayer):
    """An inference layer ``ρ(x * w + bias)``, as `fold_layer` makes it, whose convolution holds composed filters only.

    Args:
        source: the layer whose geometry it takes over.
        weight: (K, *kv, *ku), or (K, c, *kv, *ku).
        bias: (K,), or (*v', K) under zeros, where the constant of the inner normalization meets the border.

    """

    def __init__(self, source: AttributeLayer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(source.geometry, method=source.method, average_oldest=source.average_oldest)
        self.weight, self.bias = _parameter(weight), _parameter(bias)
        self._kept = Kept()

    def compute(self, x: Tensor, average_oldest: bool) -> Tensor:
        """x_j, averaged over its oldest attribute or not."""
        g = self.geometry
        x = enter(x, g, self.weight.dtype)
        sizes, dtype = x.shape[1 : 1 + g.attributes], autocast_dtype(x) or self.weight.dtype
        method = self.chosen_method(sizes, len(self.weight), x.device.type, native=g.native(x))

        def make() -> Tensor:
            channel_axis = g.channels is not None
            return conv_matrix(
                self.weight, sizes, g.attribute_stride, g.boundary, method, channel_axis=channel_axis
            ).to(dtype)  # fmt: skip

        matrix = self._kept.get(make, [self.weight], sizes, method, dtype)
        return convolve(x, self.weight, g, method, self.bias, matrix=matrix, elu=True, average_oldest=average_oldest)


class FoldedPlusConv(AttributeLayer):
    """An inference layer of HCNN(+), ``ρ(Σ_q ρ(x * h_q + shift_q) * g_{k,q} + bias)``, as `fold_layer` makes it.

    Args:
        source: the layer whose geometry it takes over.
        h: (Q, *ku), the inner scale folded in.
        shift: (Q,).
        g: (K, Q, *kv), the outer scale folded in.
        bias: (K,).

    """

    def __init__(self, source: FactorizedConv, h: Tensor, shift: Tensor, g: Tensor, bias: Tensor) -> None:
        super().__init__(source.geometry, method=source.method, average_oldest=source.average_oldest)
        self.h, self.shift, self.g, self.bias = (_parameter(one) for one in (h, shift, g, bias))
        self._kept = Kept()

    def chosen_method(self, sizes: Sequence[int], filters: int, device: str = "cpu", *, native: bool = False) -> Method:
        """The form of the attribute step."""
        g = self.geometry
        return plus_method(self.g.shape, sizes, g.attribute_stride, g.boundary, self.method, device, native=native)

    def multiply_adds(self, inputs: int, outputs: int) -> int:
        """As `AttributeLayer.multiply_adds`, of both steps."""
        return inputs * len(self.h) * (self.h[0].numel() + outputs)

    def compute(self, x: Tensor, average_oldest: bool) -> Tensor:
        """x_j, averaged over its oldest attribute or not."""
        geometry, bias = self.geometry, self.bias
        x = enter(x, geometry, self.h.dtype)
        sizes, device, dtype = x.shape[1 : 1 + geometry.attributes], x.device.type, autocast_dtype(x) or self.g.dtype
        native = geometry.native(x)

        def make() -> Any:
            step = plus_matrix(
                self.g, sizes, geometry.attribute_stride, geometry.boundary, self.method, device, native=native
            )
            return tree_map_only(Tensor, lambda one: one.to(dtype), step)

        y = attribute_plus_step(
            x, self.h, self.shift, self.g, geometry.stride, geometry.boundary, self.method,
            prepared=self._kept.get(make, [self.g], sizes, self.method, native, dtype),
        )  # fmt: skip
        return kernels.normalize_elu(y, torch.ones_like(bias), bias, geometry.spatial, average_oldest)


def _parameter(value: Tensor) -> nn.Parameter:
    """A parameter of its own memory, in row-major order, as other libraries expect."""
    return nn.Parameter(value.clone(memory_format=torch.contiguous_format))
