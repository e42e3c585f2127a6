"""The dense form: a convolution along attributes as a block-Toeplitz matrix over channels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.axes import CONVOLUTIONS, Boundary
from hcnn.functional.dtypes import exactly


def placement(
    size: int, support: int, stride: int, boundary: Boundary, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Where each tap of a filter lands along one axis.

    ``T[o, a, t] = 1`` where tap t of the filter, centred on position ``stride · o``, lands on input a, that is
    where ``a = stride · o + t - support // 2`` (modulo `size` if periodic), and 0 elsewhere. Contracting a filter
    with T gives the (block-)Toeplitz matrix of the convolution; summing T over `a` tells which taps are inside.

    Args:
        size: length of the input axis.
        support: length of the filter, odd.
        stride: step between outputs; divides `size`.
        boundary: "zeros" drops taps outside the axis, "circular" wraps them, so that several may land together.
        device: where to build it.
        dtype: of which type.

    Returns:
        A tensor (size // stride, size, support) of zeros and ones.

    Example:
        >>> T = placement(4, 3, 2, "zeros", device=torch.device("cpu"), dtype=torch.float32)
        >>> (T * torch.tensor([1.0, 2.0, 3.0])).sum(-1)
        tensor([[2., 3., 0., 0.],
                [0., 1., 2., 3.]])

    """
    out = torch.arange(size // stride, device=device)[:, None, None]
    inp = torch.arange(size, device=device)[None, :, None]
    tap = torch.arange(support, device=device)[None, None, :]
    distance = inp - stride * out - tap + support // 2  # (o, a, t)
    if boundary == "circular":
        distance = distance % size
    return (distance == 0).to(dtype)


def dense_weight(
    weight: Tensor,
    sizes: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
    *,
    channel_axis: bool = False,
) -> Tensor:
    """Write a convolution along attributes as the channel matrix of a spatial convolution.

    For two attributes, ``dense[(a', c', k), (a, c), du] = w[k, a - s a' + p1, c - s c' + p2, du]``, zero outside
    the filter's support: a block-Toeplitz matrix over channels for every spatial tap du.

    Args:
        weight: filters (k, *kv, *ku), or (k, c, *kv, *ku) with `channel_axis`.
        sizes: lengths of the attribute axes of the input.
        stride: strides of the attribute axes.
        boundary: "zeros" or "circular", for the attribute axes.
        channel_axis: whether the filters have an axis of unordered channels.

    Returns:
        A tensor (prod(sizes / stride) · k, prod(sizes) · c, *ku).

    Example:
        >>> dense_weight(torch.tensor([[1.0, 2.0, 3.0]]), [4], [2], "circular")
        tensor([[2., 3., 0., 1.],
                [0., 1., 2., 3.]])

    """
    filters, channels = weight.shape[0], weight.shape[1] if channel_axis else 1
    first = 2 if channel_axis else 1
    support = weight.shape[first : first + len(sizes)]
    spatial = weight.shape[first + len(sizes) :]
    dense = weight.reshape(filters, channels, *support, -1)  # (k, c, t1 … tn, du)
    for n, k, s in zip(sizes, support, stride, strict=True):
        taps = placement(n, k, s, boundary, device=weight.device, dtype=weight.dtype)
        # Contract the leading tap axis; its (out, in) pair is appended behind du. Taps are only placed: autocast
        # would round them for nothing.
        with exactly(weight):
            dense = torch.einsum("kct...,oat->kc...oa", dense, taps)  # (k, c, t…, du, o1, a1, …)
    pairs = range(3, 3 + 2 * len(sizes), 2)
    order = [*pairs, 0, *(axis + 1 for axis in pairs), 1, 2]  # (o…, k, a…, c, du)
    outputs = filters * math.prod([n // s for n, s in zip(sizes, stride, strict=True)])
    return dense.permute(order).reshape(outputs, channels * math.prod(sizes), *spatial)


def bands(weight: Tensor, sizes: Sequence[int], stride: Sequence[int], boundary: Boundary) -> list[int]:
    """Blocks outside of which the `dense_weight` of filters with a channel axis is zero.

    Under zeros an output of the first attribute sees the inputs within its filter's reach only: at K = 16 and a
    support of 7, 22 of 32 blocks.

    Args:
        weight: filters (k, c, *kv, *ku).
        sizes: lengths of the attribute axes of the input.
        stride: strides of the attribute axes.
        boundary: "zeros" or "circular".

    Returns:
        Top, bottom, left and right of each block in turn; the blocks cover every row once.

    Example:
        >>> bands(torch.zeros(5, 2, 3), [8], [2], "zeros")
        [0, 5, 0, 4, 5, 10, 2, 8, 10, 15, 6, 12, 15, 20, 10, 16]

    """
    filters, channels = weight.shape[:2]
    rows = filters * math.prod([n // s for n, s in zip(sizes[1:], stride[1:], strict=True)])
    columns = channels * math.prod(sizes[1:])
    if boundary == "circular" or not sizes:
        outputs = sizes[0] // stride[0] if sizes else 1
        return [0, rows * outputs, 0, columns * (sizes[0] if sizes else 1)]
    reach, blocks = weight.shape[2] // 2, []
    for o in range(sizes[0] // stride[0]):
        left, right = max(0, stride[0] * o - reach), min(sizes[0], stride[0] * o + reach + 1)
        blocks += [rows * o, rows * (o + 1), columns * left, columns * right]
    return blocks


def dense_conv(x: Tensor, matrix: Tensor, bias: Tensor | None, stride: Sequence[int], margins: Sequence[int]) -> Tensor:
    """`hcnn.functional.attribute_conv` in its dense form: a spatial convolution with a `dense_weight`.

    Args:
        x: (b, v · c, *u), already extended along u where `margins` are 0; v all attributes flattened.
        matrix: (v' · k, v · c, *ku).
        bias: (v' · k,), or None.
        stride: along u.
        margins: how far zeros extend x along u.

    Returns:
        (b, v' · k, *u').
    """
    return CONVOLUTIONS[len(margins)](x, matrix, bias, stride=tuple(stride), padding=tuple(margins))
