"""Labelled images in memory: `ImageSet`, the `Splits` of one data set, and `from_arrays` to make a set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.data.channels import Channels, channels_first
from hcnn.text import kind_of

_MOST_CLASSES = 1 << 20


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images in memory.

    Args:
        images: uint8 (n, c, *u).
        labels: int64 (n,), each below the number of classes.
        classes: names of the classes.
        name: name of the set in error messages.
        superclasses: for each class the name of its superclass, or empty.
        allow_empty: whether classes may have no images, as in a subset or a test set.

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
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim < 3:
            raise ValueError(f"{name}: expected uint8 images (n, c, *u) as a tensor; got {kind_of(images)}")
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"{name}: expected int64 labels ({len(images)},), one per image; got {kind_of(labels)}")
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
        """The images at `indices`, in that order; some classes may have no images in it.

        Args:
            indices: positions from 0 to n - 1.
            name: name of the subset. Default: the name of this set.

        Returns:
            A new set with its own copy of the images.

        Raises:
            ValueError: if the indices are not whole numbers, one is out of range, or there are none.

        """
        index = torch.as_tensor(indices)
        if index.numel() and (index.dtype == torch.bool or index.is_floating_point() or index.is_complex()):
            raise ValueError(f"{self.name}: expected indices, whole numbers; got {kind_of(index)}")
        index = index.to(torch.int64)
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
        """SHA-256 of shape, classes, labels and images, in hexadecimal: equal for equal sets only.

        Returns:
            64 hexadecimal digits, the same on every platform.

        """
        header = json.dumps([list(self.images.shape), list(self.classes)])
        result = hashlib.sha256(header.encode())
        result.update(self.labels.numpy().astype("<i8").tobytes())
        result.update(self.images.numpy().tobytes())
        return result.hexdigest()

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel over all images and pixels, with pixels scaled to 0 … 1.

        Returns:
            Two float64 tensors (c,). A constant channel has deviation 1, so that dividing by it is safe.

        Example:
            >>> images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
            >>> ImageSet(images, torch.tensor([0, 0]), ("any",), "two").channel_statistics()
            (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))

        """
        # Exact counts of the 256 values avoid rounding that would depend on the order of a sum.
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
        train: images for training.
        validation: images for the choice of models and settings, or None.
        test: images for the final evaluation, or None.
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


def from_arrays(
    images: Any,
    labels: Any,
    classes: Sequence[str] | None = None,
    *,
    channels: Channels = "auto",
    name: str = "arrays",
    allow_empty: bool = False,
) -> ImageSet:
    """Make an image set of arrays.

    Args:
        images: uint8 array (n, h, w), (n, c, *u) or (n, *u, c), or a sequence of such images of one size.
        labels: integers (n,) from 0.
        classes: names of the classes. Default: "0", "1", … up to the largest label.
        channels: whether the channels come "first" or "last"; "auto" decides by the shape, and refuses where it
            cannot, see `hcnn.data.channels.channels_first`.
        name: name of the set, in error messages too.
        allow_empty: whether classes may have no images.

    Returns:
        The set.

    Raises:
        ValueError: if types, shapes or lengths are not as above, the images have different sizes, or it cannot be
            told where their channels are.

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
            "Scale and round them first, because their range is not known here"
        )
    pixels = channels_first(pixels, channels, name=name)
    if not np.issubdtype(marks.dtype, np.integer):
        raise ValueError(f"{name}: expected integer labels; got {marks.dtype}")
    largest = int(marks.max()) if marks.size else -1
    if largest >= _MOST_CLASSES:  # before a name is made for each, and before int64 wraps around
        raise ValueError(f"{name}: expected labels from 0, below {_MOST_CLASSES:,}; got {largest}")
    if classes is None:
        classes = [str(i) for i in range(largest + 1)]
    return ImageSet(
        torch.from_numpy(np.array(pixels, order="C")),
        torch.from_numpy(marks.astype(np.int64)),
        tuple(str(one) for one in classes),
        name,
        allow_empty=allow_empty,
    )
