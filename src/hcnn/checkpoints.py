"""Files that survive: atomic writes, weights, checkpoints, the lock and the log of a run folder.

Everything is safetensors or JSON; no pickle is ever opened. A checkpoint is two files in a run's
``checkpoints`` folder::

    step-000001234-0a1b2c3d4e5f6071.safetensors   the tensors; named after their SHA-256
    step-000001234.json                           the manifest, written last: it makes the checkpoint exist

Each is written under a temporary name, synced, renamed, and the folder synced, before the next; only then do
older checkpoints go, manifest before tensors. So whenever the process dies, every manifest on disk describes
a file that is there whole. Saving a step again writes tensors of another name, so that the rename of the
manifest switches at once from the old ones to the new.

One process writes: rank 0 of a distributed group, holding the folder's `RunLock`. That is why a save may take
every temporary file it finds for the leftover of a dead writer and remove it.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import pickletools
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

StrPath = str | os.PathLike[str]

_FORMAT = "hcnn-checkpoint-1"
_MANIFEST = re.compile(r"step-(\d{9,})\.json")
_TENSORS = re.compile(r"step-(\d{9,})-[0-9a-f]{16}\.safetensors")
_TEMPORARY = re.compile(r"\.step-.*\.tmp-\d+")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A complete, verified checkpoint: step, tensors (on the CPU), state, and the path of its manifest."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that was not used: the file at fault, and the reason in words."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class RunFolderBusy(RuntimeError):
    """Another process holds the `RunLock` of this run folder."""


# -------------------------------------------------------------------- atomic files


def write_atomically(path: StrPath, data: bytes) -> None:
    """Replace a file so that it always holds either the old bytes or the new, power cuts included.

    The permissions are those the umask gives to any new file. Not for two threads writing one path at once.

    Args:
        path: the file to write; its folder must exist.
        data: the whole content.

    Raises:
        OSError: with the errno of the failure, naming the path and the size; the previous file is intact
            and the temporary one, ``.NAME.tmp-PID``, is removed.

    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        # In a container a dead writer may well have had our process id: clear its leftover first.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _named(error, f"while writing {len(data):,} bytes", path) from error
        raise


def write_json(path: StrPath, obj: object) -> None:
    """Write strict JSON atomically: ASCII, indented by 2, keys in the order given, a newline at the end.

    Args:
        path: the file to write; its folder must exist.
        obj: dicts with string keys, lists, tuples (written as lists), strings, numbers, booleans, None.

    Raises:
        ValueError: where ``obj`` has something JSON does not (NaN and infinities among them).
        OSError: as `write_atomically` does.

    """
    write_atomically(path, (_strict_json(path, obj, indent=2) + "\n").encode())


def ensure_writable(folder: StrPath) -> Path:
    """Create an output folder, and prove before hours of work that files can be written into it.

    Args:
        folder: the folder that a run will write into; its parents are created too.

    Returns:
        The folder.

    Raises:
        OSError: naming the folder and the reason (no folder, read-only, full, forbidden …).

    """
    folder = Path(folder)
    probe = folder / ".write-probe"
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(probe, b"hcnn asks whether this folder can be written\n")
        probe.unlink()
    except OSError as error:
        raise _named(error, "(the output folder cannot be written)", folder) from error
    return folder


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # os.write may take less than all of it: on a disk about to be full, or beyond 2 GiB
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable, where folders can be opened at all (not on Windows)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no sync of a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _named(error: OSError, doing: str, path: Path) -> OSError:
    """Make the same OSError (class and errno) say what was being done to which path."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OSError(error.errno or errno.EIO, f"{reason} {doing}", str(path))


def _strict_json(path: StrPath, obj: object, **options: Any) -> str:
    try:
        return json.dumps(obj, allow_nan=False, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected what strict JSON can hold; {error}") from error


# ------------------------------------------------------------------------- weights


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
    data = _safetensors_bytes(tensors, metadata, path)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


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
        return _parse_safetensors(data)
    except ValueError as error:
        raise ValueError(f"{path} {_looks_like(data)}: {error}") from error


def match_state(expected: Mapping[str, Tensor | Sequence[int]], given: Mapping[str, Tensor], where: str) -> None:
    """Check that given tensors have the names and shapes of the expected ones.

    Args:
        expected: a tensor, or its shape, by name.
        given: the tensors that came.
        where: what they are and where from; it opens the error text.

    Raises:
        ValueError: listing the keys that are missing, extra, or of another shape.

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
    lines = [f"\n  {len(found)} {kind}: {_shortened(found)}" for kind, found in differences.items() if found]
    if lines:
        raise ValueError(f"{where} does not fit:" + "".join(lines))


def _shortened(items: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def _safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: StrPath) -> bytes:
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


def _parse_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        # The copy moves each tensor into torch's own aligned memory, so that kernels treat it like any other.
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(data).items()}
    except (KeyError, AssertionError, SafetensorError) as error:
        raise ValueError(str(error)) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def _looks_like(data: bytes) -> str:
    """Say what a file is that is no whole safetensors file; asked only after parsing failed.

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
    return f"is no safetensors file ({len(data):,} bytes)"


def _is_pickle(data: bytes) -> bool:
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:  # protocols 0 and 1 have no signature; genops reads the opcodes and executes none
        return sum(1 for _ in pickletools.genops(io.BytesIO(data))) > 1
    except Exception:  # it raises many kinds on what is no pickle, all of which mean just that
        return False


# --------------------------------------------------------- state as tensors + JSON


def flatten_state(obj: object) -> tuple[dict[str, Tensor], Any]:
    """Split nested state, such as ``optimizer.state_dict()``, into tensors and a tree of strict JSON.

    JSON has no tuples, no integer keys, no infinities: ``$tuple``, ``$dict`` and ``$float`` stand for them.
    Tensors are named by their path, and not copied. An ``OrderedDict`` comes back as a dict, a tensor that
    stands in two places as two of equal content.

    Args:
        obj: dicts (keys: str, int), lists, tuples, str, int, float, bool, None, tensors, nested at will.

    Returns:
        The tensors by name, and the tree that refers to them.

    Raises:
        ValueError: for any other type, with its path. NumPy scalars, enums and named tuples are other types:
            they would not come back as they were.

    >>> tensors, tree = flatten_state({"betas": (0.9, 0.95), "state": {0: {"mean": torch.zeros(2)}}})
    >>> list(tensors), tree["state"]
    (['state/0/mean'], {'$dict': [[0, {'mean': {'$tensor': 'state/0/mean'}}]]})
    >>> unflatten_state(tensors, tree)
    {'betas': (0.9, 0.95), 'state': {0: {'mean': tensor([0., 0.])}}}

    """
    tensors: dict[str, Tensor] = {}

    def encode(node: object, path: str) -> Any:
        if node is None or type(node) in (bool, int, str):
            return node
        if type(node) is float:
            return node if math.isfinite(node) else {"$float": repr(node)}
        if isinstance(node, Tensor):
            name = path or "value"
            while name in tensors:  # the keys 0 and "0", or "a/b" and "a" then "b", give one path
                name += "'"
            tensors[name] = node
            return {"$tensor": name}
        if isinstance(node, list | tuple) and type(node) in (list, tuple):
            items = [encode(item, _below(path, index)) for index, item in enumerate(node)]
            return items if type(node) is list else {"$tuple": items}
        if isinstance(node, dict) and type(node) in (dict, OrderedDict):
            for key in node:
                if type(key) not in (str, int):
                    raise ValueError(f"state at {path or '/'}: expected keys of str or int, got {key!r}")
            pairs = [[key, encode(value, _below(path, key))] for key, value in node.items()]
            plain = all(type(key) is str and not key.startswith("$") for key in node)
            return dict(pairs) if plain else {"$dict": pairs}
        raise ValueError(
            f"state at {path or '/'}: expected dict, list, tuple, str, int, float, bool, None or Tensor, "
            f"got {type(node).__module__}.{type(node).__qualname__}"
        )

    return tensors, encode(obj, "")


def unflatten_state(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Put together again what `flatten_state` took apart, exactly.

    Args:
        tensors: the tensors by name; names the tree does not refer to are left alone.
        tree: the JSON tree.

    Returns:
        The nested state.

    Raises:
        ValueError: where the tree refers to a tensor that is not there, or has an unknown ``$`` tag.

    """
    if isinstance(tree, list):
        return [unflatten_state(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    match tree:
        case {"$float": str(text)}:
            return float(text)
        case {"$tuple": list(items)}:
            return tuple(unflatten_state(tensors, item) for item in items)
        case {"$dict": list(pairs)}:
            return {key: unflatten_state(tensors, value) for key, value in pairs}
        case {"$tensor": str(name)}:
            if name not in tensors:
                raise ValueError(f"state: expected a tensor named {name!r}, got {_shortened(list(tensors))}")
            return tensors[name]
    if unknown := [key for key in tree if key.startswith("$")]:
        raise ValueError(f"state: expected $float, $tuple, $dict or $tensor, got {_shortened(unknown)}")
    return {key: unflatten_state(tensors, value) for key, value in tree.items()}


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


# --------------------------------------------------------------------- checkpoints


def save_checkpoint(
    folder: StrPath, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any], keep: int = 2
) -> Path:
    """Write a checkpoint durably, then remove what is not among the newest ``keep`` valid ones.

    To be called by rank 0 only, holding the folder's `RunLock`. The older ones kept are read again and
    verified, so that a damaged file never counts as the spare; damaged checkpoints go with the old ones.

    Args:
        folder: the run folder; the files go into its ``checkpoints``.
        step: the step this is the state after; saving a step again replaces it.
        tensors: as for `save_weights`.
        state: strict JSON: dicts with string keys, lists (no tuples), finite numbers (see `flatten_state`).
        keep: how many checkpoints stay, this one included; at least 1.

    Returns:
        The path of the manifest.

    Raises:
        ValueError: for a step or ``keep`` out of range, a state that JSON changes, a tensor that
            safetensors cannot hold, or a valid checkpoint of a later step, which a resume would prefer.
        OSError: as `write_atomically` does; the previous checkpoints are intact.

    """
    if type(step) is not int or step < 0 or keep < 1:
        raise ValueError(f"{folder}: expected step ≥ 0 and keep ≥ 1, got step={step!r} and keep={keep!r}")
    home = Path(folder) / "checkpoints"
    path = home / f"step-{step:09d}.json"
    if json.loads(_strict_json(path, state)) != state:
        raise ValueError(f"{path}: expected a state that JSON gives back unchanged, got tuples or keys not str")
    data = _safetensors_bytes(tensors, {}, path)
    sha256 = hashlib.sha256(data).hexdigest()
    manifest = _sealed(
        {
            "format": _FORMAT,
            "step": step,
            "tensors": {"file": _tensors_name(step, sha256), "bytes": len(data), "sha256": sha256},
            "state": state,
        }
    )
    if not home.is_dir():
        home.mkdir(parents=True)
        _sync_folder(home.parent)
    _refuse_later(home, step)
    _remove_leftovers(home)

    tensors_path = home / _tensors_name(step, sha256)
    try:
        write_atomically(tensors_path, data)
        write_atomically(path, manifest)
    except OSError:
        if not path.exists():  # a manifest already there may describe these very tensors
            tensors_path.unlink(missing_ok=True)
        raise
    _prune(home, newest=path, keep=keep)
    return path


def load_newest(folder: StrPath) -> tuple[Checkpoint | None, list[Rejected]]:
    """Find the newest checkpoint that is whole, checking every byte of it, and say which newer ones are not.

    To be called while no other process saves into the folder (all ranks at the start of a run may call it).

    Args:
        folder: the run folder.

    Returns:
        The checkpoint, None where there is no valid one; and what is newer but truncated, altered, incomplete
        or unreadable, newest first.

    """
    home = Path(folder) / "checkpoints"
    manifests = _files(home, _MANIFEST)
    described = {step for step, _ in manifests}
    unfinished = [(step, path) for step, path in _files(home, _TENSORS) if step not in described]
    rejected: list[Rejected] = []
    for step, path in sorted(manifests + unfinished, reverse=True):
        if step not in described:
            rejected.append(Rejected(path, "it has no manifest, so its writing was not finished"))
            continue
        try:
            body, data = _verified(path)
            tensors, _ = _parse_safetensors(data)
        except (ValueError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
            continue
        return Checkpoint(step, tensors, body["state"], path), rejected
    return None, rejected


def _tensors_name(step: int, sha256: str) -> str:
    return f"step-{step:09d}-{sha256[:16]}.safetensors"


def _sealed(body: Mapping[str, Any]) -> bytes:
    """Write out a manifest, with a SHA-256 over its own content."""
    content = json.dumps(body, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    sealed = {**body, "sha256": hashlib.sha256(content).hexdigest()}
    return (json.dumps(sealed, allow_nan=False, indent=1) + "\n").encode()


def _verified(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a manifest and the bytes of its tensors; ValueError where either is not as it was written."""
    raw = path.read_bytes()
    try:
        body = json.loads(raw)
        body.pop("sha256")
        # Byte for byte, so that not even a change that means the same in JSON (1e-05, 1E-05) passes.
        intact = _sealed(body) == raw
    except (ValueError, KeyError, AttributeError, TypeError):
        intact = False
        body = {}
    if not intact:
        raise ValueError(f"the manifest ({len(raw):,} bytes) does not match its own SHA-256: truncated or altered")
    if body.get("format") != _FORMAT or path.name != f"step-{body['step']:09d}.json":
        found = f"format {body.get('format')!r} and step {body.get('step')!r}"
        raise ValueError(f"the manifest says {found}; expected format {_FORMAT!r} and the step of its name")
    size, sha256 = body["tensors"]["bytes"], body["tensors"]["sha256"]
    name = _tensors_name(body["step"], sha256)
    try:
        data = (path.parent / name).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"its tensors {name} are missing") from None
    if len(data) != size:
        raise ValueError(f"its tensors {name} should have {size:,} bytes and have {len(data):,}")
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"its tensors {name} should have SHA-256 {sha256} and have {found}: altered")
    return body, data


def _files(home: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    """List the files of a name pattern with their steps, newest first."""
    if not home.is_dir():
        return []
    matches = [(pattern.fullmatch(path.name), path) for path in home.iterdir()]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _refuse_later(home: Path, step: int) -> None:
    for later, path in _files(home, _MANIFEST):
        if later > step and _is_valid(path):  # a damaged one is no rival: load_newest would reject it too
            raise ValueError(
                f"expected a step after {later}, whose checkpoint {path} is valid, got step {step}: "
                "a resume would go on from the later one; remove it, or use another folder"
            )


def _is_valid(manifest: Path) -> bool:
    try:
        _verified(manifest)
    except ValueError:
        return False
    return True


def _remove_leftovers(home: Path) -> None:
    """Remove what a writer killed halfway left, before it costs the space that the next checkpoint needs."""
    described = {step for step, _ in _files(home, _MANIFEST)}
    _remove(path for path in home.iterdir() if _TEMPORARY.fullmatch(path.name))
    _remove(path for step, path in _files(home, _TENSORS) if step not in described)


def _prune(home: Path, newest: Path, keep: int) -> None:
    """Remove every checkpoint except ``newest``, just written, and the next ``keep`` - 1 valid ones."""
    kept = {newest}
    for _, path in _files(home, _MANIFEST):
        if len(kept) < keep and path not in kept and _is_valid(path):
            kept.add(path)
    names = {json.loads(path.read_bytes())["tensors"]["file"] for path in kept}
    # Manifests first, and durably: a crash in between leaves tensors without a manifest, never the reverse.
    _remove(path for _, path in _files(home, _MANIFEST) if path not in kept)
    _sync_folder(home)
    _remove(path for _, path in _files(home, _TENSORS) if path.name not in names)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


# -------------------------------------------------------- the lock of a run folder


class RunLock:
    """Holds a run folder for one process, as a context manager; a second run in the folder is refused.

    The lock is the kernel's, on ``folder/.lock``, so a holder that is killed frees it; the file stays.
    It is never inherited: not across exec, and forked children (data loader workers) close it, so that one
    which outlives its killed parent does not keep the folder busy. On Windows ``msvcrt`` locks it.

    Args:
        folder: the run folder; it must exist.

    Raises:
        RunFolderBusy: on entry, naming the folder, and the process and host that hold it.
        OSError: on entry, where the file cannot be created or the file system has no locks.

    """

    _held: "set[RunLock]" = set()  # noqa: RUF012 - what the fork hook has to close, for the whole process

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        path = self.folder / ".lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # Python opens it close-on-exec
        try:
            _lock(descriptor)
        except OSError as error:
            holder = "" if sys.platform == "win32" else os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _named(error, "while locking", path) from error
            holder = holder or "a process that did not say which"
            raise RunFolderBusy(
                f"{self.folder}: another run holds this folder: {holder}; wait for it, stop it, or use another folder"
            ) from None
        self._descriptor = descriptor
        self._held.add(self)
        with contextlib.suppress(OSError):  # who holds it is a courtesy; a full disk must not lose the lock for it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:  # None in a forked child, whose parent goes on holding it
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self._close()
            self._held.discard(self)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # not unlock: that would free the parent's lock from a forked child
            self._descriptor = None

    @classmethod
    def _close_in_child(cls) -> None:
        for lock in cls._held:
            lock._close()
        cls._held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=RunLock._close_in_child)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # Windows locks bytes; this one is beyond any content
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        # flock, not lockf: a lockf lock vanishes once any part of the process opens and closes the file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---------------------------------------------------------------- the log of a run


def append_line(path: StrPath, obj: object) -> int:
    """Append one line of strict JSON to a log, whole or not at all.

    Args:
        path: the JSONL file; created where it is missing.
        obj: as for `write_json`.

    Returns:
        The size of the log after the line, in bytes.

    Raises:
        ValueError: where ``obj`` has something JSON does not.
        OSError: naming the path and the size of the line; what was written of it is cut off again.

    """
    line = (_strict_json(path, obj) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise _named(error, f"while appending {len(line):,} bytes", Path(path)) from error
    finally:
        os.close(descriptor)
    return size + len(line)


def sync_log(path: StrPath) -> int:
    """Make all of a log durable, which it must be before a checkpoint records its size.

    Args:
        path: the JSONL file; one that does not exist yet has size 0.

    Returns:
        Its size in bytes: what to keep in the checkpoint's state, for `truncate_log`.

    Raises:
        OSError: naming the path, where it cannot be synced.

    """
    path = Path(path)
    if not path.exists():
        return 0
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
    except OSError as error:
        raise _named(error, "while syncing", path) from error
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)
    return size


def truncate_log(path: StrPath, size: int) -> None:
    """Cut a log back, durably, to the size the checkpoint recorded, so that a resumed run repeats no line.

    Args:
        path: the JSONL file; it may be missing where ``size`` is 0.
        size: the recorded size in bytes.

    Raises:
        ValueError: naming the file and both sizes, where the log is shorter; and where no line ends at
            ``size``, so that it is not the log that was recorded.
        OSError: where it cannot be written.

    """
    path = Path(path)
    found = path.stat().st_size if path.exists() else 0
    if size < 0 or found < size:
        raise ValueError(f"{path}: expected a log of at least {size:,} bytes, as the checkpoint says, found {found:,}")
    if not path.exists():
        return
    with path.open("r+b") as log:
        log.seek(max(size - 1, 0))
        if size and log.read(1) != b"\n":
            raise ValueError(f"{path}: expected a line to end at byte {size:,}, as the checkpoint says; none does")
        log.truncate(size)
        log.flush()
        os.fsync(log.fileno())
