"""Whole networks: the numbers that design fixes, Proposition 3.1, folding, saving, and what bad input says."""

import dataclasses
import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import hcnn
from hcnn import HierarchicalCNN, MultiscaleHierarchicalCNN
from hcnn.export.model_card import Records, model_card
from hcnn.layers import AttributeLayer
from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
from hcnn.models.factory import build
from hcnn.models.summary import summarize
from hcnn.testing import assert_invariant

COUNTS = {  # trained, composed
    "hcnn_cifar10": (344_640, 97_650),
    "hcnn_plus_cifar10": (344_640, 344_640),
    "hcnn_cifar100": (887_424, 250_308),
    "hcnn_plus_cifar100": (887_424, 887_424),
    "hcnn_plus_cifar10_published": (359_594, 359_594),
    "hcnn_small_cifar10": (86_192, 24_030),
}


@pytest.mark.parametrize("name", COUNTS)
def test_weights_are_counted_exactly(name) -> None:
    model = hcnn.create_model(name)
    counts = hcnn.count_parameters(model)
    assert (counts.trained, counts.composed) == COUNTS[name]
    total = sum(p.numel() for p in model.parameters())
    assert counts.trained + counts.normalization + counts.logit_scale == total
    rows = summarize(model, (32, 32))
    assert sum(row.trained for row in rows) == counts.trained
    assert sum(row.composed for row in rows) == counts.composed
    assert sum(row.normalization for row in rows) == counts.normalization + counts.logit_scale


@pytest.mark.parametrize("name", ["hcnn_digits", "hcnn_plus_cifar10", "hcnn_plus_cifar10_published", "multiscale_tiny"])
def test_a_folded_network_costs_the_same(name) -> None:
    model = hcnn.create_model(name).eval()
    folded = model.fold()
    assert folded.multiply_adds((32, 32)) == model.multiply_adds((32, 32))
    for one, other in zip(summarize(folded, (32, 32)), summarize(model, (32, 32)), strict=True):
        assert dataclasses.replace(one, trained=0, composed=0, normalization=0) == dataclasses.replace(
            other, trained=0, composed=0, normalization=0
        )
    total = sum(p.numel() for p in folded.parameters())
    assert sum(row.trained for row in folded.layer_rows((32, 32))) + hcnn.count_parameters(folded).logit_scale == total


def test_costs_of_what_does_not_fit_are_refused() -> None:
    model, baseline = hcnn.create_model("hcnn_digits"), hcnn.create_model("resnet20_digits")
    with pytest.raises(ValueError, match=r"expected 2 spatial sizes of 1 or more; got \(8,\)"):
        model.layer_rows((8,))
    for size in (8, (8, 0), (8, 8.5)):
        with pytest.raises(ValueError, match="image_size: expected 2 spatial sizes of 1 or more; got"):
            model.multiply_adds(size)  # type: ignore[arg-type]
        for cost in (baseline.multiply_adds, baseline.layer_rows):
            with pytest.raises(ValueError, match="image_size: expected 2 spatial sizes of 1 or more; got"):
                cost(size)  # type: ignore[arg-type]
    model.layers[2] = torch.nn.Sequential(model.layers[2])
    with pytest.raises(ValueError, match="layer 3: expected one of this package's layers, not wrapped; got Sequential"):
        model.multiply_adds((8, 8))


def _small(name: str, **overrides) -> tuple[Any, torch.Tensor]:
    """A named model and a small batch for it: 8 divides every spatial stride, but two baselines need more."""
    torch.manual_seed(0)
    model = hcnn.create_model(name, **overrides)
    side = getattr(model.config, "input_side", 16 if name.startswith("allcnn") else 8)
    return model, torch.randn(2, model.config.channels, side, side)


@pytest.mark.parametrize("name", hcnn.list_models())
def test_every_parameter_gets_a_gradient(name) -> None:
    start = time.process_time()
    model, x = _small(name)
    assert time.process_time() - start < 2
    logits = model(x)
    assert logits.shape == (2, model.config.classes)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(
    "name", ["hcnn_digits", "hcnn_small_cifar10", "hcnn_plus_cifar10_published", "multiscale_tiny"]
)
def test_folding_changes_nothing_but_rounding(name, boundary) -> None:
    model, x = _small(name, boundary=boundary)
    for _ in range(3):
        model(x + torch.randn_like(x))
    model.eval()
    folded = model.fold()
    with torch.no_grad():
        expected = model(x)
        scale = expected.abs().max().item()
        torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-5 * scale)
        double = model.double()
        wide = double(x.double())
        torch.testing.assert_close(double.fold()(x.double()), wide, rtol=0, atol=1e-12 * wide.abs().max().item())
    with pytest.raises(ValueError, match="folded already"):
        folded.fold()


def test_folding_and_describing_leave_the_global_random_state_alone() -> None:
    model = hcnn.create_model("hcnn_cifar10_published", width=4, rank=2, depth=5, downsample=(2,)).eval()
    state = torch.get_rng_state()
    folded = model.fold()
    model_card(folded, Records({}, {}, {}), size=(8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    readout = folded.get_parameter("readout.linear.weight")
    assert torch.equal(readout, model.get_parameter("readout.linear.weight"))
    assert readout.data_ptr() != model.get_parameter("readout.linear.weight").data_ptr()


def test_folded_convolutions_hold_the_composed_filters_only() -> None:
    folded = hcnn.create_model("hcnn_cifar10").eval().fold()
    assert sum(p.numel() for name, p in folded.named_parameters() if name.endswith("weight")) == 97_650


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("hcnn_digits", {}),
        ("hcnn_digits", {"inner_elu": True, "readout": "linear"}),
        ("hcnn_small_cifar10", {"depth": 7, "downsample": (3,)}),
        ("multiscale_tiny", {}),
        ("multiscale_tiny", {"width": 8, "depth": 4, "attribute_stride": 2}),
    ],
)
def test_proposition_3_1(name, overrides) -> None:
    """Translating x_j along any attribute (or u) by a shift that the strides let through leaves the logits as is."""
    model, x = _small(name, boundary="circular", **overrides)
    model, x = model.double(), x.double()
    model(x)
    model.eval()
    _, arrays = model(x, return_arrays=True)
    tested = 0
    for j, array in arrays.items():
        for index, axis in enumerate(array.axes):
            if axis in ("b", f"v{len(model.layers)}"):
                continue
            shift = model.invariant_shift(j, axis)
            size = array.values.shape[index]
            if shift % size == 0:  # the whole axis: nothing to test
                continue
            assert_invariant(lambda v, j=j: model.forward_from(v, j), array.values, index, shift=shift, rtol=1e-10)
            tested += 1
    assert tested >= 2 * (len(model.layers) - 1)


def test_a_smaller_shift_is_not_invariant() -> None:
    model, x = _small("hcnn_digits", boundary="circular")
    model.eval()
    _, arrays = model(x, return_arrays=True)
    assert model.invariant_shift(3, "v3") == 4
    with pytest.raises(AssertionError, match="not invariant along axis 3"):
        assert_invariant(lambda v: model.forward_from(v, 3), arrays[3].values, 3, shift=1)


def test_arrays_are_named() -> None:
    model, x = _small("hcnn_cifar10")
    _, arrays = model(x, return_arrays=True)
    assert [len(array.axes) for array in arrays.values()] == [4, 5] + [6] * 9
    assert arrays[7].axes == ("b", "v5", "v6", "v7", "u1", "u2")
    assert tuple(arrays[7].values.shape) == (2, 4, 8, 16, 4, 4)
    assert tuple(arrays[11].values.shape) == (2, 4, 8, 10, 2, 2)


@pytest.mark.parametrize("folded", [False, True])
def test_no_images_have_no_answers(folded) -> None:
    model, x = _small("hcnn_digits")
    model = model.eval().fold() if folded else model.eval()
    assert model(x[:0]).shape == (0, 10)
    logits, arrays = model(x[:0], return_arrays=True)
    assert logits.shape == (0, 10)
    for j, array in model(x, return_arrays=True)[1].items():
        assert arrays[j].axes == array.axes
        assert arrays[j].values.shape == (0, *array.values.shape[1:])


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_spatial_axes(axes) -> None:
    model = hcnn.HierarchicalCNN(HierarchicalCNNConfig(width=4, rank=9, depth=5, spatial_axes=axes, downsample=(4,)))
    assert model(torch.randn(2, 3, *[4] * axes)).shape == (2, 10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("readout", ["mean", "linear"])
def test_half_precision_gives_nearly_the_same(readout, dtype) -> None:
    model, x = _small("hcnn_digits", readout=readout)
    model.eval()
    expected = model(x)
    for half in (model.to(dtype), model.fold()):
        torch.testing.assert_close(half(x.to(dtype)).float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("name", ["hcnn_digits", "hcnn_plus_cifar10", "multiscale_tiny"])
def test_shapes_are_found_on_the_meta_device(name, boundary) -> None:
    model, x = _small(name, boundary=boundary)
    folded, model, x = model.fold().to("meta"), model.to("meta"), x.to("meta")
    assert folded(x).shape == model(x).shape == model.eval()(x).shape == (2, model.config.classes)


@pytest.mark.parametrize("j", [-1, 0, 7])
def test_depths_that_do_not_exist_are_refused(j) -> None:
    model = hcnn.create_model("hcnn_digits")
    for ask in (model.axes, lambda j: model.invariant_shift(j, "u1")):
        with pytest.raises(ValueError, match=f"axes: expected a depth j from 1 to 6; got {j}"):
            ask(j)


def test_state_holds_parameters_and_statistics_only() -> None:
    model, x = _small("hcnn_plus_cifar10")
    before = set(model.state_dict())
    kinds = {key.rsplit(".", 1)[1] for key in before}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert kinds == {"weight", "bias", "h", "g", "scale"} | statistics
    model(x)
    model.eval()(x)
    assert set(model.state_dict()) == before


BAD_CONFIGS = [
    ({"width": 6}, "K = 6 does not fit depth J = 12.*multiple of 4"),
    ({"attribute_support": (7, 10)}, r"two odd supports \(k1, k2\); got \(7, 10\)"),
    ({"boundary": "reflect"}, "expected boundary|expected 'zeros' or 'circular'; got 'reflect'"),
    ({"depth": 2}, "expected J >= 3; got 2"),
    ({"downsample": (12,)}, "layers between 1 and J-1 = 11"),
    ({"rank": 0}, "Q >= 1"),
    ({"classes": 0}, "classes: expected a positive number; got 0"),
    ({"readout": "max"}, "'mean' or 'linear'; got 'max'"),
    ({"spatial_axes": 4}, "expected 1, 2 or 3; got 4"),
    ({"num_classes": 3.0}, "classes: expected a whole number; got 3.0"),
    ({"width": "8"}, "width: expected a whole number; got '8'"),
    ({"downsample": 4}, "downsample: expected a tuple of whole numbers; got 4"),
    ({"downsample": (4.0,)}, r"downsample: expected a tuple of whole numbers; got \(4.0,\)"),
    ({"attribute_support": 3}, "attribute_support: expected a tuple of whole numbers; got 3"),
    ({"attribute_support": (3,)}, r"attribute_support: expected 2 whole numbers; got \(3,\)"),
    ({"classes": True}, "classes: expected a whole number; got True"),
    ({"inner_elu": "no"}, "inner_elu: expected a truth value, True or False; got 'no'"),
    ({"depth": 10**9}, "depth: expected at most 2,000 layers; got 1000000000"),
    ({"width": 2**31}, r"width: expected a whole number below 2\*\*31; got 2147483648"),
    ({"rank": 10**5000}, r"rank: expected a whole number below 2\*\*31; got a number of more than 30 digits"),
    ({"downsample": (-(2**70),)}, r"downsample: expected a whole number below 2\*\*31; got -1180591620717411303424"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_CONFIGS)
def test_bad_configurations_are_explained(overrides, message) -> None:
    with pytest.raises(ValueError, match=message):
        hcnn.create_model("hcnn_cifar10", **overrides)


def test_numbers_of_numpy_and_lists_are_taken_for_pythons() -> None:
    given = {"width": np.int64(8), "attribute_support": np.array([3, 5]).tolist(), "downsample": [np.int64(3)]}
    config = hcnn.model_config("hcnn_cifar10", depth=5, **given)
    assert config == hcnn.model_config("hcnn_cifar10", depth=5, width=8, attribute_support=(3, 5), downsample=(3,))
    assert json.loads(json.dumps(dataclasses.asdict(config)))["downsample"] == [3]  # as a run records it
    small = hcnn.model_config("resnet20_digits", depth=np.int32(8), downsample=[3])
    assert {hash(small), hash(config)}
    assert vars(small).keys() == dataclasses.asdict(small).keys()


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config: expected the configuration of a network.*got {'width': 8}"):
        build({"width": 8})  # type: ignore[call-overload]
    given: Any = HierarchicalCNNConfig  # the class, in place of one of them, has its defaults for attributes
    with pytest.raises(ValueError, match="HierarchicalCNN: expected a HierarchicalCNNConfig; got <class"):
        HierarchicalCNN(given)
    with pytest.raises(ValueError, match=r"MultiscaleHierarchicalCNN: expected a Multi.*Config; got Hierarchical.*\("):
        MultiscaleHierarchicalCNN(given())


def test_what_cannot_be_an_array_is_refused() -> None:
    """The readout would take any array for x_{J-1}, and answer with as many logits as its newest axis has values."""
    model, x = _small("hcnn_digits")
    _, arrays = model.eval()(x, return_arrays=True)
    expected = r"expected x_6 \(b, v4, v5, v6, u1, u2\) with attributes of \(2, 4, 10\) values; got shape"
    with pytest.raises(ValueError, match=expected):
        model.forward_from(arrays[5].values, 6)
    with pytest.raises(ValueError, match=r"expected x_5 as a tensor \(b, v3, .*; got a AttributeArray"):
        model.forward_from(arrays[5], 5)  # type: ignore[arg-type]
    for j in ("5", 1.5, 7):
        with pytest.raises(ValueError, match="forward_from: expected j between 0 and 6; got"):
            model.forward_from(x, j)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer 1: expected a tensor \(b, c, u1, u2\); got a ndarray"):
        model(x.numpy())
    with pytest.raises(ValueError, match=r"layer 1: expected a tensor \(b, c, u1, u2\); got a NoneType"):
        model(None)


def test_bad_multiscale_configurations_are_explained() -> None:
    with pytest.raises(ValueError, match="K = 4 is too small for depth J = 5: stride 2 divides v1 3 times"):
        MultiscaleHierarchicalCNNConfig(attribute_stride=2)
    with pytest.raises(ValueError, match="odd filter support; got 2"):
        MultiscaleHierarchicalCNNConfig(support=2)
    with pytest.raises(ValueError, match="depth: expected at most 2,000 layers"):  # before 2 ** (10**9 - 2) is computed
        MultiscaleHierarchicalCNNConfig(depth=10**9, attribute_stride=2)


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'hcnn_cifar'; did you mean hcnn_cifar10"):
        hcnn.create_model("hcnn_cifar")
    with pytest.raises(ValueError, match=r"unknown model \['hcnn_cifar10'\]"):
        hcnn.create_model(["hcnn_cifar10"])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"unknown settings \['wide'\]; expected some of \['channels'"):
        hcnn.create_model("hcnn_cifar10", wide=3)


def test_bad_images_are_explained() -> None:
    model = hcnn.create_model("hcnn_digits")
    with pytest.raises(ValueError, match=r"layer 1: expected c = 1 of \(b, c, u1, u2\)"):
        model(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"layer 1: expected 4 axes \(b, c, u1, u2\); got 3: shape \(1, 8, 8\)"):
        model(torch.randn(1, 8, 8))
    with pytest.raises(ValueError, match=r"layer 1: expected at least one entry .* got shape \(0, 1, 8, 8\)"):
        model(torch.randn(0, 1, 8, 8))
    with pytest.raises(ValueError, match=r"layer 1: expected floating-point values.*torch.uint8"):
        model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("folded", [False, True])
def test_hooks_of_every_kind_see_documented_arrays_and_wrapped_layers_work(folded) -> None:
    """A layer returns x_j averaged over its oldest attribute where the next one sums over it; array hooks see x_j."""
    model, x = _small("hcnn_digits")
    model.eval()
    if folded:
        model = model.fold()
    logits, arrays = model(x, return_arrays=True)
    seen: dict[object, torch.Tensor] = {}
    for j in (3, 5):
        layer = model.layers[j - 1]
        layer.register_forward_hook(lambda layer, inputs, out, j=j: seen.update({("out", j): out}))
        layer.register_full_backward_hook(lambda layer, to_in, to_out, j=j: seen.update({("grad", j): to_out[0]}))
        assert isinstance(layer, AttributeLayer)
        layer.register_array_hook(lambda array, j=j: seen.update({("array", j): array}))
    model.layers[3].register_forward_pre_hook(lambda layer, inputs: seen.update({("in", 4): inputs[0]}))
    everywhere = torch.nn.modules.module.register_module_forward_hook(
        lambda layer, inputs, out: seen.update({("global", id(layer)): out})
    )
    with everywhere:
        found = model(x)
    torch.testing.assert_close(found, logits)
    found.sum().backward()
    for j in (3, 5):
        torch.testing.assert_close(seen["array", j], arrays[j].values)
        expected = arrays[j].values.mean(1)
        torch.testing.assert_close(seen["out", j], expected)
        torch.testing.assert_close(seen["global", id(model.layers[j - 1])], expected)
        assert seen["grad", j].shape == expected.shape
    torch.testing.assert_close(seen["in", 4], arrays[3].values.mean(1))
    model.layers[4] = torch.nn.Sequential(model.layers[4])
    torch.testing.assert_close(model(x), logits)
    with pytest.raises(ValueError, match="layer 5 is a Sequential, which does not give its whole array"):
        model(x, return_arrays=True)


def test_hooks_run_where_all_arrays_are_returned_too() -> None:
    """Pruning sets a layer's weight in a hook; without it the arrays would be those of an older weight."""
    model, x = _small("hcnn_digits")
    model.eval()
    prune.l1_unstructured(model.layers[0], "weight", 0.5)
    with torch.no_grad():
        model.layers[0].weight_orig.add_(1)
    seen: list[torch.Tensor] = []
    arrived: list[torch.Tensor] = []
    model.layers[2].register_forward_hook(lambda layer, inputs, out: seen.append(out))
    model.layers[2].register_array_hook(seen.append)
    model.layers[1].register_full_backward_pre_hook(lambda layer, grads: arrived.append(grads[0]))
    logits, arrays = model(x, return_arrays=True)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], arrays[3].values)
    torch.testing.assert_close(seen[1], arrays[3].values.mean(1))
    torch.testing.assert_close(model(x), logits)
    logits.sum().backward()
    assert [grad.shape for grad in arrived] == [arrays[2].values.shape]
    assert len(model.layers[2]._array_hooks) == 1
