"""Properties tied to attributes: what can be tied, what is learned from, and that runs remain what they were."""

import math
import re
from typing import Any

import pytest
import torch

import hcnn
from hcnn.data.augment import Augmentation
from hcnn.data.image_changes import PROPERTIES, change
from hcnn.data.preprocessing import FloatPreprocessing, Preprocessing
from hcnn.data.signal_changes import StandardizedChange, change_signal, known_properties
from hcnn.functional.shifts import shift, shift_each
from hcnn.layers.randomness import drawn_from
from hcnn.training import AttributeTie
from hcnn.training.attribute_loss import ArrayLoss, roughness, translation_losses
from hcnn.training.attribute_ties import as_ties, check_ties
from hcnn.training.distillation.config import DistillationConfig
from hcnn.training.distillation.losses import Distillation
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

COLOUR = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (8, 8), ("a", "b", "c"))


def network(seed: int = 0, **changed: Any) -> Any:
    settings = {"channels": 3, "classes": 3, "boundary": "circular", "depth": 5, "downsample": (4,), **changed}
    with drawn_from(torch.Generator().manual_seed(seed)):
        return hcnn.create_model("hcnn_digits", **settings)


def patches(n: int, seed: int = 1, channels: int = 3) -> torch.Tensor:
    """Smooth images: noise of 4 × 4 pixels, enlarged; colours between 1/4 and 3/4."""
    random = torch.Generator().manual_seed(seed)
    small = 0.25 + 0.5 * torch.rand(n, channels, 4, 4, generator=random)
    large = torch.nn.functional.interpolate(small, (8, 8), mode="bilinear")
    return (255 * large).round().to(torch.uint8)


def make(ties: Any, n: int = 48, model: Any = None, **changed: Any) -> Trainer:
    recipe = {"epochs": 2, "batch_size": 12, "lr": 0.05, "augmentation": Augmentation(translation=1), **changed}
    labels = torch.arange(n) % 3
    return Trainer(model or network(), patches(n), labels, COLOUR, Recipe(attributes=ties, **recipe), seed=3)


# ------------------------------------------------------------------------------------------------------ ties as data


def test_a_tie_is_read_from_text() -> None:
    tie = AttributeTie.parse(" position-right = v2@4:weight=0.5:range=-0.1..0.2:period=1".replace(" = ", "="))
    assert tie == AttributeTie("position right", "v2", 4, 0.5, (-0.1, 0.2), 1.0)
    assert AttributeTie.parse("blur=v2@3").period == 3.0  # twice the width of 0 … 1.5
    assert tie.shift(torch.tensor([0.5, -1.0]), 4).tolist() == [2.0, -4.0]
    assert AttributeTie.parse("position down=v3@3:range=-0.1..0.2:period=0.3").period == 0.3  # but for rounding


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hue", "attribute: expected PROPERTY=ATTRIBUTE@DEPTH, as in hue=v3@3"),
        (3, "range=-45..45:weight=0.5; got 3"),
        ("hue=v3", "expected PROPERTY=ATTRIBUTE@DEPTH"),
        ("hew=v3@3", "attribute 'hew=v3@3': property: unknown 'hew'; did you mean hue"),
        ("hue=v0@3", "attribute: expected v1, v2, …; got 'v0'"),
        ("hue=v3@0", "depth: expected a layer, 1 or more; got 0"),
        ("hue=v3@3:strength=2", "expected weight=, range=LOW..HIGH or period= once; got 'strength=2'"),
        ("hue=v3@3:weight=1:weight=2", "expected weight=, range=LOW..HIGH or period= once; got 'weight=2'"),
        ("hue=v3@3:weight=-1", "weight: expected 0 or more; got -1"),
        ("hue=v3@3:weight=nan", "weight: expected 0 or more; got nan"),
        ("hue=v3@3:range=30", "range: expected LOW..HIGH, as in -45..45; got '30'"),
        ("hue=v3@3:range=10..30", "range: expected a range that holds 0, which changes nothing; got 10 to 30"),
        ("hue=v3@3:range=0..0", "range: expected a range that holds 0, which changes nothing; got 0 to 0"),
        ("blur=v3@3:range=-1..1", "range: expected amounts of blur of 0 or more; got -1 to 1"),
        ("scale=v3@3:period=0.5", "period: expected at least the width of the range, 1"),
        ("scale=v3@3:period=0", "period: expected a positive amount of scale; got 0"),
    ],
)
def test_what_is_no_tie_is_refused_by_the_name_of_its_field(text, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AttributeTie.parse(text)


def test_a_property_is_named_by_a_word() -> None:
    with pytest.raises(ValueError, match=r"property: unknown \['hue'\]"):
        AttributeTie(["hue"], "v3", 3)  # type: ignore[arg-type]


def test_two_ties_are_of_two_properties_on_two_attributes() -> None:
    for pair in (["hue=v3@3", "scale=v3@4"], ["hue=v3@3", "hue=v2@3"]):
        with pytest.raises(ValueError, match="expected different properties on different attributes"):
            as_ties(pair)


@pytest.mark.parametrize(
    ("text", "changed", "message"),
    [
        ("hue=v3@3", {"channels": 1}, "1 channel and 2 spatial axes have no 'hue'; expected one of brightness"),
        ("tempo=v3@3", {}, "have no 'tempo'"),
        ("hue=v3@3", {"spatial_axes": 1}, "have no 'hue'; expected one of loudness"),
        ("hue=v3@3", {"boundary": "zeros"}, "expected a periodic network, in which a translation is exact"),
        ("hue=v3@5", {}, "expected a depth from 1 to 4; got 5"),
        ("hue=v4@3", {}, "expected one of v1, v2, v3 of x_3"),
        ("hue=v4@4", {"classes": 8}, "v4 of x_4 are the classes, which have no order"),
        ("hue=v1@3", {}, "expected an attribute of 4 values or more; v1 has 2 in x_3"),
    ],
)
def test_a_tie_that_a_network_cannot_learn_is_refused(text, changed, message) -> None:
    model = network(**changed)
    with pytest.raises(ValueError, match=f"attribute {text}: .*{re.escape(message)}"):
        check_ties(as_ties([text]), model, model.config.spatial_axes)


def test_a_network_without_attributes_is_refused() -> None:
    model = hcnn.create_model("resnet20_digits", channels=3, classes=3)
    with pytest.raises(ValueError, match=r"attribute hue=v3@3: expected a network with attributes; got a ResNet"):
        make(["hue=v3@3"], model=model)
    with pytest.raises(ValueError, match=r"topography: expected a network with attributes; got a ResNet"):
        make([], model=model, topography=1.0)
    with pytest.raises(ValueError, match="compile: attributes and topography look into the layers"):
        Recipe(compile=True, attributes=(AttributeTie("hue", "v3", 3),))


# ----------------------------------------------------------------------------------------------------- translations


@pytest.mark.parametrize("size", [4, 5, 8])
def test_each_array_is_translated_by_its_own_amount(size) -> None:
    x = torch.randn(5, 3, size, 2, dtype=torch.float64)
    amounts = torch.tensor([0.0, 1.0, -2.0, 0.37, -5.5])
    y = shift_each(x, 2, amounts)
    for n, amount in enumerate(amounts.tolist()):
        torch.testing.assert_close(y[n], shift(x[n], 1, amount))
    torch.testing.assert_close(shift_each(y[1:3], 2, -amounts[1:3]), x[1:3])
    with pytest.raises(ValueError, match="one amount for each of 5 arrays"):
        shift_each(x, 2, amounts[:3])


# -------------------------------------------------------------------------------------------------- changes of inputs


@pytest.mark.parametrize("name", PROPERTIES)
def test_images_change_by_their_own_amounts(name) -> None:
    x, property = patches(4).float() / 255, PROPERTIES[name]
    amounts = torch.tensor([0.0, *property.amounts[-3:]])
    together = change(x, name, amounts)
    for n, amount in enumerate(amounts.tolist()):
        # The same noise is drawn for a whole batch.
        torch.testing.assert_close(together[n], change(x, name, amount)[n], rtol=0, atol=1e-6)
    torch.testing.assert_close(together[0], x[0], rtol=0, atol=1e-5)
    assert (together[1:] - x[1:]).abs().amax((1, 2, 3)).min() > 0.01


def test_a_hue_begins_again_after_a_turn_and_lines_after_half_of_one() -> None:
    cycles = {one.name: one.cycle for one in PROPERTIES.values() if one.cycle is not None}
    assert cycles == {"hue": 360, "rotation": 180}


def test_standardized_images_change_as_their_pixels_do() -> None:
    images = patches(4)
    x = COLOUR.standardize(images)
    for name, amounts in (("hue", [10.0, -90.0, 45.0, 180.0]), ("brightness", [0.3, -0.3, 0.9, -0.9])):  # some clipped
        each = torch.tensor(amounts, dtype=torch.float64)
        expected = COLOUR.standardize_floats(change(images, name, each))
        for of_bytes in (StandardizedChange(COLOUR), StandardizedChange(COLOUR, (0.0, 16.0))):
            torch.testing.assert_close(of_bytes(x, name, each), expected)
    for low in (0.0, -16.0):  # pixels from 0 to 16, and from -16 to 0
        floats = FloatPreprocessing((low + 8,) * 3, (4.0,) * 3, (8, 8), ("a", "b"))
        changed = StandardizedChange(floats, (low, low + 16))(x, "brightness", torch.full((4,), 0.25))
        torch.testing.assert_close(changed, x + 1.0)


def test_signals_change_as_their_names_say() -> None:
    time = torch.arange(256.0)
    x = torch.sin(0.2 * time).expand(2, 1, 256)
    amounts = torch.tensor([0.5, -0.5])
    for name, property in known_properties(1, 1).items():
        y = change_signal(x, name, torch.tensor([0.0, property.amounts[-1]]))
        torch.testing.assert_close(y[0], x[0], rtol=0, atol=1e-4)
        assert (y[1] - x[1]).abs().max() > 0.01, name
    torch.testing.assert_close(change_signal(x, "loudness", amounts)[:, 0], 2 ** amounts[:, None] * x[:, 0])

    def frequency(y: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(y * torch.hann_window(256), n=4096).abs().argmax(-1) / 4096 * 2 * torch.pi

    factor = frequency(change_signal(x, "tempo", amounts))[:, 0] / frequency(x)[:, 0]
    torch.testing.assert_close(factor, 2**amounts, rtol=0.05, atol=0)
    later = change_signal(x, "position", torch.tensor([0.125, -0.125]))  # 32 samples
    torch.testing.assert_close(later[0, 0, 40:], x[0, 0, 8:-32], rtol=0, atol=1e-4)
    torch.testing.assert_close(later[1, 0, :-40], x[1, 0, 32:-8], rtol=0, atol=1e-4)
    bands = torch.randn(2, 12, 20)
    higher = change_signal(bands, "transposition", torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(higher[0, 2:], bands[0, :-2], rtol=0, atol=1e-5)
    torch.testing.assert_close(higher[1, :-1], bands[1, 1:], rtol=0, atol=1e-5)
    assert ["transposition" in known_properties(bands, 1) for bands in (7, 8)] == [False, True]
    with pytest.raises(ValueError, match="expected one of loudness"):
        change_signal(x, "hue", amounts)
    with pytest.raises(ValueError, match=r"loudness: expected signals \(n, c, time\) of floats; got torch.int64"):
        change_signal(x.long(), "loudness", amounts)


# ------------------------------------------------------------------------------------------------------- the loss


def test_pairs_are_an_image_and_its_change_by_the_amount_that_is_said() -> None:
    ties = as_ties(["hue=v3@3", "brightness=v2@3:range=-0.1..0.1"])
    loss = ArrayLoss(network(), ties, 0.0, COLOUR)
    images, index = patches(40), torch.arange(40)
    x = COLOUR.standardize(images)
    both, which, amounts = loss.pairs(x, seed=1, epoch=2, index=index)
    assert both.shape == (80, 3, 8, 8)
    assert set(which.tolist()) == {0, 1}
    first, second = both[:40], both[40:]
    unchanged = (first == x).all((1, 2, 3))
    assert 5 < unchanged.sum() < 35
    for n in range(40):
        start, end = (first[n], second[n]) if unchanged[n] else (second[n], first[n])
        assert torch.equal(start, x[n])
        amount = -float(amounts[n]) if unchanged[n] else float(amounts[n])
        low, high = ties[which[n]].bounds()
        assert low <= amount <= high
        expected = COLOUR.standardize_floats(change(images[n : n + 1], ties[which[n]].property, amount))
        torch.testing.assert_close(end, expected[0], rtol=0, atol=1e-4)
    again = loss.pairs(x[7:9], seed=1, epoch=2, index=index[7:9])
    assert torch.equal(again[0], both[[7, 8, 47, 48]])
    assert not torch.equal(loss.pairs(x, seed=1, epoch=3, index=index)[0], both)


def test_the_tie_the_amount_and_the_side_of_an_image_are_drawn_apart() -> None:
    ties = as_ties(["brightness=v3@3:range=0..0.1", "contrast=v2@3:range=0..0.5"])
    x, index = torch.zeros(1000, 3, 8, 8), torch.arange(1000)
    _, which, amounts = ArrayLoss(network(), ties, 0.0, COLOUR).pairs(x, seed=1, epoch=2, index=index)
    share = amounts.abs() / torch.tensor([0.1, 0.5])[which]
    side = (amounts > 0).double()  # the ranges have no amount below 0, so the sign is the side
    drawn = torch.stack([which.double(), share, side])
    assert (drawn.corrcoef() - torch.eye(3)).abs().max() < 0.1


def test_noise_is_drawn_for_each_image_and_epoch() -> None:
    loss = ArrayLoss(network(), as_ties(["noise=v3@3"]), 0.0, COLOUR)
    x, index = torch.zeros(300, 3, 8, 8), torch.arange(300)
    both, _, amounts = loss.pairs(x, seed=1, epoch=0, index=index)
    noise = (both[:300] + both[300:]) * 0.25 / amounts.abs().reshape(-1, 1, 1, 1).float()
    assert noise[amounts.abs() < 0.1].std().item() == pytest.approx(1, abs=0.05)  # stronger noise is clipped
    shifted = torch.stack([noise[0].flatten()[1:], noise[1].flatten()[:-1]])
    for two in (noise[:2].flatten(1), shifted):
        assert two.corrcoef()[0, 1].abs() < 0.3
    assert torch.equal(both, loss.pairs(x, seed=1, epoch=0, index=index)[0])


def test_the_error_is_0_for_the_translation_and_1_for_the_mean() -> None:
    x = torch.randn(400, 4, 8)
    by = torch.full((400,), 1.5)
    moved = shift_each(x, 2, by)
    assert float(translation_losses(moved, x, 2, by)[0]) < 1e-6
    constant = x.mean((0, 2), keepdim=True).expand_as(x)
    assert float(translation_losses(moved, constant, 2, by)[0]) == pytest.approx(1, abs=0.01)
    assert float(translation_losses(moved, x, 2, 0 * by)[0]) > 1
    weight = (torch.arange(400) < 200).float()
    half = torch.cat([moved[:200], x[200:]])
    assert float(translation_losses(half, x, 2, by, weight=weight)[0]) < 1e-6


def test_images_of_no_weight_have_no_losses() -> None:
    x, y = torch.randn(2, 30, 4, 8)
    y.requires_grad_()
    error, entropy = translation_losses(y, x, 2, torch.ones(30), weight=torch.zeros(30))
    assert (error.item(), entropy.item()) == (0, 0)
    (error + entropy).backward()
    assert y.grad is not None
    assert not y.grad.any()


def test_the_losses_are_those_of_their_formulas() -> None:
    x, y = torch.randn(2, 30, 4, 8, 3)
    by, weight = 4 * torch.rand(30), (torch.arange(30) < 10).float()
    moved = shift_each(x, 2, by)
    for others, shifts in (([], [(0, s) for s in range(8)]), ([1], [(r, s) for s in range(8) for r in range(4)])):
        distances = torch.stack([(y - moved.roll(one, (1, 2))).square().sum((1, 2, 3)) for one in shifts], 1)
        entropy = -(-distances / (0.5 * distances.mean(1, keepdim=True))).log_softmax(1)[:, 0]
        spread = (y - y.mean(0)).square().sum((1, 2, 3))
        for some, given in ((slice(None), None), (slice(10), weight)):
            error, cross = translation_losses(y, x, 2, by, others, given)
            torch.testing.assert_close(error, distances[some, 0].sum() / spread[some].sum(), rtol=1e-4, atol=0)
            torch.testing.assert_close(cross, entropy[some].mean(), rtol=1e-4, atol=0)


def test_the_cross_entropy_sees_constants_at_any_scale_where_the_error_does_not() -> None:
    still, varied = torch.zeros(50), torch.randn(50, 4, 8)
    flat = torch.randn(50, 4, 1).expand(50, 4, 8)
    for scale in (1e-2, 1.0, 1e3):
        error, entropy = translation_losses(scale * flat, scale * flat, 2, still)
        assert float(error) < 1e-6
        assert float(entropy) == pytest.approx(math.log(8), abs=1e-3)
        both = scale * (10 * flat + varied)
        alone = float(translation_losses(varied, varied, 2, still)[1])
        assert float(translation_losses(both, both, 2, still)[1]) == pytest.approx(alone, rel=1e-2)
        assert alone < math.log(8) / 3


def test_arrays_that_differ_by_rounding_alone_have_losses_of_ordinary_size() -> None:
    same = 100 + 1e-6 * torch.randn(40, 4, 8)
    same.requires_grad_()
    error, entropy = translation_losses(same, same.detach(), 2, torch.zeros(40))
    (error + entropy).backward()
    assert error.item() < 10
    assert entropy.item() == pytest.approx(math.log(8), abs=0.1)
    assert same.grad is not None
    assert same.grad.abs().max().item() < 10


def test_translations_along_another_tied_attribute_compete() -> None:
    place = torch.arange(8)
    waves = torch.randn(20, 8)[:, (place[:, None] + place) % 8]  # a translation along one axis is one along the other
    tie = AttributeTie("hue", "v3", 3)
    by, still = torch.full((20,), 3.0), torch.zeros(20, dtype=torch.int64)
    values = {}
    for name, ties in (("alone", (tie,)), ("both", (tie, AttributeTie("brightness", "v2", 3)))):
        loss = ArrayLoss(network(width=16, attribute_support=(3, 3)), ties, 0.0, COLOUR)
        array = waves.reshape(20, 1, 8, 8, 1, 1).repeat(1, 1, 1, 2, 1, 1)
        moved = shift_each(array, 3, tie.shift(by.double(), 16).float())
        loss._kept[3] = torch.cat([moved, array])
        values[name] = float(loss.loss(still, by.double())[0])
    assert values["both"] > values["alone"] + 1


def _loss_of_noise(*ties: AttributeTie, which: torch.Tensor) -> float:
    """The loss of random arrays of x_2 and x_3, whose images drew these ties."""
    loss, random = ArrayLoss(network(attribute_support=(3, 3), width=16), ties, 0.0, COLOUR), torch.Generator()
    random.manual_seed(0)
    for depth, sizes in ((2, (4, 8)), (3, (4, 8, 16))):
        loss._kept[depth] = torch.randn(2 * len(which), *sizes, 2, 2, generator=random)
    return float(loss.loss(which, torch.linspace(-0.3, 0.3, len(which), dtype=torch.float64))[0])


def test_ties_count_by_their_weights() -> None:
    def value(hue: float, brightness: float) -> float:
        ties = (AttributeTie("hue", "v3", 3, hue), AttributeTie("brightness", "v2", 3, brightness))
        return _loss_of_noise(*ties, which=torch.arange(20) % 2)

    assert value(2, 2) == pytest.approx(2 * value(1, 1), rel=1e-4)
    assert value(2, 1) + value(1, 2) == pytest.approx(3 * value(1, 1), rel=1e-4)


@pytest.mark.parametrize("other", [AttributeTie("brightness", "v2", 3, 0.0), AttributeTie("brightness", "v1", 2)])
def test_translations_of_weight_0_or_of_another_layer_do_not_compete(other) -> None:
    hue, none = AttributeTie("hue", "v3", 3), torch.zeros(20, dtype=torch.int64)  # all images drew the first tie
    assert _loss_of_noise(hue, other, which=none) == pytest.approx(_loss_of_noise(hue, which=none), rel=1e-4)


def test_a_tie_asks_for_its_translation_among_others_in_the_mean_over_the_oldest_attribute_too() -> None:
    ties = (AttributeTie("hue", "v3", 3), AttributeTie("brightness", "v2", 3))
    loss, amounts = ArrayLoss(network(attribute_support=(3, 3), width=16), ties, 0.0, COLOUR), torch.full((20,), 90.0)
    changed, arrays = torch.randn(2, 20, 4, 8, 16, 2, 2)
    loss._kept[3] = torch.cat([changed, arrays])
    total, _ = loss.loss(torch.zeros(20, dtype=torch.int64), amounts)
    parts = [
        translation_losses(changed, arrays, 3, amounts * 16 / 360, [2]),
        translation_losses(changed.mean(1), arrays.mean(1), 2, amounts * 16 / 360, [1]),
    ]
    assert float(total) == pytest.approx(sum(float(entropy + 0.3 * error) for error, entropy in parts), rel=1e-4)


def test_arrays_turn_in_space_with_their_images() -> None:
    tie, amounts = AttributeTie("rotation", "v3", 3), torch.full((20,), 90.0, dtype=torch.float64)
    loss = ArrayLoss(network(attribute_support=(3, 3), width=16), (tie,), 0.0, COLOUR)
    x = torch.randn(20, 4, 8, 16, 4, 4)
    turned = shift_each(torch.rot90(x, 1, (-2, -1)), 3, tie.shift(amounts, 16))
    loss._kept[3] = torch.cat([turned, x])
    assert loss.loss(torch.zeros(20, dtype=torch.int64), amounts)[1].item() < 1e-6


@pytest.mark.parametrize(
    ("sides", "kept"), [((64, 64), 8), ((32, 32), 8), ((16, 16), 16), ((8, 64), 8), ((20, 40), 10)]
)
def test_of_large_arrays_some_places_are_left_out(sides, kept) -> None:
    loss = ArrayLoss(network(), as_ties(["hue=v3@3"]), 0.0, COLOUR)
    assert loss._fewer_places(torch.zeros(2, 3, 4, *sides)).shape == (2, 3, 4, kept, sides[1])


@pytest.mark.parametrize(("attribute", "sees"), [("v3", True), ("v1", False)])
def test_changes_that_cancel_in_the_mean_over_the_oldest_attribute_are_an_error(attribute, sees) -> None:
    tie = AttributeTie("hue", attribute, 3)
    loss = ArrayLoss(network(attribute_support=(3, 3), width=16), (tie,), 0.0, COLOUR)
    amounts = torch.full((20,), 90.0, dtype=torch.float64)
    dim = 3 if attribute == "v3" else 1
    x = torch.randn(20, 4, 8, 16, 2, 2)
    unlike = x - x.mean(1, keepdim=True)  # its mean over v_1 is 0

    def value(arrays: torch.Tensor, noise: float = 0.1) -> float:
        moved = shift_each(arrays, dim, tie.shift(amounts, arrays.shape[dim]))
        loss._kept[3] = torch.cat([moved + noise * torch.randn_like(moved), arrays])
        return float(loss.loss(torch.zeros(20, dtype=torch.int64), amounts)[0])

    alike, cancelling = value(x), value(unlike)
    assert alike < value(x, noise=0.0) + 0.1  # the cross-entropy of random arrays is not 0
    assert (cancelling > alike + 1) is sees


@pytest.mark.parametrize("readout", ["mean", "linear"])
def test_the_penalty_is_on_ordered_attributes_of_what_each_layer_returns(readout) -> None:
    model = network(classes=8, readout=readout, width=16, attribute_support=(3, 3))
    loss, expected = ArrayLoss(model, (), 1.0, COLOUR), []
    with torch.no_grad(), loss.watching():
        model(torch.randn(6, 3, 8, 8))
    for depth, array in sorted(loss._outputs.items()):
        for axis in range(array.ndim - 3, 0, -1):  # the axes are (b, *v, u1, u2)
            classes = readout == "mean" and depth == len(model.layers) and axis == array.ndim - 3
            if array.shape[axis] >= 4 and not classes:
                expected.append(float(roughness(array, axis)))
    assert sorted(loss._outputs) == [1, 2, 3, 4]
    assert len(expected) == (8 if readout == "linear" else 7)
    assert float(loss.loss()[0]) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_roughness_is_that_of_the_explorer() -> None:
    from hcnn.explore.statistics import roughness as measured

    x = torch.randn(30, 4, 8).cumsum(2)
    top, bottom = measured(x, 2).mean(1)
    assert float(roughness(x, 2)) == pytest.approx(float(top / bottom), rel=1e-5)
    assert float(roughness(torch.randn(3000, 4, 8), 2)) == pytest.approx(1, abs=0.01)


def test_only_the_tied_layers_see_the_counterparts() -> None:
    trainer = make(["hue=v3@3"])
    seen: dict[int, int] = {}
    depths = {layer: j for j, layer in enumerate(trainer.model.get_submodule("layers").children(), 1)}
    for layer in depths:
        layer.register_forward_pre_hook(lambda module, inputs: seen.update({depths[module]: len(inputs[0])}))
    next(iter(trainer.run()))
    assert seen == {1: 24, 2: 24, 3: 24, 4: 12}
    with torch.no_grad():
        assert trainer.model(torch.randn(6, 3, 8, 8)).shape == (6, 3)  # nothing is cut outside of a step


@pytest.mark.parametrize("ties", [["hue=v3@3"], ["hue=v3@3", "scale=v2@2"]])
def test_the_tied_error_falls(ties) -> None:
    trainer = make(ties, n=120, epochs=24)
    rows = trainer.fit()
    for tie in ties:
        errors = [row[f"equivariance_error {tie}"] for row in rows]
        assert errors[-1] < 0.5 * errors[0]


def test_parts_of_a_batch_in_which_no_image_drew_a_tie_do_not_count() -> None:
    ties, seen = ["hue=v3@3", "scale=v2@2"], {0: [], 1: []}
    trainer = make(ties, n=27, epochs=2, batch_size=6, accumulate=3)
    assert trainer.arrays is not None
    measure = trainer.arrays.loss

    def record(which: torch.Tensor, amounts: torch.Tensor) -> Any:
        total, errors = measure(which, amounts)
        for number in set(which.tolist()):
            seen[number].append(errors[number].item())
        return total, errors

    trainer.arrays.loss = record  # pyright: ignore[reportAttributeAccessIssue]
    for progress in trainer.run():
        if not (row := progress.epoch_done):
            continue
        assert all(0 < len(errors) < 12 for errors in seen.values()), "the test is of no use if no part lacks a tie"
        for tie, errors in zip(ties, seen.values(), strict=True):
            assert row[f"equivariance_error {tie}"] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
            errors.clear()


def test_a_tie_that_no_image_of_an_epoch_drew_has_no_error() -> None:
    trainer = make([f"{name}=v{j}@{j}" for j, name in ((2, "hue"), (3, "scale"))], n=2, epochs=8, batch_size=2)
    numbers = {len([name for name in row if name.startswith("equivariance_error")]) for row in trainer.fit()}
    assert numbers == {1, 2}


def test_the_topographic_penalty_makes_neighbours_alike() -> None:
    def measured(topography: float) -> float:
        trainer = make([], n=120, epochs=6, topography=topography)
        trainer.fit()
        x = COLOUR.standardize(patches(40, seed=9))
        with torch.no_grad():
            _, arrays = trainer.model(x, return_arrays=True)
        return float(roughness(arrays[3].values.mean(1), 2))

    assert measured(2.0) < 0.6 * measured(0.0)


def test_weight_0_is_augmentation_alone_and_warmup_begins_small() -> None:
    plain, tied, warm = (
        make([f"hue=v3@3:weight={weight}"], attribute_warmup=warmup)
        for weight, warmup in ((0, 0.0), (1, 0.0), (1, 0.999))
    )
    states = []
    for trainer in (plain, tied, warm):
        next(iter(trainer.run()))
        states.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    full, little = ((one - states[0]).norm() for one in states[1:])
    assert 0 < little < 0.5 * full


@pytest.mark.parametrize("changed", [{}, {"accumulate": 2, "ema": 0.5}])
def test_a_resumed_run_has_the_same_bits(changed) -> None:
    ties = ["hue=v3@3", "noise=v2@2"]
    whole, first, second = (make(ties, **changed) for _ in range(3))
    rows = whole.fit()
    for progress in first.run():
        if progress.step == 3:
            break
    torch.manual_seed(99)
    second.load_state(first.state())
    assert second.fit()[-1] == rows[-1]
    expected, actual = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(actual[key], value) for key, value in expected.items())


def test_ties_compose_with_a_teacher() -> None:
    config = DistillationConfig(attention=10.0, soft_targets=0.5, pairs=("layers.1=layers.1", "layers.3=layers.3"))
    student, teacher = network(), network(7)
    distillation = Distillation(teacher, student, COLOUR, COLOUR, config)
    recipe = Recipe(epochs=2, batch_size=12, lr=0.05, attributes=(AttributeTie("hue", "v3", 3),))
    trainer = Trainer(
        student, patches(48), torch.arange(48) % 3, COLOUR, recipe, seed=3, distillation=distillation
    )  # fmt: skip
    rows = trainer.fit()
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_tie_of_signals_is_learned() -> None:
    preprocessing = FloatPreprocessing((0.0,), (1.0,), (64,), ("a", "b", "c"))
    random = torch.Generator().manual_seed(0)
    phase = 2 * torch.pi * torch.rand(120, 1, 1, generator=random)
    pitch = 0.3 + 0.3 * torch.rand(120, 1, 1, generator=random)
    signals = torch.sin(pitch * torch.arange(64.0) + phase) * (1 + torch.rand(120, 1, 1, generator=random))
    for tie in ("tempo=v3@3", "loudness=v3@3"):
        model = network(channels=1, spatial_axes=1)
        recipe = Recipe(epochs=6, batch_size=12, lr=0.05, attributes=(AttributeTie.parse(tie),))
        rows = Trainer(model, signals, torch.arange(120) % 3, preprocessing, recipe).fit()
        errors = [row[f"equivariance_error {tie}"] for row in rows]
        assert errors[-1] < 0.5 * errors[0], tie
