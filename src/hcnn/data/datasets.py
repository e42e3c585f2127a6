"""The way in to image sets: `load` reads digits, CIFAR-10 and CIFAR-100, folders of images and .npz files.

It gives `hcnn.data.image_set.Splits`. The test set is what the publisher of the data, or its folder, says it is; a
validation set is taken from the training set only.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hcnn.data.cifar import CIFAR10, CIFAR100, CifarSpec, read_cifar
from hcnn.data.image_files import OnBad, Size, height_and_width
from hcnn.data.image_files import read_image as read_image  # part of this module too: it reads as `load` does
from hcnn.data.image_folders import read_folder
from hcnn.data.image_set import ImageSet, Splits, from_arrays
from hcnn.data.npz_sets import read_splits
from hcnn.data.splits import DIGITS_SPLIT, set_aside, stratified_split
from hcnn.storage.atomic import StrPath
from hcnn.storage.user_paths import user_path
from hcnn.text import similar_names

NAMES = ("digits", "cifar10", "cifar100")

_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy"}


def load(
    name_or_path: StrPath,
    *,
    data_dir: StrPath | None = None,
    image_size: Size | None = None,
    channels: int | None = None,
    validation: int = 0,
    seed: int = 0,
    on_bad: OnBad = "refuse",
) -> Splits:
    """Load "digits", "cifar10", "cifar100", a folder of images or an .npz file.

    - **digits**: the 1,797 real 8×8 digits of scikit-learn, scaled from 0 … 16 to 0 … 255, one channel, in a fixed
      stratified split of 1,437 for training and 360 for testing that does not depend on `seed`.
    - **cifar10**, **cifar100**: the official binary archive, or its unpacked folder, in `data_dir`. The archive is
      downloaded if neither is there. The `superclasses` of CIFAR-100 are kept. The images may be ordered by class:
      never split them by position.
    - **a folder**: one subfolder of images per class, or ``train/``, ``validation/`` (or ``val/``, ``valid/``,
      ``dev/``) and ``test/`` with such subfolders, in upper or lower case. Without ``test/`` there is no test set.
      PNG, JPEG, WebP, GIF, BMP and TIFF files are read as `hcnn.data.image_files.read_image` describes: turned as
      their EXIF data says, of an animation the first frame, 16-bit grey and CMYK converted. They are resized with
      antialiasing until they cover `image_size` (for a square: the shorter side), cropped about the centre, and made
      grey or RGB. Palette images count as colour. A file is bad if it is transparent, has several pages, cannot be
      decoded, has another suffix, is larger than 64 megapixels, or is not a regular file. Links are followed. Hidden
      files are ignored.
    - **an .npz file**: arrays of images and labels, under the names that `hcnn.data.npz_sets.read_splits` knows, among
      them those of MedMNIST and Keras.

    Args:
        name_or_path: one of the names, or a path (``./digits`` for a folder of that name).
        data_dir: where archives are kept; see `hcnn.data.archives.cache_folder`.
        image_size: side, or (height, width), to which the images of a folder are resized. Default: the size that they
            all share, else 32. Other data is not resized: a different size is an error.
        channels: 1 or 3, to which the images of a folder are converted. Default: 1 if all of them are grey, else 3.
            Other data is not converted.
        validation: number of training images to set aside, in the proportions of the classes.
        seed: random seed for the choice of validation images.
        on_bad: "refuse" bad files, or "skip" them and list them in `Splits.skipped`.

    Returns:
        The splits. Labels are positions in `classes`; a folder's classes are sorted by name.

    Raises:
        ValueError: if the name is unknown, or the data is not as described above; the message names the file.
        FileNotFoundError: if a path does not exist.
        ConnectionError: if a download fails; the message says which file to put where.
        ImportError: if an optional package is missing; the message says how to install it.

    Example:
        >>> load("digits", validation=100).validation
        ImageSet('digits/validation', n=100, c=1, u=(8, 8), classes=10)

    """
    if on_bad not in ("refuse", "skip"):
        raise ValueError(f"on_bad: expected 'refuse' or 'skip'; got {on_bad!r}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (RGB); got {channels!r}")
    size = height_and_width(image_size)
    if name_or_path == "digits":
        splits = _digits()
    elif name_or_path == "cifar10":
        splits = load_cifar(CIFAR10, data_dir)
    elif name_or_path == "cifar100":
        splits = load_cifar(CIFAR100, data_dir)
    else:
        path = _existing(name_or_path)
        splits = _folder(path, size, channels, on_bad) if path.is_dir() else _npz(path)
    got = tuple(splits.train.images.shape[1:])
    if (size and got[1:] != size) or (channels and got[0] != channels):
        raise ValueError(
            f"{name_or_path}: expected images (c, *u) = {(channels or got[0], *(size or got[1:]))} as asked for; they "
            f"are {got}. Only folders of image files are resized and converted"
        )
    return set_aside(splits, validation, seed)


def with_validation(
    splits: Splits, path: StrPath, *, data_dir: StrPath | None = None, on_bad: OnBad = "refuse"
) -> Splits:
    """The same splits with validation images that are kept elsewhere.

    Args:
        splits: training and test images.
        path: a folder of images with a subfolder for each class, or an .npz file. If it has parts, its validation
            images are taken. A folder's images get the size and the channels of the training images.
        data_dir: see `load`.
        on_bad: see `load`.

    Returns:
        Splits with these validation images, labelled by the names of their classes.

    Raises:
        ValueError: if `splits` has validation images already, or the classes are others.

    """
    if splits.validation is not None:
        raise ValueError(f"{path}: expected data without validation images; {splits.validation.name} has some")
    channels, *size = splits.train.images.shape[1:]
    folder = user_path(path).is_dir()
    found = load(
        path,
        data_dir=data_dir,
        image_size=(size[0], size[1]) if folder and len(size) == 2 else None,
        channels=channels if folder else None,
        on_bad=on_bad,
    )
    if found.validation is None and found.test is not None:
        raise ValueError(f"{path}: expected validation images, or images without parts; it has train and test images")
    chosen, classes = found.validation or found.train, splits.train.classes
    unknown, missing = (sorted(set(a) - set(b)) for a, b in ((chosen.classes, classes), (classes, chosen.classes)))
    if unknown or missing:
        which = [f"{verb} {', '.join(names[:10])}" for verb, names in (("has", unknown), ("lacks", missing)) if names]
        raise ValueError(f"{path}: expected the classes of {splits.train.name}; it {' and '.join(which)}")
    order = torch.tensor([classes.index(name) for name in chosen.classes])
    validation = ImageSet(chosen.images, order[chosen.labels], classes, f"{path}", allow_empty=True)
    return Splits(splits.train, validation, splits.test, splits.skipped + found.skipped)


# ---------------------------------------------------------------------------------------------------- sources


def load_cifar(spec: CifarSpec, data_dir: StrPath | None = None) -> Splits:
    """Load what `spec` describes from a folder or archive; `load` does this for CIFAR-10 and CIFAR-100.

    Args:
        spec: the archive and the layout of its records.
        data_dir: see `hcnn.data.archives.cache_folder`.

    Returns:
        The training and test sets.

    Raises:
        ValueError: if the data is not what `spec` says.
        ConnectionError: if a download fails.
        ImportError: if a download needs pooch and it is not installed.

    """
    arrays = read_cifar(spec, data_dir)
    name = spec.archive.name.lower().replace("-", "")
    train, test = (
        ImageSet(
            torch.from_numpy(images),
            torch.from_numpy(labels),
            arrays.classes,
            f"{name}/{split}",
            superclasses=arrays.superclasses,
        )
        for split, images, labels in (("train", *arrays.train), ("test", *arrays.test))
    )
    return Splits(train, test=test)


def _digits() -> Splits:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn") from error
    raw: Any = load_digits()
    pixels = (raw.images.astype(np.int64) * 255 + 8) // 16  # rounds, in integers
    every = from_arrays(pixels.astype(np.uint8), raw.target, name="digits")
    rest, chosen = stratified_split(every.labels, 360, DIGITS_SPLIT)
    return Splits(every.subset(rest, "digits/train"), test=every.subset(chosen, "digits/test"))


def _folder(root: Path, size: tuple[int, int] | None, channels: int | None, on_bad: OnBad) -> Splits:
    found = read_folder(root, size, channels, on_bad)
    sets = {
        split: ImageSet(images, labels, found.classes, f"{root.name}/{split}", allow_empty=split != "train")
        for split, (images, labels) in found.splits.items()
    }
    return Splits(sets["train"], sets.get("validation"), sets.get("test"), found.skipped)


def _npz(path: Path) -> Splits:
    if path.suffix.lower() in _PICKLES:
        raise ValueError(
            f"{path}: expected a folder of images or an .npz file. Pickles can run code and are never opened: save "
            "plain arrays with numpy.savez(path, images=images, labels=labels)"
        )
    return read_splits(path)


def _existing(name_or_path: StrPath) -> Path:
    path = user_path(name_or_path)
    if path.exists():
        return path
    near = similar_names(str(name_or_path).lower().replace("-", "").replace("_", ""), NAMES)
    known = f"expected {', '.join(NAMES)}, a folder of images or an .npz file; got {os.fspath(name_or_path)!r}"
    if near:
        raise ValueError(f"unknown data set: {known}. Did you mean {' or '.join(near)}?")
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no such file or folder: {known}")
    raise ValueError(f"unknown data set, and no such file or folder: {known}")
