"""The training loop by itself: called plainly, in threads, and on what cannot be learned."""

import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import hcnn
from hcnn.data.augment import Augmentation
from hcnn.data.preprocessing import Preprocessing
from hcnn.layers.randomness import drawn_from
from hcnn.training.first_step import check_batch
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

RECIPE = Recipe(epochs=2, batch_size=6, lr=0.05, augmentation=Augmentation(translation=1), ema=0.5)


def make(network: str | nn.Module, seed: int = 0, **changed: Any) -> Trainer:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (18, 1, 8, 8), dtype=torch.uint8, generator=random)
    labels = torch.arange(18) % 3
    with drawn_from(torch.Generator().manual_seed(seed)):
        model = hcnn.create_model(network, classes=3) if isinstance(network, str) else network
    preprocessing = Preprocessing((0.5,), (0.25,), (8, 8), ("a", "b", "c"))
    arguments = {"images": images, "labels": labels, "recipe": RECIPE, "seed": seed, **changed}
    return Trainer(model, preprocessing=preprocessing, **arguments)


def test_fit_trains_to_the_end_and_leaves_the_weights_of_the_result() -> None:
    stepwise, plain = make("hcnn_digits"), make("hcnn_digits")
    rows = [progress.epoch_done for progress in stepwise.run() if progress.epoch_done]
    steps: list[int] = []
    assert plain.fit(lambda progress: steps.append(progress.step)) == rows
    assert steps == [*range(1, 7)]
    assert not plain.model.training
    expected, actual = stepwise.result_state(), plain.model.state_dict()
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    assert any(not torch.equal(stepwise.model.state_dict()[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["hcnn_digits", "nin_digits"])  # the second draws dropout
def test_threads_with_one_seed_get_the_same_bits_and_nothing_is_drawn_globally(name) -> None:
    alone = make(name)
    alone.fit()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trainers = [make(name) for _ in range(2)] + [make(name, seed=1)]
    threads = [threading.Thread(target=trainer.fit) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    first, second, other = (trainer.model.state_dict() for trainer in trainers)
    expected = alone.model.state_dict()
    assert all(torch.equal(first[key], value) and torch.equal(second[key], value) for key, value in expected.items())
    assert any(not torch.equal(other[key], value) for key, value in expected.items())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # these two of inductor's own
@pytest.mark.filterwarnings("ignore:.*torch._prims_common.check.*:FutureWarning")
@pytest.mark.parametrize(
    ("drop", "compile"),
    [(nn.Dropout, False), (nn.Dropout, True), (nn.Dropout2d, False), (nn.AlphaDropout, False)],
)
def test_a_resumed_run_with_dropout_has_the_same_bits_and_nothing_is_drawn_globally(drop, compile) -> None:
    def start() -> Trainer:
        with drawn_from(torch.Generator().manual_seed(0)):
            model: Any = hcnn.create_model("nin_digits", classes=3)
        model.drop = drop(0.3)
        trainer = make(model, recipe=replace(RECIPE, compile=compile))
        if compile:  # which draws as inductor does, and compiles faster
            trainer.forward = torch.compile(trainer.model, backend="aot_eager")
        return trainer

    whole, first, second = start(), start(), start()
    whole.fit()
    for progress in first.run():
        if progress.step == 4:
            break
    state = first.state()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second.load_state(state)
    second.fit()
    assert torch.equal(torch.get_rng_state(), before)
    expected = whole.model.state_dict()
    assert all(torch.equal(second.model.state_dict()[key], value) for key, value in expected.items())


def test_small_images_come_first_and_a_run_resumed_among_them_has_the_same_bits() -> None:
    recipe = replace(RECIPE, image_sizes=(4, 6), image_sizes_until=(0.3, 0.6), first_layer="whitening")
    whole, first = make("hcnn_digits", recipe=recipe), make("hcnn_digits", recipe=recipe)
    sizes: list[int] = []
    whole.model.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-1]))
    whole.fit()
    assert sizes == [4, 4, 6, 6, 8, 8]
    for progress in first.run():
        if progress.step == 3:
            break
    second = make("hcnn_digits", recipe=recipe)
    second.load_state(first.state())
    second.fit()
    expected = whole.model.state_dict()
    assert all(torch.equal(second.model.state_dict()[key], value) for key, value in expected.items())


def test_small_images_keep_their_proportions_and_are_never_larger() -> None:
    recipe = replace(RECIPE, image_sizes=(4, 6, 20), image_sizes_until=(0.3, 0.6, 0.8), first_layer="random")
    images = torch.randint(0, 256, (18, 1, 6, 12), dtype=torch.uint8)
    trainer = make("hcnn_digits", recipe=recipe, images=images)
    sizes: list[tuple[int, ...]] = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    trainer.fit()
    assert sizes == [(2, 4), (2, 4), (3, 6), (3, 6), (6, 12), (6, 12)]


def test_a_later_size_that_is_too_small_is_refused_before_training() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    recipe = replace(RECIPE, image_sizes=(6, 4), image_sizes_until=(0.3, 0.6))
    with pytest.raises(ValueError, match=r"the network does not fit images of shape \(1, 4, 4\)"):
        make(network, recipe=recipe)


def linear() -> nn.Module:
    """A network without normalization, whose images do not depend on each other."""
    with drawn_from(torch.Generator().manual_seed(2)):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_a_batch_in_parts_takes_the_steps_of_a_whole_one() -> None:
    whole, parts = (make(linear(), recipe=replace(RECIPE, accumulate=count)) for count in (1, 3))
    for expected, row in zip(whole.fit(), parts.fit(), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value)


@pytest.mark.parametrize("weights", [None, torch.linspace(0.5, 1.5, 18)])
def test_loss_and_accuracy_of_an_epoch_are_those_of_their_formulas(weights) -> None:
    recipe = Recipe(epochs=1, batch_size=6, lr=1e-12, label_smoothing=0.3)  # too small a rate to change anything
    trainer = make(linear(), recipe=recipe, weights=weights)
    labels = trainer.source.labels
    with torch.no_grad():
        logits = trainer.model(trainer.preprocessing.standardize(trainer.source.images))
    losses = nn.functional.cross_entropy(logits, labels, label_smoothing=0.3, reduction="none")
    [row] = trainer.fit()
    assert row["loss"] == pytest.approx(float((losses if weights is None else losses * weights).mean()), rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_a_recipe_sets_the_momentum_of_the_statistics_or_leaves_it() -> None:
    def momenta(trainer: Trainer) -> set[float | None]:
        return {module.momentum for module in trainer.model.modules() if isinstance(module, nn.BatchNorm1d)}

    assert momenta(make("hcnn_digits")) == {0.1}
    assert momenta(make("hcnn_digits", recipe=replace(RECIPE, statistics_momentum=0.4))) == {0.4}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.zeros(18, dtype=torch.int64)}, "at least two classes; all 18 are of class 'a'"),
        ({"images": torch.zeros(18, 1, 8, 8, dtype=torch.uint8)}, "all 18 have the same constant colour"),
        ({"images": torch.zeros(5, 1, 8, 8, dtype=torch.uint8), "labels": torch.arange(5) % 3}, "6 is more than the 5"),
        (
            {"labels": torch.arange(17) % 3},
            r"labels: expected int64 \(18,\), one per image; got torch.int64 .* \(17,\)",
        ),
        ({"labels": torch.arange(18) % 4}, "labels: expected 0 to 2, as there are classes; got 0 to 3"),
        ({"labels": torch.arange(18) % 3 - 1}, "labels: expected 0 to 2, as there are classes; got -1 to 1"),
        ({"images": torch.zeros(18, 1, 8, 8).numpy()}, "images: expected a tensor; got a ndarray"),
        ({"weights": torch.arange(18.0)}, "weights: expected positive, finite numbers"),
        ({"weights": torch.ones(17)}, r"weights: expected a tensor \(18,\), one per image; got \(17,\)"),
        ({"weights": [1.0] * 18}, r"weights: expected a tensor \(18,\), one per image; got a list"),
        ({"labels": [0, 1, 2] * 6, "weights": torch.ones(18)}, "labels: expected a tensor; got a list"),
        ({"recipe": "digits"}, r"recipe: expected a Recipe, such as get_recipe\('fast'\); got 'digits'"),
        ({"seed": -1}, "seed: expected a whole number, 0 or more; got -1"),
    ],
)
def test_what_cannot_be_learned_is_refused(changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        make("hcnn_digits", **changed)


def test_a_network_that_is_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="model: expected parameters that learn; all of them are frozen"):
        make(linear().requires_grad_(False))


@pytest.mark.parametrize(
    ("processes", "accumulate", "mixed", "message"),
    [
        (4, 1, {}, "6 does not divide into 4 processes times 1 accumulated parts"),
        (
            1,
            2,
            {"mixup": 0.2},
            "1 processes times 2 accumulated parts of 6 images have 3 each; expected a multiple of 4",
        ),
        (2, 3, {"cutmix": 1.0}, "2 processes times 3 accumulated parts of 6 images have 1 each; .* a multiple of 12"),
        (
            2,
            1,
            {"mixup": 0.2},
            "2 processes times 1 accumulated parts of 6 images have 3 each; expected a multiple of 4",
        ),
        (1, 3, {"mixup": 0.2, "cutmix": 1.0}, None),
        (2, 1, {}, None),
    ],
)
def test_parts_of_a_batch_are_equal_and_leave_no_image_unmixed(processes, accumulate, mixed, message) -> None:
    recipe = replace(RECIPE, accumulate=accumulate, augmentation=Augmentation(**mixed))
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        check_batch(recipe, 18, processes)
    if processes == 1:
        with nullcontext() if message is None else pytest.raises(ValueError, match=message):
            make("hcnn_digits", recipe=recipe)


def test_one_part_of_odd_length_is_mixed_but_for_its_last_image() -> None:
    check_batch(replace(RECIPE, batch_size=5, augmentation=Augmentation(mixup=0.2)), 18, 1)


def test_a_state_that_is_none_is_refused_and_changes_nothing() -> None:
    trainer = make("hcnn_digits")
    for state in ({}, dict(trainer.model.state_dict())):
        with pytest.raises(ValueError, match=r"load_state: expected what `state` returns; without .*step"):
            trainer.load_state(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer.load_state({**make(hcnn.create_model("hcnn_digits", classes=3, width=4)).state(), "step": 2})
    assert trainer.step == 0


def test_trying_a_step_changes_nothing() -> None:
    trainer = make("hcnn_digits")
    with drawn_from(torch.Generator().manual_seed(0)):
        fresh = hcnn.create_model("hcnn_digits", classes=3)
    assert all(torch.equal(trainer.model.state_dict()[key], value) for key, value in fresh.state_dict().items())
    assert trainer.model.training


def test_a_network_of_other_classes_is_refused() -> None:
    trainer = make("hcnn_digits")
    with pytest.raises(ValueError, match=r"expected logits \(2, 3\) of 2 images; got \(2, 10\)"):
        Trainer(
            hcnn.create_model("hcnn_digits"),
            trainer.source.images,
            trainer.source.labels,
            trainer.preprocessing,
            trainer.recipe,
        )
