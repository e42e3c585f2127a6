"""The functional core against nested sums, in float64."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hcnn.functional import attribute_conv, axis_names, marginal, patch_moments, translate
from hcnn.layers import AttributeConv


def nested_sums(x: Tensor, weight: Tensor, attributes: int, stride: Sequence[int], boundary: str) -> Tensor:
    """attribute_conv as it is written: a loop over outputs, filters and taps. x (b, *v, *u), weight (k, *kv, *ku)."""
    sizes, support = x.shape[1:], weight.shape[1:]
    outputs = [-(-n // s) for n, s in zip(sizes, stride, strict=True)]
    y = x.new_zeros(x.shape[0], *outputs[:attributes], weight.shape[0], *outputs[attributes:])
    for k, out in itertools.product(range(weight.shape[0]), itertools.product(*map(range, outputs))):
        total = x.new_zeros(x.shape[0])
        for tap in itertools.product(*map(range, support)):
            at = [o * s + t - w // 2 for o, s, t, w in zip(out, stride, tap, support, strict=True)]
            if boundary == "circular":
                at = [a % n for a, n in zip(at, sizes, strict=True)]
            elif any(not 0 <= a < n for a, n in zip(at, sizes, strict=True)):
                continue
            total = total + weight[(k, *tap)] * x[(slice(None), *at)]
        y[(slice(None), *out[:attributes], k, *out[attributes:])] = total
    return y


CASES = [  # sizes v, sizes u, support v, support u, stride
    ((), (6,), (), (3,), (1,)),
    ((4,), (6,), (3,), (3,), (2, 2)),
    ((4, 2), (4,), (5, 3), (3,), (2, 1, 2)),
    ((4,), (4, 6), (7,), (3, 3), (2, 1, 2)),
    ((2, 4), (4, 4), (3, 5), (3, 3), (2, 2, 2, 1)),
    ((2, 2, 2), (4, 2), (3, 3, 1), (3, 5), (1, 2, 1, 1, 2)),
    ((4,), (2, 4, 2), (3,), (3, 3, 1), (2, 1, 2, 1)),
]


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("v", "u", "kv", "ku", "stride"), CASES)
def test_attribute_conv_equals_nested_sums(v, u, kv, ku, stride, boundary) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, *v, *u, dtype=torch.float64)
    weight = torch.randn(3, *kv, *ku, dtype=torch.float64)
    expected = nested_sums(x, weight, len(v), stride, boundary)
    actual = attribute_conv(x, weight, spatial=len(u), stride=stride, boundary=boundary)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("v", "u", "kv", "ku", "stride"), [case for case in CASES if case[0]])
def test_spectral_form_equals_the_dense_form(v, u, kv, ku, stride, boundary) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, *v, *u, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, *kv, *ku, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    results = []
    for method in ("dense", "spectral"):
        y = attribute_conv(x, weight, bias, spatial=len(u), stride=stride, boundary=boundary, method=method)
        results.append((y, *torch.autograd.grad((y * y).sum(), (x, weight, bias))))
    for dense, spectral in zip(*results, strict=True):
        torch.testing.assert_close(spectral, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_attribute_conv_sums_over_channels_and_adds_bias(boundary) -> None:
    x = torch.randn(2, 4, 5, 4, 4, dtype=torch.float64)  # b v c u1 u2
    weight = torch.randn(3, 5, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(2, 3, dtype=torch.float64)  # v' k
    expected = sum(nested_sums(x[:, :, c], weight[:, c], 1, (2, 1, 1), boundary) for c in range(5))
    actual = attribute_conv(x, weight, bias, stride=(2, 1, 1), boundary=boundary, channel_axis=True)
    torch.testing.assert_close(actual, expected + bias[None, :, :, None, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_odd_spatial_sizes(boundary) -> None:
    x, weight = torch.randn(1, 2, 5, 3, dtype=torch.float64), torch.randn(2, 3, 3, 3, dtype=torch.float64)
    if boundary == "zeros":
        expected = nested_sums(x, weight, 1, (1, 2, 2), boundary)
        torch.testing.assert_close(attribute_conv(x, weight, stride=(1, 2, 2)), expected, rtol=0, atol=1e-12)
    else:
        with pytest.raises(ValueError, match=r"strides \(1, 2, 2\) do not divide the sizes \(2, 5, 3\).*'circular'"):
            attribute_conv(x, weight, stride=(1, 2, 2), boundary=boundary)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_gradients(boundary) -> None:
    x = torch.randn(2, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    stride = (2, 2, 1, 1)
    assert torch.autograd.gradcheck(
        lambda *a: attribute_conv(*a, stride=stride, boundary=boundary), (x, weight, bias), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda a: patch_moments(a, (3, 3), boundary=boundary), (x.detach().requires_grad_(),), fast_mode=True
    )


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("u", "support"), [((7,), (3,)), ((5, 4), (3, 3)), ((4, 6), (3, 5)), ((3, 4, 5), (3, 1, 3))])
def test_patch_moments_equal_those_of_all_patches(u, support, boundary) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, *u, dtype=torch.float64) + 2
    patches = []
    for at in itertools.product(*map(range, u)):
        patch = []
        for tap in itertools.product(*map(range, support)):
            place = [a + t - k // 2 for a, t, k in zip(at, tap, support, strict=True)]
            if boundary == "circular":
                place = [p % n for p, n in zip(place, u, strict=True)]
            inside = all(0 <= p < n for p, n in zip(place, u, strict=True))
            patch.append(x[(..., *place)].flatten() if inside else x.new_zeros(6))
        patches.append(torch.stack(patch, 1))
    stacked = torch.cat(patches)
    mean, covariance = patch_moments(x, support, boundary=boundary)
    torch.testing.assert_close(mean, stacked.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance, stacked.T.cov(correction=0), rtol=0, atol=1e-12)


def test_patch_moments_do_not_cancel_when_the_mean_is_large() -> None:
    x = torch.randn(4, 8, 16, 16) + 1000
    _, covariance = patch_moments(x, (3, 3), boundary="circular")
    _, exact = patch_moments(x.double(), (3, 3), boundary="circular")
    torch.testing.assert_close(covariance.double(), exact, rtol=1e-3, atol=1e-3)


def test_patch_moments_of_bfloat16_are_float32() -> None:
    mean, covariance = patch_moments(torch.randn(2, 4, 6, 6).bfloat16(), (3, 3))
    assert mean.dtype == covariance.dtype == torch.float32


def test_bfloat16_convolution_is_close() -> None:
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(4, 5, 3, 3)
    expected = attribute_conv(x, weight, stride=(2, 1, 1))
    actual = attribute_conv(x.bfloat16(), weight.bfloat16(), stride=(2, 1, 1))
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("method", ["dense", "spectral"])
def test_compiles_without_graph_breaks(boundary, method) -> None:
    x = torch.randn(2, 4, 6, 6)
    weight = torch.randn(3, 5, 3, 3)

    def both(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = attribute_conv(x, weight, stride=(2, 1, 1), boundary=boundary, method=method)
        return (y, *patch_moments(x, (3, 3), boundary=boundary))

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(x, weight), both(x, weight), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_constants_made_in_inference_mode_serve_training() -> None:
    x, weight = torch.randn(2, 10, 5, 5), torch.randn(3, 3, 3, 3)
    with torch.inference_mode():
        expected = attribute_conv(x, weight, stride=(2, 1, 1), method="spectral").clone()
    y = attribute_conv(x, weight.requires_grad_(), stride=(2, 1, 1), method="spectral")
    y.sum().backward()
    torch.testing.assert_close(y.detach(), expected)


def test_translate_and_marginal() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    assert translate(x, 1, 5, boundary="zeros").eq(0).all()
    torch.testing.assert_close(translate(translate(x, 1, 1), 1, -1), x)
    torch.testing.assert_close(marginal(x, (0, 1)), x.mean())
    with pytest.raises(ValueError, match="translate: expected an axis between -2 and 1 of"):
        translate(x, 2, 1)
    for axis in ("v1", 1.0):
        with pytest.raises(ValueError, match=f"translate: expected an axis between -2 and 1 of .*; got {axis!r}"):
            translate(x, axis, 1)  # type: ignore[arg-type]
    for shift in (1.5, "1", None, torch.tensor([1, 2])):
        expected = f"translate: expected a shift by a whole number of positions; got {shift!r}"
        with pytest.raises(ValueError, match=re.escape(expected)):
            translate(x, 1, shift)  # type: ignore[arg-type]
    for one in (np.int64(1), torch.tensor(1)):
        assert translate(x, 1, one).equal(translate(x, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"marginal: expected floating-point values; got torch.int64 of shape"):
        marginal(x.long(), 1)
    with pytest.raises(ValueError, match="translate: expected a tensor; got a list"):
        translate([1, 2], 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"marginal: expected different axes of \(3, 4\); got \(1, -1\)"):
        marginal(x, (1, -1))
    for axis in (None, 1.0):
        with pytest.raises(ValueError, match=rf"marginal: expected an axis between -2 and 1 of \(3, 4\); got {axis}"):
            marginal(x, axis)  # type: ignore[arg-type]


def test_what_has_no_patches_is_refused() -> None:
    x = torch.randn(2, 6, 6)
    for support in (3, None, "33", (), (2, 2), (3, -1), (3.0, 3.0)):
        with pytest.raises(ValueError, match=re.escape(f"odd supports, one per spatial axis; got {support!r}")):
            patch_moments(x, support)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patch_moments: expected a tensor; got a NoneType"):
        patch_moments(None, (3, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least one entry along each axis; got \(0, 6, 6\)"):
        patch_moments(x[:0], (3, 3))


def test_what_is_no_tensor_is_explained() -> None:
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3, 3)
    given: list[tuple[Any, str]] = [
        ((None, weight), "x as a tensor; got a NoneType"),
        ((x, weight.numpy()), "weight as a tensor; got a ndarray"),
        ((x, weight, [0.0] * 4), "bias as a tensor; got a list"),
    ]
    for arguments, says in given:
        with pytest.raises(ValueError, match=f"attribute_conv: expected {says}"):
            attribute_conv(*arguments)
    with pytest.raises(ValueError, match=r"expected 1, 2 or 3 spatial axes; got 2\.0"):
        attribute_conv(x, weight, spatial=2.0)  # type: ignore[arg-type]


def test_whole_numbers_of_numpy_are_taken_for_pythons() -> None:
    two, three = np.int64(2), np.int64(3)
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3, 3)
    expected = attribute_conv(x, weight, stride=(2, 1, 1))
    torch.testing.assert_close(attribute_conv(x, weight, stride=(two, 1, 1)), expected)  # type: ignore[arg-type]
    torch.testing.assert_close(marginal(x, np.int64(1)), x.mean(1))  # type: ignore[arg-type]
    layer = AttributeConv(4, attribute_support=[three], spatial_support=np.array([3, 3]), stride=np.array([2, 1, 1]))  # type: ignore[arg-type]
    assert repr(layer.geometry) == repr(AttributeConv(4, attribute_support=(3,), stride=(2, 1, 1)).geometry)


BAD = [
    (dict(x=(2, 8, 6), w=(4, 3, 3, 3)), r"expects x with axes \(b, v1, u1, u2\); got shape \(2, 8, 6\)"),
    (dict(x=(2, 8, 6, 6), w=(4, 4, 3, 3)), r"odd filter supports; got \(4,\) along v, \(3, 3\) along u"),
    (dict(x=(2, 7, 6, 6), w=(4, 3, 3, 3), stride=2), r"do not divide the sizes \(7, 6, 6\)"),
    (dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), stride=(2, 1)), "expected 3 entries, one per axis; got 2"),
    (dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), stride=0), "expected positive integers; got"),
    (dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), stride=2.0), "a positive integer, or one for each of 3 axes; got 2.0"),
    (
        dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), boundary="reflect"),
        "expected boundary 'zeros' or 'circular'; got 'reflect'",
    ),
    (dict(x=(2, 3, 6, 6), w=(4, 5, 3, 3), channel_axis=True), "sums over 5 channels"),
    (dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), spatial=4), "expected 1, 2 or 3 spatial axes; got 4"),
    (
        dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), method="fft"),
        "expected method 'auto', 'dense', 'spectral' or 'native'; got 'fft'",
    ),
    (dict(x=(2, 6, 6), w=(4, 3, 3), method="spectral"), "the spectral method needs attributes"),
    (dict(x=(0, 8, 6, 6), w=(4, 3, 3, 3)), r"at least one entry along each of \(b, v1, u1, u2\); got .*\(0, 8, 6, 6\)"),
    (dict(x=(2, 8, 6, 6), w=(4, 3, 3, 3), bias=(3,)), r"expected a bias of shape \(4,\) or \(8, 4\); got \(3,\)"),
]


@pytest.mark.parametrize("method", ["auto", "dense", "spectral", "native"])
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_explained(arguments, message, method) -> None:
    x, w, *bias = (torch.randn(arguments[name]) for name in ("x", "w", "bias") if name in arguments)
    keywords = {"method": method} | {key: one for key, one in arguments.items() if key not in ("x", "w", "bias")}
    with pytest.raises(ValueError, match=message):
        attribute_conv(x, w, *bias, **keywords)


def test_devices_that_differ_are_explained() -> None:
    with pytest.raises(ValueError, match="expected x, weight and bias on one device; got cpu, meta"):
        attribute_conv(torch.randn(2, 4, 8, 8), torch.randn(8, 3, 3, 3).to("meta"))


@pytest.mark.parametrize("method", ["auto", "dense", "spectral", "native"])
@pytest.mark.parametrize("wide", [0, 1, 2])
def test_types_that_differ_are_explained(wide, method) -> None:
    given = [torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)]
    given[wide] = given[wide].double()
    with pytest.raises(ValueError, match=r"bias of one type outside of autocast; got \[.*torch.float64"):
        attribute_conv(*given, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        attribute_conv(given[0].float(), given[1].bfloat16(), given[2].float(), method="dense")


def test_axis_names() -> None:
    assert axis_names(0, 2, channel=True) == "b, c, u1, u2"
