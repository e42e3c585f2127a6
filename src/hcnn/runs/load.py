"""Loading the network and the records of a run folder."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn.data.image_files import OnBad
from hcnn.data.preprocessing import Preprocessing
from hcnn.layers.randomness import to_be_replaced
from hcnn.models.counts import ParameterCount
from hcnn.models.factory import build, load_pretrained
from hcnn.models.pretrained import list_pretrained
from hcnn.models.records import network_config, preprocessing_of
from hcnn.models.registry import NetworkConfig
from hcnn.runs.settings import CONFIG, RESULT, WEIGHTS
from hcnn.storage.atomic import StrPath
from hcnn.storage.records import build_record, read_object
from hcnn.storage.safetensors import load_weights, match_state, weights_sha256
from hcnn.storage.user_paths import user_path
from hcnn.text import is_number


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
        folder: the run folder.
        model: the trained network, in eval mode; it carries the preprocessing too.
        preprocessing: how images become its input.
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
        ValueError: if the folder, its configuration or its weights are missing, damaged, or do not fit each other, or
            the weights are not those whose digest is in result.json.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ValueError(f"expected the path of a run folder; got {folder!r}")
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a finished run: expected {name} in it, as `hcnn train` leaves")
    where = str(folder / CONFIG)
    config = read_object(where)
    if config.get("format", 1) != 1:
        raise ValueError(f"{where}: format: expected 1, the only one so far; got {str(config['format'])[:60]!r}")
    if not isinstance(config.get("data", ""), str):
        raise ValueError(f"{where}: data: expected a name or a path; got {str(config['data'])[:60]!r}")
    model = load_recorded(config, folder / WEIGHTS, where)
    _check_digest(folder, model)
    return Run(folder, model, model.preprocessing, config)


def _check_digest(folder: Path, model: Any) -> None:
    """Refuse values that are not those of the run's result; one that cannot be read says nothing about them."""
    try:
        expected = read_object(folder / RESULT).get("weights_sha256")
    except (OSError, ValueError):
        return
    if not isinstance(expected, str) or hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == expected:
        return
    # The same values may have been written in another dtype, or by another version of safetensors.
    digest = weights_sha256(model.state_dict(), folder / WEIGHTS)
    if digest != expected:
        raise ValueError(
            f"{folder / WEIGHTS}: expected weights with SHA-256 {expected[:16]}…, as {RESULT} says; got {digest[:16]}…"
            ": they are damaged, or of a run that ended before it wrote its result, which hcnn train --resume "
            f"finishes; to use them as they are, remove {RESULT}"
        )


def load_recorded(config: dict[str, Any], weights: Path, where: str) -> Any:
    """The network of a record, with its weights from a file.

    Args:
        config: the contents of a run's config.json.
        weights: a safetensors file.
        where: what the record is and where from; it opens the error text.

    Returns:
        The network in eval mode, with its preprocessing.

    Raises:
        ValueError: if record or weights are damaged, or do not fit each other.
    """
    network, preprocessing = network_config(config, where), preprocessing_of(config, where)
    state, _ = load_weights(weights)
    check_size(network, state, where)
    with to_be_replaced():
        with torch.device("meta"):  # another network may be too large to build
            match_state(build(network).state_dict(), state, str(weights))
        model = build(network)
    model.load_state_dict(state)
    model.preprocessing = preprocessing
    return model.eval()


def load_named(run: StrPath) -> Run:
    """A run folder, or a model whose pretrained weights ship with the package.

    Args:
        run: a path, or one of `list_pretrained`; a folder of that name comes first.

    Returns:
        The network with its preprocessing and its configuration.

    Raises:
        ValueError: if it is neither, or damaged.
    """
    folder = user_path(run)
    if not folder.exists() and str(run) in list_pretrained():
        found = load_pretrained(str(run))
        return Run(folder, found.model, found.preprocessing, found.record["config"])
    if not folder.exists():
        names = ", ".join(list_pretrained())
        raise ValueError(f"{run}: expected a run folder, or a network with pretrained weights ({names}); there is none")
    return load_run(folder)


def check_size(network: NetworkConfig, state: dict[str, Tensor], where: str) -> None:
    """Refuse a configuration that is too large for its weights, before time and memory go into building it.

    Args:
        network: the configuration.
        state: its weights.
        where: opens the error text.

    Raises:
        ValueError: if a setting is larger than the number of weights, or a depth than the number of tensors.
    """
    weights = sum(value.numel() for value in state.values())
    for name, value in asdict(network).items():
        most = max(len(state), 64) if name == "depth" else max(weights, 1000)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number > most:
                raise ValueError(f"{where}: model.{name}: {number} is too large for weights of {weights:,} numbers")


def read_result(folder: Path) -> dict[str, Any]:
    """The contents of a run's result.json, or {} where there is none.

    Raises:
        ValueError: naming the file, and the field if an accuracy, a count or a duration is none.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        return {}
    result = read_object(path)
    for name, value in result.items():
        if "_accuracy" in name and not (is_number(value) and 0 <= value <= 1):
            raise ValueError(f"{path}: {name}: expected a number from 0 to 1; got {str(value)[:60]!r}")
        count = "images" if name.endswith("_images") else "epochs" if name in ("epochs", "best_epoch") else ""
        if count and not (is_number(value) and isinstance(value, int) and value >= 0):
            raise ValueError(f"{path}: {name}: expected a number of {count}; got {str(value)[:60]!r}")
        if name == "seconds" and not (is_number(value) and value >= 0):
            raise ValueError(f"{path}: {name}: expected a number of seconds; got {str(value)[:60]!r}")
        if name == "parameters":
            build_record(ParameterCount, value, f"{path}: {name}")
    return result


def folder_options(data: str, run: Run) -> dict[str, Any]:
    """Options that make `hcnn.data.datasets.load` read a folder as for a run: resized, and skipping what it skipped."""
    size, on_bad = run.preprocessing.size, on_bad_of(run)
    if not user_path(data).is_dir() or len(size) != 2:
        return {}
    return {"image_size": tuple(size), "channels": len(run.preprocessing.mean), "on_bad": on_bad}


def on_bad_of(run: Run) -> OnBad:
    """What the training did with damaged images: "refuse" or "skip"."""
    return "skip" if run.config.get("on_bad") == "skip" else "refuse"
