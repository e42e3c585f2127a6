"""The inner step of HCNN(+) in plain PyTorch: the reference implementation."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.axes import CONVOLUTIONS, Boundary, pad_spatial


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: Sequence[int],
    boundary: Boundary,
    bands: Sequence[int] = (),
) -> Tensor:
    """The inner step of HCNN(+): ``y(o, u) = Σ_{v,q} matrix(o, v q) ELU((x_v * h_q)(u) + shift_q)``.

    Args:
        x: (b, v, *u).
        h: (q, *ku), odd supports; the inner scale folded in.
        shift: (q,).
        matrix: (o, v · q).
        stride: along u; outputs are those at every stride-th position.
        boundary: "zeros" or "circular", along u.
        bands: where the matrix is not zero; of no use here.

    Returns:
        (b, o, *u'), in the type of x.
    """
    z = _inner(x, h, shift, stride, boundary)
    return (matrix.to(x.dtype) @ z.flatten(2)).unflatten(2, z.shape[2:])


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
    """The same per frequency: ``y = synthesis (matrix (analysis ELU(x_v * h_q + shift_q)))``, (b, v' · k, *u')."""
    z, b = _inner(x, h, shift, stride, boundary), len(x)
    analysis, matrix, synthesis = (one.to(x.dtype) for one in (analysis, matrix, synthesis))
    spectrum = (analysis @ z.reshape(b, x.shape[1], -1)).reshape(b, len(matrix), matrix.shape[2], -1)
    y = synthesis @ (matrix @ spectrum).reshape(b, synthesis.shape[1], -1)  # (b, v', k · u')
    return y.reshape(b, -1, *z.shape[2:])


def _inner(x: Tensor, h: Tensor, shift: Tensor, stride: Sequence[int], boundary: Boundary) -> Tensor:
    """``ELU(x_v * h_q + shift_q)``: (b, v · q, *u')."""
    spatial = h.ndim - 1
    maps = pad_spatial(x.flatten(0, 1).unsqueeze(1), [k // 2 for k in h.shape[1:]], boundary)  # (b·v, 1, *u)
    z = CONVOLUTIONS[spatial](maps, h[:, None].to(x.dtype), stride=tuple(stride))  # (b·v, q, *u')
    z = F.elu(z + shift.reshape(-1, *[1] * spatial)).to(x.dtype)
    return z.reshape(len(x), -1, *z.shape[2:])
