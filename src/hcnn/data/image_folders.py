"""Folders of images with a subfolder per class, with or without folders of splits above them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hcnn.data.image_files import SUFFIXES, OnBad, T, decode, fit, header, upright
from hcnn.data.regular_files import is_hidden, read_regular
from hcnn.text import printable

DEFAULT_SIZE = 32

# Names of split folders, whatever their case. Those of the second group are split folders only beside one that is
# surely, because they may as well be names of classes: valid and invalid.
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_MAYBE_SPLITS = {"training": "train", "valid": "validation", "dev": "validation", "testing": "test"}


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
        ValueError: if the layout is not one of these, a class has no image, or bad files are refused; names them.
        ImportError: if pillow is not installed.

    """
    folders = _split_folders(root)
    bad = {} if root in folders.values() else _loose(root)
    files = {split: _class_files(folder, bad) for split, folder in folders.items()}
    classes = tuple(files["train"])
    if not classes:
        raise ValueError(
            f"{folders['train']}: expected a folder of images for each class; found no folder (the binary files "
            "of CIFAR are read as 'cifar10' or 'cifar100', with their folder as data_dir)"
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
    """What the headers of a folder's training images tell.

    Attributes:
        images: number of files whose names are those of images.
        classes: number of class folders.
        sizes: (height, width) of each file whose header could be read.
        grey: whether all of these are grey.
        has_other_splits: whether there are validation or test images as well.

    """

    images: int
    classes: int
    sizes: tuple[tuple[int, ...], ...]
    grey: bool
    has_other_splits: bool


def survey_folder(root: Path) -> FolderSurvey:
    """Look at a folder of images without decoding any; damaged files are left for `read_folder` to report.

    Args:
        root: the folder.

    Returns:
        What was found.

    Raises:
        ValueError: if the layout is not one that `read_folder` understands.
        ImportError: if pillow is not installed.

    """
    folders = _split_folders(root)
    found = _class_files(folders["train"], {})
    paths = [path for each in found.values() for path in each]
    headers = list(_each(paths, lambda data: decode(data, header), {}).values())
    sizes = tuple(size for size, _ in headers)
    return FolderSurvey(len(paths), len(found), sizes, all(grey for _, grey in headers), len(folders) > 1)


def _split_folders(root: Path) -> dict[str, Path]:
    """Folder of each split; the root itself is "train" where there are no split folders."""
    found = {path: path.name.lower() for path in _visible(root) if path.is_dir()}
    known = {**_SPLITS, **_MAYBE_SPLITS}
    splits = {path: known[name] for path, name in found.items() if name in known}
    if not any(name in _SPLITS for name in found.values()) and (not found or len(splits) < len(found)):
        return {"train": root}
    names = {split: path for path, split in splits.items()}
    if len(splits) != len(found) or len(names) != len(splits) or "train" not in names:
        raise ValueError(
            f"{root}: expected a folder per class, or train/ with, if wanted, validation/ (or val/, valid/, dev/) and "
            f"test/ and no folder beside them; got {', '.join(path.name + '/' for path in found)}"
        )
    return names


def _class_files(folder: Path, bad: dict[Path, str]) -> dict[str, list[Path]]:
    """Image files of each class folder, sorted; everything else in these, and images beside them, goes to `bad`."""
    found: dict[str, list[Path]] = {}
    bad |= _loose(folder)
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


def _loose(folder: Path) -> dict[Path, str]:
    """Images, and links to nothing, where class folders are expected; each with what is wrong about it."""
    found = {}
    for path in _visible(folder):
        if not path.exists():
            found[path] = "expected the folder of a class; this is a link to nothing"
        elif path.suffix.lower() in SUFFIXES and not path.is_dir():
            found[path] = "expected it in the folder of a class; it lies beside these folders"
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not is_hidden(path.name)), key=lambda path: path.name)


def _read_files(
    paths: Iterable[Path], size: tuple[int, int] | None, channels: int | None, bad: dict[Path, str], on_bad: OnBad
) -> dict[Path, Tensor]:
    """Decode every file; those that fail are added to `bad`, and refused together if `on_bad` says so."""
    good = list(paths)
    while True:
        # The headers are needed only if the size or the number of channels is not given.
        headers = {} if size and channels else _each(good, lambda data: decode(data, header), bad)
        shared = {one for one, _ in headers.values()}
        pair = size or (shared.pop() if len(shared) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE))
        depth = channels or (1 if all(grey for _, grey in headers.values()) else 3)
        good = [path for path in good if path not in bad]
        images = _each(good, lambda data, to=(pair, depth): fit(decode(data, upright), *to), bad)
        if bad and on_bad == "refuse":
            listing = "".join(f"\n  {printable(f'{path}: {reason}')}" for path, reason in sorted(bad.items())[:20])
            more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
            what = "file is not a usable image" if len(bad) == 1 else "files are not usable images"
            raise ValueError(f"{len(bad)} {what} (on_bad='skip' leaves such files out):{listing}{more}")
        # A file with damaged pixels must not influence the common size.
        if len(images) == len(good) or not headers:
            return images
        good = list(images)


def _each(paths: Iterable[Path], read: Callable[[bytes], T], bad: dict[Path, str]) -> dict[Path, T]:
    results: dict[Path, T] = {}
    for path in paths:
        try:
            results[path] = read(read_regular(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            bad[path] = reason or str(error).removeprefix(f"{path}: ")
    return results
