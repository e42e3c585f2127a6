"""The inner step of HCNN(+) without its Q-fold intermediate, as an operator that `torch.compile` keeps whole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hcnn.functional.axes import Boundary


def plus_step(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, stride: Sequence[int], boundary: Boundary) -> Tensor:
    """Compute what the naive form does, as one product whose left operand is made tile by tile from patches of x.

    bfloat16 operands (or float32) and float32 sums. x, h, shift and matrix are all that is kept for the backward pass,
    which makes the tiles again; its largest array is the gradient of the patches, 9 maps for each of x, for some images
    at a time.
    """
    first, second = stride
    return _plus_step(x.contiguous(), h, shift, matrix, first, second, boundary == "circular")


@torch.library.custom_op("hcnn::plus_step", mutates_args=())
def _plus_step(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool) -> Tensor:
    from hcnn.functional.plus_step import triton_kernels as kernels  # needs Triton

    return kernels.forward(x, h, shift, matrix, (first, second), circular)


@_plus_step.register_fake
def _(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool) -> Tensor:
    height, width = (x.shape[2] - 1) // first + 1, (x.shape[3] - 1) // second + 1
    return x.new_empty(x.shape[0], matrix.shape[0], height, width)


@torch.library.custom_op("hcnn::plus_step_backward", mutates_args=())
def _plus_step_backward(
    grad: Tensor, x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from hcnn.functional.plus_step import triton_kernels as kernels

    return kernels.backward(grad.contiguous(), x, h, shift, matrix, (first, second), circular)


@_plus_step_backward.register_fake
def _(
    grad: Tensor, x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), h.new_empty(h.shape), torch.empty_like(shift), matrix.new_empty(matrix.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[4:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*_plus_step_backward(grad, *ctx.saved_tensors, *ctx.geometry), None, None, None)


_plus_step.register_autograd(_gradients, setup_context=_save)
