"""Kernels: in Triton for GPUs, in cache-sized tiles for CPUs, their plain PyTorch twins, and the choice between them.

Where a profile of these networks on a GPU would show memory traffic and not arithmetic: `patch_moments` in one pass
over x, `batch_normalize_elu` with the mean over the oldest attribute that the next layer takes first, and `plus_step`,
the inner step of HCNN(+) without its Q-fold intermediate. Every function here takes the Triton kernel where
`available` says so, the tiled form of `hcnn.kernels.tiled` on a CPU, and otherwise its twin in
`hcnn.kernels.reference`; the package works without Triton.

The kernels have been held to their twins in Triton's interpreter and compiled for compute capability 9.0 without a
GPU; they have not been run, and so not been timed, on one.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from hcnn.functional.axes import Boundary

_TRITON = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: its kernels then run on the CPU
_enabled = True


def available(x: Tensor) -> bool:
    """Whether the Triton kernels take a tensor: on CUDA (or in Triton's interpreter), float32 or bfloat16.

    Args:
        x: what a function of this module would be given.

    Returns:
        False without Triton, inside `disabled`, for other types, and for 2³¹ elements or more.

    Example:
        >>> available(torch.zeros(3, dtype=torch.float16))
        False

    """
    return (
        _enabled
        and _TRITON
        and (x.is_cuda or _INTERPRETED)
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() < 2**31
    )


@contextmanager
def disabled() -> Iterator[None]:
    """Use the twins only, inside this block; for comparisons.

    Example:
        >>> with disabled():
        ...     available(torch.zeros(3))
        False

    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


# They use `hcnn.functional`, which asks `available`: it comes first.
from hcnn.functional.axes import pad_spatial  # noqa: E402
from hcnn.kernels import moments, normalize, plus, reference, tiled  # noqa: E402


def patch_moments(x: Tensor, boundary: "Boundary" = "zeros") -> tuple[Tensor, Tensor]:
    """Mean and covariance of all 3×3 patches of an array, as `hcnn.functional.patch_moments` takes them.

    Args:
        x: (..., u1, u2).
        boundary: "zeros" or "circular".

    Returns:
        mean (9,) and covariance (9, 9), float32 or wider.

    Example:
        >>> mean, covariance = patch_moments(torch.ones(2, 4, 4), "circular")
        >>> mean.sum().item(), covariance.abs().sum().item()
        (9.0, 0.0)

    """
    return moments.patch_moments(x, boundary) if available(x) else reference.patch_moments(x, boundary)


def channel_statistics(y: Tensor, spatial: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per value of the newest attribute, reading y once.

    Args:
        y: (b, *v, k, *u), channels first or channels last.
        spatial: number of spatial axes.

    Returns:
        mean (k,) and variance (k,), float32 or wider.

    Example:
        >>> channel_statistics(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]), 1)
        (tensor([2., 5.]), tensor([1., 0.]))

    """
    return (normalize if available(y) else reference).channel_statistics(y, spatial)


def normalize_elu(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool = False) -> Tensor:
    """``ELU(scale_k y + shift_k)``, averaged over the oldest attribute if wanted; keeps y only for its gradient.

    Args:
        y: (b, *v, k, *u), channels first or channels last; the result lies as y does.
        scale: (k,).
        shift: (k,).
        spatial: number of spatial axes.
        average_oldest: whether to average over axis 1, as the next layer does first, eq. (6).

    Returns:
        (b, *v, k, *u) without axis 1 if averaged, in the type of y.

    Example:
        >>> y = torch.tensor([[[[1.0], [-1.0]], [[3.0], [-1.0]]]])       # b v1 k u
        >>> normalize_elu(y, torch.ones(2), torch.tensor([0.0, 1.0]), 1, average_oldest=True)
        tensor([[[2.],
                 [0.]]])

    """
    return (normalize if available(y) else reference).normalize_elu(y, scale, shift, spatial, average_oldest)


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`channel_statistics` and `normalize_elu` as one batch normalization, whose backward pass is fused too.

    Args:
        y: (b, *v, k, *u), channels first or channels last.
        weight: (k,).
        bias: (k,).
        eps: added to the variance.
        spatial: number of spatial axes.
        average_oldest: whether to average over axis 1.

    Returns:
        What `normalize_elu` returns; mean and biased variance, for running statistics, without gradient.

    Example:
        >>> out, mean, variance = batch_normalize_elu(torch.randn(2, 4, 8, 8), torch.ones(4), torch.zeros(4), 1e-5, 2)
        >>> out.shape, mean.shape
        (torch.Size([2, 4, 8, 8]), torch.Size([4]))

    """
    chosen = normalize if available(y) else tiled if y.device.type == "cpu" else reference
    return chosen.batch_normalize_elu(y, weight, bias, eps, spatial, average_oldest)


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: Sequence[int] = (1, 1),
    boundary: "Boundary" = "zeros",
    *,
    bands: Sequence[int] | None = None,
    transforms: tuple[Tensor, Tensor] | None = None,
    images: int = 8,
) -> Tensor:
    """The inner step of HCNN(+), ``y(o, u) = Σ_{v,q} matrix(o, v q) ELU((x_v * h_q)(u) + shift_q)``.

    Neither way keeps the Q-fold intermediate for the backward pass; the kernel never writes it.

    Args:
        x: (b, v, *u), v all attributes flattened.
        h: (q, *ku), the inner scale folded in; the Triton kernel takes 3×3, and others go to the twin.
        shift: (q,).
        matrix: (o, v · q), o all output attributes flattened; `hcnn.functional.dense_weight` of g makes it.
        stride: along u.
        boundary: "zeros" or "circular", along u.
        bands: blocks of the matrix outside of which it is zero, as `hcnn.functional.bands` finds them; on a CPU the
            others are skipped.
        transforms: analysis and synthesis of `hcnn.functional.spectral.plus_transforms`, on a CPU only; the matrix is
            then the one that it gives.
        images: how many go through the twin at a time.

    Returns:
        (b, o, *u'), in the type of x; under autocast that is autocast's.

    Example:
        >>> plus_step(torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3), torch.zeros(4), torch.randn(5, 32), (2, 2)).shape
        torch.Size([2, 5, 3, 3])

    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        if available(x) and h.shape[1:] == (3, 3):
            return plus.plus_step(x, h, shift, matrix, stride, boundary)
        if kind == "cpu":
            margins = [k // 2 for k in h.shape[1:]]
            if boundary == "circular":
                x, margins = pad_spatial(x, margins, boundary), [0] * len(margins)
            blocks = [0, len(matrix), 0, matrix.shape[1]] if bands is None else [*bands]
            return tiled.plus_step(x, h, shift, matrix, transforms, [*stride], margins, blocks)
        parts = [
            checkpoint(reference.plus_step, part, h, shift, matrix, stride, boundary, use_reentrant=False)
            for part in x.split(images)
        ]
        return torch.cat(parts)
