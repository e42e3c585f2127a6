"""Which device a network trains on, and in which precision it is fast there."""

import os
from functools import lru_cache
from time import perf_counter
from typing import Any, Literal

import torch
import torch.nn.functional as F

from hcnn.functional import native_available

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")


def available_devices() -> list[str]:
    """Names of the devices that can be used here.

    Example:
        >>> available_devices()[0]
        'cpu'
    """
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for kind in ("xpu", "mps"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            names += [kind, *(f"{kind}:{index}" for index in range(module.device_count()))]
    return names


def find_device(name: str | torch.device) -> torch.device:
    """A device by its name; "cuda" becomes the GPU of this process's local rank, where torchrun gave it one.

    Args:
        name: one of `available_devices`, or that device.

    Raises:
        ValueError: if there is no such device here; names those that there are.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
        >>> find_device("gpu")
        Traceback (most recent call last):
        ValueError: device: expected one of ...; got 'gpu'
    """
    known, name = available_devices(), str(name)
    local = f"{name}:{os.environ.get('LOCAL_RANK')}"
    wanted = local if name == "cuda" and "LOCAL_RANK" in os.environ else name
    if wanted not in known and wanted != "cpu:0":
        hint = ""
        if wanted.partition(":")[0] == "cuda" and len(known) == 1:
            hint = " (this PyTorch is built without CUDA)" if torch.version.cuda is None else " (no CUDA GPU was found)"
        raise ValueError(f"device: expected one of {', '.join(known)}; got {wanted!r}{hint}")
    return torch.device(wanted)


def settle_precision(
    precision: Precision, device: torch.device, *, attributes: bool = False
) -> tuple[Literal["float32", "bfloat16"], str]:
    """What "auto" means on a device, and what a choice costs there.

    "auto" is bfloat16 where the device computes in it: CUDA from compute capability 8 on, MPS and XPU, and processors
    that have instructions for it (AVX-512 BF16, AMX, or those of ARM). Everywhere else PyTorch would convert each
    number to float32 and back. For attribute networks on a CPU it is float32 wherever the native kernels are compiled:
    they compute in float32 only, and a training step takes about half as long as PyTorch's in bfloat16.

    Args:
        precision: of a recipe.
        device: where the network trains.
        attributes: whether it is an attribute network, which the native kernels serve.

    Returns:
        The precision, and a sentence about it for the log; empty where nothing needs to be said.

    Example:
        >>> settle_precision("float32", torch.device("cpu"))
        ('float32', '')
    """
    if precision == "float32":
        return "float32", ""
    if precision == "auto" and attributes and native_available(torch.empty(0, device=device)):
        return "float32", "precision float32: the native kernels compute in it"
    fast, why = _has_bfloat16(device)
    if precision == "auto":
        chosen = "bfloat16" if fast else "float32"
        return chosen, f"precision {chosen}: {why}"
    if fast:
        return "bfloat16", ""
    cost = f"; a convolution takes {_bfloat16_cost():.0f} times as long as in float32" if device.type == "cpu" else ""
    return "bfloat16", f"warning: precision bfloat16 was asked for, but {why}{cost}; --precision auto avoids that"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation; on a CPU PyTorch raises a plain RuntimeError.

    So it does for a tensor of more than 2**63 bytes.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    known = ("not enough memory", "can't allocate memory", "bad_alloc", "could not create a memory")
    failed = any(one in str(error) for one in (*known, "Storage size calculation overflowed"))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or failed


def _has_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"the GPU has compute capability {major}.{minor}; bfloat16 is fast from 8.0 on"
    if device.type != "cpu":
        return True, f"{device.type} devices compute in bfloat16"
    ask = getattr(torch.cpu, "get_capabilities", dict)  # PyTorch before 2.12 may lack it
    capabilities: dict[str, Any] = ask()
    flags = sorted(name for name, value in capabilities.items() if name.endswith("bf16") and value is True)
    if flags:
        return True, f"the processor has bfloat16 instructions ({', '.join(flags)})"
    return False, "the processor has no bfloat16 instructions"


@lru_cache(maxsize=1)
def _bfloat16_cost() -> float:
    """How many times as long a convolution takes in bfloat16 as in float32 on this processor, at best of three."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(4, 64, 32, 32, dtype=dtype), torch.ones(64, 64, 3, 3, dtype=dtype)
        times = []
        for _ in range(3):
            start = perf_counter()
            F.conv2d(x, weight, padding=1)
            times.append(perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] / seconds[torch.float32]
