"""The tables of a study: rows with intervals, and differences from the controls, paired by query image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hcnn.explore.arrays import Arrays
from hcnn.explore.shifts import shuffled_orders
from hcnn.explore.sources import AttributeSource, Source, attribute_dim
from hcnn.explore.statistics import (
    Bootstrap,
    Questions,
    class_consistency,
    estimate,
    flatness,
    path_distances,
    roughness,
)
from hcnn.layers.base import AttributeLayer

Row = dict[str, Any]  # of a study's table; `hcnn.explore.study` names its columns
Say = Callable[[str], None]
CONSISTENCY, CHANGE = "class consistency, τ ≠ 0", "logit change"
_ORDERS = 2  # shuffled orders for these tables; properties take more


def consistency_table(
    sources: Mapping[str, Source],
    bases: Mapping[str, tuple[Arrays, Tensor]],
    questions: Mapping[str, Questions],
    boot: Bootstrap,
    *,
    seed: int = 0,
    say: Say = lambda text: None,
) -> tuple[list[Row], list[Row]]:
    """Class consistency, and whether neighbours are near, after every whole shift along v_{j-1} and v_j.

    Args:
        sources: networks by name, "trained" among them.
        bases: for each network the arrays and classes of the database.
        questions: for each network the queries.
        boot: the resamples of the queries.
        seed: random seed for shuffled orders.
        say: called with a description of each step.

    Returns:
        Rows; and contrasts of the mean over τ ≠ 0 along v_{j-1} with each control, with no shift, and between the
        deepest and the first depth.

    """
    rows: list[Row] = []
    hits: dict[tuple[str, str], dict[int, Tensor]] = {}
    for name, source in sources.items():
        for j, attributes in source.attributes().items():
            say(f"{name}: neighbours at depth {j}")
            for axis, size in _last_two(j, attributes).items():
                for kind, orders in _kinds(size, seed, _ORDERS).items():
                    found = [class_consistency(*bases[name], questions[name], j, axis, order=order) for order in orders]
                    same = torch.stack([one for one, _ in found]).double().mean(0)  # (τ, n)
                    near = torch.stack([one for _, one in found]).double().mean(0)
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    for tau in range(size):
                        rows.append(_row("class consistency", at, same[tau], boot, tau))
                        rows.append(_row("near enough", at, near[tau], boot, tau))
                    if axis == f"v{j - 1}":
                        hits.setdefault((name, kind), {})[j] = same
    return rows, _consistency_contrasts(hits, boot)


def _consistency_contrasts(hits: Mapping[tuple[str, str], Mapping[int, Tensor]], boot: Bootstrap) -> list[Row]:
    own, contrasts = hits["trained", "own"], []
    for j, same in own.items():
        moved = same[1:].mean(0)
        contrasts.append(_contrast(CONSISTENCY, "no shift", j, moved - same[0], boot))
        for (name, kind), depths in hits.items():
            if (against := _control(name, kind)) and j in depths:
                contrasts.append(_contrast(CONSISTENCY, against, j, moved - depths[j][1:].mean(0), boot))
    for (name, kind), depths in hits.items():
        first, last = min(depths), max(depths)
        who = {"statistic": CONSISTENCY, "network": name, "order": kind}
        growth = depths[last][1:].mean(0) - depths[first][1:].mean(0)
        contrasts.append(_contrast(CONSISTENCY, f"depth {first}", last, growth, boot) | who)
        still = growth - (depths[last][0] - depths[first][0])
        contrasts.append(
            _contrast("", f"depth {first}", last, still, boot) | who | {"statistic": f"{CONSISTENCY}, less τ = 0"}
        )
    return contrasts


def path_table(
    sources: Mapping[str, Source], questions: Mapping[str, Questions], boot: Bootstrap, *, seed: int = 0
) -> list[Row]:
    """The distance between x̄ and its shift for τ in steps of 1/4 up to half a period; and roughness.

    Args:
        sources: networks by name.
        questions: for each network the queries.
        boot: the resamples of the queries.
        seed: random seed for shuffled orders.

    Returns:
        Rows "path distance" and "roughness".

    """
    rows: list[Row] = []
    for name, source in sources.items():
        for j, attributes in source.attributes().items():
            for axis, size in _last_two(j, attributes).items():
                dim = attribute_dim(axis, j, newest_at=-1)
                taus = [0.25 * k for k in range(2 * size + 1)]
                for kind, orders in _kinds(size, seed, _ORDERS).items():
                    arrays = [_reordered(questions[name].arrays[j], dim, order) for order in orders]
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    gone = torch.stack([path_distances(one, dim, taus) for one in arrays]).mean(0)
                    rows += [_row("path distance", at, gone[k], boot, tau) for k, tau in enumerate(taus)]
                    if size >= 4:
                        top, bottom = torch.stack([roughness(one, dim) for one in arrays]).mean(0)
                        low, high = boot.interval(boot.means(top) / boot.means(bottom))
                        value = float(top.mean() / bottom.mean())
                        numbers = {"value": value, "low": low, "high": high, "n": len(top)}
                        rows.append({"statistic": "roughness", **at, "tau": None, **numbers})
    return rows


def flatness_table(
    sources: Mapping[str, Source], x: Tensor, boot: Bootstrap, *, seed: int = 0, say: Say = lambda text: None
) -> tuple[list[Row], list[Row]]:
    """Class scores after every whole shift of x_j, along each attribute.

    Args:
        sources: networks by name, "trained" among them.
        x: standardized images.
        boot: the resamples of the images.
        seed: random seed for shuffled orders.
        say: called with a description of each step.

    Returns:
        Rows, in which ``implied`` marks shifts that cannot change the scores whatever the weights are; and contrasts of
        the change of the logits with each control, over the other shifts.

    """
    rows: list[Row] = []
    changes: dict[tuple[str, str], dict[tuple[int, str], Tensor]] = {}
    for name, source in sources.items():
        device = next(source.model.parameters()).device
        for j, attributes in source.attributes().items():
            say(f"{name}: class scores along translations at depth {j}")
            for axis, size in attributes.items():
                exact = implied_shifts(source, j, axis, size)
                free = [tau for tau in range(1, size) if tau not in exact]
                for kind, orders in _kinds(size, seed, 1).items():
                    stays, variation, change = flatness(source, x.to(device), j, axis, order=orders[0])
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    measured = {"prediction stays": stays.double(), "total variation": variation, CHANGE: change}
                    for what, values in measured.items():
                        for tau in range(1, size):
                            implied = tau in exact and (kind == "own" or not free)  # an average has no order
                            rows.append(_row(what, at, values[tau - 1], boot, tau) | {"implied": implied})
                    if free:
                        changes.setdefault((name, kind), {})[j, axis] = change[[tau - 1 for tau in free]].mean(0)
    contrasts: list[Row] = []
    for (name, kind), measured in changes.items():
        if against := _control(name, kind):
            for (j, axis), own in changes.get(("trained", "own"), {}).items():
                if (j, axis) in measured:
                    difference = own - measured[j, axis]
                    contrasts.append(_contrast(CHANGE, against, j, difference, boot) | {"attribute": axis})
    return rows, contrasts


def implied_shifts(source: Source, j: int, axis: str, size: int) -> set[int]:
    """Shifts along an attribute that cannot change the class scores, whatever the weights: theorems, not findings.

    Any shift where the next operator averages the attribute out before all else; and those of Proposition 3.1 in a
    periodic network.

    """
    if not isinstance(source, AttributeSource):
        return set()
    model = source.model
    if j < len(model.layers):
        layer, axes = model.layers[j], model.axes(j)
        assert isinstance(layer, AttributeLayer)
        kept = axes[len(axes) - len(layer.geometry.stride) :]  # the axes that the next layer convolves
    else:
        kept = (f"v{j}",)  # the readout averages all but the newest attribute
    if axis not in kept:
        return set(range(size))
    if source.boundary != "circular" or j == len(model.layers):
        return set()
    return set(range(0, size, model.invariant_shift(j, axis)))


# ------------------------------------------------------------------------------------------------------------ details


def _last_two(j: int, attributes: Mapping[str, int]) -> dict[str, int]:
    return {axis: size for axis, size in attributes.items() if axis != f"v{j - 2}"}


def _kinds(size: int, seed: int, count: int) -> dict[str, Sequence[Sequence[int] | None]]:
    shuffled = shuffled_orders(size, count, seed)
    return {"own": [None], **({"shuffled": shuffled} if shuffled else {})}


def _control(name: str, kind: str) -> str | None:
    """The name of a network and an order as a control, or None."""
    if name == "trained":
        return "shuffled order" if kind == "shuffled" else None
    return name if kind == "own" else None


def _reordered(arrays: Tensor, dim: int, order: Sequence[int] | None) -> Tensor:
    return arrays if order is None else arrays.index_select(dim, torch.tensor(order))


def _row(statistic: str, at: Row, values: Tensor, boot: Bootstrap, tau: float) -> Row:
    return {"statistic": statistic, **at, "tau": tau, **asdict(estimate(values, boot)), "n": len(values)}


def _contrast(statistic: str, against: str, depth: int, differences: Tensor, boot: Bootstrap) -> Row:
    found = estimate(differences, boot)
    verdict = "above" if found.low > 0 else "below" if found.high < 0 else "no difference"
    at = {"network": "trained", "order": "own", "against": against, "depth": depth, "attribute": f"v{depth - 1}"}
    return {"statistic": statistic, **at, **asdict(found), "n": len(differences), "verdict": verdict}
