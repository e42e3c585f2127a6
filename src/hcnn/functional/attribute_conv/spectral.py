"""The spectral form: a Fourier transform along the attributes makes the convolution one small matrix per frequency.

With X̂ the transform of x along its attributes (lengths n), ``ŵ_k(ω) = Σ_t w_k(t) e^{2πi ω·(t-p)/n}`` and s the
strides, keeping every s-th position folds the frequencies ``ω' + r n/s`` onto ω':

    ŷ_k(ω') = Σ_r ŵ_k(ω' + r n/s) X̂(ω' + r n/s),      y_k(v') = 1/n Σ_{ω'} ŷ_k(ω') e^{2πi ω'·v' s/n}

so each output frequency is a spatial convolution from prod(s) complex channels to K. For real arrays one of each pair
of conjugate frequencies is enough. All of them together are one grouped convolution of real channels.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import Gradient, Once, differentiable, opaque
from hcnn.functional.tiles import tiles


@dataclass(frozen=True)
class SpectralPlan:
    """The constant matrices of one geometry, in float64.

    Attributes:
        analysis: (groups · 2 prod(s), prod(n)): x to real and imaginary parts of its folded frequencies.
        filters: (groups, 2 prod(s), prod(kv)): w to real and imaginary parts of ŵ at the same frequencies.
        synthesis: (prod(n'), groups · 2): real and imaginary parts of ŷ to y.
        groups: number of output frequencies kept, one of each conjugate pair.
    """

    analysis: np.ndarray
    filters: np.ndarray
    synthesis: np.ndarray
    groups: int


def period(size: int, support: int, stride: int, boundary: Boundary) -> int:
    """Length of the periodic axis that a convolution along an axis is embedded in.

    A periodic axis is its own. With zeros, the reach of the filter on one side is appended, so that nothing wraps
    from one end to the other; rounded up to a multiple of the stride.

    Example:
        >>> period(16, 11, 2, "circular"), period(16, 11, 2, "zeros")
        (16, 22)
    """
    return size if boundary == "circular" else math.ceil((size + support // 2) / stride) * stride


@lru_cache(maxsize=64)
def spectral_plan(
    sizes: tuple[int, ...], support: tuple[int, ...], stride: tuple[int, ...], boundary: Boundary
) -> SpectralPlan:
    """Build the matrices of one geometry.

    Args:
        sizes: lengths of the attribute axes of x.
        support: odd filter supports along them.
        stride: strides along them, dividing the sizes.
        boundary: "zeros" or "circular".

    Returns:
        The plan; cached, as it depends on the geometry only.
    """
    periods = [period(n, k, s, boundary) for n, k, s in zip(sizes, support, stride, strict=True)]
    folded = [n // s for n, s in zip(periods, stride, strict=True)]  # output frequencies along each axis
    positions = np.array(list(itertools.product(*map(range, sizes)))).reshape(-1, len(sizes))
    taps = np.array(list(itertools.product(*map(range, support)))).reshape(-1, len(sizes)) - np.array(support) // 2
    outputs = np.array(list(itertools.product(*(range(n // s) for n, s in zip(sizes, stride, strict=True))))).reshape(
        -1, len(sizes)
    )
    analysis, filters, synthesis = [], [], []
    for omega in itertools.product(*map(range, folded)):
        conjugate = tuple(-w % n for w, n in zip(omega, folded, strict=True))
        if conjugate < omega:
            continue
        for alias in itertools.product(*map(range, stride)):
            turns = np.array([(w + r * m) / n for w, r, m, n in zip(omega, alias, folded, periods, strict=True)])
            phase = 2 * np.pi * (positions @ turns)
            analysis += [np.cos(phase), -np.sin(phase)]
            phase = 2 * np.pi * (taps @ turns)
            filters += [np.cos(phase), np.sin(phase)]
        phase = 2 * np.pi * (outputs @ np.array([w / n for w, n in zip(omega, folded, strict=True)]))
        weight = (1 if conjugate == omega else 2) / math.prod(periods)
        synthesis += [weight * np.cos(phase), -weight * np.sin(phase)]
    groups = len(synthesis) // 2
    rows = 2 * math.prod(stride)
    return SpectralPlan(
        np.stack(analysis), np.stack(filters).reshape(groups, rows, len(taps)), np.stack(synthesis, 1), groups
    )


def spectral_weight(weight: Tensor, sizes: tuple[int, ...], stride: tuple[int, ...], boundary: Boundary) -> Tensor:
    """The grouped spatial convolution that stands for filters w.

    Real and imaginary parts follow the complex product: (re, im) of ŷ from (re, im) of X̂ by [[a, -b], [b, a]].

    Args:
        weight: (k, *kv, *ku).
        sizes: lengths of the attribute axes of x.
        stride: strides along them.
        boundary: of the attribute axes.

    Returns:
        (groups · 2 k, 2 prod(s), *ku).
    """
    support, spatial = weight.shape[1 : 1 + len(sizes)], weight.shape[1 + len(sizes) :]
    _, basis, _ = _constants(sizes, tuple(support), stride, boundary, weight.dtype, weight.device)
    return _complex_products(weight.flatten(1, len(sizes)).flatten(2), basis).reshape(-1, basis.shape[1], *spatial)


def plus_transforms(
    g: Tensor, sizes: tuple[int, ...], stride: tuple[int, ...], boundary: Boundary
) -> tuple[Tensor, Tensor, Tensor]:
    """The attribute step of HCNN(+) per frequency: ``synthesis (matrix (analysis z))``.

    Args:
        g: (k, q, *kv).
        sizes: lengths of the attribute axes of z.
        stride: strides along them.
        boundary: of the attribute axes.

    Returns:
        analysis (groups · 2 prod(s), prod(n)), matrix (groups, 2 k, 2 prod(s) · q), synthesis (prod(n'), groups · 2).

    Example:
        >>> [tuple(one.shape) for one in plus_transforms(torch.randn(5, 3, 3), (8,), (2,), "circular")]
        [(12, 8), (3, 10, 12), (4, 6)]
    """
    analysis, basis, synthesis = _constants(sizes, tuple(g.shape[2:]), stride, boundary, g.dtype, g.device)
    matrix = _complex_products(g.flatten(2).transpose(1, 2), basis)
    return analysis, matrix.reshape(len(basis), 2 * len(g), -1), synthesis


def _complex_products(weight: Tensor, basis: Tensor) -> Tensor:
    """Filters (k, t, d) to the real form of their product with a spectrum: (g, 2, k, s, 2, d)."""
    with torch.autocast(weight.device.type, enabled=False):
        parts = torch.einsum("grt,ktd->gkrd", basis, weight)
    real, imaginary = parts.unflatten(2, (-1, 2)).unbind(3)  # (g, k, s, d) each
    upper = torch.stack([real, -imaginary], 3)  # (g, k, s, 2, d): to the real part
    lower = torch.stack([imaginary, real], 3)  # to the imaginary part
    return torch.stack([upper, lower], 1)


def frequency_groups(sizes: Sequence[int], support: Sequence[int], stride: Sequence[int], boundary: Boundary) -> int:
    """Output frequencies of a geometry, one of each conjugate pair.

    Example:
        >>> frequency_groups((8, 16), (7, 11), (2, 2), "circular")
        18
    """
    folded = [period(n, k, s, boundary) // s for n, k, s in zip(sizes, support, stride, strict=True)]
    own = math.prod([2 if n % 2 == 0 else 1 for n in folded])  # frequencies that are their own conjugates
    return (math.prod(folded) + own) // 2


def spectral_multiply_adds(
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
    filters: int,
    taps: int,
    *,
    rank: int = 1,
) -> int:
    """Multiply-adds per spatial position (of a layer without spatial stride) in the spectral form.

    Args:
        sizes: lengths of the attribute axes of x.
        support: filter supports along them.
        stride: strides along them.
        boundary: "zeros" or "circular".
        filters: K.
        taps: number of spatial taps.
        rank: arrays that each filter sums over, Q in the attribute step of HCNN(+), which has one tap.

    Returns:
        Those of analysis, grouped convolution and synthesis.

    Example:
        >>> spectral_multiply_adds((8, 16), (7, 11), (2, 2), "circular", 16, 9)
        78336
    """
    groups = frequency_groups(sizes, support, stride, boundary)
    rows = 2 * math.prod(stride) * rank
    outputs = math.prod([n // s for n, s in zip(sizes, stride, strict=True)])
    return groups * (rows * math.prod(sizes) + rows * 2 * filters * taps + 2 * filters * outputs)


def spectral_conv(
    x: Tensor,
    grouped: Tensor,
    bias: Tensor | None,
    support: Sequence[int],
    stride: Sequence[int],
    margins: Sequence[int],
    boundary: Boundary,
) -> Tensor:
    """`hcnn.functional.attribute_conv` in its spectral form.

    Neither the spectrum of x nor that of y is kept for the gradient; both are formed again, some images at a time.

    Args:
        x: (b, *v, *u), already extended along u where `margins` are 0.
        grouped: of `spectral_weight`.
        bias: (*v', k), or None.
        support: of the filters along the attributes.
        stride: one per axis of (*v, *u).
        margins: how far zeros extend x along u.
        boundary: of the attribute axes.

    Returns:
        (b, *v', k, *u').
    """
    n = x.ndim - 1 - len(margins)
    sizes = tuple(x.shape[1 : 1 + n])
    analysis, _, synthesis = _constants(sizes, tuple(support), tuple(stride[:n]), boundary, x.dtype, x.device)
    filters = grouped.shape[0] // synthesis.shape[1]
    flat = None if bias is None else bias.reshape(-1).to(x.dtype)
    inputs = x.flatten(1, n), grouped.to(x.dtype), flat, analysis, synthesis, [*stride[n:]], [*margins]
    y = differentiable(torch.ops.hcnn.spectral_conv, _SpectralConv, *inputs)
    outputs = [size // s for size, s in zip(sizes, stride, strict=False)]
    return y.reshape(len(x), *outputs, filters, *y.shape[2:])


@torch.compiler.assume_constant_result
def _constants(
    sizes: tuple[int, ...],
    support: tuple[int, ...],
    stride: tuple[int, ...],
    boundary: Boundary,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """Analysis, filters and synthesis of a geometry on a device; constants to a compiler, which looks at no cache."""
    return _cached(sizes, support, stride, boundary, dtype, device)


@lru_cache(maxsize=256)
def _cached(
    sizes: tuple[int, ...],
    support: tuple[int, ...],
    stride: tuple[int, ...],
    boundary: Boundary,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, ...]:
    plan = spectral_plan(sizes, support, stride, boundary)
    with torch.inference_mode(False):  # they outlive the mode they are first needed in
        return tuple(
            torch.as_tensor(one, dtype=dtype, device=device) for one in (plan.analysis, plan.filters, plan.synthesis)
        )


def _convolve(x: Tensor, weight: Tensor, stride: list[int], margins: list[int], groups: int) -> Tensor:
    one, none = [1] * len(stride), [0] * len(stride)
    return torch.ops.aten.convolution(x, weight, None, stride, margins, one, False, none, groups)


# A custom operator: autograd would keep the spectra, and a compiler would take the loop apart.
def _spectral_conv(
    x: Tensor,
    grouped: Tensor,
    bias: Tensor | None,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margins: list[int],
) -> Tensor:
    """(b, v, *u) -> (b, v'·k, *u'); `grouped` as `spectral_weight` makes it, bias (v'·k,)."""
    groups, space, outputs = synthesis.shape[1] // 2, x.shape[2:], synthesis.shape[0]
    filters = grouped.shape[0] // (2 * groups)
    result = x.new_empty(0)
    for part in tiles(len(x), len(x) * grouped.shape[0] * space.numel(), device=x.device.type):
        spectrum = (analysis @ x[part].flatten(2)).unflatten(2, space)  # (n, g·2s, *u)
        y = _convolve(spectrum, grouped, stride, margins, groups)  # (n, g·2k, *u')
        if part.start == 0:
            result = x.new_empty(len(x), outputs * filters, *y.shape[2:])
        target = result[part].view(len(y), outputs, -1)
        torch.matmul(synthesis, y.reshape(len(y), 2 * groups, -1), out=target)  # (n, v', k·u')
        if bias is not None:
            target.view(len(y), outputs * filters, -1).add_(bias[:, None])
    return result


_spectral_conv_operator = opaque("hcnn::spectral_conv", _spectral_conv)


@_spectral_conv_operator.register_fake
def _(
    x: Tensor,
    grouped: Tensor,
    bias: Tensor | None,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margins: list[int],
) -> Tensor:
    space = [
        (n + 2 * m - k) // s + 1 for n, m, k, s in zip(x.shape[2:], margins, grouped.shape[2:], stride, strict=True)
    ]
    return x.new_empty(x.shape[0], synthesis.shape[0] * grouped.shape[0] // synthesis.shape[1], *space)


def _spectral_conv_backward(
    grad: Tensor,
    x: Tensor,
    grouped: Tensor,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margins: list[int],
) -> tuple[Tensor, Tensor]:
    """Gradients for x and the grouped weight."""
    groups, space, outputs = synthesis.shape[1] // 2, x.shape[2:], synthesis.shape[0]
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    kind = torch.promote_types(x.dtype, torch.float32)
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
    return to_x, to_weight.to(grouped.dtype)


_spectral_conv_backward_operator = opaque("hcnn::spectral_conv_backward", _spectral_conv_backward)


@_spectral_conv_backward_operator.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    grouped: Tensor,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margins: list[int],
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(grouped)


class _SpectralConvGradient(Once):
    forward = staticmethod(_spectral_conv_backward)  # pyright: ignore


class _SpectralConv(Gradient):
    @staticmethod
    def forward(
        x: Tensor,
        grouped: Tensor,
        bias: Tensor | None,
        analysis: Tensor,
        synthesis: Tensor,
        stride: list[int],
        margins: list[int],
    ) -> Tensor:
        return _spectral_conv(x, grouped, bias, analysis, synthesis, stride, margins)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, grouped, bias, analysis, synthesis, ctx.stride, ctx.margins = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, grouped, analysis, synthesis)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        to_x, to_weight = differentiable(
            torch.ops.hcnn.spectral_conv_backward,
            _SpectralConvGradient,
            grad,
            *ctx.saved_tensors,
            ctx.stride,
            ctx.margins,
        )
        to_bias = grad.flatten(2).sum((0, 2)) if ctx.biased else None
        return to_x, to_weight, to_bias, None, None, None, None


_spectral_conv_operator.register_autograd(_SpectralConv.backward, setup_context=_SpectralConv.setup_context)
