"""Types that sums are taken in."""

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over elements of this type are taken in: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)
