"""Named recipes, and settings that are refused."""

import pytest

from hcnn.training.recipe import Recipe, learning_rate
from hcnn.training.recipes import RECIPES


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


def test_bad_recipes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"rising epochs and one factor for each; got \(5, 3\)"):
        Recipe(schedule="step", milestones=(5, 3), factors=(0.1, 0.01))
    with pytest.raises(ValueError, match="accumulate: 3 does not divide the batch size 100"):
        Recipe(accumulate=3)
    with pytest.raises(ValueError, match=r"optimizer: expected one of .*; got 'lion'"):
        Recipe(optimizer="lion")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"one for each of the image sizes \(24, 28\); got \(0.5, 0.2\)"):
        Recipe(image_sizes=(24, 28), image_sizes_until=(0.5, 0.2))
    with pytest.raises(ValueError, match=r"image_sizes: expected whole numbers of pixels, 1 or more; got \(0,\)"):
        Recipe(image_sizes=(0,), image_sizes_until=(0.5,))
    with pytest.raises(ValueError, match=r"statistics_momentum: expected a number in \(0, 1\], or None; got 0"):
        Recipe(statistics_momentum=0)
    with pytest.raises(ValueError, match=r"first_layer: expected one of .*; got 'zeros'"):
        Recipe(first_layer="zeros")  # pyright: ignore[reportArgumentType]
