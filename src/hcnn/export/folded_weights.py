"""Folded weights as safetensors: the smallest file that this package can read."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.plain_network import check_preprocessing
from hcnn.layers.randomness import to_be_replaced
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.factory import build
from hcnn.models.registry import NetworkConfig
from hcnn.runs.load import check_size, network_config, preprocessing_of
from hcnn.runs.settings import network_kind
from hcnn.storage.atomic import StrPath, output_folder, write_together
from hcnn.storage.records import parse_object
from hcnn.storage.safetensors import load_weights, match_state, safetensors_bytes

FORMAT = "hcnn-folded-1"
WEIGHTS, CARD = "model.safetensors", "README.md"


def export_safetensors(folder: StrPath, model: AttributeNetwork, preprocessing: Preprocessing, card: str) -> str:
    """Write a folder with the folded network's weights and a model card.

    Args:
        folder: made if missing.
        model: a trained network; folded here if it is not yet.
        preprocessing: goes into the file's metadata, as the configuration does.
        card: Markdown, see `hcnn.export.model_card.model_card`.

    Returns:
        SHA-256 of the weights' file.

    Raises:
        ValueError: if the network takes floating-point images, which the metadata cannot say, or has other channels or
            classes than the preprocessing.
        OSError: if the folder cannot be written.

    """
    check_preprocessing(preprocessing, model.config)  # one of floats would be loaded as one of bytes
    folded = model if model.folded else model.fold()
    about = {
        "network": network_kind(folded.config),
        "model": asdict(folded.config),
        "preprocessing": asdict(preprocessing),
    }
    metadata = {"format": FORMAT, "hcnn": json.dumps(about, allow_nan=False)}
    weights = safetensors_bytes(folded.state_dict(), metadata, Path(folder) / WEIGHTS)
    with output_folder(folder) as made:
        write_together({made / WEIGHTS: weights, made / CARD: card.encode()})
    return hashlib.sha256(weights).hexdigest()


def load_folded(path: StrPath) -> tuple[AttributeNetwork, Preprocessing]:
    """Read what `export_safetensors` wrote; no pickle is ever opened.

    Args:
        path: the folder, or the safetensors file itself.

    Returns:
        The folded network and its preprocessing.

    Raises:
        ValueError: if it is something else, or damaged.

    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"expected the path of folded weights; got {path!r}")
    path = Path(path)
    path = path / WEIGHTS if path.is_dir() else path
    state, metadata = load_weights(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: expected folded weights of format {FORMAT}; got {metadata.get('format')!r}")
    try:
        text = metadata["hcnn"]
    except KeyError:
        raise ValueError(f"{path}: expected the network's configuration in the metadata; there is none") from None
    about = parse_object(text, f"{path}: metadata")
    config, preprocessing = network_config(about, str(path)), preprocessing_of(about, str(path))
    check_size(config, state, str(path))
    with to_be_replaced():
        with torch.device("meta"):  # what does not fit may be too large to build
            match_state(_folded(config, path).state_dict(), state, str(path))
        model = _folded(config, path)
    model.load_state_dict(state)
    model.preprocessing = preprocessing
    return model.eval(), preprocessing


def _folded(config: NetworkConfig, path: Path) -> AttributeNetwork:
    network = build(config)
    if not isinstance(network, AttributeNetwork):
        raise ValueError(f"{path}: expected folded weights of an attribute network; got a {type(network).__name__}")
    return network.fold()
