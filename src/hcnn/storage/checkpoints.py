"""Checkpoints that a run resumes from, durable and verified.

Everything is safetensors or JSON; no pickle is ever opened. A checkpoint is two files in a run's
``checkpoints`` folder::

    step-000001234-0a1b2c3d4e5f6071.safetensors   the tensors; named after their SHA-256
    step-000001234.json                           the manifest, written last: it makes the checkpoint exist

Each is written under a temporary name, synced, renamed, and the folder synced, before the next; only then do
older checkpoints go, manifest before tensors. So whenever the process dies, every manifest on disk describes
a complete file. Saving a step again writes tensors of another name, so that the rename of the
manifest switches at once from the old ones to the new.

One process writes: rank 0 of a distributed group, holding the folder's `RunLock`. That is why a save may take
every temporary file it finds for the leftover of a dead writer and remove it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hcnn.storage.atomic import StrPath, leftovers, strict_json, sync_folder, write_atomically
from hcnn.storage.safetensors import parse_safetensors, safetensors_bytes

_FORMAT = "hcnn-checkpoint-1"
_MANIFEST = re.compile(r"step-(\d{9,})\.json")
_TENSORS = re.compile(r"step-(\d{9,})-[0-9a-f]{16}\.safetensors")


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
    if json.loads(strict_json(path, state)) != state:
        raise ValueError(f"{path}: expected a state that JSON gives back unchanged, got tuples or keys not str")
    data = safetensors_bytes(tensors, {}, path)
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
        sync_folder(home.parent)
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
            tensors, _ = parse_safetensors(data)
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
    step = body.get("step")
    if body.get("format") != _FORMAT or type(step) is not int or path.name != f"step-{body['step']:09d}.json":
        found = f"format {body.get('format')!r} and step {body.get('step')!r}"
        raise ValueError(f"the manifest says {found}; expected format {_FORMAT!r} and the step of its name")
    tensors = body.get("tensors")
    size, sha256 = (tensors.get(key) if isinstance(tensors, dict) else None for key in ("bytes", "sha256"))
    if type(size) is not int or not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("the manifest does not say how many bytes of tensors it describes, and their SHA-256")
    if not isinstance(body.get("state"), dict):
        raise ValueError("the manifest holds no state")
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
                "a resume would use the later one; remove it, or use another folder"
            )


def _is_valid(manifest: Path) -> bool:
    try:
        _verified(manifest)
    except (ValueError, OSError):  # what cannot be read is no checkpoint either, and must not end a run
        return False
    return True


def _remove_leftovers(home: Path) -> None:
    """Remove what a writer killed halfway left, before it costs the space that the next checkpoint needs."""
    described = {step for step, _ in _files(home, _MANIFEST)}
    _remove(path for name, path in leftovers(home) if name.startswith("step-"))
    _remove(path for step, path in _files(home, _TENSORS) if step not in described)


def _prune(home: Path, newest: Path, keep: int) -> None:
    """Remove every checkpoint except ``newest``, just written, and the next ``keep`` - 1 valid ones."""
    kept = {newest}
    for _, path in _files(home, _MANIFEST):
        if len(kept) < keep and path not in kept and _is_valid(path):
            kept.add(path)
    kept_bodies = [json.loads(path.read_bytes()) for path in kept]
    names = {_tensors_name(body["step"], body["tensors"]["sha256"]) for body in kept_bodies}
    # Manifests first, and durably: a crash in between leaves tensors without a manifest, never the reverse.
    _remove(path for _, path in _files(home, _MANIFEST) if path not in kept)
    sync_folder(home)
    _remove(path for _, path in _files(home, _TENSORS) if path.name not in names)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
