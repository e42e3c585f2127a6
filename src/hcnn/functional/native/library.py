"""The compiled library: whether there is one, which instruction set it uses, and its functions.

``HCNN_NATIVE=0`` switches it off; ``HCNN_NATIVE_ISA`` takes one of its instruction sets instead of the best one;
``HCNN_NATIVE_LIBRARY`` loads another file, as `make sanitize` does. They are read when the package is imported.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from hcnn.functional.native import build

_INT, _POINTER = ctypes.c_int32, ctypes.c_void_p


class Conv(ctypes.Structure):
    """`HcnnConv` of source/api.h."""

    plan: object = None  # which owns the arrays that the pointers lead to
    _fields_ = [
        *((name, _INT) for name in ("images", "height", "width", "channels", "filters", "out_height", "out_width")),
        ("support", _INT * 2),
        ("stride", _INT * 2),
        *(
            (name, _INT)
            for name in ("wrap", "planes", "dofs", "outputs", "aliases", "groups", "elu", "average", "rank")
        ),
        ("group", _POINTER),
        ("programs", _POINTER * 4),
        ("matrices", _POINTER * 4),
    ]


class Normalize(ctypes.Structure):
    """`HcnnNormalize` of source/api.h."""

    _fields_ = [
        *((name, _INT) for name in ("images", "oldest", "others", "filters", "space")),
        ("eps", ctypes.c_float),
    ]


class Moments(ctypes.Structure):
    """`HcnnMoments` of source/api.h."""

    _fields_ = [(name, _INT) for name in ("images", "maps", "height", "width", "wrap")]


_SIGNATURES = {  # number of pointers to arrays, after the sizes and before the number of threads
    "hcnn_conv": 4,
    "hcnn_conv_backward": 6,
    "hcnn_plus": 5,
    "hcnn_plus_backward": 9,
    "hcnn_normalize": 6,
    "hcnn_normalize_backward": 9,
    "hcnn_scale_elu": 4,
    "hcnn_moments": 2,
    "hcnn_moments_backward": 5,
}


NOT_COMPILED = "not compiled: install the package where there is a C++ compiler, or run `make native`"


def path() -> Path:
    """Where the library lies."""
    return Path(os.environ.get("HCNN_NATIVE_LIBRARY") or build.LIBRARY)


def _openmp_parallel() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that PyTorch has loaded; None where it has loaded another one."""
    loaded_only = getattr(os, "RTLD_NOLOAD", None)
    for file in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        with suppress(OSError, AttributeError):
            if loaded_only is not None:
                return ctypes.cast(ctypes.CDLL(str(file), loaded_only).GOMP_parallel, _POINTER).value
    return None


def load(path: Path, isa: str | None) -> tuple[ctypes.CDLL | None, str]:
    """The library, or None; and the instruction set that it uses, or why there is none."""
    if os.environ.get("HCNN_NATIVE") == "0":
        return None, "switched off by HCNN_NATIVE=0"
    if not path.exists():
        return None, NOT_COMPILED
    try:
        library = ctypes.CDLL(str(path))
        library.hcnn_source.restype = library.hcnn_choose.restype = ctypes.c_char_p
        library.hcnn_choose.argtypes = [ctypes.c_char_p]
        library.hcnn_use_team.restype, library.hcnn_use_team.argtypes = None, [_POINTER]
        if library.hcnn_source().decode() != build.digest():
            return None, "compiled from other source than this: run `make native`"
        chosen = library.hcnn_choose(isa.encode() if isa else None)
    except (OSError, AttributeError) as error:
        return None, f"cannot be loaded: {error}"
    if chosen is None:
        return None, f"this processor or build has no {isa!r}, which HCNN_NATIVE_ISA asks for"
    library.hcnn_use_team(_openmp_parallel())
    for name, arrays in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_int, [_POINTER, *[_POINTER] * arrays, _INT]
    return library, chosen.decode()


_library, _description = load(path(), os.environ.get("HCNN_NATIVE_ISA") or None)
_enabled = _library is not None


def description() -> str:
    """Which instruction set the native kernels use, or why there are none.

    Example:
        >>> isinstance(description(), str)
        True
    """
    return _description


def native_available(x: Tensor) -> bool:
    """Whether the native kernels take a tensor: float32 on the CPU, outside of autocast and of dispatch modes.

    Args:
        x: what a function would be given.

    Returns:
        False where there are none, inside `native_disabled`, and where a `TorchDispatchMode` watches the operators,
        as `make_fx` and `FlopCounterMode` do; a compiler gets the operator of the kernels.

    Example:
        >>> native_available(torch.zeros(3, dtype=torch.float64))
        False
    """
    return (
        _enabled
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and (torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack())  # in this order, for Dynamo
    )


@contextmanager
def native_disabled() -> Iterator[None]:
    """Use the PyTorch forms inside this block; for comparisons in one process.

    Example:
        >>> with native_disabled():
        ...     native_available(torch.zeros(3))
        False
    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def runs(name: str) -> bool:
    """Whether this library and processor have an instruction set."""
    if _library is None or _library.hcnn_choose(name.encode()) is None:
        return False
    _library.hcnn_choose(_description.encode())
    return True


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Use the kernels compiled for one instruction set inside this block; for tests and measurements.

    Args:
        name: "baseline", or on x86 "avx2" or "avx512".

    Raises:
        ValueError: if there are none for it.
    """
    if _library is None or not runs(name):
        raise ValueError(f"instruction_set: there are no native kernels for {name!r} here: {_description}")
    _library.hcnn_choose(name.encode())
    try:
        yield
    finally:
        _library.hcnn_choose(_description.encode())


@contextmanager
def own_threads() -> Iterator[None]:
    """Compute on threads of the library's own inside this block, not on PyTorch's; for tests and measurements."""
    if _library is not None:
        _library.hcnn_use_team(None)
    try:
        yield
    finally:
        if _library is not None:
            _library.hcnn_use_team(_openmp_parallel())


def call(name: str, sizes: ctypes.Structure, *arrays: Tensor | None) -> None:
    """Call a function with sizes and contiguous tensors, on as many threads as torch uses.

    Args:
        name: of the function.
        sizes: what it takes first.
        arrays: contiguous; None for a null pointer.

    Raises:
        ValueError: if a tensor is not contiguous on the CPU.
        MemoryError: if there is not enough memory for what the function needs beside the arrays.
    """
    if _library is None:
        raise ValueError(f"{name}: there are no native kernels: {_description}")
    for one in arrays:
        if one is not None and (one.device.type != "cpu" or not one.is_contiguous()):
            raise ValueError(
                f"{name}: expected contiguous tensors on the CPU; got {one.device}, strides {one.stride()}"
            )
    pointers = (None if one is None else one.data_ptr() for one in arrays)
    if getattr(_library, name)(ctypes.addressof(sizes), *pointers, torch.get_num_threads()):
        raise MemoryError(f"{name}: not enough memory")
