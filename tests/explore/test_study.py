"""Statistics with a planted answer: what is there must be found, and what is not must not."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hcnn
from hcnn.data.datasets import load
from hcnn.data.image_changes import PROPERTIES, change, changed_inputs, properties_for
from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import Preprocessing, fit_preprocessing
from hcnn.explore import (
    Arrays,
    AttributeSource,
    ChannelSource,
    channels_like,
    explore_images,
    shift,
    shuffled_orders,
    smooth,
    untrained_like,
)
from hcnn.explore.findings import findings
from hcnn.explore.meaning import Fit, Meaning, best_shifts, correlations, meanings, shift_grid
from hcnn.explore.orders import OrderTest, order_test
from hcnn.explore.statistics import (
    Bootstrap,
    Questions,
    class_consistency,
    estimate,
    flatness,
    path_distances,
    roughness,
)
from hcnn.explore.study import Study, StudySettings, run_study
from hcnn.explore.tables import (
    CHANGE,
    CONSISTENCY,
    Row,
    Tables,
    consistency_table,
    flatness_table,
    implied_shifts,
    path_table,
)
from hcnn.explore.verdicts import judge, property_table
from hcnn.runs.load import Run, load_named

EMPTY = ("contrasts", "orders", "properties")
PLAIN = Preprocessing((0.5,), (0.25,), (8, 8), ("a", "b"))


class Planted(nn.Module):
    """A network one of whose attributes is the brightness of the image: a bump that moves along it by 5 per unit."""

    def __init__(self, axis: str, order: list[int] | None = None, moves: float = 5.0) -> None:
        super().__init__()
        self.size, self.axis, self.order, self.moves = (4 if axis == "v2" else 8), axis, order, moves
        self.layer, self.readout = nn.Identity(), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean((1, 2, 3)) * 0.25 + 0.5
        place = torch.arange(self.size) - self.moves * brightness[:, None]
        bump = torch.exp(torch.cos(2 * math.pi / self.size * place))  # (b, size)
        if self.order is not None:
            bump = bump[:, self.order]
        # The rest differs from image to image, but not with brightness.
        other = 1 + 0.5 * torch.tanh(x[:, 0, :, : 8 if self.axis == "v2" else 4].std(1))
        values = bump[:, :, None] * other[:, None] if self.axis == "v2" else other[:, :, None] * bump[:, None]
        channels = torch.stack([values, 2 * values], 1).flatten(1)  # v1, v2, v3
        return self.readout(self.layer(channels[:, :, None, None].expand(-1, -1, 2, 2)).mean((2, 3)))


def _source(net: nn.Module) -> ChannelSource:
    return ChannelSource(net.eval(), {3: "layer"}, {3: (2, 4, 8)})


def _pixels(n: int = 60) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randint(95, 160, (n, 1, 8, 8), dtype=torch.uint8, generator=random)


def _found(trained: nn.Module) -> set[tuple[str, str]]:
    torch.manual_seed(0)
    sources = {"trained": _source(trained), "untrained": _source(Planted("v3", moves=0.0))}
    rows = property_table(sources, _pixels(), PLAIN, Bootstrap(60, 500), orders=4)
    assert len(rows) == 2 * len(properties_for(1))
    return {(row["attribute"], row["property"]) for row in rows if row["verdict"] == "found"}


@pytest.mark.parametrize("axis", ["v2", "v3"])
def test_an_attribute_that_is_a_property_is_found_and_only_there(axis) -> None:
    assert _found(Planted(axis)) == {(axis, "brightness")}


@pytest.mark.parametrize(("axis", "size"), [("v2", 4), ("v3", 8)])
def test_the_same_attribute_in_a_shuffled_order_is_not_found(axis, size) -> None:
    for order in shuffled_orders(size, 3, seed=5):
        assert _found(Planted(axis, order)) == set()


def test_the_found_shift_has_the_planted_size() -> None:
    images, net = _pixels(), Planted("v3")
    source = _source(net)
    arrays = [
        source.read(changed_inputs(images, "brightness", a, PLAIN), "centre")[1][3].mean(1) for a in (0, -0.2, 0.3)
    ]
    fit = best_shifts(arrays[0], torch.stack(arrays[1:], 1), -1)
    torch.testing.assert_close(fit.shift, torch.tensor([-1.0, 1.5], dtype=torch.float64).expand(60, 2))
    assert float((fit.explained / fit.total).min()) > 0.99


@pytest.mark.parametrize("size", [4, 5])  # the highest frequency of an even axis has no phase
def test_best_shifts_are_those_of_a_slow_search(size) -> None:
    x, y = torch.randn(6, size, 8, dtype=torch.float64), torch.randn(6, 3, size, 8, dtype=torch.float64)
    for dim in (-1, -2):
        fit = best_shifts(x, y, dim)
        a, b = smooth(x, dim), smooth(y, dim)
        gaps = torch.stack([(b - shift(a, dim, t)[:, None]).square().sum((2, 3)) for t in shift_grid(x.shape[dim])])
        best = gaps.argmin(0)
        torch.testing.assert_close(fit.shift, torch.tensor(shift_grid(x.shape[dim]), dtype=torch.float64)[best])
        torch.testing.assert_close(fit.total, (b - a[:, None]).square().sum((2, 3)))
        torch.testing.assert_close(fit.explained, fit.total - gaps.min(0).values)


def test_correlations_are_those_of_numpy_and_a_resample_draws_images_with_all_their_amounts() -> None:
    random, boot, amounts = np.random.default_rng(0), Bootstrap(12, 3), [-1.0, 0.5, 2.0]
    shift, explained, total = random.normal(size=(12, 3)) + amounts, random.random((12, 3)), 1 + random.random((12, 3))
    r, share = correlations(Fit(*map(torch.from_numpy, (shift, explained, total))), amounts, boot)
    times = [np.ones(12, int), *(boot.weights * 12).round().long().numpy()]
    for place, one in enumerate(times):
        drawn = [values.repeat(one, 0) for values in (np.tile(amounts, (12, 1)), shift, explained, total)]
        assert float(r[place]) == pytest.approx(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1])
        assert float(share[place]) == pytest.approx(drawn[2].sum() / drawn[3].sum())
    still = Fit(*torch.zeros(3, 12, 3, dtype=torch.float64))  # nothing varies
    assert [one.abs().max().item() for one in correlations(still, amounts, boot)] == [0, 0]


def test_shifts_at_the_end_of_the_grid_are_counted() -> None:
    def at_bound(moves: float) -> float:
        only = [PROPERTIES["brightness"]]
        found = meanings(_source(Planted("v3", moves=moves)), _pixels(8), PLAIN, only, Bootstrap(8, 2))
        return found[3, "v3", "brightness"][0].at_bound

    assert at_bound(5.0) == 0
    assert at_bound(12.0) == pytest.approx(1 / 3)  # of ±1.2, ±2.4 and ±3.6 the last are beyond 3


# ---------------------------------------------------------------------------------------------- changes of images


@pytest.mark.parametrize("name", list(PROPERTIES))
def test_amount_zero_changes_nothing_and_every_amount_something(name) -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(change(images, name, 0.0), images / 255, atol=1e-4, rtol=0)
    for amount in PROPERTIES[name].amounts:
        changed = change(images, name, amount)
        assert changed.shape == images.shape
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1
        assert float((changed - images / 255).abs().mean()) > 1e-3


def test_changes_go_the_way_their_names_say() -> None:
    x = torch.rand(2, 3, 16, 16) * 0.2 + 0.4
    torch.testing.assert_close(change(x, "rotation", 90), torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=1e-3)
    wide = torch.zeros(2, 3, 16, 24)
    wide[..., 4:12, 8:16] = x[..., :8, :8]  # angles are those of the image, whatever its sides
    turned = change(wide, "rotation", 90)[..., 4:12, 8:16]
    torch.testing.assert_close(turned, torch.rot90(x[..., :8, :8], 1, (2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(change(x, "position right", 1 / 16)[..., 1:], x[..., :-1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(change(x, "position down", 1 / 16)[:, :, 1:], x[:, :, :-1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(change(x, "contrast", 1).std((1, 2, 3)), 2 * x.std((1, 2, 3)))
    torch.testing.assert_close(change(x, "contrast", 1).mean((1, 2, 3)), x.mean((1, 2, 3)))
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    for name in ("saturation", "hue"):  # both keep the luminance
        changed = change(x, name, 0.5 if name == "saturation" else 60.0)
        torch.testing.assert_close(
            (changed * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1), grey, atol=1e-3, rtol=0
        )
    torch.testing.assert_close(change(change(x, "hue", 120.0), "hue", 240.0), x, atol=1e-3, rtol=0)
    red = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None].expand(1, 3, 8, 8)
    assert [int(change(red, "hue", degrees)[0, :, 0, 0].argmax()) for degrees in (0, 120, 240)] == [
        0,
        2,
        1,
    ]  # to blue, green
    dot = torch.zeros(1, 1, 17, 17)
    dot[..., 7:10, 7:10] = 1
    assert float(change(dot, "scale", 1).sum()) == pytest.approx(4 * 9, rel=0.15)
    blurred = [float(change(dot, "blur", sigma).max()) for sigma in (0.4, 0.8, 1.5)]
    assert blurred == sorted(blurred, reverse=True)
    assert float(change(dot, "blur", 1.0).sum()) == pytest.approx(9, rel=1e-3)
    small, large = (change(x, "noise", a) - x for a in (0.01, 0.02))
    torch.testing.assert_close(2 * small, large)


@pytest.mark.parametrize("name", ["rotation", "scale", "position right", "position down", "blur"])
def test_no_border_appears(name) -> None:
    for sides in ((16, 24), (3, 3)):
        grey = torch.full((2, 1, *sides), 0.5)
        for amount in PROPERTIES[name].amounts:
            torch.testing.assert_close(change(grey, name, amount), grey)


def test_bytes_of_a_dark_image_are_no_floats() -> None:
    dark = torch.ones(1, 1, 2, 2, dtype=torch.uint8)
    torch.testing.assert_close(change(dark, "brightness", 0.1), dark / 255 + 0.1)


def test_bad_changes_are_explained() -> None:
    grey = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="hue: expected 3 channels, RGB; got 1"):
        change(grey, "hue", 10)
    with pytest.raises(ValueError, match=r"property: expected one of brightness, .*; got 'age'"):
        change(grey, "age", 10)
    with pytest.raises(ValueError, match=r"blur: expected images \(n, c, h, w\), uint8 or floats; got torch.int64"):
        change(grey.long(), "blur", 1)
    with pytest.raises(ValueError, match="blur: expected one amount, or one for each of 2 images"):
        change(grey, "blur", torch.ones(3))


# ----------------------------------------------------------------------------------------------------- statistics


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    random = torch.Generator().manual_seed(0)
    boot = Bootstrap(100, 500)
    hits = 0
    for _ in range(2000):
        found = estimate(torch.randn(100, generator=random), boot)
        hits += found.low < 0 < found.high
    assert 1840 <= hits <= 1930  # intervals of 90 % hit about 1,775 times, and those of 99 % 1,965 times


def test_resamples_are_drawn_by_seed() -> None:
    weights = [Bootstrap(20, 50, seed=seed).weights for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.testing.assert_close(weights[2].sum(1), torch.ones(50, dtype=torch.float64))


def test_an_attribute_is_judged_at_95_percent_over_all_cells_together() -> None:
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()

    def verdict(deviations: float, cells: int) -> object:
        r = torch.cat([torch.tensor([deviations]), deviations + noise]) / 10
        own, none = (Meaning(values, values, 0.0) for values in (r, torch.zeros(2001)))
        return judge((3, "v3", "hue"), own, [none], {}, Bootstrap(10, 2000), cells=cells)["verdict"]

    assert [verdict(deviations, 1) for deviations in (1.9, 2.02)] == ["nothing", "found"]  # z = 1.96
    assert [verdict(deviations, 20) for deviations in (2.02, 2.97, 3.08)] == ["nothing", "nothing", "found"]  # z = 3.02


def _meaning(r: float, share: float, noise: float = 0.01) -> Meaning:
    """A result whose resamples are stronger and weaker by the noise."""
    apart = noise * torch.tensor([0.0, *[1.0, -1.0] * 200])
    return Meaning(math.copysign(1, r) * (abs(r) + apart), share + apart, 0.25)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_property_is_found_beyond_every_control_whichever_way_it_goes(sign) -> None:
    def verdict(own: Meaning, *shuffled: Meaning, **others: Meaning) -> object:
        return judge((3, "v3", "hue"), own, shuffled, others, Bootstrap(10, 400))["verdict"]

    own, weak, strong = _meaning(0.6 * sign, 0.6), _meaning(0.1, 0.1), _meaning(-0.7, 0.7)
    assert verdict(own, weak, untrained=weak) == "found"
    assert verdict(own, weak, untrained=strong) == "as a control"
    assert verdict(own, strong, weak, untrained=weak) == "as a control"
    assert verdict(own, _meaning(0.7, 0.1)) == "as a control"  # in one of the two alone
    assert verdict(own, _meaning(0.1, 0.7)) == "as a control"
    assert verdict(own) == "as a control"  # nothing to be above
    faint = _meaning(0.01 * sign, 0.6, noise=0.006)  # less than 1.96 deviations from 0, and yet above its control
    assert verdict(faint, _meaning(0.009, 0.1, noise=0.006)) == "nothing"


def test_a_row_holds_the_result_and_its_controls() -> None:
    shuffled, others = [_meaning(0.1, 0.2), _meaning(-0.3, 0.1)], {"untrained": _meaning(-0.2, 0.15)}
    row = judge((4, "v3", "hue"), _meaning(0.6, 0.4), shuffled, others, Bootstrap(10, 400))
    assert [row[name] for name in ("depth", "attribute", "property", "orders", "at_bound")] == [4, "v3", "hue", 2, 0.25]
    numbers = [row[name] for name in ("value", "explained", "shuffled_r", "shuffled_explained")]
    assert numbers == pytest.approx([0.6, 0.4, -0.3, 0.2])  # of shuffled orders the strongest, with its sign
    assert [row["untrained_r"], row["untrained_explained"]] == pytest.approx([-0.2, 0.15])
    for low, value, high in (("low", 0.6, "high"), ("explained_low", 0.4, "explained_high")):
        assert [row[low], row[high]] == pytest.approx([value - 0.01, value + 0.01])


def _orbits(classes: int = 12, copies: int = 3) -> tuple[Arrays, Tensor, Tensor]:
    """Classes that are orbits: each holds every translation along v2 of one pattern, and near copies."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(classes, 4, 8))
    rows = np.stack(
        [
            np.roll(p, t, 0) + 0.01 * random.normal(size=(4, 8))
            for p in patterns
            for t in range(4)
            for _ in range(copies)
        ]
    )
    labels = torch.arange(classes).repeat_interleave(4 * copies)
    return (
        Arrays(None, {3: rows.astype(np.float32)}, np.zeros((len(rows), 2)), "circular"),
        labels,
        torch.arange(len(rows)),
    )


def test_classes_that_are_orbits_are_consistent_in_their_own_order_only() -> None:
    base, labels, every = _orbits()
    questions = Questions({3: torch.from_numpy(base.at(3))}, labels, every)
    same, near = class_consistency(base, labels, questions, 3, "v2")
    assert same.shape == (4, len(base))
    assert bool(same.all())
    assert float(near.float().mean()) > 0.9
    same, near = class_consistency(base, labels, questions, 3, "v2", order=shuffled_orders(4, 1)[0])
    assert bool(same[0].all())  # τ = 0 is no translation in any order
    assert not bool(same[1:].all())
    assert float(near[1:].float().mean()) < 0.1  # what is found there may be of the class, but resembles nothing


def test_a_query_does_not_find_itself() -> None:
    base, _, every = _orbits(copies=1)
    labels = every.clone()  # each image is its own class
    questions = Questions({3: torch.from_numpy(base.at(3))}, labels, every)
    assert not bool(class_consistency(base, labels, questions, 3, "v3")[0].any())
    anyone = Questions({3: torch.from_numpy(base.at(3))}, labels, None)
    assert bool(class_consistency(base, labels, anyone, 3, "v3")[0][0].all())


def test_distances_along_a_path() -> None:
    wave = torch.cos(2 * math.pi / 8 * (torch.arange(8) + 8 * torch.rand(300, 1)))[:, None].expand(300, 4, 8)
    gone = path_distances(wave, -1, [0, 2, 4, 8])
    torch.testing.assert_close(gone.mean(1), torch.tensor([0.0, 1, 2, 0], dtype=torch.float64), atol=0.1, rtol=0)
    smooth_wave = roughness(wave, -1).mean(1)
    assert float(smooth_wave[0] / smooth_wave[1]) == pytest.approx(
        (2 - 2 * math.cos(math.pi / 4)) / (2 * 8 / 7), rel=1e-5
    )


def test_distances_need_two_images_that_differ(periodic) -> None:
    source, x = periodic
    with pytest.raises(ValueError, match="expected arrays that differ between images; those of all 3 are the same"):
        path_distances(torch.randn(1, 4, 8).expand(3, 4, 8), 1, [0.0, 1.0])
    with pytest.raises(ValueError, match="expected class scores that differ between images; those of all 2 are"):
        flatness(source, x[:1].expand(2, 1, 8, 8), 3, "v3")


def test_a_path_may_be_smoothed_first() -> None:
    x = torch.randn(50, 4, 8, dtype=torch.float64)
    raw, smoothed = (path_distances(x, -1, [1, 2.5], smooth=one) for one in (False, True))
    torch.testing.assert_close(smoothed, path_distances(smooth(x, -1), -1, [1, 2.5], smooth=False))
    assert not torch.allclose(raw, smoothed)


def test_roughness_is_one_on_average_over_all_orders() -> None:
    from itertools import permutations

    x = torch.randn(5, 4, 3)
    ratios = torch.stack([roughness(x[:, list(order)], 1)[0] for order in permutations(range(4))])
    torch.testing.assert_close(ratios.mean(0), roughness(x, 1)[1])


@pytest.fixture(scope="module")
def periodic() -> tuple[AttributeSource, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(40, 1, 8, 8)
    model = untrained_like(hcnn.create_model("hcnn_digits", boundary="circular"), x)  # pyright: ignore
    return AttributeSource(model.requires_grad_(False)), x


def test_scores_are_flat_where_proposition_3_1_says_so_and_not_elsewhere(periodic) -> None:
    source, x = periodic
    seen = set()
    for j, attributes in source.attributes().items():
        for axis, size in attributes.items():
            stays, variation, change = flatness(source, x, j, axis)
            implied = implied_shifts(source, j, axis, size)
            for tau in range(1, size):
                flat = float(variation[tau - 1].max()) < 1e-4
                assert flat == (tau in implied), (j, axis, tau)
                assert (float(change[tau - 1].mean()) < 1e-6) == flat
                if flat:
                    assert bool(stays[tau - 1].all())
                seen.add(flat)
    assert seen == {True, False}


def test_changes_of_scores_are_those_of_their_formulas() -> None:
    torch.manual_seed(0)
    classes = nn.Linear(64, 5)
    nn.init.normal_(classes.weight)  # large enough for answers to change
    net = nn.Sequential(nn.Conv2d(1, 64, 1), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), classes).eval()
    source, x = ChannelSource(net, {3: "1"}, {3: (2, 4, 8)}), torch.randn(30, 1, 4, 4)
    order = [0, 3, 1, 2]
    for axis, used in (("v3", None), ("v2", None), ("v2", order)):
        stays, variation, change = flatness(source, x, 3, axis, order=used, batch=7)
        dim, size = {"v2": (2, 4), "v3": (3, 8)}[axis]
        place = [*range(size)] if used is None else used
        with torch.no_grad():
            array = net[:3](x).reshape(30, 2, 4, 8)
            start = net(x).double()
            for tau in range(1, size):
                moved = torch.empty_like(array)
                for k in range(size):  # the value at one place of the order goes τ places on
                    moved.select(dim, place[(k + tau) % size]).copy_(array.select(dim, place[k]))
                end = net[3:](moved[..., None, None].flatten(1, 3)).double()
                assert torch.equal(stays[tau - 1], end.argmax(1) == start.argmax(1))
                half = (end.softmax(1) - start.softmax(1)).abs().sum(1) / 2
                torch.testing.assert_close(variation[tau - 1], half, rtol=1e-3, atol=1e-6)
                a, b = (one - one.mean(1, keepdim=True) for one in (start, end))
                apart = (a[:, None] - a).square().sum(2).mean()  # of two random images
                torch.testing.assert_close(change[tau - 1], (b - a).square().sum(1) / apart, rtol=1e-3, atol=1e-6)


def test_under_zeros_only_averaging_implies(periodic) -> None:
    torch.manual_seed(0)
    model = untrained_like(hcnn.create_model("hcnn_digits"), periodic[1])  # pyright: ignore
    source = AttributeSource(model)
    assert implied_shifts(source, 3, "v1", 2) == {0, 1}
    assert implied_shifts(source, 3, "v2", 4) == set()
    assert implied_shifts(source, 6, "v5", 4) == {0, 1, 2, 3}
    assert float(flatness(source, periodic[1], 3, "v1")[1].max()) < 1e-4


def test_a_linear_readout_knows_the_newest_attribute() -> None:
    torch.manual_seed(0)
    model = hcnn.create_model("hcnn_digits", readout="linear", boundary="circular").eval()
    source, last = AttributeSource(model), len(model.layers)
    size = source.attributes()[last][f"v{last}"]
    assert implied_shifts(source, last, f"v{last}", size) == set()
    assert implied_shifts(source, last, f"v{last - 1}", 4) == set(range(4))
    x = torch.randn(20, 1, 8, 8)
    change = flatness(source, x, last, f"v{last}")[2]
    assert float(change.min()) > 0
    assert float(flatness(source, x, last, f"v{last - 1}")[2].max()) < 1e-9


def test_tables_have_controls_beside_every_number(periodic) -> None:
    source, x = periodic
    other = AttributeSource(untrained_like(source.model, x, seed=7))
    sources = {"trained": source, "untrained": other}
    labels = torch.arange(40) % 10
    read = {name: one.read(x, "centre") for name, one in sources.items()}
    means = {name: {j: a.mean(1) for j, a in arrays.items()} for name, (_, arrays) in read.items()}
    bases = {
        name: (Arrays(None, {j: a.numpy() for j, a in arrays.items()}, np.zeros((40, 10)), "circular"), labels)
        for name, arrays in means.items()
    }
    questions = {name: Questions(arrays, labels, torch.arange(40)) for name, arrays in means.items()}
    boot = Bootstrap(40, 100)
    found = consistency_table(sources, bases, questions, boot, orders=3)
    paths = path_table(sources, questions, boot, orders=3)
    flat = flatness_table(sources, x, boot, orders=3)
    for table, statistics in ((found, {"class consistency", "near enough"}), (paths, {"path distance", "roughness"})):
        assert {row["statistic"] for row in table.rows} == statistics
    for table in (found, paths, flat):
        assert {(row["network"], row["order"]) for row in table.rows} == {
            ("trained", "own"), ("trained", "shuffled"), ("untrained", "own"), ("untrained", "shuffled"),
        }  # fmt: skip
        assert all(row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9 for row in table.rows if row["n"] > 1)
        together = [(row["network"], row["attribute"]) for row in table.orders if row["depth"] is None]
        assert sorted(together) == [(n, a) for n in ("trained", "untrained") for a in ("v(j)", "v(j-1)")]
        for row in table.orders:
            assert row["orders"] == (3 if row["attribute"] in ("v(j)", f"v{row['depth']}") else 2)  # 8 or 4 values
            assert row["smallest"] <= row["p"] <= 1
    contrasts = found.contrasts
    assert {row["against"] for row in contrasts} == {"no shift", "untrained", "depth 3"}
    assert {row["against"] for row in flat.contrasts} == {"untrained"}
    # Two networks that have learned nothing: hardly any contrast between them.
    between = [row["verdict"] == "no difference" for row in contrasts if row["against"] == "untrained"]
    assert sum(between) >= len(between) - 1


def _waves(order: Sequence[int]) -> Tables:
    """Roughness of arrays that are smooth along v3, which has the given order."""
    random = torch.Generator().manual_seed(0)
    wave = torch.cos(2 * math.pi / 8 * (torch.arange(8) + 8 * torch.rand(60, 1, generator=random)))
    questions = {"trained": Questions({3: wave[:, None].expand(60, 4, 8)[..., list(order)]}, torch.zeros(60))}
    source = ChannelSource(nn.Sequential(nn.Conv2d(1, 64, 1)).eval(), {3: "0"}, {3: (2, 4, 8)})
    return path_table({"trained": source}, questions, Bootstrap(60, 100))


def test_an_order_is_told_from_shuffled_ones_where_it_means_something() -> None:
    def along_v3(tables: Tables) -> Row:
        return next(row for row in tables.orders if row["attribute"] == "v3")

    true = along_v3(_waves(range(8)))
    assert true["own"] < true["low"]
    assert true["p"] == pytest.approx(1 / 20)  # beyond all of 19 orders; v2, which is constant, has no order
    assert along_v3(_waves(shuffled_orders(8, 1, seed=9)[0]))["p"] > 0.1


def test_the_order_of_channels_without_order_is_rarely_special() -> None:
    """Two particular orders nearly always differ by more than an interval over images; p-values must not."""
    small, x = 0, torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for seed in range(30):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ELU(), nn.Conv2d(64, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        source = ChannelSource(net.eval(), {3: "1"}, {3: (2, 4, 8)})
        found = flatness_table({"trained": source}, x, Bootstrap(30, 50), seed=seed)
        small += next(row["p"] for row in found.orders if row["attribute"] == "v(j)") <= 0.1
    assert small <= 7  # 3 on average; more than 7 in 1 % of all draws


def test_deviations_of_several_attributes_add_up() -> None:
    below = [[0.0, 1.0, 2.0]] * 5
    found = order_test(below)
    assert found.p == pytest.approx(2 / 3**5)  # all lowest, or all highest
    assert found.smallest == found.p
    assert found.deviation == pytest.approx(-math.sqrt(1.5))
    assert order_test([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]).p == 1  # they cancel
    assert order_test([[1.0, 1.0, 1.0]]) == OrderTest(0.0, 1.0, 1.0)
    assert order_test([[0.3, 0.1 + 0.2, 0.3]]) == OrderTest(0.0, 1.0, 1.0)  # they differ by rounding alone
    many = order_test([[0.0, *range(1, 20)]] * 8)  # 20^8 combinations: drawn
    assert many.p == pytest.approx(1 / 20_001)
    for values in ([[1.0]], [[1.0, 2.0], [1.0]], [], [1.0, 2.0]):
        with pytest.raises(ValueError, match="expected a value for the own order and for one shuffled order or more"):
            order_test(values)  # type: ignore[arg-type]


def test_drawn_combinations_give_the_p_value_of_all() -> None:
    values = [[1.0, *[0.0] * 6]] * 2 + [[*[0.0] * 6, 1.0]] * 4  # 7^6 = 117,649 combinations; one order stands out
    drawn, sums = order_test(values), np.zeros(())
    for one in values:
        sums = np.add.outer(sums, (np.array(one) - np.mean(one)) / np.std(one))
    exact = np.mean(np.abs(sums) >= abs(sums[0, 0, 0, 0, 0, 0]) - 1e-9)
    assert drawn.p == pytest.approx(float(exact), abs=0.02)
    assert order_test(values) == drawn
    assert order_test(values, seed=1) != drawn


def test_channels_of_an_ordinary_network_stand_beside_as_a_control(periodic) -> None:
    source, x = periodic
    torch.manual_seed(1)
    net = nn.Sequential(
        *(nn.Conv2d(1, 48, 3, padding=1), nn.ELU(), nn.Conv2d(48, 80, 3, padding=1), nn.ELU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 10)),
    )
    plain = channels_like(net.eval(), source, x[:1])
    assert plain.sizes() == {3: (1, 4, 8), 4: (1, 4, 8), 5: (2, 4, 8), 6: (2, 4, 10)}
    shared = nn.ELU()  # it runs twice, so it has no one array
    twice = nn.Sequential(net[0], shared, net[2], shared, net[4], net[5], net[6]).eval()
    assert set(channels_like(twice, source, x[:1]).layers.values()) == {"0", "2"}
    sources = {"trained": source, "plain": plain}
    found = flatness_table(sources, x, Bootstrap(40, 50), orders=2)
    assert {row["depth"] for row in found.contrasts if row["against"] == "plain"} == {3, 4, 5}
    free = [tau - 1 for tau in range(1, 4) if tau not in implied_shifts(source, 3, "v2", 4)]
    own, others = (flatness(one, x, 3, "v2")[2][free] for one in (source, plain))  # the same shifts in both
    row = next(row for row in found.contrasts if (row["depth"], row["attribute"]) == (3, "v2"))
    assert len(free) < 3
    assert row["value"] == pytest.approx(float((own - others).mean()))
    pixels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    rows = property_table(sources, pixels, PLAIN, Bootstrap(20, 50), orders=2)
    assert all(math.isfinite(row["plain_r"]) and 0 <= row["plain_explained"] <= 1 for row in rows)
    assert sum(row["verdict"] == "found" for row in rows) <= 1  # nothing was learned by anyone
    small = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="expected a module of 4·8 = 32 channels or more for x3"):
        channels_like(small, source, x[:1])


def test_a_network_of_one_depth_is_not_compared_with_itself() -> None:
    images = load("digits").train.subset(range(40))
    said = {}
    for width in (4, 8):  # of 4, no attribute but the classes has 4 values
        model = hcnn.create_model("hcnn_digits", width=width, depth=4, downsample=()).eval()
        run = Run(Path("one"), model, fit_preprocessing(images), {})
        settings = StudySettings(queries=10, changed=4, flat=4, orders=2, resamples=20)
        said[width] = findings(run_study(explore_images(run, images), settings=settings))
    assert not any("than at depth" in sentence for sentence in said[8])
    assert any("shuffled orders, 1 depth together" in sentence for sentence in said[8])
    assert "no attribute has 4 values or more" in said[4][-1]


def test_a_control_may_have_any_name() -> None:
    row = {"statistic": CONSISTENCY, "network": "trained", "order": "own", "against": "depthwise", "depth": 3}
    row |= {"attribute": "v2", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "verdict": "above"}
    study = Study({"boundary": "circular", "held_out": True}, [], [row], [], [])
    assert any("against depthwise: above at depth 3" in sentence for sentence in findings(study))


def test_a_few_images_are_enough_and_fewer_are_refused() -> None:
    run = load_named("hcnn_digits")
    few = load("digits").train.subset(range(12))  # of ten classes, so that a split would leave two
    found = run_study(explore_images(run, few), settings=StudySettings(queries=5, orders=2, resamples=20))
    assert found.info["queries"] == "12 of digits/train, themselves excluded"
    assert all(math.isfinite(row["value"]) for row in found.rows)
    assert found.info["chance"] == pytest.approx((few.labels[:, None] == few.labels).double().mean().item())  # not 0.1
    with pytest.raises(ValueError, match="digits/train: expected 2 images or more to ask about; got 1"):
        run_study(explore_images(run, few.subset([0])))
    for name in ("queries", "changed", "flat"):
        with pytest.raises(ValueError, match=f"{name}: expected 2 images or more; got 1"):
            StudySettings(**{name: 1})
    for name, value in (("orders", 0), ("resamples", 1), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected {value + 1} or more; got {value}"):
            StudySettings(**{name: value})
    with pytest.raises(ValueError, match="seed: expected a whole number from 0 to"):
        StudySettings(seed=2**63)


def test_signals_are_studied_without_properties_of_images() -> None:
    random = torch.Generator().manual_seed(0)
    signals = torch.randint(0, 256, (30, 1, 12), dtype=torch.uint8, generator=random)
    data = ImageSet(signals, torch.arange(30) % 10, tuple("0123456789"), "signals")
    model = hcnn.create_model("hcnn_digits", spatial_axes=1, width=8, depth=4, downsample=()).eval()
    run = Run(Path("one"), model, fit_preprocessing(data), {})
    settings = StudySettings(queries=10, changed=4, flat=5, orders=2, resamples=20)
    found = run_study(explore_images(run, data), settings=settings)
    assert found.properties == []
    counts = {row["statistic"]: row["n"] for row in found.rows if row["order"] == "own"}
    assert (counts["class consistency"], counts["path distance"], counts[CHANGE]) == (10, 10, 5)


def test_tables_have_a_column_for_every_name_and_six_digits(tmp_path) -> None:
    rows: list[Row] = [{"x": 1, "y": 0.123456789}, {"z": "a, b", "x": 2}]
    paths = Study({"n": 3}, rows, [], [], []).write(tmp_path)
    assert [path.name for path in paths] == ["study.json", *(f"{name}.csv" for name in ("rows", *EMPTY))]
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["x", "y", "z"], ["1", "0.123457", ""], ["2", "", "a, b"]]
    read = json.loads((tmp_path / "study.json").read_text())
    rows[0]["y"] = 0.123457
    assert read == {"info": {"n": 3}, "rows": rows, **{name: [] for name in EMPTY}}
