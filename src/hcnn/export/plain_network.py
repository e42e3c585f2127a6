"""A folded network in plain PyTorch operations, from which every exported file is made.

Its graph holds convolutions, ELU, sums, means and one gather per layer, and no operator of this package.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.data.preprocessing import FloatPreprocessing, Preprocessing
from hcnn.functional import CONVOLUTIONS, Boundary, placement
from hcnn.layers.folded import FoldedConv, FoldedPlusConv
from hcnn.models.attribute_network import AttributeNetwork, Readout
from hcnn.models.registry import NetworkConfig


@dataclass(frozen=True, eq=False)
class Taps:
    """A convolution along attributes as a list of taps, and an index of the tap between each input and output.

    Attributes:
        weight: (k, t, c, *ku), the taps of all attribute axes as one axis; c is 1 without a channel axis.
        index: (o, a) int64; the tap between output o and input a, or -1 where there is none.
    """

    weight: Tensor
    index: Tensor


def flatten_taps(
    weight: Tensor, sizes: Sequence[int], stride: Sequence[int], boundary: Boundary, *, channel_axis: bool = False
) -> Taps:
    """List the taps of several attribute axes along one axis, so that each pair of input and output has at most one.

    Where a periodic axis is shorter than the support, taps that land on the same input are added up first.

    Args:
        weight: filters (k, *kv, *ku), or (k, c, *kv, *ku) with `channel_axis`.
        sizes: lengths of the attribute axes of the input.
        stride: strides along them.
        boundary: "zeros" or "circular".
        channel_axis: whether there is an axis of unordered channels.

    Returns:
        The taps; ``dense[(o, k), (a, c)] = weight[k, index[o, a], c]`` is `hcnn.functional.dense_weight`.

    Example:
        >>> taps = flatten_taps(torch.tensor([[1.0, 2.0, 3.0]]), [4], [2], "zeros")
        >>> taps.index
        tensor([[ 1,  2, -1, -1],
                [-1,  0,  1,  2]])

    """
    weight = weight.movedim(1, 1 + len(sizes)) if channel_axis else weight.unsqueeze(1 + len(sizes))  # (k, *kv, c, *ku)
    cpu = torch.device("cpu")  # whatever PyTorch's default device is
    index = torch.zeros(1, 1, dtype=torch.int64, device=cpu)
    count = 1
    for axis, (size, step) in enumerate(zip(sizes, stride, strict=True), start=1):
        support = weight.shape[axis]
        lands = placement(size, support, step, boundary, device=cpu, dtype=torch.float64)  # (o, a, t)
        if support > size and boundary == "circular":
            # The output at 0 sees every input once; there the taps that share an input are added up.
            weight = (weight.double().movedim(axis, -1) @ lands[0].T).movedim(-1, axis).to(weight.dtype)
            support = size
            inputs, outputs = (torch.arange(n, device=cpu) for n in (size, size // step))
            one = (inputs[None] - step * outputs[:, None]) % size
        else:
            one = torch.where(lands.sum(-1) > 0, lands.argmax(-1), -1)
        index = _combine(index, one, support)
        count *= support
    return Taps(weight.reshape(len(weight), count, *weight.shape[1 + len(sizes) :]), index)


def _combine(outer: Tensor, inner: Tensor, support: int) -> Tensor:
    """Index of a pair of axes from the indices of each: (o1, a1), (o2, a2) -> (o1·o2, a1·a2)."""
    both = outer[:, None, :, None] * support + inner[None, :, None, :]
    both[(outer < 0)[:, None, :, None] | (inner < 0)[None, :, None, :]] = -1
    return both.reshape(outer.shape[0] * inner.shape[0], -1)


class PlainLayer(nn.Module):
    """One layer of a `PlainNetwork`, (b, a, *u) -> (b, o·k, *u').

    Args:
        layer: a layer of a folded network.
        sizes: sizes of the attribute axes of its input, including those that it averages out.
        compact: keep w and gather the channel matrix from it at each call; otherwise keep the matrix.
    """

    weight: Tensor
    bias: Tensor
    index: Tensor | None
    h: Tensor
    shift: Tensor

    def __init__(self, layer: FoldedConv | FoldedPlusConv, sizes: Sequence[int], *, compact: bool) -> None:
        super().__init__()
        geometry = layer.geometry
        oldest = len(sizes) - geometry.attributes
        self.averaged = math.prod(sizes[:oldest])
        self.circular = geometry.boundary == "circular"
        self.support = geometry.spatial_support
        self.margins = tuple(k // 2 for k in self.support)
        self.stride = geometry.spatial_stride
        convolved, steps = tuple(sizes[oldest:]), geometry.attribute_stride
        self.plus = isinstance(layer, FoldedPlusConv)
        if isinstance(layer, FoldedPlusConv):
            self.register_buffer("h", layer.h.detach()[:, None].clone())  # (q, 1, *ku)
            self.register_buffer("shift", layer.shift.detach().clone())
            pointwise = layer.g.detach().reshape(*layer.g.shape, *[1] * geometry.spatial)
            taps = flatten_taps(pointwise, convolved, steps, geometry.boundary, channel_axis=True)
        else:
            taps = flatten_taps(
                layer.weight.detach(), convolved, steps, geometry.boundary, channel_axis=geometry.channels is not None
            )
        self.taps = taps
        self.inputs = math.prod(convolved) if self.plus else 0  # each is filtered by h on its own
        outputs, filters = len(taps.index), len(taps.weight)
        self.register_buffer("bias", layer.bias.detach().expand(*_split(layer, convolved), filters).reshape(-1).clone())
        none = taps.weight.new_zeros(filters, 1, *taps.weight.shape[2:])
        padded = torch.cat([taps.weight, none], 1)  # the last tap is zero, for pairs without a tap
        index = torch.where(taps.index < 0, padded.shape[1] - 1, taps.index)
        self.register_buffer("index", index.flatten().int())
        self.shape = (outputs * filters, taps.index.shape[1] * taps.weight.shape[2], *taps.weight.shape[3:])
        self.register_buffer("weight", padded)
        if not compact:
            self.weight = self.matrix().contiguous()
            self.index = None

    def matrix(self) -> Tensor:
        """The channel matrix (o·k, a, *ku)."""
        if self.index is None:
            return self.weight
        rows = self.weight.index_select(1, self.index)  # (k, o·a, c, *ku)
        filters, inputs = self.weight.shape[0], self.shape[1]
        return rows.reshape(filters, -1, inputs, *self.shape[2:]).transpose(0, 1).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Compute x_j from x_{j-1}, both with flattened attributes."""
        conv = CONVOLUTIONS[len(self.stride)]
        if self.averaged > 1:
            parts = x.chunk(self.averaged, 1)
            x = sum(parts[1:], parts[0]) / self.averaged
        padding = self.margins
        if self.circular:
            x, padding = wrap(x, self.margins), (0,) * len(self.margins)
        if not self.plus:
            return F.elu(conv(x, self.matrix(), self.bias, self.stride, padding))
        h, shift = self.h.repeat(self.inputs, *[1] * (self.h.ndim - 1)), self.shift.repeat(self.inputs)
        z = F.elu(conv(x, h, shift, self.stride, padding, groups=self.inputs))  # (b, a·q, *u')
        return F.elu(conv(z, self.matrix(), self.bias))


def _split(layer: FoldedConv | FoldedPlusConv, convolved: Sequence[int]) -> list[int]:
    return [n // s for n, s in zip(convolved, layer.geometry.attribute_stride, strict=True)]


def wrap(x: Tensor, margins: Sequence[int]) -> Tensor:
    """Extend the last axes periodically with slices, whose sizes stay symbolic when traced.

    Raises:
        ValueError: as `check_periodic`.

    Example:
        >>> wrap(torch.tensor([1, 2, 3]), [1])
        tensor([3, 1, 2, 3, 1])
    """
    extent = x.shape[x.ndim - len(margins) :]
    if all(isinstance(size, int) for size in extent):  # symbols where it is traced, after it has run
        check_periodic(extent, [2 * margin + 1 for margin in margins])
    for offset, margin in enumerate(reversed(margins), start=1):
        if margin:
            axis, size = x.ndim - offset, x.shape[-offset]
            x = torch.cat([x.narrow(axis, size - margin, margin), x, x.narrow(axis, 0, margin)], axis)
    return x


def check_periodic(extent: Sequence[int], support: Sequence[int]) -> None:
    """Refuse a periodic image that a filter wraps around more than once, which no exported file computes.

    Args:
        extent: one size per spatial axis.
        support: of the filter along them.

    Raises:
        ValueError: if an axis is shorter than half of the filter.

    Example:
        >>> check_periodic((4, 1), (5, 5))
        Traceback (most recent call last):
        ValueError: export: a periodic image of (4, 1) is too small for a filter of (5, 5)
    """
    if any(k // 2 > n for n, k in zip(extent, support, strict=True)):
        raise ValueError(f"export: a periodic image of {tuple(extent)} is too small for a filter of {tuple(support)}")


def check_preprocessing(preprocessing: object, config: NetworkConfig, export: str = "export") -> None:
    """Refuse a preprocessing that no exported file can hold, or that is not one for the network.

    Args:
        preprocessing: of the network.
        config: of the network.
        export: what refuses it, as the message begins.

    Raises:
        ValueError: if it is none, that of floating-point images, whose scale no exported file states, or for another
            number of channels or classes.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"{export}: expected a Preprocessing; got a {type(preprocessing).__name__}")
    if isinstance(preprocessing, FloatPreprocessing):
        raise ValueError(f"{export}: expected a network that takes bytes; this one takes floating-point images")
    for what, expected, got in (
        ("channels", config.channels, len(preprocessing.mean)),
        ("classes", config.classes, len(preprocessing.classes)),
    ):
        if got != expected:
            raise ValueError(f"{export}: expected a preprocessing of {expected} {what}, as the network's; got {got}")


class PlainNetwork(nn.Module):
    """A folded network whose forward pass consists of plain operations; its inputs are pixels between 0 and 1.

    Args:
        model: a network, which is folded first if it is not folded yet.
        preprocessing: standardization to include; None for a network that takes standardized images.
        compact: keep the filters w and gather each layer's channel matrix from them; otherwise keep the matrices.

    Shapes:
        images (b, channels, *u) -> logits (b, classes).

    Raises:
        ValueError: if it is not an attribute network, is on another device than the CPU, not in float32 or not finite,
            or the preprocessing is none for it, see `check_preprocessing`.

    Example:
        >>> from hcnn import create_model
        >>> model = create_model("hcnn_digits").eval()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> bool(torch.allclose(PlainNetwork(model)(x), model(x), atol=1e-4))
        True

    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    readout_weight: Tensor
    readout_bias: Tensor

    def __init__(
        self, model: AttributeNetwork, preprocessing: Preprocessing | None = None, *, compact: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(model, AttributeNetwork):
            raise ValueError(f"export: expected an attribute network; got a {type(model).__name__}")
        if preprocessing is not None:
            check_preprocessing(preprocessing, model.config)
        first = next(model.parameters())
        if first.device.type != "cpu" or first.dtype != torch.float32:
            raise ValueError(f"export: expected a float32 network on the CPU; got {first.dtype} on {first.device}")
        folded = model if model.folded else model.fold()
        self.config = folded.config
        layers = []
        for layer, sizes in zip(folded.layers, ((), *folded.attribute_sizes), strict=False):
            assert isinstance(layer, FoldedConv | FoldedPlusConv)
            layers.append(PlainLayer(layer, sizes, compact=compact))
        self.layers = nn.ModuleList(layers)
        _share_indices(layers)
        *older, self.newest = folded.attribute_sizes[-1]
        self.older = math.prod(older)
        readout = folded.readout
        assert isinstance(readout, Readout)
        self.linear = readout.linear is not None
        if readout.linear is not None:
            self.register_buffer("readout_weight", readout.linear.weight.detach().clone())
            self.register_buffer("readout_bias", readout.linear.bias.detach().clone())
        elif readout.scale is not None:
            self.register_buffer("scale", readout.scale.detach().clone())
        self.standardizes = preprocessing is not None
        ones = [1] * folded.config.spatial_axes
        mean, std = (preprocessing.mean, preprocessing.std) if preprocessing else ((0.0,), (1.0,))
        for name, values in (("mean", mean), ("std", std)):
            numbers = torch.tensor(values, dtype=torch.float32, device="cpu")
            self.register_buffer(name, numbers.reshape(-1, *ones))
        if not all(bool(one.isfinite().all()) for one in self.buffers()):
            raise ValueError("export: expected a network of finite numbers; its weights hold NaN or infinities")
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of a batch."""
        x = (images - self.mean) / self.std if self.standardizes else images
        for layer in self.layers:
            x = layer(x)
        pooled = x.mean([*range(2, x.ndim)])  # (b, o·k)
        if self.older > 1:
            first, *rest = pooled.split(self.newest, 1)
            pooled = sum(rest, first) / self.older
        return F.linear(pooled, self.readout_weight, self.readout_bias) if self.linear else pooled * self.scale


def _share_indices(layers: Sequence[PlainLayer]) -> None:
    """Let layers of equal geometry share one index table."""
    tables: dict[bytes, Tensor] = {}
    for layer in layers:
        if layer.index is not None:
            layer.index = tables.setdefault(layer.index.numpy().tobytes(), layer.index)


def spatial_step(network: PlainNetwork) -> tuple[int, ...]:
    """The product of all strides per spatial axis; sides of a periodic network's images are multiples of it."""
    steps = [1] * network.config.spatial_axes
    for layer in network.layers:
        assert isinstance(layer, PlainLayer)
        steps = [n * s for n, s in zip(steps, layer.stride, strict=True)]
    return tuple(steps)
