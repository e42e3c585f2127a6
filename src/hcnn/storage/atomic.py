"""Files that survive a crash.

A file is written under a temporary name, synced, renamed, and its folder synced: whenever the process dies, the file
holds either the old bytes or the new.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

StrPath = str | os.PathLike[str]
_TEMPORARY = re.compile(r"\.(.+)\.tmp-\d+", re.DOTALL)


def write_atomically(path: StrPath, data: bytes) -> None:
    """Replace a file so that it always holds either the old bytes or the new, power cuts included.

    The permissions are those the umask gives to any new file. Not for two threads writing one path at once.

    Args:
        path: the file to write; its folder must exist.
        data: the whole content.

    Raises:
        OSError: with the errno of the failure, naming the path and the size; the previous file is intact
            and the temporary one, ``.NAME.tmp-PID`` with a name that may be shortened, is removed.

    """
    write_together({path: data})


def write_together(files: Mapping[StrPath, bytes]) -> None:
    """Replace files that belong to each other: no file is replaced before all of them have found room on the disk.

    Args:
        files: the whole content of each; their folders must exist.

    Raises:
        OSError: as `write_atomically` does. Only if a rename fails, files before it may be new.

    """
    made: list[tuple[Path, Path]] = []
    path, data = Path(), b""
    try:
        for name, data in files.items():
            path = Path(name)
            temporary = path.with_name(f".{_short_name(path)}.tmp-{os.getpid()}")
            # In a container a dead writer may well have had our process id: clear its leftover first.
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            made.append((temporary, path))
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for temporary, path in made:
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException as error:
        for temporary, _ in made:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise name_failure(error, f"while writing {len(data):,} bytes", path) from error
        raise


def leftovers(folder: Path) -> list[tuple[str, Path]]:
    """The temporary files that writers left when they were killed.

    They may be removed only where nothing else writes the files that they are for, as by the holder of a `RunLock`.

    Args:
        folder: where they are.

    Returns:
        The name of the file that each is for, if `write_atomically` did not shorten it, and its own path.

    """
    found = ((_TEMPORARY.fullmatch(path.name), path) for path in folder.iterdir())
    return [(match[1], path) for match, path in found if match]


def _short_name(path: Path) -> str:
    """The name of a file, or a digest of one so long that no room is left for what makes it a temporary name."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= 200 else hashlib.sha256(name).hexdigest()


def write_json(path: StrPath, obj: object) -> None:
    """Write strict JSON atomically: ASCII, indented by 2, keys in the order given, a newline at the end.

    Args:
        path: the file to write; its folder must exist.
        obj: dicts with string keys, lists, tuples (written as lists), strings, numbers, booleans, None.

    Raises:
        ValueError: where ``obj`` has something JSON does not (NaN and infinities among them).
        OSError: as `write_atomically` does.

    """
    write_atomically(path, (strict_json(path, obj, indent=2) + "\n").encode())


def ensure_writable(folder: StrPath) -> Path:
    """Create an output folder, and prove before hours of work that files can be written into it.

    Args:
        folder: the folder that a run will write into; its parents are created too.

    Returns:
        The folder.

    Raises:
        OSError: naming the folder and the reason (no folder, read-only, full, forbidden …); nothing is left behind.

    """
    folder = Path(folder)
    probe = folder / f".write-probe-{secrets.token_hex(4)}"  # another process may be asking, too
    made = _missing(folder)
    try:
        if any(path.is_symlink() for path in made):  # where a folder would be made, mkdir finds that a file exists
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(probe, b"hcnn asks whether this folder can be written\n")
        probe.unlink()
    except OSError as error:
        _remove_empty(made)
        raise name_failure(error, "(the output folder cannot be written)", folder) from error
    return folder


@contextlib.contextmanager
def output_folder(folder: StrPath) -> Iterator[Path]:
    """`ensure_writable` for a block: if it fails, the folders that were made for it and are empty go again.

    Args:
        folder: the folder that the block writes into.

    Yields:
        The folder.

    Raises:
        OSError: as `ensure_writable` does.

    """
    made = _missing(Path(folder))
    try:
        yield ensure_writable(folder)
    except BaseException:
        _remove_empty(made)
        raise


def _missing(folder: Path) -> list[Path]:
    """A folder and those above it that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        with contextlib.suppress(OSError):  # it holds something
            path.rmdir()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data to an open file."""
    rest = memoryview(data)
    while rest:  # os.write may take less than all of it: on a disk about to be full, or beyond 2 GiB
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
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


def name_failure(error: OSError, doing: str, path: Path) -> OSError:
    """Make the same OSError (class and errno) say what was being done to which path."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OSError(error.errno or errno.EIO, f"{reason} {doing}", str(path))


def strict_json(path: StrPath, obj: object, indent: int | None = None) -> str:
    """JSON text without NaN and infinities; ValueError, naming the path it is for, where that cannot be."""
    try:
        return json.dumps(obj, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected what strict JSON can hold; {error}") from error
