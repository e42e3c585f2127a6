"""Batch normalization of attribute arrays: from moments, with running statistics as PyTorch keeps them.

Parameters and running statistics live in ordinary `torch.nn.BatchNorm1d` modules, so that a state dict looks as users
know it. Where a process group is set (`synchronize`), statistics are those of the batches of all its processes, each
of the same size; only the moments travel: P + P² numbers for an inner normalization, 2 K for an outer one.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hcnn.functional import normalize_elu as kernels


def synchronize(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Let all normalizations of a network use the statistics of all processes of a group.

    Args:
        model: any module with `BatchNorm1d` modules that this package's layers use, or the baselines' `BatchNorm`.
        group: the processes, each of which must see batches of the same size; None for this process alone.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            vars(module)["hcnn_group"] = group  # not a parameter, a buffer or a child


class _SumOverGroup(torch.autograd.Function):
    """Sum over all processes; the gradient of a sum that every process uses is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = value.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def mean_over_group(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The mean of a tensor over the processes of a group, with gradients; the tensor itself without a group."""
    if group is None:
        return value
    total = _SumOverGroup.apply(value, group)
    assert isinstance(total, Tensor)
    return total / group.size()


def merge_moments(norm: nn.BatchNorm1d, mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor, int]:
    """Moments over all processes from those of each: mean, central second moment, number of processes.

    ``E = mean of E_i``, ``C = mean of (C_i + (E_i - E)(E_i - E)ᵀ)``, for batches of equal size.

    Args:
        norm: whose group counts.
        mean: (n,) of this process.
        second: covariance (n, n) or variance (n,) of this process.

    Returns:
        The two over all processes, and how many there are.
    """
    group = getattr(norm, "hcnn_group", None)
    if group is None:
        return mean, second, 1
    total = mean_over_group(mean, group)
    off = mean - total
    spread = torch.outer(off, off) if second.ndim == 2 else off * off
    return total, mean_over_group(second + spread, group), group.size()


def normalize_elu(norm: nn.BatchNorm1d, y: Tensor, spatial: int, average_oldest: bool = False) -> Tensor:
    """ELU of a batch normalization per value of the newest attribute, ``ρ(N(y))``.

    Args:
        norm: holds parameters and running statistics.
        y: (b, *v, k, *u).
        spatial: number of spatial axes.
        average_oldest: whether to average over axis 1 at once, as the next layer does first, eq. (6).

    Returns:
        An array of the same shape, without axis 1 if averaged.
    """
    group = getattr(norm, "hcnn_group", None)
    if not batch_statistics(norm):
        return kernels.normalize_elu(y, *scale_shift(norm, *running(norm)), spatial, average_oldest)
    count = y.numel() // norm.num_features
    if group is None:
        out, mean, variance = kernels.batch_normalize_elu(y, norm.weight, norm.bias, norm.eps, spatial, average_oldest)
        update_running(norm, mean, variance, count)
        return out
    mean, variance, processes = merge_moments(norm, *kernels.channel_statistics(y, spatial))
    update_running(norm, mean, variance, processes * count)
    return kernels.normalize_elu(y, *scale_shift(norm, mean, variance), spatial, average_oldest)


def batch_statistics(norm: nn.BatchNorm1d) -> bool:
    """Whether a normalization uses the statistics of the batch now."""
    return norm.training or norm.running_mean is None


def scale_shift(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map ``scale · y + shift`` that a batch normalization with these statistics is."""
    scale = torch.rsqrt(variance.clamp_min(0) + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
        return scale, norm.bias - scale * mean
    return scale, -scale * mean


def running(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Running mean and variance.

    Raises:
        ValueError: if the normalization keeps none.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a normalization without running statistics cannot be folded")
    return norm.running_mean, norm.running_var


def in_double(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """A float64 copy, so that folding rounds once."""
    copy = nn.BatchNorm1d(
        norm.num_features, eps=norm.eps, affine=norm.affine, device=running(norm)[0].device, dtype=torch.float64
    )
    copy.load_state_dict(norm.state_dict())
    return copy


@torch.no_grad()
def update_running(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as `torch.nn.BatchNorm1d` does: unbiased variance, momentum or plain average.

    Args:
        norm: in training mode; nothing happens if it keeps no running statistics.
        mean: of the batch.
        variance: of the batch, biased.
        count: numbers that they were taken from.
    """
    if not norm.training or norm.running_mean is None:
        return
    running_mean, running_var = running(norm)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    step = 1.0 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = variance * (count / max(count - 1, 1))
    for kept, new in ((running_mean, mean), (running_var, unbiased)):
        if kept.dtype == new.dtype:
            kept.lerp_(new, step)
        else:
            kept.copy_(torch.lerp(kept.to(new.dtype), new, step))
