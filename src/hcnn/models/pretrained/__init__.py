"""Trained weights that lie in the package: loaded without a network, checked against their digest."""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from hcnn.data.preprocessing import Preprocessing
from hcnn.layers.randomness import drawn_from
from hcnn.models.hierarchical import build
from hcnn.runs.load import Run, load_run, network_config, preprocessing_of
from hcnn.storage.atomic import StrPath
from hcnn.storage.safetensors import match_state, parse_safetensors


@dataclass(frozen=True)
class Pretrained:
    """A named network with its trained weights.

    Attributes:
        model: in eval mode.
        preprocessing: how its input is made.
        record: the record of its training: data, recipe, accuracy, digest.
    """

    model: Any
    preprocessing: Preprocessing
    record: dict[str, Any]


def list_pretrained() -> list[str]:
    """Names of the models whose weights lie in the package."""
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


def load_pretrained(name: str) -> Pretrained:
    """Load a model's weights from the package.

    Args:
        name: one of `list_pretrained`.

    Returns:
        The network in eval mode, its preprocessing and the record of its training.

    Raises:
        ValueError: if there are no such weights, or the file's digest is not the recorded one.
    """
    folder = files(__name__)
    record_file, weights_file = folder / f"{name}.json", folder / f"{name}.safetensors"
    if name not in list_pretrained():
        raise ValueError(
            f"{name}: no trained weights in this package; there are {', '.join(list_pretrained()) or 'none'}"
        )
    record = json.loads(record_file.read_text())
    data = weights_file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != record["result"]["weights_sha256"]:
        raise ValueError(f"{weights_file}: SHA-256 {digest}, expected {record['result']['weights_sha256']}: damaged")
    state, _ = parse_safetensors(data)
    with drawn_from(torch.Generator()):  # the weights are replaced; the global random state is left alone
        model = build(network_config(record["config"]))
    match_state(model.state_dict(), state, str(weights_file))
    model.load_state_dict(state)
    return Pretrained(model.eval(), preprocessing_of(record["config"]), record)


def load_named(run: StrPath) -> Run:
    """A run folder, or a model whose trained weights lie in the package.

    Args:
        run: a path, or one of `list_pretrained`; a folder of that name comes first.

    Returns:
        The network with its preprocessing and its configuration.

    Raises:
        ValueError: if it is neither, or damaged.
    """
    if not Path(run).exists() and str(run) in list_pretrained():
        found = load_pretrained(str(run))
        return Run(Path(run), found.model, found.preprocessing, found.record["config"])
    return load_run(Path(run))
