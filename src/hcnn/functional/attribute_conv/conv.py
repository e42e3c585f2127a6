"""Convolution along space and attributes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.attribute_conv import triton_dense
from hcnn.functional.attribute_conv.choose import Method, check_method, choose_method
from hcnn.functional.attribute_conv.dense import dense_conv, dense_weight
from hcnn.functional.attribute_conv.native import native_conv, native_weight
from hcnn.functional.attribute_conv.native_cost import native_refused, native_supports
from hcnn.functional.attribute_conv.spectral import spectral_weight
from hcnn.functional.attribute_conv.spectral_op import spectral_conv
from hcnn.functional.axes import CONVOLUTIONS, Boundary, axis_names, check_boundary, pad_spatial, per_axis
from hcnn.functional.backend import available
from hcnn.functional.custom_op import is_recorded, is_traced
from hcnn.functional.dtypes import autocast_dtype
from hcnn.functional.native.library import native_available


def attribute_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    spatial: int = 2,
    stride: int | Sequence[int] = 1,
    boundary: Boundary = "zeros",
    channel_axis: bool = False,
    method: Method = "auto",
    matrix: Tensor | None = None,
    elu: bool = False,
    average_oldest: bool = False,
) -> Tensor:
    """Convolve an array along space and along its attributes with K filters, whose index is a new attribute.

    ``y(v', k, u') = Σ_{t, d} w_k(t, d) x(s v' + t - p, s u' + d - p)``, paper eq. (2) and (4), with the filter
    centred on position s·v' ("same" output; sizes divided by the strides, those of u rounded up). Taps outside meet
    zeros or, on a periodic axis, wrap around, adding up where the support is longer than the axis. (As everywhere in
    deep learning the filter is not mirrored; eq. (2) with w(-t).)

    Law: translating x by ``s · τ`` along an axis of stride s translates y by τ along that axis, exactly if
    periodic, and up to the border with zeros.

    Args:
        x: (b, *v, *u), or (b, *v, c, *u) with `channel_axis`.
        weight: (k, *kv, *ku), or (k, c, *kv, *ku) with `channel_axis`; odd supports.
        bias: added to y, (k,) or (*v', k).
        spatial: number of spatial axes: 1, 2 or 3.
        stride: one for all axes, or one per axis of (*v, *u).
        boundary: "zeros" or "circular", for every axis.
        channel_axis: sum over an axis c of unordered channels, as the first layer does with colours.
        method: "dense" (one convolution with a block-Toeplitz matrix over channels), "spectral" (one small
            convolution per frequency of the attributes), "native" (the spectral form by this package's own kernels,
            float32 on a CPU), or "auto" (`choose_method`). They differ in rounding only.
        matrix: what `conv_matrix` made of this weight for this geometry and method, where it is at hand already.
        elu: apply ELU to y; without gradients the native form does that in the same pass.
        average_oldest: then average it over its first attribute, as the next layer does first, eq. (6).

    Returns:
        y, (b, *v', k, *u'), without the first of v' if averaged.

    Raises:
        ValueError: if axes, channels, supports, strides, types or the bias do not fit, or x is empty; it says which.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 16, 32, 32)                      # b v1 v2 u1 u2
        >>> attribute_conv(x, torch.randn(5, 7, 11, 3, 3), stride=(2, 2, 1, 1)).shape
        torch.Size([2, 4, 8, 5, 32, 32])

    """
    for name, one in (("x", x), ("weight", weight), *((("bias", bias),) if bias is not None else ())):
        if not isinstance(one, Tensor):
            raise ValueError(f"attribute_conv: expected {name} as a tensor; got a {type(one).__name__}")
    if not isinstance(spatial, int) or spatial not in CONVOLUTIONS:
        raise ValueError(f"attribute_conv: expected 1, 2 or 3 spatial axes; got {spatial!r}")
    check_boundary(boundary, "attribute_conv")
    check_method(method, "attribute_conv")
    attributes = weight.ndim - 1 - channel_axis - spatial
    names = axis_names(attributes, spatial, channel=channel_axis)
    if attributes < 0 or x.ndim != 1 + attributes + channel_axis + spatial:
        raise ValueError(
            f"attribute_conv: the weight of shape {tuple(weight.shape)} expects x with axes ({names}); "
            f"got shape {tuple(x.shape)}"
        )
    if 0 in tuple(x.shape):
        raise ValueError(
            f"attribute_conv: expected at least one entry along each of ({names}); got shape {tuple(x.shape)}"
        )
    types = [one.dtype for one in (x, weight, bias) if one is not None]
    if len({*types}) > 1 and autocast_dtype(x) is None:
        raise ValueError(f"attribute_conv: expected x, weight and bias of one type outside of autocast; got {types}")
    devices = [str(one.device) for one in (x, weight, bias) if one is not None]
    if len({*devices}) > 1:
        raise ValueError(f"attribute_conv: expected x, weight and bias on one device; got {', '.join(devices)}")
    stride = per_axis(stride, attributes + spatial, f"attribute_conv: stride of ({names}) without b, c")
    kv, ku = weight.shape[weight.ndim - spatial - attributes : weight.ndim - spatial], weight.shape[-spatial:]
    if any(k % 2 == 0 for k in (*kv, *ku)):
        raise ValueError(f"attribute_conv: expected odd filter supports; got {tuple(kv)} along v, {tuple(ku)} along u")
    if channel_axis and x.shape[-spatial - 1] != weight.shape[1]:
        raise ValueError(
            f"attribute_conv: the weight sums over {weight.shape[1]} channels; x ({names}) has shape {tuple(x.shape)}"
        )
    sv, su = stride[:attributes], stride[attributes:]
    sizes, extent = [int(n) for n in x.shape[1 : 1 + attributes]], x.shape[-spatial:]  # tracers give tensors
    divided = [*zip(sizes, sv, strict=True)]
    if boundary == "circular":  # a periodic axis whose length the stride does not divide has no period left
        divided += zip(extent, su, strict=True)
    if any(n % s for n, s in divided):
        raise ValueError(
            f"attribute_conv: strides {stride} do not divide the sizes {(*sizes, *extent)} of x ({names})"
            + ("; with 'circular' that holds for spatial axes too" if boundary == "circular" else "")
        )

    native = native_available(x) and not channel_axis and native_supports(sizes, kv, sv, ku)
    if method == "auto":
        method = choose_method(
            sizes, kv, sv, weight.shape[0], math.prod(ku), boundary, x.device.type,
            channel_axis=channel_axis, native=native,
        )  # fmt: skip
    outputs = [n // s for n, s in zip(sizes, sv, strict=True)]
    if bias is not None:
        if tuple(bias.shape) not in ((weight.shape[0],), (*outputs, weight.shape[0])):
            raise ValueError(
                f"attribute_conv: expected a bias of shape {(weight.shape[0],)} or {(*outputs, weight.shape[0])}; "
                f"got {tuple(bias.shape)}"
            )
        bias = bias.expand(*outputs, weight.shape[0]).reshape(-1)
    if method != "dense" and (channel_axis or not attributes):
        raise ValueError(f"attribute_conv: the {method} method needs attributes, and has no channel axis")
    if method == "native" and not native:
        raise ValueError(native_refused("attribute_conv", x, sizes))
    flat = x.reshape(x.shape[0], -1, *extent)  # (b, v·c, *u)
    if matrix is None and method == "dense" and attributes in (1, 2) and not channel_axis and available(weight):
        half = autocast_dtype(x) == torch.bfloat16
        matrix = triton_dense.dense_weight(weight, sizes, sv, boundary, torch.bfloat16 if half else weight.dtype)
        if flat.ndim != 4 or flat.is_contiguous():  # a convolution answers in the layout of its weight
            matrix = matrix.contiguous()
    if matrix is None:
        matrix = conv_matrix(weight, sizes, sv, boundary, method, channel_axis=channel_axis)
    if method == "native":
        fused = elu and not torch.is_grad_enabled() and not is_traced()  # a trace must not depend on the mode
        y = native_conv(
            flat, matrix, bias, sizes, kv, stride, boundary, elu=fused, average_oldest=fused and average_oldest
        )
        if fused:
            return y.reshape(x.shape[0], *outputs[1 if average_oldest else 0 :], weight.shape[0], *y.shape[2:])
    else:
        margins = [k // 2 for k in ku]
        if boundary == "circular":
            flat, margins = pad_spatial(flat, margins, boundary), [0] * spatial
        if method == "dense":
            y = dense_conv(flat, matrix, bias, su, margins)
        else:
            y = spectral_conv(flat, matrix, bias, sizes, kv, stride, margins, boundary)
    y = y.reshape(x.shape[0], *outputs, weight.shape[0], *y.shape[2:])  # (b, *v', k, *u')
    if elu:
        y = F.elu(y) if torch.is_grad_enabled() or is_recorded(y) else F.elu_(y)
    return y.mean(1) if average_oldest else y


def conv_matrix(
    weight: Tensor,
    sizes: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
    method: Method,
    *,
    channel_axis: bool = False,
) -> Tensor:
    """The weight of the spatial convolution that equals filters along attributes, in one of the forms.

    Args:
        weight: (k, *kv, *ku), or (k, c, *kv, *ku) with `channel_axis`.
        sizes: lengths of the attribute axes of x.
        stride: strides along them.
        boundary: "zeros" or "circular".
        method: "dense", "spectral" or "native".
        channel_axis: whether the filters have an axis of unordered channels.

    Returns:
        `hcnn.functional.dense_weight`, `hcnn.functional.attribute_conv.spectral.spectral_weight`, or
        `hcnn.functional.attribute_conv.native.native_weight`.

    Example:
        >>> import torch
        >>> w = torch.randn(16, 7, 11, 3, 3)
        >>> conv_matrix(w, (8, 16), (2, 2), "circular", "spectral").shape       # 18 groups, 8 channels to 32
        torch.Size([576, 8, 3, 3])
    """
    if method == "dense":
        return dense_weight(weight, sizes, stride, boundary, channel_axis=channel_axis)
    if method == "native":
        return native_weight(weight, sizes, stride, boundary)
    return spectral_weight(weight, tuple(sizes), tuple(stride), boundary)
