"""Mean and covariance of 3×3 patches by the native kernels, which read x once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator
from hcnn.functional.native.library import Moments, call


def patch_moments(x: Tensor, support: Sequence[int], boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9) of the 3×3 patches of x (..., u1, u2), as the naive form computes them.

    Sums are taken about a pivot, in float32 within an image and in float64 over the images, in their order.
    """
    flat = x.reshape(len(x) if x.ndim > 2 else 1, -1, *x.shape[-2:])  # (b, v, u1, u2)
    return _operator(flat, boundary == "circular")


def _sizes(x: Tensor, circular: bool) -> Moments:
    if x.ndim != 4 or x.dtype != torch.float32 or x.numel() == 0:
        raise ValueError(f"native patch_moments: expected float32 (b, v, u1, u2); got {x.dtype} {tuple(x.shape)}")
    return Moments(*x.shape, circular)


def _forward(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    result = x.new_empty(90, dtype=torch.float64)
    call("hcnn_moments", _sizes(x, circular), x.contiguous(), result)
    return result[:9].to(x.dtype), result[9:].view(9, 9).to(x.dtype)


def _backward(grad_mean: Tensor, grad_covariance: Tensor, x: Tensor, circular: bool, mean: Tensor) -> Tensor:
    shapes = [tuple(one.shape) for one in (grad_mean, grad_covariance, mean)]
    if shapes != [(9,), (9, 9), (9,)]:
        raise ValueError(f"native patch_moments: expected gradients (9,) and (9, 9) and a mean (9,); got {shapes}")
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    arrays = (one.to(x.dtype).contiguous() for one in (x, mean, grad_mean, grad_covariance))
    call("hcnn_moments_backward", _sizes(x, circular), *arrays, to_x)
    return to_x


def _fake(x: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(9), x.new_empty(9, 9)


_operator = define_operator("native_moments", _forward, _backward, _fake, keep=(0,))
