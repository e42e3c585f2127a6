"""Mean and covariance of all spatial patches of an array, and which form computes them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.axes import Boundary, check_boundary, pad_spatial
from hcnn.functional.backend import available
from hcnn.functional.dtypes import wide
from hcnn.functional.patch_moments import triton_op
from hcnn.functional.patch_moments.rows_op import row_gram


def patch_moments(x: Tensor, support: Sequence[int], *, boundary: Boundary = "zeros") -> tuple[Tensor, Tensor]:
    """Mean and covariance of all spatial patches of an array.

    With p(u) the patch of x around u, over every batch entry, attribute and position:
    ``mean = E[p]`` and ``covariance = E[p pᵀ] - mean meanᵀ``. For any filter h of this support, x * h then has the
    mean ``h · mean`` and the variance ``hᵀ covariance h``: the statistics of the inner normalization (paper,
    section 4.2) without forming x * h.

    With Y the rows of the extended x, the products ``Y(r)ᵀ Y(r + d)`` summed over r, one for each of the few row
    distances d, hold every entry of the covariance as a sum along a diagonal; the patches themselves are never
    copied. Everything is in float32 or wider and taken about the mean of x, for E[p²] - E[p]² cancels where the mean
    is large.

    Args:
        x: (..., *u); the last ``len(support)`` axes are spatial, all others are averaged over.
        support: size of a patch, odd along each axis.
        boundary: how x continues outside, "zeros" or "circular".

    Returns:
        mean (P,) and covariance (P, P) with ``P = prod(support)``, patches flattened in row-major order.

    Raises:
        ValueError: if a support is even, x has too few axes, or the boundary is unknown.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> mean, covariance = patch_moments(x, [3], boundary="circular")
        >>> mean
        tensor([2.5000, 2.5000, 2.5000])
        >>> covariance[1]
        tensor([-0.2500,  1.2500, -0.2500])

    """
    check_boundary(boundary, "patch_moments")
    axes = len(support)
    if axes < 1 or any(k % 2 == 0 for k in support):
        raise ValueError(f"patch_moments: expected odd supports, one per spatial axis; got {tuple(support)}")
    if x.ndim < axes:
        raise ValueError(f"patch_moments: support {tuple(support)} expects {axes} spatial axes; got {tuple(x.shape)}")
    if tuple(support) == (3, 3) and available(x):
        return triton_op.patch_moments(x, boundary)
    with torch.autocast(x.device.type, enabled=False):
        x = x.reshape(-1, *x.shape[x.ndim - axes :])
        if axes == 1:  # one row per signal
            x, support = x.unsqueeze(1), (1, *support)
        kind = wide(x.dtype)
        pivot = x.mean(dtype=kind).detach()  # any constant gives the same covariance, so no gradient is lost
        margins = [k // 2 for k in support]
        padded = pad_spatial(x, margins, boundary).movedim(1, 0).to(kind) - pivot  # (u1', n, ..., u')
        for size, k in zip(x.shape[2:-1], support[1:-1], strict=True):  # a middle axis of volumes: shifted copies
            padded = torch.stack([padded.narrow(2, offset, size) for offset in range(k)], -2).flatten(1, 2)
        rows = padded.reshape(padded.shape[0], -1, padded.shape[-2:].numel() if len(support) == 3 else padded.shape[-1])
        height, width, last = x.shape[1], x.shape[-1], support[-1]
        gram = row_gram(rows.contiguous(), height)
        gram = gram / x.numel()  # (k1, c, k1, c)
        k1, stacked, extended = support[0], math.prod(support[1:-1]), padded.shape[-1]
        size = k1 * stacked * last
        blocks = gram.reshape(k1 * stacked, extended, k1 * stacked, extended)
        blocks = blocks.unfold(1, width, 1).unfold(3, width, 1)  # (S, k, S, k, w, w)
        second = blocks.diagonal(dim1=-2, dim2=-1).sum(-1).reshape(size, size)
        first = rows.sum(1).unfold(0, height, 1).sum(-1) / x.numel()  # (k1, c)
        first = first.reshape(k1 * stacked, extended).unfold(1, width, 1).sum(-1).reshape(size)
        return first + pivot, second - torch.outer(first, first)
