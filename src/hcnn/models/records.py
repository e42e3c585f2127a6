"""Networks and their preprocessing in the records of runs and pretrained weights."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from hcnn.data.preprocessing import Preprocessing
from hcnn.models.baselines import NETWORKS
from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
from hcnn.models.registry import NetworkConfig
from hcnn.storage.records import build_record

_CONFIGS: dict[str, type[NetworkConfig]] = {
    "HierarchicalCNN": HierarchicalCNNConfig,
    "MultiscaleHierarchicalCNN": MultiscaleHierarchicalCNNConfig,
    **{network.__name__: config for config, network in NETWORKS.items()},
}


# Settings that earlier versions did not write, and what their networks did.
_UNWRITTEN = {"first_attribute": "learned", "second_pool": "mean"}


def completed_model(model: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The settings of a network with those that earlier versions did not write.

    Args:
        model: what a record says.
        known: the settings that networks of its kind have now.

    Example:
        >>> completed_model({"classes": 10}, ("classes", "second_pool"))
        {'second_pool': 'mean', 'classes': 10}
    """
    return {**{name: value for name, value in _UNWRITTEN.items() if name in known}, **model}


def network_kind(config: NetworkConfig) -> str:
    """The name under which records keep a configuration: its network's class.

    Example:
        >>> network_kind(HierarchicalCNNConfig())
        'HierarchicalCNN'
    """
    return next(name for name, kind in _CONFIGS.items() if type(config) is kind)


def network_config(config: dict[str, Any], where: str = "config.json") -> NetworkConfig:
    """The network in a run's config.json.

    Args:
        config: its contents.
        where: opens the error text.

    Raises:
        ValueError: naming the field that is missing, unknown or of another type.
    """
    kind = config.get("network")
    if not isinstance(kind, str) or kind not in _CONFIGS:
        raise ValueError(f"{where}: network: expected one of {', '.join(_CONFIGS)}; got {str(kind)[:60]!r}")
    model = config.get("model")
    if isinstance(model, dict):
        model = completed_model(model, [field.name for field in fields(_CONFIGS[kind])])
    return build_record(_CONFIGS[kind], model, f"{where}: model")


def preprocessing_of(config: dict[str, Any], where: str = "config.json") -> Preprocessing:
    """The preprocessing in a run's config.json, which must be for the network in it.

    Args:
        config: its contents.
        where: opens the error text.

    Raises:
        ValueError: naming the field that is missing, unknown or of another type, or does not fit the network.
    """
    found = build_record(Preprocessing, config.get("preprocessing"), f"{where}: preprocessing")
    network = network_config(config, where)
    for name, expected, got in (
        ("mean", network.channels, len(found.mean)),
        ("size", network.spatial_axes, len(found.size)),
        ("classes", network.classes, len(found.classes)),
    ):
        if got != expected:
            raise ValueError(f"{where}: preprocessing.{name}: expected {expected} entries, as in model; got {got}")
    return found
