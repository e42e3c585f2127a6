"""Batch statistics, and scale + shift + ELU + mean over the oldest attribute, by Triton kernels.

Each saves y only and computes the rest again in its backward pass. On a GPU their cost is memory traffic: reads and
writes of y, forward 2 + 1/v1 and backward 3 + 2/v1 with batch statistics, v1 the averaged attribute.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import wide


class _Flat(NamedTuple):
    """An array in the order of its memory: rows (outer, v1, r), and the distance between two values of k in a row."""

    rows: Tensor
    inner: int
    shape: tuple[int, ...]  # of the result, in that order
    spatial: int  # axes to move behind the attributes again; 0 if they are there already


def _flatten(y: Tensor, spatial: int, average_oldest: bool) -> _Flat:
    b, u = y.shape[0], y.shape[y.ndim - spatial :]
    v = y.shape[1 : y.ndim - spatial]  # with k last
    moved = y.permute(0, *range(y.ndim - spatial, y.ndim), *range(1, y.ndim - spatial))  # (b, *u, *v, k)
    last = not y.is_contiguous() and moved.is_contiguous()  # channels last
    lead = (b, *u) if last else (b,)
    tail = tuple(v) if last else (*v, *u)
    rows = (moved if last else y.contiguous()).reshape(math.prod(lead), v[0] if average_oldest else 1, -1)
    shape = (*lead, *(tail[1:] if average_oldest else tail))
    return _Flat(rows, 1 if last else math.prod(u), shape, spatial if last else 0)


def _restore(out: Tensor, flat: _Flat) -> Tensor:
    out = out.reshape(flat.shape)
    n = flat.spatial
    return out.permute(0, *range(1 + n, out.ndim), *range(1, 1 + n)) if n else out


def normalize_elu(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool) -> Tensor:
    """As `hcnn.functional.normalize_elu.naive.normalize_elu`, in one kernel; channels first or channels last, kept."""
    flat = _flatten(y, spatial, average_oldest)
    return _restore(_normalize(flat.rows, scale, shift, flat.inner), flat)


def channel_statistics(y: Tensor, spatial: int) -> tuple[Tensor, Tensor]:
    """As `hcnn.functional.normalize_elu.naive.channel_statistics`, reading y once."""
    flat = _flatten(y, spatial, False)
    mean, variance = _statistics(flat.rows, y.shape[y.ndim - 1 - spatial], flat.inner).unbind()
    return mean, variance


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `hcnn.functional.normalize_elu.naive.batch_normalize_elu`; the backward pass reads y twice and writes once."""
    flat = _flatten(y, spatial, average_oldest)
    out, moments = _batch_normalize(flat.rows, weight, bias, flat.inner, eps)
    mean, variance, *_ = moments.detach().unbind()
    return _restore(out, flat), mean, variance


# ------------------------------------------------------------------------- scale and shift given


def _normalize_forward(rows: Tensor, scale: Tensor, shift: Tensor, inner: int) -> Tensor:
    from hcnn.functional.normalize_elu import triton_kernels as kernels  # needs Triton

    return kernels.forward(rows, scale.contiguous(), shift.contiguous(), inner)


def _normalize_backward(
    grad: Tensor, rows: Tensor, scale: Tensor, shift: Tensor, inner: int
) -> tuple[Tensor, Tensor, Tensor]:
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    scale, shift = scale.contiguous(), shift.contiguous()
    zero = torch.zeros_like(scale)
    sums = kernels.reduce(rows, grad, scale, shift, zero, inner).sum(2).to(scale.dtype)
    return kernels.backward(rows, grad, scale, shift, zero, zero, zero, inner), sums[1].clone(), sums[0].clone()


def _normalize_fake(rows: Tensor, scale: Tensor, shift: Tensor, inner: int) -> Tensor:
    return rows.new_empty(rows.shape[0], rows.shape[2])


_normalize = define_operator("normalize_elu", _normalize_forward, _normalize_backward, _normalize_fake)


# ------------------------------------------------------------------------- statistics alone


def _statistics_forward(rows: Tensor, k: int, inner: int) -> Tensor:
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    return kernels.statistics(rows, k, inner)


def _statistics_backward(grad: Tensor, rows: Tensor, k: int, inner: int, moments: Tensor) -> Tensor:
    """``dy = (dmean + 2 dvar (y - mean)) / n``, pointwise."""
    y = rows.reshape(-1, k, inner)
    off = y.to(moments.dtype) - moments[0][:, None]
    scaled = (grad[0][:, None] + 2 * grad[1][:, None] * off) / (rows.numel() // k)
    return scaled.to(rows.dtype).reshape(rows.shape)


def _statistics_fake(rows: Tensor, k: int, inner: int) -> Tensor:
    return rows.new_empty(2, k, dtype=wide(rows.dtype))


_statistics = define_operator(
    "channel_statistics", _statistics_forward, _statistics_backward, _statistics_fake, keep=(0,)
)


# ------------------------------------------------------------------------- both: a batch normalization with ELU


def _batch_forward(rows: Tensor, weight: Tensor, bias: Tensor, inner: int, eps: float) -> tuple[Tensor, Tensor]:
    """The result (outer, r), and mean, variance, scale and shift (4, k)."""
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    moments = kernels.statistics(rows, len(weight), inner, weight.contiguous(), bias.contiguous(), eps)
    return kernels.forward(rows, moments[2], moments[3], inner), moments


def _batch_backward(
    grad: Tensor,
    grad_moments: Tensor,
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: int,
    eps: float,
    moments: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for rows, weight and bias; the moments have none."""
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    mean, _, scale, shift = moments.unbind()
    parts = kernels.reduce(rows, grad, scale, shift, mean, inner)
    out = kernels.coefficients(parts, moments, rows.numel() // len(mean), eps)
    to_rows = kernels.backward(rows, grad, scale, shift, mean, out[2], out[3], inner)
    return to_rows, out[0].to(weight.dtype, copy=True), out[1].to(bias.dtype, copy=True)


def _batch_fake(rows: Tensor, weight: Tensor, bias: Tensor, inner: int, eps: float) -> tuple[Tensor, Tensor]:
    out = rows.new_empty(rows.shape[0], rows.shape[2])
    return out, rows.new_empty(4, len(weight), dtype=wide(rows.dtype))


_batch_normalize = define_operator("batch_normalize_elu", _batch_forward, _batch_backward, _batch_fake, keep=(1,))
