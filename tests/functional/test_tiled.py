"""The tiled CPU forms against their reference implementations, in float64, over several tiles."""

import pytest
import torch
from torch import Tensor

from hcnn.functional import Method, attribute_conv, bands, dense_weight, plus_transforms, tiles
from hcnn.functional.normalize_elu import batch_normalize_elu
from hcnn.functional.normalize_elu import naive as naive_norm
from hcnn.functional.plus_step import naive as naive_plus
from hcnn.functional.plus_step import plus_step, spectral_plus_step


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 100)  # so that every batch here takes more than one


def both(fast, slow, inputs: list[Tensor], tolerance: float = 1e-10) -> None:
    """Outputs and gradients of two functions agree."""
    results = []
    for function in (fast, slow):
        given = [one.detach().clone().requires_grad_() for one in inputs]
        y = function(*given)
        torch.manual_seed(1)
        results.append((y, *torch.autograd.grad((y * torch.randn(y.shape).to(y)).sum(), given)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(("shape", "spatial"), [((3, 4, 5, 6), 1), ((3, 2, 4, 5, 6, 3), 2), ((2, 3, 4, 2, 3, 2), 3)])
def test_normalize_elu(shape, spatial, average, last) -> None:
    torch.manual_seed(0)
    k = shape[-1 - spatial]
    y, weight, bias = torch.randn(shape).double() * 2 + 5, torch.rand(k).double() + 0.5, torch.randn(k).double()
    if last:  # the order that a strided convolution may answer in
        y = y.movedim(-1 - spatial, -1).contiguous().movedim(-1, -1 - spatial)
    both(
        lambda y, weight, bias: batch_normalize_elu(y, weight, bias, 1e-5, spatial, average)[0],
        lambda y, weight, bias: naive_norm.batch_normalize_elu(y, weight, bias, 1e-5, spatial, average)[0],
        [y, weight, bias],
    )
    for found, expected in zip(
        batch_normalize_elu(y, weight, bias, 1e-5, spatial)[1:],
        naive_norm.channel_statistics(y, spatial),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_normalize_elu_when_a_scale_is_zero_and_the_mean_is_large() -> None:
    y = torch.randn(6, 3, 4, 4) + 1000
    weight, bias = torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.5, 0.0, 0.0])
    out, _, variance = batch_normalize_elu(y, weight, bias, 1e-5, 2)
    expected, _, exact = naive_norm.batch_normalize_elu(y.double(), weight.double(), bias.double(), 1e-5, 2, False)
    torch.testing.assert_close(variance.double(), exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2)


def near(found: Tensor, expected: Tensor) -> None:
    """Values of bfloat16 are right to 3 % of the largest."""
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("average", [False, True])
def test_normalize_elu_of_bfloat16_keeps_statistics_in_float32(average) -> None:
    torch.manual_seed(0)
    y = (torch.randn(4, 2, 3, 6, 6) + 2).bfloat16().requires_grad_()
    slow = y.detach().double().requires_grad_()
    out, mean, _ = batch_normalize_elu(y, torch.ones(3), torch.zeros(3), 1e-5, 2, average)
    expected = naive_norm.batch_normalize_elu(slow, torch.ones(3), torch.zeros(3), 1e-5, 2, average)[0]
    assert mean.dtype == torch.float32
    near(out, expected)
    near(*(torch.autograd.grad(one.double().square().sum(), given)[0] for one, given in ((out, y), (expected, slow))))


PLUS = [  # sizes v, support v, stride v, sizes u, support u, stride u
    ((8,), (5,), (2,), (7,), (3,), (2,)),
    ((4, 6), (3, 5), (2, 2), (5, 6), (3, 3), (1, 1)),
    ((4, 6), (7, 3), (2, 1), (6, 4), (3, 5), (2, 2)),
    ((4,), (3,), (1,), (2, 3, 4), (3, 1, 3), (1, 1, 2)),
]


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("v", "kv", "sv", "u", "ku", "su"), PLUS)
def test_plus_step(v, kv, sv, u, ku, su, boundary) -> None:
    torch.manual_seed(0)
    if boundary == "circular" and any(n % s for n, s in zip(u, su, strict=True)):
        u = tuple(n + n % s for n, s in zip(u, su, strict=True))
    x, h, g = torch.randn(3, *v, *u), torch.randn(2, *ku), torch.randn(3, 2, *kv)
    blocks = bands(g, v, sv, boundary)

    def step(run, x: Tensor, h: Tensor, shift: Tensor, g: Tensor, **options) -> Tensor:
        matrix = dense_weight(g, v, sv, boundary, channel_axis=True)
        return run(x.flatten(1, len(v)), h, shift, matrix, su, boundary, **options)

    def per_frequency(x: Tensor, h: Tensor, shift: Tensor, g: Tensor) -> Tensor:
        return spectral_plus_step(
            x.flatten(1, len(v)), h, shift, *plus_transforms(g, v, sv, boundary), su, boundary
        )  # fmt: skip

    def naive_per_frequency(x: Tensor, h: Tensor, shift: Tensor, g: Tensor) -> Tensor:
        transforms = plus_transforms(g, v, sv, boundary)
        return naive_plus.spectral_plus_step(x.flatten(1, len(v)), h, shift, *transforms, su, boundary)

    inputs = [one.double() for one in (x, h, torch.randn(2), g)]
    for run in (lambda *given: step(plus_step, *given, bands=blocks), per_frequency, naive_per_frequency):
        both(run, lambda *given: step(naive_plus.plus_step, *given), inputs)


def test_bands_hold_all_that_is_not_zero() -> None:
    for sizes, support, stride in (
        ((8, 16), (7, 11), (2, 2)),
        ((4, 8), (5, 7), (2, 2)),
        ((6,), (3,), (1,)),
        ((2,), (9,), (1,)),
    ):
        g = torch.rand(3, 2, *support) + 1
        matrix = dense_weight(g, sizes, stride, "zeros", channel_axis=True)
        for top, bottom, left, right in torch.tensor(bands(g, sizes, stride, "zeros")).view(-1, 4).tolist():
            matrix[top:bottom, left:right] = 0
        assert not matrix.any()


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_spectral_form_over_several_tiles(boundary) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(5, 4, 6, 6, 4).double(), torch.randn(3, 3, 5, 3, 3).double()
    bias = torch.randn(2, 3, 3).double()

    def run(method: Method):
        return lambda *given: attribute_conv(*given, stride=(2, 2, 2, 1), boundary=boundary, method=method)

    both(run("spectral"), run("dense"), [x, w, bias])


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_spectral_form_of_bfloat16_has_the_gradients_of_float64(boundary) -> None:
    torch.manual_seed(0)
    given = [one.bfloat16().requires_grad_() for one in (torch.randn(5, 4, 6, 4), torch.randn(3, 5, 3, 3))]
    slow = [one.detach().double().requires_grad_() for one in given]
    results = []
    for x, w in (given, slow):
        y = attribute_conv(x, w, stride=(2, 1, 1), boundary=boundary, method="spectral")
        results.append((y, *torch.autograd.grad(y.double().square().sum(), (x, w))))
    for found, expected in zip(*results, strict=True):
        near(found, expected)
