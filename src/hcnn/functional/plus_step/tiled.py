"""The inner step of HCNN(+) on a CPU, one image at a time.

What one operator writes, the next reads from the cache. The operator keeps only its inputs: whatever is cheaper to
recompute than to fetch from memory is recomputed in the backward pass. It is a custom operator because autograd would
keep every intermediate of every tile, and a compiler would take the loops apart.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.custom_op import Gradient, Once, differentiable, opaque
from hcnn.functional.dtypes import wide

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
    """Compute what the naive form does, skipping the blocks of the matrix that are zero, or per frequency.

    Args:
        x: (b, v, *u), extended already where `margin` is 0.
        h: (q, *ku).
        shift: (q,).
        matrix: (o, v · q); or (groups, 2 k, 2 s · q), where there are transforms.
        transforms: analysis and synthesis of `hcnn.functional.attribute_conv.spectral.plus_transforms`, or None.
        stride: along u.
        margin: how far zeros extend x along u.
        bands: bounds of blocks outside of which the matrix is zero: top, bottom, left, right of each in turn; they
            cover every row once.
    """
    kind = x.dtype
    both = [None, None] if transforms is None else [one.to(kind) for one in transforms]
    inputs = x.contiguous(), h.to(kind), shift.to(kind), matrix.to(kind), *both, stride, margin, bands
    return differentiable(torch.ops.hcnn.tiled_plus_step, _PlusStep, *inputs)
