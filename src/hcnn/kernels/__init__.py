"""GPU kernels in Triton, their plain PyTorch twins, and the one place that chooses between them.

Where a profile of these networks on a GPU would show memory traffic and not arithmetic: `patch_moments` in one pass
over x, `batch_normalize_elu` with the mean over the oldest attribute that the next layer takes first, and `plus_step`,
the inner step of HCNN(+) without its Q-fold intermediate. Every function here takes the Triton kernel where
`available` says so and its twin in `hcnn.kernels.reference` otherwise; the package works without Triton.

The kernels have been held to their twins in Triton's interpreter and compiled for compute capability 9.0 without a
GPU; they have not been run, and so not been timed, on one.
"""

import os
from collections.abc import Iterator, Sequence
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


# The twins use `hcnn.functional`, which asks `available`: it comes first.
from hcnn.kernels import normalize, reference  # noqa: E402
