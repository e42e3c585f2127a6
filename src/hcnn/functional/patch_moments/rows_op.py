"""Products of the rows of an array with its shifted rows, as an operator with a gradient of its own."""

from typing import Any

import torch
from torch import Tensor

from hcnn.functional.custom_op import Gradient, Once, differentiable, opaque


def row_gram(rows: Tensor, height: int) -> Tensor:
    """``gram(s, :, t, :) = Σ_{r < height} rows(s + r)ᵀ rows(t + r)`` of rows (u1', n, c): (k1, c, k1, c)."""
    return differentiable(torch.ops.hcnn.row_gram, _RowGram, rows, height)


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
