"""What the pictures of a study show: nothing is cut off, nothing squeezed, every map of values has a scale."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from PIL import Image

import hcnn
from hcnn.data import datasets
from hcnn.explore import explore_images, figures, study_figures
from hcnn.explore.findings import findings
from hcnn.explore.page import images as page_images
from hcnn.explore.page import views
from hcnn.explore.study import Study
from hcnn.explore.study_figures import draw_study
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

RESULTS = Path(__file__).parents[2] / "results" / "explore"


@pytest.fixture(scope="module")
def explorer(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("pictures") / "digits"
    data = datasets.load("digits")
    settings = RunSettings(hcnn.model_config("hcnn_digits"), get_recipe("digits", epochs=1), "digits")
    train_run(folder, settings, data)
    return explore_images(load_run(folder), data.train.subset(range(300)))


def drawn(module: Any, monkeypatch, call: Any) -> list[Any]:
    """The figures that a call would have saved."""
    kept: list[Any] = []
    monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
    call()
    return kept


def _heights(axes: Any) -> list[np.ndarray]:
    """The heights of all lines and bands."""
    bands = [one for one in axes.collections if isinstance(one, PolyCollection)]
    return [
        *(np.asarray(line.get_ydata(), float) for line in axes.lines),
        *(np.asarray(path.vertices)[:, 1] for band in bands for path in band.get_paths()),
    ]


@pytest.mark.parametrize("name", ["digits-zeros", "hcnn_small_cifar10", "hcnn_small_cifar10_circular"])
def test_every_curve_and_band_lies_within_its_axes(name, monkeypatch, tmp_path) -> None:
    study = Study(**json.loads((RESULTS / name / "study.json").read_text()))
    curves = 0
    for figure in drawn(study_figures, monkeypatch, lambda: draw_study(study, tmp_path)):
        figure.canvas.draw()
        for axes in figure.axes:
            low, high = axes.get_ylim()
            if not any(isinstance(one, PolyCollection) for one in axes.collections):
                continue
            heights = _heights(axes)
            curves += len(heights)
            values = np.concatenate(heights)
            assert low <= values.min() <= values.max() <= high, axes.get_title()
            if "roughness" in axes.get_title():  # values about 1: an axis from 0 would hide every difference
                alike = [one for one in figure.axes if "roughness" in one.get_title()]
                shared = np.concatenate([values for one in alike for values in _heights(one)])
                assert high - low < 1.5 * (shared.max() - shared.min())
    assert curves > 30


def test_maps_of_values_have_a_scale(explorer, monkeypatch, tmp_path) -> None:
    [figure] = drawn(figures, monkeypatch, lambda: figures.figure3(explorer, tmp_path / "x.png", queries=[3]))
    assert [axes.get_ylabel() for axes in figure.axes if "values of" in axes.get_ylabel()] == [
        "values of x̄6, smoothed along v5"
    ]
    study = Study(**json.loads((RESULTS / "digits-zeros" / "study.json").read_text()))
    [figure] = drawn(
        study_figures, monkeypatch, lambda: study_figures.property_figure(study, tmp_path / "properties.png")
    )
    assert figure.axes[-1].get_ylabel() == "correlation of shift with amount"


def test_figures_say_how_many_images_they_show_and_which_arrays(monkeypatch, tmp_path) -> None:
    study = Study(**json.loads((RESULTS / "hcnn_cifar10_circular" / "study.json").read_text()))
    made = drawn(study_figures, monkeypatch, lambda: draw_study(study, tmp_path))
    consistency, smoothness, flatness, properties = made
    for figure in (consistency, smoothness):
        assert figure.get_suptitle().startswith("hcnn_cifar10_circular, 500 of cifar10/test; bands")
    assert flatness.get_suptitle().startswith("hcnn_cifar10_circular, 100 of the queries (500 of cifar10/test); bands")
    names = [label.get_text() for label in properties.axes[0].get_yticklabels()]
    assert names[:4] == ["x3, v1", "x̄3, v2", "x̄3, v3", "x4, v2"]  # x̄_j averages over v_{j-2}
    assert "Rotation: found in x4 along v2 (r = -0.353 [-0.410, -0.290], 1% of the change)." in findings(study)


@pytest.mark.parametrize("name", ["digits-zeros", "hcnn_small_cifar10_circular"])
def test_bands_of_shuffled_orders_hold_what_the_own_order_is_compared_with(name, monkeypatch, tmp_path) -> None:
    """The mean over the shifts in each order, and the same shifts as in the own order."""
    study = Study(**json.loads((RESULTS / name / "study.json").read_text()))
    made = drawn(study_figures, monkeypatch, lambda: draw_study(study, tmp_path))
    panels = [
        ("class consistency, τ ≠ 0", 1, made[0].axes[1]),
        *(("logit change", 1 - k, made[2].axes[k]) for k in (0, 1)),
    ]
    for statistic, back, axes in panels:
        rows = [
            row
            for row in study.orders
            if (row["statistic"], row["network"]) == (statistic, "trained") and row["depth"] is not None
            and row["attribute"] == f"v{row['depth'] - back}"
        ]  # fmt: skip
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        assert lines["trained"].tolist() == pytest.approx([row["own"] for row in rows], rel=1e-4)
        assert lines["trained, shuffled order"].tolist() == pytest.approx([row["shuffled"] for row in rows], rel=1e-4)
        band = axes.collections[1].get_paths()[0].vertices[:, 1]
        assert {row["low"] for row in rows} | {row["high"] for row in rows} == set(band.tolist())
    flat = [row for row in study.rows if row["statistic"] == "prediction stays" and row["network"] == "trained"
            and row["attribute"] == f"v{row['depth'] - 1}" and row["depth"] == 3]  # fmt: skip
    free = [row["tau"] for row in flat if row["order"] == "own" and not row["implied"]]
    expected = [row["value"] for row in flat if row["order"] == "shuffled" and row["tau"] in free]
    stays = {line.get_label(): line.get_ydata() for line in made[2].axes[2].lines}
    assert stays["trained, shuffled order"][0] == pytest.approx(sum(expected) / len(free))


def colours(data: bytes) -> set[str]:
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}


def test_neighbours_of_an_image_without_a_class_are_neither_right_nor_wrong(explorer) -> None:
    for query, shown in ((3, {figures.SAME, figures.OTHER}), (explorer.base.images[3], {figures.UNKNOWN})):
        view = views.view(explorer, query, 4, {"v3": 1}, "v3")
        found = colours(page_images.view_png(explorer, query, view))
        assert found & {figures.SAME, figures.OTHER, figures.UNKNOWN} == shown
