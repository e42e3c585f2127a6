"""Whether shifts along an attribute follow a property of images, more than in every control."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from hcnn.data.image_changes import properties_for
from hcnn.data.preprocessing import Preprocessing
from hcnn.explore.meaning import Meaning, meanings
from hcnn.explore.shifts import shuffled_orders
from hcnn.explore.sources import Position, Source
from hcnn.explore.statistics import Bootstrap
from hcnn.explore.tables import ORDERS, Row, Say

Cell = tuple[int, str, str]  # depth, attribute, property


def property_table(
    sources: Mapping[str, Source],
    images: Tensor,
    preprocessing: Preprocessing,
    boot: Bootstrap,
    *,
    position: Position = "centre",
    orders: int = ORDERS,
    seed: int = 0,
    say: Say = lambda text: None,
) -> list[Row]:
    """Measure every property along every attribute of 4 or more values, and judge it against the controls.

    Args:
        sources: networks by name, "trained" among them.
        images: uint8 (n, c, h, w), to be changed.
        preprocessing: the networks'.
        boot: the resamples of the images.
        position: the position at which arrays are taken.
        orders: number of shuffled orders (there are only two for 4 values).
        seed: random seed for the orders.
        say: called with a description of each step.

    Returns:
        A row per depth, attribute and property; see `judge`.

    """
    found: dict[str, dict[Cell, list[Meaning]]] = {}
    for name, source in sources.items():
        count = orders if name == "trained" else 0
        found[name] = meanings(
            source,
            images,
            preprocessing,
            properties_for(images.shape[1]),
            boot,
            position=position,
            orders=lambda size, count=count: [None, *shuffled_orders(size, count, seed)],
            on_property=lambda one, name=name: say(f"{name}: {one}"),
        )
    rows = []
    for cell, (own, *shuffled) in found["trained"].items():
        others = {name: one[cell][0] for name, one in found.items() if name != "trained" and cell in one}
        rows.append(judge(cell, own, shuffled, others, boot, cells=len(found["trained"])) | {"n": len(images)})
    return rows


def judge(
    cell: Cell,
    own: Meaning,
    shuffled: Sequence[Meaning],
    others: Mapping[str, Meaning],
    boot: Bootstrap,
    *,
    cells: int = 1,
) -> Row:
    """Decide whether shifts along an attribute follow a property.

    "found" if, at 95 % over all cells together (Bonferroni, normal approximation to the bootstrap), the correlation
    is not 0, and both its size and the share of the change that the shifts explain are above those of *every*
    control. "as a control" if only the correlation is not 0: a meaningless order or an untrained network does the same.
    Otherwise "nothing".

    Args:
        cell: depth, attribute, property.
        own: the result.
        shuffled: the results for shuffled orders of the attribute.
        others: the results for other networks.
        boot: the resamples.
        cells: number of such decisions.

    Returns:
        A row: correlation as ``value`` with its 95 % interval, the share ``explained``, those of the controls (of
        shuffled orders the strongest), the share of shifts ``at_bound`` of what was tried, and the ``verdict``.

    """
    z = NormalDist().inv_cdf(1 - 0.05 / (2 * cells))
    controls = [*shuffled, *others.values()]

    def above(values: Tensor, rivals: Sequence[Tensor]) -> bool:
        """Whether the differences to the strongest rival, resample by resample, lie above 0."""
        gaps = values - torch.stack(list(rivals)).max(0).values
        return float(gaps[0] - z * gaps[1:].std()) > 0

    r, share = own.correlation, own.explained
    real = float(r[0].abs() - z * r[1:].std()) > 0
    beyond = (
        bool(controls)
        and above(r.abs(), [one.correlation.abs() for one in controls])
        and above(share, [one.explained for one in controls])
    )
    (low, high), (share_low, share_high) = boot.interval(r[1:]), boot.interval(share[1:])
    depth, attribute, name = cell
    row: Row = {
        "statistic": "property", "network": "trained", "order": "own", "depth": depth, "attribute": attribute,
        "property": name, "value": float(r[0]), "low": low, "high": high,
        "explained": float(share[0]), "explained_low": share_low, "explained_high": share_high,
        "at_bound": own.at_bound,
        "shuffled_r": _strongest([one.correlation for one in shuffled]),
        "shuffled_explained": _strongest([one.explained for one in shuffled]),
        "orders": len(shuffled),
    }  # fmt: skip
    for other, one in others.items():
        row |= {f"{other}_r": float(one.correlation[0]), f"{other}_explained": float(one.explained[0])}
    return row | {"verdict": "found" if real and beyond else "as a control" if real else "nothing"}


def _strongest(values: Sequence[Tensor]) -> float | None:
    return max((float(one[0]) for one in values), key=abs, default=None)
