"""Which form of an operation computes a tensor, and a switch for comparisons.

Every operation has a folder with its forms, functions of the same arguments, and one `dispatch` that calls `choose`.

The Triton kernels are compared with their reference implementations in Triton's interpreter. On an H200 networks have
been trained with them (`results/hcnn_cifar10-120`), and a training step takes less than half as long as without them
(`results/benchmarks`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from hcnn.functional.native.library import native_available

_TRITON = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: its kernels then run on the CPU
_enabled = True

Form = TypeVar("Form", bound=Callable[..., Any])


def choose(
    x: Tensor, plain: Form, *, cpu: Form | None = None, native: Form | None = None, triton: Form | None = None
) -> Form:
    """The form of an operation for a tensor.

    Args:
        x: the tensor.
        plain: the form for everything else.
        cpu: the form for tensors in the processor's memory, if there is one.
        native: the form for tensors that the native kernels take (`native_available`), if there is one.
        triton: the form for tensors that the Triton kernels take (`available`), if there is one; it comes first.

    Returns:
        One of the forms.

    Example:
        >>> choose(torch.zeros(3), torch.exp, cpu=torch.sin)(torch.zeros(1))
        tensor([0.])

    """
    if triton is not None and available(x):
        return triton
    if native is not None and native_available(x):
        return native
    return cpu if cpu is not None and x.device.type == "cpu" else plain


def available(x: Tensor) -> bool:
    """Whether the Triton kernels take a tensor: on CUDA (or in Triton's interpreter), float32 or bfloat16.

    Args:
        x: what an operation would be given.

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
    """Use no Triton kernel inside this block; for comparisons.

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
