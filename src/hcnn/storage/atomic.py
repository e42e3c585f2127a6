"""Files that survive, and the lock and the log of a run folder.

A file is written under a temporary name, synced, renamed, and its folder synced: whenever the process dies, it holds
either the old bytes or the new. A log grows by whole lines. One process writes into a run folder, the one that holds
its `RunLock`.
"""

import contextlib
import errno
import json
import os
import socket
import sys
from pathlib import Path
from typing import Self

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

StrPath = str | os.PathLike[str]


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
        sync_folder(path.parent)
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
    write_atomically(path, (strict_json(path, obj, indent=2) + "\n").encode())


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


def _named(error: OSError, doing: str, path: Path) -> OSError:
    """Make the same OSError (class and errno) say what was being done to which path."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OSError(error.errno or errno.EIO, f"{reason} {doing}", str(path))


def strict_json(path: StrPath, obj: object, indent: int | None = None) -> str:
    """JSON text without NaN and infinities; ValueError, naming the path it is for, where that cannot be."""
    try:
        return json.dumps(obj, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected what strict JSON can hold; {error}") from error


# -------------------------------------------------------- the lock of a run folder


class RunFolderBusy(RuntimeError):
    """Another process holds the `RunLock` of this run folder."""


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
    line = (strict_json(path, obj) + "\n").encode()
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
    sync_folder(path.parent)
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
