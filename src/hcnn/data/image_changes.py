"""Known changes of images, from brightness to noise: by one amount for all images, or by one for each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing, standardize
from hcnn.functional.hue import hue_matrices

_LUMINANCE = (0.299, 0.587, 0.114)  # of RGB, as in ITU-R BT.601


@dataclass(frozen=True)
class Property:
    """One property of images or signals, and how to change it.

    Attributes:
        name: what it is called.
        unit: of the amounts; 0 leaves an image as it is.
        amounts: those that the study uses, ascending, without 0.
        change: maps a batch of floats and the amounts (n,) to a changed batch; images are on the scale 0 … 1.
        colour: whether it needs three channels.
        range: the lowest and the highest amount that an attribute is tied to (`hcnn.training.attribute_ties`).
        cycle: the amount that is one turn along an attribute, or None. A hue begins again after 360 degrees, and what
            shows the rotation of a small piece of an image, its lines, after 180.
        volumes: whether it is defined for volumes too.
        moves: whether it turns or stretches the image about its centre. An array of a network then turns or stretches
            likewise, beside its translation along an attribute.

    """

    name: str
    unit: str
    amounts: tuple[float, ...]
    change: Callable[[Tensor, Tensor], Tensor]
    colour: bool = False
    range: tuple[float, float] = (-1.0, 1.0)
    cycle: float | None = None
    volumes: bool = False
    moves: bool = False


def change(images: Tensor, name: str, amount: float | Tensor) -> Tensor:
    """Change a known property of images by a known amount.

    Args:
        images: (n, c, h, w), uint8, or floats on the scale 0 … 1.
        name: one of `PROPERTIES`.
        amount: in the property's unit, one for all images or (n,); 0 changes nothing, and larger is brighter, more
            contrasted, more saturated, turned further (anticlockwise), larger, further right or down, more blurred,
            noisier.

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
    amounts = torch.as_tensor(amount, dtype=torch.float64, device=images.device)
    if amounts.ndim > 1 or (amounts.ndim and len(amounts) != len(images)):
        raise ValueError(f"{name}: expected one amount, or one for each of {len(images)} images; got {amounts.shape}")
    return PROPERTIES[name].change(pixels, amounts.expand(len(images))).clamp(0, 1)


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


def each(amounts: Tensor, x: Tensor) -> Tensor:
    """Amounts (n,) of the type and number of axes of x, to be broadcast against it."""
    return amounts.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _brightness(x: Tensor, amounts: Tensor) -> Tensor:
    return x + each(amounts, x)


def _contrast(x: Tensor, amounts: Tensor) -> Tensor:
    mean = x.mean(tuple(range(1, x.ndim)), keepdim=True)
    return mean + (x - mean) * 2 ** each(amounts, x)


def _saturation(x: Tensor, amounts: Tensor) -> Tensor:
    grey = (x * x.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    return grey + (x - grey) * 2 ** each(amounts, x)


def _hue(x: Tensor, amounts: Tensor) -> Tensor:
    return torch.einsum("nij,njhw->nihw", hue_matrices(amounts).to(x.dtype), x)


def _affine(x: Tensor, *, degrees: Tensor | None = None, log2_scale: Tensor | None = None,
            right: Tensor | None = None, down: Tensor | None = None) -> Tensor:  # fmt: skip
    """Turns, enlarges and moves about the centre; mirrored beyond the border, so that none appears."""
    given = next(one for one in (degrees, log2_scale, right, down) if one is not None)
    turned, log2, right, down = (torch.zeros_like(given) if one is None else one
                                 for one in (degrees, log2_scale, right, down))  # fmt: skip
    c, s = (turn(turned.deg2rad()) / 2**log2 for turn in (torch.cos, torch.sin))
    aspect = x.shape[2] / x.shape[3]
    # Where each pixel comes from, in coordinates from -1 to 1 (x to the right, y down).
    matrix = torch.stack([c, -s * aspect, -2 * right, s / aspect, c, -2 * down], 1).unflatten(1, (2, 3)).to(x.dtype)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Average with a Gaussian of each image's own σ, in pixels, along every spatial axis; mirrored at the border.

    Each is cut off at 3 of its own σ, so that an image is blurred in the same way whatever the others of its batch.
    """
    largest = float(sigmas.max()) if len(sigmas) else 0.0
    if largest <= 0:
        return x
    n, _, *u = x.shape
    for axis, size in enumerate(u):
        radius = min(math.ceil(3 * largest), size - 1)
        place = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        taps = torch.exp(-place.square() / (2 * sigmas.to(x.dtype).clamp_min(1e-3)[:, None] ** 2))  # (n, taps)
        taps = taps * (place.abs() <= (3 * sigmas.double()).ceil()[:, None])
        taps = taps / taps.sum(1, keepdim=True)
        moved = x.movedim(2 + axis, -1)
        padded = F.pad(moved.reshape(1, n, -1, size), [radius, radius, 0, 0], mode="reflect")  # (1, n, others, size')
        y = F.conv2d(padded, taps[:, None, None], groups=n)
        x = y.reshape(moved.shape).movedim(-1, 2 + axis)
    return x


def _noise(x: Tensor, amounts: Tensor) -> Tensor:
    """The same pattern at every amount, and another for each image of the batch, from a fixed seed."""
    random = torch.Generator().manual_seed(20170317)
    return x + each(amounts, x) * torch.randn(x.shape, generator=random).to(x.device)


def _both(*amounts: float) -> tuple[float, ...]:
    return (*(-one for one in reversed(amounts)), *amounts)


PROPERTIES: dict[str, Property] = {
    one.name: one
    for one in [
        Property("brightness", "added to 0 … 1", _both(0.1, 0.2, 0.3), _brightness, range=(-0.3, 0.3), volumes=True),
        Property("contrast", "log₂ of the factor", _both(0.33, 0.67, 1.0), _contrast, volumes=True),
        Property(
            "saturation", "log₂ of the factor", _both(0.5, 1.0, 1.5), _saturation, colour=True, range=(-1.5, 1.5)
        ),
        Property("hue", "degrees", _both(15, 30, 60), _hue, colour=True, range=(-180, 180), cycle=360),
        Property(
            "rotation", "degrees, anticlockwise", _both(5, 10, 20), lambda x, a: _affine(x, degrees=a),
            range=(-30, 30), cycle=180, moves=True,
        ),
        Property(
            "scale", "log₂ of the factor", _both(0.15, 0.3, 0.5), lambda x, a: _affine(x, log2_scale=a),
            range=(-0.5, 0.5), moves=True,
        ),
        Property(
            "position right", "share of the side", _both(1 / 32, 1 / 16, 1 / 8), lambda x, a: _affine(x, right=a),
            range=(-1 / 8, 1 / 8),
        ),
        Property(
            "position down", "share of the side", _both(1 / 32, 1 / 16, 1 / 8), lambda x, a: _affine(x, down=a),
            range=(-1 / 8, 1 / 8),
        ),
        Property("blur", "σ in pixels", (0.4, 0.6, 0.8, 1.1, 1.5), blur, range=(0, 1.5), volumes=True),
        Property("noise", "σ on 0 … 1", (0.02, 0.05, 0.1, 0.15, 0.2), _noise, range=(0, 0.2), volumes=True),
    ]
}  # fmt: skip
