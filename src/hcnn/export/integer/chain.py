"""What an integer network is made from: convolutions in float64 without normalizations, in the order they compute."""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.plain_network import check_preprocessing, flatten_taps, wrap
from hcnn.layers.folded import FoldedConv
from hcnn.layers.normalization import in_double, running, scale_shift
from hcnn.models.attribute_network import AttributeNetwork, Readout
from hcnn.models.baselines.blocks import BatchNorm
from hcnn.models.baselines.resnet8 import ProjectedBlock, ResNet8
from hcnn.models.network import Network

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution along space and the attributes, with its bias and activation.

    The channels of an array are lines: the newest attribute lies along a line, and the older ones number the lines.
    Unordered channels are one line, of which an output sees all.

    Attributes:
        weight: (filters, taps of the older attributes, taps along a line, height, width).
        index: (older out, older in), which tap of the older attributes joins two lines; -1 for none.
        bias: (older out · outputs, filters).
        length: values in a line of the input.
        outputs: positions along a line at which each filter is evaluated.
        attribute_step: distance between them.
        lead: how far the first of them begins before the line.
        step: spatial strides.
        averaged: how many neighbouring parts of the output, the values of its oldest attribute, are averaged.
        activation: "elu", "relu" or "none".
        source: number of the array that it reads; 0 is the image, and convolution n writes array n + 1.
        residual: number of the array that is added before the activation, or None.
        circular: whether space and lines are periodic.
    """

    weight: Floats
    index: Integers
    bias: Floats
    length: int
    outputs: int
    attribute_step: int
    lead: int
    step: tuple[int, int]
    averaged: int = 1
    activation: str = "elu"
    source: int = 0
    residual: int | None = None
    circular: bool = False

    @property
    def maps(self) -> int:
        """Channels of its output."""
        return len(self.index) * self.outputs * len(self.weight) // self.averaged

    @property
    def support(self) -> tuple[int, int]:
        """Spatial support."""
        return self.weight.shape[3], self.weight.shape[4]

    def line_positions(self) -> Integers:
        """(outputs, taps): which value of a line each tap meets; -1 where it meets none."""
        taps = np.arange(self.weight.shape[2])
        at = self.attribute_step * np.arange(self.outputs)[:, None] - self.lead + taps
        return at % self.length if self.circular else np.where((at >= 0) & (at < self.length), at, -1)

    def matrix(self, weight: NDArray[np.generic] | None = None) -> Floats:
        """The block-Toeplitz matrix (maps before averaging, channels, height, width) of the weights, or of others."""
        w = self.weight if weight is None else np.asarray(weight, np.float64)
        older_out, older_in = self.index.shape
        full = np.zeros((older_out, self.outputs, len(w), older_in, self.length, *w.shape[3:]))
        positions = self.line_positions()
        for out, inp in np.argwhere(self.index >= 0):
            for n in range(self.outputs):
                for tap in np.flatnonzero(positions[n] >= 0):  # in a short periodic line two taps may meet one value
                    full[out, n, :, inp, positions[n, tap]] += w[:, self.index[out, inp], tap]
        return full.reshape(older_out * self.outputs * len(w), older_in * self.length, *w.shape[3:])

    def multiply_adds(self, places: int) -> int:
        """Products of one image that are not with a structural zero, border pixels included."""
        pairs = int((self.index >= 0).sum()) * int((self.line_positions() >= 0).sum())
        return places * pairs * len(self.weight) * math.prod(self.support)


@dataclass(frozen=True, eq=False)
class Chain:
    """A network as convolutions and a linear map of the mean over space and the older attributes.

    Attributes:
        convolutions: in the order they compute.
        readout: (classes, newest), or None where the logits are the means times `scale`.
        readout_bias: (classes,).
        scale: of the means.
        newest: values of the newest attribute of the last array.
        preprocessing: how bytes become the image.
        size: height and width; a line has one row.
    """

    convolutions: tuple[Convolution, ...]
    readout: Floats | None
    readout_bias: Floats
    scale: float
    newest: int
    preprocessing: Preprocessing
    size: tuple[int, int]

    def arrays(self, images: Tensor) -> list[Tensor]:
        """The image and the output of each convolution in float64, (b, channels, height, width), from bytes."""
        mean, std = (
            torch.tensor(one, dtype=torch.float64) for one in (self.preprocessing.mean, self.preprocessing.std)
        )
        x = images.reshape(*images.shape[:2], *self.size).double() / 255
        arrays = [(x - mean[:, None, None]) / std[:, None, None]]
        for layer in self.convolutions:
            arrays.append(self._convolved(layer, arrays))
        return arrays

    def _convolved(self, layer: Convolution, arrays: list[Tensor]) -> Tensor:
        matrix, margins = torch.from_numpy(layer.matrix()), [k // 2 for k in layer.support]
        x = arrays[layer.source]
        if layer.circular:
            x, margins = wrap(x, margins), [0, 0]
        y = nn.functional.conv2d(x, matrix, torch.from_numpy(layer.bias.ravel()), layer.step, margins)
        if layer.residual is not None:
            y = y + arrays[layer.residual]
        y = {"elu": nn.functional.elu, "relu": torch.relu, "none": torch.clone}[layer.activation](y)
        return y.reshape(len(y), layer.averaged, -1, *y.shape[2:]).mean(1)

    def logits(self, last: Tensor) -> Tensor:
        """Logits (b, classes) from the last array."""
        pooled = last.mean((2, 3)).reshape(len(last), -1, self.newest).mean(1)
        if self.readout is None:
            return pooled * self.scale
        return pooled @ torch.from_numpy(self.readout).T + torch.from_numpy(self.readout_bias)


@torch.no_grad()
def chain_of(model: Network, preprocessing: Preprocessing, size: tuple[int, ...]) -> Chain:
    """A trained network as a chain of convolutions.

    Args:
        model: an attribute network without an inner ELU, or a ResNet-8.
        preprocessing: standardization to include.
        size: spatial size of the images.

    Returns:
        The chain; in float64 its logits are those of the network.

    Raises:
        ValueError: for another network, one with three spatial axes, or one that takes floating-point images or other
            channels or classes than the preprocessing has.

    """
    check_preprocessing(preprocessing, model.config, "export c --int8")
    if len(size) not in (1, 2):
        raise ValueError(f"export c --int8: expected one or two spatial axes; the network has {len(size)}")
    plane = (1, size[0]) if len(size) == 1 else (size[0], size[1])
    if isinstance(model, ResNet8):
        return _residual(model, preprocessing, plane)
    if not isinstance(model, AttributeNetwork):
        raise ValueError(
            "export c --int8: expected an attribute network or a ResNet-8 (such as resnet8_cifar10); got a "
            f"{type(model).__name__}"
        )
    return _attributes(model if model.folded else model.fold(), preprocessing, plane)


def _attributes(model: AttributeNetwork, preprocessing: Preprocessing, plane: tuple[int, int]) -> Chain:
    convolutions: list[Convolution] = []
    before: list[tuple[int, ...]] = [(), *model.attribute_sizes]
    for number, (layer, sizes) in enumerate(zip(model.layers, before, strict=False)):
        if not isinstance(layer, FoldedConv):
            raise ValueError(
                "export c --int8: expected composed filters; this network has an ELU inside its filters (HCNN(+)), "
                "which int8 does not support"
            )
        g = layer.geometry
        oldest = math.prod(sizes[: len(sizes) - g.attributes])
        if oldest > 1:  # the layer before gives its array averaged
            convolutions[-1] = _averaging(convolutions[-1], oldest)
        weight = layer.weight.detach().double()
        weight = weight.reshape(
            *weight.shape[: weight.ndim - g.spatial], *_plane(weight.shape[weight.ndim - g.spatial :])
        )
        convolved, steps = sizes[len(sizes) - g.attributes :], g.attribute_stride
        if g.attributes == 0:
            length, outputs, step, lead = g.channels or 1, 1, 1, 0
            weight = weight if g.channels else weight[:, None]
            taps = flatten_taps(weight, (), (), g.boundary, channel_axis=True)
        elif g.channels is None:
            length, step, lead = convolved[-1], steps[-1], g.attribute_support[-1] // 2
            outputs = length // step
            weight = weight.movedim(g.attributes, 1)  # the newest attribute, as if it were the channels
            taps = flatten_taps(weight, convolved[:-1], steps[:-1], g.boundary, channel_axis=True)
        else:
            raise ValueError("export c --int8: a layer with both attributes and unordered channels is not supported")
        bias = layer.bias.detach().double().reshape(-1, len(weight))
        convolutions.append(
            Convolution(
                taps.weight.numpy(), taps.index.numpy(), bias.expand(len(taps.index) * outputs, -1).numpy().copy(),
                length, outputs, step, lead, _plane(g.spatial_stride), source=number, circular=g.boundary == "circular",
            )
        )  # fmt: skip
    readout = model.readout
    assert isinstance(readout, Readout)
    linear = readout.linear
    return Chain(
        tuple(convolutions),
        None if linear is None else linear.weight.detach().double().numpy(),
        np.zeros(model.config.classes) if linear is None else linear.bias.detach().double().numpy(),
        1.0 if readout.scale is None else float(readout.scale),
        model.attribute_sizes[-1][-1],
        preprocessing,
        plane,
    )


def _averaging(layer: Convolution, oldest: int) -> Convolution:
    return Convolution(**{**vars(layer), "averaged": oldest})


def _plane(values: tuple[int, ...] | torch.Size) -> tuple[int, int]:
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _residual(model: ResNet8, preprocessing: Preprocessing, plane: tuple[int, int]) -> Chain:
    convolutions = [_channels(model.conv, model.norm, 0)]
    for block in model.blocks:
        assert isinstance(block, ProjectedBlock)
        x = len(convolutions)
        convolutions.append(_channels(block.conv1, block.norm1, x))
        short = x
        if isinstance(block.shortcut, nn.Conv2d):
            convolutions.append(_channels(block.shortcut, None, x, activation="none"))
            short = x + 2
        convolutions.append(_channels(block.conv2, block.norm2, x + 1, residual=short))
    weight, bias = (one.detach().double().numpy() for one in (model.linear.weight, model.linear.bias))
    return Chain(tuple(convolutions), weight, bias, 1.0, weight.shape[1], preprocessing, plane)


def _channels(
    conv: nn.Conv2d, norm: BatchNorm | None, source: int, activation: str = "relu", residual: int | None = None
) -> Convolution:
    """A convolution of unordered channels with its normalization folded in."""
    assert conv.bias is not None
    weight, bias = conv.weight.detach().double(), conv.bias.detach().double()
    if norm is not None:
        double = in_double(cast(nn.BatchNorm1d, norm))  # the helpers use what both kinds have
        scale, shift = scale_shift(double, *running(double))
        weight, bias = weight * scale.reshape(-1, 1, 1, 1), bias * scale + shift
    assert isinstance(conv.stride, tuple)
    return Convolution(
        weight[:, None].numpy(), np.zeros((1, 1), np.int64), bias[None].numpy(), weight.shape[1], 1, 1, 0,
        (conv.stride[0], conv.stride[1]), activation=activation, source=source, residual=residual,
    )  # fmt: skip
