"""What an integer network computes, written with NumPy: the C file gives the same integers."""

import numpy as np
from numpy.typing import NDArray

from hcnn.export.integer.chain import Integers
from hcnn.export.integer.quantize import ELU_STEP, IntegerConvolution, IntegerNetwork, elu_table


def logits(network: IntegerNetwork, images: NDArray[np.uint8]) -> Integers:
    """Integer logits of images.

    Args:
        network: a quantized network.
        images: bytes (n, channels, *u).

    Returns:
        (n, classes); times `network.unit` they are near the logits of the network that it was made from.

    """
    chain = network.chain
    pixels = images.reshape(*images.shape[:2], *chain.size).astype(np.int64)
    arrays = [pixels - network.pixel_zero[:, None, None]]  # each with its zero subtracted
    for layer in network.convolutions:
        residual = layer.convolution.residual
        codes = convolve(layer, arrays[layer.convolution.source], None if residual is None else arrays[residual])
        arrays.append(codes - layer.zero)
    pooled = arrays[-1].sum((2, 3)).reshape(len(images), -1, chain.newest).sum(1)
    if network.readout is None:
        return network.sign * pooled
    return pooled @ network.readout.astype(np.int64).T + network.readout_bias


def convolve(layer: IntegerConvolution, x: Integers, residual: Integers | None = None) -> Integers:
    """The 8 bits that a convolution writes.

    Args:
        layer: a convolution.
        x: (n, channels, height, width), its zero subtracted.
        residual: the array that it adds, its zero subtracted.

    Returns:
        (n, maps, height', width'), from -128 to 127.

    """
    geometry = layer.convolution
    sums = _sums(layer, x)  # (n, older · outputs, filters, height', width')
    values = layer.inner(sums + layer.bias[:, :, None, None], axis=2)
    if residual is not None:
        assert layer.residual is not None
        values = values + layer.residual(residual.reshape(values.shape))
    if geometry.activation == "elu":
        below = elu_table()[np.minimum((np.maximum(-values, 0) + (1 << ELU_STEP - 1)) >> ELU_STEP, 255)]
        values = np.where(values > 0, values, below)
    elif geometry.activation == "relu":
        values = np.maximum(values, 0)
    values = values.reshape(len(x), geometry.averaged, -1, *values.shape[3:]).sum(1)
    return np.clip(layer.outer(values) + layer.zero, -128, 127)


def _sums(layer: IntegerConvolution, x: Integers) -> Integers:
    """Sums of products, by products of matrices in float64, which are exact below 2^53."""
    geometry = layer.convolution
    matrix = geometry.matrix(layer.weight)  # (maps, channels, height, width)
    (high, wide), (down, right) = geometry.support, geometry.step
    border = ((0, 0), (0, 0), (high // 2, high // 2), (wide // 2, wide // 2))
    padded = np.pad(x.astype(np.float64), border, mode="wrap" if geometry.circular else "constant")
    rows, columns = (x.shape[2] - 1) // down + 1, (x.shape[3] - 1) // right + 1
    total = np.zeros((len(x), len(matrix), rows * columns))
    for i in range(high):
        for j in range(wide):
            seen = padded[:, :, i : i + down * (rows - 1) + 1 : down, j : j + right * (columns - 1) + 1 : right]
            total += matrix[:, :, i, j] @ seen.reshape(len(x), seen.shape[1], -1)
    filters = len(geometry.weight)
    return total.astype(np.int64).reshape(len(x), -1, filters, rows, columns)
