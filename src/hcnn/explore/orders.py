"""Whether the own order of an attribute's values is special among all orders: a randomization test."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 20_000  # where the combinations of orders are too many to count


@dataclass(frozen=True)
class OrderTest:
    """How an attribute's own order differs from shuffled ones.

    Attributes:
        deviation: mean over depths of (own - mean over orders) / standard deviation over orders.
        p: two-sided p-value.
        smallest: the smallest p-value that these numbers of orders allow.

    """

    deviation: float
    p: float
    smallest: float


def order_test(values: Sequence[Sequence[float]], *, seed: int = 0) -> OrderTest:
    """Compare the own orders of some attributes with shuffled ones, all attributes together.

    If the order of an attribute means nothing, the own order is one like any other: whatever the images and the
    weights are, its value is equally likely to be any of the values of all orders. So the deviation of the own orders
    is compared with the deviations of all combinations of orders, one order for each attribute (or 20,000 random
    combinations, if there are more). An interval over images does not answer this question: two particular orders
    nearly always differ by more than the choice of images explains.

    Args:
        values: for each attribute the statistic in the own order, then in each shuffled order. The attributes must be
            different ones; v_{j-1} of one depth and v_j of the depth before are the same.
        seed: random seed for the combinations.

    Returns:
        The test.

    Raises:
        ValueError: without an attribute that has a shuffled order.

    Example:
        >>> order_test([[0.1, 0.5, 0.6], [0.2, 0.7, 0.4], [0.1, 0.3, 0.5]])  # below both other orders, three times
        OrderTest(deviation=-1.2..., p=0.037..., smallest=0.037...)

    """
    if not values or any(np.ndim(one) != 1 or len(one) < 2 for one in values):
        raise ValueError("order_test: expected a value for the own order and for one shuffled order or more, each time")
    scores = [_standardized(one) for one in values]
    count = math.prod(map(len, scores))
    if count <= _DRAWS:
        sums = np.array([sum(chosen) for chosen in itertools.product(*scores)])
    else:
        random = np.random.default_rng(seed)
        drawn = np.sum([one[random.integers(0, len(one), _DRAWS)] for one in scores], 0)
        sums = np.append(drawn, sum(one[0] for one in scores))  # the own orders are one of the combinations
    own, sizes = sum(one[0] for one in scores), np.abs(sums)
    far = float(np.mean(sizes >= abs(own) - 1e-9))
    return OrderTest(float(own / len(scores)), far, float(np.mean(sizes >= sizes.max() - 1e-9)))


def _standardized(values: Sequence[float]) -> np.ndarray:
    centred = np.array(values, dtype=np.float64) - np.mean(values)
    spread = centred.std()
    return centred / spread if spread > 1e-12 * np.abs(values).max() else np.zeros_like(centred)
