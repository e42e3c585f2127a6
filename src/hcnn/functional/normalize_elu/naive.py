"""Batch normalization and ELU in plain PyTorch: the reference implementation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.dtypes import wide


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
