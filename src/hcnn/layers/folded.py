"""Folding: from a trained layer to the equivalent inference layer, its normalizations inside its weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from hcnn.functional import Method, conv_matrix
from hcnn.functional import normalize_elu as kernels
from hcnn.layers.factorized import AttributeConv, AttributeLayer, FactorizedConv, PlusMatrix, edge_bias, scale_rows
from hcnn.layers.normalization import in_double, running, scale_shift


@torch.no_grad()
def fold_layer(layer: AttributeConv | FactorizedConv, sizes: Sequence[int]) -> "FoldedConv | FoldedPlusConv":
    """The inference layer with equal outputs: w and a bias, or with an inner ELU the scaled h and g and their biases.

    Everything is composed in float64 and rounded once.

    Args:
        layer: in eval mode or not; its running statistics count.
        sizes: lengths of the convolved attribute axes, on which the bias depends under zeros.

    Returns:
        A layer whose outputs equal those of `layer` in eval mode.

    Raises:
        ValueError: if a normalization keeps no running statistics.

    Example:
        >>> layer = FactorizedConv(4, 9, attribute_support=(3,), stride=(2, 1, 1)).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> bool(torch.allclose(fold_layer(layer, (8,))(x), layer(x), atol=1e-5))
        True

    """
    norm = in_double(layer.norm)
    outer_scale, outer_shift = scale_shift(norm, *running(norm))
    if isinstance(layer, AttributeConv):
        return _folded(layer, scale_rows(layer.weight.double(), outer_scale), outer_shift)
    inner = in_double(layer.inner_norm)
    scale, shift = scale_shift(inner, *running(inner))
    h, g = scale_rows(layer.h.double(), scale), scale_rows(layer.g.double(), outer_scale)
    if layer.inner_elu:
        dtype = layer.h.dtype
        return FoldedPlusConv(layer, h.to(dtype), shift.to(dtype), g.to(dtype), outer_shift.to(dtype))
    weight = torch.tensordot(g.movedim(1, -1), h, dims=1)  # (k, *kv, *ku)
    bias = edge_bias(g, shift, g.new_empty(1, *sizes), layer.stride, layer.boundary) + outer_shift  # (*v', k)
    if layer.boundary == "circular":  # constant along v'
        bias = bias.reshape(-1, bias.shape[-1])[0]
    return _folded(layer, weight, bias)


def _folded(layer: AttributeConv | FactorizedConv, weight: Tensor, bias: Tensor) -> "FoldedConv":
    dtype = layer.norm.weight.dtype
    return FoldedConv(layer, weight.to(dtype), bias.to(dtype))


class _Folded(AttributeLayer):
    """An inference layer, which keeps the matrix that it makes of its filters from one call to the next."""

    def __init__(self, source: AttributeLayer) -> None:
        super().__init__(**_geometry(source))
        self._kept: dict[tuple[Any, ...], Any] = {}

    def prepare(self, weight: Tensor, x: Tensor) -> Any:
        """What the convolution makes of its filters, for an array that has entered."""
        raise NotImplementedError

    def kept(self, weight: Tensor, x: Tensor) -> Any:
        """What `prepare` made, or makes now; None where it must be made anew each time."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or weight.is_inference():
            return None
        kind, sizes = x.device.type, x.shape[1 : 1 + self.attributes]
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        # The last entry tells of changes in place.
        key = (*sizes, self.method, self.native(x), dtype, weight.device, weight.data_ptr(), weight._version)
        if key not in self._kept:
            with torch.inference_mode(False), torch.no_grad():
                made = tree_map_only(Tensor, lambda one: one.to(dtype), self.prepare(weight, x))
            self._kept = {key: made}
        return self._kept[key]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files are without it."""
        return {**super().__getstate__(), "_kept": {}}


class FoldedConv(_Folded):
    """An inference layer ``ρ(x * w + bias)``, as `fold_layer` makes it, whose convolution holds composed filters only.

    Args:
        source: the layer whose geometry it takes over.
        weight: (K, *kv, *ku), or (K, c, *kv, *ku).
        bias: (K,), or (*v', K) under zeros, where the constant of the inner normalization meets the border.

    """

    def __init__(self, source: AttributeLayer, weight: Tensor, bias: Tensor) -> None:
        super().__init__(source)
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone())

    def prepare(self, weight: Tensor, x: Tensor) -> Tensor:
        """The spatial convolution that stands for w."""
        sizes, stride = x.shape[1 : 1 + self.attributes], self.stride[: self.attributes]
        method = self.chosen_method(sizes, len(weight), x.device.type, native=self.native(x))
        return conv_matrix(weight, sizes, stride, self.boundary, method, channel_axis=self.channels is not None)

    def forward(self, x: Tensor, *, entered: bool = False, average_oldest: bool = False) -> Tensor:
        """Compute x_j from x_{j-1}; for the keywords see `AttributeLayer`."""
        x = self.enter(x, self.weight.dtype, entered=entered)
        matrix = self.kept(self.weight, x)
        return self.convolve(x, self.weight, self.bias, matrix=matrix, elu=True, average_oldest=average_oldest)


class FoldedPlusConv(_Folded):
    """An inference layer of HCNN(+), ``ρ(Σ_q ρ(x * h_q + shift_q) * g_{k,q} + bias)``, as `fold_layer` makes it.

    Args:
        source: the layer whose geometry it takes over.
        h: (Q, *ku), the inner scale folded in.
        shift: (Q,).
        g: (K, Q, *kv), the outer scale folded in.
        bias: (K,).

    """

    def __init__(self, source: FactorizedConv, h: Tensor, shift: Tensor, g: Tensor, bias: Tensor) -> None:
        super().__init__(source)
        self.h = nn.Parameter(h.clone())
        self.shift = nn.Parameter(shift.clone())
        self.g = nn.Parameter(g.clone())
        self.bias = nn.Parameter(bias.clone())

    def chosen_method(self, sizes: Sequence[int], filters: int, device: str = "cpu", *, native: bool = False) -> Method:
        """The form of the attribute step."""
        return self.plus_method(self.g.shape, sizes, device)

    def prepare(self, weight: Tensor, x: Tensor) -> PlusMatrix:
        """The attribute step."""
        return self.plus_matrix(weight, x.shape[1 : 1 + self.attributes], x.device.type)

    def forward(self, x: Tensor, *, entered: bool = False, average_oldest: bool = False) -> Tensor:
        """Compute x_j from x_{j-1}; for the keywords see `AttributeLayer`."""
        x = self.enter(x, self.h.dtype, entered=entered)
        y = self.step_plus(x, self.h, self.shift, self.g, prepared=self.kept(self.g, x))
        return kernels.normalize_elu(y, torch.ones_like(self.bias), self.bias, self.spatial, average_oldest)


def _geometry(source: AttributeLayer) -> dict[str, Any]:
    names = ("attribute_support", "spatial_support", "stride", "boundary", "averaged", "channels", "label")
    return {name: getattr(source, name) for name in names}
