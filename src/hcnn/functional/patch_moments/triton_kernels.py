"""Triton kernels for the mean and covariance of 3×3 patches and their gradient. Imported on first use.

Arrays are (outer, height, width, inner), contiguous: inner is 1 channels-first, all channels channels-last.
"""

# Triton's language has types of its own, which Python's checkers do not know.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 2048  # at most; each leaves one partial product
_TILE = 64  # positions that one step of a program multiplies
_ELEMENTS = 256  # per program of the gradient


@triton.jit
def _gram(
    x_ptr, pivot_ptr, part_ptr, total, programs, H: tl.constexpr, W: tl.constexpr, INNER: tl.constexpr,
    CIRCULAR: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of ``p pᵀ`` over positions, (16, 16): p is the patch about the pivot, then 1, then zeros."""
    tap = tl.arange(0, 16)[:, None]
    down, right = tap // 3 - 1, tap % 3 - 1
    pivot = tl.load(pivot_ptr).to(WIDE)
    gram = tl.zeros((16, 16), WIDE)
    for start in range(tl.program_id(0) * TILE, total, programs * TILE):
        i = (start + tl.arange(0, TILE))[None, :]
        row = (i // (W * INNER)) % H
        column = (i // INNER) % W
        to_row, to_column = row + down, column + right
        inside = (i < total) & (tap < 9)
        if CIRCULAR:
            to_row, to_column = (to_row + H) % H, (to_column + W) % W
            read = inside
        else:
            read = inside & (to_row >= 0) & (to_row < H) & (to_column >= 0) & (to_column < W)
        at = i + ((to_row - row) * W + (to_column - column)) * INNER
        p = tl.load(x_ptr + at, mask=read, other=0.0).to(WIDE) - pivot
        p = tl.where(inside, p, 0.0)
        p = tl.where((i < total) & (tap == 9), 1.0, p)
        gram = tl.dot(p, tl.trans(p), gram, input_precision=PRECISION, out_dtype=WIDE)
    cell = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(part_ptr + tl.program_id(0) * 256 + cell, gram)


@triton.jit
def _finish(gram_ptr, pivot_ptr, mean_ptr, covariance_ptr, total, WIDE: tl.constexpr):
    s, t = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    gram = tl.load(gram_ptr + s * 16 + t) / total
    first = tl.load(gram_ptr + 9 * 16 + tl.arange(0, 16)) / total
    covariance = gram - tl.expand_dims(first, 1) * tl.expand_dims(first, 0)
    tl.store(covariance_ptr + s * 9 + t, covariance, mask=(s < 9) & (t < 9))
    taps = tl.arange(0, 16)
    tl.store(mean_ptr + taps, first + tl.load(pivot_ptr).to(WIDE), mask=taps < 9)


@triton.jit
def _filters(grad_mean_ptr, grad_ptr, mean_ptr, out_ptr, total, WIDE: tl.constexpr):
    """The 5×5 filter and the constant that the gradient is, for one of 16 kinds of position; (16, 32).

    A patch p adds ``(G (p - mean) + dmean) / n``, with G = dC + dCᵀ, to the gradients of its own pixels. A pixel u
    lies at tap t of the patch around u - t, so its gradient is a filter with ``Σ_{t - s = -δ} G(t, s)`` at δ, over
    the taps t for which u - t is a position: all but at borders. Bits of the kind: first, last row; first, last column.
    """
    kind = tl.program_id(0)
    first_row, last_row = kind // 8 % 2, kind // 4 % 2
    first_column, last_column = kind // 2 % 2, kind % 2
    cell = tl.arange(0, 32)
    result = tl.zeros((32,), WIDE)
    for t in range(9):
        down, right = t // 3 - 1, t % 3 - 1
        missing = ((down == 1) & (first_row == 1)) | ((down == -1) & (last_row == 1))
        missing = missing | ((right == 1) & (first_column == 1)) | ((right == -1) & (last_column == 1))
        constant = tl.load(grad_mean_ptr + t)
        for s in range(9):
            g = tl.load(grad_ptr + t * 9 + s) + tl.load(grad_ptr + s * 9 + t)
            constant -= g * tl.load(mean_ptr + s)
            there = (s // 3 - t // 3 + 2) * 5 + s % 3 - t % 3 + 2
            result += tl.where((cell == there) & (missing == 0), g / total, 0.0)
        result += tl.where((cell == 25) & (missing == 0), constant / total, 0.0)
    tl.store(out_ptr + kind * 32 + cell, result)


@triton.jit
def _gradient(
    x_ptr, filter_ptr, out_ptr, total, H: tl.constexpr, W: tl.constexpr, INNER: tl.constexpr, CIRCULAR: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < total
    row, column = (i // (W * INNER)) % H, (i // INNER) % W
    if CIRCULAR:
        kind = tl.zeros((BLOCK,), tl.int32)
    else:
        kind = (row == 0).to(tl.int32) * 8 + (row == H - 1).to(tl.int32) * 4
        kind += (column == 0).to(tl.int32) * 2 + (column == W - 1).to(tl.int32)
    own = filter_ptr + kind * 32
    result = tl.load(own + 25)
    for down in tl.static_range(-2, 3):
        for right in tl.static_range(-2, 3):
            to_row, to_column = row + down, column + right
            read = mask
            if CIRCULAR:
                to_row, to_column = (to_row + 2 * H) % H, (to_column + 2 * W) % W
            else:
                read = mask & (to_row >= 0) & (to_row < H) & (to_column >= 0) & (to_column < W)
            at = i + ((to_row - row) * W + (to_column - column)) * INNER
            x = tl.load(x_ptr + at, mask=read, other=0.0).to(WIDE)
            result += tl.load(own + ((down + 2) * 5 + right + 2)) * x
    tl.store(out_ptr + i, result.to(out_ptr.dtype.element_ty), mask=mask)


def _wide(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def forward(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9)."""
    _, height, width, inner = x.shape
    torch_wide, wide = _wide(x)
    # Any constant near the mean serves as the pivot; one map's mean is near enough and costs no pass over x.
    pivot = x[0].mean(dtype=torch_wide)
    programs = min(triton.cdiv(x.numel(), _TILE), _PROGRAMS)
    parts = x.new_empty(programs, 16, 16, dtype=torch_wide)
    mean, covariance = x.new_empty(9, dtype=torch_wide), x.new_empty(9, 9, dtype=torch_wide)
    # Three products of tf32 parts carry float32 precision at the speed of tensor cores.
    precision = "tf32x3" if torch_wide == torch.float32 else "ieee"
    with torch.cuda.device_of(x):
        _gram[(programs,)](
            x, pivot, parts, x.numel(), programs, height, width, inner, circular, wide, precision, _TILE, num_warps=1
        )
        _finish[(1,)](parts.sum(0), pivot, mean, covariance, x.numel(), wide, num_warps=1)
    return mean, covariance


def backward(grad_mean: Tensor, grad_covariance: Tensor, x: Tensor, mean: Tensor, circular: bool) -> Tensor:
    """Gradient for x."""
    _, height, width, inner = x.shape
    torch_wide, wide = _wide(x)
    filters = x.new_empty(16, 32, dtype=torch_wide)
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _filters[(16,)](grad_mean, grad_covariance, mean, filters, x.numel(), wide, num_warps=1)
        _gradient[(triton.cdiv(x.numel(), _ELEMENTS),)](
            x, filters, out, x.numel(), height, width, inner, circular, wide, _ELEMENTS
        )
    return out
