"""Augmentation of batches on the training device, a pure function of (seed, epoch, index of the image).

Every random number is a hash of the seed, the epoch, the index of the image in the training set and the number of the
draw. An image is therefore augmented in the same way whatever its batch, its process and the number of restarts. No
generator is used and no state is kept. A batch decides only which images mixup and CutMix combine: neighbours, 0 with
1, 2 with 3 and so on. Cutting a batch into pieces of even length therefore changes no more than the last bit of a
weight.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hcnn.data.counter_random import beta_quantile, counter_uniform
from hcnn.text import is_number

Fill = Literal["zeros", "reflect"]
Flip = Literal["none", "random", "alternating"]

_SHIFT, _FLIP, _CUTOUT, _LAMBDA, _CUTMIX, _WHICH = 0, 8, 16, 24, 32, 40  # first stream of each; + u axis


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented, in this order: flip, translation, cutout, then mixup or CutMix.

    Args:
        translation: largest shift in pixels along every spatial axis; each image draws its own, uniformly.
        fill: the pixels that enter at the border: "zeros", which is the mean pixel once images are standardized, or
            "reflect", the image mirrored about its outermost pixels.
        flip: mirroring along the last axis. "random": each image with probability 1/2 in every epoch. "alternating":
            a random half of the images in even epochs, the others in odd ones, so that any two epochs in a row show
            both versions (Jordan 2024, cifar10-airbench).
        cutout: side of the square set to zero about a uniform centre, cut off at the border (DeVries, Taylor
            2017); 0 for none.
        mixup: α of λ ~ Beta(α, α), with x = λ x_a + (1 - λ) x_b (Zhang et al. 2018); 0 for none.
        cutmix: α of λ ~ Beta(α, α), where x_b replaces x_a in a box of 1 - λ of the volume (Yun et al. 2019); 0 for
            none. With both, each image draws which of the two it gets. The last image of an odd batch gets neither.

    Raises:
        ValueError: if a value is out of range.

    Example:
        >>> Augmentation(translation=4, flip="alternating").fill
        'zeros'

    """

    translation: int = 0
    fill: Fill = "zeros"
    flip: Flip = "none"
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("translation", "cutout"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(
                    f"Augmentation: expected {name} to be a whole number of pixels, 0 or more; got {value!r}"
                )
        for name in ("mixup", "cutmix"):
            # Outside this range the distribution consists of spikes that the table of quantiles does not resolve.
            if not is_number(value := getattr(self, name)) or (value != 0 and not 0.01 <= value <= 100):
                raise ValueError(
                    f"Augmentation: expected {name} (α of a Beta) to be 0 or from 0.01 to 100; got {value!r}"
                )
        if self.fill not in ("zeros", "reflect"):
            raise ValueError(f"Augmentation: expected fill 'zeros' or 'reflect'; got {self.fill!r}")
        if self.flip not in ("none", "random", "alternating"):
            raise ValueError(f"Augmentation: expected flip 'none', 'random' or 'alternating'; got {self.flip!r}")


def augment(
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Augment a batch, and turn its labels into distributions over the classes.

    Args:
        images: standardized (b, c, *u), floating point; not changed.
        labels: int64 (b,), below `classes`.
        classes: number of classes.
        augmentation: the augmentation.
        seed: random seed of the run.
        epoch: number of the epoch, from 0.
        index: int64 (b,), the index of each image in the training set.

    Returns:
        Images (b, c, *u) and targets (b, classes) of float32 whose rows sum to 1.

    Raises:
        ValueError: if shapes or types do not fit, or a translation or a cutout does not fit into the images.

    Example:
        >>> images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
        >>> how = Augmentation(translation=4, flip="random")
        >>> x, targets = augment(images, labels, classes=3, augmentation=how, seed=0, epoch=0, index=torch.arange(4))
        >>> x.shape, targets.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 3]))

    """
    _check(images, labels, index, augmentation)
    draw = functools.partial(counter_uniform, seed, epoch, index)  # (b,) of a stream
    if augmentation.translation or augmentation.flip != "none":
        images = _move(images, augmentation, draw, _flips(augmentation.flip, seed, epoch, index))
    if augmentation.cutout:
        images = images.masked_fill(_box(images, draw, _CUTOUT, augmentation.cutout), 0)
    targets = torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
    if augmentation.mixup or augmentation.cutmix:
        return _blend(images, targets, augmentation, draw)
    return images, targets


# ------------------------------------------------------------------------------------------------------ details

Draw = functools.partial[Tensor]


def _check(images: Tensor, labels: Tensor, index: Tensor, how: Augmentation) -> None:
    if not images.is_floating_point() or not 3 <= images.ndim <= 5:
        raise ValueError(
            "augment: expected standardized floating-point images (b, c, *u) of 1 to 3 spatial axes; got "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    for name, value in (("labels", labels), ("index", index)):
        if value.dtype != torch.int64 or value.shape != images.shape[:1]:
            raise ValueError(
                f"augment: expected {name} int64 of shape ({len(images)},), one per image; got {value.dtype} of "
                f"shape {tuple(value.shape)}"
            )
    smallest = min(images.shape[2:])
    if how.translation >= smallest:
        raise ValueError(
            f"augment: expected a translation below the smallest side, {smallest}, of images (b, c, *u) = "
            f"{tuple(images.shape)}; got {how.translation}"
        )
    if how.cutout > smallest:
        raise ValueError(
            f"augment: expected a cutout of at most the smallest side, {smallest}, of images (b, c, *u) = "
            f"{tuple(images.shape)}; got {how.cutout}"
        )


def _flips(flip: Flip, seed: int, epoch: int, index: Tensor) -> Tensor | None:
    """Which images to mirror, (b,) bool."""
    if flip == "none":
        return None
    if flip == "random":
        return counter_uniform(seed, epoch, index, _FLIP) < 0.5
    return (counter_uniform(seed, 0, index, _FLIP) < 0.5) ^ bool(epoch % 2)


def _move(images: Tensor, how: Augmentation, draw: Draw, flips: Tensor | None) -> Tensor:
    """Flip and translate in one gather: output p reads input flip(p - shift), where that lies inside."""
    b, c, *u = images.shape
    place = torch.zeros(b, *[1] * len(u), dtype=torch.int64, device=images.device)
    inside = torch.ones_like(place, dtype=torch.bool)
    for axis, size in enumerate(u):
        shift = torch.zeros(b, 1, dtype=torch.int64, device=images.device)
        if how.translation:
            steps = 2 * how.translation + 1
            shift = (draw(_SHIFT + axis) * steps).long()[:, None] - how.translation
        source = torch.arange(size, device=images.device) - shift  # (b, size)
        if how.fill == "reflect":
            source = source.abs()
            source = size - 1 - (size - 1 - source).abs()
        elif how.translation:
            inside = inside & _on_axis((source >= 0) & (source < size), axis, len(u))
            source = source.clamp(0, size - 1)
        if flips is not None and axis == len(u) - 1:
            source = torch.where(flips[:, None], size - 1 - source, source)
        place = place * size + _on_axis(source, axis, len(u))
    flat = place.reshape(b, 1, -1).expand(b, c, -1)  # (b, c, prod u)
    moved = images.reshape(b, c, -1).gather(2, flat).reshape(images.shape)
    if how.fill == "zeros" and how.translation:
        moved = moved.masked_fill_(~inside[:, None], 0)
    return moved


def _on_axis(values: Tensor, axis: int, axes: int) -> Tensor:
    """(b, size) as (b, 1, …, size, …, 1), with the size on spatial axis `axis`."""
    return values.reshape(len(values), *[1] * axis, -1, *[1] * (axes - 1 - axis))


def _box(images: Tensor, draw: Draw, stream: int, side: int | Tensor) -> Tensor:
    """Mask (b, 1, *u) of a box about a uniform centre; `side` in pixels, or (b,) in parts of each axis."""
    b, _, *u = images.shape
    mask = torch.ones(b, *[1] * len(u), dtype=torch.bool, device=images.device)
    for axis, size in enumerate(u):
        length = side if isinstance(side, int) else (side * size).round().long()[:, None]
        start = (draw(stream + axis) * size).long()[:, None] - length // 2
        offset = torch.arange(size, device=images.device) - start
        mask = mask & _on_axis((offset >= 0) & (offset < length), axis, len(u))
    return mask[:, None]


def _blend(images: Tensor, targets: Tensor, how: Augmentation, draw: Draw) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour. Its own index determines λ, the box, and whether it is mixup or CutMix."""
    b, axes = len(images), images.ndim - 2
    partner = (torch.arange(b, device=images.device) ^ 1).clamp_(max=b - 1)  # an odd one out stays itself
    uniform = draw(_LAMBDA)
    shape = (b, *[1] * (axes + 1))
    weight = torch.empty(0)
    if how.mixup:
        weight = beta_quantile(uniform, how.mixup).reshape(shape)  # (b, 1, …, 1)
    if how.cutmix:
        side = (1 - beta_quantile(uniform, how.cutmix)) ** (1 / axes)
        keep = (~_box(images, draw, _CUTMIX, side)).to(torch.float32)  # (b, 1, *u)
        weight = torch.where((draw(_WHICH) < 0.5).reshape(shape), weight, keep) if how.mixup else keep
    share = weight.flatten(1).mean(1, keepdim=True)  # the part of the box inside the image counts
    mixed = torch.lerp(images[partner], images, weight.to(images.dtype))
    return mixed, torch.lerp(targets[partner], targets, share)
