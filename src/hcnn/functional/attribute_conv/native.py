"""The convolution per frequency by the native kernels: one pass for analysis, products, synthesis, bias and ELU."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hcnn.functional.attribute_conv.native_cost import MOST_TAPS, WIDEST
from hcnn.functional.attribute_conv.native_plan import native_plan
from hcnn.functional.attribute_conv.spectral import period
from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator
from hcnn.functional.native.library import Conv, call


def native_weight(weight: Tensor, sizes: Sequence[int], stride: Sequence[int], boundary: Boundary) -> Tensor:
    """Filters w (k, *kv, *ku) as the kernels take them: a spectrum of as many planes as one of x has.

    Args:
        weight: (k, *kv, *ku), float32.
        sizes: lengths of the attribute axes of x.
        stride: strides along them.
        boundary: of the attribute axes.

    Returns:
        (planes, k, *ku).
    """
    n = len(sizes)
    support, space = weight.shape[1 : 1 + n], weight.shape[1 + n :]
    flat = weight.flatten(1, n).flatten(2)  # (k, t, d)
    made = _spectrum(flat, [*sizes], [*support], [*stride], boundary == "circular")
    return made.reshape(-1, len(weight), *space)


def native_conv(
    x: Tensor,
    spectrum: Tensor,
    bias: Tensor | None,
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
    *,
    elu: bool = False,
    average_oldest: bool = False,
) -> Tensor:
    """`hcnn.functional.attribute_conv` by the native kernels.

    Neither spectrum is ever stored whole: strips of rows of one image go through all steps within the cache, and the
    gradient forms them again.

    Args:
        x: (b, v, *u), v all attributes flattened; float32, one or two spatial axes.
        spectrum: of `native_weight`.
        bias: (v' · k,), or None.
        sizes: lengths of the attribute axes.
        support: of the filters along the attributes.
        stride: one per axis of (*v, *u).
        boundary: of all axes.
        elu: apply it to the result; there is no gradient then.
        average_oldest: average the result over its first attribute; with `elu` only.

    Returns:
        (b, v' · k, *u'); averaged, v' are all attributes but the first.
    """
    n, space = len(sizes), spectrum.ndim - 2
    outputs = math.prod([size // s for size, s in zip(sizes, stride, strict=False)])
    if bias is None:
        bias = x.new_zeros(outputs * spectrum.shape[1])
    maps, filters, strides = x, spectrum, [*stride]
    if space == 1:  # one row
        maps, filters, strides = x.unsqueeze(2), spectrum.unsqueeze(2), [*stride[:n], 1, *stride[n:]]
    y = _conv(maps, filters, bias, [*sizes], [*support], strides, boundary == "circular", elu, average_oldest)
    return y.squeeze(2) if space == 1 else y


def _boundary(circular: bool) -> Boundary:
    return "circular" if circular else "zeros"


@lru_cache(maxsize=64)
def _basis(sizes: tuple[int, ...], support: tuple[int, ...], stride: tuple[int, ...], circular: bool) -> Tensor:
    with torch.inference_mode(False):  # it outlives the mode it is first needed in
        plan = native_plan(sizes, support, stride, _boundary(circular))
        return torch.as_tensor(plan.filters, dtype=torch.float32, device="cpu")  # whatever PyTorch's default device is


def _spectrum_forward(
    weight: Tensor, sizes: list[int], support: list[int], stride: list[int], circular: bool
) -> Tensor:
    """(k, t, d) -> (planes, k, d)."""
    basis = _basis(tuple(sizes), tuple(support), tuple(stride), circular).to(weight.dtype)
    flat = weight.transpose(0, 1).reshape(weight.shape[1], -1)
    return (basis @ flat).view(-1, weight.shape[0], weight.shape[2])


def _spectrum_backward(
    grad: Tensor, weight: Tensor, sizes: list[int], support: list[int], stride: list[int], circular: bool
) -> Tensor:
    basis = _basis(tuple(sizes), tuple(support), tuple(stride), circular).to(grad.dtype)
    flat = basis.T @ grad.reshape(len(grad), -1)
    return flat.view(-1, *grad.shape[1:]).transpose(0, 1).contiguous()


def _spectrum_fake(weight: Tensor, sizes: list[int], support: list[int], stride: list[int], circular: bool) -> Tensor:
    planes = math.prod(period(n, k, s, _boundary(circular)) for n, k, s in zip(sizes, support, stride, strict=True))
    return weight.new_empty(planes, weight.shape[0], weight.shape[2])


_spectrum = define_operator("native_spectrum", _spectrum_forward, _spectrum_backward, _spectrum_fake)


def _out(size: int, stride: int) -> int:
    return (size + stride - 1) // stride


def conv_sizes(
    x: Tensor,
    taps: Sequence[int],
    filters: int,
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    circular: bool,
) -> Conv:
    """What the kernels are told about an array and a geometry, after what they rely on has been checked.

    Args:
        x: (b, v, u1, u2), v all attributes flattened.
        taps: spatial support.
        filters: K.
        sizes: lengths of the attribute axes.
        support: of the filters along them.
        stride: one per axis of (*v, u1, u2).
        circular: whether all axes are periodic.

    Raises:
        ValueError: if the kernels would read or write outside of their arrays, or could not count them.
    """
    n = len(sizes)
    plan = native_plan(tuple(sizes), tuple(support), tuple(stride[:n]), _boundary(circular))
    if x.ndim != 4 or x.shape[1] != math.prod(sizes) or x.dtype != torch.float32 or x.numel() == 0:
        raise ValueError(
            f"native kernels: expected float32 x (b, {math.prod(sizes)}, u1, u2); got {x.dtype} {tuple(x.shape)}"
        )
    fits = len(taps) == 2 and math.prod(taps) <= MOST_TAPS and taps[1] <= WIDEST
    if not fits or len(stride) != n + 2 or any(k % 2 == 0 for k in taps):
        raise ValueError(
            f"native kernels: expected two odd spatial supports of at most {MOST_TAPS} taps, {WIDEST} along a row, and "
            f"{n + 2} strides; got {tuple(taps)} and {tuple(stride)}"
        )
    height, width = x.shape[2:]
    group, programs, matrices = plan.addresses
    told = Conv(
        images=len(x),
        height=height,
        width=width,
        channels=x.shape[1],
        filters=filters,
        out_height=_out(height, stride[n]),
        out_width=_out(width, stride[n + 1]),
        support=tuple(taps),
        stride=tuple(stride[n:]),
        wrap=circular,
        planes=plan.planes,
        dofs=plan.dofs,
        outputs=plan.outputs,
        aliases=plan.aliases,
        groups=len(plan.groups),
        group=group,
        programs=programs,
        matrices=matrices,
    )
    told.plan = plan  # other threads may push it out of the cache meanwhile
    # Places in scratch, as layout.h counts them where a strip has the fewest rows that it can have.
    room = math.prod(told.stride) * (min(2, told.out_height) + taps[0] - 1) * (told.out_width + taps[1] + 1)
    if room * max(told.channels, told.planes, 4 * told.dofs, 4 * told.outputs) >= 2**31:
        raise ValueError(
            f"native kernels: expected rows whose places they can count in 32 bits; got {tuple(x.shape)}; "
            "method='dense' takes them"
        )
    return told


def check_array(what: str, array: Tensor, shape: Sequence[int]) -> None:
    """Raise a ValueError unless an array that a kernel is given has this shape and is float32."""
    if tuple(array.shape) != tuple(shape) or array.dtype != torch.float32:
        raise ValueError(
            f"native kernels: expected {what} of shape {tuple(shape)}, float32; got {tuple(array.shape)}, {array.dtype}"
        )


def _sizes(
    x: Tensor,
    spectrum: Tensor,
    bias: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> Conv:
    filters, *taps = spectrum.shape[1:]
    told = conv_sizes(x, taps, filters, sizes, support, stride, circular)
    check_array("a spectrum", spectrum, (told.planes, filters, *taps))
    check_array("a bias", bias, (told.outputs * filters,))
    return told


def _forward(
    x: Tensor,
    spectrum: Tensor,
    bias: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
    elu: bool,
    average: bool,
) -> Tensor:
    """(b, v, u1, u2) -> (b, v'·k, u1', u2')."""
    told = _sizes(x, spectrum, bias, sizes, support, stride, circular)
    told.elu, told.average = elu, sizes[0] // stride[0] if average else 0
    y = _fake(x, spectrum, bias, sizes, support, stride, circular, elu, average)
    call("hcnn_conv", told, x.contiguous(), spectrum.contiguous(), bias.contiguous(), y)
    return y


def _fake(
    x: Tensor,
    spectrum: Tensor,
    bias: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
    elu: bool,
    average: bool,
) -> Tensor:
    outputs = [n // s for n, s in zip(sizes, stride, strict=False)][1 if average else 0 :]
    space = (_out(x.shape[2], stride[-2]), _out(x.shape[3], stride[-1]))
    return x.new_empty(x.shape[0], math.prod(outputs) * spectrum.shape[1], *space)


def _backward(
    grad: Tensor,
    x: Tensor,
    spectrum: Tensor,
    bias: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
    elu: bool,
    average: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, the spectrum of the filters and the bias."""
    if elu:
        raise ValueError("native_conv: with ELU there is no gradient")
    told = _sizes(x, spectrum, bias, sizes, support, stride, circular)
    check_array("a gradient", grad, _fake(x, spectrum, bias, sizes, support, stride, circular, elu, average).shape)
    grads = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in (x, spectrum, bias)]
    call("hcnn_conv_backward", told, *(one.contiguous() for one in (grad, x, spectrum)), *grads)
    return grads[0], grads[1], grads[2]


_conv = define_operator("native_conv", _forward, _backward, _fake)
