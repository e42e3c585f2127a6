"""The inner step of HCNN(+), and which form computes it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hcnn.functional.axes import Boundary, pad_spatial
from hcnn.functional.backend import available
from hcnn.functional.plus_step import naive, tiled, triton_op


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: Sequence[int] = (1, 1),
    boundary: Boundary = "zeros",
    *,
    bands: Sequence[int] | None = None,
    transforms: tuple[Tensor, Tensor] | None = None,
    images: int = 8,
) -> Tensor:
    """The inner step of HCNN(+), ``y(o, u) = Σ_{v,q} matrix(o, v q) ELU((x_v * h_q)(u) + shift_q)``.

    Neither way keeps the Q-fold intermediate for the backward pass; the kernel never writes it.

    Args:
        x: (b, v, *u), v all attributes flattened.
        h: (q, *ku), the inner scale folded in; the Triton kernel takes 3×3, and others go to the twin.
        shift: (q,).
        matrix: (o, v · q), o all output attributes flattened; `hcnn.functional.dense_weight` of g makes it.
        stride: along u.
        boundary: "zeros" or "circular", along u.
        bands: blocks of the matrix outside of which it is zero, as `hcnn.functional.bands` finds them; on a CPU the
            others are skipped.
        transforms: analysis and synthesis of `hcnn.functional.plus_transforms`, on a CPU only; the matrix is then the
            one that it gives.
        images: how many go through the twin at a time.

    Returns:
        (b, o, *u'), in the type of x; under autocast that is autocast's.

    Example:
        >>> plus_step(torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3), torch.zeros(4), torch.randn(5, 32), (2, 2)).shape
        torch.Size([2, 5, 3, 3])

    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        if available(x) and h.shape[1:] == (3, 3):
            return triton_op.plus_step(x, h, shift, matrix, stride, boundary)
        if kind == "cpu":
            margins = [k // 2 for k in h.shape[1:]]
            if boundary == "circular":
                x, margins = pad_spatial(x, margins, boundary), [0] * len(margins)
            blocks = [0, len(matrix), 0, matrix.shape[1]] if bands is None else [*bands]
            return tiled.plus_step(x, h, shift, matrix, transforms, [*stride], margins, blocks)
        parts = [
            checkpoint(naive.plus_step, part, h, shift, matrix, stride, boundary, use_reentrant=False)
            for part in x.split(images)
        ]
        return torch.cat(parts)
