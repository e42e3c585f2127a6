"""The inner step of HCNN(+) on a CPU, one image at a time.

What one operator writes, the next reads from the cache. Only the inputs are kept for the backward pass, which
recomputes whatever is cheaper to recompute than to fetch from memory.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.axes import Boundary, pad_spatial
from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import wide


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: Sequence[int],
    boundary: Boundary,
    bands: Sequence[int],
) -> Tensor:
    """As `hcnn.functional.plus_step.naive.plus_step`, without the blocks of the matrix that are zero.

    Args:
        x: (b, v, *u).
        h: (q, *ku).
        shift: (q,).
        matrix: (o, v · q).
        stride: along u.
        boundary: along u.
        bands: bounds of blocks outside of which the matrix is zero: top, bottom, left, right of each in turn; they
            cover every row once.
    """
    x, h, shift, matrix = (one.to(x.dtype) for one in (x, h, shift, matrix))
    x, margin = _extended(x, h, boundary)
    return _dense(x, h, shift, matrix, [*stride], margin, [*bands])


def spectral_plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    analysis: Tensor,
    matrix: Tensor,
    synthesis: Tensor,
    stride: Sequence[int],
    boundary: Boundary,
) -> Tensor:
    """As `hcnn.functional.plus_step.naive.spectral_plus_step`."""
    h, shift, analysis, matrix, synthesis = (one.to(x.dtype) for one in (h, shift, analysis, matrix, synthesis))
    x, margin = _extended(x, h, boundary)
    return _spectral(x, h, shift, matrix, analysis, synthesis, [*stride], margin)


def _extended(x: Tensor, h: Tensor, boundary: Boundary) -> tuple[Tensor, list[int]]:
    """X continued along u where it is periodic, else how far zeros extend it."""
    margin = [k // 2 for k in h.shape[1:]]
    if boundary == "circular":
        return pad_spatial(x, margin, boundary).contiguous(), [0] * len(margin)
    return x.contiguous(), margin


# ------------------------------------------------------------------------- what both forms share


def _inner(x: Tensor, h: Tensor, shift: Tensor, stride: list[int], margin: list[int]) -> Tensor:
    """``ELU(x_v * h_q + shift_q)`` of one image (v, *u): (v·q, *u')."""
    one, none = [1] * len(stride), [0] * len(stride)
    z = torch.ops.aten.convolution(x[:, None], h[:, None], shift, stride, margin, one, False, none, 1)
    return F.elu_(z).flatten(0, 1)


def _each_image(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    outputs: int,
    stride: list[int],
    margin: list[int],
    step: Callable[[Tensor, Tensor], None],
) -> Tensor:
    """(b, outputs, *u'); `step` writes what z (v·q, u) of an image becomes to (outputs, u)."""
    out = x.new_empty(len(x), outputs, *_space(x, h, stride, margin))
    for index in range(len(x)):
        z = _inner(x[index], h, shift, stride, margin)
        step(z.view(len(z), -1), out[index].view(outputs, -1))
    return out


def _each_image_backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    stride: list[int],
    margin: list[int],
    step: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, h and shift; `step` gives that for z (v·q, u) of an image from that of its output."""
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    to_h, to_shift = (torch.zeros_like(one, dtype=wide(x.dtype)) for one in (h, shift))
    one, none = [1] * len(stride), [0] * len(stride)
    settings = [len(h)], stride, margin, one, False, none, 1, [True, True, True]
    for index in range(len(x)):
        z = _inner(x[index], h, shift, stride, margin)
        flat = z.view(len(z), -1)
        d = step(grad[index].reshape(grad.shape[1], -1), flat)
        d = torch.ops.aten.elu_backward(d, 1.0, 1.0, 1.0, True, flat).view(x.shape[1], len(h), *z.shape[1:])
        found = torch.ops.aten.convolution_backward(d, x[index][:, None], h[:, None], *settings)
        to_x[index] = found[0][:, 0]
        to_h += found[1][:, 0]
        to_shift += found[2]
    return to_x, to_h.to(h.dtype), to_shift.to(shift.dtype)


def _space(x: Tensor, h: Tensor, stride: list[int], margin: list[int]) -> list[int]:
    return [(n + 2 * m - k) // s + 1 for n, m, k, s in zip(x.shape[2:], margin, h.shape[1:], stride, strict=True)]


# ------------------------------------------------------------------------- one matrix, whose zero blocks are skipped


def _blocks(bands: list[int]) -> Iterator[tuple[slice, slice]]:
    for at in range(0, len(bands), 4):
        top, bottom, left, right = bands[at : at + 4]
        yield slice(top, bottom), slice(left, right)


def _dense_forward(
    x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: list[int], margin: list[int], bands: list[int]
) -> Tensor:
    def step(z: Tensor, out: Tensor) -> None:
        for rows, columns in _blocks(bands):
            torch.mm(matrix[rows, columns], z[columns], out=out[rows])

    return _each_image(x, h, shift, len(matrix), stride, margin, step)


def _dense_backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: list[int],
    margin: list[int],
    bands: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_matrix = torch.zeros_like(matrix, dtype=wide(x.dtype))

    def step(g: Tensor, z: Tensor) -> Tensor:
        d = torch.zeros_like(z)
        for rows, columns in _blocks(bands):
            d[columns].addmm_(matrix[rows, columns].T, g[rows])
            if to_matrix.dtype == z.dtype:
                to_matrix[rows, columns].addmm_(g[rows], z[columns].T)
            else:
                to_matrix[rows, columns] += g[rows] @ z[columns].T
        return d

    found = _each_image_backward(grad, x, h, shift, stride, margin, step)
    return *found, to_matrix.to(matrix.dtype)


def _dense_fake(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride, margin, bands) -> Tensor:
    return x.new_empty(len(x), len(matrix), *_space(x, h, stride, margin))


_dense = define_operator("tiled_plus_step", _dense_forward, _dense_backward, _dense_fake)


# ------------------------------------------------------------------------- one matrix for each frequency


def _spectrum(z: Tensor, analysis: Tensor, matrix: Tensor) -> Tensor:
    """Z (v·q, u) of one image per frequency: (groups, 2 s · q, u)."""
    return (analysis @ z.view(analysis.shape[1], -1)).view(len(matrix), matrix.shape[2], -1)


def _outputs(matrix: Tensor, synthesis: Tensor) -> int:
    return len(synthesis) * matrix.shape[1] // 2  # v' · k


def _spectral_forward(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margin: list[int],
) -> Tensor:
    def step(z: Tensor, out: Tensor) -> None:
        spectrum = _spectrum(z, analysis, matrix)
        torch.mm(synthesis, (matrix @ spectrum).view(synthesis.shape[1], -1), out=out.view(len(synthesis), -1))

    return _each_image(x, h, shift, _outputs(matrix, synthesis), stride, margin, step)


def _spectral_backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    analysis: Tensor,
    synthesis: Tensor,
    stride: list[int],
    margin: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_matrix = torch.zeros_like(matrix, dtype=wide(x.dtype))

    def step(g: Tensor, z: Tensor) -> Tensor:
        spectrum = _spectrum(z, analysis, matrix)
        g = (synthesis.T @ g.view(len(synthesis), -1)).view(len(matrix), matrix.shape[1], -1)
        if to_matrix.dtype == z.dtype:
            to_matrix.baddbmm_(g, spectrum.transpose(1, 2))
        else:
            to_matrix.add_(g @ spectrum.transpose(1, 2))
        return (analysis.T @ (matrix.transpose(1, 2) @ g).view(len(analysis), -1)).view(z.shape)

    found = _each_image_backward(grad, x, h, shift, stride, margin, step)
    return *found, to_matrix.to(matrix.dtype)


def _spectral_fake(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, _, synthesis, stride, margin) -> Tensor:
    return x.new_empty(len(x), _outputs(matrix, synthesis), *_space(x, h, stride, margin))


_spectral = define_operator("tiled_spectral_plus_step", _spectral_forward, _spectral_backward, _spectral_fake)
