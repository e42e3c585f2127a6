"""The inner step of HCNN(+), in two exact forms, and which code computes each."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hcnn.functional.axes import Boundary
from hcnn.functional.backend import available, choose
from hcnn.functional.dtypes import autocast, exactly
from hcnn.functional.plus_step import naive, tiled, triton_op


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: Sequence[int] = (1, 1),
    boundary: Boundary = "zeros",
    *,
    bands: Sequence[int] | None = None,
) -> Tensor:
    """The inner step of HCNN(+), ``y(o, u) = Σ_{v,q} matrix(o, v q) ELU((x_v * h_q)(u) + shift_q)``.

    No form keeps the Q-fold intermediate for the backward pass; the Triton kernel never writes it.

    Args:
        x: (b, v, *u), v all attributes flattened.
        h: (q, *ku), the inner scale folded in; the Triton kernel takes 3×3 only.
        shift: (q,).
        matrix: (o, v · q), o all output attributes flattened; `hcnn.functional.dense_weight` of g makes it.
        stride: along u.
        boundary: "zeros" or "circular", along u.
        bands: blocks of the matrix outside of which it is zero, as `hcnn.functional.bands` finds them; on a CPU the
            others are skipped.

    Returns:
        (b, o, *u'), in the type of x; under autocast that is autocast's.

    Example:
        >>> plus_step(torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3), torch.zeros(4), torch.randn(5, 32), (2, 2)).shape
        torch.Size([2, 5, 3, 3])

    """
    x = autocast(x)
    blocks = [0, len(matrix), 0, matrix.shape[1]] if bands is None else [*bands]
    kernel = h.shape[1:] == (3, 3) and available(x) and _counted(x, matrix, stride)
    with exactly(x):
        form = choose(
            x,
            _in_parts(naive.plus_step),
            cpu=tiled.plus_step,
            triton=triton_op.plus_step if kernel else None,
        )
        return form(x, h, shift, matrix, stride, boundary, blocks)


def spectral_plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    analysis: Tensor,
    matrix: Tensor,
    synthesis: Tensor,
    stride: Sequence[int] = (1, 1),
    boundary: Boundary = "zeros",
) -> Tensor:
    """The inner step of HCNN(+) per frequency of the attributes: `plus_step` with another matrix for each of them.

    Args:
        x: (b, v, *u), v all attributes flattened.
        h: (q, *ku), the inner scale folded in.
        shift: (q,).
        analysis: (groups · 2 s, v), with s the product of the attribute strides.
        matrix: (groups, 2 k, 2 s · q).
        synthesis: (v', groups · 2); `hcnn.functional.plus_transforms` of g makes all three.
        stride: along u.
        boundary: "zeros" or "circular", along u.

    Returns:
        (b, v' · k, *u'), in the type of x; under autocast that is autocast's.

    Example:
        >>> from hcnn.functional import plus_transforms
        >>> transforms = plus_transforms(torch.randn(5, 4, 3), (8,), (2,), "circular")
        >>> spectral_plus_step(torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3), torch.zeros(4), *transforms).shape
        torch.Size([2, 20, 6, 6])

    """
    x = autocast(x)
    with exactly(x):
        form = choose(x, _in_parts(naive.spectral_plus_step), cpu=tiled.spectral_plus_step)
        return form(x, h, shift, analysis, matrix, synthesis, stride, boundary)


def _counted(x: Tensor, matrix: Tensor, stride: Sequence[int]) -> bool:
    """Whether the Triton kernel can count the result, and the gradients of one image's patches, in 32 bits."""
    positions = math.prod([(n - 1) // s + 1 for n, s in zip(x.shape[2:], stride, strict=True)])  # a list, for Dynamo
    return max(len(x) * len(matrix), x.shape[1] * 9) * positions < 2**31


def _in_parts(step: Callable[..., Tensor], images: int = 8) -> Callable[..., Tensor]:
    """A step for some images at a time, which keeps no intermediate for the backward pass."""

    def run(x: Tensor, *given: Any) -> Tensor:
        return torch.cat([checkpoint(step, part, *given, use_reentrant=False) for part in x.split(images)])

    return run
