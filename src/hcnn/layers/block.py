"""A block for other people's networks: channels in, channels out, attribute convolution between."""

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

from torch import Tensor, nn

from hcnn.functional import Boundary
from hcnn.layers.factorized import FactorizedConv


class AttributeBlock(nn.Module):
    r"""A 3×3 convolution, its batch normalization and its non-linearity, with the channels taken as attributes.

    The channels of an ordinary tensor (b, c, *u) are read as an array of attributes (b, v_1 … v_n, *u) without a copy.
    A `FactorizedConv` averages v_1 out, convolves along the others and adds a new attribute, with strides such that
    the result has the sizes of the input again; eq. (6) and (8) of the paper. The order of the channels of the layer
    before is then no longer arbitrary: it is learned.

    Law: translating the input by ``(n_{i} / n_{i-1}) · τ`` along v_i translates the output by τ along its axis i - 1
    (see `hcnn.layers`); along u it is covariant as any convolution.

    Args:
        attributes: (n_1 … n_n), two or more; each divides the next, their product is the number of channels.
        support: odd filter support along each of v_2 … v_n.
        rank: Q, the number of separable terms.
        spatial_support: odd support along each spatial axis; its length says how many there are.
        stride: spatial stride.
        boundary: "zeros" or "circular", on every axis.
        inner_elu: an ELU between the two steps, HCNN(+).

    Shapes:
        x (b, c, *u); returns (b, c, *u') with c = prod(attributes).

    Raises:
        ValueError: if an attribute does not divide the next, or x has another number of channels.

    Example:
        >>> import torch
        >>> block = AttributeBlock((2, 4, 8), support=(5, 7), rank=16)
        >>> block(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
        >>> sum(p.numel() for p in block.parameters()), sum(p.numel() for p in nn.Conv2d(64, 64, 3).parameters())
        (4640, 36928)

    """

    def __init__(
        self,
        attributes: Sequence[int],
        *,
        support: Sequence[int],
        rank: int = 16,
        spatial_support: Sequence[int] = (3, 3),
        stride: int = 1,
        boundary: Boundary = "zeros",
        inner_elu: bool = False,
    ) -> None:
        super().__init__()
        for name, given in (
            ("sizes of the attributes", attributes),
            ("a support for each attribute", support),
            ("a support for each spatial axis", spatial_support),
        ):
            if not isinstance(given, Sequence):
                raise ValueError(f"AttributeBlock: expected {name}, as a tuple; got {given!r}")
        self.attributes = tuple(attributes)
        if len(self.attributes) < 2 or any(not isinstance(n, Integral) or n < 1 for n in self.attributes):
            raise ValueError(f"AttributeBlock: expected sizes of two or more attributes; got {self.attributes}")
        if any(after % before for before, after in pairwise(self.attributes)):
            raise ValueError(f"AttributeBlock: expected attributes that divide the next one; got {self.attributes}")
        if len(support) != len(self.attributes) - 1:
            raise ValueError(
                f"AttributeBlock: expected a support for each attribute but the first of {self.attributes}; "
                f"got {tuple(support)}"
            )
        self.conv = FactorizedConv(
            self.attributes[-1],
            rank,
            attribute_support=support,
            spatial_support=spatial_support,
            stride=(
                *(after // before for before, after in pairwise(self.attributes)),
                *[stride] * len(spatial_support),
            ),
            boundary=boundary,
            averaged=1,
            inner_elu=inner_elu,
            label="AttributeBlock",
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *u) -> (b, c, *u')."""
        channels, spatial = math.prod(self.attributes), self.conv.geometry.spatial
        if not isinstance(x, Tensor) or x.ndim != 2 + spatial or x.shape[1] != channels:
            axes = ", ".join(["b", "c", *(f"u{i + 1}" for i in range(spatial))])
            came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"AttributeBlock: expected ({axes}) with c = {channels} channels, as the attributes {self.attributes} "
                f"have; got {came}"
            )
        y = self.conv(x.reshape(x.shape[0], *self.attributes, *x.shape[2:]))  # (b, *v, *u)
        return y.flatten(1, len(self.attributes))
