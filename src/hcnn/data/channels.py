"""Where the channels of an array of images are: the one rule, for every place that arrays come in."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

Channels = Literal["auto", "first", "last"]

_FEW = 4  # grey, grey with alpha, RGB, RGB with alpha


def channels_first(
    images: np.ndarray,
    channels: Channels = "auto",
    *,
    count: int | None = None,
    sides: Sequence[int] | None = None,
    name: str = "images",
) -> np.ndarray:
    """Images with their channels on axis 1, wherever these were.

    "auto" decides between ``(n, c, *u)`` and ``(n, *u, c)`` by the shape alone, and refuses what it cannot decide. Of
    the two readings it takes the one that has fewer channels than its pictures have pixels along every side, if the
    other has not. With more than four channels, the pictures must also be at least as square as those of the other
    reading. Where the number of channels or the sides are known, a reading must agree with them first of all.

    Args:
        images: (n, c, *u) or (n, *u, c), or (n, *u) if they have one channel, of any type. Three axes are (n, h, w)
            unless `sides` says otherwise.
        channels: "first", "last", or "auto".
        count: number of channels, where it is known.
        sides: sizes of the spatial axes u, where they are known.
        name: what to call the images in errors.

    Returns:
        A view (n, c, *u). Its sizes are not compared with `count` and `sides`.

    Raises:
        ValueError: if there are too few axes, `channels` is something else, or "auto" cannot tell.

    Example:
        >>> channels_first(np.zeros((9, 16, 16, 4))).shape
        (9, 4, 16, 16)
        >>> channels_first(np.zeros((9, 64, 8, 8)))
        Traceback (most recent call last):
        ValueError: images: shape (9, 64, 8, 8) may be 64 channels of 8×8 or 8 channels of 64×8; say which with
        channels='first' or channels='last' (in an .npz file, an array of that name)

    """
    if channels not in get_args(Channels):
        raise ValueError(f"channels: expected 'first', 'last' or 'auto'; got {channels!r}")
    shape = images.shape
    if images.ndim < (3 if sides is None else 1 + len(sides)):
        raise ValueError(f"{name}: expected images (n, h, w) or (n, c, h, w); got shape {shape}")
    if images.ndim == (3 if sides is None else 1 + len(sides)):
        return images[:, None]
    if channels != "auto":
        return images if channels == "first" else np.moveaxis(images, -1, 1)
    readings = {1: (shape[1], shape[2:]), -1: (shape[-1], shape[1:-1])}  # channels, and sides of the pictures
    agreeing = [
        axis for axis, (c, u) in readings.items() if count in (None, c) and (sides is None or tuple(sides) == u)
    ]
    if len(agreeing) < 2:
        return np.moveaxis(images, agreeing[0] if agreeing else 1, 1)
    fitting = [axis for axis, (c, u) in readings.items() if c < min(u)]
    if len(fitting) == 1:
        (axis,) = fitting
        (c, u), (_, others) = readings[axis], readings[-axis]
        if c <= _FEW or _elongation(u) <= _elongation(others):
            return np.moveaxis(images, axis, 1)
    told = " or ".join(f"{c} channels of {'×'.join(map(str, u))}" for c, u in readings.values())
    raise ValueError(
        f"{name}: shape {shape} may be {told}; say which with channels='first' or channels='last' (in an .npz file, an "
        "array of that name)"
    )


def _elongation(sides: Sequence[int]) -> float:
    return max(sides) / max(min(sides), 1)


def rows_to_images(rows: np.ndarray, shape: Iterable[Any]) -> np.ndarray:
    """Images whose pixels were written one after the other.

    Args:
        rows: (n, features).
        shape: (height, width), (channels, height, width), or "row" for images of one row and one channel.

    Returns:
        A view (n, c, height, width).

    Raises:
        ValueError: if `shape` is something else, or has another number of pixels.

    Example:
        >>> rows_to_images(np.zeros((5, 64)), (8, 8)).shape
        (5, 1, 8, 8)

    """
    if shape == "row":
        return rows.reshape(len(rows), 1, 1, -1)
    sides = [*shape] if isinstance(shape, Iterable) else []
    whole = all(isinstance(side, int | np.integer) and side > 0 for side in sides)
    if not whole or len(sides) not in (2, 3) or math.prod(sides) != rows.shape[1]:
        raise ValueError(
            f"image_shape: expected (height, width) or (channels, height, width) of {rows.shape[1]} numbers in all, or "
            f"'row'; got {shape!r}"
        )
    return rows.reshape(len(rows), *([1] if len(sides) == 2 else []), *sides)
