"""Which geometries the native kernels take, and how many multiply-adds they need."""

import math
from collections.abc import Sequence

from torch import Tensor

from hcnn.functional.attribute_conv.native_plan import MOST
from hcnn.functional.attribute_conv.spectral import period
from hcnn.functional.axes import Boundary
from hcnn.functional.native.library import description

MOST_TAPS = 512  # spatial taps that the kernels have room for
WIDEST = 255  # support along a row: what vectors read beyond the end of the last row still lies in scratch


def native_supports(sizes: Sequence[int], support: Sequence[int], stride: Sequence[int], space: Sequence[int]) -> bool:
    """Whether the kernels take a geometry: attributes of moderate size, one or two spatial axes.

    Args:
        sizes: lengths of the attribute axes.
        support: filter supports along them.
        stride: strides along them.
        space: spatial supports.

    Example:
        >>> native_supports((8, 16), (7, 11), (2, 2), (3, 3)), native_supports((8,), (3,), (1,), (3, 3, 3))
        (True, False)
    """
    if not sizes or len(space) > 2 or math.prod(space) > MOST_TAPS or space[-1] > WIDEST:
        return False
    *others, last = (period(n, k, s, "zeros") for n, k, s in zip(sizes, support, stride, strict=True))
    return 2 * math.prod(others) <= MOST and last <= MOST


def native_refused(where: str, tensor: Tensor, sizes: Sequence[int]) -> str:
    """What an error says where ``method="native"`` meets something that the kernels do not take."""
    return (
        f"{where}: the native method takes float32 on a CPU outside of autocast and dispatch modes, attributes of "
        f"moderate size and one or two spatial axes; got {tensor.dtype} on {tensor.device} of shape "
        f"{tuple(tensor.shape)}, attribute sizes {tuple(sizes)} (native kernels: {description()})"
    )


def native_multiply_adds(
    sizes: Sequence[int], support: Sequence[int], stride: Sequence[int], boundary: Boundary, filters: int, taps: int
) -> int:
    """Multiply-adds per spatial position (of a layer without spatial stride) of the native form.

    Args:
        sizes: lengths of the attribute axes.
        support: filter supports along them.
        stride: strides along them.
        boundary: "zeros" or "circular".
        filters: K.
        taps: number of spatial taps.

    Example:
        >>> native_multiply_adds((8, 16), (7, 11), (2, 2), "circular", 16, 9)
        38144
    """
    products, analysis, synthesis = native_work(sizes, support, stride, boundary)
    return products * filters * taps + analysis + synthesis * filters


def native_work(
    sizes: Sequence[int], support: Sequence[int], stride: Sequence[int], boundary: Boundary
) -> tuple[int, int, int]:
    """Multiply-adds per position: of the products of one filter and tap, of the analysis, of the synthesis of a filter.

    Example:
        >>> native_work((8, 16), (7, 11), (2, 2), "circular")
        (184, 3968, 480)
    """
    periods = [period(n, k, s, boundary) for n, k, s in zip(sizes, support, stride, strict=True)]
    folded = [n // s for n, s in zip(periods, stride, strict=True)]
    own = math.prod([2 if n % 2 == 0 else 1 for n in folded])  # frequencies that are their own conjugates
    pairs = (math.prod(folded) - own) // 2
    analysis = _transform(sizes, periods)
    synthesis = _transform([n // s for n, s in zip(sizes, stride, strict=True)], folded)
    return (3 * pairs + own) * math.prod(stride), analysis, synthesis


def _transform(sizes: Sequence[int], periods: Sequence[int]) -> int:
    """Multiply-adds between values and frequencies: along the last axis, then along the others of half a spectrum."""
    last, others, frequencies = periods[-1], math.prod(sizes[:-1]), math.prod(periods[:-1])
    pairs = (last - 1) // 2
    return others * last * sizes[-1] + (4 * pairs + last - 2 * pairs) * others * frequencies
