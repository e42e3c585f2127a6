"""Random numbers that are a hash of their purpose: there is no generator, and no state is kept."""

import functools

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # splitmix64 (Steele, Lea, Flood 2014)
_QUANTILES = 1025


def counter_uniform(seed: int, epoch: int, index: Tensor, stream: int) -> Tensor:
    """Uniform numbers in [0, 1) that are a hash of the arguments: splitmix64 at chosen positions of its sequence.

    ``u = mix(key + index · golden) / 2⁶⁴``, rounded down to 24 bits, where `key` hashes (seed, epoch, stream).

    Args:
        seed: random seed of the run.
        epoch: number of the epoch.
        index: int64 tensor of any shape, the index of the image.
        stream: number of the draw for that image; streams are independent.

    Returns:
        float32 tensor of the shape of `index`, on its device: the same numbers on every device.

    Raises:
        ValueError: if `index` is not int64.

    Example:
        >>> both = counter_uniform(0, 3, torch.tensor([5, 9]), 0)
        >>> bool(both[1] == counter_uniform(0, 3, torch.tensor(9), 0))
        True

    """
    if index.dtype != torch.int64:
        raise ValueError(f"counter_uniform: expected int64 indices; got {index.dtype}")
    key = 0
    for value in (seed, epoch, stream):
        key = _mix(key + _GOLDEN + value)
    z = index * _signed(_GOLDEN) + _signed(key)  # int64 wraps around, as the hash wants
    for shift, factor in _MIX:
        z = (z ^ _shift_right(z, shift)) * _signed(factor)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).to(torch.float32) * 2.0**-24


def beta_quantile(uniform: Tensor, alpha: float) -> Tensor:
    """Turn uniform numbers into Beta(α, α) numbers with a table of the inverse distribution function."""
    table = _beta_table(alpha, uniform.device)
    lower = uniform < 0.5  # the distribution is symmetric: the table covers its lower half
    place = torch.where(lower, uniform, 1 - uniform) * (2 * (len(table) - 1))
    left = place.long().clamp_(max=len(table) - 2)
    small = torch.lerp(table[left], table[left + 1], place - left) ** (1 / min(alpha, 1.0))
    return torch.where(lower, small, 1 - small)


@functools.lru_cache(maxsize=16)
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    """Quantiles of y = λ^min(α, 1) for λ ~ Beta(α, α), at probabilities evenly spaced from 0 to 1/2.

    The density in λ, (λ (1 - λ))^(α-1), has a pole at 0 for α < 1; in y it is bounded.
    """
    power = min(alpha, 1.0)
    y = np.linspace(0, 0.5**power, 1 << 16)
    density = (4 * (1 - y ** (1 / power))) ** (alpha - 1) * y ** (alpha / power - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    quantiles = np.interp(np.linspace(0, 1, _QUANTILES), mass / mass[-1], y)
    return torch.tensor(quantiles, dtype=torch.float32, device=device)


def _mix(z: int) -> int:
    z &= _MASK
    for shift, factor in _MIX:
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return z ^ (z >> 31)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros; int64 alone would fill with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
