"""The lock of a run folder: one process writes into it, the one that holds its `RunLock`."""

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from typing import Self

from hcnn.storage.atomic import StrPath, name_failure

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


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
                raise name_failure(error, "while locking", path) from error
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
        if self._descriptor is not None:  # None in a forked child, whose parent still holds it
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
