"""Files of arrays, .npy and .npz: judged by their headers before memory is taken, and never unpickled."""

import math
import os
import struct
import zipfile
import zlib
from typing import IO

import numpy as np

from hcnn.data.regular_files import open_regular
from hcnn.storage.atomic import StrPath

_KINDS = "buifcSU"  # of NumPy's data types: truth values, numbers and text
_ROOM, _RATIO = 1 << 30, 100  # an archive may unpack to a GiB, or to this many times its size
_DAMAGE = (ValueError, EOFError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
           struct.error, OverflowError)  # fmt: skip


def read_npy(path: StrPath) -> np.ndarray:
    """Read an .npy file, after checking that it holds as many numbers as its header says.

    Args:
        path: a file that `numpy.save` wrote.

    Returns:
        The array.

    Raises:
        ValueError: if the file is not a regular file, is cut off, claims more than it holds, holds objects (which are
            pickles) or is something else; names the file.
        OSError: if it does not exist or cannot be read.

    """
    with open_regular(path) as file:
        try:
            return _read_array(file, os.fstat(file.fileno()).st_size)
        except _DAMAGE as error:
            raise ValueError(f"{path}: expected a .npy array of numbers; {str(error)[:200]}") from error


def read_npz(path: StrPath) -> dict[str, np.ndarray]:
    """Read every array of an .npz file.

    Args:
        path: a file that `numpy.savez` or `numpy.savez_compressed` wrote.

    Returns:
        The arrays by name.

    Raises:
        ValueError: if the file is a pickle, holds object arrays (which are pickles), is cut off, unpacks to more
            than a GiB and more than 100 times its size, or is something else; names the file and the array.
        OSError: if it does not exist or cannot be read.

    """
    arrays: dict[str, np.ndarray] = {}
    name = "?"
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path}: expected an .npz file of arrays; it is truncated or something else (a pickle?)")
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                size, limit = os.fstat(file.fileno()).st_size, sum(member.file_size for member in members)
                if limit > max(_ROOM, _RATIO * size):
                    raise ValueError(
                        f"the {size:,} bytes claim to unpack to {limit:,}; expected at most {_RATIO} times"
                    )
                for member in members:
                    name = member.filename.removesuffix(".npy")
                    if name in arrays:
                        raise ValueError("it comes twice")
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError("expected it stored or deflated, as numpy.savez writes it")
                    with archive.open(member) as content:
                        arrays[name] = _read_array(content, member.file_size)
        except _DAMAGE as error:
            raise ValueError(
                f"{path}: expected plain arrays, no pickles; array {name[:100]!r} was refused: {str(error)[:200]}"
            ) from error
    return arrays


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a file, or of a member of an archive, of that many bytes."""
    form = np.lib.format
    if not size:  # as files of /proc say of themselves, of which some would make a reader wait
        raise ValueError("it is empty")
    try:
        version = form.read_magic(file)
    except ValueError as error:
        raise ValueError("it is not in the .npy format") from error
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected version 1.0 or 2.0 of the .npy format; got {version[0]}.{version[1]}")
    try:
        shape, _, dtype = (form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0)(file)
    except Exception as error:  # Python's tokenizer and parser see the header: they raise TokenError, MemoryError, …
        raise ValueError(f"its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickles")
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise ValueError(f"expected numbers or text; got {dtype}")
    if min(shape, default=0) < 0:
        raise ValueError(f"its header claims shape {shape}")
    needed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed > there:
        raise ValueError(f"its header claims shape {shape} of {dtype}, {needed:,} bytes; {there:,} follow")
    file.seek(0)
    return form.read_array(file, allow_pickle=False)
