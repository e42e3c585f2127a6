"""The law of a named attribute, on trained networks."""

import pytest
import torch

import hcnn
from hcnn.data.image_changes import change
from hcnn.data.preprocessing import Preprocessing
from hcnn.explore.bound import ScoreBound, score_bound
from hcnn.functional.shifts import shift
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


def test_the_parts_of_the_bound_are_those_of_their_formulas() -> None:
    with drawn_from(torch.Generator().manual_seed(0)):
        model = hcnn.create_model("hcnn_digits", boundary="circular").double().eval()
    x, changed = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    shifts = torch.tensor([2.5, 0.0])
    found = score_bound(model, x, changed, 3, "v3", shifts, points=3)
    (before, arrays), (after, others) = (model(one, return_arrays=True) for one in (x, changed))
    largest = []
    for n in range(2):
        start, end = shift(arrays[3].values[n], 2, float(shifts[n])), others[3].values[n]
        flat = (model.forward_from(start[None], 3)[0] - before[n]).norm()
        expected = torch.stack([(after - before)[n].norm(), (end - start).norm(), flat])
        torch.testing.assert_close(torch.stack([found.change[n], found.error[n], found.flat[n]]), expected)
        jacobians = [
            torch.autograd.functional.jacobian(
                lambda one: model.forward_from(one[None], 3)[0], torch.lerp(start, end, t)
            )
            for t in (0.0, 0.5, 1.0)
        ]
        norms = [float(torch.linalg.matrix_norm(one.flatten(1), 2)) for one in jacobians]
        assert float(found.lipschitz[n]) == pytest.approx(max(norms))
        largest.append(norms.index(max(norms)))
    assert any(largest), "the test is of no use if the norm is largest at the start of each line"
    torch.testing.assert_close(found.bound, found.lipschitz * found.error + found.flat)
