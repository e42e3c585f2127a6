"""Folded networks under the tools of others: savers, optimizers, tracers; and what folding refuses."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrize, prune, vector_to_parameters

import hcnn
from hcnn.layers import AttributeConv, FactorizedConv
from hcnn.layers.folded import fold_layer

NETWORKS = [
    {"boundary": boundary, "inner_elu": inner_elu} for boundary in ("zeros", "circular") for inner_elu in (False, True)
]


def folded_network(overrides: dict) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return hcnn.create_model("hcnn_digits", **overrides).eval().fold(), torch.randn(2, 1, 8, 8)


@pytest.mark.parametrize("overrides", NETWORKS, ids=str)
def test_parameters_are_contiguous_saved_and_flattened(overrides, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model, x = folded_network(overrides)
    assert all(p.is_contiguous() for p in model.parameters())
    safetensors.save_file(model.state_dict(), tmp_path / "folded.safetensors")
    twin, _ = folded_network(overrides)
    vector_to_parameters(parameters_to_vector(model.parameters()) * 2, twin.parameters())
    twin.load_state_dict(safetensors.load_file(tmp_path / "folded.safetensors"))
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("overrides", NETWORKS, ids=str)
def test_lbfgs_lowers_the_loss(overrides) -> None:
    model, x = folded_network(overrides)
    labels = torch.tensor([0, 1])
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(x), labels)
        value.backward()
        return value

    before = loss().item()
    optimizer.step(loss)
    assert loss().item() < before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # checks of shapes become constants, as they should
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("overrides", NETWORKS, ids=str)
def test_a_trace_computes_the_same(overrides, grad) -> None:
    model, x = folded_network(overrides)
    with torch.set_grad_enabled(grad):
        model(x)  # whatever is kept must not end up in the trace
        traced: Any = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(2 * x), model(2 * x))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.5)
        torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("overrides", NETWORKS, ids=str)
def test_a_compiler_and_a_strict_export_see_one_graph(overrides, grad) -> None:
    model, x = folded_network(overrides)
    with torch.set_grad_enabled(grad):
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
        exported = torch.export.export(model, (x,), strict=True)
        torch.testing.assert_close(exported.module()(x), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("folded", [False, True])
def test_the_graph_that_tensorboard_draws(folded) -> None:
    """`SummaryWriter.add_graph` traces like this."""
    torch.manual_seed(0)
    model, x = hcnn.create_model("hcnn_digits").eval(), torch.randn(2, 1, 8, 8)
    model = model.fold() if folded else model
    traced: Any = torch.jit.trace(model, x, strict=False)
    graph = traced.inlined_graph
    assert sum(node.kind().startswith(("aten::_convolution", "hcnn::")) for node in graph.nodes()) >= 6
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard._pytorch_graph import graph as draw

    drawn, _ = draw(model, x)
    kind = "FoldedConv[3]" if folded else "FactorizedConv[3]"
    assert any(kind in node.name for node in drawn.node)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own, in forward mode
@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_second_derivatives_and_forward_mode_in_float64_and_what_is_said_elsewhere(boundary) -> None:
    torch.manual_seed(0)
    config = hcnn.model_config("hcnn_digits", boundary=boundary, width=4, depth=4, downsample=())
    model = hcnn.HierarchicalCNN(config, method="dense").eval()
    x = torch.randn(2, 1, 4, 4)

    def scores(model: nn.Module, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda factor: model(x * factor).square().sum()

    at = torch.tensor(1.0)
    for derivative in (
        lambda: torch.func.jvp(scores(model, x), (at,), (at,)),
        lambda: torch.autograd.functional.hessian(scores(model, x), at),
    ):
        with pytest.raises(
            NotImplementedError, match=r"expected first derivatives by backward passes; .* folded float64"
        ):
            derivative()
    folded, wide, at = model.double().fold(), x.double(), at.double()
    f = scores(folded, wide)
    step = 1e-4
    slope = (f(at + step) - f(at - step)) / (2 * step)
    bend = (f(at + step) - 2 * f(at) + f(at - step)) / step**2
    torch.testing.assert_close(torch.func.jvp(f, (at,), (torch.ones_like(at),))[1], slope, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.func.hessian(f)(at), bend, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.autograd.functional.hessian(f, at), bend, rtol=1e-3, atol=1e-3)


def wrapped(kind: str, layer: nn.Module) -> nn.Module:
    if kind == "compiled":
        compiled = torch.compile(layer, backend="eager")
        assert isinstance(compiled, nn.Module)
        return compiled
    return nn.Sequential(layer)


@pytest.mark.parametrize(("kind", "name"), [("sequential", "Sequential"), ("compiled", "OptimizedModule")])
def test_folding_a_wrapped_layer_says_what_came(kind, name) -> None:
    model = hcnn.create_model("hcnn_digits").eval()
    model.layers[4] = wrapped(kind, model.layers[4])
    with pytest.raises(ValueError, match=f"fold: layer 5: expected .*; got {name} around FactorizedConv: unwrap it"):
        model.fold()
    with pytest.raises(ValueError, match=r"expected an AttributeConv or FactorizedConv; got Linear$"):
        fold_layer(nn.Linear(2, 2), ())


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_a_pruned_layer_folds_with_its_newest_weights() -> None:
    model, x = hcnn.create_model("hcnn_digits").eval(), torch.randn(2, 1, 8, 8)
    prune.l1_unstructured(model.layers[0], "weight", 0.5)
    with torch.no_grad():
        model.layers[0].get_parameter("weight_orig").add_(1)
    folded = model.fold()
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_whose_weights_hooks_normalize_folds_with_its_newest_weights(name, training) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch prefers its parametrizations
        layer = getattr(nn.utils, name)(FactorizedConv(4, 9, attribute_support=(3,), stride=(2, 1, 1)), "h")
    x = torch.randn(2, 8, 5, 5)
    layer(x)
    layer.train(training)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # as an optimizer does after the last forward pass
        folded = fold_layer(layer, (8,))
        torch.testing.assert_close(folded(x), layer.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_parametrized_layer_folds() -> None:
    model, x = hcnn.create_model("hcnn_digits").eval(), torch.randn(2, 1, 8, 8)
    first = model.layers[0]
    assert isinstance(first, AttributeConv)
    parametrize.register_parametrization(first, "weight", Doubled())
    torch.testing.assert_close(model.fold()(x), model(x), rtol=1e-4, atol=1e-4)
