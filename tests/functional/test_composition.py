"""The two operators that compose a layer's factors, against the formulas they stand for, in float64."""

import pytest
import torch

from hcnn.functional import placement
from hcnn.functional.axes import Boundary
from hcnn.functional.composition import compose, inner_normalization


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("affine", [False, True])
def test_inner_normalization_is_its_formula_with_its_gradients(affine: bool) -> None:
    torch.manual_seed(0)
    mean, root, h, weight, bias = _random(9), _random(9, 9), _random(5, 9), _random(5), _random(5)

    def of(mean: torch.Tensor, root: torch.Tensor, h: torch.Tensor, *own: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return inner_normalization(mean, root @ root.T, h, *(own if affine else (None, None)), eps=1e-3)

    given = (mean, root, h, *((weight, bias) if affine else ()))
    scale, shift, m, variance = of(*given)
    torch.testing.assert_close(variance, torch.einsum("qp,pr,qr->q", h, root @ root.T, h).detach())
    expected = (weight if affine else 1) / (variance + 1e-3).sqrt()
    torch.testing.assert_close(scale, expected * torch.ones(5))
    torch.testing.assert_close(shift, (bias if affine else 0) - scale * m)
    assert torch.autograd.gradcheck(lambda *given: of(*given)[:2], given)


def test_inner_normalization_of_no_variance_has_finite_gradients() -> None:
    h = torch.ones(1, 1, requires_grad=True)
    scale = inner_normalization(torch.zeros(1), torch.full((1, 1), -1e-9), h, None, None, 1e-5)[0]
    scale.sum().backward()
    assert h.grad is not None
    torch.testing.assert_close(h.grad, torch.zeros(1, 1))


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("sizes", "support", "stride", "space"),
    [((4, 6), (5, 7), (2, 3), (3, 3)), ((2,), (5,), (1,), (3,)), ((), (), (), (1, 3))],
)
def test_compose_is_its_formula_with_its_gradients(
    boundary: Boundary,
    sizes: tuple[int, ...],
    support: tuple[int, ...],
    stride: tuple[int, ...],
    space: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    h, scale, shift, g = _random(5, *space), _random(5), _random(5), _random(3, 5, *support)
    w, bias = compose(h, scale, shift, g, sizes, stride, boundary)
    scaled = h * scale.view(-1, *[1] * len(space))
    torch.testing.assert_close(w, torch.tensordot(g.movedim(1, -1), scaled, dims=1))
    expected = torch.einsum("q,kq...->k...", shift, g)
    for n, k, s in zip(sizes, support, stride, strict=True):
        taps = placement(n, k, s, boundary, device=g.device, dtype=g.dtype)
        expected = torch.einsum("kt...,ot->k...o", expected, taps.sum(1))
    torch.testing.assert_close(bias, expected.movedim(0, -1))
    assert torch.autograd.gradcheck(
        lambda h, scale, shift, g: compose(h, scale, shift, g, sizes, stride, boundary), (h, scale, shift, g)
    )
