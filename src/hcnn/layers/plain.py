"""The layer with plain filters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hcnn.functional import Boundary, Method, attribute_conv
from hcnn.layers.base import AttributeLayer, Geometry, check_number, enter
from hcnn.layers.normalization import normalize_elu


class AttributeConv(AttributeLayer):
    r"""Convolution along (u, v) with plain filters, normalization, ELU: ``x_j = ρ(x_{j-1} * w_{v_j})``, eq. (4).

    With `channels` it also sums over an axis of unordered channels, which makes it the first layer of eq. (3).
    Law: see `hcnn.layers`. Sizes along v and u are divided by the strides; those along u
    are rounded up.

    Args:
        filters: K, the number of values of the new attribute.
        attribute_support: odd support along each convolved attribute, oldest first; () for none.
        spatial_support: odd support along each spatial axis; its length says how many there are.
        stride: one for all axes, or one per axis of (*v, *u).
        boundary: "zeros" or "circular", for every axis.
        averaged: how many attributes, older than the convolved ones, are averaged out first, eq. (6).
        channels: size of the channel axis c in (b, *v, c, *u), or None for no such axis.
        average_oldest: return x_j averaged over its oldest attribute.
        method: "auto", "dense", "spectral" or "native"; see `hcnn.functional.attribute_conv`.
        label: what errors call this layer; its class by default.

    Shapes:
        x (b, *v, *u) or (b, *v, c, *u); returns (b, *v', K, *u').

    Raises:
        ValueError: at construction for even supports, wrong counts or numbers, or an unknown method; in forward for
            axes, sizes or types that do not fit.

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
        average_oldest: bool = False,
        method: Method = "auto",
        label: str | None = None,
    ) -> None:
        geometry = Geometry.checked(
            label or type(self).__name__, attribute_support, spatial_support, stride, boundary, averaged, channels
        )
        super().__init__(geometry, method=method, average_oldest=average_oldest)
        check_number(filters, 1, f"{geometry.label}: filters")
        summed = () if channels is None else (channels,)
        self.weight = nn.Parameter(
            torch.empty(filters, *summed, *geometry.attribute_support, *geometry.spatial_support)
        )  # fmt: skip
        self.norm = nn.BatchNorm1d(filters)
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)

    def compute(self, x: Tensor, average_oldest: bool) -> Tensor:
        """x_j, averaged over its oldest attribute or not."""
        y = convolve(enter(x, self.geometry, self.weight.dtype), self.weight, self.geometry, self.method)
        return normalize_elu(self.norm, y, self.geometry.spatial, average_oldest)

    def composed_weight(self) -> Tensor:
        """The filters w_{v_j}, (K, *kv, *ku); here the parameter itself."""
        return self.weight


def convolve(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    method: Method,
    bias: Tensor | None = None,
    **more: Any,
) -> Tensor:
    """`hcnn.functional.attribute_conv` with the geometry of a layer; `more` are further keywords of it."""
    g = geometry
    return attribute_conv(
        x,
        weight,
        bias,
        spatial=g.spatial,
        stride=g.stride,
        boundary=g.boundary,
        channel_axis=g.channels is not None,
        method=method if g.attributes and g.channels is None else "dense",
        **more,
    )
