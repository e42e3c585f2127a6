"""Hue as a translation along v_1 by construction, and what follows for the class scores."""

import pytest
import torch

import hcnn
from hcnn.functional.hue import hue_matrices
from hcnn.functional.shifts import shift
from hcnn.layers import HueConv
from hcnn.layers.normalization import running
from hcnn.models.configs import MultiscaleHierarchicalCNNConfig
from hcnn.models.multiscale import MultiscaleHierarchicalCNN


def turned(x: torch.Tensor, degrees: float) -> torch.Tensor:
    matrix = hue_matrices(torch.tensor([degrees], dtype=torch.float64))[0].to(x.dtype)
    return torch.einsum("ij,njhw->nihw", matrix, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("filters", [5, 8, 16])
def test_a_turn_of_the_hue_is_a_translation(filters, boundary, training) -> None:
    torch.manual_seed(0)
    layer = HueConv(filters, channels=3, boundary=boundary, stride=2).double().train(training)
    torch.nn.init.constant_(running(layer.norm)[0], 0.3)
    torch.nn.init.normal_(layer.norm.weight)
    x = torch.randn(4, 3, 6, 10, dtype=torch.float64)
    for tau in (1, 3, -2):
        moved = layer(turned(x, 360 * tau / filters))
        error = (moved - layer(x).roll(tau, 1)).norm() / moved.norm()
        assert error < 1e-13
    assert (layer(x) - layer(x).roll(1, 1)).abs().max() > 0.1


def test_a_grey_image_has_no_hue() -> None:
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64).expand(2, 3, 6, 6)
    y = HueConv(8, channels=3).double()(x)
    torch.testing.assert_close(y, y.roll(1, 1))


def test_colours_keep_their_luminance_and_come_round() -> None:
    a, b, both, whole = hue_matrices(torch.tensor([50.0, 70.0, 120.0, 360.0]))
    torch.testing.assert_close(a @ b, both)
    torch.testing.assert_close(whole, torch.eye(3, dtype=torch.float64))
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    torch.testing.assert_close(weights @ both, weights)


def test_between_the_hues_a_translation_is_nearly_exact() -> None:
    torch.manual_seed(0)
    layer = HueConv(16, channels=3).double().eval()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = shift(layer(x), 1, 0.5)
    assert (layer(turned(x, 360 * 0.5 / 16)) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("steps", range(1, 4))
def test_scores_do_not_change_with_the_hue_where_the_shift_is_an_invariant_one(steps) -> None:
    """Proposition 3.1, at strides 2: of 16 hues every fourth."""
    torch.manual_seed(0)
    config = hcnn.HierarchicalCNNConfig(
        width=16, rank=4, depth=5, attribute_support=(3, 5), downsample=(), boundary="circular", first_attribute="hue"
    )
    model = hcnn.HierarchicalCNN(config).double()
    model(torch.randn(20, 3, 6, 6, dtype=torch.float64))  # running statistics
    model.eval()
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    period = model.invariant_shift(1, "v1")
    assert period == 4
    scores = model(x)
    torch.testing.assert_close(model(turned(x, 360 * steps * period / 16)), scores, rtol=0, atol=1e-12)
    assert (model(turned(x, 360 * 2 / 16)) - scores).abs().max() > 1e-6


def test_without_strides_scores_change_with_no_hue() -> None:
    """Proposition 3.1 to the letter."""
    torch.manual_seed(0)
    config = MultiscaleHierarchicalCNNConfig(width=5, depth=4, boundary="circular", first_attribute="hue")
    model = MultiscaleHierarchicalCNN(config).double().eval()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    for tau in range(1, 5):
        torch.testing.assert_close(model(turned(x, 72.0 * tau)), model(x), rtol=0, atol=1e-12)


def test_a_network_with_hues_folds_counts_and_refuses_grey_images() -> None:
    model = hcnn.create_model("hcnn_small_cifar10", first_attribute="hue").eval()
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(model.fold()(x), model(x), rtol=0, atol=1e-4)
    plain = hcnn.count_parameters(hcnn.create_model("hcnn_small_cifar10"))
    counts = hcnn.count_parameters(model)
    assert plain.trained - counts.trained == 7 * 27
    assert plain.composed == counts.composed
    with pytest.raises(ValueError, match="first_attribute: 'hue' needs 3 channels, RGB; got 1"):
        hcnn.create_model("hcnn_digits", first_attribute="hue")
    with pytest.raises(ValueError, match="first_attribute: expected 'learned' or 'hue'; got 'saturation'"):
        hcnn.create_model("hcnn_small_cifar10", first_attribute="saturation")
    for given in ({"channels": 4}, {}, {"channels": 3, "attribute_support": (3,)}):
        with pytest.raises(ValueError, match="HueConv: expected 3 channels, RGB, and no attribute; got channels="):
            HueConv(8, **given)
