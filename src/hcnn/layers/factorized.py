"""The layer with factorized filters: its two steps compose to one convolution, in training too."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hcnn.functional import Boundary, Method, patch_moments
from hcnn.functional.composition import compose, inner_normalization
from hcnn.functional.plus_step import attribute_plus_step, plus_method
from hcnn.layers.base import AttributeLayer, Geometry, check_number, enter
from hcnn.layers.normalization import (
    batch_statistics,
    merge_moments,
    normalize_elu,
    running,
    scale_shift,
    update_running,
)
from hcnn.layers.plain import convolve


class FactorizedConv(AttributeLayer):
    r"""Convolution along (u, v) with factorized filters, eq. (8), and normalizations between and after.

    ``x̃_q = (x * h_q - m_q) / σ_q``, ``x_j = ρ(N(Σ_q x̃_q * g_{v_j,q}))`` with N a batch normalization per v_j
    (paper, section 4.2). m_q and σ_q are taken over batch, attributes and all positions u, before the stride.

    Without an inner ELU both steps are linear: h, the inner normalization and g compose to one filter
    ``w_{v_j}(u, v) = Σ_q h_q(u) g_{v_j,q}(v) / σ_q``, in training too, since m_q and σ_q follow from the moments of
    the spatial patches of x (`hcnn.functional.patch_moments`). The Q arrays x * h_q are never formed. With
    `inner_elu` (the paper's "(+)") the same moments give the normalization before x * h_q is formed.

    Law: see `hcnn.layers`. Under zeros a constant -m_q/σ_q reaches the output through the taps inside the border, so
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
        average_oldest: return x_j averaged over its oldest attribute.
        method: "auto", "dense", "spectral" or "native"; see `hcnn.functional.attribute_conv`.
        label: what errors call this layer; its class by default.

    Shapes:
        h (Q, *ku), g (K, Q, *kv); x (b, *v, *u); returns (b, *v', K, *u').

    Raises:
        ValueError: at construction for even supports, wrong counts or numbers, or an unknown method; in forward for
            axes, sizes or types that do not fit.

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
        average_oldest: bool = False,
        method: Method = "auto",
        label: str | None = None,
    ) -> None:
        geometry = Geometry.checked(
            label or type(self).__name__, attribute_support, spatial_support, stride, boundary, averaged
        )
        super().__init__(geometry, method=method, average_oldest=average_oldest)
        check_number(filters, 1, f"{geometry.label}: filters")
        check_number(rank, 1, f"{geometry.label}: rank")
        self.inner_elu = inner_elu
        self.h = nn.Parameter(torch.empty(rank, *geometry.spatial_support))
        self.g = nn.Parameter(torch.empty(filters, rank, *geometry.attribute_support))
        # Holds the statistics of x * h_q as BatchNorm does; its own forward is never called.
        self.inner_norm = nn.BatchNorm1d(rank, affine=inner_affine)
        self.norm = nn.BatchNorm1d(filters)
        nn.init.normal_(self.h, std=self.h[0].numel() ** -0.5)
        nn.init.normal_(self.g, std=self.g[0].numel() ** -0.5)

    def compute(self, x: Tensor, average_oldest: bool) -> Tensor:
        """x_j, averaged over its oldest attribute or not."""
        geometry = self.geometry
        x = enter(x, geometry, self.h.dtype)
        scale, shift = self._inner_statistics(x)
        if self.inner_elu:
            h = scale_rows(self.h, scale)
            y = attribute_plus_step(x, h, shift, self.g, geometry.stride, geometry.boundary, self.method)
        else:
            sizes = x.shape[1 : 1 + geometry.attributes]
            w, bias = compose(self.h, scale, shift, self.g, sizes, geometry.attribute_stride, geometry.boundary)
            y = convolve(x, w, geometry, self.method, bias)
        return normalize_elu(self.norm, y, geometry.spatial, average_oldest)

    def chosen_method(self, sizes: Sequence[int], filters: int, device: str = "cpu", *, native: bool = False) -> Method:
        """As `AttributeLayer.chosen_method`; with an inner ELU the form of the attribute step."""
        if self.inner_elu:
            return plus_method(
                self.g.shape,
                sizes,
                self.geometry.attribute_stride,
                self.geometry.boundary,
                self.method,
                device,
                native=native,
            )
        return super().chosen_method(sizes, filters, device, native=native)

    def multiply_adds(self, inputs: int, outputs: int) -> int:
        """As `AttributeLayer.multiply_adds`; with an inner ELU those of both steps."""
        taps = self.h[0].numel()
        return inputs * len(self.h) * (taps + outputs) if self.inner_elu else super().multiply_adds(inputs, outputs)

    def _inner_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of the inner normalization of x * h_q, and the update of its running statistics."""
        norm = self.inner_norm
        if not batch_statistics(norm):
            return scale_shift(norm, *running(norm))
        patch_mean, covariance = patch_moments(x, self.geometry.spatial_support, boundary=self.geometry.boundary)
        patch_mean, covariance, processes = merge_moments(norm, patch_mean, covariance)
        scale, shift, mean, variance = inner_normalization(
            patch_mean, covariance, self.h.flatten(1), norm.weight, norm.bias, norm.eps
        )
        update_running(norm, mean, variance, processes * x.numel())
        return scale.to(self.h.dtype), shift.to(self.h.dtype)

    def composed_weight(self) -> Tensor:
        """The filters w_{v_j}, (K, *kv, *ku), at the running statistics; only without an inner ELU.

        Returns:
            The sum over q of eq. (8), each term divided by its running deviation.

        Raises:
            ValueError: with an inner ELU, where the factors do not compose.

        """
        if self.inner_elu:
            raise ValueError(f"{self.geometry.label}: with an inner ELU the filters h and g do not compose to w")
        scale = scale_shift(self.inner_norm, *running(self.inner_norm))[0]
        return torch.tensordot(self.g.movedim(1, -1), scale_rows(self.h, scale), dims=1)  # (k, *kv, *ku)


def scale_rows(tensor: Tensor, factor: Tensor) -> Tensor:
    """Multiply each entry of the first axis by its own factor."""
    return tensor * factor.reshape(-1, *[1] * (tensor.ndim - 1))
