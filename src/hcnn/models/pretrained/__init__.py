"""Pretrained weights that ship with the package; `hcnn.load_pretrained` loads them."""

from importlib.resources import files
from importlib.resources.abc import Traversable


def list_pretrained() -> list[str]:
    """Names of the models with pretrained weights."""
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


def pretrained_file(name: str) -> Traversable:
    """A file of this folder: weights, or the record of their training."""
    return files(__name__) / name
