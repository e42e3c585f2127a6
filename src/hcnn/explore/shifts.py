"""Translations of invariant arrays along an attribute, and shuffled orders of its values: the control."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from hcnn.functional.shifts import phases, shift, smooth

__all__ = ["phases", "shift", "shuffled_orders", "smooth", "translate"]


def translate(arrays: Tensor, amounts: Mapping[int, float]) -> Tensor:
    """Translate arrays along several of their dimensions by `shift`, each by its amount."""
    for dim, amount in amounts.items():
        arrays = shift(arrays, dim, amount)
    return arrays


def shuffled_orders(size: int, count: int, seed: int = 0) -> list[list[int]]:
    """Random orders of an attribute's values: the control for the effect of the order.

    Orders v → m·v + c of the original one (with m coprime to the size) are left out: rotations and reflections keep
    neighbours, and the others keep the cyclic group, which is all that a filter as long as a periodic axis can use. Up
    to rotation and reflection, each order occurs once.

    Args:
        size: number of values of the attribute.
        count: number of orders.
        seed: random seed.

    Returns:
        Distinct permutations of ``range(size)``, at most `count`: two for a size of 4, and none below.

    Example:
        >>> shuffled_orders(3, 5), len(shuffled_orders(4, 5)), len(shuffled_orders(8, 5))
        ([], 2, 5)

    """
    units = [m for m in range(1, size + 1) if math.gcd(m, size) == 1]
    seen = {_canonical([(m * v) % size for v in range(size)]) for m in units}
    random, found = np.random.default_rng((size, seed)), []
    for _ in range(200 * count if size > 3 else 0):
        order = [int(v) for v in random.permutation(size)]
        if (name := _canonical(order)) not in seen:
            seen.add(name)
            found.append(order)
            if len(found) == count:
                break
    return found


def _canonical(order: Sequence[int]) -> tuple[int, ...]:
    """The same tuple for all rotations and reflections of a circular order: 0 first, then its lower neighbour."""
    start = list(order).index(0)
    turned = [*order[start:], *order[:start]]
    return tuple(min(turned, [turned[0], *reversed(turned[1:])]))
