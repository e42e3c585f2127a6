""".npz files as MedMNIST, Keras and others write them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hcnn.data import datasets
from hcnn.data.image_set import Splits


def images(count: int, *, channels: int = 0) -> np.ndarray:
    shape = (count, 8, 8, channels) if channels else (count, 8, 8)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def load(folder: Path, **arrays: Any) -> Splits:
    np.savez(folder / "set.npz", **arrays)
    return datasets.load(folder / "set.npz")


def column(*labels: int) -> np.ndarray:
    return np.array(labels, np.uint8)[:, None]


def test_medmnist(tmp_path) -> None:
    splits = load(
        tmp_path, train_images=images(4, channels=3), train_labels=column(0, 1, 2, 1), val_images=images(2, channels=3),
        val_labels=column(2, 0), test_images=images(3, channels=3), test_labels=column(1, 1, 0),
    )  # fmt: skip
    assert splits.validation is not None
    assert splits.test is not None
    assert [len(one) for one in (splits.train, splits.validation, splits.test)] == [4, 2, 3]
    assert splits.validation.labels.tolist() == [2, 0]
    assert splits.train.classes == ("0", "1", "2")
    assert splits.train.images.shape == (4, 3, 8, 8)
    assert np.array_equal(splits.test.images.permute(0, 2, 3, 1), images(3, channels=3))


@pytest.mark.parametrize("capital", [False, True])
def test_keras(tmp_path, capital) -> None:
    x = "X" if capital else "x"
    arrays = {f"{x}_train": images(3), "y_train": [0, 1, 1], f"{x}_test": images(2), "y_test": [1, 1]}
    splits = load(tmp_path, **arrays)
    assert splits.test is not None
    assert splits.validation is None
    assert (splits.train.labels.tolist(), splits.test.labels.tolist()) == ([0, 1, 1], [1, 1])


def test_labels_may_be_text(tmp_path) -> None:
    splits = load(tmp_path, images=images(3), labels=["dog", "cat", "dog"], test_images=images(1), test_labels=[b"dog"])
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.test is not None
    assert splits.test.labels.tolist() == [1]
    named = load(tmp_path, images=images(2), labels=["dog", "cat"], classes=["dog", "cat"])
    assert (named.train.classes, named.train.labels.tolist()) == (("dog", "cat"), [0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": images(2), "labels": [0, 1]}, "expected arrays images and labels, .*; got pictures, labels"),
        ({"images": images(2)}, "expected arrays images and labels, .*; got images"),
        ({"test_images": images(2), "test_labels": [0, 1]}, "expected arrays images .*; got test_images, test_labels"),
        (
            {"images": images(2), "labels": [0, 1], "x_train": images(2), "y_train": [0, 1]},
            "expected one array of train images; got images and x_train",
        ),
        (
            {"images": images(2), "labels": [0, 1], "x_val": images(2)},
            "expected arrays images .*got images, labels, x_",
        ),
        ({"x_train": images(2), "X_train": images(2), "y_train": [0, 1]}, ".*; got x_train, X_train, y_train"),
        (
            {"images": images(2), "labels": np.eye(2, 14, dtype=np.uint8)},
            r"labels: expected one label for each image, \(n,\) or \(n, 1\); got shape \(2, 14\)",
        ),
        (
            {"images": images(2), "labels": ["a", "b"], "test_images": images(1), "test_labels": ["c"]},
            "test_labels: expected labels among a, b; got c",
        ),
        (
            {"x_train": images(2), "y_train": [0, 1, 1]},
            r"y_train: expected a label for each image of x_train, whose shape is \(2, 8, 8\); got 3",
        ),
        ({"x_train": images(2), "y_train": [0, 0.5]}, "y_train: expected whole numbers or text; got float64"),
        ({"x_train": images(2), "y_train": [0, -1]}, "y_train: expected labels from 0; got -1"),
        (
            {"images": images(2), "labels": [0, 2], "classes": ["a", "b"]},
            "labels: expected labels from 0 to 1, for 2 classes; got 2",
        ),
        (
            {"images": 5, "labels": [0]},
            r"labels: expected a label for each image of images, whose shape is \(\); got 1",
        ),
        ({"images": images(2), "labels": [0, 1], "channels": "third"}, "channels: expected 'first', .*; got 'third'"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message) -> None:
    with pytest.raises(ValueError, match=rf"set\.npz: {message}"):
        load(tmp_path, **arrays)


@pytest.mark.parametrize("validation", ["valid", "val", "dev", "validation", "Validation"])
def test_folders_of_parts(tmp_path, validation) -> None:
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 2), (validation, 1), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i, pixels in enumerate(images(count)):
                image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    splits = datasets.load(tmp_path)
    assert splits.validation is not None
    assert splits.test is not None
    assert [len(one) for one in (splits.train, splits.validation, splits.test)] == [4, 2, 6]
