"""The differences and orders in a study's tables, and the sentences about them: their values, signs and verdicts."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hcnn
from hcnn.data.image_changes import properties_for
from hcnn.data.preprocessing import Preprocessing
from hcnn.explore import Arrays, AttributeSource, ChannelSource, shuffled_orders, untrained_like
from hcnn.explore.findings import findings
from hcnn.explore.meaning import meanings
from hcnn.explore.statistics import Bootstrap, Questions, class_consistency, flatness
from hcnn.explore.study import Study
from hcnn.explore.tables import CHANGE, CONSISTENCY, Row, consistency_table, flatness_table, implied_shifts
from hcnn.explore.verdicts import property_table


def _orbits_at_depth_5() -> tuple[dict[str, dict[int, Tensor]], Tensor]:
    """Of 12 classes, arrays that are noise at depth 3, one pattern a class at 4 and its translations along v4 at 5."""
    random, labels = np.random.default_rng(0), np.arange(12).repeat(12)
    patterns = random.normal(size=(12, 4, 8))
    alike = patterns[labels]
    moved = np.stack([np.roll(one, n % 4, 0) for n, one in enumerate(alike)])
    noise = random.normal(size=(2, 4, len(labels), 4, 8))
    trained = {3: noise[0, 3], 4: alike + 0.01 * noise[0, 0], 5: moved + 0.01 * noise[0, 1]}
    plain = {j: noise[1, j - 3] for j in (3, 4, 5)}
    return {
        name: {j: torch.from_numpy(one).float() for j, one in arrays.items()}
        for name, arrays in (("trained", trained), ("plain", plain))
    }, torch.from_numpy(labels)


def test_differences_of_class_consistency_have_their_values_and_verdicts() -> None:
    arrays, labels = _orbits_at_depth_5()
    net = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity())
    source = ChannelSource(net, {3: "0", 4: "1", 5: "2"}, dict.fromkeys((3, 4, 5), (1, 4, 8)))
    bases: dict[str, tuple[Arrays, Tensor]] = {}
    questions, same = {}, {}
    for name, depths in arrays.items():
        stored = Arrays(None, {j: one.numpy() for j, one in depths.items()}, np.zeros((144, 12)), "none")
        bases[name], questions[name] = (stored, labels), Questions(depths, labels, torch.arange(144))
        for j in depths:
            for place, order in enumerate([None, *shuffled_orders(4, 2)]):
                one = class_consistency(*bases[name], questions[name], j, f"v{j - 1}", order=order)[0].double()
                same[name, j, place] = float(one[0].mean()), float(one[1:].mean())  # without and with a translation
    found = consistency_table(dict.fromkeys(arrays, source), bases, questions, Bootstrap(144, 200), orders=2)

    rows = {
        (row["statistic"], row["network"], row["against"], row["depth"]): row
        for row in found.contrasts
        if row["order"] == "own"
    }
    for j in (3, 4, 5):
        (still, moved), (_, control) = same["trained", j, 0], same["plain", j, 0]
        assert rows[CONSISTENCY, "trained", "no shift", j]["value"] == pytest.approx(moved - still)
        assert rows[CONSISTENCY, "trained", "plain", j]["value"] == pytest.approx(moved - control)
    for name in arrays:
        (still, moved), (still_first, moved_first) = same[name, 5, 0], same[name, 3, 0]
        growth = moved - moved_first
        assert rows[CONSISTENCY, name, "depth 3", 5]["value"] == pytest.approx(growth)
        less = rows[f"{CONSISTENCY}, less τ = 0", name, "depth 3", 5]["value"]
        assert less == pytest.approx(growth - (still - still_first))
    verdicts = {key: row["verdict"] for key, row in rows.items() if key[:2] == (CONSISTENCY, "trained")}
    assert verdicts[CONSISTENCY, "trained", "no shift", 4] == "below"
    assert verdicts[CONSISTENCY, "trained", "no shift", 5] == "no difference"
    assert verdicts[CONSISTENCY, "trained", "plain", 5] == "above"
    assert verdicts[CONSISTENCY, "trained", "depth 3", 5] == "above"

    for row in found.orders:
        if row["depth"] is not None and row["attribute"] == f"v{row['depth'] - 1}":
            own, *shuffled = (same[row["network"], row["depth"], place][1] for place in range(3))
            assert row["own"] == pytest.approx(own)
            expected = sum(shuffled) / 2, min(shuffled), max(shuffled)
            assert [row[name] for name in ("shuffled", "low", "high")] == pytest.approx(expected)


def test_differences_of_class_scores_are_over_the_shifts_that_are_not_implied() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 1, 8, 8)
    model = hcnn.create_model("hcnn_digits", boundary="circular")
    sources = {
        name: AttributeSource(untrained_like(model, x, seed=seed))  # pyright: ignore[reportArgumentType]
        for seed, name in enumerate(("trained", "untrained"))
    }
    found = flatness_table(sources, x, Bootstrap(30, 50), orders=2)
    free, means = {}, {}
    for j, attributes in sources["trained"].attributes().items():
        for axis, size in attributes.items():
            implied = implied_shifts(sources["trained"], j, axis, size)
            free[j, axis] = [tau - 1 for tau in range(1, size) if tau not in implied]
            for name, source in sources.items():
                means[name, j, axis] = float(flatness(source, x, j, axis)[2][free[j, axis]].mean())
            for row in found.rows:
                if (row["depth"], row["attribute"]) == (j, axis):
                    exact = row["tau"] in implied and (row["order"] == "own" or not free[j, axis])
                    assert row["implied"] is exact
    assert any(0 < len(some) < sources["trained"].attributes()[j][axis] - 1 for (j, axis), some in free.items())
    assert {(row["depth"], row["attribute"]) for row in found.contrasts} == {at for at, some in free.items() if some}
    for row in found.contrasts:
        at = row["depth"], row["attribute"]
        assert row["value"] == pytest.approx(means["trained", *at] - means["untrained", *at], rel=1e-4)
    for row in found.orders:
        if row["depth"] is not None:
            assert row["own"] == pytest.approx(means[row["network"], row["depth"], row["attribute"]], rel=1e-4)


def test_properties_are_judged_over_all_attributes_and_properties_together() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    source = ChannelSource(net.eval(), {3: "1"}, {3: (2, 4, 8)})
    pixels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    plain, boot = Preprocessing((0.5,), (0.25,), (8, 8), ("a", "b")), Bootstrap(20, 50)
    rows = property_table({"trained": source}, pixels, plain, boot, orders=1)
    own = meanings(source, pixels, plain, properties_for(1), boot)
    assert len(rows) == len(own) > 10

    def real(row: Row, cells: int) -> bool:
        r = own[row["depth"], row["attribute"], row["property"]][0].correlation
        return float(r[0].abs() - NormalDist().inv_cdf(1 - 0.05 / (2 * cells)) * r[1:].std()) > 0

    assert [row["verdict"] != "nothing" for row in rows] == [real(row, len(rows)) for row in rows]
    assert any(real(row, 1) != real(row, len(rows)) for row in rows), "the test is of no use if the number is the same"


def test_a_control_need_not_have_every_attribute() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 96, 3), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    sizes = {"trained": (3, 4, 8), "other": (4, 3, 8)}  # an attribute of 3 values has no order
    sources = {name: ChannelSource(net, {3: "1"}, {3: one}) for name, one in sizes.items()}
    pixels = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    plain = Preprocessing((0.5,), (0.25,), (8, 8), ("a", "b"))
    rows = property_table(sources, pixels, plain, Bootstrap(5, 10), orders=1)
    assert {(row["attribute"], "other_r" in row) for row in rows} == {("v2", False), ("v3", True)}


# ---------------------------------------------------------------------------------------------------- in sentences


def _contrast(statistic: str, against: str, depth: int, verdict: str, value: float, attribute: str = "v2") -> Row:
    row = {"statistic": statistic, "network": "trained", "order": "own", "against": against, "depth": depth}
    return row | {"attribute": attribute, "value": value, "low": value - 0.1, "high": value + 0.1, "verdict": verdict}


def test_sentences_say_what_the_tables_say() -> None:
    near = {"statistic": "near enough", "network": "trained", "order": "own", "depth": 3, "attribute": "v2"}
    rows = [{**near, "tau": tau, "value": value} for tau, value in enumerate((0.95, 0.2, 0.3, 0.4))]
    contrasts = [
        _contrast(CONSISTENCY, "depth 3", 5, "above", 0.3),
        _contrast(f"{CONSISTENCY}, less τ = 0", "depth 3", 5, "below", -0.2),
        _contrast(CONSISTENCY, "no shift", 3, "below", -0.4),
        _contrast(CONSISTENCY, "no shift", 4, "below", -0.6),
        _contrast(CONSISTENCY, "no shift", 5, "no difference", 0.0),
        _contrast(CHANGE, "untrained", 3, "above", 0.25, "v3"),
        _contrast(CHANGE, "untrained", 4, "below", -0.25, "v3"),
    ]
    order: Row = {"network": "trained", "depth": None, "depths": 2, "attribute": "v(j)"}
    orders = [
        {**order, "statistic": CONSISTENCY, "p": 0.01, "deviation": 1.5},
        {**order, "statistic": CONSISTENCY, "p": 0.06, "deviation": -1.0, "network": "untrained"},
        {**order, "statistic": CHANGE, "p": 0.05, "deviation": -2.0},
    ]
    found = {"depth": 4, "attribute": "v3", "verdict": "found", "low": 0.4, "high": 0.6, "explained": 0.5}
    properties = [
        {**found, "property": "hue", "value": 0.5},
        {**found, "property": "hue", "value": -0.9, "depth": 5},
        {**found, "property": "blur", "value": 0.5, "verdict": "as a control"},
        {**found, "property": "blur", "value": 0.0, "verdict": "nothing"},
    ]
    assert findings(Study({"boundary": "circular", "held_out": True}, rows, contrasts, orders, properties)) == [
        "Class consistency, τ ≠ 0 (trained): higher at depth 5 than at depth 3: +0.300 [+0.200, +0.400].",
        "Class consistency, τ ≠ 0, less τ = 0 (trained): lower at depth 5 than at depth 3: -0.200 [-0.300, -0.100].",
        "Class consistency after a translation along v(j-1), against no shift: below at depth 3, 4 "
        "(most at depth 4: -0.600 [-0.700, -0.500]); no difference at depth 5.",
        "Class consistency after a translation along v(j): higher than in shuffled orders, 2 depths together "
        "(p = 0.01; +1.50 standard deviations of the orders).",
        "Class consistency after a translation along v(j) (untrained): no different from shuffled orders, 2 depths "
        "together (p = 0.06; -1.00 standard deviations of the orders).",
        "Share of neighbours found after a translation along v(j-1) that are near enough: 30% at depth 3.",
        "Change of class scores when x_j is translated along v(j): smaller than in shuffled orders, 2 depths together "
        "(p = 0.05; -2.00 standard deviations of the orders).",
        "Change of class scores when x_j is translated along v(j), against untrained: above at depth 3 "
        "(most at depth 3: +0.250 [+0.150, +0.350]).",
        "Change of class scores when x_j is translated along v(j-1), against untrained: below at depth 4 "
        "(most at depth 4: -0.250 [-0.350, -0.150]).",
        "Hue: found in x5 along v3 (r = -0.900 [+0.400, +0.600], 50% of the change); x̄4 along v3 "
        "(r = +0.500 [+0.400, +0.600], 50% of the change).",
        "Blur: nothing (1 of 2 correlate, but no more than a control does).",
    ]
    unknown = findings(Study({"boundary": "zeros", "held_out": False}, rows, contrasts, orders, properties))
    assert [sentence[:27] for sentence in unknown[:2]] == ["No held-out images are know", "The network is not periodic"]
