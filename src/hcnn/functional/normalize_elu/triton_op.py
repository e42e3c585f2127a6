"""Batch statistics, scale + shift + ELU + mean over the oldest attribute, operators that `torch.compile` keeps whole.

Each saves y only and computes the rest again in its backward pass. On a GPU their cost is memory traffic: reads and
writes of y, forward 2 + 1/v1 and backward 3 + 2/v1 with batch statistics, v1 the averaged attribute.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hcnn.functional.dtypes import wide


class _Flat(NamedTuple):
    """An array in the order of its memory: rows (outer, v1, r), and the distance between two values of k in a row."""

    rows: Tensor
    inner: int
    shape: tuple[int, ...]  # of the result, in that order
    spatial: int  # axes to move behind the attributes again; 0 if they lie there


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
    return _restore(out, flat), moments[0], moments[1]


# ------------------------------------------------------------------------- scale and shift given


@torch.library.custom_op("hcnn::normalize_elu", mutates_args=())
def _normalize(rows: Tensor, scale: Tensor, shift: Tensor, inner: int) -> Tensor:
    from hcnn.functional.normalize_elu import triton_kernels as kernels  # needs Triton

    return kernels.forward(rows, scale.contiguous(), shift.contiguous(), inner)


@_normalize.register_fake
def _(rows: Tensor, scale: Tensor, shift: Tensor, inner: int) -> Tensor:
    return rows.new_empty(rows.shape[0], rows.shape[2])


@torch.library.custom_op("hcnn::normalize_elu_backward", mutates_args=())
def _normalize_backward(
    grad: Tensor, rows: Tensor, scale: Tensor, shift: Tensor, inner: int
) -> tuple[Tensor, Tensor, Tensor]:
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    grad, scale, shift = grad.contiguous(), scale.contiguous(), shift.contiguous()
    zero = torch.zeros_like(scale)
    sums = kernels.reduce(rows, grad, scale, shift, zero, inner).sum(2).to(scale.dtype)
    return kernels.backward(rows, grad, scale, shift, zero, zero, zero, inner), sums[1].clone(), sums[0].clone()


@_normalize_backward.register_fake
def _(grad: Tensor, rows: Tensor, scale: Tensor, shift: Tensor, inner: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(scale), torch.empty_like(scale)


def _save_normalize(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.inner = inputs[3]


_normalize.register_autograd(
    lambda ctx, grad: (*_normalize_backward(grad, *ctx.saved_tensors, ctx.inner), None), setup_context=_save_normalize
)


# ------------------------------------------------------------------------- statistics alone


@torch.library.custom_op("hcnn::channel_statistics", mutates_args=())
def _statistics(rows: Tensor, k: int, inner: int) -> Tensor:
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    return kernels.statistics(rows, k, inner)


@_statistics.register_fake
def _(rows: Tensor, k: int, inner: int) -> Tensor:
    return rows.new_empty(2, k, dtype=wide(rows.dtype))


def _save_statistics(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)
    ctx.inner = inputs[2]


def _statistics_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """``dy = (dmean + 2 dvar (y - mean)) / n``, pointwise."""
    rows, moments = ctx.saved_tensors
    k = moments.shape[1]
    count = rows.numel() // k
    y = rows.reshape(-1, k, ctx.inner)
    off = y.to(moments.dtype) - moments[0][:, None]
    return ((grad[0][:, None] + 2 * grad[1][:, None] * off) / count).to(rows.dtype).reshape(rows.shape), None, None


_statistics.register_autograd(_statistics_backward, setup_context=_save_statistics)


# ------------------------------------------------------------------------- both: a batch normalization with ELU


@torch.library.custom_op("hcnn::batch_normalize_elu", mutates_args=())
def _batch_normalize(rows: Tensor, weight: Tensor, bias: Tensor, inner: int, eps: float) -> tuple[Tensor, Tensor]:
    """The result (outer, r), and mean, variance, scale and shift (4, k)."""
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    moments = kernels.statistics(rows, len(weight), inner, weight.contiguous(), bias.contiguous(), eps)
    return kernels.forward(rows, moments[2], moments[3], inner), moments


@_batch_normalize.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor, inner: int, eps: float) -> tuple[Tensor, Tensor]:
    out = rows.new_empty(rows.shape[0], rows.shape[2])
    return out, rows.new_empty(4, len(weight), dtype=wide(rows.dtype))


@torch.library.custom_op("hcnn::batch_normalize_elu_backward", mutates_args=())
def _batch_normalize_backward(
    grad: Tensor, rows: Tensor, moments: Tensor, inner: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradient for y; gradients for weight and bias, as the first two of (4, k)."""
    from hcnn.functional.normalize_elu import triton_kernels as kernels

    grad = grad.contiguous()
    mean, _, scale, shift = moments.unbind()
    parts = kernels.reduce(rows, grad, scale, shift, mean, inner)
    out = kernels.coefficients(parts, moments, rows.numel() // len(mean), eps)
    return kernels.backward(rows, grad, scale, shift, mean, out[2], out[3], inner), out


@_batch_normalize_backward.register_fake
def _(grad: Tensor, rows: Tensor, moments: Tensor, inner: int, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(moments)


def _save_batch_normalize(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.inner, ctx.eps, ctx.dtype = inputs[3], inputs[4], inputs[1].dtype
    ctx.mark_non_differentiable(output[1])


def _batch_normalize_gradients(ctx: Any, grad: Tensor, unused: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    rows, moments = ctx.saved_tensors
    result, out = _batch_normalize_backward(grad, rows, moments, ctx.inner, ctx.eps)
    return result, out[0].to(ctx.dtype), out[1].to(ctx.dtype), None, None


_batch_normalize.register_autograd(_batch_normalize_gradients, setup_context=_save_batch_normalize)
