"""The convolution of the spectral form: transform along the attributes, convolve per frequency, transform back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.attribute_conv.spectral import constants
from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import autocast, wide
from hcnn.functional.tiles import tiles


def spectral_conv(
    x: Tensor,
    grouped: Tensor,
    bias: Tensor | None,
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    margins: Sequence[int],
    boundary: Boundary,
) -> Tensor:
    """`hcnn.functional.attribute_conv` in its spectral form.

    Neither the spectrum of x nor that of y is kept for the gradient; both are formed again, some images at a time.

    Args:
        x: (b, v, *u), already extended along u where `margins` are 0; v all attributes flattened.
        grouped: of `spectral_weight`.
        bias: (v' · k,), or None.
        sizes: lengths of the attribute axes.
        support: of the filters along the attributes.
        stride: one per axis of (*v, *u).
        margins: how far zeros extend x along u.
        boundary: of the attribute axes.

    Returns:
        (b, v' · k, *u').
    """
    x = autocast(x)
    n = len(sizes)
    analysis, _, synthesis = constants(x, tuple(sizes), tuple(support), tuple(stride[:n]), boundary)
    if bias is None:
        bias = x.new_zeros(synthesis.shape[0] * grouped.shape[0] // synthesis.shape[1])
    return _spectral_conv(
        x, grouped.to(x.dtype), bias.to(x.dtype), analysis, synthesis, [*stride[n:]], [*margins]
    )  # fmt: skip


def _forward(
    x: Tensor,
    grouped: Tensor,
    bias: Tensor,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margins: list[int],
) -> Tensor:
    """(b, v, *u) -> (b, v'·k, *u'); `grouped` as `spectral_weight` makes it."""
    groups, space, outputs = synthesis.shape[1] // 2, x.shape[2:], synthesis.shape[0]
    one, none = [1] * len(stride), [0] * len(stride)
    result = _fake(x, grouped, bias, analysis, synthesis, stride, margins)
    for part in tiles(len(x), len(x) * grouped.shape[0] * space.numel(), device=x.device.type):
        spectrum = (analysis @ x[part].flatten(2)).unflatten(2, space)  # (n, g·2s, *u)
        y = torch.ops.aten.convolution(spectrum, grouped, None, stride, margins, one, False, none, groups)
        target = result[part].view(len(y), outputs, -1)
        torch.matmul(synthesis, y.reshape(len(y), 2 * groups, -1), out=target)  # (n, v', k·u')
        target.view(len(y), len(bias), -1).add_(bias[:, None])
    return result


def _backward(
    grad: Tensor,
    x: Tensor,
    grouped: Tensor,
    bias: Tensor,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margins: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, the grouped weight and the bias."""
    groups, space, outputs = synthesis.shape[1] // 2, x.shape[2:], synthesis.shape[0]
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    kind = wide(x.dtype)
    to_weight = torch.zeros_like(grouped, dtype=kind)
    one, none, backward = [1] * len(stride), [0] * len(stride), torch.ops.aten.convolution_backward
    for part in tiles(len(x), len(x) * grouped.shape[0] * space.numel(), device=x.device.type):
        spectrum = (analysis @ x[part].flatten(2)).unflatten(2, space)
        g = synthesis.T @ grad[part].reshape(len(spectrum), outputs, -1)  # (n, g·2, k·u')
        g = g.view(len(spectrum), grouped.shape[0], *grad.shape[2:])
        # The weights' gradient in float32 at least: exact sums, and in bfloat16 this convolution is slower.
        settings = None, stride, margins, one, False, none, groups
        if kind == x.dtype:
            to_spectrum, weights, _ = backward(g, spectrum, grouped, *settings, [True, True, False])
        else:
            to_spectrum, _, _ = backward(g, spectrum, grouped, *settings, [True, False, False])
            _, weights, _ = backward(g.to(kind), spectrum.to(kind), grouped.to(kind), *settings, [False, True, False])
        to_weight += weights
        torch.matmul(analysis.T, to_spectrum.flatten(2), out=to_x[part].flatten(2))
    return to_x, to_weight.to(grouped.dtype), grad.flatten(2).sum((0, 2))


def _fake(x: Tensor, grouped: Tensor, bias: Tensor, analysis, synthesis, stride, margins) -> Tensor:
    along = zip(x.shape[2:], margins, grouped.shape[2:], stride, strict=True)
    return x.new_empty(x.shape[0], len(bias), *((n + 2 * m - k) // s + 1 for n, m, k, s in along))


_spectral_conv = define_operator("spectral_conv", _forward, _backward, _fake)
