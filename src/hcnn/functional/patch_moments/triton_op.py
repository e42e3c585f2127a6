"""Mean and covariance of 3×3 patches in one pass over x, by Triton kernels."""

from collections.abc import Sequence

from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import wide


def patch_moments(x: Tensor, support: Sequence[int], boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9) of the 3×3 patches of x (..., u1, u2), as the naive form computes them.

    x is read once, in either memory order: channels first or channels last. The sums are taken in float32 about a
    pivot. The gradient, ``dx(u) = Σ_t (G (p(u - t) - mean) + dmean)_t / n`` with ``G = dC + dCᵀ``, is a 5×5 filter of x
    and a constant, with other coefficients at borders; x is all that is kept for it.
    """
    flat = x.reshape(len(x), -1, *x.shape[-2:]) if x.ndim > 2 else x.reshape(1, 1, *x.shape)  # (b, v, u1, u2)
    last = flat.movedim(1, -1)
    if flat.is_contiguous() or not last.is_contiguous():
        last = flat.reshape(-1, *x.shape[-2:], 1).contiguous()
    return _patch_moments(last, boundary == "circular")


def _forward(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    from hcnn.functional.patch_moments import triton_kernels as kernels  # needs Triton

    return kernels.forward(x, circular)


def _backward(grad_mean: Tensor, grad_covariance: Tensor, x: Tensor, circular: bool, mean: Tensor) -> Tensor:
    from hcnn.functional.patch_moments import triton_kernels as kernels

    return kernels.backward(grad_mean, grad_covariance, x, mean, circular)


def _fake(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(9, dtype=wide(x.dtype)), x.new_empty(9, 9, dtype=wide(x.dtype))


_patch_moments = define_operator("patch_moments", _forward, _backward, _fake, keep=(0,))
