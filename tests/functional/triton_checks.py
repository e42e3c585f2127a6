"""The Triton kernels against their reference implementations, in Triton's interpreter; `test_triton` runs this.

Gradients are those of a random linear functional. float64 goes straight to the operators, which `available` refuses it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hcnn import FactorizedConv, HierarchicalCNN, HierarchicalCNNConfig
from hcnn.functional import attribute_conv, backend, dense_weight
from hcnn.functional.attribute_conv import triton_dense as dense
from hcnn.functional.dtypes import wide
from hcnn.functional.normalize_elu import naive as naive_norm
from hcnn.functional.normalize_elu import triton_kernels as triton_normalize
from hcnn.functional.normalize_elu import triton_op as normalize
from hcnn.functional.patch_moments import naive as naive_moments
from hcnn.functional.patch_moments import triton_kernels as triton_moments
from hcnn.functional.patch_moments import triton_op as moments
from hcnn.functional.plus_step import naive as naive_plus
from hcnn.functional.plus_step import triton_kernels as triton_plus
from hcnn.functional.plus_step import triton_op as plus

BOUNDARIES = ["zeros", "circular"]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2}  # of the largest element


def results(function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, then gradients of a random linear functional of all differentiable outputs."""
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    outputs = function(*leaves)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    torch.manual_seed(7)
    total = sum((o.double() * torch.randn(o.shape, dtype=torch.float64)).sum() for o in outputs if o.requires_grad)
    assert isinstance(total, Tensor)
    return [*(o.detach() for o in outputs), *torch.autograd.grad(total, leaves)]


def assert_equal(kernel: Callable[..., Any], twin: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    for actual, expected in zip(results(kernel, inputs), results(twin, inputs), strict=True):
        assert actual.dtype == expected.dtype
        scale = float(expected.abs().max().double()) + 1e-30
        torch.testing.assert_close(
            actual.double() / scale, expected.double() / scale, rtol=0, atol=TOLERANCE[inputs[0].dtype]
        )


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "channels_last"), [((3, 2, 7, 6), False), ((2, 5, 6, 5), True), ((2, 3, 1, 4), False), ((3, 2, 2), False)]
)
def test_patch_moments(shape, channels_last, dtype, boundary) -> None:
    x = (torch.randn(shape) + 3).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert_equal(
        lambda x: moments.patch_moments(x, (3, 3), boundary),
        lambda x: naive_moments.patch_moments(x, (3, 3), boundary),
        [x],
    )  # fmt: skip


def test_patch_moments_of_many_tiles_far_from_zero(monkeypatch) -> None:
    monkeypatch.setattr(triton_moments, "_PARTS", 2)
    x = torch.randn(8, 10, 21, 20) + 300  # E[p²] alone would leave a variance no correct digit
    mean, covariance = moments.patch_moments(x, (3, 3), "circular")
    expected_mean, expected = naive_moments.patch_moments(x.double(), (3, 3), "circular")
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(covariance.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_patch_moments_are_exact_under_autocast(boundary) -> None:
    x = torch.randn(2, 3, 7, 6) + 3
    expected = moments.patch_moments(x, (3, 3), boundary)
    with torch.autocast("cpu", torch.bfloat16):
        found = moments.patch_moments(x, (3, 3), boundary)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(
    ("shape", "sizes", "stride"),
    [((3, 5, 3, 3, 3), (4, 6), (2, 1)), ((2, 7, 9, 3), (2, 4), (1, 2)), ((4, 5, 3, 3), (6,), (3,))],
)
def test_placed_filters(shape, sizes, stride, boundary) -> None:
    for dtype in (torch.float64, torch.float32):
        assert_equal(
            lambda w, dtype=dtype: dense.dense_weight(w, sizes, stride, boundary, dtype),
            lambda w: dense_weight(w, sizes, stride, boundary),
            [torch.randn(shape, dtype=dtype)],
        )
    weight = torch.randn(shape)
    torch.testing.assert_close(
        dense.dense_weight(weight, sizes, stride, boundary, torch.bfloat16),
        dense_weight(weight, sizes, stride, boundary).bfloat16(),
    )


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_convolution_keeps_the_layout_of_its_input(boundary) -> None:
    x, weight = torch.randn(2, 2, 4, 5, 6), torch.randn(3, 3, 3, 3, 3)
    expected = attribute_conv(x, weight, stride=(1, 2, 1, 1), boundary=boundary, matrix=dense_weight(
        weight, (2, 4), (1, 2), boundary), method="dense")  # fmt: skip
    last = x.flatten(1, 2).contiguous(memory_format=torch.channels_last).view(x.shape)
    for given, layout in ((x, torch.contiguous_format), (last, torch.channels_last)):
        found = attribute_conv(given, weight, stride=(1, 2, 1, 1), boundary=boundary, method="dense")
        torch.testing.assert_close(found, expected)
        assert found.flatten(1, 3).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_normalization(dtype, channels_last, average) -> None:
    shape = (2, 3, 4, 5, 7, 6)  # b v1 v2 k u1 u2
    y = (2 * torch.randn(shape) + 3).to(dtype)
    if channels_last:
        y = y.flatten(1, 3).contiguous(memory_format=torch.channels_last).view(shape)
    first, second = torch.rand(5).to(wide(dtype)) + 0.5, torch.randn(5).to(wide(dtype))
    for name, extra in (("normalize_elu", ()), ("batch_normalize_elu", (1e-5,))):
        kernel, twin = getattr(normalize, name), getattr(naive_norm, name)
        assert_equal(
            lambda *given, kernel=kernel, extra=extra: kernel(*given, *extra, 2, average),
            lambda *given, twin=twin, extra=extra: twin(*given, *extra, 2, average),
            [y, first, second],
        )
    assert_equal(
        lambda y: normalize.channel_statistics(y, 2), lambda y: naive_norm.channel_statistics(y, 2), [y]
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "spatial"), [((3, 2, 100, 5), 1), ((2, 17, 3, 2, 2), 3), ((40, 3, 16, 5, 5), 2)])
def test_normalization_of_other_sizes(shape, spatial) -> None:
    """Signals and volumes; 100 and 17 values; more numbers than one program takes."""
    y, k = torch.randn(shape), shape[-1 - spatial]
    assert_equal(
        lambda *given: normalize.batch_normalize_elu(*given, eps=1e-5, spatial=spatial, average_oldest=False),
        lambda *given: naive_norm.batch_normalize_elu(*given, eps=1e-5, spatial=spatial, average_oldest=False),
        [y, torch.rand(k), torch.randn(k)],
    )


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_statistics_of_many_tiles(offset, monkeypatch) -> None:
    monkeypatch.setattr(triton_normalize, "_PARTS", 16)
    y = torch.randn(32, 2, 3, 33, 31) + offset
    for given in (y, y.flatten(1, 2).contiguous(memory_format=torch.channels_last).view(y.shape)):
        for actual, expected in zip(
            normalize.channel_statistics(given, 2),
            naive_norm.channel_statistics(given.double(), 2),
            strict=True,
        ):
            torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5 + 1e-7 * offset)


STEPS = [  # b v q o u stride
    (2, 8, 32, 20, (6, 4), (1, 1)),
    (2, 6, 5, 3, (6, 4), (2, 1)),
    (3, 4, 16, 24, (4, 8), (2, 2)),
    (1, 2, 40, 16, (1, 3), (1, 1)),
    (5, 3, 32, 33, (5, 7), (1, 1)),
]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("b", "v", "q", "o", "u", "stride"), STEPS)
def test_inner_step(b, v, q, o, u, stride, dtype, boundary) -> None:
    x, h, shift = torch.randn(b, v, *u).to(dtype), torch.randn(q, 3, 3) / 3, torch.randn(q) / 2
    matrix = torch.randn(o, v * q) / (v * q) ** 0.5
    assert_equal(
        lambda *given: plus.plus_step(*given, stride=stride, boundary=boundary),
        lambda *given: naive_plus.plus_step(*given, stride=stride, boundary=boundary),
        [x, h, shift, matrix],
    )


def test_inner_step_at_odd_sizes_and_in_several_parts(monkeypatch) -> None:
    monkeypatch.setattr(triton_plus, "_PATCHES", 1)  # one image at a time
    given = [torch.randn(3, 4, 5, 7), torch.randn(32, 3, 3), torch.randn(32), torch.randn(8, 128)]
    assert_equal(
        lambda *one: plus.plus_step(*one, stride=(2, 2), boundary="zeros"),
        lambda *one: naive_plus.plus_step(*one, stride=(2, 2), boundary="zeros"),
        given,
    )


def operators() -> list[tuple[Any, tuple[Any, ...]]]:
    x, rows = torch.randn(2, 4, 5, 3), torch.randn(3, 2, 20)
    k = torch.rand(5)
    return [
        (torch.ops.hcnn.patch_moments.default, (x.requires_grad_(), True)),
        (
            torch.ops.hcnn.normalize_elu.default,
            (rows.clone().requires_grad_(), k.clone().requires_grad_(), k.clone(), 2),
        ),
        (torch.ops.hcnn.channel_statistics.default, (rows.clone().requires_grad_(), 5, 2)),
        (
            torch.ops.hcnn.batch_normalize_elu.default,
            (rows.clone().requires_grad_(), k.clone().requires_grad_(), k.clone().requires_grad_(), 2, 1e-5),
        ),
        (
            torch.ops.hcnn.plus_step.default,
            (
                torch.randn(2, 3, 4, 4, requires_grad=True),
                torch.randn(5, 3, 3, requires_grad=True),
                torch.randn(5, requires_grad=True),
                torch.randn(6, 15, requires_grad=True),
                *(2, 2, False),
            ),
        ),
        (
            torch.ops.hcnn.place_filters.default,
            (torch.randn(2, 15, 9, requires_grad=True), [4, 6, 3, 5, 2, 1], True, False),
        ),
    ]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.14 reads it
@pytest.mark.parametrize("index", range(6))
def test_operators_are_what_compilers_expect(index) -> None:
    """Schema, shapes without data, autograd registration, ahead-of-time tracing with its gradients."""
    operator, inputs = operators()[index]
    torch.library.opcheck(operator, inputs)


KERNELS = {"moments": triton_moments, "normalize": triton_normalize, "plus": triton_plus}


@contextlib.contextmanager
def seen() -> Iterator[set[str]]:
    """Which of the kernels' entry points are called."""
    names: set[str] = set()

    def recording(label: str, run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: names.add(label) or run(*given)

    with pytest.MonkeyPatch.context() as patch:
        for kind, module in KERNELS.items():
            for name in ("forward", "backward"):
                patch.setattr(module, name, recording(f"{kind} {name}", getattr(module, name)))
        yield names


@pytest.mark.parametrize(("inner_elu", "boundary"), [(False, "zeros"), (True, "circular")])
def test_a_network_with_kernels_equals_one_without(inner_elu, boundary) -> None:
    config = HierarchicalCNNConfig(
        width=4, rank=3, depth=5, attribute_support=(3, 3), downsample=(4,), inner_elu=inner_elu, boundary=boundary
    )
    torch.manual_seed(0)
    model, x = HierarchicalCNN(config), torch.randn(2, 3, 6, 6)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for block in (contextlib.nullcontext(), backend.disabled()):
        model.load_state_dict(start)
        model.train()
        model.zero_grad()
        with block, seen() as names:
            model(x).square().sum().backward()
            state = [value.clone() for value in model.state_dict().values()]
            logits = model.eval()(x).detach()
        kinds = ("moments", "normalize", "plus") if inner_elu else ("moments", "normalize")
        expected = {f"{kind} {name}" for kind in kinds for name in ("forward", "backward")}
        assert names == (expected if not found else set())
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([logits, *gradients, *state])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_with_kernels_compiles_in_one_piece() -> None:
    layer = FactorizedConv(4, 3, attribute_support=(3,), stride=(2, 1, 1), inner_elu=True)
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        layer(x)  # the kernels are imported
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        layer.zero_grad()
        layer.inner_norm.reset_running_stats()
        y = run(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("boundary", "form"), [("circular", "spectral"), ("zeros", "dense")])
def test_a_layer_of_the_full_size_takes_the_kernels_that_fit_its_form(boundary, form) -> None:
    """K = 16, Q = 32: per frequency there is no kernel for the inner step, with one matrix there is."""
    layer = FactorizedConv(
        16, 32, attribute_support=(7, 11), stride=(2, 2, 1, 1), averaged=1, inner_elu=True, boundary=boundary
    )
    assert layer.chosen_method((8, 16), 16) == form
    x = torch.randn(1, 2, 8, 16, 3, 3)
    results = []
    for block in (contextlib.nullcontext(), backend.disabled()):
        layer.zero_grad()
        layer.inner_norm.reset_running_stats()
        with block, seen() as names:
            y = layer(x)
            y.square().sum().backward()
        assert ("plus forward" in names) == (form == "dense" and not results)
        results.append([y.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    for actual, expected in zip(*results, strict=True):
        scale = float(expected.abs().max()) + 1e-30
        torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-4)
