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
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.dtypes import exactly


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
    """The weight of the grouped spatial convolution that equals filters w in the spectral form.

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
    _, basis, _ = constants(weight, sizes, tuple(support), stride, boundary)
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
    analysis, basis, synthesis = constants(g, sizes, tuple(g.shape[2:]), stride, boundary)
    matrix = _complex_products(g.flatten(2).transpose(1, 2), basis)
    return analysis.clone(), matrix.reshape(len(basis), 2 * len(g), -1), synthesis.clone()


def _complex_products(weight: Tensor, basis: Tensor) -> Tensor:
    """Filters (k, t, d) to the real form of their product with a spectrum: (g, 2, k, s, 2, d)."""
    with exactly(weight):
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


def constants(
    like: Tensor, sizes: tuple[int, ...], support: tuple[int, ...], stride: tuple[int, ...], boundary: Boundary
) -> tuple[Tensor, Tensor, Tensor]:
    """Analysis, filters and synthesis of a geometry in the type and on the device of a tensor; not to be changed.

    A compiler sees an operator in place of the cache, and so does whatever looks at shapes without values.
    """
    if torch.compiler.is_compiling() or type(like) not in (Tensor, torch.nn.Parameter):
        return _constants_operator(sizes, support, stride, boundary, like.dtype, like.device)
    return _cached(sizes, support, stride, boundary, like.dtype, like.device)


@lru_cache(maxsize=256)
def _cached(
    sizes: tuple[int, ...],
    support: tuple[int, ...],
    stride: tuple[int, ...],
    boundary: Boundary,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    plan = spectral_plan(sizes, support, stride, boundary)
    with torch.inference_mode(False):  # they outlive the mode they are first needed in
        analysis, filters, synthesis = (
            torch.as_tensor(one, dtype=dtype, device=device) for one in (plan.analysis, plan.filters, plan.synthesis)
        )
    return analysis, filters, synthesis


@torch.library.custom_op("hcnn::spectral_constants", mutates_args=())
def _constants_operator(
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    boundary: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    found = _cached(tuple(sizes), tuple(support), tuple(stride), cast(Boundary, boundary), dtype, device)
    analysis, filters, synthesis = (one.clone() for one in found)  # a compiled program may write into its results
    return analysis, filters, synthesis


@_constants_operator.register_fake
def _(
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    boundary: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    groups = frequency_groups(sizes, support, stride, cast(Boundary, boundary))
    rows, outputs = 2 * math.prod(stride), math.prod([n // s for n, s in zip(sizes, stride, strict=True)])
    shapes = (groups * rows, math.prod(sizes)), (groups, rows, math.prod(support)), (outputs, 2 * groups)
    analysis, filters, synthesis = (torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
    return analysis, filters, synthesis
