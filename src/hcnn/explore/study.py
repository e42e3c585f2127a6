"""Everything that is measured about a run's attributes, with its controls, as plain rows for JSON and CSV.

Every row is a dict with at least ``statistic, network, order, depth, attribute, value, low, high, n``:

- ``network``: "trained", "untrained" (same configuration and normalization statistics, nothing learned), or the name
  of a comparator whose channels have no order;
- ``order``: "own", or "shuffled": the same computation on the attribute's values in a random order, averaged over
  several orders;
- ``low, high``: the 95 % bootstrap interval over query images.

"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.datasets import ImageSet, stratified_split
from hcnn.explore.arrays import Arrays, build_arrays, invariant_arrays
from hcnn.explore.explorer import Explorer
from hcnn.explore.meaning import Meaning, meanings
from hcnn.explore.properties import properties_for
from hcnn.explore.shifts import shuffled_orders
from hcnn.explore.sources import AttributeSource, Source, attribute_dim, untrained_like
from hcnn.explore.statistics import (
    Bootstrap,
    Questions,
    class_consistency,
    estimate,
    flatness,
    path_distances,
    roughness,
)
from hcnn.files import write_atomically, write_json

Row = dict[str, Any]
_CONTROL_IMAGES = 1000  # that the untrained network's normalizations see


@dataclass(frozen=True)
class StudySettings:
    """How much is measured.

    Attributes:
        queries: images asked about; for class consistency and smoothness.
        changed: images whose properties are changed.
        flat: images whose arrays are translated inside the network.
        orders: shuffled orders per attribute for properties; the other statistics take two.
        resamples: of the bootstrap.
        seed: of queries, orders and the untrained network.

    """

    queries: int = 500
    changed: int = 200
    flat: int = 200
    orders: int = 8
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """What was measured.

    Attributes:
        info: where it comes from: run, weights, data, settings.
        rows: curves; see the module.
        contrasts: differences to the controls, paired by query.
        properties: one row per depth, attribute and property, with a verdict.

    """

    info: Row
    rows: list[Row]
    contrasts: list[Row]
    properties: list[Row]

    def write(self, folder: Path) -> list[Path]:
        """Write study.json, and each table as CSV."""
        paths = [folder / "study.json"]
        write_json(paths[0], asdict(self))
        for name in ("rows", "contrasts", "properties"):
            paths.append(folder / f"{name}.csv")
            write_atomically(paths[-1], _csv(getattr(self, name)))
        return paths


def run_study(
    explorer: Explorer,
    *,
    settings: StudySettings | None = None,
    controls: Mapping[str, Source] | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Study:
    """Measure everything, with an untrained network and any further controls beside.

    Queries are held-out images where there are some, in equal shares of the classes: on images that a network was
    trained on, a neighbour of the same class may be memory.

    Args:
        explorer: the run with its data base.
        settings: how much.
        controls: further networks by name, comparators; "untrained" is added.
        folder: where the arrays of the controls are kept; beside those of the run if None.
        say: told of each step.

    Returns:
        The study.

    Raises:
        ValueError: if there are fewer images than are asked for.

    """
    s, say = settings or StudySettings(), say or (lambda text: None)
    device = next(explorer.run.model.parameters()).device
    seen = explorer.run.preprocessing.standardize(explorer.base.images[:_CONTROL_IMAGES].to(device))
    untrained = AttributeSource(untrained_like(explorer.run.model, seen, seed=s.seed))
    sources: dict[str, Source] = {"trained": explorer.source, "untrained": untrained, **(controls or {})}
    folder = folder or explorer.arrays.folder
    bases = {"trained": explorer.arrays}
    for name, source in sources.items():
        if name != "trained":
            say(f"arrays of the control: {name}")
            bases[name] = _arrays(explorer, source, folder / name if folder else None)
    asked, where = _asked(explorer, s.queries, s.seed)
    rows, contrasts = _neighbour_rows(explorer, sources, bases, asked, where, s, say)
    more, also = _flat_rows(explorer, sources, asked.images[_spread(len(asked), s.flat)], s, say)
    changed = asked.images[_spread(len(asked), s.changed)]
    found = _property_rows(explorer, sources, changed, s, say) if changed.ndim == 4 else []
    info = {
        "run": explorer.run.folder.name,
        "weights_sha256": explorer.source.digest(),
        "data": explorer.base.name,
        "data_sha256": explorer.base.digest(),
        "images": len(explorer.base),
        "queries": f"{len(asked)} of {asked.name}" + (", themselves excluded" if where is not None else ""),
        "position": explorer.position,
        "boundary": explorer.arrays.boundary,
        "controls": [name for name in sources if name != "trained"],
        "settings": asdict(s),
        "torch": str(torch.__version__),
    }
    return Study(info, rows + more, contrasts + also, found)


# ------------------------------------------------------------------------------------- consistency and smoothness


def _neighbour_rows(
    explorer: Explorer,
    sources: Mapping[str, Source],
    bases: Mapping[str, Arrays],
    asked: ImageSet,
    where: Tensor | None,
    s: StudySettings,
    say: Callable[[str], None],
) -> tuple[list[Row], list[Row]]:
    boot, rows, contrasts = Bootstrap(len(asked), s.resamples, s.seed), [], []
    hits: dict[tuple[str, str, int], Tensor] = {}
    for name, source in sources.items():
        _, arrays = invariant_arrays(source, asked.images, explorer.run.preprocessing, position=explorer.position)
        questions = Questions(arrays, asked.labels, where)
        for j, attributes in source.attributes().items():
            say(f"{name}: neighbours and paths at depth {j}")
            for axis, size in attributes.items():
                if axis == f"v{j - 2}":
                    continue
                orders = [None, *shuffled_orders(size, 2, s.seed)]
                found = [
                    class_consistency(bases[name], explorer.base.labels, questions, j, axis, order=o) for o in orders
                ]
                kinds = {"own": found[:1], "shuffled": found[1:]}
                for order, some in kinds.items():
                    if not some:
                        continue
                    same = torch.stack([one for one, _ in some]).double().mean(0)  # (τ, n)
                    near = torch.stack([one for _, one in some]).double().mean(0)
                    at = {"network": name, "order": order, "depth": j, "attribute": axis}
                    for tau in range(size):
                        rows.append(_row("class consistency", at, same[tau], boot, tau=tau))
                        rows.append(_row("near enough", at, near[tau], boot, tau=tau))
                    if axis == f"v{j - 1}":
                        hits[name, order, j] = same
                rows += _path_rows(arrays[j], j, axis, name, orders, boot)
    contrasts += _consistency_contrasts(hits, boot)
    return rows, contrasts


def _path_rows(
    arrays: Tensor, j: int, axis: str, name: str, orders: Sequence[Sequence[int] | None], boot: Bootstrap
) -> list[Row]:
    dim, rows = attribute_dim(axis, j, newest_at=-1), []
    size = arrays.shape[dim]
    taus = [0.25 * k for k in range(2 * size + 1)]
    turned = [arrays if o is None else arrays.index_select(dim, torch.tensor(o)) for o in orders]
    for order, some in {"own": turned[:1], "shuffled": turned[1:]}.items():
        if not some:
            continue
        at = {"network": name, "order": order, "depth": j, "attribute": axis}
        gone = torch.stack([path_distances(one, dim, taus) for one in some]).mean(0)
        rows += [_row("path distance", at, gone[k], boot, tau=tau) for k, tau in enumerate(taus)]
        if size >= 4:
            numerator, denominator = torch.stack([roughness(one, dim) for one in some]).mean(0)
            ratio = boot.means(numerator) / boot.means(denominator)
            low, high = boot.interval(ratio)
            value = float(numerator.mean() / denominator.mean())
            rows.append(
                {
                    "statistic": "roughness",
                    **at,
                    "tau": None,
                    "value": value,
                    "low": low,
                    "high": high,
                    "n": boot.weights.shape[1],
                }
            )
    return rows


def _consistency_contrasts(hits: Mapping[tuple[str, str, int], Tensor], boot: Bootstrap) -> list[Row]:
    """Class consistency over all τ ≠ 0 along v_{j-1}: against each control, and its growth with depth."""
    contrasts = []
    own = {j: same for (name, order, j), same in hits.items() if name == "trained" and order == "own"}
    for (name, order, j), same in hits.items():
        if j in own and (name, order) != ("trained", "own"):
            against = f"{order} order" if name == "trained" else name if order == "own" else None
            if against:
                contrasts.append(
                    _contrast("class consistency, τ ≠ 0", against, j, own[j][1:].mean(0) - same[1:].mean(0), boot)
                )
    for j, same in own.items():
        contrasts.append(_contrast("class consistency, τ ≠ 0", "no shift", j, same[1:].mean(0) - same[0], boot))
    depths = sorted(own)
    for name, order in dict.fromkeys((name, order) for name, order, _ in hits):
        if all((name, order, j) in hits for j in depths):
            first, last = hits[name, order, depths[0]], hits[name, order, depths[-1]]
            what = f"class consistency, τ ≠ 0, {name}, {order} order: depth {depths[-1]}"
            contrasts.append(
                _contrast(what, f"depth {depths[0]}", depths[-1], last[1:].mean(0) - first[1:].mean(0), boot)
            )
            kept = "class consistency, τ ≠ 0 less τ = 0"
            change = (last[1:].mean(0) - last[0]) - (first[1:].mean(0) - first[0])
            contrasts.append(
                _contrast(
                    f"{kept}, {name}, {order} order: depth {depths[-1]}", f"depth {depths[0]}", depths[-1], change, boot
                )
            )
    return contrasts


# ------------------------------------------------------------------------------------------------------- flatness


def _flat_rows(
    explorer: Explorer, sources: Mapping[str, Source], images: Tensor, s: StudySettings, say: Callable[[str], None]
) -> tuple[list[Row], list[Row]]:
    boot, rows, contrasts = Bootstrap(len(images), s.resamples, s.seed), [], []
    x = explorer.run.preprocessing.standardize(images)
    changes: dict[tuple[str, str, int, str], Tensor] = {}
    for name, source in sources.items():
        device = next(source.model.parameters()).device
        for j, attributes in source.attributes().items():
            say(f"{name}: class scores along translations at depth {j}")
            for axis, size in attributes.items():
                exact = _exact(source, j, axis, size)
                for order in [None, *shuffled_orders(size, 1, s.seed)]:
                    stays, variation, change = flatness(source, x.to(device), j, axis, order=order)
                    kind = "own" if order is None else "shuffled"
                    at = {"network": name, "order": kind, "depth": j, "attribute": axis}
                    for tau in range(1, size):
                        implied = order is None and tau in exact
                        for what, values in (
                            ("prediction stays", stays),
                            ("total variation", variation),
                            ("logit change", change),
                        ):
                            rows.append(_row(what, at, values[tau - 1].double(), boot, tau=tau) | {"implied": implied})
                    free = [tau - 1 for tau in range(1, size) if tau not in exact]
                    if free:
                        changes[name, kind, j, axis] = variation[free].mean(0)
    for (name, kind, j, axis), values in changes.items():
        against = "shuffled order" if name == "trained" else name
        if (name, kind) in (("trained", "shuffled"), *((one, "own") for one in sources if one != "trained")):
            own = changes.get(("trained", "own", j, axis))
            if own is not None:
                what = "total variation of class probabilities, translations not implied by Proposition 3.1"
                contrasts.append(_contrast(what, against, j, own - values, boot) | {"attribute": axis})
    return rows, contrasts


def _exact(source: Source, j: int, axis: str, size: int) -> set[int]:
    """Translations that Proposition 3.1 makes invariant whatever the weights are: theorems, not findings."""
    if source.boundary != "circular" or not isinstance(source, AttributeSource):
        return set()
    return set(range(0, size, source.model.invariant_shift(j, axis)))


# ------------------------------------------------------------------------------------------------------ properties


def _property_rows(
    explorer: Explorer, sources: Mapping[str, Source], images: Tensor, s: StudySettings, say: Callable[[str], None]
) -> list[Row]:
    boot = Bootstrap(len(images), s.resamples, s.seed)
    properties = properties_for(images.shape[1])
    found: dict[str, dict[tuple[int, str, str], list[Meaning]]] = {}
    for name, source in sources.items():
        own = name == "trained"
        found[name] = meanings(
            source,
            images,
            explorer.run.preprocessing,
            properties,
            boot,
            position=explorer.position,
            orders=lambda size, own=own: [None, *(shuffled_orders(size, s.orders, s.seed) if own else [])],
            on_property=lambda one, name=name: say(f"{name}: {one}"),
        )
    rows = []
    for key, measured in found["trained"].items():
        others = {name: one[key][0] for name, one in found.items() if name != "trained" and key in one}
        rows.append(
            judge(key, measured[0], measured[1:], others, boot, cells=len(found["trained"])) | {"n": len(images)}
        )
    return rows


def judge(
    key: tuple[int, str, str],
    own: Meaning,
    shuffled: Sequence[Meaning],
    others: Mapping[str, Meaning],
    boot: Bootstrap,
    *,
    cells: int = 1,
) -> Row:
    """Decide whether shifts along an attribute follow a property.

    "found" if, at a level corrected for the number of cells (Bonferroni, normal approximation to the bootstrap),
    the correlation is not 0, and both its size and the share of the change that the shifts explain are above those of
    *every* control. "as a control" if only the correlation is not 0: a meaningless order or an untrained network
    does it too. Else "nothing".

    Args:
        key: depth, attribute, property.
        own: what was measured.
        shuffled: the same in shuffled orders of the attribute.
        others: the same in other networks.
        boot: the resamples.
        cells: how many such decisions are made.

    Returns:
        A row.

    """
    z = NormalDist().inv_cdf(1 - 0.05 / (2 * cells))
    controls = [*shuffled, *others.values()]

    def above(values: Tensor, rivals: Sequence[Tensor]) -> bool:
        """Whether the differences to the strongest rival, resample by resample, lie above 0."""
        gaps = values - torch.stack(list(rivals)).max(0).values
        return float(gaps[0] - z * gaps[1:].std()) > 0

    r, share = own.correlation, own.explained
    real = float(r[0].abs() - z * r[1:].std()) > 0
    beyond = bool(controls) and all(
        above(values, rivals)
        for values, rivals in (
            (r.abs(), [one.correlation.abs() for one in controls]),
            (share, [one.explained for one in controls]),
        )
    )
    (low, high), (share_low, share_high) = boot.interval(r[1:]), boot.interval(share[1:])
    depth, attribute, name = key
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


# --------------------------------------------------------------------------------------------------------- details


def _row(statistic: str, at: Row, values: Tensor, boot: Bootstrap, *, tau: float) -> Row:
    return {"statistic": statistic, **at, "tau": tau, **asdict(estimate(values, boot)), "n": len(values)}


def _contrast(statistic: str, against: str, depth: int, differences: Tensor, boot: Bootstrap) -> Row:
    found = estimate(differences, boot)
    verdict = "above" if found.low > 0 else "below" if found.high < 0 else "no difference"
    return {"statistic": statistic, "against": against, "depth": depth, "attribute": f"v{depth - 1}",
            **asdict(found), "n": len(differences), "verdict": verdict}  # fmt: skip


def _arrays(explorer: Explorer, source: Source, folder: Path | None) -> Arrays:
    run = explorer.run
    if folder is not None:
        return build_arrays(folder, source, explorer.base, run.preprocessing, position=explorer.position)
    logits, depths = invariant_arrays(source, explorer.base.images, run.preprocessing, position=explorer.position)
    return Arrays(None, {j: one.numpy() for j, one in depths.items()}, logits.numpy(), source.boundary)


def _asked(explorer: Explorer, count: int, seed: int) -> tuple[ImageSet, Tensor | None]:
    """Queries, and where they stand in the data base if they are from it."""
    held_out = explorer.held_out
    images = explorer.base if held_out is None else held_out
    count = min(count, len(images) - len(images.classes))
    _, chosen = stratified_split(images.labels, count, 7, seed)
    return images.subset(chosen), chosen if held_out is None else None


def _spread(n: int, count: int) -> Tensor:
    return torch.from_numpy(np.linspace(0, n - 1, min(count, n)).astype(np.int64))


def _csv(rows: Iterable[Row]) -> bytes:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.5g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return text.getvalue().encode()
