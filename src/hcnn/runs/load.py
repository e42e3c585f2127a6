"""Run folders read again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn.data.preprocessing import Preprocessing
from hcnn.layers.randomness import drawn_from
from hcnn.models.hierarchical import KINDS, NetworkConfig, build
from hcnn.runs.settings import CONFIG, RESULT, WEIGHTS
from hcnn.storage.safetensors import load_weights, match_state


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
        folder: where it lies.
        model: the trained network, an `AttributeNetwork` or a `Comparator`, in eval mode.
        preprocessing: how its input is made.
        config: the contents of config.json.
    """

    folder: Path
    model: Any
    preprocessing: Preprocessing
    config: dict[str, Any]


def load_run(folder: Path) -> Run:
    """Load the network of a run folder.

    Args:
        folder: as `train_run` leaves it.

    Returns:
        The run, its network in eval mode.

    Raises:
        ValueError: if the folder, its configuration or its weights are missing, damaged, or do not fit each other.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a finished run: expected {name} in it, as `hcnn train` leaves")
    try:
        config = json.loads((folder / CONFIG).read_text())
        network, preprocessing = network_config(config), preprocessing_of(config)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / CONFIG}: expected a run's configuration; {error!r}") from error
    with drawn_from(torch.Generator()):  # the weights are replaced; the global random state is left alone
        model = build(network)
    state, _ = load_weights(folder / WEIGHTS)
    match_state(model.state_dict(), state, str(folder / WEIGHTS))
    model.load_state_dict(state)
    return Run(folder, model.eval(), preprocessing, config)


def network_config(config: dict[str, Any]) -> NetworkConfig:
    """The network in a run's config.json."""
    return KINDS[config["network"]](**_tuples(config["model"]))


def read_result(folder: Path) -> dict[str, Any]:
    """The contents of a run's result.json, or {} where there is none."""
    path = Path(folder) / RESULT
    return json.loads(path.read_text()) if path.is_file() else {}


def folder_options(data: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """Options that make `hcnn.data.datasets.load` resize a folder's images to the size and channels of a network."""
    if not Path(data).expanduser().is_dir() or len(preprocessing.size) != 2:
        return {}
    return {"image_size": tuple(preprocessing.size), "channels": len(preprocessing.mean)}


def preprocessing_of(config: dict[str, Any]) -> Preprocessing:
    """The preprocessing in a run's config.json."""
    return Preprocessing(**_tuples(config["preprocessing"]))


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
