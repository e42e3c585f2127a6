"""Mean and covariance of all spatial patches of an array."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hcnn import kernels
from hcnn.functional.axes import Boundary, check_boundary, pad_spatial
from hcnn.functional.operators import Gradient, Once, differentiable, opaque


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
    if tuple(support) == (3, 3) and kernels.available(x):
        return kernels.patch_moments(x, boundary)
    with torch.autocast(x.device.type, enabled=False):
        x = x.reshape(-1, *x.shape[x.ndim - axes :])
        if axes == 1:  # one row per signal
            x, support = x.unsqueeze(1), (1, *support)
        wide = torch.promote_types(x.dtype, torch.float32)
        pivot = x.mean(dtype=wide).detach()  # any constant gives the same covariance, so no gradient is lost
        margins = [k // 2 for k in support]
        padded = pad_spatial(x, margins, boundary).movedim(1, 0).to(wide) - pivot  # (u1', n, ..., u')
        for size, k in zip(x.shape[2:-1], support[1:-1], strict=True):  # a middle axis of volumes: shifted copies
            padded = torch.stack([padded.narrow(2, offset, size) for offset in range(k)], -2).flatten(1, 2)
        rows = padded.reshape(padded.shape[0], -1, padded.shape[-2:].numel() if len(support) == 3 else padded.shape[-1])
        height, width, last = x.shape[1], x.shape[-1], support[-1]
        gram = differentiable(torch.ops.hcnn.row_gram, _RowGram, rows.contiguous(), height)
        gram = gram / x.numel()  # (k1, c, k1, c)
        k1, stacked, extended = support[0], math.prod(support[1:-1]), padded.shape[-1]
        size = k1 * stacked * last
        blocks = gram.reshape(k1 * stacked, extended, k1 * stacked, extended)
        blocks = blocks.unfold(1, width, 1).unfold(3, width, 1)  # (S, k, S, k, w, w)
        second = blocks.diagonal(dim1=-2, dim2=-1).sum(-1).reshape(size, size)
        first = rows.sum(1).unfold(0, height, 1).sum(-1) / x.numel()  # (k1, c)
        first = first.reshape(k1 * stacked, extended).unfold(1, width, 1).sum(-1).reshape(size)
        return first + pivot, second - torch.outer(first, first)


# Custom operators: autograd through slices would write and keep a full array for each product, and a compiler would
# take the loops apart.
def _row_gram(rows: Tensor, height: int) -> Tensor:
    """``gram(s, :, t, :) = Σ_{r < height} rows(s + r)ᵀ rows(t + r)`` of rows (u1', n, c): (k1, c, k1, c)."""
    shifts, columns = rows.shape[0] - height + 1, rows.shape[2]
    gram = rows.new_empty(shifts, columns, shifts, columns)
    upper = rows[:height].reshape(-1, columns)
    for distance in range(shifts):
        block = upper.T @ rows[distance : distance + height].reshape(-1, columns)
        for s in range(shifts - distance):
            if s:  # the window moves on by one row: one leaves, one enters
                leaves = rows[s - 1].T @ rows[s - 1 + distance]
                enters = rows[s - 1 + height].T @ rows[s - 1 + height + distance]
                block = block + (enters - leaves)
            gram[s, :, s + distance] = block
            gram[s + distance, :, s] = block.T
    return gram


_row_gram_operator = opaque("hcnn::row_gram", _row_gram)


@_row_gram_operator.register_fake
def _(rows: Tensor, height: int) -> Tensor:
    shifts, columns = rows.shape[0] - height + 1, rows.shape[2]
    return rows.new_empty(shifts, columns, shifts, columns)


def _row_gram_backward(rows: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `_row_gram` for its rows: ``Σ_t rows(r - s + t) (grad(s, t) + grad(t, s))ᵀ`` over fitting s."""
    total, _, columns = rows.shape
    shifts = grad.shape[0]
    height = total - shifts + 1
    both = grad.permute(0, 2, 3, 1) + grad.permute(2, 0, 1, 3)  # (s, t, c of t, c of s)
    result = torch.zeros_like(rows)
    # Row r is touched by the shifts s with 0 <= r - s < height; rows with the same shifts go together.
    spans = [(max(0, r - height + 1), min(shifts - 1, r)) for r in range(total)]
    start = 0
    while start < total:
        low, high = spans[start]
        stop = start + spans[start:].count((low, high))
        target = result[start:stop].view(-1, columns)
        for distance in range(-high, shifts - low):
            fitting = [both[s, s + distance] for s in range(low, high + 1) if 0 <= s + distance < shifts]
            if fitting:
                source = rows[start + distance : stop + distance].reshape(-1, columns)
                target.addmm_(source, torch.stack(fitting).sum(0))
        start = stop
    return result


_row_gram_backward_operator = opaque("hcnn::row_gram_backward", _row_gram_backward)


@_row_gram_backward_operator.register_fake
def _(rows: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(rows)


class _RowGramGradient(Once):
    forward = staticmethod(_row_gram_backward)  # pyright: ignore


class _RowGram(Gradient):
    @staticmethod
    def forward(rows: Tensor, height: int) -> Tensor:
        return _row_gram(rows, height)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return differentiable(
            torch.ops.hcnn.row_gram_backward, _RowGramGradient, *ctx.saved_tensors, grads[0].contiguous()
        ), None


_row_gram_operator.register_autograd(_RowGram.backward, setup_context=_RowGram.setup_context)
