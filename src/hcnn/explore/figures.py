"""Figures 3 and 4 of the paper: images found at translated arrays, with the arrays beneath, and by depth and shift."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hcnn.explore.explorer import Explorer
from hcnn.plotting import literal, pyplot, save

UNKNOWN = "#7f8894"  # a frame where the query has no class
SAME, OTHER = "#0072b2", "#d55e00"  # can be told apart with any colour vision, and the class names are above


def default_queries(explorer: Explorer, count: int = 4) -> list[int]:
    """The first image of each of the first classes."""
    labels = explorer.base.labels
    return [int((labels == label).nonzero()[0]) for label in labels.unique().tolist()[:count]]


def figure3(
    explorer: Explorer,
    path: Path,
    *,
    queries: Sequence[int] | None = None,
    j: int | None = None,
    axis: str | None = None,
) -> None:
    """Draw, for some queries, the images nearest to their arrays translated by τ; paper, figure 3.

    Each row is a query with its array beneath, then for each τ the nearest image (never the query) with its own array
    beneath. Arrays are smoothed along the attribute, as they are compared. Translations wrap around: exact for a
    periodic network, an approximation under zeros.

    Args:
        explorer: the run with its database.
        path: the PNG to write.
        queries: images of the database; one of each of the first four classes if None.
        j: depth; J-1 if None.
        axis: "v…"; v_{j-1} if None.

    Raises:
        ValueError: for an image, depth or attribute that does not exist.
        ImportError: without matplotlib.

    """
    j = max(explorer.depths) if j is None else j
    axis = axis or f"v{j - 1}"
    queries = default_queries(explorer) if queries is None else queries
    taus = _taus(explorer, j, axis)
    low, high = _range(explorer, j, axis)
    plot = pyplot()
    figure, grid = plot.subplots(
        2 * len(queries),
        len(taus) + 1,
        figsize=(1.25 * (len(taus) + 1) + 0.4, 2.2 * len(queries) + 0.6),
        height_ratios=[1, 0.62] * len(queries),
        layout="constrained",
        squeeze=False,
    )
    drawn: Any = None
    for row, query in enumerate(queries):
        found = explorer.neighbours(query, j, [{axis: tau} for tau in taus])
        _image(grid[2 * row, 0], explorer, query, None, None, None)
        for column, index in enumerate([query, *found.indices[:, 0].tolist()]):
            if column:
                at = (float(found.distances[column - 1, 0]), bool(found.near[column - 1, 0]))
                _image(grid[2 * row, column], explorer, index, query, *at)
            beneath = grid[2 * row + 1, column]
            values = explorer.array(index, j, smooth=[axis]).numpy()
            drawn = beneath.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            beneath.set(xticks=[], yticks=[])
            if row == 0:
                _head(grid[0, column], "query" if column == 0 else f"τ = {taus[column - 1]}")
        grid[2 * row + 1, 0].set_ylabel(f"v{j - 1}", fontsize=8)
        grid[2 * row + 1, 0].set_xlabel(f"v{j}", fontsize=8)
    if drawn is not None:
        figure.colorbar(drawn, ax=grid, label=f"values of x̄{j}, smoothed along {axis}", extend="both", aspect=50)
    figure.suptitle(f"Nearest images after translating x̄{j} by τ along {axis}\n{_legend(explorer)}", fontsize=9)
    save(figure, path)


def figure4(explorer: Explorer, path: Path, *, query: int | None = None) -> None:
    """Draw the images nearest to translated arrays, depth by shift; paper, figure 4.

    Rows are depths, columns shifts τ along v_{j-1}.

    Args:
        explorer: the run with its database.
        path: the PNG to write.
        query: an image of the database; the first of its class 0 if None.

    Raises:
        ValueError: for an image that does not exist.
        ImportError: without matplotlib.

    """
    depths = explorer.depths
    query = default_queries(explorer, 1)[0] if query is None else query
    columns = 1 + max(len(_taus(explorer, j, f"v{j - 1}")) for j in depths)
    plot = pyplot()
    figure, grid = plot.subplots(
        len(depths),
        columns,
        figsize=(1.25 * columns + 0.4, 1.42 * len(depths) + 0.7),
        layout="constrained",
        squeeze=False,
    )
    for row, j in enumerate(depths):
        taus = _taus(explorer, j, f"v{j - 1}")
        found = explorer.neighbours(query, j, [{f"v{j - 1}": tau} for tau in taus])
        _image(grid[row, 0], explorer, query, None, None, None)
        grid[row, 0].set_ylabel(f"x{j}", rotation=0, ha="right", va="center", fontsize=9)
        for column in range(1, columns):
            if column > len(taus):
                grid[row, column].axis("off")
                continue
            at = (float(found.distances[column - 1, 0]), bool(found.near[column - 1, 0]))
            _image(grid[row, column], explorer, int(found.indices[column - 1, 0]), query, *at)
            if row == 0:
                _head(grid[0, column], f"τ = {taus[column - 1]}")
    _head(grid[0, 0], "query")
    figure.suptitle(f"Nearest images after translating x̄j by τ along v(j-1), j = {depths[0]} … {depths[-1]}\n"
                    + _legend(explorer), fontsize=9)  # fmt: skip
    save(figure, path)


def _taus(explorer: Explorer, j: int, axis: str) -> list[int]:
    sizes = explorer.attributes(j)
    if axis not in sizes:
        raise ValueError(f"axis: expected one of {', '.join(sizes)} at depth {j}; got {axis!r}")
    return list(range(sizes[axis]))


def _range(explorer: Explorer, j: int, axis: str) -> tuple[float, float]:
    values = explorer.space(j, [axis]).arrays(torch.arange(min(2000, len(explorer.base)))).flatten()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99])).tolist()
    return low, high


def _image(
    axes: Any, explorer: Explorer, index: int, query: int | None, distance: float | None, near: bool | None
) -> None:
    pixels = explorer.image(index)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"figures: expected images (1 or 3, height, width); got shape {tuple(pixels.shape)}")
    axes.imshow(pixels.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    name = literal(explorer.base.classes[explorer.label(index)], 16)
    same = query is not None and explorer.label(index) == explorer.label(query)
    for spine in axes.spines.values():
        spine.set(color=SAME if same else OTHER, linewidth=2.5 if query is not None else 0)
        spine.set_linestyle("-" if near or near is None else "--")
    title = name if distance is None else f"{name} · {distance:.2f}"
    axes.set_title(title, fontsize=8 * 17 / max(17, len(title)), pad=3)  # long names would run into their neighbours


def _head(axes: Any, text: str) -> None:
    axes.annotate(text, (0.5, 1.3), xycoords="axes fraction", ha="center", fontsize=9, annotation_clip=False)


def _legend(explorer: Explorer) -> str:
    exact = "" if explorer.periodic else "\nthe network is not periodic, so translations are an approximation"
    return (
        "above each image: class · distance; blue frame: the query's class, orange: another class,\n"
        f"dashed: farther away than 95 % of unshifted images are from their nearest one{exact}"
    )
