"""Which exact form of a convolution along attributes is faster, by counting its multiply-adds."""

import math
from collections.abc import Sequence
from typing import Literal

import torch

from hcnn.functional.attribute_conv.dense import bands
from hcnn.functional.attribute_conv.native_cost import native_multiply_adds, native_work
from hcnn.functional.attribute_conv.spectral import spectral_multiply_adds
from hcnn.functional.axes import Boundary

Method = Literal["auto", "dense", "spectral", "native"]
METHODS: tuple[Method, ...] = ("auto", "dense", "spectral", "native")

# From which ratio of multiply-adds on the spectral form is faster. Measured on two x86 cores, float32, forward and
# backward: 4.5 times faster at a ratio of 7.5, 2.6 times at 4.0, no difference at 2.0. Not measured: dense.
_ADVANTAGE = {"cpu": 3.0}


def check_method(method: str, where: str) -> None:
    """Raise a ValueError unless `method` is one that this package knows."""
    if method not in METHODS:
        raise ValueError(f"{where}: expected method 'auto', 'dense', 'spectral' or 'native'; got {method!r}")


def choose_method(
    sizes: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    filters: int,
    taps: int,
    boundary: Boundary,
    device: str,
    *,
    channel_axis: bool = False,
    native: bool = False,
) -> Method:
    """Which form is expected to be faster for a geometry; what ``method="auto"`` takes.

    The spectral form needs fewer multiply-adds but spends them in small groups and moves more memory.

    Args:
        sizes: lengths of the attribute axes.
        support: filter supports along them.
        stride: strides along them.
        filters: K.
        taps: number of spatial taps.
        boundary: "zeros" or "circular".
        device: type of the device.
        channel_axis: whether there is a channel axis, for which only the dense form exists.
        native: whether the native form can be had; a multiply-add costs it as much as the dense form.

    Returns:
        "dense", "spectral" or "native".

    Example:
        >>> choose_method((8, 16), (7, 11), (2, 2), 16, 9, "circular", "cpu")
        'spectral'
        >>> choose_method((8, 16), (7, 11), (2, 2), 16, 9, "circular", "cuda")
        'dense'
        >>> choose_method((4, 8), (5, 7), (2, 2), 8, 9, "zeros", "cpu")
        'dense'
        >>> choose_method((4, 8), (5, 7), (2, 2), 8, 9, "zeros", "cpu", native=True)
        'native'
    """
    if channel_axis or not sizes:
        return "dense"
    dense = math.prod(sizes) * math.prod([n // s for n, s in zip(sizes, stride, strict=True)]) * filters * taps
    if native:
        work = native_multiply_adds(sizes, support, stride, boundary, filters, taps)
        return "native" if work < dense else "dense"
    advantage = dense / spectral_multiply_adds(sizes, support, stride, boundary, filters, taps)
    return "spectral" if advantage > _ADVANTAGE.get(device, math.inf) else "dense"


def choose_plus_method(
    g: Sequence[int], sizes: Sequence[int], stride: Sequence[int], boundary: Boundary, *, native: bool = False
) -> Method:
    """Which form of the attribute step of HCNN(+) is expected to be faster; what ``method="auto"`` takes on a CPU.

    All are matrix products of a good size, so the numbers of multiply-adds decide. The spectral form, which has more
    steps, is taken only where the dense form needs more than 1.5 times as many.

    Args:
        g: shape of the filters, (k, q, *kv).
        sizes: lengths of the attribute axes.
        stride: strides along them.
        boundary: "zeros" or "circular".
        native: whether the native form can be had.

    Returns:
        "dense", "spectral" or "native".

    Example:
        >>> choose_plus_method((16, 32, 7, 11), (8, 16), (2, 2), "circular")
        'spectral'
        >>> choose_plus_method((16, 32, 7, 11), (8, 16), (2, 2), "zeros")
        'dense'
    """
    if not sizes:
        return "dense"
    filters, rank, *support = g
    blocks = bands(torch.empty(*g, device="meta"), sizes, stride, boundary)
    edges = zip(*(blocks[at::4] for at in range(4)), strict=True)
    dense = sum((bottom - top) * (right - left) for top, bottom, left, right in edges)
    if native:
        products, analysis, synthesis = native_work(sizes, support, stride, boundary)
        return "native" if rank * (products * filters + analysis) + synthesis * filters < dense else "dense"
    spectral = spectral_multiply_adds(sizes, support, stride, boundary, filters, 1, rank=rank)
    return "spectral" if dense > 1.5 * spectral else "dense"
