"""The inner step of HCNN(+) in plain PyTorch: the reference implementation."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.axes import Boundary, pad_spatial


def plus_step(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: Sequence[int], boundary: Boundary) -> Tensor:
    """The inner step of HCNN(+): ``y(o, u) = Σ_{v,q} matrix(o, v q) ELU((x_v * h_q)(u) + shift_q)``.

    Args:
        x: (b, v, *u).
        h: (q, *ku), odd supports; the inner scale folded in.
        shift: (q,).
        matrix: (o, v · q).
        stride: along u; outputs are those at every stride-th position.
        boundary: "zeros" or "circular", along u.

    Returns:
        (b, o, *u'), in the type of x.
    """
    b, v, spatial = *x.shape[:2], h.ndim - 1
    conv = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    maps = pad_spatial(x.reshape(b * v, 1, *x.shape[2:]), [k // 2 for k in h.shape[1:]], boundary)
    z = conv(maps, h[:, None].to(x.dtype), stride=tuple(stride)) + shift.reshape(-1, *[1] * spatial)  # (b·v, q, *u')
    z = F.elu(z).to(x.dtype)
    return (matrix.to(x.dtype) @ z.reshape(b, v * len(h), -1)).unflatten(2, z.shape[2:])
