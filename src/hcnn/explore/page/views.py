"""The view of one image, depth and translation: neighbours, their distances, class scores and controls."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from hcnn.explore import shifts
from hcnn.explore.explorer import Explorer, Query
from hcnn.explore.neighbours import Neighbours
from hcnn.text import printable

View = dict[str, Any]


def describe(explorer: Explorer) -> View:
    """The facts about a run that a page needs before it requests views.

    Args:
        explorer: the run with its database.

    Returns:
        Name, classes, number and digest of the images, depths with their attributes, whether translations are exact;
        plain values for JSON. Names are `hcnn.text.printable`.
    """
    return {
        "run": printable(explorer.run.folder.name),
        "data": printable(explorer.base.name),
        "images": len(explorer.base),
        "digest": explorer.base.digest()[:12],
        "classes": [printable(name) for name in explorer.base.classes],
        "periodic": explorer.periodic,
        "depths": [
            {"depth": j, "attributes": explorer.attributes(j), "named": _named(explorer, j)} for j in explorer.depths
        ],
    }


def view(explorer: Explorer, query: Query, j: int, move: Mapping[str, float], axis: str, *, k: int = 6) -> View:
    """The neighbours of an image along one attribute, with controls and class scores.

    Rows: "now", at `move` itself; "shift" for every whole τ along `axis`, the other attributes as in `move`;
    "shuffled", at `move` with the values of `axis` in a random order, a control for its order.

    Args:
        explorer: the run with its database.
        query: an image of the database, or any image, uint8 (c, *u).
        j: depth.
        move: amount per attribute; attributes that are not named are not translated.
        axis: the attribute along which the rows are translated.
        k: neighbours per row; in a small database as many as there are besides the query.

    Returns:
        Plain values for JSON. ``found`` holds for each row (image, class, distance, near enough); ``far`` is the
        distance that only 5 % of unshifted images exceed to their nearest.

    Raises:
        ValueError: for an image, depth, attribute, amount or k that does not exist.
    """
    sizes = explorer.attributes(j)
    for name in (axis, *move):
        if name not in sizes:
            raise ValueError(f"attribute: expected one of {', '.join(sizes)} at depth {j}; got {name!r}")
    here = {axis: 0.0, **move}
    rest = {name: amount for name, amount in here.items() if name != axis and amount}
    space = explorer.space(j, [axis, *rest])
    taus = list(range(sizes[axis]))
    if isinstance(query, int):
        explorer.label(query)  # refuses a number that does not exist
        start, own = torch.tensor([query]), query
    else:
        start, own = explorer.arrays_of(query[None])[1][j], -1
    k = min(k, len(space) - 1)
    moves = [here, *({**rest, axis: tau} for tau in taus)]
    moved = space.moved(start, moves)[0]
    rows: list[View] = [{"kind": "now", "tau": here[axis]}, *({"kind": "shift", "tau": tau} for tau in taus)]
    found = _found(explorer, space.nearest(moved, k, exclude=torch.full((len(moved),), own)))
    if orders := shifts.shuffled_orders(sizes[axis], 1):
        # All arrays are reordered before they are smoothed, as in the study: one that is smooth along another order
        # than the database would be farther away from every image.
        other = explorer.space(j, space.smooth, {axis: orders[0]})
        found += _found(explorer, other.nearest(other.moved(start, [here])[0], k, exclude=torch.tensor([own])))
        rows.append({"kind": "shuffled", "tau": here[axis]})
    scores = explorer.scores(query, j, moves)
    for row, one in zip(rows, found, strict=True):
        row["found"] = one
    for row, one in zip(rows, scores.tolist(), strict=False):
        row["scores"] = [round(value, 4) for value in one]
    reference = space.nearest_distances()
    return {
        "image": query if isinstance(query, int) else None,
        "label": explorer.label(query) if isinstance(query, int) else None,
        "depth": j,
        "axis": axis,
        "named": _named(explorer, j).get(axis),
        "move": here,
        "rows": rows,
        "array": [[round(value, 4) for value in line] for line in moved[0].tolist()],
        "far": round(float(reference[int(0.95 * (len(reference) - 1))]), 4),
    }


def _named(explorer: Explorer, j: int) -> dict[str, View]:
    """The attributes of a depth that training tied to a property."""
    return {axis: asdict(one) for axis, one in explorer.named(j).items()}


def grid(explorer: Explorer, query: Query, j: int) -> View:
    """The nearest image at every pair of whole shifts along both attributes of a depth.

    Returns:
        Plain values for JSON: the two attributes, and cells[a][b] = (image, class, distance, near enough).

    Raises:
        ValueError: for an image or depth that does not exist, or a depth with one attribute.
    """
    sizes = explorer.attributes(j)
    if len(sizes) < 2:
        raise ValueError(f"grid: depth {j} has one attribute; expected one with two")
    (first, m), (second, n) = sizes.items()
    moves = [{first: a, second: b} for a in range(m) for b in range(n)]
    found = _found(explorer, explorer.neighbours(query, j, moves))
    cells = [[found[a * n + b][0] for b in range(n)] for a in range(m)]
    return {"depth": j, "axes": [first, second], "cells": cells}


def _found(explorer: Explorer, neighbours: Neighbours) -> list[list[tuple[int, int, float, bool]]]:
    labels = explorer.base.labels[neighbours.indices]
    columns = neighbours.indices, labels, neighbours.distances, neighbours.near
    rows = zip(*(one.tolist() for one in columns), strict=True)
    return [[(i, c, round(d, 4), near) for i, c, d, near in zip(*row, strict=True)] for row in rows]
