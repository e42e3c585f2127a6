"""The dense form's matrix by Triton: every filter is placed where it acts in one pass, in the memory order that a
channels-last convolution reads. `hcnn.functional.attribute_conv.dense.dense_weight` is the reference.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator


def dense_weight(
    weight: Tensor, sizes: Sequence[int], stride: Sequence[int], boundary: Boundary, dtype: torch.dtype
) -> Tensor:
    """As the reference computes it, for one or two attributes and filters without a channel axis.

    Args:
        weight: filters (k, *kv, *ku), float32 or wider, where `hcnn.functional.backend.available`.
        sizes: lengths of the attribute axes of the input.
        stride: strides of the attribute axes.
        boundary: "zeros" or "circular", for the attribute axes.
        dtype: of the result.

    Returns:
        A tensor (prod(sizes / stride) · k, prod(sizes), *ku), whose memory has the axes of ku before `sizes`.
    """
    support, spatial = weight.shape[1 : 1 + len(sizes)], weight.shape[1 + len(sizes) :]
    axes = [*zip(sizes, support, stride, strict=True)]
    (n1, k1, s1), (n2, k2, s2) = [*[(1, 1, 1)] * (2 - len(axes)), *axes]
    flat = weight.reshape(len(weight), k1 * k2, math.prod(spatial)).contiguous()
    placed = _place(flat, [n1, n2, k1, k2, s1, s2], boundary == "circular", dtype == torch.bfloat16)
    return placed.transpose(1, 2).unflatten(2, spatial)


def _forward(flat: Tensor, geometry: list[int], circular: bool, half: bool) -> Tensor:
    from hcnn.functional.attribute_conv import triton_kernels as kernels  # needs Triton

    out = _fake(flat, geometry, circular, half)
    kernels.place(flat, out, geometry, circular)
    return out


def _backward(grad: Tensor, flat: Tensor, geometry: list[int], circular: bool, half: bool) -> Tensor:
    from hcnn.functional.attribute_conv import triton_kernels as kernels

    out = torch.empty_like(flat)
    kernels.collect(grad, out, geometry, circular)
    return out


def _fake(flat: Tensor, geometry: list[int], circular: bool, half: bool) -> Tensor:
    n1, n2, _, _, s1, s2 = geometry
    rows = (n1 // s1) * (n2 // s2) * flat.shape[0]
    return flat.new_empty(rows, flat.shape[2], n1 * n2, dtype=torch.bfloat16 if half else flat.dtype)


_place = define_operator("place_filters", _forward, _backward, _fake)
