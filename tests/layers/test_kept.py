"""What inference layers keep from one call to the next always agrees with their weights."""

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hcnn
from hcnn.functional.attribute_conv.spectral import constants
from hcnn.layers.kept import Kept
from hcnn.models.baselines import HyperNetwork
from hcnn.models.baselines.hypernetwork import HyperNetworkConfig


def network(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if kind == "hypernetwork":
        return HyperNetwork(HyperNetworkConfig(depth=10)).eval(), torch.randn(2, 3, 8, 8)
    boundary, inner_elu = ("circular" if "circular" in kind else "zeros"), "plus" in kind
    model = hcnn.create_model("hcnn_digits", boundary=boundary, inner_elu=inner_elu)
    return model.eval().fold(), torch.randn(2, 1, 8, 8)


KINDS = ("zeros", "circular", "plus zeros", "plus circular", "hypernetwork")


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)


def through_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.copy_((p.data * 8).round() / 8)


def through_numpy(model: nn.Module) -> None:
    for p in model.parameters():
        np.multiply(p.detach().numpy(), 1.5, out=p.detach().numpy())


def together(model: nn.Module) -> None:
    multiply = getattr(torch, "_foreach_mul_")  # noqa: B009
    multiply([p.data for p in model.parameters()], 1.5)


def assigned_twice(model: nn.Module) -> None:
    for factor in (3.0, 1.5):  # the second tensors may lie where the first lay
        model.load_state_dict({name: value * factor for name, value in model.state_dict().items()}, assign=True)
        model(torch.zeros(1, 1 if hasattr(model, "readout") else 3, 8, 8))


def new_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data * 1.5


def one_entry(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.view(-1)[-1] += 0.5


def to_double_and_back(model: nn.Module) -> None:
    through_data(model.double())
    model.float()


CHANGES = (in_place, through_data, through_numpy, together, assigned_twice, new_data, one_entry, to_double_and_back)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_answers_agree_after_every_kind_of_change(kind, mode, change: Callable[[nn.Module], None]) -> None:
    model, x = network(kind)
    with mode():
        before = model(x).clone()
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    with torch.no_grad():
        change(model)
    with mode():
        after = model(x)
    fresh, _ = network(kind)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(after, fresh(x), rtol=0, atol=0)
    assert not torch.equal(after, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_share_nothing_that_is_kept(kind, way) -> None:
    model, x = network(kind)
    with torch.no_grad():
        expected = model(x)
        if way == "deepcopy":
            twin = copy.deepcopy(model)
        elif way == "pickle":
            twin = pickle.loads(pickle.dumps(model))
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            twin = torch.load(file, weights_only=False)
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
        through_data(twin)
        assert not torch.equal(twin(x), expected)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_nothing_is_made_twice_of_equal_weights() -> None:
    kept, weight, made = Kept(), torch.ones(3), []

    def make() -> int:
        made.append(1)
        return len(made)

    with torch.no_grad():
        assert [kept.get(make, [weight], "a") for _ in range(3)] == [1, 1, 1]
        assert kept.get(make, [weight.clone()], "a") == 1
        assert kept.get(make, [weight], "b") == 2
        weight[0] = 2
        assert kept.get(make, [weight], "b") == 3
    assert kept.get(make, [weight], "b") == 4  # gradients must flow


def test_an_ensemble_of_folded_networks_by_vmap() -> None:
    members = []
    for seed in range(2):
        torch.manual_seed(seed)
        members.append(hcnn.create_model("hcnn_digits").eval().fold())
    x = torch.randn(2, 1, 8, 8)
    parameters, buffers = torch.func.stack_module_state(members)
    with torch.no_grad():
        members[0](x)
        found = vmap(lambda p, b: functional_call(members[0], (p, b), (x,)))(parameters, buffers)
        for y, member in zip(found, members, strict=True):
            torch.testing.assert_close(y, member(x), rtol=1e-4, atol=1e-4)


def test_constants_first_met_without_values_serve_with_values() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    geometry = (6, 10), (3, 5), (2, 2), "circular"
    with FakeTensorMode():
        fake = constants(torch.empty(1), *geometry)
    real = constants(torch.empty(1), *geometry)
    assert all(type(one) is Tensor for one in real)
    assert [one.shape for one in fake] == [one.shape for one in real]
