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
    from hcnn.functional import attribute_conv, marginal, patch_moments, translate
    from hcnn.layers.block import AttributeBlock
    from hcnn.layers.factorized import FactorizedConv
    from hcnn.layers.plain import AttributeConv
    from hcnn.models.hierarchical import (
        AttributeArray,
        HierarchicalCNN,
        HierarchicalCNNConfig,
        MultiscaleConfig,
        MultiscaleHierarchicalCNN,
        count_parameters,
        create_model,
        list_models,
        model_config,
    )

__version__ = "0.1.0"
__all__ = [
    "AttributeArray",
    "AttributeBlock",
    "AttributeConv",
    "FactorizedConv",
    "HierarchicalCNN",
    "HierarchicalCNNConfig",
    "MultiscaleConfig",
    "MultiscaleHierarchicalCNN",
    "attribute_conv",
    "count_parameters",
    "create_model",
    "list_models",
    "marginal",
    "model_config",
    "patch_moments",
    "translate",
]
# Loaded when first asked for, so that `hcnn --help` and `hcnn --version` do not wait for PyTorch.
_HOMES = ("hcnn.functional", "hcnn.layers", "hcnn.models.hierarchical")
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
