"""How pixels become the input of a network."""

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from hcnn.data.image_set import ImageSet


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the network's input; saved with the weights.

    Attributes:
        mean: per channel, on the scale 0 … 1.
        std: per channel.
        size: spatial size of the images.
        classes: class names, in the order of the logits.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std", "size", "classes"):
            if not isinstance(value := getattr(self, name), Collection):
                raise ValueError(f"{name}: expected a tuple; got {value!r}")
        if len(self.mean) != len(self.std) or not all(math.isfinite(one) for one in (*self.mean, *self.std)):
            raise ValueError(f"mean and std: expected one number per channel each; got {self.mean} and {self.std}")
        if not all(one > 0 for one in self.std):
            raise ValueError(f"std: expected positive numbers; got {self.std}")
        if not all(one > 0 for one in self.size):
            raise ValueError(f"size: expected positive numbers of pixels; got {self.size}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: expected different names; got {self.classes}")

    def with_channels(self, channels: int) -> Self:
        """The same for another number of channels: their mean and deviation are those of the old ones, averaged.

        Example:
            >>> Preprocessing((0.25, 0.75), (0.5, 0.5), (1, 1), ("a", "b")).with_channels(3).mean
            (0.5, 0.5, 0.5)
        """
        if channels == len(self.mean):
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)

    def standardize(self, images: Tensor) -> Tensor:
        """uint8 images (b, c, *u) to standardized float32.

        Example:
            >>> p = Preprocessing((0.5,), (0.25,), (1, 1), ("a", "b"))
            >>> p.standardize(torch.tensor([[[[255]]]], dtype=torch.uint8))
            tensor([[[[2.]]]])
        """
        return standardize(images, self.mean, self.std)

    def standardize_floats(self, images: Tensor) -> Tensor:
        """Floating-point images (b, c, *u) on the scale of `mean` and `std`, standardized.

        Example:
            >>> Preprocessing((0.5,), (0.25,), (1, 1), ("a", "b")).standardize_floats(torch.ones(1, 1, 1, 1))
            tensor([[[[2.]]]])
        """
        shape = (-1, *[1] * (images.ndim - 2))
        mean, std = (torch.tensor(v, device=images.device).reshape(shape) for v in (self.mean, self.std))
        return (images - mean) / std


@dataclass(frozen=True)
class FloatPreprocessing(Preprocessing):
    """Standardization of images of floating-point numbers of any scale, where `Preprocessing` takes bytes."""

    def standardize(self, images: Tensor) -> Tensor:
        """Images (b, c, *u) on the scale of `mean` and `std`, standardized."""
        return self.standardize_floats(images)


def as_float32(images: np.ndarray, *, name: str = "images") -> Tensor:
    """Finite images (n, c, *u) of any numeric type as a contiguous float32 tensor.

    Args:
        images: the images.
        name: what to call them in error messages.

    Raises:
        ValueError: if there is no pixel, or a number is too large for float32.

    Example:
        >>> as_float32(np.array([[[[1e300]]]]))
        Traceback (most recent call last):
        ValueError: images: expected numbers up to 3.4e38, which float32 can hold; 1 of 1 are larger
    """
    if not images.size:
        raise ValueError(f"{name}: expected images of at least one pixel; got shape {images.shape}")
    with np.errstate(over="ignore"):
        pixels = np.require(images, np.float32, ["C", "W"])  # PyTorch warns of memory that cannot be written
    if large := int((~np.isfinite(pixels)).sum()):
        raise ValueError(
            f"{name}: expected numbers up to 3.4e38, which float32 can hold; {large} of {images.size} are larger"
        )
    return torch.from_numpy(pixels)


def fit_float_preprocessing(images: Tensor, classes: Sequence[str], *, common: bool = False) -> FloatPreprocessing:
    """Standardization by the channels' mean and deviation over images (n, c, *u); a constant channel is not scaled.

    With `common`, all channels have one mean and one deviation.
    """
    channels = images.transpose(0, 1).flatten(1).double()
    std = channels.std(1, correction=0)
    std = torch.where(std > 1e-7 * channels.abs().amax(1).clamp_min(1e-30), std, 1.0)
    mean = channels.mean(1)
    if common:
        mean, std = _common(mean, std)
    return FloatPreprocessing(tuple(mean.tolist()), tuple(std.tolist()), tuple(images.shape[2:]), tuple(classes))


def fit_preprocessing(images: ImageSet, *, common: bool = False) -> Preprocessing:
    """Standardization by the channels' mean and deviation over a training set.

    Args:
        images: the training set.
        common: one mean and one deviation for all channels, so that a turn of the hue stays one; see
            `hcnn.layers.HueConv`.

    Example:
        >>> images = torch.tensor([0, 255, 0, 0]).to(torch.uint8).reshape(2, 2, 1, 1)
        >>> pair = ImageSet(images, torch.tensor([0, 0]), ("any",), "two")
        >>> fit_preprocessing(pair).mean, fit_preprocessing(pair, common=True).mean
        ((0.0, 0.5), (0.25, 0.25))
    """
    mean, std = images.channel_statistics()
    if common:
        mean, std = _common(mean, std)
    return Preprocessing(tuple(mean.tolist()), tuple(std.tolist()), tuple(images.images.shape[2:]), images.classes)


def _common(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of all channels together, for each of them."""
    whole = mean.mean()
    variance = (std.square() + (mean - whole).square()).mean()
    return whole.expand_as(mean), variance.sqrt().expand_as(std)


def standardize(
    images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Scale pixels to 0 … 1, subtract the mean and divide by the deviation, per channel.

    Args:
        images: uint8 (b, c, *u).
        mean: (c,), on the 0 … 1 scale, as `ImageSet.channel_statistics` returns it.
        std: (c,), likewise.
        dtype: of the result; computed in float32 or wider.

    Returns:
        A tensor (b, c, *u) of `dtype` on the device of `images`.

    Raises:
        ValueError: if the images are not uint8 or the statistics do not have one entry per channel.

    Example:
        >>> standardize(torch.tensor([[[0, 255]]], dtype=torch.uint8), [0.5], [0.25])
        tensor([[[-2.,  2.]]])

    """
    if images.dtype != torch.uint8 or images.ndim < 2:
        raise ValueError(
            f"standardize: expected uint8 images (b, c, *u); got {images.dtype} of shape {tuple(images.shape)}"
        )
    wide = torch.promote_types(dtype, torch.float32)
    # A tuple's constants stay on the device: copying them there at every call would make the host wait for it.
    constants = _constants if isinstance(mean, tuple) and isinstance(std, tuple) else _constants.__wrapped__
    scale, offset = constants(mean, std, wide, images.device)
    channels = images.shape[1]
    if scale.shape != (channels,) or offset.shape != (channels,):
        raise ValueError(
            f"standardize: expected mean and std of shape ({channels},), one per channel of images (b, c, *u) = "
            f"{tuple(images.shape)}; got {_shape(mean)} and {_shape(std)}"
        )
    shape = (channels, *[1] * (images.ndim - 2))
    return images.to(wide).mul_(scale.reshape(shape)).add_(offset.reshape(shape)).to(dtype)


@functools.lru_cache(maxsize=16)
def _constants(
    mean: Tensor | Sequence[float], std: Tensor | Sequence[float], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand of `standardize`, per channel."""
    mu, sigma = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, std))
    if mu.shape != sigma.shape:
        return mu, sigma
    return (1 / (255 * sigma)).to(dtype).to(device), (-mu / sigma).to(dtype).to(device)


def _shape(values: Tensor | Sequence[float]) -> tuple[int, ...]:
    return tuple(torch.as_tensor(values).shape)
