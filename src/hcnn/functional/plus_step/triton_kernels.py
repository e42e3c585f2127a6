"""Triton kernels for the inner step of HCNN(+). Imported on first use: they need Triton.

The product with the attribute matrix runs over v in steps of VB values. The (m, VB · Q) block of its left operand,
``ELU(x_v * h_q + shift_q)``, is made in registers from the patches of x: a small product with h, block-diagonal so
that VB values go through together. Q is padded to a power of two, patches to 16 taps.
"""

# Triton's language has types of its own, which Python's checkers do not know.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# Tiles (positions, outputs, least v·q) and warps. Chosen by counting registers and shared memory, not by timing.
FORWARD = (128, 256, 32, 8)
INPUTS = (128, 64, 64, 8)
MATRIX = (64, 128, 128, 8)
_PATCHES = 1 << 28  # bytes of patch gradients at a time
_PROGRAMS = 264  # that a launch should have at least: two on each multiprocessor of a large GPU


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a b``. Triton's interpreter multiplies bfloat16's bits as integers: there values go in as float32."""
    if PRECISION == "interpreted":
        a, b = a.to(tl.float32), b.to(tl.float32)
        return tl.dot(a, b, acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _place(
    m, M, tap, H: tl.constexpr, W: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, SH: tl.constexpr,
    SW: tl.constexpr, CIRCULAR: tl.constexpr,
):  # fmt: skip
    """Offset in a map of the pixel at a tap of output position m, and whether there is one. m (·, 1), tap (1, ·)."""
    u = m % (HO * WO)
    row = u // WO * SH + tap // 3 - 1
    column = u % WO * SW + tap % 3 - 1
    inside = (m < M) & (tap < 9)
    if CIRCULAR:
        row, column = (row + H) % H, (column + W) % W
    else:
        inside = inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    return row * W + column, inside


@triton.jit
def _forward(
    x_ptr, h_ptr, shift_ptr, g_ptr, y_ptr, M,
    V: tl.constexpr, H: tl.constexpr, W: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, OUT: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    CIRCULAR: tl.constexpr, QP: tl.constexpr, VB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(OUT, BN)
    m = tl.program_id(0) // columns * BM + tl.arange(0, BM)
    n = tl.program_id(0) % columns * BN + tl.arange(0, BN)
    taps, q = tl.arange(0, VB * 16), tl.arange(0, VB * QP)
    place, inside = _place(m[:, None], M, taps[None, :] % 16, H, W, HO, WO, SH, SW, CIRCULAR)
    x_at = x_ptr + (m // (HO * WO))[:, None] * V * H * W + (taps // 16)[None, :] * H * W + place
    g_at = g_ptr + n[None, :] * V * QP + q[:, None]  # (vq, n)
    h = tl.load(h_ptr + taps[:, None] * (VB * QP) + q[None, :])
    shift = tl.load(shift_ptr + q)[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, V, VB):
        patches = tl.load(x_at, mask=inside, other=0.0)
        z = _dot(patches, h, tl.zeros((BM, VB * QP), tl.float32), PRECISION) + shift
        a = tl.where(z > 0, z, tl.exp(tl.minimum(z, 0.0)) - 1.0).to(patches.dtype)
        g = tl.load(g_at, mask=n[None, :] < OUT, other=0.0)
        acc = _dot(a, g, acc, PRECISION)
        x_at += VB * H * W
        g_at += VB * QP
    y_at = y_ptr + ((m // (HO * WO))[:, None] * OUT + n[None, :]) * (HO * WO) + (m % (HO * WO))[:, None]
    tl.store(y_at, acc.to(y_ptr.dtype.element_ty), mask=(m < M)[:, None] & (n < OUT)[None, :])


@triton.jit
def _inputs(
    dy_ptr, x_ptr, h_ptr, ht_ptr, shift_ptr, g_ptr, dp_ptr, dh_ptr, M, SPLITS,
    V: tl.constexpr, H: tl.constexpr, W: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, OUT: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, CIRCULAR: tl.constexpr, QP: tl.constexpr, VB: tl.constexpr, BM: tl.constexpr,
    BO: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the patches, (b, v, 9, u'), and partial sums of those of h and shift, (programs, VB·Q, VB·16)."""
    tile, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    m = tile * BM + tl.arange(0, BM)
    taps, q, o = tl.arange(0, VB * 16), tl.arange(0, VB * QP), tl.arange(0, BO)
    place, inside = _place(m[:, None], M, taps[None, :] % 16, H, W, HO, WO, SH, SW, CIRCULAR)
    image, u = m // (HO * WO), m % (HO * WO)
    x_at = x_ptr + image[:, None] * V * H * W + (taps // 16)[None, :] * H * W + place
    dp_at = dp_ptr + ((image[:, None] * V + (taps // 16)[None, :]) * 9 + taps[None, :] % 16) * (HO * WO) + u[:, None]
    dy_at = dy_ptr + (image[:, None] * OUT + o[None, :]) * (HO * WO) + u[:, None]  # (m, o)
    h = tl.load(h_ptr + taps[:, None] * (VB * QP) + q[None, :])
    ht = tl.load(ht_ptr + q[:, None] * (VB * 16) + taps[None, :])
    shift = tl.load(shift_ptr + q)[None, :]
    dh = tl.zeros((VB * QP, VB * 16), tl.float32)
    for v in range(split * VB, V, SPLITS * VB):
        da = tl.zeros((BM, VB * QP), tl.float32)
        for start in range(0, OUT, BO):
            some = start + o < OUT
            dy = tl.load(dy_at + start * (HO * WO), mask=(m < M)[:, None] & some[None, :], other=0.0)
            g = tl.load(g_ptr + (start + o)[:, None] * V * QP + (v * QP + q)[None, :], mask=some[:, None], other=0.0)
            da = _dot(dy, g, da, PRECISION)
        patches = tl.load(x_at + v * H * W, mask=inside, other=0.0)
        z = _dot(patches, h, tl.zeros((BM, VB * QP), tl.float32), PRECISION) + shift
        dz = tl.where(z > 0, da, da * tl.exp(tl.minimum(z, 0.0))).to(patches.dtype)
        dp = _dot(dz, ht, tl.zeros((BM, VB * 16), tl.float32), PRECISION)
        tl.store(
            dp_at + v * 9 * (HO * WO), dp.to(dp_ptr.dtype.element_ty), mask=(m < M)[:, None] & (taps % 16 < 9)[None, :]
        )
        ones = (taps[None, :] % 16 == 9) & (m[:, None] < M)  # tap 9 sums dz: the gradient of the shift
        patches = tl.where(ones, 1.0, patches.to(tl.float32)).to(dz.dtype)
        dh = _dot(tl.trans(dz), patches, dh, PRECISION)
    tl.store(dh_ptr + tl.program_id(0) * (VB * QP * VB * 16) + q[:, None] * (VB * 16) + taps[None, :], dh)


@triton.jit
def _collect(
    dp_ptr, dx_ptr, total, H: tl.constexpr, W: tl.constexpr, HO: tl.constexpr,
    WO: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, CIRCULAR: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """``dx(u) = Σ_t dp(t, (u - t) / stride)`` over the taps for which that is a position."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = i // W % H, i % W
    plane = (i // (H * W)).to(tl.int64) * 9 * (HO * WO)
    result = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(9):
        from_row, from_column = row - (tap // 3 - 1), column - (tap % 3 - 1)
        if CIRCULAR:
            from_row, from_column = (from_row + H) % H, (from_column + W) % W
        mask = (i < total) & (from_row >= 0) & (from_row < H) & (from_column >= 0) & (from_column < W)
        mask = mask & (from_row % SH == 0) & (from_column % SW == 0)
        at = plane + tap * (HO * WO) + from_row // SH * WO + from_column // SW
        result += tl.load(dp_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + i, result.to(dx_ptr.dtype.element_ty), mask=i < total)


@triton.jit
def _matrix(
    dy_ptr, x_ptr, h_ptr, shift_ptr, dg_ptr, M, SPLITS,
    V: tl.constexpr, H: tl.constexpr, W: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, OUT: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    CIRCULAR: tl.constexpr, QP: tl.constexpr, VB: tl.constexpr, BM: tl.constexpr, BO: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial sums over positions of the gradient of the matrix, (splits, o, v · Q)."""
    groups, rows = V // VB, tl.cdiv(OUT, BO)
    split = tl.program_id(0) // (groups * rows)
    v = tl.program_id(0) // rows % groups * VB
    o = tl.program_id(0) % rows * BO + tl.arange(0, BO)
    taps, q = tl.arange(0, VB * 16), tl.arange(0, VB * QP)
    h = tl.load(h_ptr + taps[:, None] * (VB * QP) + q[None, :])
    shift = tl.load(shift_ptr + q)[None, :]
    acc = tl.zeros((BO, VB * QP), tl.float32)
    for start in range(split * BM, M, SPLITS * BM):
        m = start + tl.arange(0, BM)
        place, inside = _place(m[:, None], M, taps[None, :] % 16, H, W, HO, WO, SH, SW, CIRCULAR)
        image, u = m // (HO * WO), m % (HO * WO)
        patches = tl.load(
            x_ptr + (image[:, None] * V + v + (taps // 16)[None, :]) * H * W + place, mask=inside, other=0.0
        )
        z = _dot(patches, h, tl.zeros((BM, VB * QP), tl.float32), PRECISION) + shift
        a = tl.where(z > 0, z, tl.exp(tl.minimum(z, 0.0)) - 1.0).to(patches.dtype)
        dy = tl.load(
            dy_ptr + (image[None, :] * OUT + o[:, None]) * (HO * WO) + u[None, :],
            mask=(m < M)[None, :] & (o < OUT)[:, None], other=0.0,
        )  # fmt: skip
        acc = _dot(dy, a, acc, PRECISION)
    at = (split * OUT + o[:, None]) * (V * QP) + v * QP + q[None, :]
    tl.store(dg_ptr + at, acc, mask=(o < OUT)[:, None])


@dataclass(frozen=True)
class _Step:
    """Sizes and padded operands of one call."""

    x: Tensor
    h: Tensor
    shift: Tensor
    matrix: Tensor
    stride: tuple[int, int]
    circular: bool

    @property
    def out(self) -> tuple[int, int]:
        h, w = self.x.shape[2:]
        return (h - 1) // self.stride[0] + 1, (w - 1) // self.stride[1] + 1

    @property
    def rank(self) -> int:
        """Q as padded: products want 16 at least."""
        return max(16, triton.next_power_of_2(len(self.h)))

    def values(self, least: int) -> int:
        """VB: how many values of v make `least` columns; divides v."""
        block = 1
        while block * self.rank < least and self.x.shape[1] % (2 * block) == 0:
            block *= 2
        return block

    def filters(self, values: int) -> tuple[Tensor, Tensor]:
        """The filters h as a block-diagonal (VB · 16, VB · Q), in the type of x, and the shift VB times, in float32."""
        q = len(self.h)
        padded = F.pad(self.h.reshape(q, 9).T, (0, self.rank - q, 0, 7)).to(self.x.dtype)  # (16, Q)
        shift = F.pad(self.shift.float(), (0, self.rank - q)).repeat(values)
        return torch.block_diag(*[padded] * values), shift

    def wide_matrix(self) -> Tensor:
        """The attribute matrix (o, v · Q) with Q padded, in the type of x."""
        o, q = len(self.matrix), len(self.h)
        return F.pad(self.matrix.reshape(o, -1, q), (0, self.rank - q)).to(self.x.dtype).reshape(o, -1).contiguous()

    def sizes(self) -> tuple[int, ...]:
        """M and the sizes that all kernels take: V, H, W, HO, WO, OUT."""
        b, v, h, w = self.x.shape
        return b * self.out[0] * self.out[1], v, h, w, *self.out, len(self.matrix)

    @property
    def precision(self) -> str:
        """How products are taken; bfloat16 ones have one way on a GPU."""
        if self.x.dtype == torch.float32:
            return "ieee"
        return "interpreted" if triton.knobs.runtime.interpret else "tf32"


def _cut(least: int, size: int) -> int:
    """A tile no larger than the power of two that holds the size."""
    return max(16, min(least, triton.next_power_of_2(size)))


def forward(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: tuple[int, int], circular: bool) -> Tensor:
    """(b, o, u1', u2')."""
    step = _Step(x, h, shift, matrix, stride, circular)
    m, *_ = sizes = step.sizes()
    tile_m, tile_n, least, warps = FORWARD
    tile_m, tile_n, values = _cut(tile_m, m), _cut(tile_n, len(matrix)), step.values(least)
    wide, bias = step.filters(values)
    y = x.new_empty(len(x), len(matrix), *step.out)
    grid = (triton.cdiv(m, tile_m) * triton.cdiv(len(matrix), tile_n),)
    with torch.cuda.device_of(x):
        _forward[grid](
            x, wide, bias, step.wide_matrix(), y, *sizes, *stride, circular, step.rank, values, tile_m, tile_n,
            step.precision, num_warps=warps,
        )  # fmt: skip
    return y


def backward(
    dy: Tensor, x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: tuple[int, int], circular: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, h, shift and matrix, each in the type of what it belongs to."""
    step = _Step(x, h, shift, matrix, stride, circular)
    with torch.cuda.device_of(x):
        dx, dh, dshift = _backward_inputs(dy, step)
        return dx, dh.to(h.dtype), dshift.to(shift.dtype), _backward_matrix(dy, step).to(matrix.dtype)


def _backward_inputs(dy: Tensor, step: _Step) -> tuple[Tensor, Tensor, Tensor]:
    x, q, rank = step.x, len(step.h), step.rank
    v, (height, width), positions = x.shape[1], x.shape[2:], step.out[0] * step.out[1]
    tile_m, tile_o, least, warps = INPUTS
    values = step.values(least)
    wide, bias = step.filters(values)
    matrix, transposed = step.wide_matrix(), wide.T.contiguous()
    images = max(1, _PATCHES // (v * 9 * positions * x.element_size()))
    dx, sums = torch.empty_like(x), []
    for start in range(0, len(x), images):
        part, grad, out = x[start : start + images], dy[start : start + images], dx[start : start + images]
        m = len(part) * positions
        tile_m, tile_o = _cut(tile_m, m), _cut(tile_o, len(matrix))
        tiles = triton.cdiv(m, tile_m)
        splits = min(v // values, triton.cdiv(_PROGRAMS, tiles))
        patches = x.new_empty(len(part), v, 9, positions)
        products = x.new_empty(tiles * splits, values * rank, values * 16, dtype=torch.float32)
        _inputs[(tiles * splits,)](
            grad, part, wide, transposed, bias, matrix, patches, products, m, splits, *step.sizes()[1:], *step.stride,
            step.circular, rank, values, tile_m, tile_o, step.precision, num_warps=warps,
        )  # fmt: skip
        _collect[(triton.cdiv(part.numel(), 512),)](
            patches, out, part.numel(), height, width, *step.out, *step.stride, step.circular, 512
        )
        sums.append(products.sum(0))
    total = torch.stack(sums).sum(0).reshape(values, rank, values, 16)
    dh = total.diagonal(dim1=0, dim2=2).sum(-1)[:q]  # (q, 16)
    return dx, dh[:, :9].reshape(step.h.shape), dh[:, 9].clone()


def _backward_matrix(dy: Tensor, step: _Step) -> Tensor:
    m, v, *_ = sizes = step.sizes()
    outputs, rank = len(step.matrix), step.rank
    tile_m, tile_o, least, warps = MATRIX
    tile_m, tile_o, values = _cut(tile_m, m), _cut(tile_o, outputs), step.values(least)
    wide, bias = step.filters(values)
    tiles = triton.cdiv(outputs, tile_o) * (v // values)
    splits = min(triton.cdiv(m, tile_m), triton.cdiv(_PROGRAMS, tiles))
    parts = dy.new_empty(splits, outputs, v * rank, dtype=torch.float32)
    _matrix[(tiles * splits,)](
        dy, step.x, wide, bias, parts, m, splits, *sizes[1:], *step.stride, step.circular, rank, values, tile_m, tile_o,
        step.precision, num_warps=warps,
    )  # fmt: skip
    return parts.sum(0).reshape(outputs, v, rank)[..., : len(step.h)].reshape(outputs, -1)
