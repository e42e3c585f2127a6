"""The pages that run a network in the reader's browser, made from the weights that ship with the package."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import hcnn
from hcnn.data.datasets import load
from hcnn.export.html_file import network_page

STRIP = Path(__file__).parent.parent / "cifar10.png"  # the first test image of each class, side by side


def write_live_pages(folder: Path) -> None:
    """Write draw-a-digit.html and classify-a-photo.html."""
    folder.mkdir()
    digits = load("digits").test
    assert digits is not None
    strip = torch.from_numpy(np.array(Image.open(STRIP).convert("RGB"))).permute(2, 0, 1)
    _write(
        folder / "draw-a-digit.html",
        *("hcnn_digits", digits.images[:64], digits.labels[:64]),
        title="Draw a digit",
        lead="{name} has {weights} weights and learned from 1,437 scanned digits.",
    )
    _write(
        folder / "classify-a-photo.html",
        *("hcnn_small_cifar10", torch.stack(strip.split(strip.shape[1], 2)), torch.arange(10)),
        title="Classify a photo",
        lead="{name} has {weights} weights and knows the ten classes of CIFAR-10.",
    )


def _write(path: Path, name: str, images: Tensor, labels: Tensor, *, title: str, lead: str) -> None:
    found = hcnn.load_pretrained(name)
    weights = hcnn.count_parameters(found.model).composed
    lead = lead.format(name=name, weights=f"{weights:,}")
    text, _ = network_page(
        found.model, images, found.preprocessing, labels=labels, title=title, lead=lead, what=path.name
    )
    path.write_text(text, encoding="utf-8")
