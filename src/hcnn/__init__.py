"""Hierarchical Attribute CNNs (Jacobsen, Oyallon, Mallat, Smeulders 2017) for PyTorch.

Example:
    >>> import torch, hcnn
    >>> model = hcnn.create_model("hcnn_digits")
    >>> model(torch.randn(4, 1, 8, 8)).shape
    torch.Size([4, 10])

"""

from hcnn.functional import attribute_conv, marginal, patch_moments, translate
from hcnn.layers.block import AttributeBlock
from hcnn.layers.factorized import AttributeConv, FactorizedConv
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
