"""Translations of invariant arrays along an attribute: smoothing, whole and fractional shifts, and shuffled orders."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def smooth(arrays: Tensor, axis: int) -> Tensor:
    """Average consecutive samples along an attribute, periodically: ``y(v) = (x(v) + x(v+1)) / 2``.

    Paper, section 5.3: high frequencies are eliminated before a translation is computed. Law: smoothing commutes with
    every translation, and removes the highest frequency of an even axis, so that fractional shifts keep all distances.

    Args:
        arrays: any array.
        axis: dimension of the attribute.

    Returns:
        An array of the same shape.

    Example:
        >>> smooth(torch.tensor([0.0, 2.0, 4.0, 2.0]), 0)
        tensor([1., 3., 3., 1.])

    """
    return (arrays + arrays.roll(-1, axis)) / 2


def shift(arrays: Tensor, axis: int, amount: float) -> Tensor:
    """Translate along an attribute, periodically: ``y(v) = x(v - amount)``.

    A whole amount rolls the array exactly. A fractional one interpolates with the Fourier transform: every frequency is
    rotated by its phase; the highest one of an even axis, whose phase is not determined, is multiplied by the cosine.

    Args:
        arrays: any array of floats.
        axis: dimension of the attribute.
        amount: τ, of either sign, in values of the attribute.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: if the amount is not finite.

    Example:
        >>> shift(torch.tensor([1.0, 2.0, 3.0, 4.0]), 0, 1)
        tensor([4., 1., 2., 3.])
        >>> wave = torch.cos(torch.arange(8) * torch.pi / 4)
        >>> torch.allclose(shift(wave, 0, 0.5), torch.cos((torch.arange(8) - 0.5) * torch.pi / 4), atol=1e-6)
        True

    """
    if not math.isfinite(amount):
        raise ValueError(f"shift: expected a finite amount; got {amount}")
    if float(amount).is_integer():
        return arrays.roll(int(amount), axis)
    size = arrays.shape[axis]
    spectrum = torch.fft.rfft(arrays, dim=axis)
    turned = spectrum.movedim(axis, -1) * phases([amount], size, spectrum.device)[0].to(spectrum.dtype)
    return torch.fft.irfft(turned.movedim(-1, axis), n=size, dim=axis)


def phases(amounts: Sequence[float], size: int, device: torch.device | str = "cpu") -> Tensor:
    """The factors by which a translation multiplies the frequencies of a real array, as `shift` does.

    Args:
        amounts: translations.
        size: values of the attribute.
        device: the device of the result.

    Returns:
        complex128 (amounts, size // 2 + 1).

    """
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64, device=device)
    angle = -2 * torch.pi / size * torch.as_tensor(amounts, dtype=torch.float64, device=device)[:, None] * frequency
    result = torch.polar(torch.ones_like(angle), angle)
    if size % 2 == 0:
        result[:, -1] = result[:, -1].real.to(result.dtype)
    return result


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
