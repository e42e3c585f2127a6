"""Plain PyTorch twins of the kernels: what they compute, written as obviously as can be.

Tests hold the kernels to these; they are also what runs where there is no Triton.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.axes import Boundary, pad_spatial


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over elements of this type are taken in: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def per_value(values: Tensor, spatial: int) -> Tensor:
    """(k,) to (k, 1, …), as it broadcasts against (b, *v, k, *u)."""
    return values.reshape(-1, *[1] * spatial)


def channel_statistics(y: Tensor, spatial: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of y (b, *v, k, *u) per value k, over all other axes; float32 or wider."""
    axes = [axis for axis in range(y.ndim) if axis != y.ndim - 1 - spatial]
    variance, mean = torch.var_mean(y.to(wide(y.dtype)), axes, correction=0)
    return mean, variance


def normalize_elu(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool) -> Tensor:
    """``ELU(scale_k y + shift_k)`` of y (b, *v, k, *u), averaged over axis 1 if `average_oldest`; dtype of y."""
    z = F.elu(y.to(wide(y.dtype)) * per_value(scale, spatial) + per_value(shift, spatial))
    return (z.mean(1) if average_oldest else z).to(y.dtype)


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalization per value k, then ELU, then the mean over axis 1 if `average_oldest`.

    Returns:
        The result in the type of y; mean and biased variance, for running statistics, without gradient.
    """
    mean, variance = channel_statistics(y, spatial)
    scale = weight * torch.rsqrt(variance + eps)
    out = normalize_elu(y, scale, bias - scale * mean, spatial, average_oldest)
    return out, mean.detach(), variance.detach()


def patch_moments(x: Tensor, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9) of all 3×3 patches of x (..., u1, u2), from the patches themselves."""
    height, width = x.shape[-2:]
    padded = pad_spatial(x.reshape(-1, 1, height, width).to(wide(x.dtype)), (1, 1), boundary)
    patches = F.unfold(padded, 3).movedim(1, 0).reshape(9, -1)  # (9, n)
    mean = patches.mean(1)
    off = patches - mean[:, None]
    return mean, off @ off.T / off.shape[1]


def plus_step(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: Sequence[int], boundary: Boundary) -> Tensor:
    """The inner step of HCNN(+): ``y(o, u) = Σ_{v,q} matrix(o, v q) ELU((x_v * h_q)(u) + shift_q)``.

    Args:
        x: (b, v, *u).
        h: (q, *ku), odd supports; the inner scale folded in.
        shift: (q,).
        matrix: (o, v · q).
        stride: along u; outputs are those at every stride-th position.
        boundary: "zeros" or "circular", along u.

    Returns:
        (b, o, *u'), in the type of x.
    """
    b, v, spatial = *x.shape[:2], h.ndim - 1
    conv = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    maps = pad_spatial(x.reshape(b * v, 1, *x.shape[2:]), [k // 2 for k in h.shape[1:]], boundary)
    z = conv(maps, h[:, None].to(x.dtype), stride=tuple(stride)) + per_value(shift, spatial)  # (b·v, q, *u')
    z = F.elu(z).to(x.dtype)
    return (matrix.to(x.dtype) @ z.reshape(b, v * len(h), -1)).unflatten(2, z.shape[2:])
