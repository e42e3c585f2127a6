"""Image sets: digits, CIFAR-10 and CIFAR-100, folders of images, arrays; their splits and their order.

`load` is the way in, and gives `Splits` of `ImageSet`. A set is two tensors in memory: images (n, c, *u) of uint8 and
labels (n,). The test set is what the data's publisher, or its folder, says it is; a validation set comes out of the
training set only.

Every random choice is made from the raw output of NumPy's PCG64, which NumPy promises to keep from version to
version and on every platform (it does not promise that of `Generator.permutation`), so that a split never moves.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.data import archives
from hcnn.data.archives import CIFAR10, CIFAR100, CifarSpec, StrPath
from hcnn.data.image_files import OnBad, Size, height_and_width, read_folder
from hcnn.data.image_files import read_image as read_image  # part of this module too: it reads as `load` does

NAMES = ("digits", "cifar10", "cifar100")

_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy"}
_DIGITS_SPLIT, _VALIDATION, _ORDER, _FEWER = 1, 2, 3, 4  # one stream of random numbers for each purpose


# ------------------------------------------------------------------------------------------------------- sets


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images in memory.

    Args:
        images: uint8 (n, c, *u).
        labels: int64 (n,), each below the number of classes.
        classes: names of the classes.
        name: what to call the set in errors.
        superclasses: for each class the name of the class above it, or empty.
        allow_empty: whether classes may lack images, as in a subset or a test set.

    Raises:
        ValueError: if types, lengths or labels do not fit together, or a class has no image.

    Example:
        >>> ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"), "pets")
        ImageSet('pets', n=2, c=1, u=(8, 8), classes=2)

    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    _: KW_ONLY
    superclasses: tuple[str, ...] = ()
    allow_empty: bool = False

    def __post_init__(self) -> None:
        images, labels, classes, name = self.images, self.labels, self.classes, self.name
        if images.dtype != torch.uint8 or images.ndim < 3:
            raise ValueError(
                f"{name}: expected uint8 images (n, c, *u); got {images.dtype} of shape {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{name}: expected int64 labels ({len(images)},), one per image; "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if images.numel() == 0:
            raise ValueError(f"{name}: expected at least one image; got shape {tuple(images.shape)}")
        if len(set(classes)) != len(classes):
            raise ValueError(f"{name}: expected classes of different names; got {classes}")
        if self.superclasses and len(self.superclasses) != len(classes):
            raise ValueError(f"{name}: expected {len(classes)} superclasses; got {len(self.superclasses)}")
        bad = torch.nonzero((labels < 0) | (labels >= len(classes))).flatten()
        if len(bad):
            first = int(bad[0])
            raise ValueError(
                f"{name}: expected labels from 0 to {len(classes) - 1}, for {len(classes)} classes; "
                f"got {int(labels[first])} at image {first} ({len(bad)} labels are out of range)"
            )
        empty = torch.nonzero(torch.bincount(labels, minlength=len(classes)) == 0).flatten().tolist()
        if empty and not self.allow_empty:
            names = ", ".join(repr(classes[i]) for i in empty[:10])
            raise ValueError(f"{name}: expected images of every class; none of class {names}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        _, c, *u = self.images.shape
        return f"ImageSet({self.name!r}, n={len(self)}, c={c}, u={tuple(u)}, classes={len(self.classes)})"

    def subset(self, indices: Tensor | np.ndarray | Sequence[int], name: str | None = None) -> "ImageSet":
        """The images at `indices`, in that order; classes may be empty in it.

        Args:
            indices: positions from 0 to n - 1.
            name: what to call the subset; this set's name if None.

        Returns:
            A new set with its own copy of the images.

        Raises:
            ValueError: if an index is out of range, or there is none.

        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            raise ValueError(
                f"{self.name}: expected indices from 0 to {len(self) - 1}; got {int(index.min())} to {int(index.max())}"
            )
        return ImageSet(
            self.images[index],
            self.labels[index],
            self.classes,
            name or self.name,
            superclasses=self.superclasses,
            allow_empty=True,
        )

    def coarse(self) -> "ImageSet":
        """The same images labelled by superclass, in the order of the superclasses' names (CIFAR-100: 20).

        Returns:
            A new set that shares the images.

        Raises:
            ValueError: if the set has no superclasses.

        """
        if not self.superclasses:
            raise ValueError(f"{self.name}: expected a set with superclasses, as cifar100; this one has none")
        names = tuple(sorted(set(self.superclasses)))
        above = torch.tensor([names.index(name) for name in self.superclasses])
        return ImageSet(self.images, above[self.labels], names, self.name, allow_empty=self.allow_empty)

    def digest(self) -> str:
        """SHA-256 over shape, classes, labels and images, in hexadecimal: equal exactly for equal sets.

        Returns:
            64 hexadecimal digits, the same on every platform.

        """
        header = json.dumps([list(self.images.shape), list(self.classes)])
        result = hashlib.sha256(header.encode())
        result.update(self.labels.numpy().astype("<i8").tobytes())
        result.update(self.images.numpy().tobytes())
        return result.hexdigest()

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel over all images and places, pixels scaled to 0 … 1.

        Returns:
            Two float64 tensors (c,). A channel that never varies has deviation 1, so that dividing by it is safe.

        Example:
            >>> images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
            >>> ImageSet(images, torch.tensor([0, 0]), ("any",), "two").channel_statistics()
            (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))

        """
        # From exact counts of the 256 values: no rounding that depends on the order of a sum.
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in self.images.unbind(1)])
        share = counts.double() / counts.sum(1, keepdim=True)  # (c, 256)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ values
        variance = (share * (values - mean[:, None]).square()).sum(1)
        constant = (counts > 0).sum(1) == 1
        return mean, torch.where(constant, 1.0, variance.sqrt())


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test sets of the same classes and image shape.

    Args:
        train: what is trained on.
        validation: what selects, or None.
        test: what is read once, at the end, or None.
        skipped: files that were left out, each with the reason.

    Raises:
        ValueError: if the sets differ in classes or in the shape of their images.

    """

    train: ImageSet
    validation: ImageSet | None = None
    test: ImageSet | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for other in (self.validation, self.test):
            if other is None:
                continue
            if other.classes != self.train.classes:
                raise ValueError(f"{other.name}: expected classes {self.train.classes}; got {other.classes}")
            if other.images.shape[1:] != self.train.images.shape[1:]:
                raise ValueError(
                    f"{other.name}: expected images (c, *u) = {tuple(self.train.images.shape[1:])}, "
                    f"as in {self.train.name}; got {tuple(other.images.shape[1:])}"
                )


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
      stratified split of 1,437 to train and 360 to test that does not depend on `seed`.
    - **cifar10**, **cifar100**: the official binary archive, or its unpacked folder, in `data_dir`; downloaded if
      neither is there. CIFAR-100's `superclasses` are kept. Its order may be by class: never split it by position.
    - **a folder**: one subfolder of PNG, JPEG or WebP files per class, or ``train/``, ``validation/`` (or ``val/``)
      and ``test/`` with such subfolders. Without ``test/`` there is no test set: none is made up. Images are turned
      as their EXIF says, resized with antialiasing until they cover `image_size` (for a square: shorter side),
      cropped about the centre, and made grey or RGB. Palette images count as colour. What is neither grey nor RGB
      (CMYK, 16-bit grey, transparent or animated images), does not decode, has another suffix or is larger than 64
      megapixels is bad. Hidden files are ignored.
    - **an .npz file**: `images`, `labels` and optionally `classes`, `test_images`, `test_labels`; see `from_arrays`.

    Args:
        name_or_path: one of the names, or a path (``./digits`` for a folder of that name).
        data_dir: where archives are kept; see `hcnn.data.archives.cache_folder`.
        image_size: side, or (height, width). A folder's images are brought to it; by default to the size that they
            all share, else to 32. Other data is not resized: a different size is an error.
        channels: 1 or 3. By default 1 if every image of a folder is grey, else 3. Other data is not converted.
        validation: number of training images to set aside, in the proportions of the classes.
        seed: which ones.
        on_bad: "refuse" bad files, or "skip" them and list them in `Splits.skipped`.

    Returns:
        The splits. Labels are positions in `classes`; a folder's classes are sorted by name.

    Raises:
        ValueError: if the name is unknown, or the data is not what is described above; the text names the file.
        FileNotFoundError: if a path does not exist.
        ConnectionError: if a download fails; the text says which file to put where.
        ImportError: if an optional package is missing; the text says how to install it.

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
    return _set_aside(splits, validation, seed)


def from_arrays(
    images: Any,
    labels: Any,
    classes: Sequence[str] | None = None,
    *,
    name: str = "arrays",
    allow_empty: bool = False,
) -> ImageSet:
    """Make a set of arrays.

    Args:
        images: uint8 array (n, h, w), (n, c, h, w) or (n, c, *u), or a sequence of such images of one size.
        labels: integers (n,) from 0.
        classes: names; "0", "1", … up to the largest label if None.
        name: what to call the set, and in errors.
        allow_empty: whether classes may lack images.

    Returns:
        The set.

    Raises:
        ValueError: if types, shapes or lengths are not as above, or the images have different sizes.

    Example:
        >>> from_arrays(np.zeros((4, 28, 28), np.uint8), [0, 1, 1, 0])
        ImageSet('arrays', n=4, c=1, u=(28, 28), classes=2)

    """
    if isinstance(images, Sequence):
        shapes = [np.shape(image) for image in images]
        odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            raise ValueError(
                f"{name}: expected images of one size, {shapes[0]} as image 0; image {odd} has {shapes[odd]}"
            )
    pixels, marks = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8:
        nan = np.isnan(pixels).any() if np.issubdtype(pixels.dtype, np.floating) else False
        raise ValueError(
            f"{name}: expected uint8 pixels from 0 to 255; got {pixels.dtype}{', with NaN among them' if nan else ''}. "
            "Scale and round them yourself, since only you know their range"
        )
    if pixels.ndim < 3:
        raise ValueError(f"{name}: expected images (n, h, w) or (n, c, h, w); got shape {pixels.shape}")
    if pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] > 4:
        raise ValueError(
            f"{name}: expected channels first, (n, c, h, w); shape {pixels.shape} looks like channels last: "
            "use images.transpose(0, 3, 1, 2)"
        )
    if not np.issubdtype(marks.dtype, np.integer):
        raise ValueError(f"{name}: expected integer labels; got {marks.dtype}")
    if classes is None:
        classes = [str(i) for i in range(int(marks.max(initial=-1)) + 1)]
    return ImageSet(
        torch.tensor(pixels[:, None] if pixels.ndim == 3 else pixels),
        torch.tensor(marks.astype(np.int64)),
        tuple(str(one) for one in classes),
        name,
        allow_empty=allow_empty,
    )


# ----------------------------------------------------------------------------------------------- random choices


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Order of the n training images in an epoch, from (seed, epoch) alone: there is no state to save.

    Args:
        n: number of images.
        seed: seed of the run, not negative.
        epoch: number of the epoch, from 0.

    Returns:
        A permutation of 0 … n - 1, int64.

    Example:
        >>> epoch_order(8, seed=0, epoch=1)
        tensor([...])

    """
    return torch.from_numpy(_permutation(n, _ORDER, seed, epoch))


def stratified_split(labels: Tensor, count: int, *key: int) -> tuple[Tensor, Tensor]:
    """Choose `count` images at random in the proportions of the classes.

    Each class gives its share rounded down; the images still missing come one each from the classes with the
    largest remainders. The last image of a class is never taken.

    Args:
        labels: int64 (n,).
        count: how many to choose.
        key: integers that the choice is made from, none negative.

    Returns:
        The indices of the others, and those chosen, each ascending.

    Raises:
        ValueError: if `count` images cannot be chosen so.

    Example:
        >>> rest, chosen = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 3, 0)
        >>> len(rest), torch.tensor([0, 0, 0, 0, 1, 1])[chosen]
        (3, tensor([0, 0, 1]))

    """
    marks = labels.numpy()
    sizes = np.bincount(marks)
    room = int((sizes - (sizes > 0)).sum())
    if not 0 <= count <= room:
        raise ValueError(
            f"expected to set aside 0 to {room} of {len(marks)} images, leaving one of each class; got {count}"
        )
    quota, remainder = np.divmod(count * sizes, max(len(marks), 1))
    ranking = np.argsort(-remainder, kind="stable")
    while short := count - int(quota.sum()):
        quota[[k for k in ranking if quota[k] < sizes[k] - 1][:short]] += 1
    order = _permutation(len(marks), *key)
    chosen = np.zeros(len(marks), bool)
    for k, taken in enumerate(quota):
        chosen[order[marks[order] == k][:taken]] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def fewer(splits: Splits, count: int, seed: int = 0) -> Splits:
    """The same splits with that many of the training images, drawn in the proportions of the classes.

    Args:
        splits: left as they are.
        count: training images to keep.
        seed: of the draw.

    Returns:
        Splits with a smaller training set.

    Raises:
        ValueError: if there are not more images than that.
    """
    train = splits.train
    if not 1 <= count < len(train):
        raise ValueError(f"{train.name}: expected to keep 1 to {len(train) - 1} training images; got {count}")
    _, chosen = stratified_split(train.labels, count, _FEWER, seed)
    return Splits(train.subset(chosen), splits.validation, splits.test, splits.skipped)


def _permutation(n: int, *key: int) -> np.ndarray:
    if min(key) < 0:
        raise ValueError(f"expected seed and epoch not to be negative; got {key[1:]}")
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(n), kind="stable")


def _set_aside(splits: Splits, count: int, seed: int) -> Splits:
    if not count:
        return splits
    train = splits.train
    if splits.validation is not None:
        raise ValueError(f"{splits.validation.name}: the data has a validation set; expected validation=0, got {count}")
    try:
        rest, chosen = stratified_split(train.labels, count, _VALIDATION, seed)
    except ValueError as error:
        raise ValueError(f"{train.name}: validation: {error}") from error
    name = train.name.removesuffix("/train") + "/validation"
    return Splits(train.subset(rest, train.name), train.subset(chosen, name), splits.test, splits.skipped)


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
    arrays = archives.read_cifar(spec, data_dir)
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
        raise ImportError("the digits come with scikit-learn: pip install 'hcnn[digits]'") from error
    raw: Any = load_digits()
    pixels = (raw.images.astype(np.int64) * 255 + 8) // 16  # rounds, in integers
    every = from_arrays(pixels.astype(np.uint8), raw.target, name="digits")
    rest, chosen = stratified_split(every.labels, 360, _DIGITS_SPLIT)
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
    arrays = archives.read_npz(path)
    names = set(arrays) - {"classes"}
    if names not in ({"images", "labels"}, {"images", "labels", "test_images", "test_labels"}):
        raise ValueError(
            f"{path}: expected arrays images, labels and, if wanted, classes, and test_images with test_labels; "
            f"got {', '.join(arrays) or 'none'}"
        )
    classes = [str(one) for one in arrays["classes"].tolist()] if "classes" in arrays else None
    train = from_arrays(arrays["images"], arrays["labels"], classes, name=f"{path}: images")
    if "test_images" not in arrays:
        return Splits(train)
    test = from_arrays(
        arrays["test_images"], arrays["test_labels"], train.classes, name=f"{path}: test_images", allow_empty=True
    )
    return Splits(train, test=test)


def _existing(name_or_path: StrPath) -> Path:
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    near = difflib.get_close_matches(str(name_or_path).lower().replace("-", "").replace("_", ""), NAMES, n=3)
    known = f"expected {', '.join(NAMES)}, a folder of images or an .npz file; got {os.fspath(name_or_path)!r}"
    if near:
        raise ValueError(f"unknown data set: {known}. Did you mean {' or '.join(near)}?")
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no such file or folder: {known}")
    raise ValueError(f"unknown data set, and no such file or folder: {known}")
