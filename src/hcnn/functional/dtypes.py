"""Types that numbers are computed and summed in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over elements of this type are taken in: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type that autocast computes in with a tensor, or None where it is off; it leaves float64 as it is."""
    kind = _kind(x)
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else None


def autocast(x: Tensor) -> Tensor:
    """A tensor in the type that autocast computes in, because autocast does not reach into custom operators."""
    return x.to(autocast_dtype(x) or x.dtype)


def exactly(x: Tensor) -> AbstractContextManager[object]:
    """Without autocast where a tensor is, which would compute in 16 bits."""
    kind = _kind(x)
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _kind(x: Tensor) -> str:
    """The device type as autocast knows it; it does not know "meta"."""
    return "cpu" if x.is_meta else x.device.type
