"""Known changes of images by known amounts, from brightness to noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing, standardize

_LUMINANCE = (0.299, 0.587, 0.114)  # of RGB, as in ITU-R BT.601
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True)
class Property:
    """One property of images and how to change it.

    Attributes:
        name: what it is called.
        unit: of the amounts; 0 leaves an image as it is.
        amounts: those that the study uses, ascending, without 0.
        change: maps float images (n, c, h, w) on 0 … 1 and an amount to changed ones.
        colour: whether it needs three channels.

    """

    name: str
    unit: str
    amounts: tuple[float, ...]
    change: Callable[[Tensor, float], Tensor]
    colour: bool = False


def change(images: Tensor, name: str, amount: float) -> Tensor:
    """Change a known property of images by a known amount.

    Args:
        images: (n, c, h, w), uint8, or floats on the scale 0 … 1.
        name: one of `PROPERTIES`.
        amount: in the property's unit; 0 changes nothing, and larger is brighter, more contrasted, more saturated,
            turned further (anticlockwise), larger, further right or down, more blurred, noisier.

    Returns:
        float32 (n, c, h, w), clipped to 0 … 1.

    Raises:
        ValueError: for an unknown property, images of another kind, or a colour property of grey images.

    Example:
        >>> grey = torch.full((1, 1, 8, 8), 0.5)
        >>> change(grey, "brightness", 0.25)[0, 0, 0, 0]
        tensor(0.7500)

    """
    if name not in PROPERTIES:
        raise ValueError(f"property: expected one of {', '.join(PROPERTIES)}; got {name!r}")
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(
            f"{name}: expected images (n, c, h, w), uint8 or floats; got {images.dtype} of {tuple(images.shape)}"
        )
    if PROPERTIES[name].colour and images.shape[1] != 3:
        raise ValueError(f"{name}: expected 3 channels, RGB; got {images.shape[1]}")
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return PROPERTIES[name].change(pixels, amount).clamp(0, 1)


def changed_inputs(images: Tensor, name: str, amount: float, preprocessing: Preprocessing) -> Tensor:
    """The same, standardized for a network; not rounded to bytes in between."""
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    if amount == 0:
        return standardize(images, preprocessing.mean, preprocessing.std)
    return (change(images, name, amount) - mean) / std


def properties_for(channels: int) -> list[Property]:
    """The properties that images of so many channels have."""
    return [one for one in PROPERTIES.values() if channels == 3 or not one.colour]


# --------------------------------------------------------------------------------------------------- the changes


def _brightness(x: Tensor, amount: float) -> Tensor:
    return x + amount


def _contrast(x: Tensor, amount: float) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * 2**amount


def _saturation(x: Tensor, amount: float) -> Tensor:
    grey = (x * x.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    return grey + (x - grey) * 2**amount


def _hue(x: Tensor, amount: float) -> Tensor:
    """Turns the plane of colours, at equal luminance."""
    yiq = x.new_tensor(_TO_YIQ)
    c, s = math.cos(math.radians(amount)), math.sin(math.radians(amount))
    turn = x.new_tensor([[1, 0, 0], [0, c, -s], [0, s, c]])
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(yiq) @ turn @ yiq, x)


def _affine(x: Tensor, degrees: float = 0, log2_scale: float = 0, right: float = 0, down: float = 0) -> Tensor:
    """Turns, enlarges and moves about the centre; mirrored beyond the border, so that none appears."""
    c = math.cos(math.radians(degrees)) / 2**log2_scale
    s = math.sin(math.radians(degrees)) / 2**log2_scale
    aspect = x.shape[2] / x.shape[3]
    # Where each pixel comes from, in coordinates from -1 to 1 (x to the right, y down).
    matrix = x.new_tensor([[c, -s * aspect, -2 * right], [s / aspect, c, -2 * down]]).expand(len(x), 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _blur(x: Tensor, sigma: float) -> Tensor:
    if sigma <= 0:
        return x
    for axis in (2, 3):
        radius = min(math.ceil(3 * sigma), x.shape[axis] - 1)
        taps = torch.exp(-torch.arange(-radius, radius + 1, device=x.device).square() / (2 * sigma**2))
        kernel = (taps / taps.sum()).reshape([1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1])
        margins = [0, 0, radius, radius] if axis == 2 else [radius, radius, 0, 0]
        padded = F.pad(x, margins, mode="reflect")
        x = F.conv2d(padded, kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])
    return x


def _noise(x: Tensor, std: float) -> Tensor:
    """The same pattern at every amount, and another for each image of the batch, from a fixed seed."""
    random = torch.Generator().manual_seed(20170317)
    return x + std * torch.randn(x.shape, generator=random).to(x.device)


def _both(*amounts: float) -> tuple[float, ...]:
    return (*(-one for one in reversed(amounts)), *amounts)


PROPERTIES: dict[str, Property] = {
    one.name: one
    for one in [
        Property("brightness", "added to 0 … 1", _both(0.1, 0.2, 0.3), _brightness),
        Property("contrast", "log₂ of the factor", _both(0.33, 0.67, 1.0), _contrast),
        Property("saturation", "log₂ of the factor", _both(0.5, 1.0, 1.5), _saturation, colour=True),
        Property("hue", "degrees", _both(15, 30, 60), _hue, colour=True),
        Property("rotation", "degrees, anticlockwise", _both(5, 10, 20), lambda x, a: _affine(x, degrees=a)),
        Property("scale", "log₂ of the factor", _both(0.15, 0.3, 0.5), lambda x, a: _affine(x, log2_scale=a)),
        Property("position right", "share of the side", _both(1 / 32, 1 / 16, 1 / 8), lambda x, a: _affine(x, right=a)),
        Property("position down", "share of the side", _both(1 / 32, 1 / 16, 1 / 8), lambda x, a: _affine(x, down=a)),
        Property("blur", "σ in pixels", (0.4, 0.6, 0.8, 1.1, 1.5), _blur),
        Property("noise", "σ on 0 … 1", (0.02, 0.05, 0.1, 0.15, 0.2), _noise),
    ]
}
