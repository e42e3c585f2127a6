"""Patch moments from products of the rows of an array with its shifted rows; the patches are never copied."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.axes import Boundary, pad_spatial
from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import exactly, wide


def patch_moments(x: Tensor, support: Sequence[int], boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (P,) and covariance (P, P) of all patches of x (..., *u), as the naive form computes them.

    With Y the rows of the extended x, the products ``Y(r)ᵀ Y(r + d)`` summed over r, one for each of the few row
    distances d, hold every entry of the covariance as a sum along a diagonal. They are taken about the mean of x, for
    E[p²] - E[p]² cancels where the mean is large.
    """
    axes = len(support)
    with exactly(x):
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
        gram = _row_gram(rows.contiguous(), height) / x.numel()  # (k1, c, k1, c)
        stacked, extended = math.prod(support[:-1]), padded.shape[-1]
        size = stacked * last
        blocks = gram.reshape(stacked, extended, stacked, extended)
        blocks = blocks.unfold(1, width, 1).unfold(3, width, 1)  # (S, k, S, k, w, w)
        second = blocks.diagonal(dim1=-2, dim2=-1).sum(-1).reshape(size, size)
        first = rows.sum(1).unfold(0, height, 1).sum(-1) / x.numel()  # (k1, c)
        first = first.reshape(stacked, extended).unfold(1, width, 1).sum(-1).reshape(size)
        return first + pivot, second - torch.outer(first, first)


def _forward(rows: Tensor, height: int) -> Tensor:
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


def _backward(grad: Tensor, rows: Tensor, height: int) -> Tensor:
    """Gradient for the rows: ``Σ_t rows(r - s + t) (grad(s, t) + grad(t, s))ᵀ`` over fitting s."""
    total, _, columns = rows.shape
    shifts = total - height + 1
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


def _fake(rows: Tensor, height: int) -> Tensor:
    shifts, columns = rows.shape[0] - height + 1, rows.shape[2]
    return rows.new_empty(shifts, columns, shifts, columns)


_row_gram = define_operator("row_gram", _forward, _backward, _fake)
