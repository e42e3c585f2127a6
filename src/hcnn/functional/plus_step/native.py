"""The inner step of HCNN(+) by the native kernels: x * h, ELU and the product per frequency of one strip of rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.attribute_conv.native import check_array, conv_sizes, native_weight
from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator
from hcnn.functional.native.library import Conv, call


def native_plus_weight(g: Tensor, sizes: Sequence[int], stride: Sequence[int], boundary: Boundary) -> Tensor:
    """Filters g (k, q, *kv) as the kernels take them: for each q a spectrum as `native_weight` makes it.

    Args:
        g: (k, q, *kv), float32.
        sizes: lengths of the attribute axes of x.
        stride: strides along them.
        boundary: of the attribute axes.

    Returns:
        (q, planes, k).

    Example:
        >>> native_plus_weight(torch.randn(5, 4, 3), (8,), (2,), "circular").shape
        torch.Size([4, 8, 5])
    """
    return native_weight(g.movedim(1, -1), sizes, stride, boundary).permute(2, 0, 1)


def native_plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    spectrum: Tensor,
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
) -> Tensor:
    """``y = Σ_q ELU(x * h_q + shift_q) * g_q`` for float32 on a CPU, keeping its inputs only.

    Args:
        x: (b, v, *u), v all attributes flattened; one or two spatial axes.
        h: (q, *ku), the inner scale folded in.
        shift: (q,).
        spectrum: of `native_plus_weight`.
        sizes: lengths of the attribute axes.
        support: of g along them.
        stride: one per axis of (*v, *u).
        boundary: of all axes.

    Returns:
        (b, v' · k, *u').
    """
    n, row = len(sizes), h.ndim == 2
    maps, filters, strides = x, h, [*stride]
    if row:
        maps, filters, strides = x.unsqueeze(2), h.unsqueeze(1), [*stride[:n], 1, *stride[n:]]
    y = _operator(maps, filters, shift, spectrum, [*sizes], [*support], strides, boundary == "circular")
    return y.squeeze(2) if row else y


def _sizes(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    spectrum: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> Conv:
    told = conv_sizes(x, h.shape[1:], spectrum.shape[2], sizes, support, stride, circular)
    told.rank = len(h)
    check_array("h", h, (len(h), *told.support))
    check_array("a shift", shift, (len(h),))
    check_array("a spectrum", spectrum, (len(h), told.planes, told.filters))
    return told


def _forward(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    spectrum: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> Tensor:
    told = _sizes(x, h, shift, spectrum, sizes, support, stride, circular)
    y = _fake(x, h, shift, spectrum, sizes, support, stride, circular)
    call("hcnn_plus", told, *(one.contiguous() for one in (x, h, shift, spectrum)), y)
    return y


def _fake(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    spectrum: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> Tensor:
    outputs = spectrum.shape[2]
    for size, step in zip(sizes, stride, strict=False):
        outputs *= size // step
    return x.new_empty(x.shape[0], outputs, *((n + s - 1) // s for n, s in zip(x.shape[2:], stride[-2:], strict=True)))


def _backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    spectrum: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, h, shift and the spectrum; z is formed again, strip by strip."""
    told = _sizes(x, h, shift, spectrum, sizes, support, stride, circular)
    check_array("a gradient", grad, _fake(x, h, shift, spectrum, sizes, support, stride, circular).shape)
    grads = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in (x, h, shift, spectrum)]
    call("hcnn_plus_backward", told, *(one.contiguous() for one in (grad, x, h, shift, spectrum)), *grads)
    return grads[0], grads[1], grads[2], grads[3]


_operator = define_operator("native_plus_step", _forward, _backward, _fake)
