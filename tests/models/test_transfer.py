"""Trained networks with other classes and channels, as backbones, frozen in part, and their parameter groups."""

import math
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

import hcnn
from hcnn import adapt, create_model, parameter_groups
from hcnn.data.preprocessing import Preprocessing
from hcnn.models.baselines import HyperNetwork
from hcnn.models.transfer import class_entries, classifier_name

SMALL: dict[str, Any] = {"width": 4, "rank": 3, "depth": 6, "downsample": (3,), "attribute_support": (3, 3)}
FAMILIES: dict[str, dict[str, Any]] = {
    "hcnn_cifar10": SMALL,
    "hcnn_cifar10_published": SMALL,
    "hcnn_plus_cifar10": SMALL,
    "resnet20_digits": {},
    "wrn16_1_digits": {},
    "nin_digits": {},
    "allcnn_digits": {},
    "densenet_bc40_digits": {},
    "compact_digits": {},
    "maxout_digits": {},
    "fitnet4_digits": {},
    "hypernetwork_digits": {},
}


def small(name: str = "hcnn_cifar10", **changes: Any) -> Any:
    """A network in eval mode whose normalizations are not those it was made with."""
    model = create_model(name, **{**SMALL, **changes})
    for _ in range(3):
        model(torch.randn(8, model.config.channels, 8, 8) * 2 + 1)
    return model.eval()


def pruned() -> Any:
    model = small()
    prune.l1_unstructured(model.layers[1], "weight", 0.5)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_class_layer_is_made_anew(name) -> None:
    model = create_model(name, **FAMILIES[name])
    adapted = adapt(model, classes=7)
    anew = class_entries(model)
    assert anew
    assert adapted.config.classes == 7
    before, after = model.state_dict(), adapted.state_dict()
    assert before.keys() == after.keys()
    for key in before:
        if key in anew:
            assert before[key].shape != after[key].shape
        else:
            assert torch.equal(before[key], after[key]), key
    side = 32 if name.endswith("cifar10") and not FAMILIES[name] else 8
    assert adapted.eval()(torch.randn(2, model.config.channels, side, side)).shape == (2, 7)


def test_the_same_number_of_new_classes_is_new_too() -> None:
    model = small()
    adapted = adapt(model, classes=10)
    assert not torch.equal(model.layers[-1].g, adapted.layers[-1].g)
    assert torch.equal(model.layers[-1].h, adapted.layers[-1].h)
    assert not adapted.training
    assert adapt(model.train(), classes=10).training


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("channels", [(1,), (2,), (4,), (8,), (1, 3), (4, 2, 5)])
def test_grey_images_give_what_they_gave_as_colour(channels, boundary) -> None:
    adapted = model = small(boundary=boundary)
    grey = torch.randn(3, 1, 8, 8)
    for number in channels:
        adapted = adapt(adapted, channels=number)
    found, expected = (one(grey.expand(-1, one.config.channels, -1, -1)) for one in (adapted, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["hcnn_cifar10", "hcnn_cifar10_published", "hcnn_plus_cifar10"])
@pytest.mark.parametrize("change", [adapt, lambda model: model.fold()], ids=["adapt", "fold"])
def test_weights_of_float64_are_not_rounded(name, change) -> None:
    model = small(name).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 8, 8).double()
    expected = model(x)
    torch.testing.assert_close(change(model)(x), expected, rtol=0, atol=1e-10 * expected.abs().max().item())


def test_preprocessing_follows() -> None:
    model = small()
    model.preprocessing = Preprocessing((0.2, 0.4, 0.6), (0.1, 0.2, 0.3), (8, 8), tuple("abcdefghij"))
    adapted = adapt(model, classes=2, channels=1).preprocessing
    assert adapted is not None
    assert adapted.mean == pytest.approx((0.4,))
    assert adapted.std == pytest.approx((0.2,))
    assert adapted.classes == ("0", "1")
    assert adapt(model).preprocessing == model.preprocessing


@pytest.mark.parametrize("name", FAMILIES)
def test_reset_classifier_keeps_everything_else_as_it_is(name) -> None:
    model = create_model(name, **FAMILIES[name])
    model.freeze(1)
    side = getattr(model.config, "input_side", 16)
    seen: set[str] = set()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: seen.add(path))
    x = torch.randn(2, model.config.channels, side, side)
    model(x)
    called, seen = seen, set()
    modules, modes = dict(model.named_modules()), [module.training for module in model.modules()]
    kept = {name: parameter for name, parameter in model.named_parameters() if name not in class_entries(model)}
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    assert seen == called
    assert dict(model.named_modules()) == modules
    assert [module.training for module in model.modules()] == modes
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in kept.items())
    assert repr(model) == repr(create_model(name, **FAMILIES[name], classes=4))
    model(x).sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    if hasattr(model, "attribute_sizes"):
        assert model.attribute_sizes == create_model(name, **FAMILIES[name], classes=4).attribute_sizes


@pytest.mark.parametrize("change", [lambda model: adapt(model, classes=4), lambda model: model.reset_classifier(4)])
def test_methods_are_kept(change) -> None:
    model = hcnn.HierarchicalCNN(small().config, method="dense")
    assert all(layer.method == "dense" for layer in (change(model) or model).layers)


def test_the_classifier_has_a_name() -> None:
    model = small()
    assert model.get_classifier() is model.layers[-1]
    assert classifier_name(create_model("hcnn_cifar10_published", **SMALL)) == "readout.linear"


@pytest.mark.parametrize("name", ["hcnn_cifar10", "hcnn_cifar10_published", "hcnn_plus_cifar10"])
def test_the_head_takes_what_the_features_give(name) -> None:
    model = small(name)
    x = torch.randn(2, 3, 8, 8)
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), model(x))
    seen: list[torch.Tensor] = []
    classes = model.readout if name == "hcnn_cifar10_published" else model.layers[-1]  # a linear readout or a layer
    classes.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x)
    torch.testing.assert_close(features, seen[0])


def test_features_are_the_arrays() -> None:
    model = small()
    x = torch.randn(2, 3, 8, 8)
    _, arrays = model(x, return_arrays=True)
    features = hcnn.FeatureExtractor(model, (1, 3, 5))
    for info, found in zip(features.feature_info, features(x), strict=True):
        expected = arrays[info["depth"]].values
        assert torch.equal(found, expected.flatten(1, expected.ndim - 3))
        assert found.shape[1] == info["num_chs"]
        assert found.shape[-1] * info["reduction"] == 8
        assert model.get_submodule(info["module"]) is model.layers[info["depth"] - 1]
    made = create_model("hcnn_cifar10", features_only=True, out_indices=(2,), **SMALL)
    assert made.depths == (2,)


def test_features_stop_at_the_deepest_array_that_is_asked_for() -> None:
    model = small()
    computed: list[int] = []
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, j=index + 1: computed.append(j))
    features = hcnn.FeatureExtractor(model, (1, 3))
    features(torch.randn(2, 3, 8, 8))
    assert computed == [1, 2, 3]
    assert [len(one) for one in features(torch.randn(0, 3, 8, 8))] == [0, 0]


def test_frozen_layers_stay_bit_for_bit() -> None:
    model = small()
    model.freeze(3)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        frozen = key.startswith(("layers.0.", "layers.1.", "layers.2."))
        same = torch.equal(before[key], value)
        assert same if frozen else (not same or value.ndim == 0 or "inner_norm" in key), key
    model.freeze(0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(layer.training for layer in model.layers)


def test_what_lies_before_and_between_frozen_stages_is_frozen_too() -> None:
    model: Any = create_model("densenet_bc40_digits")
    rates = {id(p): group["lr"] for group in parameter_groups(model, 1.0, layer_decay=0.5) for p in group["params"]}
    assert [rates[id(one.conv.weight)] for one in (model, *model.transitions)] == [0.25, 0.25, 0.5]
    model.freeze(2)
    learns = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.partition(".")[0] for name in learns} == {"blocks", "norm", "linear"}
    assert {name[:8] for name in learns if name.startswith("blocks")} == {"blocks.2"}
    model = create_model("tiniest_digits")
    rates = {id(p): group["lr"] for group in parameter_groups(model, 1.0, layer_decay=0.5) for p in group["params"]}
    between = (model.conv, model.between, model.norm2, model.linear)
    assert [rates[id(one.weight)] for one in between] == [0.25, 0.5, 0.5, 1]
    for depth, learning in ((2, {"coarse", "linear"}), (3, {"linear"})):
        model.freeze(depth)
        learns = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert {name.partition(".")[0] for name in learns} == learning


def test_frozen_stages_of_a_hypernetwork_keep_their_kernels() -> None:
    model = create_model("hypernetwork_digits", depth=10)
    assert isinstance(model, HyperNetwork)
    model.freeze(1)
    before = model.generated().state_dict()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1)
    model.train()(torch.randn(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    after = model.generated().state_dict()
    changed = {name.rpartition(".")[0] for name, value in after.items() if not torch.equal(before[name], value)}
    assert not any(name.startswith(("conv", "groups.0")) for name in changed)
    assert "groups.1.0.conv1" in changed
    model.freeze(0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("wrap", [lambda model: model, hcnn.FeatureExtractor], ids=["network", "features"])
def test_rates_fall_with_the_distance_from_the_classes(wrap) -> None:
    model = small()
    rates = {
        id(parameter): group["lr"]
        for group in parameter_groups(wrap(model), 1.0, layer_decay=0.5, weight_decay=0.1)
        for parameter in group["params"]
    }
    assert len(rates) == len([*model.parameters()])
    assert rates[id(model.layers[0].weight)] == 0.5**4
    assert rates[id(model.layers[-1].g)] == rates[id(model.readout.scale)] == 1
    resnet: Any = create_model("resnet20_digits")
    groups = parameter_groups(resnet, 1.0, layer_decay=0.5, weight_decay=0.1)
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    assert found[id(resnet.conv.weight)]["lr"] == 0.25  # before the three stages
    assert found[id(resnet.linear.weight)]["lr"] == 1
    assert found[id(resnet.linear.weight)]["weight_decay"] == 0.1
    assert found[id(resnet.linear.bias)]["weight_decay"] == 0


def test_pretrained_weights_with_names_of_timm() -> None:
    full: Any = create_model("hcnn_small_cifar10", pretrained=True)
    model: Any = create_model("hcnn_small_cifar10", pretrained=True, num_classes=5, in_chans=1)
    assert torch.equal(full.layers[4].g, model.layers[4].g)
    assert (model.config.classes, model.config.channels) == (5, 1)
    same: Any = create_model("hcnn_small_cifar10", pretrained=True, classes=10)
    assert torch.equal(full.layers[-1].g, same.layers[-1].g)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: adapt(small().fold(), classes=3), "a folded network has no layers to train"),
        (lambda: small().fold().get_classifier(), "the class layer: a folded network has no layers to train"),
        (lambda: small().fold().reset_classifier(3), "a folded network has no layers to train"),
        (lambda: small().reset_classifier(0), "classes: expected a positive number; got 0"),
        (lambda: small().reset_classifier("3"), "classes: expected a positive number; got '3'"),
        (lambda: small().reset_classifier(None), "classes: expected the number of new classes; got None"),
        (lambda: small().freeze(9), "expected a depth from 0 to 5; got 9"),
        (lambda: small().freeze(1.5), "freeze: expected a depth from 0 to 5; got 1.5"),
        (lambda: adapt(pruned(), channels=1), "expected the weights of a HierarchicalCNN; got layers.1.weight_mask, "),
        (lambda: pruned().get_classifier(), "remove parametrizations, and make pruning permanent, first"),
        (lambda: adapt(torch.nn.Sequential(small()), classes=3), "of this package, not wrapped; got a Sequential"),
        (lambda: hcnn.FeatureExtractor(small(), 3), "expected depths from 1 to 5; got 3"),  # type: ignore[arg-type]
        (lambda: create_model(None), "unknown model None; known are"),  # type: ignore[call-overload]
        (
            lambda: parameter_groups(torch.nn.Sequential(small()), 1, layer_decay=0.5),
            "layer_decay: expected a network of this package, not wrapped; got Sequential",
        ),
        (lambda: parameter_groups(small(), 1, layer_decay=2), "layer_decay: expected a number above 0"),
        (lambda: parameter_groups(small(), 1, layer_decay="2"), "layer_decay: expected a number above 0.*; got '2'"),  # type: ignore
        (lambda: parameter_groups(small(), None), "lr: expected a number of 0 or more; got None"),  # type: ignore
        (lambda: parameter_groups(small(), -1), "lr: expected a number of 0 or more; got -1"),
        (lambda: parameter_groups(small(), 1, weight_decay=math.nan), "weight_decay: expected a number of 0 or more"),
        (lambda: parameter_groups(None, 1), "parameter_groups: expected a network; got a NoneType"),  # type: ignore
        (lambda: hcnn.FeatureExtractor(None), "expected an attribute network; got a NoneType"),  # type: ignore
        (lambda: hcnn.count_parameters(torch.nn.Linear), "network of this package; got the class Linear"),  # type: ignore
        (lambda: hcnn.count_parameters(torch.nn.Linear(2, 2)), "network of this package; got a Linear"),  # type: ignore
        (lambda: hcnn.FeatureExtractor(small(), (0,)), "expected depths from 1 to 5"),
        (lambda: create_model("hcnn_cifar10", out_indices=(1,)), "only with features_only"),
        (lambda: create_model("hcnn_cifar10", classes=3, num_classes=4), "num_classes and classes are the same"),
        (lambda: create_model("hcnn_small_cifar10", pretrained=True, width=16), "only classes and channels"),
        (lambda: create_model("resnet20_digits", features_only=True), "expected an attribute network; got a ResNet"),
    ],
)
def test_what_cannot_be_done_is_refused(make, says) -> None:
    with pytest.raises(ValueError, match=says):
        make()
