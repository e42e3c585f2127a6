"""The paper's other systems, one file each, built through `hcnn.create_model` like HCNN itself.

Their names are ``SYSTEM_cifar10``, ``SYSTEM_cifar100`` and ``SYSTEM_digits``. The digits variants take one channel of
8×8 pixels: they reduce the resolution once less, the wide ones have a third or a quarter of the filters, and the
hypernetwork generates WRN-16-1.
"""

from dataclasses import replace
from typing import Any

from hcnn.models.baselines.all_cnn import AllCNN, AllCNNConfig
from hcnn.models.baselines.blocks import Baseline, BaselineConfig
from hcnn.models.baselines.compact import CompactConfig, CompactNetwork
from hcnn.models.baselines.densenet import DenseNet, DenseNetConfig
from hcnn.models.baselines.fitnet import FitNet, FitNetConfig, MaxoutConfig, MaxoutNetwork
from hcnn.models.baselines.hypernetwork import HyperNetwork, HyperNetworkConfig
from hcnn.models.baselines.network_in_network import NetworkInNetwork, NetworkInNetworkConfig
from hcnn.models.baselines.resnet import ResNet, ResNetConfig
from hcnn.models.baselines.resnet8 import ResNet8, ResNet8Config
from hcnn.models.baselines.tiniest import TiniestConfig, TiniestNetwork
from hcnn.models.baselines.wide_resnet import WideResNet, WideResNetConfig

NETWORKS: dict[type[BaselineConfig], type[Baseline]] = {
    AllCNNConfig: AllCNN,
    ResNetConfig: ResNet,
    ResNet8Config: ResNet8,
    NetworkInNetworkConfig: NetworkInNetwork,
    WideResNetConfig: WideResNet,
    FitNetConfig: FitNet,
    MaxoutConfig: MaxoutNetwork,
    HyperNetworkConfig: HyperNetwork,
    DenseNetConfig: DenseNet,
    CompactConfig: CompactNetwork,
    TiniestConfig: TiniestNetwork,
}

# Each system: its CIFAR-10 configuration, and what 8×8 digits change beside the number of channels.
_SYSTEMS: dict[str, tuple[BaselineConfig, dict[str, Any]]] = {
    "allcnn": (AllCNNConfig(), {"downsample": (3,), "width": 32, "dropout": (0.0, 0.2)}),
    "resnet20": (ResNetConfig(), {"downsample": (3,)}),
    "resnet8": (ResNet8Config(), {"downsample": (3,)}),
    "nin": (
        NetworkInNetworkConfig(),
        {"downsample": (1,), "widths": (48, 40, 24, 48, 48, 48, 48, 48), "dropout": 0.2},
    ),
    "wrn16_1": (WideResNetConfig(), {"downsample": (3,)}),
    "wrn16_2": (WideResNetConfig(width=2), {"downsample": (3,)}),
    "wrn40_1": (WideResNetConfig(depth=40), {"downsample": (3,)}),
    "fitnet4": (
        FitNetConfig(),
        {"downsample": (5,), "widths": (8,) * 3 + (12,) * 2 + (20,) * 6 + (32,) * 6, "hidden": 50},
    ),
    "maxout": (
        MaxoutConfig(),
        {
            "input_side": 8,
            "widths": (24, 48, 48),
            "supports": (3, 3, 3),
            "paddings": (1, 1, 1),
            "pools": (2, 2, 2),
            "hidden": 50,
        },
    ),
    "hypernetwork": (HyperNetworkConfig(), {"downsample": (3,), "depth": 16}),
    "densenet_bc40": (DenseNetConfig(), {"downsample": (2,)}),
    "compact": (CompactConfig(), {"downsample": (3,)}),
    "tiniest": (TiniestConfig(), {"downsample": False, "widths": (16, 32)}),
}

# By system and data; their names join both by an underscore.
BASELINES: dict[tuple[str, str], BaselineConfig] = {
    (system, data): replace(config, **changes)
    for system, (config, digits) in _SYSTEMS.items()
    for data, changes in (("cifar10", {}), ("cifar100", {"classes": 100}), ("digits", {"channels": 1, **digits}))
}
