"""The law of a named attribute, on a trained network."""

import pytest
import torch

import hcnn
from hcnn.data.datasets import load
from hcnn.data.image_changes import change
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.explore.bound import ScoreBound, score_bound
from hcnn.layers.randomness import drawn_from
from hcnn.training.recipes import get_recipe
from hcnn.training.trainer import Trainer


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, float], ScoreBound]:
    """A plain and a tied network, trained briefly; brightness by amounts whose shifts are 0.5, 2 and 4 of 8 values."""
    data = load("digits")
    assert data.test is not None
    preprocessing, images = fit_preprocessing(data.train), data.test.images[:24]
    results = {}
    for name, ties in (("plain", ()), ("tied", ("brightness=v3@3:weight=3:range=-0.4..0.4:period=0.8",))):
        with drawn_from(torch.Generator().manual_seed(0)):
            model = hcnn.create_model("hcnn_digits", boundary="circular")
        recipe = get_recipe("digits", epochs=2, attributes=ties)
        Trainer(model, data.train.images, data.train.labels, preprocessing, recipe).fit()
        model = model.double().eval()
        x = preprocessing.standardize_floats(images.double() / 255)
        for amount, tau in ((0.05, 0.5), (0.2, 2.0), (0.4, 4.0)):
            brighter = preprocessing.standardize_floats(change(images, "brightness", amount).double())
            results[name, tau] = score_bound(model, x, brighter, 3, "v3", torch.full((24,), tau))
    return results


def test_scores_change_no_more_than_the_error_times_the_lipschitz_constant(found) -> None:
    for one in found.values():
        assert (one.change <= one.bound * 1.001).all()
        assert (one.change > 0).all()
    for name in ("plain", "tied"):
        assert found[name, 4.0].flat.max() < 1e-9  # a whole invariant shift: Proposition 3.1
        assert found[name, 2.0].flat.min() > 1e-6


def test_a_tie_lowers_the_error_and_with_it_the_change(found) -> None:
    for tau in (0.5, 2.0, 4.0):
        plain, tied = found["plain", tau], found["tied", tau]
        assert tied.error.mean() < plain.error.mean()
    assert found["tied", 4.0].change.mean() < found["plain", 4.0].change.mean()
