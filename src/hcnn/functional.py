"""Pure functions on attribute arrays: convolution, patch moments, translation, marginals.

One grammar of axes holds throughout the package::

    x : (b, *v, *u)    b batch · v attributes, oldest first, newest last · u spatial axes

Nothing here owns a parameter or keeps state between calls.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Boundary = Literal["zeros", "circular"]
BOUNDARIES: tuple[Boundary, ...] = ("zeros", "circular")
_SPATIAL_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def axis_names(attributes: int, spatial: int, *, newest: int | None = None, channel: bool = False) -> str:
    """Name the axes of an array the way errors, summaries and docs write them.

    Args:
        attributes: number of attribute axes.
        spatial: number of spatial axes.
        newest: index of the newest attribute; the number of attributes if None.
        channel: whether an unordered channel axis stands between attributes and space.

    Returns:
        The axes in order, separated by commas.

    Example:
        >>> axis_names(3, 2)
        'b, v1, v2, v3, u1, u2'
        >>> axis_names(3, 2, newest=7)
        'b, v5, v6, v7, u1, u2'

    """
    last = attributes if newest is None else newest
    middle = [f"v{i}" for i in range(last - attributes + 1, last + 1)] + ["c"] * channel
    return ", ".join(["b", *middle, *(f"u{i + 1}" for i in range(spatial))])


def per_axis(value: int | Sequence[int], axes: int, what: str) -> tuple[int, ...]:
    """Spread an integer over `axes` axes, or check that a sequence has one entry for each.

    Args:
        value: one positive integer for all axes, or one for each.
        axes: number of axes.
        what: how to call the value in an error.

    Returns:
        A tuple with one entry per axis.

    Raises:
        ValueError: if the number of entries is wrong or an entry is not a positive integer.

    Example:
        >>> per_axis(2, 3, "stride")
        (2, 2, 2)

    """
    entries = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(entries) != axes:
        raise ValueError(f"{what}: expected {axes} entries, one per axis; got {len(entries)}: {entries}")
    if any(not isinstance(entry, int) or entry < 1 for entry in entries):
        raise ValueError(f"{what}: expected positive integers; got {entries}")
    return entries


def check_boundary(boundary: str, where: str) -> None:
    """Raise a ValueError unless `boundary` is one that this package knows."""
    if boundary not in BOUNDARIES:
        raise ValueError(f"{where}: expected boundary 'zeros' or 'circular'; got {boundary!r}")


def placement(
    size: int, support: int, stride: int, boundary: Boundary, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Where each tap of a filter lands along one axis.

    ``T[o, a, t] = 1`` where tap t of the filter, centred on position ``stride · o``, lands on input a, that is
    where ``a = stride · o + t - support // 2`` (modulo `size` if periodic), and 0 elsewhere. Contracting a filter
    with T gives the (block-)Toeplitz matrix of the convolution; summing T over `a` tells which taps lie inside.

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
        with torch.autocast(weight.device.type, enabled=False):
            dense = torch.einsum("kct...,oat->kc...oa", dense, taps)  # (k, c, t…, du, o1, a1, …)
    pairs = range(3, 3 + 2 * len(sizes), 2)
    order = [*pairs, 0, *(axis + 1 for axis in pairs), 1, 2]  # (o…, k, a…, c, du)
    outputs = filters * math.prod([n // s for n, s in zip(sizes, stride, strict=True)])
    return dense.permute(order).reshape(outputs, channels * math.prod(sizes), *spatial)


def _wrap(x: Tensor, axis: int, margin: int) -> Tensor:
    """Extend one axis periodically by `margin` on both sides."""
    size = x.shape[axis]
    if margin <= size:
        return torch.cat([x.narrow(axis, size - margin, margin), x, x.narrow(axis, 0, margin)], axis)
    index = torch.arange(-margin, size + margin, device=x.device) % size
    return x.index_select(axis, index)


def pad_spatial(x: Tensor, margins: Sequence[int], boundary: Boundary) -> Tensor:
    """Extend the last ``len(margins)`` axes of x on both sides, with zeros or periodically.

    Args:
        x: any array whose last axes are spatial.
        margins: how far to extend each of them.
        boundary: "zeros" or "circular".

    Returns:
        The extended array.

    Example:
        >>> pad_spatial(torch.tensor([[1.0, 2.0, 3.0]]), [1], "circular")
        tensor([[3., 1., 2., 3., 1.]])

    """
    if boundary == "zeros":
        return F.pad(x, [m for margin in reversed(margins) for m in (margin, margin)])
    for offset, margin in enumerate(margins):
        if margin:
            x = _wrap(x, x.ndim - len(margins) + offset, margin)
    return x


def attribute_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    spatial: int = 2,
    stride: int | Sequence[int] = 1,
    boundary: Boundary = "zeros",
    channel_axis: bool = False,
) -> Tensor:
    """Convolve an array along space and along its attributes with K filters, whose index is a new attribute.

    ``y(v', k, u') = Σ_{t, d} w_k(t, d) x(s v' + t - p, s u' + d - p)``, paper eq. (2) and (4), with the filter
    centred on position s·v' ("same" output; sizes divided by the strides). Taps outside meet zeros or, on a
    periodic axis, wrap around, adding up where the support is longer than the axis. (As everywhere in deep
    learning the filter is not mirrored; eq. (2) with w(-t).)

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

    Returns:
        y, (b, *v', k, *u').

    Raises:
        ValueError: if axes, channels, supports, strides or dtypes do not fit; it says which.

    Example:
        >>> x = torch.randn(2, 8, 16, 32, 32)                      # b v1 v2 u1 u2
        >>> attribute_conv(x, torch.randn(5, 7, 11, 3, 3), stride=(2, 2, 1, 1)).shape
        torch.Size([2, 4, 8, 5, 32, 32])

    """
    if spatial not in _SPATIAL_CONV:
        raise ValueError(f"attribute_conv: expected 1, 2 or 3 spatial axes; got {spatial}")
    check_boundary(boundary, "attribute_conv")
    attributes = weight.ndim - 1 - channel_axis - spatial
    names = axis_names(attributes, spatial, channel=channel_axis)
    if attributes < 0 or x.ndim != 1 + attributes + channel_axis + spatial:
        raise ValueError(
            f"attribute_conv: the weight of shape {tuple(weight.shape)} expects x with axes ({names}); "
            f"got shape {tuple(x.shape)}"
        )
    stride = per_axis(stride, attributes + spatial, f"attribute_conv: stride of ({names}) without b, c")
    kv, ku = weight.shape[weight.ndim - spatial - attributes : weight.ndim - spatial], weight.shape[-spatial:]
    if any(k % 2 == 0 for k in (*kv, *ku)):
        raise ValueError(f"attribute_conv: expected odd filter supports; got {tuple(kv)} along v, {tuple(ku)} along u")
    if channel_axis and x.shape[-spatial - 1] != weight.shape[1]:
        raise ValueError(
            f"attribute_conv: the weight sums over {weight.shape[1]} channels; x ({names}) has shape {tuple(x.shape)}"
        )
    sv, su = stride[:attributes], stride[attributes:]
    sizes, extent = x.shape[1 : 1 + attributes], x.shape[-spatial:]
    divided = [*zip(sizes, sv, strict=True)]
    if boundary == "circular":  # a periodic axis whose length the stride does not divide has no period left
        divided += zip(extent, su, strict=True)
    if any(n % s for n, s in divided):
        raise ValueError(
            f"attribute_conv: strides {stride} do not divide the sizes {(*sizes, *extent)} of x ({names})"
            + ("; with 'circular' that holds for spatial axes too" if boundary == "circular" else "")
        )

    dense = dense_weight(weight, sizes, sv, boundary, channel_axis=channel_axis)
    flat = x.reshape(x.shape[0], -1, *extent)  # (b, v·c, *u)
    margins = [k // 2 for k in ku]
    if boundary == "circular":
        flat, margins = pad_spatial(flat, margins, boundary), [0] * spatial
    outputs = [n // s for n, s in zip(sizes, sv, strict=True)]
    if bias is not None:
        bias = bias.expand(*outputs, weight.shape[0]).reshape(-1)
    y = _SPATIAL_CONV[spatial](flat, dense, bias, stride=su, padding=margins)  # (b, v'·k, *u')
    return y.reshape(x.shape[0], *outputs, weight.shape[0], *y.shape[2:])


def patch_moments(x: Tensor, support: Sequence[int], *, boundary: Boundary = "zeros") -> tuple[Tensor, Tensor]:
    """Mean and covariance of all spatial patches of an array.

    With p(u) the patch of x around u, over every batch entry, attribute and position:
    ``mean = E[p]`` and ``covariance = E[p pᵀ] - mean meanᵀ``. For any filter h of this support, x * h then has the
    mean ``h · mean`` and the variance ``hᵀ covariance h``: the statistics of the inner normalization (paper,
    section 4.2) without forming x * h.

    With Y the rows of the extended x, the products ``Y(r)ᵀ Y(r + d)`` summed over r, one for each of the few row
    distances d, hold every entry of the covariance as a sum along a diagonal; the patches themselves are never
    copied. Everything is in float32 or wider and taken about the mean of x, for E[p²] - E[p]² cancels where the mean
    is large.

    Args:
        x: (..., *u); the last ``len(support)`` axes are spatial, all others are averaged over.
        support: size of a patch, odd along each axis.
        boundary: how x continues outside, "zeros" or "circular".

    Returns:
        mean (P,) and covariance (P, P) with ``P = prod(support)``, patches flattened in row-major order.

    Raises:
        ValueError: if a support is even, x has too few axes, or the boundary is unknown.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> mean, covariance = patch_moments(x, [3], boundary="circular")
        >>> mean
        tensor([2.5000, 2.5000, 2.5000])
        >>> covariance[1]
        tensor([-0.2500,  1.2500, -0.2500])

    """
    check_boundary(boundary, "patch_moments")
    axes = len(support)
    if axes < 1 or any(k % 2 == 0 for k in support):
        raise ValueError(f"patch_moments: expected odd supports, one per spatial axis; got {tuple(support)}")
    if x.ndim < axes:
        raise ValueError(f"patch_moments: support {tuple(support)} expects {axes} spatial axes; got {tuple(x.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        x = x.reshape(-1, *x.shape[x.ndim - axes :])
        if axes == 1:  # one row per signal
            x, support = x.unsqueeze(1), (1, *support)
        wide = torch.promote_types(x.dtype, torch.float32)
        pivot = x.mean(dtype=wide).detach()  # any constant gives the same covariance, so no gradient is lost
        margins = [k // 2 for k in support]
        padded = pad_spatial(x, margins, boundary).movedim(1, 0).to(wide) - pivot  # (u1', n, ..., u')
        for size, k in zip(x.shape[2:-1], support[1:-1], strict=True):  # a middle axis of volumes: shifted copies
            padded = torch.stack([padded.narrow(2, offset, size) for offset in range(k)], -2).flatten(1, 2)
        rows = padded.reshape(padded.shape[0], -1, padded.shape[-2:].numel() if len(support) == 3 else padded.shape[-1])
        height, width, last = x.shape[1], x.shape[-1], support[-1]
        gram = _row_gram(rows.contiguous(), height) / x.numel()  # (k1, c, k1, c)
        k1, stacked, extended = support[0], math.prod(support[1:-1]), padded.shape[-1]
        size = k1 * stacked * last
        blocks = gram.reshape(k1 * stacked, extended, k1 * stacked, extended)
        blocks = blocks.unfold(1, width, 1).unfold(3, width, 1)  # (S, k, S, k, w, w)
        second = blocks.diagonal(dim1=-2, dim2=-1).sum(-1).reshape(size, size)
        first = rows.sum(1).unfold(0, height, 1).sum(-1) / x.numel()  # (k1, c)
        first = first.reshape(k1 * stacked, extended).unfold(1, width, 1).sum(-1).reshape(size)
        return first + pivot, second - torch.outer(first, first)


# Custom operators: autograd through slices would write and keep a full array for each product, and a compiler would
# take the loops apart.
@torch.library.custom_op("hcnn::row_gram", mutates_args=())
def _row_gram(rows: Tensor, height: int) -> Tensor:
    """``gram(s, :, t, :) = Σ_{r < height} rows(s + r)ᵀ rows(t + r)`` of rows (u1', n, c): (k1, c, k1, c)."""
    shifts, columns = rows.shape[0] - height + 1, rows.shape[2]
    gram = rows.new_empty(shifts, columns, shifts, columns)
    upper = rows[:height].reshape(-1, columns)
    for distance in range(shifts):
        block = upper.T @ rows[distance : distance + height].reshape(-1, columns)
        for s in range(shifts - distance):
            if s:  # the window moves on by one row: one leaves, one enters
                leaves = rows[s - 1].T @ rows[s - 1 + distance]
                enters = rows[s - 1 + height].T @ rows[s - 1 + height + distance]
                block = block + (enters - leaves)
            gram[s, :, s + distance] = block
            gram[s + distance, :, s] = block.T
    return gram


@_row_gram.register_fake
def _(rows: Tensor, height: int) -> Tensor:
    shifts, columns = rows.shape[0] - height + 1, rows.shape[2]
    return rows.new_empty(shifts, columns, shifts, columns)


@torch.library.custom_op("hcnn::row_gram_backward", mutates_args=())
def _row_gram_backward(rows: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `_row_gram` for its rows: ``Σ_t rows(r - s + t) (grad(s, t) + grad(t, s))ᵀ`` over fitting s."""
    total, _, columns = rows.shape
    shifts = grad.shape[0]
    height = total - shifts + 1
    both = grad.permute(0, 2, 3, 1) + grad.permute(2, 0, 1, 3)  # (s, t, c of t, c of s)
    result = torch.zeros_like(rows)
    # Row r is touched by the shifts s with 0 <= r - s < height; rows with the same shifts go together.
    spans = [(max(0, r - height + 1), min(shifts - 1, r)) for r in range(total)]
    start = 0
    while start < total:
        low, high = spans[start]
        stop = start + spans[start:].count((low, high))
        target = result[start:stop].view(-1, columns)
        for distance in range(-high, shifts - low):
            fitting = [both[s, s + distance] for s in range(low, high + 1) if 0 <= s + distance < shifts]
            if fitting:
                source = rows[start + distance : stop + distance].reshape(-1, columns)
                target.addmm_(source, torch.stack(fitting).sum(0))
        start = stop
    return result


@_row_gram_backward.register_fake
def _(rows: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(rows)


def _save_rows(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


_row_gram.register_autograd(
    lambda ctx, grad: (_row_gram_backward(ctx.saved_tensors[0], grad), None), setup_context=_save_rows
)


def translate(x: Tensor, axis: int, shift: int, *, boundary: Boundary = "circular") -> Tensor:
    """Translate an array along one axis: ``y(v) = x(v - shift)``.

    Args:
        x: any array.
        axis: which axis; negative counts from the end.
        shift: by how many positions, of either sign.
        boundary: "circular" rolls, "zeros" drops what leaves and fills with zeros.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: if the axis does not exist or the boundary is unknown.

    Example:
        >>> translate(torch.tensor([1, 2, 3, 4]), 0, 1)
        tensor([4, 1, 2, 3])
        >>> translate(torch.tensor([1, 2, 3, 4]), 0, -1, boundary="zeros")
        tensor([2, 3, 4, 0])

    """
    check_boundary(boundary, "translate")
    axis = _check_axis(x, axis, "translate")
    if boundary == "circular":
        return x.roll(shift, axis)
    size = x.shape[axis]
    kept = x.narrow(axis, max(0, -shift), size - abs(shift)) if abs(shift) < size else x.narrow(axis, 0, 0)
    fill = x.new_zeros([*x.shape[:axis], size - kept.shape[axis], *x.shape[axis + 1 :]])
    return torch.cat([fill, kept] if shift > 0 else [kept, fill], axis)


def marginal(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    """Average an array over attributes or space: the marginal sums of eq. (5) to (7), divided by their length.

    Law: the result is invariant to circular translations along `axis` and covariant along all others.

    Args:
        x: any array.
        axis: the axis or axes to average over; they disappear.

    Returns:
        An array without those axes.

    Raises:
        ValueError: if an axis does not exist.

    Example:
        >>> marginal(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), 0)
        tensor([3., 5.])

    """
    axes = [axis] if isinstance(axis, int) else list(axis)
    return x.mean([_check_axis(x, one, "marginal") for one in axes]) if axes else x


def _check_axis(x: Tensor, axis: int, where: str) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{where}: expected an axis between {-x.ndim} and {x.ndim - 1} of {tuple(x.shape)}; got {axis}"
        )
    return axis % x.ndim
