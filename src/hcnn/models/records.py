"""Networks and their preprocessing in the records of runs and pretrained weights."""

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
    return build_record(_CONFIGS[kind], config.get("model"), f"{where}: model")


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
