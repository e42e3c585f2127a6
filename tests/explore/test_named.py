"""Attributes with names: what the page says of them."""

from pathlib import Path

import pytest

import hcnn
from hcnn.data.datasets import load
from hcnn.explore import explore_images
from hcnn.explore.named import Name, named_attributes
from hcnn.explore.page.views import describe, view
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

TIE = {"property": "rotation", "attribute": "v3", "depth": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("named") / "run"
    ties = ("rotation=v3@3", "blur=v4@4:weight=0")
    settings = RunSettings(
        hcnn.model_config("hcnn_digits", boundary="circular"), get_recipe("digits", epochs=1, attributes=ties), "digits"
    )
    train_run(folder, settings, load("digits"))
    return folder


def test_the_page_gets_the_names_of_a_run(folder) -> None:
    explorer = explore_images(load_run(folder), load("digits").train.subset(range(300)))
    named = {one["depth"]: one["named"] for one in describe(explorer)["depths"]}
    step = {"property": "rotation", "unit": "degrees, anticlockwise", "period": 180.0}
    assert named[3] == {"v3": {**step, "step": 22.5}}
    assert named[4] == {"v3": {**step, "step": 45.0}}  # v4 was augmented with blur, but not tied
    assert named[5] == {}
    assert view(explorer, 3, 3, {"v3": 1}, "v3", k=2)["named"] == named[3]["v3"]
    assert view(explorer, 3, 3, {"v2": 1}, "v2", k=2)["named"] is None


def test_runs_without_ties_have_no_names_and_damaged_ones_are_refused() -> None:
    assert named_attributes({}, 3, {"v3": 8}) == named_attributes({"recipe": {}}, 3, {"v3": 8}) == {}
    assert named_attributes({"recipe": {"attributes": [TIE]}}, 3, {"v3": 8})["v3"] == Name(
        "rotation", "degrees, anticlockwise", 22.5, 180.0
    )
    with pytest.raises(ValueError, match=r"recipe.attributes: expected a list; got str"):
        named_attributes({"recipe": {"attributes": "hue"}}, 3, {})
    with pytest.raises(ValueError, match=r"recipe.attributes\[0\]: property: unknown 'hew'"):
        named_attributes({"recipe": {"attributes": [{**TIE, "property": "hew"}]}}, 3, {})
