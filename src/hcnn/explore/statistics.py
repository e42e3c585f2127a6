"""Numbers about translations along attributes, per query image, and their means and intervals by bootstrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hcnn.explore import shifts
from hcnn.explore.arrays import Arrays
from hcnn.explore.neighbours import Space
from hcnn.explore.sources import Source, attribute_dim


class Bootstrap:
    """Resamples of queries, the same for everything that is measured on them, so that differences are paired.

    Intervals are percentile intervals. Queries are drawn with replacement while the network and the database stay
    fixed, so an interval shows how much a number depends on the choice of queries, and nothing about other training
    runs.

    Args:
        n: number of queries.
        resamples: number of resamples.
        seed: random seed.

    Example:
        >>> boot = Bootstrap(200)
        >>> low, high = boot.interval(boot.means(torch.arange(200.0)))
        >>> bool(90 < low < 99.5 < high < 109)
        True

    """

    def __init__(self, n: int, resamples: int = 2000, seed: int = 0) -> None:
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        self.weights = torch.from_numpy(counts).double() / n  # (resamples, n)

    def means(self, values: Tensor) -> Tensor:
        """Means over queries in each resample: (..., n) -> (..., resamples)."""
        return values.double() @ self.weights.T

    def interval(self, samples: Tensor) -> tuple[float, float]:
        """The central 95 % of (resamples,) numbers."""
        outside = (1 - 0.95) / 2
        low, high = torch.quantile(samples, torch.tensor([outside, 1 - outside], dtype=samples.dtype)).tolist()
        return low, high


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(values: Tensor, boot: Bootstrap) -> Estimate:
    """The mean of (n,) numbers, one per query, with its interval."""
    return Estimate(float(values.double().mean()), *boot.interval(boot.means(values)))


# ----------------------------------------------------------------------------------------------- class consistency


@dataclass(frozen=True)
class Questions:
    """The queries: arrays of some images, whose neighbours are searched for in the database.

    Attributes:
        arrays: per depth (n, v_{j-1}, v_j), not smoothed.
        labels: (n,).
        members: (n,), their numbers in the database, where they must not find themselves; None if they are not in it.

    """

    arrays: Mapping[int, Tensor]
    labels: Tensor
    members: Tensor | None = None


def class_consistency(
    base: Arrays,
    labels: Tensor,
    questions: Questions,
    j: int,
    axis: str,
    *,
    order: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Whether the image nearest to a query's array, translated by τ, has the query's class.

    Args:
        base: arrays of the database.
        labels: its classes.
        questions: the queries.
        j: depth.
        axis: the attribute, v_{j-1} or v_j; arrays are smoothed along it.
        order: take the attribute's values in this order instead of their own (the control).

    Returns:
        Same class, and near enough: bool (τ, n), τ = 0 … size - 1.

    """
    space = Space(replace(base, folder=None), j, [axis], orders=None if order is None else {axis: order})
    moves = [{axis: tau} for tau in range(space.shape[space.dim(axis)])]
    moved = space.moved(questions.arrays[j], moves)  # (n, τ, …)
    taus = moved.shape[1]
    exclude = None if questions.members is None else questions.members.repeat_interleave(taus)
    found = space.nearest(moved.flatten(0, 1), exclude=exclude)
    same = labels[found.indices[:, 0]].unflatten(0, (-1, taus)) == questions.labels[:, None]
    return same.T, found.near[:, 0].unflatten(0, (-1, taus)).T


# ------------------------------------------------------------------------------------------------ path smoothness


def path_distances(arrays: Tensor, axis: int, amounts: Sequence[float], *, smooth: bool = True) -> Tensor:
    """How far an array moves when it is translated: ||x̄ - T_τ x̄||² divided by that of two random images.

    Args:
        arrays: (n, v_{j-1}, v_j), of many images.
        axis: dimension of the attribute.
        amounts: translations τ.
        smooth: whether to smooth along the attribute first, as the paper does.

    Returns:
        float64 (amounts, n). 1 means as far as a random other image.

    Raises:
        ValueError: if all arrays are the same.

    """
    x = (shifts.smooth(arrays, axis) if smooth else arrays).double()
    _check_different(x, "arrays")
    apart = 2 * (x - x.mean(0)).square().sum((1, 2)).mean()
    return torch.stack([(x - shifts.shift(x, axis, tau)).square().sum((1, 2)) / apart for tau in amounts])


def roughness(arrays: Tensor, axis: int) -> Tensor:
    """How much neighbouring values of an attribute differ: squared differences of neighbours over those of all pairs.

    Arrays are not smoothed. The mean over all orders is exactly 1; it is less where arrays vary smoothly.

    Args:
        arrays: (n, v_{j-1}, v_j).
        axis: dimension of the attribute, of 4 values or more (with 3 all pairs are neighbours).

    Returns:
        float64 (2, n): for each image the sum over neighbours, and the mean of the sums over all distances. The
        roughness of some images is the ratio of the means over them.

    """
    x = arrays.double()
    gaps = torch.stack([(x - x.roll(k, axis)).square().sum((1, 2)) for k in range(1, x.shape[axis])])
    return torch.stack([gaps[0], gaps.mean(0)])


# -------------------------------------------------------------------------------------------------------- flatness


def flatness(
    source: Source, x: Tensor, j: int, axis: str, *, order: Sequence[int] | None = None, batch: int = 250
) -> tuple[Tensor, Tensor, Tensor]:
    """How much the class scores change when all of x_j is translated; see Proposition 3.1.

    Args:
        source: the network.
        x: standardized images (n, c, *u).
        j: depth.
        axis: the attribute, v_{j-2}, v_{j-1} or v_j.
        order: translate along this order of the values instead of their own (the control).
        batch: number of images processed at a time.

    Returns:
        For τ = 1 … size - 1, each (τ, n): whether the predicted class stays; total variation between the class
        probabilities before and after, 0 … 1; squared change of the logits divided by that between two random images.

    Raises:
        ValueError: if the logits of all images are the same.

    """
    dim = attribute_dim(axis, j, newest_at=-1)
    size = source.sizes()[j][dim]
    forth = torch.tensor(range(size) if order is None else list(order), device=x.device)
    back = forth.argsort()

    def move(tau: int, values: Tensor) -> Tensor:
        return values.index_select(dim, forth).roll(tau, dim).index_select(dim, back)

    moves = [lambda values, tau=tau: move(tau, values) for tau in range(size)]
    logits = torch.cat([source.scores(part, j, moves).cpu() for part in x.split(batch)], 1).double()
    start, moved = logits[0], logits[1:]
    _check_different(start, "class scores")
    centred = start - start.mean(1, keepdim=True)  # adding the same to all logits changes nothing
    apart = 2 * (centred - centred.mean(0)).square().sum(1).mean()
    change = moved - start
    change = (change - change.mean(2, keepdim=True)).square().sum(2) / apart
    variation = (moved.softmax(2) - start.softmax(1)).abs().sum(2) / 2
    return moved.argmax(2) == start.argmax(1), variation, change


def _check_different(values: Tensor, what: str) -> None:
    """Refuse values (n, …) that are the same for all images: their distance would be the unit of all others."""
    if bool((values == values[:1]).all()):
        raise ValueError(
            f"expected {what} that differ between images; those of all {len(values)} are the same, so that no distance "
            "can be measured in that of two random images"
        )
