"""Every named network as an entry point of torch.hub.

    torch.hub.load("PATH", "hcnn_small_cifar10", source="local", pretrained=True, num_classes=5)

The keywords are those of `hcnn.create_model`; weights come with the repository.
"""

import sys as _sys
from functools import partial as _partial
from pathlib import Path as _Path

_sys.path.insert(0, str(_Path(__file__).parent / "src"))  # torch.hub installs nothing

from hcnn.models.factory import create_model as _create_model
from hcnn.models.registry import list_models as _list_models

dependencies = ["torch", "numpy", "safetensors"]


def _entry_point(name: str):
    make = _partial(_create_model, name)
    make.__doc__ = f"The network {name}: `pretrained` loads its weights, `num_classes` and `in_chans` adapt it."
    return make


for _name in _list_models():
    globals()[_name] = _entry_point(_name)
