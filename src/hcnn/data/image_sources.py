"""Finding images in files, folders, lists of paths and standard input, one after the other and none of them read."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnn.data.image_files import SUFFIXES
from hcnn.data.regular_files import MAX_BYTES, is_hidden

if TYPE_CHECKING:
    from PIL.Image import Image

_SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")
_LONGEST_PATH = 1 << 16  # bytes


@dataclass(frozen=True)
class ImageSource:
    """An image that has not been read yet.

    Attributes:
        name: its path, or "-".
        data: its bytes, if they came from standard input or in memory; or a Pillow image.
        problem: why it cannot be read, if that is known already.
    """

    name: str
    data: "bytes | Image | None" = None
    problem: str = ""


@dataclass
class ImageSources(Iterator[ImageSource]):
    """The images that were found, in order, and how many files were passed over on the way.

    Attributes:
        found: the images that are still to come.
        left_out: number of files that are not images, by suffix; complete when the last image has come.
    """

    found: Iterator[ImageSource]
    left_out: Counter[str] = field(default_factory=Counter)

    def __next__(self) -> ImageSource:
        return next(self.found)

    def describe_left_out(self) -> str:
        """A sentence about the files that were passed over, or nothing if there were none.

        Example:
            >>> ImageSources(iter(()), Counter({".txt": 2, "": 1})).describe_left_out()
            'left out 3 files that are not images: 2 .txt, 1 without a suffix'
        """
        if not self.left_out:
            return ""
        kinds = ", ".join(f"{n} {suffix or 'without a suffix'}" for suffix, n in self.left_out.most_common(10))
        more = ", …" if len(self.left_out) > 10 else ""
        total = self.left_out.total()
        what = "file that is not an image" if total == 1 else "files that are not images"
        return f"left out {total:,} {what}: {kinds}{more}"


def find_images(arguments: Sequence[Path], stdin: Any) -> ImageSources:
    """The images that the arguments of `hcnn predict` mean.

    Links are followed, also out of the folder that they lie in. A folder that is reached a second time, by a link
    that loops or by two links, is not searched again.

    Args:
        arguments: files; folders, searched through in the order of names for images and arrays; "-" for standard
            input, which holds an image, or a path on each line.
        stdin: standard input, an `io.BufferedReader`, read as it comes.

    Returns:
        Where to find each image.

    Raises:
        ValueError: at once if an argument does not exist, or nothing is found.

    """
    if not arguments:
        raise ValueError("predict: expected image files, folders, or - for standard input; got none")
    for path in arguments:
        if str(path) != "-" and not path.exists():
            raise ValueError(f"{path}: no such file or folder")
    sources = ImageSources(iter(()))
    found = chain.from_iterable(_images_of(path, stdin, sources.left_out) for path in arguments)
    first = next(found, None)
    if first is None:
        names = ", ".join(map(str, arguments))
        passed = sources.describe_left_out()
        raise ValueError(f"{names}: expected images ({', '.join(SUFFIXES)}) or .npy arrays; found none"
                         + (f" and {passed}" if passed else ""))  # fmt: skip
    sources.found = chain([first], found)
    return sources


def _images_of(path: Path, stdin: Any, left_out: Counter[str]) -> Iterator[ImageSource]:
    if str(path) == "-":
        return _from_stdin(stdin)
    return _walk(str(path), left_out) if path.is_dir() else iter([ImageSource(str(path))])


def _walk(root: str, left_out: Counter[str]) -> Iterator[ImageSource]:
    """Names only, as text, and one folder of them at a time."""
    visited: set[tuple[int, int]] = set()
    pending = [iter([root])]
    while pending:
        if (path := next(pending[-1], None)) is None:
            pending.pop()
        elif os.path.isdir(path):  # noqa: PTH112 - a Path each would be most of the memory
            try:
                status = os.stat(path)  # noqa: PTH116
                if (key := (status.st_dev, status.st_ino)) not in visited:
                    visited.add(key)
                    pending.append(_visible(path))
            except OSError as error:
                yield ImageSource(path, problem=f"the folder cannot be listed: {error.strerror}")
        elif path.lower().endswith((*SUFFIXES, ".npy")):
            yield ImageSource(path)
        else:
            left_out[os.path.splitext(path)[1].lower()] += 1  # noqa: PTH122


def _visible(folder: str) -> Iterator[str]:
    """Paths of a folder's entries in the order of their names, without hidden files."""
    names = sorted(os.listdir(folder))  # noqa: PTH208
    return (os.path.join(folder, name) for name in names if not is_hidden(name))  # noqa: PTH118


def _from_stdin(stdin: Any) -> Iterator[ImageSource]:
    """An image if the first line looks like the beginning of one, else a path on each line."""
    line = stdin.readline(_LONGEST_PATH)
    # No path holds a zero byte; in a BMP file it may come after a line feed among its first bytes.
    if line.startswith(_SIGNATURES) or b"\0" in line or (line.startswith(b"BM") and b"\0" in stdin.peek(16)[:16]):
        data = line + stdin.read(MAX_BYTES + 1 - len(line))
        yield ImageSource("-", data, problem="" if len(data) <= MAX_BYTES else f"expected at most {MAX_BYTES:,} bytes")
        return
    number = 0
    while line:
        number += 1
        if len(line) >= _LONGEST_PATH:
            raise ValueError(f"-: expected a path on each line; line {number} has {_LONGEST_PATH:,} bytes or more")
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield ImageSource(name)
        line = stdin.readline(_LONGEST_PATH)
