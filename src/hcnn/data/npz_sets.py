"""Labelled images in .npz files, under the names that MedMNIST, Keras and this package give them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hcnn.data.array_files import read_npz
from hcnn.data.channels import Channels
from hcnn.data.image_set import ImageSet, Splits, from_arrays

_PARTS = {
    "train": ("", "train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_IMAGES, _LABELS = ("images", "x"), ("labels", "y")
_EXPECTED = (
    "expected arrays images and labels, train_images and train_labels, or x_train and y_train; if wanted the same for "
    "val and test; and if wanted classes and channels"
)


def read_splits(path: Path) -> Splits:
    """The training, validation and test images of an .npz file.

    - ``images``, ``labels``, and for the other parts ``val_images``, ``val_labels``, ``test_images``, ``test_labels``;
    - MedMNIST's ``train_images``, ``train_labels`` and so on, with labels of shape (n, 1);
    - Keras's ``x_train``, ``y_train``, ``x_test``, ``y_test``, ``x_val``, ``y_val``.

    The case of letters does not matter. Labels are integers from 0, or text, whose values are then the classes.
    ``classes`` holds their names, in the order of the integers, and ``channels`` is "first" or "last" where the shape
    of the images does not tell.

    Args:
        path: of the file.

    Returns:
        The splits.

    Raises:
        ValueError: if the arrays have other names, or images and labels do not fit together; names the file.

    """
    found_arrays = read_npz(path)
    arrays = {name.lower(): array for name, array in found_arrays.items()}
    parts, used = {}, {"classes", "channels"}
    for part, names in _PARTS.items():
        found = [pair for name in names for pair in _names(name) if {*pair} & arrays.keys()]
        if len(found) > 1:
            raise ValueError(
                f"{path}: expected one array of {part} images; got {' and '.join(one for one, _ in found)}"
            )
        if found:
            parts[part] = found[0]
            used |= {*found[0]}
    complete = all(name in arrays for pair in parts.values() for name in pair)
    if "train" not in parts or not complete or not arrays.keys() <= used or len(arrays) < len(found_arrays):
        raise ValueError(f"{path}: {_EXPECTED}; got {', '.join(found_arrays) or 'none'}")
    classes = [_text(one) for one in arrays["classes"].ravel().tolist()] if "classes" in arrays else None
    channels: Any = _text(arrays["channels"].tolist()) if "channels" in arrays else "auto"
    if channels not in get_args(Channels):
        raise ValueError(f"{path}: channels: expected 'first', 'last' or 'auto'; got {channels[:60]!r}")
    sets = {}
    for part, names in parts.items():  # training images first
        sets[part] = _image_set(path, arrays, names, channels, classes, allow_empty=part != "train")
        classes = sets[part].classes
    return Splits(sets["train"], sets.get("validation"), sets.get("test"))


def _names(part: str) -> list[tuple[str, str]]:
    """The pairs of names of images and labels that a part may have."""
    if not part:
        return [("images", "labels")]
    return [
        pair
        for x, y in zip(_IMAGES, _LABELS, strict=True)
        for pair in ((f"{part}_{x}", f"{part}_{y}"), (f"{x}_{part}", f"{y}_{part}"))
    ]


def _image_set(
    path: Path,
    arrays: dict[str, np.ndarray],
    names: tuple[str, str],
    channels: Channels,
    classes: Sequence[str] | None,
    *,
    allow_empty: bool,
) -> ImageSet:
    images, labels = (arrays[name] for name in names)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as MedMNIST and Keras have them
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"{path}: {names[1]}: expected one label for each image, (n,) or (n, 1); got shape {labels.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{path}: {names[1]}: expected a label for each image of {names[0]}, whose shape is {images.shape}; got "
            f"{len(labels):,}"
        )
    if labels.dtype.kind not in "iuUS":
        raise ValueError(f"{path}: {names[1]}: expected whole numbers or text; got {labels.dtype}")
    if labels.dtype.kind in "US":
        words = [_text(one) for one in labels.tolist()]
        classes = sorted({*words}) if classes is None else classes
        unknown = sorted({*words} - {*classes})
        if unknown:
            raise ValueError(
                f"{path}: {names[1]}: expected labels among {', '.join(classes[:10])}; got {', '.join(unknown[:10])}"
            )
        index = {name: i for i, name in enumerate(classes)}
        labels = np.array([index[word] for word in words], np.int64)
    bad = (labels < 0) | (False if classes is None else labels >= len(classes))
    if bad.any():
        most = "" if classes is None else f" to {len(classes) - 1}, for {len(classes)} classes"
        at = int(bad.argmax())
        raise ValueError(f"{path}: {names[1]}: expected labels from 0{most}; got {labels[at]} at image {at}")
    return from_arrays(images, labels, classes, channels=channels, name=f"{path}: {names[0]}", allow_empty=allow_empty)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
