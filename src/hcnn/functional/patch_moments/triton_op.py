"""Mean and covariance of 3×3 patches in one pass over x, as an operator that `torch.compile` keeps whole."""

from typing import Any

import torch
from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.dtypes import wide


def patch_moments(x: Tensor, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9) of the 3×3 patches of x (..., u1, u2), as the naive form computes them.

    x is read once, in whatever order it lies: channels first or channels last. The sums are taken in float32 about a
    pivot. The gradient, ``dx(u) = Σ_t (G (p(u - t) - mean) + dmean)_t / n`` with ``G = dC + dCᵀ``, is a 5×5 filter of x
    and a constant, with other coefficients at borders; x is all that is kept for it.
    """
    flat = x.reshape(len(x), -1, *x.shape[-2:]) if x.ndim > 2 else x.reshape(1, 1, *x.shape)  # (b, v, u1, u2)
    last = flat.movedim(1, -1)
    if not flat.is_contiguous() and last.is_contiguous():
        return _patch_moments(last, boundary == "circular")
    return _patch_moments(flat.reshape(-1, *x.shape[-2:], 1).contiguous(), boundary == "circular")


@torch.library.custom_op("hcnn::patch_moments", mutates_args=())
def _patch_moments(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    from hcnn.functional.patch_moments import triton_kernels as kernels  # needs Triton

    return kernels.forward(x, circular)


@_patch_moments.register_fake
def _(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(9, dtype=wide(x.dtype)), x.new_empty(9, 9, dtype=wide(x.dtype))


@torch.library.custom_op("hcnn::patch_moments_backward", mutates_args=())
def _patch_moments_backward(
    grad_mean: Tensor, grad_covariance: Tensor, x: Tensor, mean: Tensor, circular: bool
) -> Tensor:
    from hcnn.functional.patch_moments import triton_kernels as kernels

    return kernels.backward(grad_mean.contiguous(), grad_covariance.contiguous(), x, mean, circular)


@_patch_moments_backward.register_fake
def _(grad_mean: Tensor, grad_covariance: Tensor, x: Tensor, mean: Tensor, circular: bool) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])
    ctx.circular = inputs[1]


def _gradient(ctx: Any, grad_mean: Tensor, grad_covariance: Tensor) -> tuple[Tensor, None]:
    x, mean = ctx.saved_tensors
    return _patch_moments_backward(grad_mean, grad_covariance, x, mean, ctx.circular), None


_patch_moments.register_autograd(_gradient, setup_context=_save)
