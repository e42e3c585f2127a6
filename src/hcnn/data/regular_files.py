"""Opening files that come from outside: regular files only, so that nothing waits and nothing is set in motion."""

import os
import stat
from io import BufferedReader

from hcnn.storage.atomic import StrPath

MAX_BYTES = 1 << 29  # of an image file: 64 megapixels of 16-bit RGB, uncompressed, and some room

_CLUTTER = {"thumbs.db", "desktop.ini"}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: StrPath) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Opening a named pipe waits for a writer, and opening a device can have effects. What the path names is therefore
    looked at before it is opened, and again afterwards, in case it was exchanged in between.

    Args:
        path: the file.

    Returns:
        The open file.

    Raises:
        ValueError: if the path names something else, or cannot be a path; says what.
        OSError: if it does not exist or cannot be opened.

    """
    name = os.fspath(path)
    if "\0" in name:
        raise ValueError(f"{name!r}: expected a path; it holds a zero byte")
    _check(os.stat(name), name)  # noqa: PTH116 - a Path each would be most of the memory of a long list
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(name, flags), "rb")
    try:
        _check(os.fstat(file.fileno()), name)
    except ValueError:
        file.close()
        raise
    return file


def read_regular(path: StrPath, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file.

    Args:
        path: the file.
        limit: most bytes that it may have.

    Returns:
        Its content.

    Raises:
        ValueError: if it is not a regular file or is larger.
        OSError: if it does not exist or cannot be read.

    Example:
        >>> read_regular(os.devnull)
        Traceback (most recent call last):
        ValueError: /dev/null: expected a regular file; it is a device

    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise ValueError(f"{path}: expected at most {limit:,} bytes; got {size:,}")
        data: bytes | None = file.read(limit + 1)  # more than 0: files of /proc say that they are empty
    if data is None:
        raise ValueError(f"{path}: expected a regular file; reading this one would wait")
    if len(data) > limit:
        raise ValueError(f"{path}: expected at most {limit:,} bytes; it has more")
    return data


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of this name is passed over: it begins with a dot, or an operating system made it."""
    return name.startswith(".") or name.lower() in _CLUTTER


def _check(status: os.stat_result, name: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"{name}: expected a regular file; it is {_KINDS.get(kind, 'something else')}")
