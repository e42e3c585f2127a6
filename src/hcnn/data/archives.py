"""Untrusted archives: downloaded, verified by their hash, and read in memory.

An archive passes these checks, in this order, before any of its bytes is used as data:

1. A download is written under a temporary name, is limited in size, and gets its final name only if its MD5 is right.
2. An archive on disk is hashed as a whole each time it is read. One with a wrong hash is refused by name and left as
   it is.
3. Its members must be plain files inside the one folder that the archive is known to have. Each may occur once, and
   none may be larger than its limit. Members that are not on the list are not kept.

Nothing is ever extracted to disk, and nothing is ever unpickled.
"""

import contextlib
import gzip
import hashlib
import logging
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from hcnn.data.regular_files import open_regular, read_regular
from hcnn.storage.atomic import StrPath, output_folder
from hcnn.storage.user_paths import user_path

Progress = Callable[[int, int], None]

_UNLISTED_LIMIT = 1 << 20  # bytes; a readme beside the data
_OVERHEAD = 16 << 20  # bytes; tar headers, padding and unlisted members
_TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class ArchiveSpec:
    """What a tar.gz archive must be before it is read.

    Args:
        name: the usual name of the data.
        url: where it is published; the last part is the name of the file.
        md5: MD5 of the whole file, in hexadecimal.
        size: maximum size of a download in bytes.
        folder: the one folder that contains all members.
        members: the members to read, each with its maximum size in bytes.

    Example:
        >>> spec = ArchiveSpec("toy", "https://example.org/toy.tar.gz", "0" * 32, 100, "toy", (("a.bin", 9),))
        >>> spec.file
        'toy.tar.gz'

    """

    name: str
    url: str
    md5: str
    size: int
    folder: str
    members: tuple[tuple[str, int], ...]

    @property
    def file(self) -> str:
        """Name of the archive file."""
        return self.url.rsplit("/", 1)[-1]


def cache_folder(data_dir: StrPath | None = None) -> Path:
    """The folder for data: `data_dir`, else the environment variable HCNN_DATA, else ``~/.cache/hcnn``.

    Args:
        data_dir: the folder to use, if it is given.

    Returns:
        The folder, which need not exist yet.

    Example:
        >>> cache_folder("somewhere").name
        'somewhere'

    """
    return user_path(data_dir or os.environ.get("HCNN_DATA") or "~/.cache/hcnn")


def fetch(spec: ArchiveSpec, folder: StrPath, *, progress: Progress | None = None) -> Path:
    """Download an archive into `folder`, unless a file with its name is already there.

    An existing file is returned as it is; `read_members` verifies it. A download that fails, is cut off, exceeds
    `spec.size` or has a wrong hash leaves nothing behind.

    Args:
        spec: the archive.
        folder: where to put it; created if it is missing.
        progress: called with the number of bytes read so far and the total (0 if the site does not say).

    Returns:
        Path of the archive.

    Raises:
        ConnectionError: if the site cannot be reached; the message says which file to put where.
        ValueError: if what was downloaded is not the archive.
        ImportError: if pooch is not installed.

    """
    path = Path(folder) / spec.file
    if path.exists():
        return path
    by_hand = f"Put {spec.file} (MD5 {spec.md5}) or its folder {spec.folder} into {path.parent} and run again"
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError(f"downloading {spec.name} needs pooch: pip install 'hcnn[data]'. {by_hand}") from error

    def download(url: str, output: StrPath, _: object) -> None:
        # Pooch's own downloader has no size limit and leaves its connection open when it fails.
        with requests.get(url, stream=True, timeout=_TIMEOUT) as response, Path(output).open("wb") as file:
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0))
            for chunk in response.iter_content(1 << 16):
                if file.tell() + len(chunk) > spec.size:
                    raise ValueError(f"{url} sends more than the {spec.size:,} bytes expected")
                file.write(chunk)
                if progress:
                    progress(file.tell(), total)

    try:
        with output_folder(path.parent), _quiet(pooch.get_logger()):
            pooch.retrieve(spec.url, f"md5:{spec.md5}", spec.file, path.parent, downloader=cast(Any, download))
    except requests.RequestException as error:
        raise ConnectionError(f"{spec.name}: could not download {spec.url} ({error}). {by_hand}") from error
    except ValueError as error:
        raise ValueError(f"{spec.name}: the download was refused and not kept. {error}. {by_hand}") from error
    return path


def read_members(path: StrPath, spec: ArchiveSpec) -> dict[str, bytes]:
    """Verify an archive and read the members of `spec` into memory.

    Args:
        path: the archive.
        spec: its description.

    Returns:
        The bytes of each member, by name.

    Raises:
        ValueError: if the hash is wrong, or the archive is cut off, or a member is a link or a device, lies
            outside the folder, occurs twice, is too large or is missing. The message names the file and the member.

    """
    limits, found = dict(spec.members), {}
    total = sum(limits.values()) + _OVERHEAD
    with open_regular(path) as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
        if actual != spec.md5:
            raise ValueError(
                f"{path}: expected {spec.file} with MD5 {spec.md5}; got MD5 {actual} over {file.tell():,} bytes. "
                "The file is truncated or altered: it was not read; remove it to download it again"
            )
        file.seek(0)
        try:
            with gzip.GzipFile(fileobj=file) as plain:
                limited: Any = _Limited(plain, total, f"{path}: unpacks to more than the {total:,} bytes expected")
                # A stream, so that headers are judged one by one, before what follows them is read.
                with tarfile.open(fileobj=limited, mode="r|") as archive:
                    for member in archive:
                        name = _judge(member, spec, path)
                        if name in found:
                            raise ValueError(f"{path}: member {member.name!r} comes twice; expected it once")
                        if name in limits and (content := archive.extractfile(member)) is not None:
                            found[name] = content.read()
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: expected a whole tar.gz archive; reading it failed: {error}") from error
    if missing := [name for name in limits if name not in found]:
        raise ValueError(f"{path}: expected members {', '.join(limits)} in {spec.folder}/; missing: {missing}")
    return found


def read_layout(spec: ArchiveSpec, data_dir: StrPath | None = None) -> tuple[Path, dict[str, bytes]]:
    """Read the members of `spec` from an unpacked folder if there is one, else from the archive.

    The archive is downloaded if it is missing. Unpacked folders are looked for in `data_dir` itself and under
    ``data_dir/{spec.folder}``, and used without verification.

    Args:
        spec: the archive.
        data_dir: the folder of `cache_folder`.

    Returns:
        The folder or archive that was read, and the bytes of each member by name.

    Raises:
        ValueError: if the folder or the archive is not what `spec` describes; the message names the file.
        ConnectionError: if nothing is there and the site cannot be reached.
        ImportError: if nothing is there and pooch is not installed.

    """
    root = cache_folder(data_dir)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root}: expected a folder of data sets; it is a file")
    for folder in (root, root / spec.folder):
        missing = [name for name, _ in spec.members if not (folder / name).is_file()]
        if not missing:
            return folder, {name: read_regular(folder / name, limit) for name, limit in spec.members}
        if folder != root and folder.is_dir():
            raise ValueError(f"{folder}: expected the files of {spec.file}; missing: {', '.join(missing)}")
    archive = fetch(spec, root)
    return archive, read_members(archive, spec)


# ------------------------------------------------------------------------------------------------------ details


class _Limited:
    """Passes reads on, and raises an error after more than `limit` bytes."""

    def __init__(self, file: gzip.GzipFile, limit: int, complaint: str):
        self.file, self.left, self.complaint = file, limit, complaint

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(self.complaint)
        return data


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Stop a logger from writing to the terminal: a library prints nothing."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _judge(member: tarfile.TarInfo, spec: ArchiveSpec, path: StrPath) -> str | None:
    """Name of a member inside the folder of `spec`, or None for a folder; ValueError if it is not allowed."""
    where = f"{path}: member {member.name!r}"
    parts = PurePosixPath(member.name).parts  # a leading ./ is gone
    if member.name.startswith("/") or ".." in parts or parts[:1] != (spec.folder,):
        raise ValueError(f"{where} lies outside the folder; expected every member in {spec.folder}/")
    if member.isdir():
        return None
    if member.issym() or member.islnk():
        raise ValueError(f"{where} is a link to {member.linkname!r}; expected plain files only")
    # A sparse file claims a size that has nothing to do with its bytes in the archive.
    if not member.isreg() or member.issparse():
        raise ValueError(f"{where} is a device or a sparse file; expected plain files only")
    name = "/".join(parts[1:])
    limit = dict(spec.members).get(name, _UNLISTED_LIMIT)
    if member.size > limit:
        raise ValueError(f"{where} claims {member.size:,} bytes; expected at most {limit:,}")
    return name
