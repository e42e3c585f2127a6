"""Image files and folders of them: PNG, JPEG and WebP become uint8 tensors, or errors that name the file."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from hcnn.storage.atomic import StrPath

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
OnBad = Literal["refuse", "skip"]
Size = int | tuple[int, int]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 64 << 20
DEFAULT_SIZE = 32

_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_CLUTTER = {"thumbs.db", "desktop.ini"}


# ------------------------------------------------------------------------------------------------- image files


def read_image(source: StrPath | bytes, *, size: Size, channels: int) -> Tensor:
    """Read one image file the way `hcnn.data.datasets.load` reads those of a folder.

    Args:
        source: path of a PNG, JPEG or WebP file, or its bytes.
        size: side, or (height, width), that the image is resized to cover and cropped to about its centre.
        channels: 1 for grey or 3 for RGB.

    Returns:
        uint8 tensor (c, height, width).

    Raises:
        ValueError: if it is no image, is truncated, is neither grey nor RGB, or is too large; names the file.
        FileNotFoundError: if there is no such file.
        ImportError: if pillow is not installed.

    """
    pair = height_and_width(size)
    if pair is None or channels not in (1, 3):
        raise ValueError(f"expected a size, and 1 or 3 channels; got size {size!r}, channels {channels!r}")
    name, data = ("<bytes>", source) if isinstance(source, bytes) else (str(source), Path(source).read_bytes())
    try:
        return _fit(_decode(data, _upright), pair, channels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def height_and_width(size: Size | None) -> tuple[int, int] | None:
    """A size as (height, width), None as None."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size: expected a positive side or (height, width); got {size!r}")
    return sides[0], sides[1]


def _decode(data: bytes, use: "Callable[[Image], T]") -> T:
    """Open an image, judge its header, and return `use(image)`; ValueErrors lack the file's name."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs pillow: pip install pillow") from error
    if not data:
        raise ValueError("expected a PNG, JPEG or WebP image; got an empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that is judged here
        try:
            image: Image.Image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
            if image.width * image.height > MAX_PIXELS:
                raise _Unfit(f"expected at most {MAX_PIXELS:,} pixels; got {image.height} × {image.width}")
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
                raise _Unfit(f"expected grey or RGB pixels of 8 bits; got mode {image.mode}")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise _Unfit(f"expected a still image; got {frames} frames")
            return use(image)
        except _Unfit:
            raise
        except Image.DecompressionBombError as error:
            raise _Unfit(f"expected at most {MAX_PIXELS:,} pixels; {error}") from error
        except Image.UnidentifiedImageError as error:
            raise _Unfit("expected a PNG, JPEG or WebP image; this is none, or its header is cut off") from error
        # On damaged data Pillow's decoders raise OSError, SyntaxError, struct.error, KeyError and more.
        except Exception as error:
            raise _Unfit(f"the image is truncated or corrupt: {error}") from error


class _Unfit(ValueError):
    """An image that this package does not take."""


def _is_grey(image: "Image") -> bool:
    return image.mode in ("1", "L", "LA")


def _header(image: "Image") -> tuple[tuple[int, int], bool]:
    """(height, width) once it is upright, and whether it is grey."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width), _is_grey(image)


def _upright(image: "Image") -> "Image":
    """The pixels, as grey or RGB, turned as the EXIF orientation says."""
    from PIL import ImageOps

    image.load()
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise _Unfit("expected opaque pixels; some are transparent")
        # An unused transparent colour would make Pillow add an alpha channel, or warn.
        image.info.pop("transparency", None)
    return ImageOps.exif_transpose(image).convert("L" if _is_grey(image) else "RGB")


def _fit(image: "Image", size: tuple[int, int], channels: int) -> Tensor:
    """Resize to cover (height, width), crop about the centre, convert."""
    from PIL import Image, ImageOps

    height, width = size
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return torch.tensor(np.asarray(image)).reshape(height, width, channels).permute(2, 0, 1).contiguous()


# ---------------------------------------------------------------------------------------------- image folders


@dataclass(frozen=True, eq=False)
class FolderArrays:
    """What `read_folder` found.

    Attributes:
        classes: names of the class folders of the training set, sorted.
        splits: images (n, c, height, width) of uint8 and labels (n,) of int64 under "train" and, where the folder
            has them, "validation" and "test".
        skipped: files that were left out, each with the reason.

    """

    classes: tuple[str, ...]
    splits: dict[str, tuple[Tensor, Tensor]]
    skipped: tuple[tuple[str, str], ...]


def read_folder(root: Path, size: tuple[int, int] | None, channels: int | None, on_bad: OnBad) -> FolderArrays:
    """Read a folder of images, in the layouts that `hcnn.data.datasets.load` describes.

    Args:
        root: the folder.
        size: (height, width); by default the size that all images share, else 32×32.
        channels: 1 or 3; by default 1 if every image is grey, else 3.
        on_bad: "refuse" bad files, or "skip" them.

    Returns:
        The images and labels of each split.

    Raises:
        ValueError: if the layout is another, a class has no image, or files are bad and refused; names them.
        ImportError: if pillow is not installed.

    """
    folders = _split_folders(root)
    bad: dict[Path, str] = {}
    files = {split: _class_files(folder, bad) for split, folder in folders.items()}
    classes = tuple(files["train"])
    if not classes:
        raise ValueError(
            f"{folders['train']}: expected a folder of images for each class; found no folder (for the binary files "
            "of CIFAR use load('cifar10', data_dir=…) or load('cifar100', data_dir=…))"
        )
    for split, found in files.items():
        for name, paths in found.items():
            if name not in classes:
                raise ValueError(f"{folders[split] / name}: expected one of the classes of train/; got {name!r}")
            if not paths and not any(path.parent == folders[split] / name for path in bad):
                raise ValueError(f"{folders[split] / name}: expected images ({', '.join(SUFFIXES)}); found none")
    every = [path for found in files.values() for paths in found.values() for path in paths]
    images = _read_files(every, size, channels, bad, on_bad)
    splits = {}
    for split, found in files.items():
        kept = [(path, classes.index(name)) for name, paths in found.items() for path in paths if path in images]
        for i, name in enumerate(classes if split == "train" else ()):
            if all(label != i for _, label in kept):
                raise ValueError(f"{folders[split] / name}: expected images that can be read; every file was skipped")
        if not kept:
            raise ValueError(f"{folders[split]}: expected images that can be read; found none")
        splits[split] = (
            torch.stack([images[path] for path, _ in kept]),
            torch.tensor([label for _, label in kept]),
        )
    skipped = tuple((str(path), reason) for path, reason in sorted(bad.items()))
    return FolderArrays(classes, splits, skipped)


@dataclass(frozen=True)
class FolderSurvey:
    """What the headers of a folder's training images say.

    Attributes:
        images: files that look like images.
        classes: folders of classes.
        sizes: (height, width) of the files whose header could be read.
        grey: whether all of these are grey.
        has_other_splits: whether there are validation or test images beside.

    """

    images: int
    classes: int
    sizes: tuple[tuple[int, int], ...]
    grey: bool
    has_other_splits: bool


def survey_folder(root: Path) -> FolderSurvey:
    """Look at a folder of images without decoding any; damaged files are left for `read_folder` to report.

    Args:
        root: the folder.

    Returns:
        What was found.

    Raises:
        ValueError: if the layout is another than `read_folder` expects.
        ImportError: if pillow is not installed.

    """
    folders = _split_folders(root)
    found = _class_files(folders["train"], {})
    paths = [path for each in found.values() for path in each]
    headers = list(_each(paths, lambda data: _decode(data, _header), {}).values())
    sizes = tuple(size for size, _ in headers)
    return FolderSurvey(len(paths), len(found), sizes, all(grey for _, grey in headers), len(folders) > 1)


def _split_folders(root: Path) -> dict[str, Path]:
    """Folder of each split; the root itself is "train" where there are no split folders."""
    found = [path for path in _visible(root) if path.is_dir()]
    splits = [path for path in found if path.name in _SPLIT_FOLDERS]
    if not splits:
        return {"train": root}
    names = {_SPLIT_FOLDERS[path.name]: path for path in splits}
    if len(splits) != len(found) or len(names) != len(splits) or "train" not in names:
        raise ValueError(
            f"{root}: expected a folder per class, or train/ with, if wanted, validation/ (or val/) and test/ and no "
            f"folder beside them; got {', '.join(path.name + '/' for path in found)}"
        )
    return names


def _class_files(folder: Path, bad: dict[Path, str]) -> dict[str, list[Path]]:
    """Image files of each class folder, sorted; what is no image file goes to `bad`."""
    found: dict[str, list[Path]] = {}
    for path in _visible(folder):
        if not path.is_dir():
            continue
        found[path.name] = []
        for file in _visible(path):
            if file.is_dir():
                bad[file] = "expected an image file; got a folder"
            elif file.suffix.lower() not in SUFFIXES:
                bad[file] = f"expected a file named {', '.join(SUFFIXES)}; got {file.suffix or 'no suffix'}"
            else:
                found[path.name].append(file)
    return found


def _visible(folder: Path) -> list[Path]:
    hidden = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted((path for path in hidden if path.name.lower() not in _CLUTTER), key=lambda path: path.name)


def _read_files(
    paths: Iterable[Path], size: tuple[int, int] | None, channels: int | None, bad: dict[Path, str], on_bad: OnBad
) -> dict[Path, Tensor]:
    """Decode every file; those that fail go to `bad`, and are refused together if `on_bad` says so."""
    good = list(paths)
    while True:
        # Sizes and channels that are asked for need no look at the headers.
        headers = {} if size and channels else _each(good, lambda data: _decode(data, _header), bad)
        shared = {one for one, _ in headers.values()}
        pair = size or (shared.pop() if len(shared) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE))
        depth = channels or (1 if all(grey for _, grey in headers.values()) else 3)
        good = [path for path in good if path not in bad]
        images = _each(good, lambda data, to=(pair, depth): _fit(_decode(data, _upright), *to), bad)
        if bad and on_bad == "refuse":
            listing = "".join(f"\n  {path}: {reason}" for path, reason in sorted(bad.items())[:20])
            more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
            raise ValueError(f"{len(bad)} files are no usable images (on_bad='skip' leaves them out):{listing}{more}")
        # A file whose pixels turn out to be damaged must not have had a say in the common size.
        if len(images) == len(good) or not headers:
            return images
        good = list(images)


def _each(paths: Iterable[Path], read: Callable[[bytes], T], bad: dict[Path, str]) -> dict[Path, T]:
    results: dict[Path, T] = {}
    for path in paths:
        try:
            results[path] = read(path.read_bytes())
        except (OSError, ValueError) as error:
            bad[path] = str(error)
    return results
