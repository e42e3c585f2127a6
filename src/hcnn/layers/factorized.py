"""Layers of attribute CNNs: thin modules that own parameters and call `hcnn.functional`.

Each computes one ``x_j = ρ(W_j x_{j-1})``: a convolution along space and attributes whose filter index is the new
attribute v_j, a batch normalization per value of v_j, and an ELU. Each can be used alone inside any network.

Law of every layer here: translating its input by ``s · τ`` along an axis that it convolves with stride s translates
its output by τ along that axis, and leaves it unchanged along an axis that it averages out. With ``circular`` this
is exact for every τ; with ``zeros`` it holds for the outputs whose filters do not reach over the border.
`hcnn.testing` asserts it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hcnn.functional import (
    Boundary,
    Method,
    attribute_conv,
    axis_names,
    bands,
    check_boundary,
    choose_method,
    choose_plus_method,
    dense_weight,
    marginal,
    native_available,
    native_supports,
    patch_moments,
    per_axis,
    placement,
    plus_transforms,
)
from hcnn.functional.plus_step import plus_step, spectral_plus_step
from hcnn.layers.normalization import (
    batch_statistics,
    merge_moments,
    normalize_elu,
    running,
    scale_shift,
    update_running,
)

PlusMatrix = tuple[Tensor, tuple[Tensor, Tensor] | None]  # of the attribute step, with analysis and synthesis


def _odd(support: Sequence[int], label: str, what: str) -> tuple[int, ...]:
    entries = tuple(support)
    if any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in entries):
        raise ValueError(f"{label}: expected odd, positive {what} supports; got {entries}")
    return entries


class AttributeLayer(nn.Module):
    """What all layers share: the geometry of their axes, and the check of what comes in.

    ``forward(x, entered=True)`` takes an x whose oldest attributes are averaged out already, and
    ``average_oldest=True`` averages the oldest attribute of the result: a network lets a layer do at its end, in the
    pass that normalizes, what the next layer would do first.
    """

    def __init__(
        self,
        *,
        attribute_support: Sequence[int],
        spatial_support: Sequence[int],
        stride: int | Sequence[int],
        boundary: Boundary,
        averaged: int = 0,
        channels: int | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__()
        self.label = label or type(self).__name__
        self.attribute_support = _odd(attribute_support, self.label, "attribute")
        self.spatial_support = _odd(spatial_support, self.label, "spatial")
        if len(self.spatial_support) not in (1, 2, 3):
            raise ValueError(f"{self.label}: expected 1, 2 or 3 spatial axes; got support {self.spatial_support}")
        check_boundary(boundary, self.label)
        axes = len(self.attribute_support) + len(self.spatial_support)
        self.stride = per_axis(stride, axes, f"{self.label}: stride")
        self.boundary: Boundary = boundary
        self.averaged = averaged
        self.channels = channels
        self.method: Method = "auto"  # how `attribute_conv` computes; results differ in rounding only

    @property
    def spatial(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial_support)

    @property
    def attributes(self) -> int:
        """Number of attribute axes that are convolved."""
        return len(self.attribute_support)

    def enter(self, x: Tensor, dtype: torch.dtype, *, entered: bool = False) -> Tensor:
        """Check the input and average its oldest attributes out, eq. (6), unless they are already."""
        averaged = 0 if entered else self.averaged
        ndim = 1 + averaged + self.attributes + (self.channels is not None) + self.spatial
        names = axis_names(averaged + self.attributes, self.spatial, channel=self.channels is not None)
        shape = tuple(x.shape)
        if x.ndim != ndim:
            raise ValueError(f"{self.label}: expected {ndim} axes ({names}); got {x.ndim}: shape {shape}")
        if self.channels is not None and x.shape[-1 - self.spatial] != self.channels:
            raise ValueError(f"{self.label}: expected {self.channels} channels in c of ({names}); got shape {shape}")
        if 0 in shape:
            raise ValueError(f"{self.label}: expected at least one entry along each of ({names}); got shape {shape}")
        if not x.is_floating_point():
            raise ValueError(
                f"{self.label}: expected floating-point values, as standardized images are; got {x.dtype} "
                f"of shape {shape}"
            )
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{self.label}: expected {dtype}, as its parameters are; got {x.dtype} of shape {shape}")
        first = 1 + averaged
        sizes, strides = shape[first : first + self.attributes], self.stride[: self.attributes]
        if any(n % s for n, s in zip(sizes, strides, strict=True)):
            raise ValueError(
                f"{self.label}: strides {strides} do not divide the attribute sizes {sizes} of ({names}), shape {shape}"
            )
        return marginal(x, range(1, first))

    def chosen_method(self, sizes: Sequence[int], filters: int, device: str = "cpu", *, native: bool = False) -> Method:
        """The form that the convolution takes for attributes of these sizes.

        Args:
            sizes: of the convolved attributes.
            filters: K.
            device: type of the device.
            native: whether the native kernels can be had, as `native` says for an array.

        Returns:
            `method` where it is set, else what "auto" takes.

        Example:
            >>> layer = FactorizedConv(16, 32, attribute_support=(7, 11), stride=(2, 2, 1, 1))
            >>> layer.chosen_method((8, 16), 16), layer.chosen_method((8, 16), 16, native=True)
            ('spectral', 'native')

        """
        if not self.attributes or self.channels is not None:
            return "dense"
        if self.method != "auto":
            return self.method
        n, taps = self.attributes, math.prod(self.spatial_support)
        return choose_method(
            sizes, self.attribute_support, self.stride[:n], filters, taps, self.boundary, device, native=native
        )

    def native(self, x: Tensor) -> bool:
        """Whether the native kernels take the convolution of an array that has entered."""
        n = self.attributes
        return native_available(x) and native_supports(
            x.shape[1 : 1 + n], self.attribute_support, self.stride[:n], self.spatial_support
        )

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **more: Any) -> Tensor:
        """`attribute_conv` with this layer's geometry; `more` are further keywords of it."""
        sizes = x.shape[1 : 1 + self.attributes]
        return attribute_conv(
            x,
            weight,
            bias,
            spatial=self.spatial,
            stride=self.stride,
            boundary=self.boundary,
            channel_axis=self.channels is not None,
            method=self.chosen_method(sizes, len(weight), x.device.type, native=self.native(x)),
            **more,
        )

    def step_plus(
        self, x: Tensor, h: Tensor, shift: Tensor, g: Tensor, *, prepared: PlusMatrix | None = None
    ) -> Tensor:
        """``Σ_q ELU(x * h_q + shift_q) * g_{k,q}``: (b, *v, *u) -> (b, *v', k, *u')."""
        n, sizes = self.attributes, x.shape[1 : 1 + self.attributes]
        matrix, transforms = prepared or self.plus_matrix(g, sizes, x.device.type)
        flat, stride = x.flatten(1, n), self.stride[n:]
        if transforms:
            analysis, synthesis = transforms
            y = spectral_plus_step(flat, h, shift, analysis, matrix, synthesis, stride, self.boundary)
        else:
            blocks = bands(g, sizes, self.stride[:n], self.boundary)
            y = plus_step(flat, h, shift, matrix, stride, self.boundary, bands=blocks)
        outputs = (size // s for size, s in zip(sizes, self.stride, strict=False))
        return y.reshape(len(x), *outputs, len(g), *y.shape[2:])

    def plus_method(self, g: Sequence[int], sizes: Sequence[int], device: str) -> Method:
        """The form of the attribute step of HCNN(+) for filters of a shape (k, q, *kv)."""
        if self.method != "auto":
            return self.method
        stride = self.stride[: self.attributes]
        return choose_plus_method(g, sizes, stride, self.boundary) if device == "cpu" else "dense"

    def plus_matrix(self, g: Tensor, sizes: Sequence[int], device: str) -> PlusMatrix:
        """The attribute step of HCNN(+): one matrix (v'·k, v·q), or on a CPU per frequency where that is less work."""
        stride = self.stride[: self.attributes]
        if self.plus_method(g.shape, sizes, device) == "spectral":
            analysis, matrix, synthesis = plus_transforms(g, tuple(sizes), stride, self.boundary)
            return matrix, (analysis, synthesis)
        return dense_weight(g, sizes, stride, self.boundary, channel_axis=True), None

    def extra_repr(self) -> str:
        """Geometry in the package's grammar of axes."""
        names = axis_names(self.averaged + self.attributes, self.spatial, channel=self.channels is not None)
        support = (*self.attribute_support, *self.spatial_support)
        return f"({names}), support={support}, stride={self.stride}, boundary={self.boundary!r}"


class AttributeConv(AttributeLayer):
    r"""Convolution along (u, v) with plain filters, normalization, ELU: ``x_j = ρ(x_{j-1} * w_{v_j})``, eq. (4).

    With `channels` it also sums over an axis of unordered channels, which makes it the first layer of eq. (3).
    Law: see the module. Sizes along v and u are divided by the strides.

    Args:
        filters: K, the number of values of the new attribute.
        attribute_support: odd support along each convolved attribute, oldest first; () for none.
        spatial_support: odd support along each spatial axis; its length says how many there are.
        stride: one for all axes, or one per axis of (*v, *u).
        boundary: "zeros" or "circular", for every axis.
        averaged: how many attributes, older than the convolved ones, are averaged out first, eq. (6).
        channels: size of the channel axis c in (b, *v, c, *u), or None for no such axis.
        label: what errors call this layer; its class by default.

    Shapes:
        x (b, *v, *u) or (b, *v, c, *u); returns (b, *v', K, *u').

    Raises:
        ValueError: at construction for even supports or wrong counts; in forward for axes, sizes or types that
            do not fit.

    Example:
        >>> first = AttributeConv(8, spatial_support=(3, 3), channels=3)
        >>> second = AttributeConv(8, attribute_support=(5,), spatial_support=(3, 3), stride=(2, 1, 1))
        >>> second(first(torch.randn(2, 3, 16, 16))).shape
        torch.Size([2, 4, 8, 16, 16])

    """

    def __init__(
        self,
        filters: int,
        *,
        attribute_support: Sequence[int] = (),
        spatial_support: Sequence[int] = (3, 3),
        stride: int | Sequence[int] = 1,
        boundary: Boundary = "zeros",
        averaged: int = 0,
        channels: int | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(
            attribute_support=attribute_support,
            spatial_support=spatial_support,
            stride=stride,
            boundary=boundary,
            averaged=averaged,
            channels=channels,
            label=label,
        )
        summed = () if channels is None else (channels,)
        self.weight = nn.Parameter(torch.empty(filters, *summed, *self.attribute_support, *self.spatial_support))
        self.norm = nn.BatchNorm1d(filters)
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)

    def forward(self, x: Tensor, *, entered: bool = False, average_oldest: bool = False) -> Tensor:
        """Compute x_j from x_{j-1}; for the keywords see `AttributeLayer`."""
        y = self.convolve(self.enter(x, self.weight.dtype, entered=entered), self.weight)
        return normalize_elu(self.norm, y, self.spatial, average_oldest)

    def composed_weight(self) -> Tensor:
        """The filters w_{v_j}, (K, *kv, *ku); here the parameter itself."""
        return self.weight


class FactorizedConv(AttributeLayer):
    r"""Convolution along (u, v) with factorized filters, eq. (8), and normalizations between and after.

    ``x̃_q = (x * h_q - m_q) / σ_q``, ``x_j = ρ(N(Σ_q x̃_q * g_{v_j,q}))`` with N a batch normalization per v_j
    (paper, section 4.2). m_q and σ_q are taken over batch, attributes and all positions u, before the stride.

    Without an inner ELU both steps are linear: h, the inner normalization and g compose to one filter
    ``w_{v_j}(u, v) = Σ_q h_q(u) g_{v_j,q}(v) / σ_q``, in training too, since m_q and σ_q follow from the moments of
    the spatial patches of x (`hcnn.functional.patch_moments`). The Q arrays x * h_q are never formed. With
    `inner_elu` (the paper's "(+)") the same moments give the normalization before x * h_q is formed.

    Law: see the module. Under zeros a constant -m_q/σ_q reaches the output through the taps that lie inside, so
    its bias depends on the position v' and the law holds away from the border only, as for every zero-padded layer.

    Args:
        filters: K, the number of values of the new attribute.
        rank: Q, the number of separable terms.
        attribute_support: odd support along each convolved attribute, oldest first.
        spatial_support: odd support along each spatial axis; its length says how many there are.
        stride: one for all axes, or one per axis of (*v, *u).
        boundary: "zeros" or "circular", for every axis.
        averaged: how many attributes, older than the convolved ones, are averaged out first, eq. (6).
        inner_elu: put an ELU between h and g, HCNN(+).
        inner_affine: give the inner normalization a learned scale and shift per q.
        label: what errors call this layer; its class by default.

    Shapes:
        h (Q, *ku), g (K, Q, *kv); x (b, *v, *u); returns (b, *v', K, *u').

    Raises:
        ValueError: at construction for even supports or wrong counts; in forward for axes, sizes or types that
            do not fit.

    Example:
        >>> layer = FactorizedConv(16, 32, attribute_support=(7, 11), stride=(2, 2, 1, 1), averaged=1)
        >>> layer(torch.randn(2, 4, 8, 16, 9, 9)).shape            # b v1 v2 v3 u1 u2 -> b v2 v3 v4 u1 u2
        torch.Size([2, 4, 8, 16, 9, 9])

    """

    def __init__(
        self,
        filters: int,
        rank: int,
        *,
        attribute_support: Sequence[int],
        spatial_support: Sequence[int] = (3, 3),
        stride: int | Sequence[int] = 1,
        boundary: Boundary = "zeros",
        averaged: int = 0,
        inner_elu: bool = False,
        inner_affine: bool = False,
        label: str | None = None,
    ) -> None:
        super().__init__(
            attribute_support=attribute_support,
            spatial_support=spatial_support,
            stride=stride,
            boundary=boundary,
            averaged=averaged,
            label=label,
        )
        self.inner_elu = inner_elu
        self.h = nn.Parameter(torch.empty(rank, *self.spatial_support))
        self.g = nn.Parameter(torch.empty(filters, rank, *self.attribute_support))
        # Holds the statistics of x * h_q as BatchNorm does; its own forward is never called.
        self.inner_norm = nn.BatchNorm1d(rank, affine=inner_affine)
        self.norm = nn.BatchNorm1d(filters)
        nn.init.normal_(self.h, std=self.h[0].numel() ** -0.5)
        nn.init.normal_(self.g, std=self.g[0].numel() ** -0.5)

    def forward(self, x: Tensor, *, entered: bool = False, average_oldest: bool = False) -> Tensor:
        """Compute x_j from x_{j-1}; for the keywords see `AttributeLayer`."""
        x = self.enter(x, self.h.dtype, entered=entered)
        scale, shift = self._inner_statistics(x)
        if self.inner_elu:
            y = self.step_plus(x, scale_rows(self.h, scale), shift, self.g)
        else:
            y = self.convolve(x, self._compose(scale), edge_bias(self.g, shift, x, self.stride, self.boundary))
        return normalize_elu(self.norm, y, self.spatial, average_oldest)

    def chosen_method(self, sizes: Sequence[int], filters: int, device: str = "cpu", *, native: bool = False) -> Method:
        """As `AttributeLayer.chosen_method`; with an inner ELU the form of the attribute step."""
        if self.inner_elu:
            return self.plus_method(self.g.shape, sizes, device)
        return super().chosen_method(sizes, filters, device, native=native)

    def _compose(self, scale: Tensor) -> Tensor:
        """``w(k, v, u) = Σ_q g(k, q, v) scale(q) h(q, u)``."""
        with torch.autocast(scale.device.type, enabled=False):
            return torch.tensordot(self.g.movedim(1, -1), scale_rows(self.h, scale), dims=1)  # (k, *kv, *ku)

    def _inner_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of the inner normalization of x * h_q, and the update of its running statistics."""
        norm = self.inner_norm
        if not batch_statistics(norm):
            return scale_shift(norm, *running(norm))
        patch_mean, covariance = patch_moments(x, self.spatial_support, boundary=self.boundary)
        patch_mean, covariance, processes = merge_moments(norm, patch_mean, covariance)
        with torch.autocast(x.device.type, enabled=False):
            h = self.h.flatten(1).to(covariance.dtype)  # (q, P)
            mean = h @ patch_mean
            variance = ((h @ covariance) * h).sum(1)
        update_running(norm, mean, variance, processes * x.numel())
        scale, shift = scale_shift(norm, mean, variance)
        return scale.to(self.h.dtype), shift.to(self.h.dtype)

    def composed_weight(self) -> Tensor:
        """The filters w_{v_j}, (K, *kv, *ku), at the running statistics; only without an inner ELU.

        Returns:
            The sum over q of eq. (8), each term divided by its running deviation.

        Raises:
            ValueError: with an inner ELU, where the factors do not compose.

        """
        if self.inner_elu:
            raise ValueError(f"{self.label}: with an inner ELU the filters h and g do not compose to w")
        return self._compose(scale_shift(self.inner_norm, *running(self.inner_norm))[0])


def scale_rows(tensor: Tensor, factor: Tensor) -> Tensor:
    """Multiply each entry of the first axis by its own factor."""
    return tensor * factor.reshape(-1, *[1] * (tensor.ndim - 1))


def edge_bias(g: Tensor, shift: Tensor, x: Tensor, stride: Sequence[int], boundary: Boundary) -> Tensor:
    """What the constants ``shift_q`` become behind g: ``Σ_q shift_q Σ_{taps inside} g(k, q, t)``, (*v', k)."""
    with torch.autocast(x.device.type, enabled=False):
        bias = torch.einsum("q,kq...->k...", shift, g)  # (k, *kv)
        for axis, s in zip(range(g.ndim - 2), stride, strict=False):
            taps = placement(x.shape[1 + axis], g.shape[2 + axis], s, boundary, device=g.device, dtype=g.dtype)
            bias = torch.einsum("kt...,ot->k...o", bias, taps.sum(1))  # contracts the leading taps, appends v'
        return bias.movedim(0, -1)
