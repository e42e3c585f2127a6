"""The log of a run: it grows by whole lines, and is cut back to the size that a checkpoint recorded."""

import contextlib
import os
from pathlib import Path

from hcnn.storage.atomic import StrPath, name_failure, strict_json, sync_folder, write_all


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
            write_all(descriptor, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise name_failure(error, f"while appending {len(line):,} bytes", Path(path)) from error
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
        raise name_failure(error, "while syncing", path) from error
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
