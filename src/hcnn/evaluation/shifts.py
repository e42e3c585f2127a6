"""Robustness: accuracy on test images that were cropped, compressed, blurred, recoloured or turned."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.image_changes import change
from hcnn.evaluation.measures import wilson_interval
from hcnn.text import is_number

SEED = 0  # of positions, directions and noise: every network sees the same images


@dataclass(frozen=True)
class Shift:
    """One kind of change and its five strengths.

    Attributes:
        name: what it is called.
        unit: of the strengths.
        strengths: from weak to strong.
        colour: whether it needs three channels.

    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    colour: bool = False


@dataclass(frozen=True)
class ShiftScore:
    """Accuracy under one change.

    Attributes:
        shift: its name, or "none" for unchanged images.
        strength: in the unit of the shift; 0 for unchanged images.
        accuracy: share of correct answers.
        interval: its 95 % interval (Wilson's).

    """

    shift: str
    strength: float
    accuracy: float
    interval: tuple[float, float]


SHIFTS: dict[str, Shift] = {
    one.name: one
    for one in [
        Shift("crop", "share of each side that is kept", (0.95, 0.9, 0.8, 0.7, 0.6)),
        Shift("jpeg", "quality", (90, 70, 50, 30, 10)),
        Shift("blur", "σ in pixels", (0.4, 0.6, 0.8, 1.1, 1.5)),
        Shift("noise", "σ on the scale 0 to 1", (0.02, 0.05, 0.1, 0.15, 0.2)),
        Shift("brightness", "added or subtracted, on the scale 0 to 1", (0.1, 0.2, 0.3, 0.4, 0.5)),
        Shift("contrast", "log₂ of the factor, up or down", (0.33, 0.67, 1.0, 1.5, 2.0)),
        Shift("hue", "degrees, either way", (15, 30, 60, 90, 180), colour=True),
        Shift("rotation", "degrees, either way", (5, 10, 15, 20, 30)),
    ]
}


def shifts_for(channels: int) -> list[Shift]:
    """The changes that images with this many channels have.

    Example:
        >>> "hue" in [one.name for one in shifts_for(1)]
        False

    """
    return [one for one in SHIFTS.values() if channels == 3 or not one.colour]


def shift_images(images: Tensor, name: str, strength: float) -> Tensor:
    """Change images by one strength; positions, directions and noise are the same at every call.

    Args:
        images: uint8 (n, c, h, w), one or three channels.
        name: one of `SHIFTS`.
        strength: in the unit of the shift. Where a change has two directions, each image gets one at random.

    Returns:
        uint8 (n, c, h, w).

    Raises:
        ValueError: for an unknown change, images of another kind, or a strength that is not a number.

    Example:
        >>> images = torch.full((2, 3, 8, 8), 128, dtype=torch.uint8)
        >>> shift_images(images, "brightness", 0.1).unique().tolist()
        [103, 154]

    """
    if name not in SHIFTS:
        raise ValueError(f"shift: expected one of {', '.join(SHIFTS)}; got {name!r}")
    if not isinstance(images, Tensor):
        raise ValueError(f"{name}: expected a tensor of images; got a {type(images).__name__}")
    if not is_number(strength):
        raise ValueError(f"{name}: expected a strength that is a finite number; got {strength!r}")
    if images.ndim != 4 or images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"{name}: expected uint8 images (n, c, h, w) with 1 or 3 channels; got {images.dtype} of "
            f"{tuple(images.shape)}"
        )
    if not len(images):
        return images.clone()
    generator = torch.Generator().manual_seed(SEED)
    if name == "jpeg":
        return torch.stack([_jpeg(image, int(strength)) for image in images])
    if name == "crop":
        return _crop(images, strength, generator)
    if name in ("blur", "noise"):
        return _bytes(change(images, name, strength))
    up = torch.rand(len(images), generator=generator) < 0.5
    changed = torch.empty_like(images)
    for chosen, sign in ((up, 1), (~up, -1)):
        if chosen.any():  # of few images, all may go one way
            changed[chosen] = _bytes(change(images[chosen], name, sign * strength))
    return changed


def measure_shifts(
    predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, shifts: Sequence[Shift] | None = None
) -> list[ShiftScore]:
    """Accuracy of a network on unchanged images and under every change.

    Args:
        predict: maps uint8 images (n, c, h, w) to logits (n, classes).
        images: uint8 (n, c, h, w).
        labels: (n,).
        shifts: those to measure; all that the images have by default.

    Returns:
        The score without a change, then five for each change.

    Raises:
        ValueError: if there are no images, or not one label for each.

    """
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise ValueError(
            f"measure_shifts: expected tensors of images and labels; got a {type(images).__name__} and a "
            f"{type(labels).__name__}"
        )
    if not len(images) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"measure_shifts: expected images, and as many labels; got {len(images)} and {tuple(labels.shape)}"
        )

    def score(name: str, strength: float, shown: Tensor) -> ShiftScore:
        right = int((predict(shown).argmax(1).cpu() == labels.cpu()).sum())
        return ShiftScore(name, strength, right / len(labels), wilson_interval(right, len(labels)))

    found = [score("none", 0, images)]
    for shift in shifts_for(images.shape[1]) if shifts is None else shifts:
        found += [
            score(shift.name, strength, shift_images(images, shift.name, strength)) for strength in shift.strengths
        ]
    return found


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    from PIL import Image

    pixels = image.numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        again = np.asarray(decoded)
    return torch.from_numpy(again.copy()).reshape(*image.shape[1:], -1).movedim(-1, 0)


def _crop(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A part of each image at a random place, brought back to the image's size."""
    places = 2 * torch.rand(len(images), 2, generator=generator) - 1
    offset = places * (1 - share)  # of the part's centre, on the scale -1 to 1
    matrix = torch.zeros(len(images), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = share
    matrix[:, :, 2] = offset
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    shown = F.grid_sample(images.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _bytes(shown.clamp(0, 1))
