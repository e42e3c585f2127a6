"""Axes: their names, boundaries, translation, marginals."""

import operator
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Boundary = Literal["zeros", "circular"]
BOUNDARIES: tuple[Boundary, ...] = ("zeros", "circular")
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}  # by the number of spatial axes


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
    if not isinstance(value, Integral | Iterable):
        raise ValueError(f"{what}: expected a positive integer, or one for each of {axes} axes; got {value!r}")
    entries = (value,) * axes if isinstance(value, Integral) else tuple(value)
    if len(entries) != axes:
        raise ValueError(f"{what}: expected {axes} entries, one per axis; got {len(entries)}: {entries}")
    if any(not isinstance(entry, Integral) or entry < 1 for entry in entries):
        raise ValueError(f"{what}: expected positive integers; got {entries}")
    return tuple(map(int, entries))


def check_boundary(boundary: str, where: str) -> None:
    """Raise a ValueError unless `boundary` is one that this package knows."""
    if boundary not in BOUNDARIES:
        raise ValueError(f"{where}: expected boundary 'zeros' or 'circular'; got {boundary!r}")


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
        ValueError: if the axis does not exist, the shift is not whole, or the boundary is unknown.

    Example:
        >>> translate(torch.tensor([1, 2, 3, 4]), 0, 1)
        tensor([4, 1, 2, 3])
        >>> translate(torch.tensor([1, 2, 3, 4]), 0, -1, boundary="zeros")
        tensor([2, 3, 4, 0])

    """
    check_boundary(boundary, "translate")
    axis = check_axis(x, axis, "translate")
    if not isinstance(shift, int):
        try:
            shift = operator.index(shift)  # of NumPy's numbers and of tensors that hold one
        except TypeError:  # `hcnn.explore.shift` interpolates
            raise ValueError(f"translate: expected a shift by a whole number of positions; got {shift!r}") from None
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
        ValueError: if an axis does not exist or is named twice, or the values are whole numbers, which have no mean.

    Example:
        >>> marginal(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), 0)
        tensor([3., 5.])

    """
    given: Iterable[Any] = axis if isinstance(axis, Iterable) and not isinstance(axis, str) else [axis]
    axes = [check_axis(x, one, "marginal") for one in given]
    if len(set(axes)) != len(axes):
        raise ValueError(f"marginal: expected different axes of {tuple(x.shape)}; got {axis}")
    if not (x.is_floating_point() or x.is_complex()):
        raise ValueError(f"marginal: expected floating-point values; got {x.dtype} of shape {tuple(x.shape)}")
    return x.mean(axes) if axes else x


def check_axis(x: Tensor, axis: int, where: str) -> int:
    """The axis, counted from the start; a ValueError where `x` is not a tensor or has no such axis."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{where}: expected a tensor; got a {type(x).__name__}")
    if not isinstance(axis, Integral) or not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{where}: expected an axis between {-x.ndim} and {x.ndim - 1} of {tuple(x.shape)}; got {axis!r}"
        )
    return axis % x.ndim
