"""All measurements of a run's attributes, with controls, as plain rows for JSON and CSV.

Every row is a dict with at least ``statistic, network, order, depth, attribute, value, low, high, n``:

- ``network``: "trained", "untrained" (same configuration, with normalization statistics but without training), or the
  name of a control run, for example a baseline whose channels have no order;
- ``order``: "own", or "shuffled": the same computation on the attribute's values in a random order, averaged over
  several orders;
- ``low, high``: the 95 % bootstrap interval over query images; of shuffled orders, the lowest and the highest order.

The rows of `orders` compare the own order with the shuffled ones (`hcnn.explore.orders`), for each depth and, with the
depth None, for all depths together.

"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hcnn.data.image_set import ImageSet
from hcnn.data.splits import spread, stratified_split
from hcnn.explore.arrays import Arrays, build_arrays, invariant_arrays
from hcnn.explore.controls import untrained_like
from hcnn.explore.explorer import Explorer
from hcnn.explore.sources import AttributeSource, Source
from hcnn.explore.statistics import Bootstrap, Questions
from hcnn.explore.tables import ORDERS, Row, Say, consistency_table, flatness_table, path_table
from hcnn.explore.verdicts import property_table
from hcnn.storage.atomic import strict_json, write_atomically
from hcnn.text import csv_row

_TABLES = ("rows", "contrasts", "orders", "properties")
_CONTROL_IMAGES = 1000  # that the untrained network's normalizations see


@dataclass(frozen=True)
class StudySettings:
    """The extent of a study.

    Attributes:
        queries: number of query images, for class consistency and smoothness.
        changed: number of images whose properties are changed.
        flat: number of images whose arrays are translated inside the network.
        orders: number of shuffled orders per attribute; of 4 values there are two.
        resamples: number of bootstrap resamples.
        seed: random seed for queries, orders and the untrained network.

    """

    queries: int = 500
    changed: int = 200
    flat: int = 200
    orders: int = ORDERS
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "changed", "flat"):  # distances are compared with those of two random images
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: expected 2 images or more; got {getattr(self, name)}")
        for name, least in (("orders", 1), ("resamples", 2), ("seed", 0)):  # verdicts need a spread over resamples
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more; got {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ValueError(f"seed: expected a whole number from 0 to 2**63 - 1; got {self.seed}")


@dataclass(frozen=True)
class Study:
    """The results of a study.

    Attributes:
        info: the origin: run, weights, data and settings.
        rows: the curves; see the module.
        contrasts: differences from other networks, paired by query.
        orders: the own order of attributes against shuffled ones.
        properties: one row per depth, attribute and property, with a verdict.

    """

    info: Row
    rows: list[Row]
    contrasts: list[Row]
    orders: list[Row]
    properties: list[Row]

    def write(self, folder: Path) -> list[Path]:
        """Write study.json, one row a line, and each table as CSV; numbers to six digits."""
        tables = {name: [_rounded(row) for row in getattr(self, name)] for name in _TABLES}
        texts = [f'"info": {strict_json(folder, self.info)}']
        texts += [f'"{name}": [{_lines(folder, rows)}\n]' for name, rows in tables.items()]
        path = folder / "study.json"
        write_atomically(path, ("{" + ",\n".join(texts) + "}\n").encode())
        paths = [path]
        for name, rows in tables.items():
            paths.append(folder / f"{name}.csv")
            write_atomically(paths[-1], _csv(rows))
        return paths


def run_study(
    explorer: Explorer,
    *,
    settings: StudySettings | None = None,
    controls: Mapping[str, Source] | None = None,
    say: Say = lambda text: None,
) -> Study:
    """Measure everything for a network and its controls.

    Queries are held-out images where there are some, drawn in the proportions of the classes: on images that a network
    was trained on, a neighbour of the same class may be memory.

    Args:
        explorer: the run with its database.
        settings: the extent.
        controls: further networks by name, such as baselines; "untrained" is added.
        say: called with a description of each step.

    Returns:
        The study.

    Raises:
        ValueError: if there are not enough images.

    """
    s = settings or StudySettings()
    device = next(explorer.run.model.parameters()).device
    seen = explorer.base.images[spread(len(explorer.base), _CONTROL_IMAGES)]
    seen = explorer.run.preprocessing.standardize(seen.to(device))
    untrained = AttributeSource(untrained_like(explorer.run.model, seen, seed=s.seed))
    sources: dict[str, Source] = {"trained": explorer.source, "untrained": untrained, **(controls or {})}
    folder = explorer.arrays.folder  # where the arrays of the controls go too
    asked, where = _asked(explorer, s.queries, s.seed)
    bases, questions = {}, {}
    for name, source in sources.items():
        say(f"{name}: arrays")
        own = name == "trained"
        place = folder / f"{name}-{source.digest()[:12]}" if folder else None
        arrays = explorer.arrays if own else _arrays(explorer, source, place)
        bases[name] = (arrays, explorer.base.labels)
        _, some = invariant_arrays(source, asked.images, explorer.run.preprocessing, position=explorer.position)
        questions[name] = Questions(some, asked.labels, where)
    boot = Bootstrap(len(asked), s.resamples, s.seed)
    tables = consistency_table(sources, bases, questions, boot, orders=s.orders, seed=s.seed, say=say)
    tables.add(path_table(sources, questions, boot, orders=s.orders, seed=s.seed))

    few = asked.images[spread(len(asked), s.flat)]
    boot = Bootstrap(len(few), s.resamples, s.seed)
    x = explorer.run.preprocessing.standardize(few)
    tables.add(flatness_table(sources, x, boot, orders=s.orders, seed=s.seed, say=say))

    found: list[Row] = []
    if explorer.base.images.ndim == 4:
        few = asked.images[spread(len(asked), s.changed)]
        found = property_table(
            sources,
            few,
            explorer.run.preprocessing,
            Bootstrap(len(few), s.resamples, s.seed),
            position=explorer.position,
            orders=s.orders,
            seed=s.seed,
            say=say,
        )
    info = {
        "run": explorer.run.folder.name,
        "weights_sha256": explorer.source.digest(),
        "data": explorer.base.name,
        "data_sha256": explorer.base.digest(),
        "images": len(explorer.base),
        "queries": f"{len(asked)} of {asked.name}" + (", themselves excluded" if where is not None else ""),
        "held_out": where is None,
        "chance": _chance(asked, explorer.base),
        "position": explorer.position,
        "boundary": explorer.arrays.boundary,
        "controls": [name for name in sources if name != "trained"],
        "settings": asdict(s),
        "torch": str(torch.__version__),
    }
    return Study(info, tables.rows, tables.contrasts, tables.orders, found)


def _arrays(explorer: Explorer, source: Source, folder: Path | None) -> Arrays:
    run = explorer.run
    if folder is not None:
        return build_arrays(folder, source, explorer.base, run.preprocessing, position=explorer.position)
    logits, depths = invariant_arrays(source, explorer.base.images, run.preprocessing, position=explorer.position)
    return Arrays(None, {j: one.numpy() for j, one in depths.items()}, logits.numpy(), source.boundary)


def _asked(explorer: Explorer, count: int, seed: int) -> tuple[ImageSet, Tensor | None]:
    """The queries, and their numbers in the database if they are from it."""
    held_out = explorer.held_out
    images = explorer.base if held_out is None else held_out
    chosen = draw_queries(images, count, seed)
    return images.subset(chosen), chosen if held_out is None else None


def _chance(asked: ImageSet, base: ImageSet) -> float:
    """How often a random image of the database has the class of a random query."""
    shares = [torch.bincount(one.labels, minlength=len(base.classes)).double() / len(one) for one in (asked, base)]
    return float(shares[0] @ shares[1])


def draw_queries(images: ImageSet, count: int, seed: int = 0) -> Tensor:
    """The numbers of the images that a study asks about, in the proportions of the classes.

    Args:
        images: to draw from.
        count: how many; all of them where a split would leave a class without images.
        seed: of the draw.

    Raises:
        ValueError: if there are fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"{images.name}: expected 2 images or more to ask about; got {len(images)}")
    if count > len(images) - len(images.classes):
        return torch.arange(len(images))
    return stratified_split(images.labels, count, 7, seed)[1]


def _rounded(row: Row) -> Row:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def _lines(folder: Path, rows: Iterable[Row]) -> str:
    return ",".join(f"\n{strict_json(folder, row)}" for row in rows)


def _csv(rows: Sequence[Row]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [csv_row(names), *(csv_row(row.get(name) for name in names) for row in rows)]
    return "".join(lines).encode(errors="surrogateescape")
