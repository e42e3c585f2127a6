"""Random choices that are the same everywhere: the order of an epoch, the images that are set aside.

Every choice is made from the raw output of NumPy's PCG64, which NumPy promises to keep from version to version and on
every platform (it makes no such promise for `Generator.permutation`), so a split never changes.
"""

from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from hcnn.data.image_set import Splits

# One stream of random numbers for each purpose.
DIGITS_SPLIT, VALIDATION, ORDER, FEWER = 1, 2, 3, 4


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of the n training images in an epoch. It depends on (seed, epoch) alone: there is no state to save.

    Args:
        n: number of images.
        seed: random seed of the run, not negative.
        epoch: number of the epoch, from 0.

    Returns:
        A permutation of 0 … n - 1, int64.

    Example:
        >>> epoch_order(8, seed=0, epoch=1)
        tensor([...])

    """
    return torch.from_numpy(_permutation(n, ORDER, seed, epoch))


def stratified_split(labels: Tensor, count: int, *key: int) -> tuple[Tensor, Tensor]:
    """Choose `count` images at random in the proportions of the classes.

    Each class contributes its share, rounded down; the remaining images are taken one by one from the classes with
    the largest remainders. The last image of a class is never taken.

    Args:
        labels: int64 (n,).
        count: how many to choose.
        key: integers that determine the choice, none negative.

    Returns:
        The indices of the other images and those of the chosen ones, each in ascending order.

    Raises:
        ValueError: if `count` images cannot be chosen this way.

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
    """The same splits with fewer training images, drawn in the proportions of the classes.

    Args:
        splits: the splits, which are not changed.
        count: number of training images to keep.
        seed: random seed for the draw.

    Returns:
        Splits with a smaller training set.

    Raises:
        ValueError: if `count` is not below the number of training images.
    """
    train = splits.train
    most = len(train) - len(train.labels.unique())  # at least one image of each class is left out
    if not isinstance(count, Integral) or not 1 <= count <= most:
        raise ValueError(f"{train.name}: train_images: expected 1 to {most:,}; got {count!r}")
    _, chosen = stratified_split(train.labels, int(count), FEWER, seed)
    return Splits(train.subset(chosen), splits.validation, splits.test, splits.skipped)


def spread(n: int, count: int) -> Tensor:
    """The numbers of at most `count` of n images, evenly spaced, because images may be ordered by class.

    Example:
        >>> spread(9, 3), spread(2, 3)
        (tensor([0, 4, 8]), tensor([0, 1]))
    """
    return torch.from_numpy(np.linspace(0, n - 1, min(count, n)).astype(np.int64))


def _permutation(n: int, *key: int) -> np.ndarray:
    if min(key) < 0:
        raise ValueError(f"expected seed and epoch not to be negative; got {key[1:]}")
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(n), kind="stable")


def set_aside(splits: Splits, count: int, seed: int) -> Splits:
    """The same splits with a validation set taken from the training images, in the proportions of the classes.

    Args:
        splits: the splits, which are not changed.
        count: number of training images to set aside, or 0.
        seed: random seed for the draw.

    Returns:
        Splits with a validation set and a smaller training set.

    Raises:
        ValueError: if the data already has a validation set, or `count` images cannot be set aside.

    """
    if not isinstance(count, Integral) or count < 0:
        raise ValueError(f"validation: expected a number of images, 0 or more; got {count!r}")
    if not count:
        return splits
    train = splits.train
    if splits.validation is not None:
        raise ValueError(f"{splits.validation.name}: the data has a validation set; expected validation=0, got {count}")
    try:
        rest, chosen = stratified_split(train.labels, int(count), VALIDATION, seed)
    except ValueError as error:
        raise ValueError(f"{train.name}: validation: {error}") from error
    name = train.name.removesuffix("/train") + "/validation"
    return Splits(train.subset(rest, train.name), train.subset(chosen, name), splits.test, splits.skipped)
