"""Mean and covariance of all spatial patches of an array, and which form computes them."""

from collections.abc import Iterable, Sequence
from numbers import Integral

from torch import Tensor

from hcnn.functional.axes import Boundary, check_boundary
from hcnn.functional.backend import choose
from hcnn.functional.patch_moments import native, rows_op, triton_op


def patch_moments(x: Tensor, support: Sequence[int], *, boundary: Boundary = "zeros") -> tuple[Tensor, Tensor]:
    """Mean and covariance of all spatial patches of an array.

    With p(u) the patch of x around u, over every batch entry, attribute and position:
    ``mean = E[p]`` and ``covariance = E[p pᵀ] - mean meanᵀ``. For any filter h of this support, x * h then has the
    mean ``h · mean`` and the variance ``hᵀ covariance h``: the statistics of the inner normalization (paper,
    section 4.2) without forming x * h. Everything is computed in float32 or wider.

    Args:
        x: (..., *u); the last ``len(support)`` axes are spatial, all others are averaged over.
        support: size of a patch, odd along each axis.
        boundary: how x continues outside, "zeros" or "circular".

    Returns:
        mean (P,) and covariance (P, P) with ``P = prod(support)``, patches flattened in row-major order.

    Raises:
        ValueError: if a support is even, x is not a tensor, is empty or has too few axes, or the boundary is unknown.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> mean, covariance = patch_moments(x, [3], boundary="circular")
        >>> mean
        tensor([2.5000, 2.5000, 2.5000])
        >>> covariance[1]
        tensor([-0.2500,  1.2500, -0.2500])

    """
    check_boundary(boundary, "patch_moments")
    sizes = tuple(support) if isinstance(support, Iterable) else ()
    if not sizes or any(not isinstance(k, Integral) or k < 1 or k % 2 == 0 for k in sizes):
        raise ValueError(f"patch_moments: expected odd supports, one per spatial axis; got {support!r}")
    axes = len(sizes)
    if not isinstance(x, Tensor):
        raise ValueError(f"patch_moments: expected a tensor; got a {type(x).__name__}")
    if 0 in tuple(x.shape):
        raise ValueError(f"patch_moments: expected at least one entry along each axis; got {tuple(x.shape)}")
    if x.ndim < axes:
        raise ValueError(f"patch_moments: support {tuple(support)} expects {axes} spatial axes; got {tuple(x.shape)}")
    if tuple(support) == (3, 3):
        form = choose(x, rows_op.patch_moments, native=native.patch_moments, triton=triton_op.patch_moments)
    else:
        form = rows_op.patch_moments
    return form(x, support, boundary)
