"""Triton kernels for the mean and covariance of 3×3 patches and their gradient. Imported on first use.

Arrays are (outer, height, width, inner), contiguous: inner is 1 channels-first, all channels channels-last.
"""

# Triton's language has types of its own, which Python's checkers do not know.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from functools import lru_cache
from itertools import product

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnn.functional.triton_types import triton_wide

_PARTS = 32  # programs for one row and kind of column, at most; each leaves one partial sum
_POSITIONS = 256  # that one step of a program multiplies
_KINDS = 5  # of columns under zeros: outside on the left, first, inner, last, outside on the right
_ELEMENTS = 256  # per program of the gradient


@triton.jit
def _products(
    x_ptr, pivot_ptr, part_ptr, outer, H: tl.constexpr, W: tl.constexpr, INNER: tl.constexpr, CIRCULAR: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of ``z(w) z(w + δ)`` over the positions w in one row and one kind of column; (…, 16).

    z is x about the pivot, extended by one position on every side under zeros. Two taps of a patch are at most two
    rows and columns apart; of each pair δ and -δ one is taken: 13 in all. The sum at 13 is that of z(w).
    """
    kind, part, parts = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    if CIRCULAR:
        row, left, right = tl.program_id(0), 0, W
    else:
        row, last = tl.program_id(0) - 1, W - 1 if W > 1 else 1
        left = tl.where(kind < 3, kind - 1, tl.where(kind == 3, last, W))
        right = tl.where(kind == 2, last, tl.where(kind == 3, W, left + 1))
    columns = right - left
    total = outer * columns * INNER
    pivot = tl.load(pivot_ptr).to(WIDE)
    d = tl.arange(0, 16)[:, None]
    down = (d >= 3).to(tl.int32) + (d >= 8).to(tl.int32)
    across = tl.where(d < 3, d, tl.where(d < 8, d - 5, d - 10))
    to_row = row + down
    if CIRCULAR:
        to_row = to_row % H
    sums = tl.zeros((16, BLOCK), WIDE)
    for start in range(part * BLOCK, total, parts * BLOCK):
        i = (start + tl.arange(0, BLOCK))[None, :]
        mask = i < total
        position, channel = i // INNER, i % INNER
        column, image = left + position % columns, position // columns
        to_column = column + across
        there = mask & (d < 13)
        here = mask
        if CIRCULAR:
            to_column = (to_column + 2 * W) % W
        else:
            there = there & (to_row >= 0) & (to_row < H) & (to_column >= 0) & (to_column < W)
            here = here & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        first = tl.load(x_ptr + ((image * H + row) * W + column) * INNER + channel, mask=here, other=0.0).to(WIDE)
        first = tl.where(mask, first - pivot, 0.0)
        at = ((image * H + to_row) * W + to_column) * INNER + channel
        second = tl.load(x_ptr + at, mask=there, other=0.0).to(WIDE) - pivot
        sums += first * tl.where(d < 13, second, 1.0)
    place = (tl.program_id(0) * tl.num_programs(1) + kind) * parts + part
    tl.store(part_ptr + place * 16 + tl.arange(0, 16), tl.sum(sums, 1))


@lru_cache(maxsize=64)
def _windows(height: int, width: int, circular: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Which sums of `_products` add up to the 81 sums over pairs of taps, then to the 9 over taps; (90, …)."""
    last = max(1, width - 1)
    spans = [(-1, 0), (0, 1), (1, last), (last, width), (width, width + 1)]
    rows, spans = (range(height), [(0, width)]) if circular else (range(-1, height + 1), spans)
    taps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    pairs = [*(sorted(pair) for pair in product(taps, taps)), *([tap] for tap in taps)]
    found = np.zeros((len(pairs), len(rows), len(spans), 16))
    for pair, entry in zip(pairs, found, strict=True):
        (down, right), (below, beside) = pair[0], pair[-1]
        to = (0, 5, 10)[below - down] + beside - right if len(pair) == 2 else 13
        for i, row in enumerate(rows):
            for k, (left, end) in enumerate(spans):
                inside = down <= row < height + down and right <= left < end <= width + right
                entry[i, k, to] = circular or inside
    with torch.inference_mode(False):  # it outlives the mode it is first needed in
        return torch.as_tensor(found, dtype=dtype).flatten(1).to(device)


@triton.jit
def _finish(sums_ptr, pivot_ptr, mean_ptr, covariance_ptr, total, WIDE: tl.constexpr):
    """Mean and covariance from the 81 sums of products and the 9 sums about the pivot."""
    s, t = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    inside = (s < 9) & (t < 9)
    gram = tl.load(sums_ptr + s * 9 + t, mask=inside, other=0.0) / total
    tap = tl.arange(0, 16)
    first = tl.load(sums_ptr + 81 + tap, mask=tap < 9, other=0.0) / total
    covariance = gram - tl.expand_dims(first, 1) * tl.expand_dims(first, 0)
    tl.store(covariance_ptr + s * 9 + t, covariance, mask=inside)
    tl.store(mean_ptr + tap, first + tl.load(pivot_ptr).to(WIDE), mask=tap < 9)


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


def forward(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9)."""
    outer, height, width, inner = x.shape
    torch_wide, wide = triton_wide(x.dtype)
    # Any constant near the mean serves as the pivot; one map's mean is near enough and costs no pass over x.
    pivot = x[0].mean(dtype=torch_wide)
    parts = min(triton.cdiv(outer * width * inner, _POSITIONS), _PARTS)
    rows, kinds = (height, 1) if circular else (height + 2, _KINDS)
    products = x.new_empty(rows * kinds, parts, 16, dtype=torch_wide)
    mean, covariance = x.new_empty(9, dtype=torch_wide), x.new_empty(9, 9, dtype=torch_wide)
    with torch.cuda.device_of(x):
        _products[(rows, kinds, parts)](
            x, pivot, products, outer, height, width, inner, circular, wide, _POSITIONS, num_warps=2
        )
        # Autocast would round the terms of a matrix product.
        sums = (_windows(height, width, circular, x.device, torch_wide) * products.sum(1).view(-1)).sum(1)
        _finish[(1,)](sums, pivot, mean, covariance, x.numel(), wide, num_warps=1)
    return mean, covariance


def backward(grad_mean: Tensor, grad_covariance: Tensor, x: Tensor, mean: Tensor, circular: bool) -> Tensor:
    """Gradient for x."""
    _, height, width, inner = x.shape
    torch_wide, wide = triton_wide(x.dtype)
    filters = x.new_empty(16, 32, dtype=torch_wide)
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _filters[(16,)](grad_mean, grad_covariance, mean, filters, x.numel(), wide, num_warps=1)
        _gradient[(triton.cdiv(x.numel(), _ELEMENTS),)](
            x, filters, out, x.numel(), height, width, inner, circular, wide, _ELEMENTS
        )
    return out
