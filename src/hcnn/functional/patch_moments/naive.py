"""Patch moments from the patches themselves: the reference implementation."""

from collections.abc import Sequence

from torch import Tensor

from hcnn.functional.axes import Boundary, pad_spatial
from hcnn.functional.dtypes import wide


def patch_moments(x: Tensor, support: Sequence[int], boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (P,) and covariance (P, P) of all patches of x (..., *u), from the patches themselves."""
    axes = len(support)
    patches = pad_spatial(x.to(wide(x.dtype)), [k // 2 for k in support], boundary)
    for axis, k in enumerate(support):
        patches = patches.unfold(x.ndim - axes + axis, k, 1)  # (..., *u, *k)
    patches = patches.flatten(x.ndim).movedim(-1, 0).flatten(1)  # (P, n)
    mean = patches.mean(1)
    off = patches - mean[:, None]
    return mean, off @ off.T / off.shape[1]
