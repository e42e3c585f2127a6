"""The images that an exported file is checked with: those of the run's data, or synthetic ones where it is not here."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.archives import cache_folder
from hcnn.data.cifar import CIFAR10, CIFAR100
from hcnn.data.splits import spread
from hcnn.runs.held_out import load_run_data
from hcnn.runs.load import Run
from hcnn.storage.atomic import StrPath

COUNT = 64
_DOWNLOADED = {"cifar10": CIFAR10, "cifar100": CIFAR100}


@dataclass(frozen=True)
class CheckImages:
    """Images to compare an exported file with the network on.

    Attributes:
        images: uint8 (n, c, *u).
        source: where they come from, for people.
        labels: their classes (n,); None for synthetic images, and for data of other classes than the network's.
    """

    images: Tensor
    source: str
    labels: Tensor | None = None


def find_check_images(run: Run, data: str | None = None, data_dir: StrPath | None = None) -> CheckImages:
    """Images of a run's data, or synthetic ones where the data is not on this machine; nothing is downloaded.

    Args:
        run: a network with its preprocessing.
        data: another data set to take them from.
        data_dir: where data sets are kept.

    Returns:
        64 images, or as many as there are.

    Raises:
        ValueError: if `data` is given and cannot be read.

    """
    name = data or run.config.get("data")
    if data is None:
        reason = "the network has no record of its data" if name is None else _missing(name, data_dir)
        if reason:
            return _synthetic(run, reason)
    try:
        splits = load_run_data(run, data, data_dir)
    except ValueError as error:
        if data is not None:
            raise
        return _synthetic(run, str(error))
    chosen = splits.test or splits.validation or splits.train
    some = chosen.subset(spread(len(chosen), COUNT))
    labels = some.labels if some.classes == run.preprocessing.classes else None  # else they number other classes
    return CheckImages(some.images, f"{len(some)} images of {some.name}", labels)


def synthetic_images(channels: int, size: tuple[int, ...], count: int = COUNT) -> Tensor:
    """Smooth random images with some noise, always the same.

    Args:
        channels: channels of an image.
        size: its spatial size.
        count: number of images.

    Returns:
        uint8 (n, channels, *size).

    Example:
        >>> synthetic_images(3, (8, 8), 5).shape
        torch.Size([5, 3, 8, 8])

    """
    generator = torch.Generator().manual_seed(0)
    kind: dict[str, Any] = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    coarse = torch.rand(count, channels, *[4] * len(size), **kind)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    smooth = F.interpolate(coarse, size=size, mode=mode)
    noise = 0.1 * torch.randn(smooth.shape, **kind)
    return ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _synthetic(run: Run, reason: str) -> CheckImages:
    images = synthetic_images(run.model.config.channels, tuple(run.preprocessing.size))
    return CheckImages(images, f"{len(images)} synthetic images, because {reason}")


def _missing(name: str, data_dir: StrPath | None) -> str:
    """Why a data set that would have to be downloaded is not here; empty where it is."""
    if name not in _DOWNLOADED:
        return ""
    archive, root = _DOWNLOADED[name].archive, cache_folder(data_dir)
    unpacked = any(
        all((folder / file).is_file() for file, _ in archive.members) for folder in (root, root / archive.folder)
    )
    return "" if unpacked or (root / archive.file).is_file() else f"{name} is not in {root}"
