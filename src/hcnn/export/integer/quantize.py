"""From a chain of convolutions to the integers that a microcontroller computes with.

An array x_j is kept in 8 bits, ``x ≈ scale · (q - zero)``, with a range from calibration images. Weights are symmetric
in 8 bits with one scale per filter. A sum of products is rescaled by an integer multiplier and a shift to a unit of
2^-F, where the activation is applied (ELU from a table) and the values of the oldest attribute are added; a second
multiplier gives the 8 bits of the next array. Nothing else is rounded.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hcnn.export.integer.chain import Chain, Convolution, Integers

ELU_BITS = 10  # F of a layer with an ELU: its table counts in 2^-10
ELU_STEP = 4  # the table's entries are 2^4 such units, a 64th, apart
LIMIT = 2**31
LARGEST_BIAS = 2**24  # in units of the sums of products
_SAMPLE = 500_000  # values of an array that decide its range


def elu_table() -> Integers:
    """256 values of exp(x) - 1 in units of 2^-10, at x = 0, -1/64, -2/64, …; the last one serves for all below.

    Example:
        >>> elu_table()[[0, 64, 255]].tolist()
        [0, -647, -1017]
    """
    x = np.arange(256) / -64.0
    x[-1] = -5  # where it lies half way between exp(-255/64) and 0, about
    return np.round((np.exp(x) - 1) * 2**ELU_BITS).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Rescale:
    """``(left · a · multiplier + 2^(31 + right)) >> (32 + right)``, a rounded product with a number per filter.

    Attributes:
        multiplier: (n,) of at most 31 bits.
        left: a power of two.
        right: a shift from 1 to 30, so that the rounding is one addition to the upper 32 bits of the product.
    """

    multiplier: Integers
    left: int
    right: int


@dataclass(frozen=True, eq=False)
class IntegerConvolution:
    """A convolution in integers.

    Attributes:
        convolution: its geometry; its weights are not used.
        weight: int8, shaped as there.
        bias: int32 (older out · outputs, filters), in units of the sums of products.
        inner: from these sums to 2^-F, one multiplier per filter.
        residual: from the 8 bits of the array that is added to 2^-F, or None.
        outer: from 2^-F to 8 bits.
        zero: the 8 bits that stand for 0 in its output.
    """

    convolution: Convolution
    weight: NDArray[np.int8]
    bias: Integers
    inner: Rescale
    residual: Rescale | None
    outer: Rescale
    zero: int


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network in integers; `hcnn.export.integer.evaluate.integer_logits` says what it computes.

    Attributes:
        chain: the network that it was made from.
        pixel_zero: (channels,), the byte nearest to the mean, which stands for 0 in the image.
        convolutions: in the order they compute.
        readout: int8 (classes, newest), or None where the sums over space and older attributes are the logits.
        readout_bias: int32 (classes,).
        sign: 1, or -1 where the learned scale of the means is negative.
        unit: what one step of the integer logits stands for.
        scales: of each array, the image excepted.
    """

    chain: Chain
    pixel_zero: Integers
    convolutions: tuple[IntegerConvolution, ...]
    readout: NDArray[np.int8] | None
    readout_bias: Integers
    sign: int
    unit: float
    scales: tuple[float, ...]


def rescaling(scales: NDArray[np.float64], largest: int, what: str) -> Rescale:
    """The multipliers and shifts nearest to real scales.

    Args:
        scales: positive numbers.
        largest: no value to rescale is larger.
        what: for errors.

    Returns:
        A rescaling exact to about 2^-30 of the largest scale.

    Raises:
        ValueError: if the values could leave 32 bits.

    Example:
        >>> by = rescaling(np.array([0.5, 0.125]), 1000, "an array")
        >>> [(by.left * 100 * int(m) + (1 << 31 + by.right)) >> (32 + by.right) for m in by.multiplier]
        [50, 13]
    """
    top = float(scales.max())
    left = max(0, math.ceil(math.log2(top)) + 2)
    right = min(30, math.floor(-math.log2(top / 2**left)) - 1)
    multiplier = np.minimum(np.round(scales * 2.0 ** (32 + right - left)), LIMIT - 1).astype(np.int64)
    if largest << left >= LIMIT:
        raise ValueError(
            f"export c --int8: {what} cannot be quantized: values up to {largest * top:.3g} steps of its range "
            "do not fit in 32 bits"
        )
    return Rescale(multiplier, 1 << left, right)


def array_range(values: Tensor) -> tuple[float, int]:
    """The scale and zero of 8 bits for an array: the clipping with the least squared error on these values.

    Args:
        values: of calibration images, all of them.

    Returns:
        scale and zero, with ``x ≈ scale · (q - zero)``, q from -128 to 127.

    Raises:
        ValueError: for values that are not finite.

    Example:
        >>> scale, zero = array_range(torch.linspace(-1, 3, 1000))
        >>> round(scale * 255, 1), zero
        (4.0, -64)
    """
    flat = values.flatten()
    if not flat.isfinite().all():
        raise ValueError("export c --int8: the network gives values that are not finite on the calibration images")
    if len(flat) > _SAMPLE:  # drawn, because every k-th value may lie in the same few columns
        flat = flat[torch.randint(len(flat), (_SAMPLE,), generator=torch.Generator().manual_seed(0))]
    low, high = min(0.0, float(flat.min())), max(0.0, float(flat.max()))
    best = (math.inf, 1.0, 0)
    for share in np.linspace(0.5, 1.0, 26).tolist():
        scale = max((high * share - low) / 255, 2.0**-20)
        zero = round(-128 - low / scale)
        codes = ((flat / scale).round() + zero).clamp(-128, 127)
        error = float(((codes - zero) * scale - flat).square().mean())
        best = min(best, (error, scale, zero))
    return best[1], best[2]


@torch.no_grad()
def quantize(chain: Chain, calibration: Tensor) -> IntegerNetwork:
    """Round a chain to integers.

    Args:
        chain: the network.
        calibration: uint8 training images (n, c, *u), at least one, whose arrays determine the ranges.

    Returns:
        The network in integers.

    Raises:
        ValueError: if its values do not fit.

    """
    arrays = [torch.cat(parts) for parts in zip(*map(chain.arrays, calibration.split(64)), strict=True)]
    mean, std = (np.array(one) for one in (chain.preprocessing.mean, chain.preprocessing.std))
    pixel, pixel_zero = 1 / (255 * std), np.round(255 * mean).astype(np.int64)
    scales = [1.0]
    convolutions = []
    for number, layer in enumerate(chain.convolutions, start=1):
        what = f"convolution {number}"
        scale, zero = array_range(arrays[number])
        weight, bias = layer.weight, layer.bias
        if layer.source == 0:  # the image's scales, one per channel, go into the weights
            offset = (pixel_zero - 255 * mean) * pixel
            bias = bias + np.einsum("ktcyx,c->k", weight, offset)
            weight = weight * pixel[:, None, None]
        if layer.activation == "elu":
            bits, scale = ELU_BITS, max(scale, 2.0 ** (2 - ELU_BITS))
        else:
            bits = 6 - math.floor(math.log2(scale))
        # A filter without weights, as after pruning, still has a bias.
        least = np.abs(bias).max(0) / (scales[layer.source] * LARGEST_BIAS)
        steps = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / 127, least.clip(1e-30))
        codes = np.round(weight / steps.reshape(-1, 1, 1, 1, 1)).astype(np.int8)
        sums = steps * scales[layer.source]
        integer_bias = np.round(bias / sums).astype(np.int64)
        products = int((layer.index >= 0).sum(1).max()) * layer.weight.shape[2] * math.prod(layer.support)
        largest = products * 127 * 255 + int(np.abs(integer_bias).max())
        if largest >= LIMIT:
            raise ValueError(f"export c --int8: {what} cannot be quantized: its sums do not fit in 32 bits")
        added = None
        if layer.residual is not None:
            added = rescaling(np.array([scales[layer.residual] * 2.0**bits]), 255, what)
        outer = rescaling(np.array([1 / (layer.averaged * scale * 2.0**bits)]), LIMIT // 4, what)
        inner = rescaling(sums * 2.0**bits, largest, what)
        convolutions.append(IntegerConvolution(layer, codes, integer_bias, inner, added, outer, zero))
        scales.append(scale)
    places = arrays[-1][0].numel() // chain.newest
    unit = scales[-1] / places
    if chain.readout is None:
        none = np.zeros(chain.newest, np.int64)
        sign = -1 if chain.scale < 0 else 1
        return IntegerNetwork(
            chain, pixel_zero, tuple(convolutions), None, none, sign, unit * abs(chain.scale), tuple(scales[1:])
        )
    largest_bias = float(np.abs(chain.readout_bias).max())
    step = max(float(np.abs(chain.readout).max()) / 127, 4 * largest_bias / (LIMIT * unit)) or 1.0
    readout = np.round(chain.readout / step).astype(np.int8)
    readout_bias = np.round(chain.readout_bias / (step * unit)).astype(np.int64)
    if places * chain.newest * 255 * 127 + int(np.abs(readout_bias).max()) >= LIMIT:
        raise ValueError("export c --int8: the logits do not fit in 32 bits")
    return IntegerNetwork(
        chain, pixel_zero, tuple(convolutions), readout, readout_bias, 1, step * unit, tuple(scales[1:])
    )
