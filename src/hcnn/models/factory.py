"""Networks from configurations and names, freshly initialized or with pretrained weights."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from hcnn.data.preprocessing import Preprocessing
from hcnn.functional import Method
from hcnn.layers.randomness import to_be_replaced
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.baselines import NETWORKS, Baseline, BaselineConfig
from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
from hcnn.models.features import FeatureExtractor
from hcnn.models.hierarchical import HierarchicalCNN
from hcnn.models.multiscale import MultiscaleHierarchicalCNN
from hcnn.models.network import Network
from hcnn.models.pretrained import list_pretrained, pretrained_file, pretrained_record
from hcnn.models.records import network_config, preprocessing_of
from hcnn.models.registry import NetworkConfig, model_config
from hcnn.models.transfer import adapt
from hcnn.storage.safetensors import match_state, parse_safetensors

HierarchicalName = Literal[
    "hcnn_cifar10",
    "hcnn_plus_cifar10",
    "hcnn_cifar100",
    "hcnn_plus_cifar100",
    "hcnn_cifar10_published",
    "hcnn_plus_cifar10_published",
    "hcnn_cifar100_published",
    "hcnn_plus_cifar100_published",
    "hcnn_cifar10_circular",
    "hcnn_plus_cifar10_circular",
    "hcnn_cifar100_circular",
    "hcnn_small_cifar10",
    "hcnn_small_cifar10_circular",
    "hcnn_digits",
]


@overload
def build(
    config: HierarchicalCNNConfig | MultiscaleHierarchicalCNNConfig, *, method: Method = "auto"
) -> AttributeNetwork: ...
@overload
def build(config: BaselineConfig, *, method: Method = "auto") -> Baseline: ...
@overload
def build(config: NetworkConfig, *, method: Method = "auto") -> Network: ...
def build(config: NetworkConfig, *, method: Method = "auto") -> Network:
    """The network of a configuration.

    Args:
        config: of any network of this package.
        method: how attribute layers compute; of no use to a baseline.

    Returns:
        The network, freshly initialized, in training mode.

    Raises:
        ValueError: if `config` is not the configuration of a network.
    """
    if isinstance(config, HierarchicalCNNConfig):
        return HierarchicalCNN(config, method=method)
    if isinstance(config, MultiscaleHierarchicalCNNConfig):
        return MultiscaleHierarchicalCNN(config, method=method)
    if type(config) not in NETWORKS:
        raise ValueError(
            f"config: expected the configuration of a network, such as a HierarchicalCNNConfig; got {config!r}"
        )
    make: Callable[[Any], Baseline] = NETWORKS[type(config)]
    return make(config)


@overload
def create_model(
    name: HierarchicalName, *, pretrained: bool = False, features_only: Literal[False] = False, **overrides: Any
) -> HierarchicalCNN: ...
@overload
def create_model(
    name: Literal["multiscale_tiny"],
    *,
    pretrained: bool = False,
    features_only: Literal[False] = False,
    **overrides: Any,
) -> MultiscaleHierarchicalCNN: ...
@overload
def create_model(
    name: str, *, pretrained: bool = False, features_only: Literal[False] = False, **overrides: Any
) -> Network: ...
@overload
def create_model(
    name: str, *, pretrained: bool = False, features_only: Literal[True], **overrides: Any
) -> FeatureExtractor: ...
def create_model(name: str, *, pretrained: bool = False, features_only: bool = False, **overrides: Any) -> Any:
    """Build a named model, freshly initialized from torch's global random state, or with pretrained weights.

    Args:
        name: one of `list_models`.
        pretrained: load the weights that ship with the package. No internet connection is needed; the digest of the
            file is checked. ``model.preprocessing`` then says how its images must be standardized;
            `hcnn.load_pretrained` also returns the record of its training.
        features_only: return a `FeatureExtractor`, which gives the arrays at several depths in place of logits;
            ``out_indices`` are its depths.
        **overrides: fields of its configuration, for example ``boundary="circular"``; ``num_classes`` and ``in_chans``
            are taken for ``classes`` and ``channels``. With `pretrained` only these two can change: the other weights
            are kept, and the class layer is initialized anew (see `hcnn.adapt`).

    Returns:
        The network; in training mode, with `pretrained` in eval mode.

    Raises:
        ValueError: for an unknown name or setting, and where there are no pretrained weights.

    Example:
        >>> import torch
        >>> create_model("hcnn_small_cifar10")(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> model = create_model("hcnn_small_cifar10", pretrained=True, num_classes=5, in_chans=1)
        >>> model(torch.randn(2, 1, 32, 32)).shape
        torch.Size([2, 5])

    """
    depths = overrides.pop("out_indices", None)
    if depths is not None and not features_only:
        raise ValueError("out_indices: expected only with features_only=True")
    for alias, field in (("num_classes", "classes"), ("in_chans", "channels")):
        if alias in overrides:
            if field in overrides:
                raise ValueError(f"{name}: {alias} and {field} are the same setting; got both")
            overrides[field] = overrides.pop(alias)
    config = model_config(name, **overrides)
    model = build(config) if not pretrained else _adapted(name, config, overrides)
    if not features_only:
        return model
    if not isinstance(model, AttributeNetwork):
        raise ValueError(f"{name}: features_only: expected an attribute network; got a {type(model).__name__}")
    return FeatureExtractor(model, depths)


def _adapted(name: str, config: NetworkConfig, overrides: dict[str, Any]) -> Network:
    model = load_pretrained(name).model
    changes = {
        field: getattr(config, field)
        for field in ("classes", "channels")
        if getattr(config, field) != getattr(model.config, field)
    }
    if replace(model.config, **changes) != config:
        raise ValueError(
            f"{name}: its pretrained weights are for {model.config}; only classes and channels can be changed, not "
            f"{', '.join(sorted(overrides.keys() - {'classes', 'channels'}))}"
        )
    return adapt(model, **changes) if changes else model


@dataclass(frozen=True)
class Pretrained:
    """A named network with its pretrained weights.

    Attributes:
        model: in eval mode.
        preprocessing: how its input is made.
        record: the record of its training: data, recipe, accuracy, digest.
    """

    model: Network
    preprocessing: Preprocessing
    record: dict[str, Any]


def load_pretrained(name: str) -> Pretrained:
    """Load a model's weights from the package.

    Args:
        name: one of `list_pretrained`.

    Returns:
        The network in eval mode, its preprocessing and the record of its training.

    Raises:
        ValueError: if there are no such weights, or the file's digest is not the recorded one.
    """
    if name not in list_pretrained():
        raise ValueError(
            f"{name}: no pretrained weights in this package; there are {', '.join(list_pretrained()) or 'none'}"
        )
    record = pretrained_record(name)
    weights_file = pretrained_file(f"{name}.safetensors")
    data, expected = weights_file.read_bytes(), record["result"]["weights_sha256"]
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise ValueError(f"{weights_file}: SHA-256 {digest}, expected {expected}: damaged")
    state, _ = parse_safetensors(data)
    with to_be_replaced():
        model = build(network_config(record["config"]))
    match_state(model.state_dict(), state, str(weights_file))
    model.load_state_dict(state)
    model.preprocessing = preprocessing_of(record["config"])
    return Pretrained(model.eval(), model.preprocessing, record)
