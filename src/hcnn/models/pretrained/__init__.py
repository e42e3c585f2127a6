"""Pretrained weights that ship with the package; `hcnn.load_pretrained` loads them."""

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any


def list_pretrained() -> list[str]:
    """Names of the models with pretrained weights."""
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


def pretrained_file(name: str) -> Traversable:
    """A file of this folder: weights, or the record of their training."""
    return files(__name__) / name


def pretrained_record(name: str) -> dict[str, Any]:
    """The record of the training of shipped weights: config and result.

    Example:
        >>> round(pretrained_record("hcnn_small_cifar10")["result"]["test_accuracy"], 4)
        0.8626

    """
    return json.loads(pretrained_file(f"{name}.json").read_text(encoding="utf-8"))
