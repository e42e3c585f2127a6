"""Weights in safetensors files: written reproducibly, read without ever opening a pickle."""

import hashlib
import io
import json
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hcnn.storage.atomic import StrPath, write_atomically

WEIGHTS_FORMAT = {"format": "hcnn-1"}  # metadata of a network's weights


def save_weights(path: StrPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write tensors as a safetensors file, atomically; equal content gives equal bytes.

    Values, shapes and dtypes are kept bit for bit; strides and shared storage are not.

    Args:
        path: the file to write; its folder must exist.
        tensors: dense tensors by name, on any device.
        metadata: text by name, for the file's header.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        ValueError: for a tensor that safetensors cannot hold, by name, or metadata that is not text.
        OSError: as `write_atomically` does.

    """
    data = safetensors_bytes(tensors, metadata, path)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def weights_sha256(tensors: Mapping[str, Tensor], name: StrPath) -> str:
    """SHA-256 of the file that a run would write for some weights, in hexadecimal.

    Args:
        tensors: the weights by name.
        name: of what holds them, for error texts.

    Raises:
        ValueError: as `save_weights` does.

    """
    return hashlib.sha256(safetensors_bytes(tensors, WEIGHTS_FORMAT, name)).hexdigest()


def load_weights(path: StrPath) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, and nothing else: a pickle is recognized, refused and never unpickled.

    Args:
        path: the file to read.

    Returns:
        The tensors by name, on the CPU, and the metadata of the header.

    Raises:
        ValueError: naming the file and what it is instead: a pickle, a torch.save archive, a damaged
            safetensors file …
        OSError: where it cannot be read.

    """
    data = Path(path).read_bytes()
    try:
        return parse_safetensors(data)
    except ValueError as error:
        raise ValueError(f"{path} {_looks_like(data)}: {error}") from error


def match_state(expected: Mapping[str, Tensor | Sequence[int]], given: Mapping[str, Tensor], where: str) -> None:
    """Check that given tensors have the names, shapes and kinds of numbers of the expected ones, and sound values.

    Args:
        expected: a tensor, or its shape (of floating-point numbers), by name.
        given: the tensors that came.
        where: what they are and where from; it opens the error text.

    Raises:
        ValueError: listing the keys that are missing, extra, of another shape or type, contain NaN or infinities (in
            the expected type), or hold negative variances.

    >>> match_state({"w": (2, 3)}, {"w": torch.zeros(3), "v": torch.zeros(1)}, "a.safetensors")
    Traceback (most recent call last):
    ValueError: a.safetensors does not fit:
      1 extra: v (1,)
      1 of another shape: w expected (2, 3), got (3,)

    """
    wanted = {name: tuple(like.shape if isinstance(like, Tensor) else like) for name, like in expected.items()}
    got = {name: tuple(tensor.shape) for name, tensor in given.items()}
    differences = {
        "missing": [f"{name} {shape}" for name, shape in wanted.items() if name not in got],
        "extra": [f"{name} {shape}" for name, shape in got.items() if name not in wanted],
        "of another shape": [
            f"{name} expected {shape}, got {got[name]}"
            for name, shape in wanted.items()
            if name in got and got[name] != shape
        ],
    }
    fitting = [name for name, shape in wanted.items() if got.get(name) == shape]
    for name in fitting:
        kind, reason = _unsound(name, expected[name], given[name])
        if kind:
            differences.setdefault(kind, []).append(reason)
    lines = [f"\n  {len(found)} {kind}: {shortened(found)}" for kind, found in differences.items() if found]
    if lines:
        raise ValueError(f"{where} does not fit:" + "".join(lines))


def _unsound(name: str, expected: Tensor | Sequence[int], given: Tensor) -> tuple[str, str]:
    """What is wrong with the values of a tensor, as kind and detail; empty where nothing is."""
    dtype = expected.dtype if isinstance(expected, Tensor) else torch.float32
    if given.dtype.is_complex or given.dtype.is_floating_point != dtype.is_floating_point:
        return "of another type", f"{name} expected {dtype}, got {given.dtype}"
    if not dtype.is_floating_point:
        return "", ""
    values = given.to(dtype)
    wrong = int((~values.isfinite()).sum())
    if wrong:
        return "with NaN or infinities", f"{name} has {wrong:,} among {values.numel():,} numbers"
    if name.endswith("running_var") and bool((values < 0).any()):
        return "with negative variances", f"{name} has {int((values < 0).sum()):,} among {values.numel():,}"
    return "", ""


def shortened(items: Sequence[str]) -> str:
    """The items, separated by commas; of a long list the first eight and the number of the others."""
    most = 8
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: StrPath) -> bytes:
    """The bytes that `save_weights` writes; ``where`` opens the text of its ValueErrors."""
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "__metadata__" or tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "a reserved name" if name == "__metadata__" else f"{tensor.layout} on {tensor.device}"
            raise ValueError(f"{where}: tensor {name!r}: expected a dense tensor with values, got {kind}")
        # Contiguous, with storage of its own: safetensors refuses tensors that share memory.
        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor.detach())
    if wrong := {key: text for key, text in metadata.items() if not (type(key) is type(text) is str)}:
        raise ValueError(f"{where}: expected metadata of strings, got {wrong}")
    try:
        data = safetensors.torch.save(copies)
    except (KeyError, ValueError, SafetensorError) as error:
        dtypes = sorted({str(tensor.dtype) for tensor in copies.values()})
        raise ValueError(f"{where}: expected dtypes of safetensors, got {', '.join(dtypes)}: {error}") from error
    if not metadata:
        return data
    # safetensors writes metadata in an order that changes from process to process; the hash must not.
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def parse_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a whole safetensors file; ValueError where the bytes are none."""
    try:
        # The copy moves each tensor into torch's own aligned memory, so that kernels treat it like any other.
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(data).items()}
    except KeyError as error:  # of a dtype that PyTorch has no tensors of
        raise ValueError(f"unknown dtype {error}") from error
    except (AssertionError, SafetensorError, TypeError, OverflowError) as error:  # the last two: of sizes above 2**63
        raise ValueError((str(error) or repr(error)).splitlines()[0]) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def _looks_like(data: bytes) -> str:
    """Say what a file is that is not a whole safetensors file; asked only after parsing failed.

    A sound safetensors file may well begin with the two bytes of a pickle: they are the length of its header.
    """
    only = "hcnn reads safetensors only and never unpickles; convert it where you trust it"
    if data[8:9] == b"{":
        return f"is a damaged or truncated safetensors file ({len(data):,} bytes)"
    if data[:4] == b"PK\x03\x04":
        kind = "a torch.save archive (a zip file around a pickle)" if b"data.pkl" in data[:256] else "a zip file"
        return f"is {kind}; {only}"
    if data[:2] == b"\x80\x02" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in data[:32]:
        return f"is a torch.save archive (of the old kind, a pickle); {only}"
    if _is_pickle(data):
        return f"is a pickle; {only}"
    return f"is not a safetensors file ({len(data):,} bytes)"


def _is_pickle(data: bytes) -> bool:
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:  # protocols 0 and 1 have no signature; genops reads the opcodes and executes none
        return sum(1 for _ in pickletools.genops(io.BytesIO(data))) > 1
    except Exception:  # it raises many kinds of errors for bytes that are not a pickle
        return False
