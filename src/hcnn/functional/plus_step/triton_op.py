"""The inner step of HCNN(+) without its Q-fold intermediate, by Triton kernels."""

from collections.abc import Sequence

from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator


def plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    matrix: Tensor,
    stride: Sequence[int],
    boundary: Boundary,
    bands: Sequence[int] = (),
) -> Tensor:
    """Compute what the naive form does, as one product whose left operand is made tile by tile from patches of x.

    bfloat16 operands (or float32) and float32 sums. x, h, shift and matrix are all that is kept for the backward pass,
    which makes the tiles again; its largest array is the gradient of the patches, 9 maps for each of x, for some images
    at a time. All blocks of the matrix are multiplied, zero or not.
    """
    first, second = stride
    return _plus_step(x.contiguous(), h, shift, matrix, first, second, boundary == "circular")


def _forward(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool) -> Tensor:
    from hcnn.functional.plus_step import triton_kernels as kernels  # needs Triton

    return kernels.forward(x, h, shift, matrix, (first, second), circular)


def _backward(
    grad: Tensor, x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from hcnn.functional.plus_step import triton_kernels as kernels

    return kernels.backward(grad, x, h, shift, matrix, (first, second), circular)


def _fake(x: Tensor, h: Tensor, shift: Tensor, matrix: Tensor, first: int, second: int, circular: bool) -> Tensor:
    height, width = (x.shape[2] - 1) // first + 1, (x.shape[3] - 1) // second + 1
    return x.new_empty(x.shape[0], matrix.shape[0], height, width)


_plus_step = define_operator("plus_step", _forward, _backward, _fake)
