"""Patch moments from the patches themselves: the reference implementation."""

import torch.nn.functional as F
from torch import Tensor

from hcnn.functional.axes import Boundary, pad_spatial
from hcnn.functional.dtypes import wide


def patch_moments(x: Tensor, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Mean (9,) and covariance (9, 9) of all 3×3 patches of x (..., u1, u2), from the patches themselves."""
    height, width = x.shape[-2:]
    padded = pad_spatial(x.reshape(-1, 1, height, width).to(wide(x.dtype)), (1, 1), boundary)
    patches = F.unfold(padded, 3).movedim(1, 0).reshape(9, -1)  # (9, n)
    mean = patches.mean(1)
    off = patches - mean[:, None]
    return mean, off @ off.T / off.shape[1]
