"""The law of a named attribute, on trained networks."""

import pytest
import torch

import hcnn
from hcnn.data.image_changes import change
from hcnn.data.preprocessing import Preprocessing
from hcnn.explore.bound import ScoreBound, score_bound
from hcnn.layers.randomness import drawn_from
from hcnn.training.attribute_ties import AttributeTie
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

PLAIN = Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (8, 8), ("a", "b", "c"))


def patches(n: int, seed: int) -> torch.Tensor:
    """Smooth colours between 1/4 and 3/4, which no turn of the hue clips by much."""
    small = 0.25 + 0.5 * torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (255 * torch.nn.functional.interpolate(small, (8, 8), mode="bilinear")).round().to(torch.uint8)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, float], ScoreBound]:
    """A plain network and one whose hue is tied to v3, for hues turned by 22.5, 90 and 180 degrees."""
    images, labels, fresh = patches(120, 1), torch.arange(120) % 3, patches(24, 2)
    results = {}
    for name, ties in (("plain", ()), ("tied", (AttributeTie("hue", "v3", 3),))):
        with drawn_from(torch.Generator().manual_seed(0)):
            model = hcnn.create_model(
                "hcnn_digits", channels=3, classes=3, depth=5, downsample=(4,), boundary="circular"
            )
        Trainer(model, images, labels, PLAIN, Recipe(epochs=8, batch_size=12, lr=0.05, attributes=ties)).fit()
        model = model.double().eval()
        x = PLAIN.standardize_floats(fresh.double() / 255)
        for tau in (0.5, 2.0, 4.0):
            turned = PLAIN.standardize_floats(change(fresh, "hue", 45 * tau).double())
            results[name, tau] = score_bound(model, x, turned, 3, "v3", torch.full((24,), tau))
    return results


def test_scores_change_no_more_than_the_error_times_the_lipschitz_constant(found) -> None:
    for one in found.values():
        assert (one.change <= one.bound * 1.001).all()
        assert (one.change > 0).all()
    for name in ("plain", "tied"):
        assert found[name, 4.0].flat.max() < 1e-9  # a whole invariant shift: Proposition 3.1
        assert found[name, 0.5].flat.min() > 1e-6


def test_a_tie_lowers_the_error(found) -> None:
    for tau in (0.5, 2.0, 4.0):
        assert found["tied", tau].error.mean() < 0.7 * found["plain", tau].error.mean()
