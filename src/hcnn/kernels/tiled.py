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


def _like(y: Tensor, average_oldest: bool) -> Tensor:
    """An empty array as y is, or as its mean over the oldest attribute is."""
    return y.new_empty(y.shape[:1] + y.shape[2:]) if average_oldest else y.new_empty(y.shape)


def _normalize_elu(
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
            z = F.elu_(torch.addcmul(shift, rows, scale[:, None])).view(len(target), y.shape[1], -1)
            target.copy_(z.mean(1).view(target.shape))
        elif out.dtype == rows.dtype:
            F.elu_(torch.addcmul(shift, rows, scale[:, None], out=target.view(rows.shape)))
        else:
            target.view(rows.shape).copy_(F.elu_(torch.addcmul(shift, rows, scale[:, None])))
    return out, mean, variance


_normalize_elu_operator = opaque("hcnn::tiled_normalize_elu", _normalize_elu)


@_normalize_elu_operator.register_fake
def _(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean = y.new_empty(y.shape[-1 - spatial], dtype=wide(y.dtype))
    return _like(y, average_oldest), mean, torch.empty_like(mean)


def _normalize_elu_backward(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    spatial: int,
    average_oldest: bool,
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
        d = d.clamp_(max=0).exp_()  # ELU'(t) = exp(min(t, 0))
        g = grad[part].to(d.dtype)
        if average_oldest:
            d.view(len(g), y.shape[1], -1).mul_(g.reshape(len(g), 1, -1) / y.shape[1])
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


_normalize_elu_backward_operator = opaque("hcnn::tiled_normalize_elu_backward", _normalize_elu_backward)


@_normalize_elu_backward_operator.register_fake
def _(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    spatial: int,
    average_oldest: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    result = torch.empty_like(y, memory_format=torch.contiguous_format)
    return result, torch.empty_like(mean), torch.empty_like(mean)


class _NormalizeEluGradient(Once):
    forward = staticmethod(_normalize_elu_backward)  # pyright: ignore


class _NormalizeElu(Gradient):
    @staticmethod
    def forward(
        y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _normalize_elu(y, weight, bias, eps, spatial, average_oldest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        y, weight, bias, *ctx.settings = inputs
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
                *ctx.settings,
            ),
            *[None] * 3,
        )


_normalize_elu_operator.register_autograd(_NormalizeElu.backward, setup_context=_NormalizeElu.setup_context)


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `hcnn.kernels.reference.batch_normalize_elu`."""
    kind = wide(y.dtype)
    inputs = y, weight.to(kind), bias.to(kind), eps, spatial, average_oldest
    with torch.autocast(y.device.type, enabled=False):
        return differentiable(torch.ops.hcnn.tiled_normalize_elu, _NormalizeElu, *inputs)


_Transforms = tuple[Tensor, Tensor] | None  # analysis and synthesis


# The attribute step of HCNN(+), either as one matrix whose zero blocks are skipped, or per frequency.
def _attribute_step(z: Tensor, matrix: Tensor, transforms: _Transforms, bands: list[int], out: Tensor) -> None:
    """Z (v·q, u) of one image to out (v'·k, u)."""
    if transforms:
        analysis, synthesis = transforms
        spectrum = _spectrum(z, analysis, matrix)
        torch.mm(synthesis, (matrix @ spectrum).view(synthesis.shape[1], -1), out=out.view(len(synthesis), -1))
        return
    for rows, columns in _bands(bands):
        torch.mm(matrix[rows, columns], z[columns], out=out[rows])


def _spectrum(z: Tensor, analysis: Tensor, matrix: Tensor) -> Tensor:
    """Z (v·q, u) of one image per frequency: (groups, 2 s · q, u)."""
    return (analysis @ z.view(analysis.shape[1], -1)).view(len(matrix), matrix.shape[2], -1)


def _attribute_step_backward(
    g: Tensor, z: Tensor, matrix: Tensor, transforms: _Transforms, bands: list[int], to_matrix: Tensor
) -> Tensor:
    """Gradient for z (v·q, u) of one image from that of its output, g (v'·k, u); that for the matrix is added up."""
    if transforms:
        analysis, synthesis = transforms
        spectrum = _spectrum(z, analysis, matrix)
        g = (synthesis.T @ g.view(len(synthesis), -1)).view(len(matrix), matrix.shape[1], -1)
        if to_matrix.dtype == z.dtype:
            to_matrix.baddbmm_(g, spectrum.transpose(1, 2))
        else:
            to_matrix += g @ spectrum.transpose(1, 2)
        return (analysis.T @ (matrix.transpose(1, 2) @ g).view(len(analysis), -1)).view(z.shape)
    d = torch.zeros_like(z)
    for rows, columns in _bands(bands):
        d[columns].addmm_(matrix[rows, columns].T, g[rows])
        if to_matrix.dtype == z.dtype:
            to_matrix[rows, columns].addmm_(g[rows], z[columns].T)
        else:
            to_matrix[rows, columns] += g[rows] @ z[columns].T
    return d


def _bands(bands: list[int]) -> Iterator[tuple[slice, slice]]:
    """Blocks of the matrix that are not all zeros: flat list of row and column bounds to pairs of slices."""
    for at in range(0, len(bands), 4):
        top, bottom, left, right = bands[at : at + 4]
        yield slice(top, bottom), slice(left, right)


def _transforms(analysis: Tensor | None, synthesis: Tensor | None) -> _Transforms:
    return None if analysis is None or synthesis is None else (analysis, synthesis)


def _plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    analysis: Tensor | None,
    synthesis: Tensor | None,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> Tensor:
    """The inner step of HCNN(+) for x (b, v, *u); see `plus_step`."""
    outputs, transforms = _outputs(matrix, synthesis), _transforms(analysis, synthesis)
    out = None
    for index in range(len(x)):
        z = _inner(x[index], h, shift, stride, margin)
        if out is None:
            out = x.new_empty(len(x), outputs, *z.shape[1:])
        _attribute_step(z.view(len(z), -1), matrix, transforms, bands, out[index].view(outputs, -1))
    assert out is not None
    return out


def _outputs(matrix: Tensor, synthesis: Tensor | None) -> int:
    return len(matrix) if synthesis is None else len(synthesis) * matrix.shape[1] // 2


def _inner(x: Tensor, h: Tensor, shift: Tensor, stride: list[int], margin: list[int]) -> Tensor:
    """``ELU(x_v * h_q + shift_q)`` of one image (v, *u): (v·q, *u')."""
    one, none = [1] * len(stride), [0] * len(stride)
    z = torch.ops.aten.convolution(x[:, None], h[:, None], shift, stride, margin, one, False, none, 1)
    return F.elu_(z).flatten(0, 1)


_plus_step_operator = opaque("hcnn::tiled_plus_step", _plus_step)


@_plus_step_operator.register_fake
def _(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    analysis: Tensor | None,
    synthesis: Tensor | None,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> Tensor:
    spatial = [(n + 2 * m - k) // s + 1 for n, m, k, s in zip(x.shape[2:], margin, h.shape[1:], stride, strict=True)]
    return x.new_empty(len(x), _outputs(matrix, synthesis), *spatial)


def _plus_step_backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    analysis: Tensor | None,
    synthesis: Tensor | None,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, h, shift and matrix; the Q-fold intermediate is formed again, image by image."""
    kind, transforms = wide(x.dtype), _transforms(analysis, synthesis)
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    to_h, to_shift, to_matrix = (torch.zeros_like(one, dtype=kind) for one in (h, shift, matrix))
    for index in range(len(x)):
        z = _inner(x[index], h, shift, stride, margin)
        flat = z.view(len(z), -1)
        g = grad[index].reshape(grad.shape[1], -1)
        d = _attribute_step_backward(g, flat, matrix, transforms, bands, to_matrix)
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
    analysis: Tensor | None,
    synthesis: Tensor | None,
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
    def forward(*inputs: Any) -> Tensor:
        return _plus_step(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.stride, ctx.margin, ctx.bands = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        settings = ctx.stride, ctx.margin, ctx.bands
        found = differentiable(
            torch.ops.hcnn.tiled_plus_step_backward, _PlusStepGradient, grads[0].contiguous(), *saved, *settings
        )
        return *(one.to(kept.dtype) for one, kept in zip(found, saved[:4], strict=True)), *[None] * 5


_plus_step_operator.register_autograd(_PlusStep.backward, setup_context=_PlusStep.setup_context)


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    transforms: tuple[Tensor, Tensor] | None,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> Tensor:
    """As `hcnn.kernels.reference.plus_step`, skipping the blocks of the matrix that are zero, or per frequency.

    Args:
        x: (b, v, *u), extended already where `margin` is 0.
        h: (q, *ku).
        shift: (q,).
        matrix: (o, v · q); or (groups, 2 k, 2 s · q), where there are transforms.
        transforms: analysis and synthesis of `hcnn.functional.spectral.plus_transforms`, or None.
        stride: along u.
        margin: how far zeros extend x along u.
        bands: bounds of blocks outside of which the matrix is zero: top, bottom, left, right of each in turn; they
            cover every row once.
    """
    kind = x.dtype
    both = [None, None] if transforms is None else [one.to(kind) for one in transforms]
    inputs = x.contiguous(), h.to(kind), shift.to(kind), matrix.to(kind), *both, stride, margin, bands
    return differentiable(torch.ops.hcnn.tiled_plus_step, _PlusStep, *inputs)
