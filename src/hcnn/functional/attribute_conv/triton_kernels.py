"""Triton kernels that place filters in the matrix of the dense form, and collect their gradient. They need Triton.

Filters are (k, t1, t2, d) with d all spatial taps, the matrix is (o1, o2, k, d, a1, a2): tap t of output o lies on
input ``a = s o + t - p``, modulo n if periodic, where several taps of a filter longer than the axis land together.
"""

# Triton's language has types of its own, which Python's checkers do not know.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnn.functional.triton_types import triton_wide

_ELEMENTS = 1024  # of the matrix, per program
_WEIGHTS = 128  # of the filters, per program


@triton.jit
def _place(
    w_ptr, out_ptr, total, K: tl.constexpr, D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, K1: tl.constexpr,
    K2: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, CIRCULAR: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a2, a1, d, k, o = i % N2, i // N2 % N1, i // (N2 * N1) % D, i // (N2 * N1 * D) % K, i // (N2 * N1 * D * K)
    t1 = a1 - S1 * (o // (N2 // S2)) + K1 // 2
    t2 = a2 - S2 * (o % (N2 // S2)) + K2 // 2
    result = tl.zeros((BLOCK,), WIDE)
    if CIRCULAR:
        t1, t2 = (t1 + K1 * N1) % N1, (t2 + K2 * N2) % N2
        for turn in tl.static_range((K1 + N1 - 1) // N1 * ((K2 + N2 - 1) // N2)):
            u1, u2 = t1 + turn // ((K2 + N2 - 1) // N2) * N1, t2 + turn % ((K2 + N2 - 1) // N2) * N2
            there = (i < total) & (u1 < K1) & (u2 < K2)
            result += tl.load(w_ptr + ((k * K1 + u1) * K2 + u2) * D + d, mask=there, other=0.0).to(WIDE)
    else:
        there = (i < total) & (t1 >= 0) & (t1 < K1) & (t2 >= 0) & (t2 < K2)
        result += tl.load(w_ptr + ((k * K1 + t1) * K2 + t2) * D + d, mask=there, other=0.0).to(WIDE)
    tl.store(out_ptr + i, result.to(out_ptr.dtype.element_ty), mask=i < total)


@triton.jit
def _collect(
    grad_ptr, out_ptr, total, K: tl.constexpr, D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, K1: tl.constexpr,
    K2: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, CIRCULAR: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d, t2, t1, k = i % D, i // D % K2, i // (D * K2) % K1, i // (D * K2 * K1)
    result = tl.zeros((BLOCK,), WIDE)
    for o in range((N1 // S1) * (N2 // S2)):
        a1 = S1 * (o // (N2 // S2)) + t1 - K1 // 2
        a2 = S2 * (o % (N2 // S2)) + t2 - K2 // 2
        there = i < total
        if CIRCULAR:
            a1, a2 = (a1 + K1 * N1) % N1, (a2 + K2 * N2) % N2
        else:
            there = there & (a1 >= 0) & (a1 < N1) & (a2 >= 0) & (a2 < N2)
        at = (((o * K + k) * D + d) * N1 + a1) * N2 + a2
        result += tl.load(grad_ptr + at, mask=there, other=0.0).to(WIDE)
    tl.store(out_ptr + i, result.to(out_ptr.dtype.element_ty), mask=i < total)


def place(flat: Tensor, out: Tensor, geometry: Sequence[int], circular: bool) -> None:
    """Filters (k, t, d) to the matrix (o · k, d, a)."""
    k, _, d = flat.shape
    with torch.cuda.device_of(flat):
        _place[(triton.cdiv(out.numel(), _ELEMENTS),)](
            flat, out, out.numel(), k, d, *geometry, circular, triton_wide(flat.dtype)[1], _ELEMENTS
        )


def collect(grad: Tensor, out: Tensor, geometry: Sequence[int], circular: bool) -> None:
    """The matrix's gradient (o · k, d, a) to that of the filters (k, t, d)."""
    k, _, d = out.shape
    with torch.cuda.device_of(grad):
        _collect[(triton.cdiv(out.numel(), _WEIGHTS),)](
            grad, out, out.numel(), k, d, *geometry, circular, triton_wide(out.dtype)[1], _WEIGHTS
        )
