"""Small networks of every kind, and a trained run, for the tests of exported files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
from hcnn.models.factory import build
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

SMALL = HierarchicalCNNConfig(channels=1, width=8, rank=4, depth=6, attribute_support=(3, 5), downsample=(4,))
CONFIGS = {
    "zeros": SMALL,
    "circular": HierarchicalCNNConfig(**{**vars(SMALL), "boundary": "circular", "attribute_support": (5, 9)}),
    "plus": HierarchicalCNNConfig(**{**vars(SMALL), "inner_elu": True}),
    "plus circular": HierarchicalCNNConfig(**{**vars(SMALL), "inner_elu": True, "boundary": "circular"}),
    "published": HierarchicalCNNConfig(
        **{**vars(SMALL), "inner_elu": True, "inner_affine": True, "readout": "linear", "channels": 3}
    ),
    "line": HierarchicalCNNConfig(**{**vars(SMALL), "spatial_axes": 1}),
    "volume": HierarchicalCNNConfig(**{**vars(SMALL), "spatial_axes": 3}),
    "multiscale": MultiscaleHierarchicalCNNConfig(channels=1, width=4, depth=4, downsample=(2,)),
}


@pytest.fixture(scope="session")
def settled() -> Callable[[str], AttributeNetwork]:
    """A small network by the name of its kind, whose statistics and linear readout are not the initial ones."""

    def make(name: str) -> AttributeNetwork:
        config = CONFIGS[name]
        torch.manual_seed(0)
        model = build(config)
        with torch.no_grad():
            for _ in range(3):
                model(1.5 * torch.randn(8, config.channels, *[8] * config.spatial_axes) + 0.3)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def standard() -> Preprocessing:
    return Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789"))


@pytest.fixture(scope="session")
def digits() -> Splits:
    return datasets.load("digits", validation=200)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, digits) -> Path:
    """A run folder of one epoch on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train_run(folder, RunSettings(SMALL, get_recipe("digits", epochs=1), "digits"), digits)
    return folder


@pytest.fixture
def run(trained_run) -> Path:
    return trained_run
