"""What the baselines share: a small configuration, a checked forward pass, normalization over all processes."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hcnn.functional.dtypes import autocast_dtype, wide
from hcnn.layers.normalization import batch_statistics, merge_moments, scale_shift, update_running
from hcnn.models.configs import check_types
from hcnn.models.counts import LayerRow, ParameterCount, check_image_size
from hcnn.models.network import Network

_NORMALIZATIONS = (nn.BatchNorm2d, nn.LayerNorm)


@dataclass(frozen=True)
class BaselineConfig:
    """What every baseline's configuration has.

    Attributes:
        spatial_axes: of the images.
        recipes: the recipes recommended for it in place of `fast` and `digits`.
        channels: input channels.
        classes: number of classes.
    """

    spatial_axes: ClassVar[int] = 2
    recipes: ClassVar[dict[str, str]] = {}

    channels: int = 3
    classes: int = 10

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("channels", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number; got {getattr(self, name)}")


class Baseline(Network):
    """An image network beside HCNN: (b, channels, u1, u2) -> logits (b, classes).

    A subclass builds its layers from `config`, sets `stages` and writes `classify`.

    Args:
        config: what the network is made from.
        smallest: the smallest side of an image that its strides and supports let through.
    """

    def __init__(self, config: Any, smallest: int = 1) -> None:
        super().__init__()
        self.config, self.smallest = config, smallest

    def classify(self, x: Tensor) -> Tensor:
        """Logits of images that were checked."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of a batch of standardized images.

        Raises:
            ValueError: if x is not a batch of images that the network can take.
        """
        name, side = type(self).__name__, self.smallest
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: expected a tensor (b, {self.config.channels}, u1, u2); got a {type(x).__name__}")
        if x.ndim != 4 or x.shape[1] != self.config.channels or len(x) == 0:
            raise ValueError(
                f"{name}: expected images (b, {self.config.channels}, u1, u2), at least one; got shape {tuple(x.shape)}"
            )
        if min(x.shape[2:]) < side:
            raise ValueError(f"{name}: expected images of at least {side}x{side}; got {x.shape[2]}x{x.shape[3]}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected floating-point values, standardized; got {x.dtype}")
        dtype = next((p.dtype for p in self.parameters()), x.dtype)  # replicas of `DataParallel` have none
        if x.dtype != dtype and autocast_dtype(x) is None:
            raise ValueError(f"{name}: expected {dtype}, as its parameters are; got {x.dtype}")
        return self.classify(x)

    def count_parameters(self) -> ParameterCount:
        """The counts of `hcnn.count_parameters`."""
        norms = sum(p.numel() for m in self.modules() if isinstance(m, _NORMALIZATIONS) for p in m.parameters())
        trained = sum(p.numel() for p in self.parameters()) - norms
        return ParameterCount(trained, trained, norms, 0)

    @torch.no_grad()
    def multiply_adds(self, image_size: Sequence[int]) -> int:
        """As `Network.multiply_adds`: half of the floating-point operations that PyTorch counts without contents."""
        network = copy.deepcopy(self).inference().to("meta")
        image = _blank(network, image_size)
        with FlopCounterMode(display=False) as counter:
            network(image)
        return counter.get_total_flops() // 2

    @torch.no_grad()
    def layer_rows(self, image_size: Sequence[int]) -> list[LayerRow]:
        """One row per module with parameters of its own, in the order in which they compute."""
        network = copy.deepcopy(self).eval().to("meta")  # this one keeps its modes
        shapes: dict[str, tuple[int, ...]] = {}
        layers = {
            name: module
            for name, module in network.named_modules()
            if any(True for _ in module.parameters(recurse=False)) and not isinstance(module, _NORMALIZATIONS)
        }
        for name, module in layers.items():
            module.register_forward_hook(lambda *given, name=name: shapes.update({name: tuple(given[-1].shape[1:])}))
        image = _blank(network, image_size)
        with FlopCounterMode(display=False) as counter:
            network(image)
        flops = {name.split(".", 1)[-1]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
        inner = {
            name: sum(flops.get(f"{name}.{child}", 0) for child, _ in layers[name].named_children()) for name in layers
        }
        rows = []
        for name in [*shapes, *(name for name in layers if name not in shapes)]:
            module, shape = layers[name], shapes.get(name, ())
            own = sum(p.numel() for p in module.parameters(recurse=False))
            support = tuple(getattr(module, "kernel_size", ()))
            stride = tuple(getattr(module, "stride", ())) if support else ()
            axes = "c, u1, u2" if len(shape) == 3 else "c" if len(shape) == 1 else ""
            computed = (flops.get(name, 0) - inner[name]) // 2
            rows.append(LayerRow(name, axes, shape, support, stride, own, own, 0, computed))
        count = self.count_parameters()
        beside = count.composed - count.trained
        return [*rows, LayerRow("normalizations", "", (), (), (), 0, beside, count.normalization, 0)]


class BatchNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over all processes, where `hcnn.layers.normalization.synchronize` set a group.

    Example:
        >>> y = BatchNorm(2)(torch.tensor([[[[1.0]], [[5.0]]], [[[3.0]], [[7.0]]]]))
        >>> [round(v, 2) for v in y.flatten().tolist()]
        [-1.0, -1.0, 1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """(b, c, u1, u2) -> the same shape."""
        norm = cast(nn.BatchNorm1d, self)  # the helpers use what both kinds have
        if getattr(self, "hcnn_group", None) is None or not batch_statistics(norm):
            return super().forward(input)
        x = input.to(wide(input.dtype))
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        mean, variance, processes = merge_moments(norm, mean, variance)
        update_running(norm, mean, variance, processes * input.numel() // input.shape[1])
        scale, shift = scale_shift(norm, mean, variance)
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)


def check_downsample(name: str, downsample: tuple[int, ...], last: int, what: str, *, first: int = 1) -> None:
    """Refuse places of downsampling that do not exist.

    Raises:
        ValueError: if one is not between `first` and `last`.
    """
    if any(not first <= place <= last for place in downsample):
        raise ValueError(f"{name}: downsample: expected {what} between {first} and {last}; got {downsample}")


@torch.no_grad()
def he_initialize(model: nn.Module) -> None:
    """Normal weights: variance 2 / fan-out for convolutions, 1 / fan-in for linear maps; biases 0 (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialize_class_maps(model: nn.Module) -> None:
    """Weights for ReLUs without normalizations up to the class maps, whose means are the logits.

    Normal weights of variance 1 / fan-in, half of He's, and biases 0, but 1 in the last convolution: a constant added
    to all logits, which the softmax does not see. From He's weights and without this bias the first steps, at the rates
    of the publications or of `fast`, bring class maps below zero everywhere. There ReLU has no gradient, and they never
    come back.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for conv in convolutions:
        assert conv.bias is not None
        nn.init.normal_(conv.weight, std=math.prod(conv.weight.shape[1:]) ** -0.5)
        nn.init.constant_(conv.bias, float(conv is convolutions[-1]))


def _blank(network: Network, image_size: Sequence[int]) -> Tensor:
    """One image without contents, of the type and on the device of a network's parameters."""
    size = check_image_size(image_size, network.config.spatial_axes)
    return next(network.parameters()).new_zeros(1, network.config.channels, *size)
