"""Layers against the two steps of the paper, written slowly and obviously; and the law that each states."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.functional import attribute_conv
from hcnn.functional.plus_step import plus_matrix
from hcnn.layers.factorized import FactorizedConv
from hcnn.layers.folded import fold_layer
from hcnn.layers.hue import HueConv
from hcnn.layers.plain import AttributeConv
from hcnn.testing import assert_covariant, assert_invariant

GEOMETRIES = {  # averaged axes, v, u, support v, support u, stride
    "1-D": (0, (4,), (8,), (3,), (3,), (2, 1)),
    "1-D strided": (1, (2, 4, 4), (8,), (3, 5), (3,), (2, 2, 2)),
    "2-D": (0, (4, 8), (6, 6), (3, 5), (3, 3), (1, 1, 1, 1)),
    "2-D strided": (1, (2, 4, 8), (6, 8), (7, 5), (3, 3), (2, 2, 2, 2)),
    "3-D": (0, (4,), (4, 2, 4), (3,), (3, 3, 1), (2, 1, 1, 2)),
    "no attributes": (0, (), (6, 8), (), (3, 3), (1, 2)),
}


def build(geometry: str, boundary, **options) -> tuple[FactorizedConv, Tensor]:
    averaged, v, u, kv, ku, stride = GEOMETRIES[geometry]
    torch.manual_seed(1)
    layer = FactorizedConv(
        3,
        4,
        attribute_support=kv,
        spatial_support=ku,
        stride=stride,
        boundary=boundary,
        averaged=averaged,
        **options,
    ).double()
    with torch.no_grad():  # away from the neutral values that would hide a forgotten parameter
        for norm in (layer.norm, layer.inner_norm):
            norm.eps = 1e-3
            if norm.affine:
                norm.weight.uniform_(0.5, 2)
                norm.bias.normal_()
    return layer, torch.randn(3, *v, *u, dtype=torch.float64) * 2 + 0.7


class TwoStep(nn.Module):
    """The factorized layer as the paper writes it: convolve by h, normalize, (ELU,) convolve by g, normalize, ELU."""

    def __init__(self, layer: FactorizedConv) -> None:
        super().__init__()
        self.source = layer
        self.h, self.g = nn.Parameter(layer.h.detach().clone()), nn.Parameter(layer.g.detach().clone())
        self.inner_norm = nn.BatchNorm1d(len(layer.h), layer.inner_norm.eps, affine=layer.inner_norm.affine).double()
        self.norm = nn.BatchNorm1d(len(layer.g), layer.norm.eps).double()
        self.inner_norm.load_state_dict(layer.inner_norm.state_dict())
        self.norm.load_state_dict(layer.norm.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        s = self.source.geometry
        d = s.spatial
        if s.averaged:
            x = x.mean(list(range(1, 1 + s.averaged)))
        b, v, u = x.shape[0], x.shape[1:-d], x.shape[-d:]
        flat = x.reshape(-1, *u)
        y = torch.stack(  # every position u, one h at a time
            [attribute_conv(flat, one[None], spatial=d, boundary=s.boundary)[:, 0] for one in self.h], 1
        )  # (b·v, q, *u)
        y = self.inner_norm(y.flatten(2)).reshape(y.shape)
        if self.source.inner_elu:
            y = F.elu(y)
        y = y.reshape(b, *v, len(self.h), *u)
        z = sum(
            attribute_conv(
                y.select(1 + len(v), q),
                self.g[:, q].reshape(len(self.g), *s.attribute_support, *[1] * d),
                spatial=d,
                stride=s.stride,
                boundary=s.boundary,
            )
            for q in range(len(self.h))
        )
        assert isinstance(z, Tensor)
        out = self.norm(z.reshape(-1, z.shape[1 + len(v)], z.shape[-d:].numel())).reshape(z.shape)
        return F.elu(out)


@pytest.mark.parametrize("inner", ["linear", "affine", "elu", "elu affine"])
@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_factorized_layer_equals_the_two_steps(geometry, boundary, inner) -> None:
    layer, x = build(geometry, boundary, inner_elu="elu" in inner, inner_affine="affine" in inner)
    oracle = TwoStep(layer)
    for training in (True, True, False):
        layer.train(training)
        oracle.train(training)
        given, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = layer(given), oracle(expected)
        torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
        weights = torch.randn_like(y)
        layer.zero_grad()
        oracle.zero_grad()
        (y * weights).sum().backward()
        (z * weights).sum().backward()
        torch.testing.assert_close(given.grad, expected.grad, rtol=1e-10, atol=1e-10)
        slow = dict(oracle.named_parameters())
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, slow[name].grad, rtol=1e-10, atol=1e-10, msg=name)
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffer, dict(oracle.named_buffers())[name], rtol=1e-10, atol=1e-10, msg=name)
    torch.testing.assert_close(fold_layer(layer, _sizes(geometry))(x), layer(x), rtol=1e-12, atol=1e-12)


def _sizes(geometry: str) -> tuple[int, ...]:
    return GEOMETRIES[geometry][1][GEOMETRIES[geometry][0] :]


def test_filters_begin_with_a_sum_of_squares_of_1() -> None:
    torch.manual_seed(0)
    factors, plain = FactorizedConv(64, 64, attribute_support=(5, 7)), AttributeConv(64, attribute_support=(5,))
    for weight in (factors.h, factors.g, plain.weight):
        assert weight.detach().square().flatten(1).sum(1).mean().item() == pytest.approx(1, abs=0.15)


def test_plain_average_of_running_statistics() -> None:
    layer, x = build("2-D", "zeros")
    layer.inner_norm.momentum = layer.norm.momentum = None
    oracle = TwoStep(layer)
    oracle.inner_norm.momentum = oracle.norm.momentum = None
    for k in range(3):
        layer(x + k)
        oracle(x + k)
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, dict(oracle.named_buffers())[name], msg=name)


@pytest.mark.parametrize("inner_elu", [False, True])
@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_gradcheck(boundary, inner_elu) -> None:
    layer = FactorizedConv(
        2, 3, attribute_support=(3,), stride=(2, 1, 1), boundary=boundary, inner_elu=inner_elu
    ).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("inner_elu", [False, True])
def test_eager_equals_compiled(inner_elu) -> None:
    eager, x = build("2-D strided", "circular", inner_elu=inner_elu)
    other, _ = build("2-D strided", "circular", inner_elu=inner_elu)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    given, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = compiled(given), eager(expected)
    torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(given.grad, expected.grad, rtol=1e-9, atol=1e-9)
    for a, b in zip(other.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("inner_elu", [False, True])
@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_the_law_of_the_factorized_layer(boundary, inner_elu) -> None:
    stride = (2, 2, 1, 2)
    layer = FactorizedConv(
        3, 4, attribute_support=(3, 5), stride=stride, boundary=boundary, averaged=1, inner_elu=inner_elu
    ).double()
    x = torch.randn(2, 4, 12, 16, 10, 12, dtype=torch.float64)
    layer(x)
    layer.eval()
    assert_invariant(layer, x, 1)
    for axis, out, support, step in ((2, 1, 3, 2), (3, 2, 5, 2), (4, 4, 3, 1), (5, 5, 3, 2)):
        check: dict[str, Any] = dict(stride=step, support=support, boundary=boundary, output_axis=out)
        assert_covariant(layer, x, axis, **check)
        assert_covariant(layer, x, axis, shift=2, **check)
        if step == 2:  # half a step is no translation of the output
            with pytest.raises(AssertionError, match=f"not covariant along axis {axis}"):
                assert_covariant(layer, x, axis, **{**check, "stride": 1})


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_the_law_of_the_plain_layer(boundary) -> None:
    layer = AttributeConv(3, attribute_support=(5,), stride=(2, 1, 2), boundary=boundary).double().eval()
    x = torch.randn(2, 16, 8, 10, dtype=torch.float64)
    for axis, support, step, out in ((1, 5, 2, 1), (2, 3, 1, 3), (3, 3, 2, 4)):
        assert_covariant(layer, x, axis, stride=step, support=support, boundary=boundary, output_axis=out)
    first = AttributeConv(3, channels=2, boundary=boundary).double().eval()
    assert_covariant(first, torch.randn(2, 2, 8, 8, dtype=torch.float64), 3, support=3, boundary=boundary)


def test_checks_that_cannot_fail_are_refused() -> None:
    with pytest.raises(ValueError, match="has no interior for support 7"):
        assert_covariant(lambda x: x, torch.randn(1, 4), 1, support=7, boundary="zeros")
    with pytest.raises(ValueError, match="leaves x unchanged"):
        assert_invariant(lambda x: x, torch.ones(1, 4), 1)
    with pytest.raises(ValueError, match="constant along axis 1"):
        assert_covariant(lambda x: x * 0, torch.randn(1, 4), 1)
    for shift, stride in ((0, 1), (-1, 1), (2, 2)):  # the last one turns the whole axis once
        with pytest.raises(ValueError, match=f"expected a positive shift that moves x; got {shift} with stride"):
            assert_covariant(lambda x: x, torch.randn(1, 4), 1, shift=shift, stride=stride)
    with pytest.raises(AssertionError, match="not invariant along axis 1"):
        assert_invariant(lambda x: x, torch.randn(1, 4), 1)


def test_half_precision_keeps_float32_statistics() -> None:
    layer, x = build("2-D", "zeros")
    layer = layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.float())
    exact = layer(x.float())
    assert layer.inner_norm.running_var is not None
    assert layer.inner_norm.running_var.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.15)


BAD = [
    (
        (2, 4, 8, 6, 6),
        torch.float32,
        r"W: expected 6 axes \(b, v1, v2, v3, u1, u2\); got 5: shape \(2, 4, 8, 6, 6\)",
    ),
    ((2, 2, 3, 8, 6, 6), torch.float32, r"W: strides \(2, 2\) do not divide the attribute sizes \(3, 8\)"),
    (
        (0, 2, 4, 8, 6, 6),
        torch.float32,
        r"W: expected at least one entry along each of .*got shape \(0, 2, 4",
    ),
    ((2, 2, 4, 8, 6, 6), torch.int64, r"W: expected floating-point values.*got torch.int64"),
    (
        (2, 2, 4, 8, 6, 6),
        torch.float64,
        r"W: expected torch.float32, as its parameters are; got torch.float64",
    ),
]


@pytest.mark.parametrize(("shape", "dtype", "message"), BAD)
def test_bad_input_is_explained(shape, dtype, message) -> None:
    layer = FactorizedConv(3, 4, attribute_support=(3, 5), stride=(2, 2, 1, 1), averaged=1, label="W")
    with pytest.raises(ValueError, match=message):
        layer(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AttributeConv(0), "AttributeConv: filters: expected a whole number of at least 1; got 0"),
        (lambda: AttributeConv(-1, label="W"), "W: filters: expected a whole number of at least 1; got -1"),
        (lambda: AttributeConv(2.0), "filters: expected a whole number of at least 1; got 2.0"),  # type: ignore
        (
            lambda: AttributeConv(2**31),
            r"filters: expected a whole number below 2\*\*31; got 2147483648",
        ),
        (lambda: AttributeConv(2, attribute_support=(2**70 + 1,)), r"expected attribute supports below 2\*\*31; got"),
        (lambda: AttributeConv(2, channels=0), "channels: expected a whole number of at least 1; got 0"),
        (lambda: HueConv(0, channels=3), "HueConv: filters: expected a whole number of at least 1; got 0"),
        (lambda: FactorizedConv(2, 0, attribute_support=(3,)), "rank: expected a whole number of at least 1; got 0"),
        (lambda: AttributeConv(2, averaged=-1), "averaged: expected a whole number of at least 0; got -1"),
        (lambda: AttributeConv(2, attribute_support=3), "odd, positive attribute supports; got 3"),  # type: ignore
        (lambda: AttributeConv(2, average_oldest=True), "average_oldest: expected a convolved attribute"),
        (lambda: HueConv(2, channels=3, average_oldest=True), "average_oldest: expected a convolved attribute"),
        (
            lambda: FactorizedConv(2, 3, attribute_support=(3,), inner_elu=True, method="fft"),  # type: ignore
            "FactorizedConv: expected method 'auto', 'dense', 'spectral' or 'native'; got 'fft'",
        ),
        (lambda: AttributeConv(2, method="fft", label="W"), "W: expected method 'auto', .* got 'fft'"),  # type: ignore
    ],
)
def test_bad_arguments_are_explained_at_construction(make, says) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_bad_geometry_is_explained() -> None:
    with pytest.raises(ValueError, match="AttributeConv: expected odd, positive spatial supports; got None"):
        AttributeConv(3, spatial_support=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"FactorizedConv: expected odd, positive attribute supports; got \(4,\)"):
        FactorizedConv(3, 4, attribute_support=(4,))
    with pytest.raises(ValueError, match="AttributeConv: stride: expected 3 entries, one per axis; got 2"):
        AttributeConv(3, attribute_support=(3,), stride=(1, 1))
    with pytest.raises(ValueError, match=r"expected c = 5 of \(b, c, u1, u2\); got shape \(1, 3, 4, 4\)"):
        AttributeConv(3, channels=5)(torch.ones(1, 3, 4, 4))
    with pytest.raises(ValueError, match="h and g do not compose"):
        FactorizedConv(3, 4, attribute_support=(3,), inner_elu=True).composed_weight()


@pytest.mark.parametrize(("boundary", "chosen"), [("circular", "spectral"), ("zeros", "dense")])
def test_a_layer_says_which_form_its_attribute_step_takes(boundary, chosen) -> None:
    layer = FactorizedConv(
        16, 32, attribute_support=(7, 11), stride=(2, 2, 1, 1), averaged=1, inner_elu=True, boundary=boundary
    )
    assert layer.chosen_method((8, 16), 16) == chosen
    assert fold_layer(layer, (8, 16)).chosen_method((8, 16), 16) == chosen
    assert layer.chosen_method((8, 16), 16, "cuda") == "dense"
    prepared = plus_matrix(layer.g, (8, 16), (2, 2), boundary, "auto", "cpu")
    assert (prepared.analysis is not None) == (chosen == "spectral")
    x, results = torch.randn(2, 2, 8, 16, 4, 4), []
    for method in ("dense", "spectral"):
        other = FactorizedConv(
            16,
            32,
            attribute_support=(7, 11),
            stride=(2, 2, 1, 1),
            averaged=1,
            inner_elu=True,
            boundary=boundary,
            method=method,
        )
        other.load_state_dict(layer.state_dict())
        assert other.chosen_method((8, 16), 16) == fold_layer(other, (8, 16)).chosen_method((8, 16), 16) == method
        results += [other.eval()(x), fold_layer(other, (8, 16))(x)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-4)
