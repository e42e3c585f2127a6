"""Named recipes, and settings that are refused."""

import pytest

from hcnn.training.recipe import Recipe, learning_rate
from hcnn.training.recipes import RECIPES, get_recipe


def test_recipes_are_those_of_their_sources() -> None:
    paper, published = RECIPES["paper"], RECIPES["published"]
    assert (paper.epochs, paper.batch_size, paper.momentum, paper.weight_decay) == (240, 50, 0.9, 2e-4)
    assert [learning_rate(paper, epoch, 240) for epoch in (0, 40, 80)] == pytest.approx([0.25, 0.025, 0.0025])
    assert [learning_rate(published, epoch, 320) for epoch in (0, 279, 280, 300)] == pytest.approx(
        [0.35, 0.35 * 0.007, 0.35 * 0.00035, 0.35 * 0.00017]
    )
    assert (published.weight_decay, published.nesterov, published.augmentation.translation) == (6e-4, True, 4)
    rates = [learning_rate(RECIPES["fast"], step, 50) for step in range(50)]
    assert max(rates) == pytest.approx(RECIPES["fast"].lr)
    assert rates[-1] < 0.01 * max(rates)


def test_the_rate_rises_over_the_nearest_whole_number_of_steps() -> None:
    rates = [learning_rate(Recipe(lr=3.0, warmup=0.3), step, 9) for step in range(9)]  # 2.7 steps
    assert rates[:3] == pytest.approx([1, 2, 3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[3] < 3


@pytest.mark.parametrize(("name", "epochs"), [("wrn", 50), ("wrn", 3), ("paper", 7), ("mlperf_tiny", 30), ("wrn", 500)])
def test_a_step_schedule_is_a_function_of_the_fraction_of_training(name, epochs) -> None:
    whole, short = RECIPES[name], get_recipe(name, epochs=epochs)
    for epoch in range(epochs):
        expected = learning_rate(whole, epoch * whole.epochs // epochs, whole.epochs)
        assert learning_rate(short, epoch, epochs) == pytest.approx(expected), epoch


def test_milestones_that_are_given_stay() -> None:
    given = {"epochs": 50, "milestones": (20,), "factors": (0.1,)}
    assert get_recipe("wrn", **given).milestones == (20,)
    assert get_recipe("wrn", lr=0.2).milestones == RECIPES["wrn"].milestones
    with pytest.raises(ValueError, match="epochs: expected a whole number, 1 or more; got 0"):
        get_recipe("wrn", epochs=0)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "a whole number, 1 or more"),
        ("batch_size", True, "a whole number, 1 or more"),
        ("accumulate", 2.0, "a whole number, 1 or more"),
        ("lr", 0, "a positive number"),
        ("warmup", 1.0, r"a number in \[0, 1\)"),
        ("momentum", 1.0, r"a number in \[0, 1\)"),
        ("ema", -0.1, r"a number in \[0, 1\)"),
        ("label_smoothing", 1.0, r"a number in \[0, 1\)"),
        ("attribute_warmup", 1.0, r"a number in \[0, 1\)"),
        ("layer_decay", 0.0, "a number above 0, at most 1"),
        ("layer_decay", 1.5, "a number above 0, at most 1"),
        ("weight_decay", -1e-4, "0 or more"),
        ("topography", float("nan"), "0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(field, value, expected) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected {expected}; got {value!r}$"):
        Recipe(**{field: value})


def test_bad_recipes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"rising epochs and one factor for each; got \(5, 3\)"):
        Recipe(schedule="step", milestones=(5, 3), factors=(0.1, 0.01))
    with pytest.raises(ValueError, match="accumulate: 3 does not divide the batch size 100"):
        Recipe(accumulate=3)
    with pytest.raises(ValueError, match=r"optimizer: expected one of .*; got 'lion'"):
        Recipe(optimizer="lion")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"one for each of the image sizes \(24, 28\); got \(0.5, 0.2\)"):
        Recipe(image_sizes=(24, 28), image_sizes_until=(0.5, 0.2))
    with pytest.raises(ValueError, match=r"image_sizes_until: expected rising fractions in \(0, 1\], .*; got \(0.0,\)"):
        Recipe(image_sizes=(24,), image_sizes_until=(0.0,))
    with pytest.raises(ValueError, match=r"image_sizes: expected whole numbers of pixels, 1 or more; got \(0,\)"):
        Recipe(image_sizes=(0,), image_sizes_until=(0.5,))
    with pytest.raises(ValueError, match=r"statistics_momentum: expected a number in \(0, 1\], or None; got 0"):
        Recipe(statistics_momentum=0)
    with pytest.raises(ValueError, match=r"first_layer: expected one of .*; got 'zeros'"):
        Recipe(first_layer="zeros")  # pyright: ignore[reportArgumentType]
