"""CPU forms of the kernels: a few images at a time, so that what one operator writes the next reads from the cache.

Each computes what its twin in `hcnn.kernels.reference` does, and keeps its inputs only: whatever is cheaper to form
again than to fetch from memory is formed again in the backward pass. They are custom operators: autograd would keep
every intermediate of every tile, and a compiler would take the loops apart.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.operators import Gradient, Once, differentiable, opaque
from hcnn.functional.tiles import tiles
from hcnn.kernels.reference import wide


def _rows(y: Tensor, part: slice, spatial: int) -> Tensor:
    """Entries of y (b, *v, k, *u) as (n, k, u) in float32 or wider; a view where that is possible."""
    shape = y.shape
    piece = y[part].reshape(-1, shape[-1 - spatial], shape[len(shape) - spatial :].numel())
    return piece.to(wide(y.dtype))


def _normalize_elu(y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int) -> tuple[Tensor, Tensor, Tensor]:
    """ELU of a batch normalization per value k; with mean and biased variance."""
    k, count = y.shape[-1 - spatial], y.numel() // y.shape[-1 - spatial]
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
    out = torch.empty_like(y, memory_format=torch.contiguous_format)
    for part in tiles(len(y), y.numel()):
        rows = _rows(y, part, spatial)
        target = out[part].view(rows.shape)
        if out.dtype == rows.dtype:
            F.elu_(torch.addcmul(shift, rows, scale[:, None], out=target))
        else:
            target.copy_(F.elu_(torch.addcmul(shift, rows, scale[:, None])))
    assert mean.shape == (k,)
    return out, mean, variance


_normalize_elu_operator = opaque("hcnn::tiled_normalize_elu", _normalize_elu)


@_normalize_elu_operator.register_fake
def _(y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int) -> tuple[Tensor, Tensor, Tensor]:
    mean = y.new_empty(y.shape[-1 - spatial], dtype=wide(y.dtype))
    return torch.empty_like(y, memory_format=torch.contiguous_format), mean, torch.empty_like(mean)


def _normalize_elu_backward(
    grad: Tensor, y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, spatial: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for y, weight and bias; the normalized array is formed again from y."""
    count = y.numel() // y.shape[-1 - spatial]
    inverse = torch.rsqrt(variance + eps)
    scale = weight * inverse
    result = torch.empty_like(y, memory_format=torch.contiguous_format)
    total, along = torch.zeros_like(mean), torch.zeros_like(mean)  # Σ d and Σ d (y - mean)
    for part in tiles(len(y), y.numel()):
        off = _rows(y, part, spatial) - mean[:, None]
        d = torch.addcmul(bias[:, None], off, scale[:, None])
        d = d.clamp_(max=0).exp_().mul_(_rows(grad, part, spatial))  # ELU'(t) = exp(min(t, 0))
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


_normalize_elu_backward_operator = opaque("hcnn::tiled_normalize_elu_backward", _normalize_elu_backward)


@_normalize_elu_backward_operator.register_fake
def _(
    grad: Tensor, y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, spatial: int
) -> tuple[Tensor, Tensor, Tensor]:
    result = torch.empty_like(y, memory_format=torch.contiguous_format)
    return result, torch.empty_like(mean), torch.empty_like(mean)


class _NormalizeEluGradient(Once):
    forward = staticmethod(_normalize_elu_backward)  # pyright: ignore


class _NormalizeElu(Gradient):
    @staticmethod
    def forward(y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int) -> tuple[Tensor, Tensor, Tensor]:
        return _normalize_elu(y, weight, bias, eps, spatial)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        y, weight, bias, ctx.eps, ctx.spatial = inputs
        _, mean, variance = output
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(y, weight, bias, mean, variance)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (
            *differentiable(
                torch.ops.hcnn.tiled_normalize_elu_backward,
                _NormalizeEluGradient,
                grads[0],
                *ctx.saved_tensors,
                ctx.eps,
                ctx.spatial,
            ),
            None,
            None,
        )


_normalize_elu_operator.register_autograd(_NormalizeElu.backward, setup_context=_NormalizeElu.setup_context)


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `hcnn.kernels.reference.batch_normalize_elu`."""
    kind = wide(y.dtype)
    with torch.autocast(y.device.type, enabled=False):
        out, mean, variance = differentiable(
            torch.ops.hcnn.tiled_normalize_elu, _NormalizeElu, y, weight.to(kind), bias.to(kind), eps, spatial
        )
    return (out.mean(1) if average_oldest else out), mean, variance


def _plus_step(
    x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: list[int], margin: list[int], bands: list[int]
) -> Tensor:
    """The inner step of HCNN(+) for x (b, v, *u); see `plus_step`."""
    out = None
    for index in range(len(x)):
        z = _inner(x[index], h, shift, stride, margin)
        if out is None:
            out = x.new_empty(len(x), len(matrix), *z.shape[1:])
        flat = z.view(len(z), -1)
        for rows, columns in _bands(bands):
            torch.mm(matrix[rows, columns], flat[columns], out=out[index, rows].view(-1, flat.shape[1]))
    assert out is not None
    return out


def _inner(x: Tensor, h: Tensor, shift: Tensor, stride: list[int], margin: list[int]) -> Tensor:
    """``ELU(x_v * h_q + shift_q)`` of one image (v, *u): (v·q, *u')."""
    one, none = [1] * len(stride), [0] * len(stride)
    z = torch.ops.aten.convolution(x[:, None], h[:, None], shift, stride, margin, one, False, none, 1)
    return F.elu_(z).flatten(0, 1)


def _bands(bands: list[int]) -> Iterator[tuple[slice, slice]]:
    """Blocks of the matrix that are not all zeros: flat list of row and column bounds to pairs of slices."""
    for at in range(0, len(bands), 4):
        top, bottom, left, right = bands[at : at + 4]
        yield slice(top, bottom), slice(left, right)


_plus_step_operator = opaque("hcnn::tiled_plus_step", _plus_step)


@_plus_step_operator.register_fake
def _(
    x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: list[int], margin: list[int], bands: list[int]
) -> Tensor:
    spatial = [(n + 2 * m - k) // s + 1 for n, m, k, s in zip(x.shape[2:], margin, h.shape[1:], stride, strict=True)]
    return x.new_empty(len(x), len(matrix), *spatial)


def _plus_step_backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, h, shift and matrix; the Q-fold intermediate is formed again, image by image."""
    kind = wide(x.dtype)
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    to_h, to_shift, to_matrix = (torch.zeros_like(one, dtype=kind) for one in (h, shift, matrix))
    for index in range(len(x)):
        z = _inner(x[index], h, shift, stride, margin)
        flat, g = z.view(len(z), -1), grad[index].reshape(len(matrix), -1)
        d = torch.zeros_like(flat)
        for rows, columns in _bands(bands):
            d[columns].addmm_(matrix[rows, columns].T, g[rows])
            if kind == flat.dtype:
                to_matrix[rows, columns].addmm_(g[rows], flat[columns].T)
            else:
                to_matrix[rows, columns] += g[rows] @ flat[columns].T
        d = torch.ops.aten.elu_backward(d, 1.0, 1.0, 1.0, True, flat)
        found = torch.ops.aten.convolution_backward(
            d.view(x.shape[1], len(h), *z.shape[1:]),
            x[index][:, None],
            h[:, None],
            [len(h)],
            stride,
            margin,
            [1] * len(stride),
            False,
            [0] * len(stride),
            1,
            [True, True, True],
        )
        to_x[index] = found[0][:, 0]
        to_h += found[1][:, 0]
        to_shift += found[2]
    return to_x, to_h, to_shift, to_matrix


_plus_step_backward_operator = opaque("hcnn::tiled_plus_step_backward", _plus_step_backward)


@_plus_step_backward_operator.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind = wide(x.dtype)
    to_h, to_shift, to_matrix = (torch.empty_like(one, dtype=kind) for one in (h, shift, matrix))
    return torch.empty_like(x, memory_format=torch.contiguous_format), to_h, to_shift, to_matrix


class _PlusStepGradient(Once):
    forward = staticmethod(_plus_step_backward)  # pyright: ignore


class _PlusStep(Gradient):
    @staticmethod
    def forward(
        x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: list[int], margin: list[int], bands: list[int]
    ) -> Tensor:
        return _plus_step(x, h, shift, matrix, stride, margin, bands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.stride, ctx.margin, ctx.bands = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        found = differentiable(
            torch.ops.hcnn.tiled_plus_step_backward,
            _PlusStepGradient,
            grads[0].contiguous(),
            *saved,
            ctx.stride,
            ctx.margin,
            ctx.bands,
        )
        return *(one.to(kept.dtype) for one, kept in zip(found, saved, strict=True)), None, None, None


_plus_step_operator.register_autograd(_PlusStep.backward, setup_context=_PlusStep.setup_context)


def plus_step(
    x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: list[int], margin: list[int], bands: list[int]
) -> Tensor:
    """As `hcnn.kernels.reference.plus_step`, skipping the blocks of the matrix that are zero.

    Args:
        x: (b, v, *u), extended already where `margin` is 0.
        h: (q, *ku).
        shift: (q,).
        matrix: (o, v · q).
        stride: along u.
        margin: how far zeros extend x along u.
        bands: bounds of blocks outside of which the matrix is zero: top, bottom, left, right of each in turn; they
            cover every row once.
    """
    same = [one.to(x.dtype) for one in (h, shift, matrix)]
    return differentiable(torch.ops.hcnn.tiled_plus_step, _PlusStep, x.contiguous(), *same, stride, margin, bands)
