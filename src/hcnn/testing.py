"""Property checks for attribute layers: for the tests of this package, and for yours."""

from collections.abc import Callable

import torch
from torch import Tensor

from hcnn.functional import Boundary, translate


def assert_covariant(
    layer: Callable[[Tensor], Tensor],
    x: Tensor,
    axis: int,
    *,
    shift: int = 1,
    stride: int = 1,
    support: int = 1,
    boundary: Boundary = "circular",
    output_axis: int | None = None,
    rtol: float = 1e-6,
) -> None:
    """Assert ``layer(T_{stride · shift} x) = T_shift layer(x)`` along one axis.

    With ``zeros`` only those outputs are compared whose filter, centred on ``stride · v'``, meets neither the
    border nor the zeros that came in.

    Args:
        layer: what is tested; in eval mode, or its statistics change between the calls.
        x: an input of it.
        axis: axis of x.
        shift: translation of the output, positive.
        stride: the layer's stride along the axis.
        support: the layer's filter support along the axis; matters with zeros only.
        boundary: "circular" compares everything, "zeros" the interior.
        output_axis: the same axis in the output; counted from the front as `axis` is if None.
        rtol: largest difference allowed, relative to the largest output.

    Raises:
        AssertionError: if the law does not hold; it names the axis and the difference.
        ValueError: if the shift is not positive or leaves x as it is, nothing is left to compare, or the output does
            not depend on the position along the axis.

    Example:
        >>> from hcnn.layers import AttributeConv
        >>> layer = AttributeConv(4, attribute_support=(3,), stride=(2, 1, 1), boundary="circular").eval()
        >>> assert_covariant(layer, torch.randn(2, 8, 5, 5), axis=1, stride=2)

    """
    target = axis if output_axis is None else output_axis
    moved = translate(x, axis, shift * stride, boundary=boundary)
    if shift < 1 or torch.equal(moved, x):
        raise ValueError(
            f"assert_covariant: expected a positive shift that moves x; got {shift} with stride {stride} along axis "
            f"{axis} of {x.shape[axis]} values"
        )
    with torch.no_grad():
        expected = translate(layer(x), target, shift, boundary=boundary)
        actual = layer(moved)
    size, outputs, reach = x.shape[axis], expected.shape[target], support // 2
    if boundary == "zeros":
        inside = [o for o in range(outputs) if shift * stride + reach <= stride * o and stride * o + reach < size]
        index = torch.tensor(inside, dtype=torch.long, device=x.device)
        expected, actual = expected.index_select(target, index), actual.index_select(target, index)
    if not expected.numel():
        raise ValueError(f"assert_covariant: axis {axis} of {size} values has no interior for support {support}")
    if torch.allclose(expected, expected.roll(1, target)) and expected.shape[target] > 1:
        raise ValueError(f"assert_covariant: the output is constant along axis {target}, nothing is tested")
    _assert_close(actual, expected, rtol, f"not covariant along axis {axis} (shift {shift}, stride {stride})")


def assert_invariant(
    layer: Callable[[Tensor], Tensor], x: Tensor, axis: int, *, shift: int = 1, rtol: float = 1e-6
) -> None:
    """Assert ``layer(T_shift x) = layer(x)`` for a circular translation along one axis.

    Args:
        layer: what is tested; in eval mode.
        x: an input of it, not itself constant along the axis.
        axis: axis of x.
        shift: the translation.
        rtol: largest difference allowed, relative to the largest output.

    Raises:
        AssertionError: if the law does not hold; it names the axis and the difference.
        ValueError: if the translation leaves x as it is, so that nothing is tested.

    Example:
        >>> from hcnn.functional import marginal
        >>> assert_invariant(lambda x: marginal(x, 1), torch.randn(2, 8, 5, 5), axis=1)

    """
    moved = translate(x, axis, shift)
    if torch.equal(moved, x):
        raise ValueError(f"assert_invariant: a shift of {shift} along axis {axis} leaves x unchanged")
    with torch.no_grad():
        expected, actual = layer(x), layer(moved)
    _assert_close(actual, expected, rtol, f"not invariant along axis {axis} (shift {shift})")


def _assert_close(actual: Tensor, expected: Tensor, rtol: float, what: str) -> None:
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: shapes {tuple(actual.shape)} and {tuple(expected.shape)}")
    scale = expected.abs().max().item()
    difference = (actual - expected).abs().max().item()
    if not difference <= rtol * max(scale, 1e-30):
        raise AssertionError(f"{what}: largest difference {difference:.3g}, largest value {scale:.3g}, rtol {rtol:g}")
