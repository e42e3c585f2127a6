"""Batch normalization and ELU on a CPU, a few images at a time.

What one operator writes, the next reads from the cache. Only the inputs are kept for the backward pass, which
recomputes whatever is cheaper to recompute than to fetch from memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import exactly, wide
from hcnn.functional.tiles import tiles


def _rows(y: Tensor, part: slice, spatial: int) -> Tensor:
    """Entries of y (b, *v, k, *u) as (n, k, u) in float32 or wider; a view where that is possible."""
    shape = y.shape
    piece = y[part].reshape(-1, shape[-1 - spatial], shape[len(shape) - spatial :].numel())
    return piece.to(wide(y.dtype))


def _like(y: Tensor, average_oldest: bool) -> Tensor:
    """An empty array as y is, or as its mean over the oldest attribute is."""
    return y.new_empty(y.shape[:1] + y.shape[2:]) if average_oldest else y.new_empty(y.shape)


def _forward(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """ELU of a batch normalization per value k, or its mean over axis 1; with mean and biased variance."""
    count = y.numel() // y.shape[-1 - spatial]
    pivot = _rows(y, slice(0, 1), spatial).mean((0, 2))  # E[(y - pivot)²] does not cancel as E[y²] would
    first, second = torch.zeros_like(pivot), torch.zeros_like(pivot)
    for part in tiles(len(y), y.numel()):
        off = _rows(y, part, spatial) - pivot[:, None]
        first += off.sum(-1).sum(0)
        second += off.square_().sum(-1).sum(0)
    mean = first / count
    variance = (second / count - mean * mean).clamp_min_(0)
    mean = mean + pivot
    scale = weight * torch.rsqrt(variance + eps)
    shift = (bias - scale * mean)[:, None]
    out = _like(y, average_oldest)
    for part in tiles(len(y), y.numel()):
        rows, target = _rows(y, part, spatial), out[part]
        if average_oldest:
            z = F.elu_(torch.addcmul(shift, rows, scale[:, None]))  # in the memory order of y
            target.copy_(z.unflatten(0, (len(target), y.shape[1], -1)).mean(1).reshape(target.shape))
        elif out.dtype == rows.dtype:
            F.elu_(torch.addcmul(shift, rows, scale[:, None], out=target.view(rows.shape)))
        else:
            target.view(rows.shape).copy_(F.elu_(torch.addcmul(shift, rows, scale[:, None])))
    return out, mean, variance


def _backward(
    grad: Tensor,
    grad_mean: Tensor,
    grad_variance: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    spatial: int,
    average_oldest: bool,
    mean: Tensor,
    variance: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for y, weight and bias; the normalized array is formed again from y. Mean and variance have none."""
    count = y.numel() // y.shape[-1 - spatial]
    inverse = torch.rsqrt(variance + eps)
    scale = weight * inverse
    result = torch.empty_like(y, memory_format=torch.contiguous_format)
    total, along = torch.zeros_like(mean), torch.zeros_like(mean)  # Σ d and Σ d (y - mean)
    for part in tiles(len(y), y.numel()):
        off = _rows(y, part, spatial) - mean[:, None]
        d = torch.addcmul(bias[:, None], off, scale[:, None])
        d = d.clamp_(max=0).exp_()  # ELU'(t) = exp(min(t, 0))
        g = grad[part].to(d.dtype)
        if average_oldest:
            d.unflatten(0, (len(g), y.shape[1], -1)).mul_(g.reshape(len(g), 1, -1, *d.shape[1:]) / y.shape[1])
        else:
            d.mul_(g.reshape(d.shape))
        total += d.sum(-1).sum(0)
        along += off.mul_(d).sum(-1).sum(0)
        result[part].view(d.shape).copy_(d)
    slope = -scale * inverse * inverse * along / count
    constant = (-scale * total / count - slope * mean)[:, None]
    for part in tiles(len(y), y.numel()):
        target = result[part].view(-1, *mean.shape, y.shape[y.ndim - spatial :].numel())
        rows = _rows(y, part, spatial)
        if target.dtype == rows.dtype:
            target.mul_(scale[:, None]).add_(constant).addcmul_(rows, slope[:, None])
        else:
            d = target.to(rows.dtype).mul_(scale[:, None]).add_(constant)
            target.copy_(d.addcmul_(rows, slope[:, None]))
    return result, inverse * along, total


def _fake(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean = y.new_empty(y.shape[-1 - spatial], dtype=wide(y.dtype))
    return _like(y, average_oldest), mean, torch.empty_like(mean)


_operator = define_operator("tiled_normalize_elu", _forward, _backward, _fake, keep=(1, 2))


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `hcnn.functional.normalize_elu.naive.batch_normalize_elu`."""
    kind = wide(y.dtype)
    with exactly(y):
        out, mean, variance = _operator(y, weight.to(kind), bias.to(kind), eps, spatial, average_oldest)
    return out, mean.detach(), variance.detach()
