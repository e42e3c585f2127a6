"""What an integer network computes, in PyTorch: the C file gives the same integers."""

import numpy as np
import torch
from torch import Tensor, nn

from hcnn.export.integer.quantize import ELU_STEP, IntegerConvolution, IntegerNetwork, Rescale, elu_table


def integer_logits(network: IntegerNetwork, images: Tensor) -> Tensor:
    """Integer logits of images.

    Args:
        network: a quantized network.
        images: uint8 (n, channels, *u).

    Returns:
        int64 (n, classes); times `network.unit` they are near the logits of the network that it was made from.

    """
    chain = network.chain
    pixels = images.reshape(*images.shape[:2], *chain.size).long()
    arrays = [pixels - torch.from_numpy(network.pixel_zero)[:, None, None]]  # each with its zero subtracted
    for layer in network.convolutions:
        residual = layer.convolution.residual
        codes = convolve(layer, arrays[layer.convolution.source], None if residual is None else arrays[residual])
        arrays.append(codes - layer.zero)
    pooled = arrays[-1].sum((2, 3)).reshape(len(images), -1, chain.newest).sum(1)
    if network.readout is None:
        return network.sign * pooled
    return pooled @ torch.from_numpy(network.readout.astype(np.int64)).T + torch.from_numpy(network.readout_bias)


def convolve(layer: IntegerConvolution, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """The 8 bits that a convolution writes.

    Args:
        layer: a convolution.
        x: int64 (n, channels, height, width), its zero subtracted.
        residual: the array that it adds, its zero subtracted.

    Returns:
        int64 (n, maps, height', width'), from -128 to 127.

    """
    geometry = layer.convolution
    sums = _sums(layer, x) + torch.from_numpy(layer.bias)[:, :, None, None]  # (n, older · outputs, filters, *u')
    values = rescale(layer.inner, sums)
    if residual is not None:
        assert layer.residual is not None
        values = values + rescale(layer.residual, residual.reshape(values.shape))
    if geometry.activation == "elu":
        entry = ((values.neg().clamp_min(0) + (1 << ELU_STEP - 1)) >> ELU_STEP).clamp_max(255)
        values = torch.where(values > 0, values, torch.from_numpy(elu_table())[entry])
    elif geometry.activation == "relu":
        values = values.clamp_min(0)
    values = values.reshape(len(x), geometry.averaged, -1, *values.shape[3:]).sum(1)
    return (rescale(layer.outer, values) + layer.zero).clamp(-128, 127)


def rescale(by: Rescale, values: Tensor) -> Tensor:
    """``(left · values · multiplier + 2^(31 + right)) >> (32 + right)``, one multiplier or one per filter.

    Args:
        by: multipliers and shifts.
        values: int64 (..., filters, height, width).

    Returns:
        int64 of the same shape.

    """
    product = by.left * values * torch.from_numpy(by.multiplier)[:, None, None]
    return (product + (1 << (31 + by.right))) >> (32 + by.right)


def _sums(layer: IntegerConvolution, x: Tensor) -> Tensor:
    """Sums of products (n, older · outputs, filters, height', width'): in floating point, but exact."""
    geometry = layer.convolution
    largest = int(np.abs(layer.weight.astype(np.int64)).reshape(len(layer.weight), -1).sum(1).max()) * 255
    exact = torch.float32 if largest * int((geometry.index >= 0).sum(1).max()) < 2**24 else torch.float64
    margins = [k // 2 for k in geometry.support]
    x = x.to(exact)
    if geometry.circular:
        x = nn.functional.pad(x, (margins[1], margins[1], margins[0], margins[0]), mode="circular")
        margins = [0, 0]
    matrix = torch.from_numpy(geometry.matrix(layer.weight)).to(exact)
    y = nn.functional.conv2d(x, matrix, stride=geometry.step, padding=margins).long()
    return y.reshape(len(x), -1, len(geometry.weight), *y.shape[2:])
