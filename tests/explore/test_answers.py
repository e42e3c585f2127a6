"""The three plain answers that open a report say what the study's tables say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hcnn.explore.answers import answers
from hcnn.explore.page.report import render
from hcnn.explore.study import Study
from hcnn.explore.tables import CHANGE

RESULTS = Path(__file__).parents[2] / "results" / "explore"


def load(name: str) -> Study:
    return Study(**json.loads((RESULTS / name / "study.json").read_text()))


@pytest.mark.parametrize(
    ("name", "short", "reasons"),
    [
        (
            "hcnn_small_cifar10",
            ["Yes", "Partly", "None of those tried"],
            ["along v(j) changes the class scores less than", "(without a translation, 50%", "noise, their arrays"],
        ),
        (
            "hcnn_small_cifar10_circular",
            ["Yes", "Partly", "hue, brightness"],
            [
                "along v(j-1) changes the class scores more than",
                "in 20% of the cases",
                "hue, which moves arrays along v2 at",
            ],
        ),
        (
            "hcnn_cifar10_circular",
            ["Yes, before training too", "Partly", "position right, contrast, scale, rotation"],
            [
                "together (p = 0.042), as in the untrained network",
                "in 23% of the cases",
                "position right, which moves arrays along v5 at",
            ],
        ),
    ],
)  # fmt: skip
def test_answers_are_those_of_the_tables(name, short, reasons) -> None:
    study = load(name)
    found = answers(study, classes=10)
    assert [one.short for one in found] == short
    for one, reason in zip(found, reasons, strict=True):
        assert reason in one.reason
    if beyond := sum(row["verdict"] == "found" for row in study.properties):
        assert f"of {len(study.properties)} combinations" in found[2].reason
        assert f"{beyond} went beyond every control" in found[2].reason
        few = {"hcnn_small_cifar10_circular": 2, "hcnn_cifar10_circular": 4}[name]
        assert f"control. For {few} of them there are only two other orders of the 4 values" in found[2].reason


def test_nothing_is_said_where_nothing_was_found() -> None:
    study = load("digits-zeros")
    found = answers(study, 10)
    assert [one.short for one in found] == ["Not measurably", "Partly", "None of those tried"]
    assert "3 depths together (p = 0.19)" in found[0].reason
    few = [{**row, "smallest": 0.1} for row in study.orders]
    assert answers(replace(study, orders=few), 10)[0].short == "Not known"
    assert answers(replace(study, orders=[]), 10)[0].short == "Not known"
    assert answers(replace(study, properties=[]), 10)[2].short == "Not known"


@pytest.mark.parametrize(
    ("deviations", "short"),
    [
        ({"trained": -1.0}, "Yes"),
        ({"trained": -1.0, "untrained": -1.0}, "Yes, before training too"),
        ({"trained": -1.0, "untrained": 1.0}, "Yes"),  # untrained, it is the other way round
    ],
)
def test_an_order_that_matters_is_said_with_its_direction(deviations, short) -> None:
    study = load("digits-zeros")
    gentle = [
        {**row, "p": 0.001, "deviation": deviations[row["network"]]}
        if row["statistic"] == CHANGE and row["network"] in deviations
        else row
        for row in study.orders
    ]
    found = answers(replace(study, orders=gentle), 10)[0]
    assert found.short == short
    assert "changes the class scores less than the same move" in found.reason
    assert "(p = 0.002)" in found.reason  # of two attributes, corrected
    assert ("architecture" in found.reason) == (short != "Yes")


@pytest.mark.parametrize(("moved", "short"), [(0.9, "Mostly"), (0.72, "Mostly"), (0.69, "Partly"), (0.24, "Hardly")])
def test_a_class_survives_as_far_as_translations_keep_it(moved, short) -> None:
    study = load("digits-zeros")
    rows = [
        {**row, "value": moved if row["tau"] else 0.9} if row["statistic"] == "class consistency" else row
        for row in study.rows
    ]
    assert answers(replace(study, rows=rows), 10)[1].short == short


def test_chance_is_that_of_the_classes_of_the_images() -> None:
    """Nine tenths of the images belong to one class: a random one shows the query's class in 82 % of the cases."""
    study = load("digits-zeros")
    rows = [
        {**row, "value": 0.83 if row["tau"] else 0.95} if row["statistic"] == "class consistency" else row
        for row in study.rows
    ]
    found = answers(replace(study, rows=rows, info=study.info | {"chance": 0.82}), 2)[1]
    assert found.short == "Hardly"
    assert "by chance, about 82%" in found.reason


def test_a_report_opens_with_the_answers_and_folds_the_rest() -> None:
    data = {"classes": [str(n) for n in range(10)], "views": {}, "labels": {}, "thumbs": {}, "depth": 7}
    text = render(load("hcnn_small_cifar10"), data, RESULTS / "hcnn_small_cifar10")
    opening = text.split('id="strip"')[0]
    for question in ("Does the order", "Does the class survive", "Which property"):
        assert question in opening
    for word in ("<strong>τ</strong>", "<strong>x̄<sub>j</sub></strong>", "<strong>v<sub>j</sub></strong>"):
        assert word in opening
    folded = text.split("<summary>All")[1].split("</details>")[0]
    assert text.count("Class consistency after a translation") == folded.count("Class consistency after a translation")
    assert "not corrected for their number" in folded
    assert text.count("<img ") == 6
