"""Whether the Triton kernels of this package take a tensor, and a switch for comparisons.

The kernels have been compared with their reference implementations in Triton's interpreter and compiled for compute
capability 9.0 without a GPU. They have not been run, and so not been timed, on one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

_TRITON = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: its kernels then run on the CPU
_enabled = True


def available(x: Tensor) -> bool:
    """Whether the Triton kernels take a tensor: on CUDA (or in Triton's interpreter), float32 or bfloat16.

    Args:
        x: what a function of this module would be given.

    Returns:
        False without Triton, inside `disabled`, for other types, and for 2³¹ elements or more.

    Example:
        >>> available(torch.zeros(3, dtype=torch.float16))
        False

    """
    return (
        _enabled
        and _TRITON
        and (x.is_cuda or _INTERPRETED)
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() < 2**31
    )


@contextmanager
def disabled() -> Iterator[None]:
    """Use the twins only, inside this block; for comparisons.

    Example:
        >>> with disabled():
        ...     available(torch.zeros(3))
        False

    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before
