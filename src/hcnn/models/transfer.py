"""From a trained network to one with other classes or channels, and what fine-tuning needs of a network."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hcnn.layers import AttributeLayer
from hcnn.storage.safetensors import shortened

Model = TypeVar("Model", bound=nn.Module)


def adapt(model: Model, *, classes: int | None = None, channels: int | None = None) -> Model:
    """A network with the weights of another one, for other classes, other channels, or both.

    Every weight whose shape depends on neither is kept. With `classes` the class layer is initialized anew, with that
    many classes, even if the number is the same: in HCNN these are the filters g and the normalization of layer J-1, or
    the linear readout. The filters of the first layer are added up for one channel; for more channels they are
    repeated, each divided by how often it occurs, and for fewer the sum of the omitted ones is spread over the rest. So
    a grey image gives what it gave before.

    Args:
        model: trained; it is not changed. Folded networks cannot be adapted.
        classes: number of new classes; None keeps the class layer.
        channels: number of input channels; None keeps them.

    Returns:
        A new network in the mode and with the methods of `model`. Its preprocessing has the old size, the mean over
        the old channels if their number changed, and the names "0", "1", … for new classes.

    Raises:
        ValueError: if the network is folded or none of this package's, keeps weights under names of its own, as pruning
            does, or a number is not positive.

    Example:
        >>> from hcnn import create_model
        >>> grey = adapt(create_model("hcnn_small_cifar10", pretrained=True), classes=5, channels=1)
        >>> grey(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 5])

    """
    if not hasattr(model, "config") or not hasattr(model, "preprocessing"):
        raise ValueError(f"adapt: expected a network of this package, not wrapped; got a {type(model).__name__}")
    _refuse_folded(model, "adapt")
    changes = {key: value for key, value in {"classes": classes, "channels": channels}.items() if value is not None}
    for key, value in changes.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"adapt: {key}: expected a positive number; got {value!r}")
    make: Any = type(model)
    config: Any = model.config
    parameter = next(model.parameters())
    entries = class_entries(model)
    adapted = make(replace(config, **changes)).to(parameter.device, parameter.dtype)  # before it takes the weights
    anew = entries if classes is not None else frozenset[str]()
    state = adapted.state_dict()
    for name, old in model.state_dict().items():
        if name in anew:
            continue
        state[name] = old if old.shape == state[name].shape else _other_channels(old, state[name].shape)
    adapted.load_state_dict(state)
    for name, old in model.named_modules():
        if isinstance(old, AttributeLayer):
            adapted.get_submodule(name).method = old.method
    adapted.preprocessing = _preprocessing(model, classes, channels)
    return adapted.train(model.training)


def class_entries(model: Any) -> frozenset[str]:
    """Names of the parameters and buffers whose shapes depend on the number of classes.

    Raises:
        ValueError: if the network is folded, or keeps weights under names of its own, as pruning does.

    Example:
        >>> from hcnn import create_model
        >>> sorted(class_entries(create_model("resnet20_cifar10")))
        ['linear.bias', 'linear.weight']

    """
    _refuse_folded(model, "the class layer")
    make: Any = type(model)
    with torch.device("meta"):
        other = make(replace(model.config, classes=model.config.classes + 1)).state_dict()
    entries = model.state_dict()
    if unknown := sorted(entries.keys() - other.keys()):
        raise ValueError(
            f"expected the weights of a {make.__name__}; got {shortened(unknown)}: remove parametrizations, and make "
            "pruning permanent, first"
        )
    return frozenset(name for name, entry in entries.items() if entry.shape != other[name].shape)


def classifier_name(model: Any) -> str:
    """Path of the smallest module that holds the whole class layer.

    Example:
        >>> from hcnn import create_model
        >>> classifier_name(create_model("hcnn_digits")), classifier_name(create_model("resnet20_digits"))
        ('layers.5', 'linear')

    """
    owners = [name.split(".")[:-1] for name in class_entries(model)]
    shared = []
    for parts in zip(*owners, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def replace_classifier(model: Any, classes: int) -> None:
    """Give a network a new class layer, in place: all modules, and all other parameters, stay the same objects.

    Args:
        model: a network.
        classes: number of its new classes.

    Raises:
        ValueError: if the network is folded, or the number is not positive.

    """
    if classes is None:  # which `adapt` takes for the classes there are
        raise ValueError("classes: expected the number of new classes; got None")
    adapted = adapt(model, classes=classes)
    for name in class_entries(model):
        path, _, leaf = name.rpartition(".")
        old, new = model.get_submodule(path), adapted.get_submodule(path)
        (old._parameters if leaf in old._parameters else old._buffers)[leaf] = getattr(new, leaf)
        vars(old).update({key: value for key, value in vars(new).items() if type(value) is int})  # such as out_features
    own = {key: value for key, value in vars(adapted).items() if not key.startswith("_") and key != "training"}
    vars(model).update(own)  # such as the configuration


def frozen_modules(model: Any, depth: int) -> list[nn.Module]:
    """The first `depth` stages of a network, and the modules before and between them."""
    if depth == 0:
        return []
    names = [*model.stages[:depth], *chain.from_iterable(model.stage_ends[:depth])]
    first = {name.split(".")[0] for name in model.stages}
    before = []
    for name, module in model.named_children():
        if name in first:
            break
        before.append(module)
    return [*before, *(model.get_submodule(name) for name in names)]


def parameter_groups(
    model: nn.Module, lr: float, *, layer_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups for any PyTorch optimizer, whose learning rate falls with the distance from the class layer.

    The parameters of the last stage, and of what follows it, learn at `lr`; those d stages before it at
    ``lr · layer_decay^d``. What lies before the first stage, such as the first convolution of a residual network,
    learns at the rate of the first stage. Weights with more than one axis decay; normalizations, biases and the logit
    scale do not.

    Args:
        model: a network of this package, or a `hcnn.FeatureExtractor` of one.
        lr: learning rate of the last stage and of what follows it.
        layer_decay: factor for each stage further down, in (0, 1].
        weight_decay: of weights with more than one axis.

    Returns:
        Groups with "params", "lr" and "weight_decay"; parameters that are frozen are left out.

    Raises:
        ValueError: if `layer_decay` does not lie in (0, 1], or is not 1 for a module without stages; if a rate or a
            decay is negative, or the model is not a module.

    Example:
        >>> from hcnn import create_model
        >>> groups = parameter_groups(create_model("hcnn_digits"), 0.1, layer_decay=0.5)
        >>> sorted({group["lr"] for group in groups})
        [0.003125, 0.00625, 0.0125, 0.025, 0.05, 0.1]

    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"parameter_groups: expected a network; got a {type(model).__name__}")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not isinstance(value, Real | Tensor) or not value >= 0:
            raise ValueError(f"{name}: expected a number of 0 or more; got {value!r}")
    if not isinstance(layer_decay, Real) or not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay: expected a number above 0, at most 1; got {layer_decay!r}")
    network: Any = model if hasattr(model, "stages") else getattr(model, "model", model)  # of a `FeatureExtractor`
    stages: Sequence[str] = getattr(network, "stages", ())
    if layer_decay < 1 and not stages:
        raise ValueError(f"layer_decay: expected a network of this package, not wrapped; got {type(model).__name__}")
    depths = {
        id(parameter): depth
        for depth in reversed(range(len(stages)))
        for module in frozen_modules(network, depth + 1)
        for parameter in module.parameters()
    }
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            depth = depths.get(id(parameter), len(stages) - 1)
            groups.setdefault((depth, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * layer_decay ** (len(stages) - 1 - depth) if stages else lr,
            "weight_decay": weight_decay if wide else 0.0,
        }
        for (depth, wide), parameters in sorted(groups.items())
    ]


def _refuse_folded(model: Any, where: str) -> None:
    if getattr(model, "folded", False):
        raise ValueError(f"{where}: a folded network has no layers to train; take the network before `fold`")


def _other_channels(old: Tensor, shape: torch.Size) -> Tensor:
    """Filters of a first layer for another number of channels."""
    (axis,) = (index for index, (a, b) in enumerate(zip(old.shape, shape, strict=True)) if a != b)
    had, has = old.shape[axis], shape[axis]
    sources = torch.arange(has, device=old.device) % had
    repeats = sources.bincount()[sources].to(old.dtype)
    omitted = old.narrow(axis, has, had - has).sum(axis, keepdim=True) / has if has < had else 0
    return old.index_select(axis, sources) / repeats.reshape(-1, *[1] * (old.ndim - 1 - axis)) + omitted


def _preprocessing(model: Any, classes: int | None, channels: int | None) -> Any:
    kept = model.preprocessing
    if kept is None:
        return None
    if channels is not None:
        kept = kept.with_channels(channels)
    return kept if classes is None else replace(kept, classes=tuple(map(str, range(classes))))
