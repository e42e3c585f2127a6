"""Hierarchical Attribute CNNs (Jacobsen, Oyallon, Mallat, Smeulders 2017) for PyTorch.

Example:
    >>> import torch, hcnn
    >>> model = hcnn.create_model("hcnn_digits")
    >>> model(torch.randn(4, 1, 8, 8)).shape
    torch.Size([4, 10])

"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcnn.front import TrainedNetwork, load, train
    from hcnn.functional import attribute_conv, marginal, patch_moments, translate
    from hcnn.layers import AttributeBlock, AttributeConv, FactorizedConv, LogFrequency
    from hcnn.models.attribute_network import AttributeArray, AttributeNetwork
    from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
    from hcnn.models.counts import count_parameters
    from hcnn.models.factory import create_model, load_pretrained
    from hcnn.models.features import FeatureExtractor
    from hcnn.models.hierarchical import HierarchicalCNN
    from hcnn.models.multiscale import MultiscaleHierarchicalCNN
    from hcnn.models.network import Network
    from hcnn.models.pretrained import list_pretrained
    from hcnn.models.registry import ModelSpec, list_models, model_config, model_spec
    from hcnn.models.transfer import adapt, parameter_groups

__version__ = "0.1.0"
__all__ = [
    "AttributeArray",
    "AttributeBlock",
    "AttributeConv",
    "AttributeNetwork",
    "FactorizedConv",
    "FeatureExtractor",
    "HierarchicalCNN",
    "HierarchicalCNNConfig",
    "LogFrequency",
    "ModelSpec",
    "MultiscaleHierarchicalCNN",
    "MultiscaleHierarchicalCNNConfig",
    "Network",
    "TrainedNetwork",
    "adapt",
    "attribute_conv",
    "count_parameters",
    "create_model",
    "list_models",
    "list_pretrained",
    "load",
    "load_pretrained",
    "marginal",
    "model_config",
    "model_spec",
    "parameter_groups",
    "patch_moments",
    "train",
    "translate",
]
# Loaded when first asked for, so that `hcnn --help` and `hcnn --version` do not wait for PyTorch.
_HOMES = (
    *("hcnn.functional", "hcnn.layers"),
    *(f"hcnn.models.{name}" for name in ("attribute_network", "counts", "factory", "multiscale", "pretrained")),
    *("hcnn.models.features", "hcnn.models.registry", "hcnn.models.transfer"),
    "hcnn.front",
)
_SUBPACKAGES = ("functional", "layers", "models")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"hcnn.{name}")
    if name in __all__:
        for home in map(import_module, _HOMES):
            if hasattr(home, name):
                return globals().setdefault(name, getattr(home, name))
    raise AttributeError(f"module 'hcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
