"""Figures of a study: a heat map of properties, and curves of everything else, with controls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hcnn.explore.sources import array_name
from hcnn.explore.study import Study
from hcnn.explore.tables import CHANGE, CONSISTENCY, Row
from hcnn.plotting import literal, pyplot, save

# Okabe and Ito's colours, told apart by all kinds of colour vision; line styles differ too.
_COLOURS = {"trained": "#0072b2", "shuffled": "#d55e00", "untrained": "#666666"}
_OTHERS = ("#009e73", "#cc79a7", "#e69f00")
_STYLES = {"trained": "-", "shuffled": "--", "untrained": ":"}


def draw_study(study: Study, folder: Path) -> list[Path]:
    """Draw every figure of a study into a folder.

    Args:
        study: the results.
        folder: an existing folder for the PNGs.

    Returns:
        The files.

    Raises:
        ImportError: without matplotlib.

    """
    figures: dict[str, Callable[[Study, Path], None]] = {
        "consistency.png": consistency_figure,
        "smoothness.png": smoothness_figure,
        "flatness.png": flatness_figure,
    }
    if study.properties:
        figures["properties.png"] = property_figure
    for name, draw in figures.items():
        draw(study, folder / name)
    return [folder / name for name in figures]


def property_figure(study: Study, path: Path) -> None:
    """Correlation of shift and amount by depth and attribute (rows) and property (columns), with controls.

    All maps share one diverging scale. In the first, the percentage in a cell is the share of the array's change that
    the shifts explain; a frame marks cells that are beyond every control.

    """
    rows = study.properties
    lines = list(dict.fromkeys((row["depth"], row["attribute"]) for row in rows))
    names = list(dict.fromkeys(row["property"] for row in rows))
    at = {(row["depth"], row["attribute"], row["property"]): row for row in rows}
    maps = [("trained network", "value"), ("strongest of the shuffled orders", "shuffled_r")]
    maps += [(_title(name), f"{name}_r") for name in study.info["controls"]]
    plot = pyplot()
    # The controls, which hold no numbers, are narrow, so that a page as wide as a text can show all maps legibly.
    widths = [0.42, *[0.2] * (len(maps) - 1)]
    figure, grid = plot.subplots(
        1,
        len(maps),
        figsize=(len(names) * sum(widths) + 1.6, 0.32 * len(lines) + 2.0),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    image = None
    for (title, key), axes in zip(maps, grid[0], strict=True):
        values = [[_number(at[*line, name].get(key)) for name in names] for line in lines]
        image = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_title(title.replace("of the ", "of\nthe "), fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        labels = [f"{array_name(axis, j)}, {axis}" for j, axis in lines] if axes is grid[0, 0] else []
        axes.set_yticks(range(len(lines)), labels, fontsize=8)
        if key == "value":
            for y, line in enumerate(lines):
                for x, name in enumerate(names):
                    _cell(axes, plot, x, y, at[*line, name])
    figure.colorbar(image, ax=list(grid[0]), label="correlation of shift with amount", shrink=0.8)
    found = sum(row["verdict"] == "found" for row in rows)
    figure.suptitle(
        f"Do shifts follow a property? {found} of {len(rows)} beyond every control (framed)\n"
        "%: share of the array's change that the best shifts explain",
        fontsize=10,
    )
    save(figure, path)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _cell(axes: Any, plot: Any, x: int, y: int, row: Row) -> None:
    dark = abs(row["value"]) > 0.6
    axes.text(
        x, y, f"{100 * row['explained']:.0f}%", ha="center", va="center", fontsize=6.5, color="w" if dark else "k"
    )
    if row["verdict"] == "found":
        axes.add_patch(plot.Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor="k", linewidth=2))


def consistency_figure(study: Study, path: Path) -> None:
    """Class consistency against depth: no shift, and the mean over all other shifts along v_{j-1}, with controls."""
    plot = pyplot()
    figure, (left, right) = plot.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    rows = [row for row in study.rows if row["statistic"] == "class consistency" and _newer(row, 1)]
    moved = [row for row in rows if row["tau"] and row["order"] == "own"] + _shuffled(study, CONSISTENCY, 1)
    for axes, title, shown in (
        (left, "no shift (τ = 0)", [row for row in rows if not row["tau"]]),
        (right, "translated along v(j-1), mean over τ ≠ 0", moved),
    ):
        _lines(axes, shown, study)
        axes.set(title=title, xlabel="depth j", ylim=(0, 1.03))
    left.set_ylabel("nearest image has the query's class")
    _finish(figure, path, left, study, "class consistency")


def smoothness_figure(study: Study, path: Path) -> None:
    """How far arrays move when translated, at the middle depth, and how rough the order is at every depth."""
    plot = pyplot()
    figure, grid = plot.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
    grid[2].sharey(grid[1])
    depths = sorted({row["depth"] for row in study.rows})
    middle = depths[len(depths) // 2]
    for name, order in _kinds(study):
        rows = [row for row in study.rows if row["statistic"] == "path distance" and row["depth"] == middle
                and _newer(row, 1) and row["network"] == name and row["order"] == order]  # fmt: skip
        if rows:
            label, style = _style(name, order)
            x = [row["tau"] for row in rows]
            grid[0].plot(x, [row["value"] for row in rows], label=label, **style)
            grid[0].fill_between(
                x, [r["low"] for r in rows], [r["high"] for r in rows], color=style["color"], alpha=0.15
            )
    grid[0].axhline(1, color="k", linewidth=0.6)
    grid[0].set(title=f"x̄{middle} translated by τ along v{middle - 1}", xlabel="τ")
    grid[0].set_ylim(bottom=0)
    grid[0].set_ylabel("squared distance; 1 = a random other image")
    for back, axes in ((1, grid[1]), (0, grid[2])):
        rows = [row for row in study.rows if row["statistic"] == "roughness" and _newer(row, back)]
        _lines(axes, rows, study)
        axes.axhline(1, color="k", linewidth=0.6)
        axes.set(title=f"roughness along {'v(j-1)' if back else 'v(j)'}", xlabel="depth j")  # near 1: no axis from 0
    grid[1].set_ylabel("neighbours over all pairs; 1 = no order")
    _finish(figure, path, grid[0], study, "path distance")


def flatness_figure(study: Study, path: Path) -> None:
    """How much the class scores change, by depth, under shifts of x_j that could change them."""
    plot = pyplot()
    figure, grid = plot.subplots(2, 2, figsize=(10, 6.6), layout="constrained", sharex=True, sharey="row")
    for line, what in zip(grid, (CHANGE, "prediction stays"), strict=True):
        for back, axes in zip((1, 0), line, strict=True):
            rows = [row for row in study.rows if row["statistic"] == what and _newer(row, back) and not row["implied"]]
            own = [row for row in rows if row["order"] == "own"]
            # No shift is implied in a shuffled order, but the same ones are compared. No table has the range of their
            # means over orders.
            free = {(row["depth"], row["tau"]) for row in own if row["network"] == "trained"}
            others = [{**row, "low": row["value"], "high": row["value"]} for row in rows
                      if row["order"] == "shuffled" and (row["depth"], row["tau"]) in free]  # fmt: skip
            _lines(axes, own + (_shuffled(study, CHANGE, back) if what == CHANGE else others), study)
            if what == CHANGE:
                axes.axhline(1, color="k", linewidth=0.6)
                axes.set_title(f"x_j translated along v(j{f'-{back}' if back else ''})")
            else:
                axes.set_xlabel("depth j")
    grid[0, 0].set_ylim(bottom=0)  # once all panels are drawn, since they share the axis
    grid[1, 0].set_ylim(0, 1.03)
    grid[0, 0].set_ylabel("squared change of scores\n1 = a random other image")
    grid[1, 0].set_ylabel("predicted class stays")
    _finish(figure, path, grid[0, 0], study, CHANGE)


def _newer(row: Row, back: int) -> bool:
    return row["attribute"] == f"v{row['depth'] - back}"


def _shuffled(study: Study, statistic: str, back: int) -> list[Row]:
    """The means over τ in shuffled orders, as rows: the range of the means is narrower than the mean of the ranges."""
    return [
        {"network": row["network"], "order": "shuffled", "depth": row["depth"], "value": row["shuffled"]}
        | {"low": row["low"], "high": row["high"]}
        for row in study.orders
        if row["statistic"] == statistic and row["depth"] is not None and _newer(row, back)
    ]


def _kinds(study: Study) -> list[tuple[str, str]]:
    return [("trained", "own"), ("trained", "shuffled"), *((name, "own") for name in study.info["controls"])]


def _title(network: str) -> str:
    """What a network is called in pictures; matplotlib leaves labels out that begin with an underscore."""
    return network if network in _COLOURS else f"control: {literal(network)}"


def _style(name: str, order: str) -> tuple[str, dict[str, Any]]:
    key = "shuffled" if order == "shuffled" else name
    label = "trained, shuffled order" if key == "shuffled" else _title(key)
    other = _OTHERS[sum(map(ord, key)) % len(_OTHERS)]
    return label, {"color": _COLOURS.get(key, other), "linestyle": _STYLES.get(key, "-.")}


def _lines(axes: Any, rows: Sequence[Row], study: Study) -> None:
    """One line per network and order over depth; where a depth has several rows, their mean."""
    for name, order in _kinds(study):
        mine = [row for row in rows if row["network"] == name and row["order"] == order]
        depths = sorted({row["depth"] for row in mine})
        if not depths:
            continue
        label, style = _style(name, order)
        mean = {
            key: [
                sum(row[key] for row in mine if row["depth"] == j) / sum(row["depth"] == j for row in mine)
                for j in depths
            ]
            for key in ("value", "low", "high")
        }
        axes.plot(depths, mean["value"], marker=".", label=label, **style)
        axes.fill_between(depths, mean["low"], mean["high"], color=style["color"], alpha=0.15, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _finish(figure: Any, path: Path, first: Any, study: Study, statistic: str) -> None:
    """Save a figure with its legend and a title that says on how many images the statistic was measured."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    asked, count = literal(study.info["queries"], 80), next(r["n"] for r in study.rows if r["statistic"] == statistic)
    if not study.info["queries"].startswith(f"{count} "):
        asked = f"{count} of the queries ({asked})"
    figure.suptitle(
        f"{literal(study.info['run'], 60)}, {asked}; bands: 95 % over query images"
        f"{'' if statistic == 'path distance' else ' (mean over τ)'}; of shuffled orders, their range",
        fontsize=9,
    )
    save(figure, path)
