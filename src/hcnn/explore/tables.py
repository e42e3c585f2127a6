"""The tables of a study: rows with intervals, differences from the controls, and tests of the order of attributes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from hcnn.explore.arrays import Arrays
from hcnn.explore.orders import order_test
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
CONSISTENCY, CHANGE, ROUGHNESS = "class consistency, τ ≠ 0", "logit change", "roughness"
ORDERS = 19  # shuffled orders of an attribute; of 4 values there are only 2


@dataclass
class Tables:
    """What was measured.

    Attributes:
        rows: the curves; `hcnn.explore.study` names their columns.
        contrasts: differences from other networks, from no shift, and between depths, paired by query.
        orders: the own order of attributes against shuffled ones.

    """

    rows: list[Row] = field(default_factory=list)
    contrasts: list[Row] = field(default_factory=list)
    orders: list[Row] = field(default_factory=list)

    def add(self, other: "Tables") -> None:
        """Append the rows of other tables."""
        self.rows += other.rows
        self.contrasts += other.contrasts
        self.orders += other.orders


def consistency_table(
    sources: Mapping[str, Source],
    bases: Mapping[str, tuple[Arrays, Tensor]],
    questions: Mapping[str, Questions],
    boot: Bootstrap,
    *,
    orders: int = ORDERS,
    seed: int = 0,
    say: Say = lambda text: None,
) -> Tables:
    """Class consistency, and whether neighbours are near, after every whole shift along v_{j-1} and v_j.

    Args:
        sources: networks by name, "trained" among them.
        bases: for each network the arrays and classes of the database.
        questions: for each network the queries.
        boot: the resamples of the queries.
        orders: number of shuffled orders.
        seed: random seed for shuffled orders.
        say: called with a description of each step.

    Returns:
        Rows; contrasts of the mean over τ ≠ 0 along v_{j-1} with other networks, with no shift, and between the
        deepest and the first depth; and tests of the order.

    """
    tables, compared = Tables(), _Compared()
    hits: dict[tuple[str, str], dict[int, Tensor]] = {}
    for name, source in sources.items():
        for j, attributes in source.attributes().items():
            say(f"{name}: neighbours at depth {j}")
            for axis, size in _last_two(j, attributes).items():
                for kind, some in _kinds(size, seed, orders).items():
                    found = [class_consistency(*bases[name], questions[name], j, axis, order=order) for order in some]
                    same = torch.stack([one for one, _ in found]).double()  # (orders, τ, n)
                    near = torch.stack([one for _, one in found]).double()
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    for tau in range(size):
                        tables.rows.append(_row("class consistency", at, same[:, tau], boot, tau))
                        tables.rows.append(_row("near enough", at, near[:, tau], boot, tau))
                    compared.add(CONSISTENCY, name, j, axis, same[:, 1:].mean((1, 2)))
                    if axis == f"v{j - 1}":
                        hits.setdefault((name, kind), {})[j] = same.mean(0)
    tables.contrasts, tables.orders = _consistency_contrasts(hits, boot), compared.rows(seed)
    return tables


def _consistency_contrasts(hits: Mapping[tuple[str, str], Mapping[int, Tensor]], boot: Bootstrap) -> list[Row]:
    own, contrasts = hits["trained", "own"], []
    for j, same in own.items():
        moved = same[1:].mean(0)
        contrasts.append(_contrast(CONSISTENCY, "no shift", j, moved - same[0], boot))
        for (name, kind), depths in hits.items():
            if name != "trained" and kind == "own" and j in depths:
                contrasts.append(_contrast(CONSISTENCY, name, j, moved - depths[j][1:].mean(0), boot))
    for (name, kind), depths in hits.items():
        first, last = min(depths), max(depths)
        if first == last:  # there is one depth only, as in a network of J = 4
            continue
        who = {"statistic": CONSISTENCY, "network": name, "order": kind}
        growth = depths[last][1:].mean(0) - depths[first][1:].mean(0)
        contrasts.append(_contrast(CONSISTENCY, f"depth {first}", last, growth, boot) | who)
        still = growth - (depths[last][0] - depths[first][0])
        contrasts.append(
            _contrast("", f"depth {first}", last, still, boot) | who | {"statistic": f"{CONSISTENCY}, less τ = 0"}
        )
    return contrasts


def path_table(
    sources: Mapping[str, Source],
    questions: Mapping[str, Questions],
    boot: Bootstrap,
    *,
    orders: int = ORDERS,
    seed: int = 0,
) -> Tables:
    """The distance between x̄ and its shift for τ in steps of 1/4 up to half a period; and roughness.

    Args:
        sources: networks by name.
        questions: for each network the queries.
        boot: the resamples of the queries.
        orders: number of shuffled orders.
        seed: random seed for shuffled orders.

    Returns:
        Rows "path distance" and "roughness", and tests of the order by roughness.

    """
    tables, compared = Tables(), _Compared()
    for name, source in sources.items():
        for j, attributes in source.attributes().items():
            for axis, size in _last_two(j, attributes).items():
                dim = attribute_dim(axis, j, newest_at=-1)
                taus = [0.25 * k for k in range(2 * size + 1)]
                for kind, some in _kinds(size, seed, orders).items():
                    arrays = [_reordered(questions[name].arrays[j], dim, order) for order in some]
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    gone = torch.stack([path_distances(one, dim, taus) for one in arrays])
                    tables.rows += [_row("path distance", at, gone[:, k], boot, tau) for k, tau in enumerate(taus)]
                    if size >= 4:
                        top, bottom = torch.stack([roughness(one, dim) for one in arrays]).unbind(1)  # (orders, n)
                        ratios = top.mean(1) / bottom.mean(1)
                        compared.add(ROUGHNESS, name, j, axis, ratios)
                        numbers = _range(ratios)
                        if kind == "own":
                            low, high = boot.interval(boot.means(top[0]) / boot.means(bottom[0]))
                            numbers |= {"low": low, "high": high}
                        tables.rows.append({"statistic": ROUGHNESS, **at, "tau": None, **numbers, "n": top.shape[1]})
    tables.orders = compared.rows(seed)
    return tables


def flatness_table(
    sources: Mapping[str, Source],
    x: Tensor,
    boot: Bootstrap,
    *,
    orders: int = ORDERS,
    seed: int = 0,
    say: Say = lambda text: None,
) -> Tables:
    """Class scores after every whole shift of x_j, along each attribute.

    Args:
        sources: networks by name, "trained" among them.
        x: standardized images.
        boot: the resamples of the images.
        orders: number of shuffled orders.
        seed: random seed for shuffled orders.
        say: called with a description of each step.

    Returns:
        Rows, in which ``implied`` marks shifts that cannot change the scores whatever the weights are; and, over the
        other shifts, contrasts of the change of the logits with other networks, and tests of the order.

    """
    tables, compared = Tables(), _Compared()
    changes: dict[str, dict[tuple[int, str], dict[int, Tensor]]] = {}  # by shift
    for name, source in sources.items():
        images = x.to(next(source.model.parameters()).device)
        for j, attributes in source.attributes().items():
            say(f"{name}: class scores along translations at depth {j}")
            for axis, size in attributes.items():
                exact = implied_shifts(source, j, axis, size)
                free = [tau - 1 for tau in range(1, size) if tau not in exact]
                # Where all shifts are implied, an average comes next, which knows no order.
                for kind, some in _kinds(size, seed, orders if free else 1).items():
                    found = [flatness(source, images, j, axis, order=order) for order in some]
                    stays, variation, change = (torch.stack(one).double() for one in zip(*found, strict=True))
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    measured = {"prediction stays": stays, "total variation": variation, CHANGE: change}
                    for what, values in measured.items():
                        for tau in range(1, size):
                            implied = tau in exact and (kind == "own" or not free)
                            tables.rows.append(_row(what, at, values[:, tau - 1], boot, tau) | {"implied": implied})
                    if free:
                        compared.add(CHANGE, name, j, axis, change[:, free].mean((1, 2)))
                        if kind == "own":
                            changes.setdefault(name, {})[j, axis] = {k: change[0, k] for k in free}
    own = changes.get("trained", {})
    for name, measured in changes.items():
        for (j, axis), values in own.items():
            others = measured.get((j, axis), {})
            if name != "trained" and (both := [k for k in values if k in others]):
                differences = [torch.stack([one[k] for k in both]).mean(0) for one in (values, others)]
                row = _contrast(CHANGE, name, j, differences[0] - differences[1], boot) | {"attribute": axis}
                tables.contrasts.append(row)
    tables.orders = compared.rows(seed)
    return tables


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


def _reordered(arrays: Tensor, dim: int, order: Sequence[int] | None) -> Tensor:
    return arrays if order is None else arrays.index_select(dim, torch.tensor(order))


def _row(statistic: str, at: Row, values: Tensor, boot: Bootstrap, tau: float) -> Row:
    """Numbers of (orders, n) values: for the own order an interval over queries, else the range of the orders."""
    own = at["order"] == "own"
    numbers = asdict(estimate(values[0], boot)) if own else _range(values.double().mean(1))
    return {"statistic": statistic, **at, "tau": tau, **numbers, "n": values.shape[1]}


def _range(values: Tensor) -> dict[str, float]:
    """The mean of (orders,) numbers, and the lowest and the highest."""
    return {"value": float(values.mean()), "low": float(values.min()), "high": float(values.max())}


class _Compared:
    """Values of statistics in the own order of each attribute, then in shuffled ones; see `order_test`."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, int], dict[int, list[float]]] = {}

    def add(self, statistic: str, network: str, j: int, axis: str, values: Tensor) -> None:
        """Add one value per order; those of the own order come first."""
        back = j - int(axis[1:])
        self.values.setdefault((statistic, network, back), {}).setdefault(j, []).extend(values.tolist())

    def rows(self, seed: int) -> list[Row]:
        """A row per depth, and one with the depth None for all depths together, where each has another attribute."""
        rows = []
        for (statistic, network, back), depths in self.values.items():
            tested = {j: values for j, values in depths.items() if len(values) > 1}
            who = {"statistic": statistic, "network": network}
            rows += [
                {**who, "depth": j, "attribute": f"v{j - back}", "own": one[0], "shuffled": sum(one[1:]) / len(one[1:])}
                | {"low": min(one[1:]), "high": max(one[1:])}
                | _tested([one], seed)
                for j, one in tested.items()
            ]
            if tested:
                name = f"v(j-{back})" if back else "v(j)"
                rows.append({**who, "depth": None, "attribute": name} | _tested(tested.values(), seed))
        return rows


def _tested(values: Iterable[Sequence[float]], seed: int) -> Row:
    values = [*values]
    found = asdict(order_test(values, seed=seed))
    return {"depths": len(values), "orders": min(map(len, values)) - 1, **found}


def _contrast(statistic: str, against: str, depth: int, differences: Tensor, boot: Bootstrap) -> Row:
    found = estimate(differences, boot)
    verdict = "above" if found.low > 0 else "below" if found.high < 0 else "no difference"
    at = {"network": "trained", "order": "own", "against": against, "depth": depth, "attribute": f"v{depth - 1}"}
    return {"statistic": statistic, **at, **asdict(found), "n": len(differences), "verdict": verdict}
