"""Triton kernels for batch statistics and scale + shift + ELU. Imported on first use: they need Triton.

All work on memory in its own order: ``flat`` (outer, v1, r), contiguous, whose value of the newest attribute at offset
r of a row is ``(r // inner) % k``. Channels-first arrays have inner = prod(u), channels-last ones inner = 1.
"""

# Triton's language has types of its own, which Python's checkers do not know.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnn.functional.triton_types import triton_wide

_ELEMENTS = 1024  # per program of the elementwise kernels
_PARTS = 1024  # partial sums of a reduction, at most; a power of two


@triton.jit
def _elu(z):
    return tl.where(z > 0, z, tl.exp(tl.minimum(z, 0.0)) - 1.0)


@triton.jit
def _slope(z):
    return tl.where(z > 0, 1.0, tl.exp(tl.minimum(z, 0.0)))


@triton.jit
def _forward(
    y_ptr, scale_ptr, shift_ptr, out_ptr, total, K: tl.constexpr, INNER: tl.constexpr, V1: tl.constexpr,
    R: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < total
    outer, r = i // R, i % R
    k = (r // INNER) % K
    scale = tl.load(scale_ptr + k).to(WIDE)
    shift = tl.load(shift_ptr + k).to(WIDE)
    result = tl.zeros((BLOCK,), WIDE)
    for v in tl.static_range(V1):
        y = tl.load(y_ptr + (outer * V1 + v) * R + r, mask=mask, other=0.0).to(WIDE)
        result += _elu(y * scale + shift)
    tl.store(out_ptr + i, (result / V1).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    y_ptr, grad_ptr, scale_ptr, shift_ptr, pivot_ptr, c0_ptr, c1_ptr, out_ptr, total, K: tl.constexpr,
    INNER: tl.constexpr, V1: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``dy = scale g ELU'(z) + c0 + c1 (y - pivot)``; the last two come from batch statistics, or are zero."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < total
    outer, r = i // R, i % R
    k = (r // INNER) % K
    scale = tl.load(scale_ptr + k).to(WIDE)
    shift = tl.load(shift_ptr + k).to(WIDE)
    pivot = tl.load(pivot_ptr + k).to(WIDE)
    c0 = tl.load(c0_ptr + k).to(WIDE)
    c1 = tl.load(c1_ptr + k).to(WIDE)
    grad = tl.load(grad_ptr + i, mask=mask, other=0.0).to(WIDE) / V1
    for v in tl.static_range(V1):
        at = (outer * V1 + v) * R + r
        y = tl.load(y_ptr + at, mask=mask, other=0.0).to(WIDE)
        result = scale * grad * _slope(y * scale + shift) + (c0 + c1 * (y - pivot))
        tl.store(out_ptr + at, result.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _reduce(
    y_ptr, grad_ptr, scale_ptr, shift_ptr, pivot_ptr, part_ptr, total, parts, K: tl.constexpr, INNER: tl.constexpr,
    V1: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Partial sums per k of ``g ELU'(z)`` and ``g ELU'(z) (y - pivot)``: (2, k, parts)."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = k < K
    scale = tl.load(scale_ptr + k, mask=inside, other=0.0).to(WIDE)[None, :]
    shift = tl.load(shift_ptr + k, mask=inside, other=0.0).to(WIDE)[None, :]
    pivot = tl.load(pivot_ptr + k, mask=inside, other=0.0).to(WIDE)[None, :]
    part = tl.program_id(1)
    first = tl.zeros((BLOCK_K,), WIDE)
    second = tl.zeros((BLOCK_K,), WIDE)
    for start in range(part * BLOCK_N, total, parts * BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        at = ((n // INNER)[:, None] * K + k[None, :]) * INNER + (n % INNER)[:, None]
        mask = (n < total)[:, None] & inside[None, :]
        y = tl.load(y_ptr + at, mask=mask, other=0.0).to(WIDE)
        grad = tl.load(grad_ptr + at // (V1 * R) * R + at % R, mask=mask, other=0.0).to(WIDE) / V1
        grad = grad * _slope(y * scale + shift)
        first += tl.sum(grad, 0)
        second += tl.sum(grad * (y - pivot), 0)
    tl.store(part_ptr + k * parts + part, first, mask=inside)
    tl.store(part_ptr + (K + k) * parts + part, second, mask=inside)


@triton.jit
def _statistics(
    y_ptr, part_ptr, total, parts, K: tl.constexpr, INNER: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Count, mean and sum of squared deviations per k of each part, (3, k, parts), about the mean of its first tile."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = k < K
    part = tl.program_id(1)
    pivot = tl.zeros((BLOCK_K,), WIDE)
    first = tl.zeros((BLOCK_K,), WIDE)
    second = tl.zeros((BLOCK_K,), WIDE)
    count = 0
    for start in range(part * BLOCK_N, total, parts * BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        at = ((n // INNER)[:, None] * K + k[None, :]) * INNER + (n % INNER)[:, None]
        mask = (n < total)[:, None] & inside[None, :]
        y = tl.load(y_ptr + at, mask=mask, other=0.0).to(WIDE)
        here = tl.minimum(total - start, BLOCK_N)
        pivot = tl.where(count == 0, tl.sum(y, 0) / here, pivot)
        off = tl.where(mask, y - pivot[None, :], 0.0)
        first += tl.sum(off, 0)
        second += tl.sum(off * off, 0)
        count += here
    at = k * parts + part
    tl.store(part_ptr + at, tl.zeros((BLOCK_K,), WIDE) + count, mask=inside)
    tl.store(part_ptr + K * parts + at, pivot + first / count, mask=inside)
    tl.store(part_ptr + 2 * K * parts + at, second - first * first / count, mask=inside)


@triton.jit
def _merge(
    part_ptr, weight_ptr, bias_ptr, out_ptr, total, parts, eps, K: tl.constexpr, AFFINE: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Mean, variance and the scale and shift of a batch normalization, (4, k), from the parts of `_statistics`."""
    k = tl.program_id(0)
    i = tl.arange(0, PARTS)
    mask = i < parts
    at = part_ptr + k * parts + i
    count = tl.load(at, mask=mask, other=0.0)
    means = tl.load(at + K * parts, mask=mask, other=0.0)
    squares = tl.load(at + 2 * K * parts, mask=mask, other=0.0)
    origin = tl.load(part_ptr + K * parts + k * parts)
    mean = origin + tl.sum(count * (means - origin), 0) / total
    off = means - mean
    variance = tl.sum(tl.where(mask, squares + count * off * off, 0.0), 0) / total
    tl.store(out_ptr + k, mean)
    tl.store(out_ptr + K + k, variance)
    if AFFINE:
        scale = tl.load(weight_ptr + k).to(mean.dtype) / tl.sqrt(variance + eps)
        tl.store(out_ptr + 2 * K + k, scale)
        tl.store(out_ptr + 3 * K + k, tl.load(bias_ptr + k).to(mean.dtype) - scale * mean)


@triton.jit
def _coefficients(
    part_ptr, moments_ptr, out_ptr, total, parts, eps, K: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias, and c0 and c1 of `_backward`, (4, k), from the parts of `_reduce`."""
    k = tl.program_id(0)
    i = tl.arange(0, PARTS)
    mask = i < parts
    first = tl.sum(tl.load(part_ptr + k * parts + i, mask=mask, other=0.0), 0)
    second = tl.sum(tl.load(part_ptr + (K + k) * parts + i, mask=mask, other=0.0), 0)
    variance = tl.load(moments_ptr + K + k)
    scale = tl.load(moments_ptr + 2 * K + k)
    tl.store(out_ptr + k, second / tl.sqrt(variance + eps))
    tl.store(out_ptr + K + k, first)
    tl.store(out_ptr + 2 * K + k, -scale * first / total)
    tl.store(out_ptr + 3 * K + k, -scale * second / (variance + eps) / total)


def _tiles(flat: Tensor, k: int, inner: int) -> tuple[tuple[int, int], int, int, int]:
    """Grid, numbers per k, and tile (n, k) of a reduction over everything but k."""
    block_k = min(triton.next_power_of_2(k), 128) if inner == 1 else 1
    block_n = 1024 if inner > 1 else max(16, 2048 // block_k)
    total, columns = flat.numel() // k, triton.cdiv(k, block_k)
    parts = min(triton.cdiv(total, block_n), max(16, _PARTS // columns))
    return (columns, parts), total, block_n, block_k


def forward(flat: Tensor, scale: Tensor, shift: Tensor, inner: int) -> Tensor:
    """(outer, v1, r) -> (outer, r): mean over v1 of ``ELU(scale y + shift)``."""
    outer, v1, r = flat.shape
    out = flat.new_empty(outer, r)
    grid = (triton.cdiv(out.numel(), _ELEMENTS),)
    with torch.cuda.device_of(flat):
        _forward[grid](
            flat, scale, shift, out, out.numel(), len(scale), inner, v1, r, triton_wide(flat.dtype)[1], _ELEMENTS
        )  # fmt: skip
    return out


def reduce(flat: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, pivot: Tensor, inner: int) -> Tensor:
    """Partial sums of `_reduce`, (2, k, parts)."""
    k, (_, v1, r) = len(scale), flat.shape
    grid, total, block_n, block_k = _tiles(flat, k, inner)
    torch_wide, wide = triton_wide(flat.dtype)
    parts = flat.new_empty(2, k, grid[1], dtype=torch_wide)
    with torch.cuda.device_of(flat):
        _reduce[grid](
            flat, grad, scale, shift, pivot, parts, total, grid[1], k, inner, v1, r, wide, block_n, block_k
        )  # fmt: skip
    return parts


def backward(
    flat: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, pivot: Tensor, c0: Tensor, c1: Tensor, inner: int
) -> Tensor:
    """Gradient for y, (outer, v1, r)."""
    _, v1, r = flat.shape
    out = torch.empty_like(flat)
    grid = (triton.cdiv(grad.numel(), _ELEMENTS),)
    with torch.cuda.device_of(flat):
        _backward[grid](
            flat, grad, scale, shift, pivot, c0, c1, out, grad.numel(), len(scale), inner, v1, r,
            triton_wide(flat.dtype)[1], _ELEMENTS,
        )  # fmt: skip
    return out


def statistics(
    flat: Tensor, k: int, inner: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """Mean and variance, and with a weight and a bias also scale and shift, (2 or 4, k)."""
    grid, total, block_n, block_k = _tiles(flat, k, inner)
    torch_wide, wide = triton_wide(flat.dtype)
    parts = flat.new_empty(3, k, grid[1], dtype=torch_wide)
    out = flat.new_empty(2 if weight is None else 4, k, dtype=torch_wide)
    with torch.cuda.device_of(flat):
        _statistics[grid](flat, parts, total, grid[1], k, inner, wide, block_n, block_k)
        _merge[(k,)](
            parts, out if weight is None else weight, out if bias is None else bias, out, total, grid[1], eps, k,
            weight is not None, triton.next_power_of_2(grid[1]),
        )  # fmt: skip
    return out


def coefficients(parts: Tensor, moments: Tensor, total: int, eps: float) -> Tensor:
    """Gradients of weight and bias, then c0 and c1, (4, k)."""
    _, k, count = parts.shape
    out = torch.empty_like(moments)
    with torch.cuda.device_of(parts):
        _coefficients[(k,)](parts, moments, out, total, count, eps, k, triton.next_power_of_2(count))
    return out
