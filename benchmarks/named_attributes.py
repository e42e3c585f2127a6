"""Attributes that were given a meaning, beside the honest rivals: one command trains and measures one row.

    python benchmarks/named_attributes.py --list
    python benchmarks/named_attributes.py coloured-digits/hue-tied --seed 0
    python benchmarks/named_attributes.py cifar10/hue-tied --seed 0 --data-dir DATA --threads 1     # resumes
    python benchmarks/named_attributes_report.py        # writes README.md and curve.png into results/named-attributes

A row trains into runs/named-attributes and writes results/named-attributes/ROW-SEED.json, unless it is there. With
``--validation`` it measures validation images in place of test images and writes beside the run; that is how weights
and depths were chosen. Arms: plain; the property as augmentation only (weight 0: the same images, no tie); tied; tied
by construction. "Shuffled" evaluates the same network with the values of the attribute in other orders.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn.data.datasets import load
from hcnn.data.image_changes import PROPERTIES, change, properties_for
from hcnn.data.image_set import ImageSet, Splits
from hcnn.data.splits import fewer, set_aside
from hcnn.explore import AttributeSource, invariant_arrays, shuffled_orders
from hcnn.explore.arrays import Arrays
from hcnn.explore.meaning import best_shifts, meanings
from hcnn.explore.statistics import Bootstrap, Questions, class_consistency, roughness
from hcnn.models.registry import model_config
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.atomic import write_atomically
from hcnn.training import AttributeTie
from hcnn.training.evaluate import predict_logits
from hcnn.training.recipes import get_recipe

RUNS, RESULTS = Path("runs/named-attributes"), Path("results/named-attributes")
ORDERS, RESAMPLES = 5, 1000
WEIGHTS = (0.03, 0.1, 0.3, 3.0, 10.0)  # of the curve, beside 0 and 1


@dataclass(frozen=True)
class Data:
    """What a row trains on: the network, its recipe and epochs, how many images where not all are used, a momentum."""

    network: str
    recipe: str
    epochs: int
    validation: int
    train_images: int | None = None
    test_images: int | None = None
    momentum: float | None = None


DATA = {
    "digits": Data("hcnn_digits", "digits", 20, 300),
    "coloured-digits": Data("hcnn_digits", "digits", 20, 300),
    "cifar10": Data("hcnn_small_cifar10", "fast", 8, 2500, 12_500, 2000, 0.9),
    "cifar10-long": Data("hcnn_small_cifar10", "cifar", 20, 2500, None, 2000),
}


@dataclass(frozen=True)
class Row:
    """One arm: the property it is about, the cell (depth, attribute) where the tie is looked for, and what changes."""

    property: str
    cell: tuple[int, str]
    ties: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    topography: float = 0.0


def _steps(tie: str, cell: tuple[int, str], values: Iterable[float], **more: Any) -> dict[str, Row]:
    """One property, tied with several weights: the curve of accuracy against equivariance error."""
    name = tie.partition("=")[0]
    return {f"{name}-tied-weight-{w:g}": Row(name, cell, (f"{tie}:weight={w:g}",), **more) for w in values}


def _arms(property: str, tie: str, attribute: str, depth: int) -> dict[str, Row]:
    name, cell = property.replace(" ", "-"), (depth, attribute)
    return {
        f"{name}-augmentation": Row(property, cell, (f"{tie}:weight=0",)),
        f"{name}-tied": Row(property, cell, (tie,)),
    }


ROWS: dict[str, dict[str, Row]] = {
    "coloured-digits": {
        "plain": Row("hue", (3, "v3")),
        **_arms("hue", "hue=v3@3", "v3", 3),
        "hue-constructed": Row("hue", (3, "v1"), network={"first_attribute": "hue", "width": 16}),
        **_steps("hue=v3@3", (3, "v3"), WEIGHTS),
        "hue-tied-depth-2": Row("hue", (3, "v2"), ("hue=v2@2",)),  # a translation of x_2 is one of x_3
        **{f"hue-tied-depth-{j}": Row("hue", (j, f"v{j}"), (f"hue=v{j}@{j}",)) for j in (4, 5)},
        "plain-16": Row("hue", (3, "v3"), network={"width": 16}),
        "hue-augmentation-16": Row("hue", (3, "v3"), ("hue=v3@3:weight=0",), {"width": 16}),
        "hue-tied-16": Row("hue", (3, "v3"), ("hue=v3@3",), {"width": 16}),
        "hue-and-brightness-tied": Row("hue", (3, "v3"), ("hue=v3@3", "brightness=v2@3")),
    },
    "digits": {
        "plain": Row("rotation", (3, "v3")),
        **{f"topography-{w:g}": Row("rotation", (3, "v3"), topography=w) for w in (0.03, 0.1, 0.3, 1)},
        **_arms("rotation", "rotation=v3@3", "v3", 3),
        **_arms("scale", "scale=v3@3", "v3", 3),
        **_arms("position right", "position-right=v3@3", "v3", 3),
        **_arms("brightness", "brightness=v3@3", "v3", 3),
    },
    "cifar10": {
        "plain": Row("hue", (3, "v3")),
        **_arms("hue", "hue=v3@3", "v3", 3),
        "hue-tied-depth-2": Row("hue", (3, "v2"), ("hue=v2@2",)),
        "hue-constructed": Row("hue", (3, "v1"), network={"first_attribute": "hue", "width": 16}),
        "plain-16": Row("hue", (3, "v3"), network={"width": 16}),
        "hue-augmentation-16": Row("hue", (3, "v3"), ("hue=v3@3:weight=0",), {"width": 16}),
        "hue-tied-16": Row("hue", (3, "v3"), ("hue=v3@3",), {"width": 16}),
        **_arms("rotation", "rotation=v3@3", "v3", 3),
        **_arms("scale", "scale=v3@3", "v3", 3),
        **_arms("position right", "position-right=v3@3", "v3", 3),
        "topography-0.1": Row("hue", (3, "v3"), topography=0.1),
    },
    "cifar10-long": {"plain": Row("hue", (3, "v3")), **_arms("hue", "hue=v3@3", "v3", 3)},
}


def coloured(images: ImageSet, seed: int) -> ImageSet:
    """Digits in ink and paper of opposite hues and equal luminance, so that only colour shows them.

    Hues lie within 45 degrees of one hue. No colour is near the border of the cube, so no change of hue is clipped.
    """
    random = torch.Generator().manual_seed(seed)
    ink, n = 2 * images.images.float() / 255 - 1, len(images)  # 1 ink, -1 paper
    angle = torch.deg2rad(90 * (torch.rand(n, generator=random) - 0.5)).reshape(n, 1, 1, 1)
    strength = 0.12 + 0.08 * torch.rand(n, 1, 1, 1, generator=random)
    light = 0.4 + 0.2 * torch.rand(n, 1, 1, 1, generator=random) + 0.03 * torch.randn(ink.shape, generator=random)
    axes = torch.linalg.inv(
        torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    )
    colour = torch.cat([light, ink * strength * angle.cos(), ink * strength * angle.sin()], 1)
    pixels = torch.einsum("ij,njhw->nihw", axes, colour)
    return replace(images, images=(255 * pixels.clamp(0, 1)).round().to(torch.uint8), name=f"coloured {images.name}")


def splits(name: str, data_dir: str | None) -> Splits:
    """Training, validation and test images of a row's data; the same for all arms and seeds."""
    spec = DATA[name]
    found = load("cifar10" if name.startswith("cifar10") else "digits", data_dir=data_dir)
    found = set_aside(found, spec.validation, 0)
    if spec.train_images:
        found = fewer(found, spec.train_images)
    validation, test = found.validation, found.test
    assert validation is not None
    assert test is not None
    if spec.test_images:
        test, validation = test.subset(range(spec.test_images)), validation.subset(range(min(len(validation), 1000)))
    if name == "coloured-digits":
        return Splits(coloured(found.train, 1), coloured(validation, 2), coloured(test, 3))
    return replace(found, validation=validation, test=test)


# ---------------------------------------------------------------------------------------------------- measuring


def measure(folder: Path, row: Row, base: ImageSet, images: ImageSet) -> dict[str, Any]:
    """Every number of a row, on images that were not trained on; `base` is searched for neighbours."""
    run = load_run(folder)
    model, plain, boot = run.model, run.preprocessing, Bootstrap(len(images), RESAMPLES)
    small = model.inference()

    def accuracy(x: Tensor) -> Tensor:
        return (predict_logits(small, x).argmax(1) == images.labels).double()

    random = torch.Generator().manual_seed(5)
    hits = accuracy(plain.standardize(images.images))
    result: dict[str, Any] = {"images": len(images), "accuracy": _estimate(hits, boot), "accuracy_changed": {}}
    names = [one.name for one in properties_for(images.images.shape[1])]
    for name in names:
        low, high = PROPERTIES[name].range
        amounts = low + (high - low) * torch.rand(len(images), generator=random)
        x = plain.standardize_floats(change(images.images, name, amounts))
        result["accuracy_changed"][name] = _estimate(accuracy(x), boot)
    source = AttributeSource(model)
    found = meanings(
        source, images.images, plain, [PROPERTIES[name] for name in names], boot,
        orders=lambda size: [None, *shuffled_orders(size, ORDERS)],
    )  # fmt: skip
    result["cells"] = [
        {
            "depth": depth, "attribute": attribute, "property": name,
            "r": _interval(own.correlation, boot), "share": _interval(own.explained, boot),
            "shuffled_r": max(abs(float(one.correlation[0])) for one in others),
            "shuffled_share": max(float(one.explained[0]) for one in others),
            "at_bound": own.at_bound,
        }
        for (depth, attribute, name), (own, *others) in found.items()
    ]  # fmt: skip
    depth, attribute = row.cell
    size = source.attributes()[depth][attribute]
    if attribute != f"v{depth - 2}":  # which x̄_j has been averaged over
        result |= _consistency(source, plain, base, images, depth, attribute, size, boot)
    result["error"] = _error(model, plain, images, row, size)
    return result


def _consistency(source: Any, plain: Any, base: ImageSet, images: ImageSet, depth: int, attribute: str, size: int,
                 boot: Bootstrap) -> dict[str, Any]:  # fmt: skip
    """Class consistency along all whole shifts but 0, in the attribute's own order and in others; and roughness."""
    logits, arrays = invariant_arrays(source, base.images, plain)
    known = Arrays(None, {depth: arrays[depth].numpy()}, logits.numpy(), source.boundary)
    _, asked = invariant_arrays(source, images.images, plain)
    questions = Questions(asked, images.labels)

    def consistency(order: list[int] | None) -> Tensor:
        same, _ = class_consistency(known, base.labels, questions, depth, attribute, order=order)
        return same[1:].double().mean(0)  # (n,)

    shuffled = torch.stack([consistency(order) for order in shuffled_orders(size, ORDERS)]).mean(0)
    own = consistency(None)
    rough = roughness(asked[depth], {0: 2, 1: 1}[depth - int(attribute[1:])]).mean(1)
    return {
        "consistency": _estimate(own, boot),
        "consistency_shuffled": _estimate(shuffled, boot),
        "consistency_gain": _estimate(own - shuffled, boot),
        "roughness": float(rough[0] / rough[1]),
    }


def _error(model: Any, plain: Any, images: ImageSet, row: Row, size: int) -> dict[str, float]:
    """The relative equivariance error at the row's cell, over the range of its property."""
    from hcnn.data.signal_changes import StandardizedChange
    from hcnn.functional.shifts import translation_distances

    depth, attribute = row.cell
    known, tie = PROPERTIES[row.property], AttributeTie(row.property, attribute, depth)
    low, high = known.range
    amounts = (low + (high - low) * torch.rand(len(images), generator=torch.Generator().manual_seed(6))).double()
    turn = StandardizedChange(plain)
    left = change = squares = total = torch.zeros((), dtype=torch.float64)
    # The arrays of all images at once need much memory.
    for part, by in zip(images.images.split(100), amounts.split(100), strict=True):
        x = plain.standardize(part)
        with torch.no_grad():
            both = (x, turn(x, row.property, by))
            start, end = (model(one, return_arrays=True)[1][depth].values for one in both)
        dim = start.ndim - 3 - (depth - int(attribute[1:]))
        moved = known.change(start.flatten(1, start.ndim - 3), by).reshape(start.shape) if known.moves else start
        distances, norms = translation_distances(end, moved, dim, tie.shift(by, size))
        left, squares = left + distances[:, 0].sum(), squares + norms.sum()
        change, total = change + (end - moved).square().sum(), total + end.sum(0).double()
    spread = squares - total.square().sum() / len(images)
    return {"of_spread": float(left / spread), "of_change": float(left / change)}


def _estimate(values: Tensor, boot: Bootstrap) -> list[float]:
    return [float(values.mean()), *boot.interval(boot.means(values))]


def _interval(samples: Tensor, boot: Bootstrap) -> list[float]:
    return [float(samples[0]), *boot.interval(samples[1:])]


# ------------------------------------------------------------------------------------------------------- running


def run_row(name: str, seed: int, data_dir: str | None, *, validation: bool, changes: list[str]) -> Path:
    """Train and measure one row, unless its result is there."""
    data, arm = name.split("/")
    spec, row = DATA[data], ROWS[data][arm]
    if changes:
        row = replace(row, ties=tuple(tie + "".join(f":{one}" for one in changes) for tie in row.ties))
    folder = RUNS / data / "-".join([arm, *changes, str(seed)])
    target = folder / "validation.json" if validation else RESULTS / f"{data}-{arm}-{seed}.json"
    if target.exists():
        return target
    found = splits(data, data_dir)
    settings = RunSettings(
        model_config(
            spec.network, boundary="circular", channels=found.train.images.shape[1], classes=len(found.train.classes),
            **row.network,
        ),
        get_recipe(
            spec.recipe, epochs=spec.epochs, attributes=row.ties, topography=row.topography,
            **({} if spec.momentum is None else {"momentum": spec.momentum}),
        ),
        data,
        seed,
    )  # fmt: skip
    outcome = train_run(folder, settings, replace(found, test=None), resume=folder.exists())
    images = found.validation if validation else found.test
    assert images is not None
    base = found.train.subset(range(min(len(found.train), 5000)))
    record = {
        "row": name, "seed": seed, "property": row.property, "cell": list(row.cell), "ties": list(row.ties),
        "network": dict(row.network), "epochs": spec.epochs, "train_images": len(found.train),
        "measured_on": images.name, "seconds": outcome["seconds"], "weights_sha256": outcome["weights_sha256"],
        "commit": outcome["commit"], **measure(folder, row, base, images),
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(_rounded(record)).replace("}, {", "},\n{").encode())
    return target


def _rounded(value: Any) -> Any:
    """Four digits are enough for numbers of a few hundred images."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def in_array(name: str, seed: int, data_dir: str | None, images: int = 60) -> str:
    """The best shifts in x_j itself, where the tie is, for a row that was trained; x̄_j averages over v_{j-2} first."""
    data, arm = name.split("/")
    row, run = ROWS[data][arm], load_run(RUNS / data / f"{arm}-{seed}")
    depth, attribute = row.cell
    tie, model, plain = AttributeTie(row.property, attribute, depth), run.model.eval(), run.preprocessing
    test = splits(data, data_dir).test
    assert test is not None
    pixels = test.images[:images]
    dim = depth - int(attribute[1:]) + 1  # of the attribute, counted from the end, once space is one axis

    def array(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x, return_arrays=True)[1][depth].values.flatten(-2)

    start, lines = array(plain.standardize(pixels)), []
    for amount in (-90.0, 45.0, 90.0, 135.0):
        changed = change(pixels, row.property, torch.full((len(pixels),), amount))
        fit = best_shifts(start, array(plain.standardize_floats(changed))[:, None], -1 - dim)
        expected = tie.shift(amount, start.shape[-1 - dim])
        share = float(fit.explained.sum() / fit.total.sum())
        lines += [f"{amount:g}: shift {float(fit.shift.median()):g}, tied to {expected:g}; share {share:.3f}"]
    return "\n".join(lines)


def say(path: Path) -> str:
    """The numbers of a row that matter most, on a line."""
    one = json.loads(path.read_text(encoding="utf-8"))
    cell, gain = cell_of(one), one.get("consistency_gain", [math.nan])[0]
    return (
        f"{one['row']} {one['seed']}: accuracy {one['accuracy'][0]:.3f}, "
        f"changed {one['accuracy_changed'][one['property']][0]:.3f}, r {cell['r'][0]:.2f}, "
        f"share {cell['share'][0]:.2f} (shuffled {cell['shuffled_share']:.2f}), "
        f"consistency gain {gain:+.2f}, "
        f"error {one['error']['of_spread']:.3f} of spread, {one['error']['of_change']:.2f} of change"
    )


def cell_of(one: dict[str, Any], property: str | None = None) -> dict[str, Any]:
    """What was measured of a property, the row's own if None, at the row's depth and attribute."""
    depth, attribute = one["cell"]
    wanted = depth, attribute, property or one["property"]
    nothing = {"r": [math.nan], "share": [math.nan], "shuffled_share": math.nan, "shuffled_r": math.nan}
    return next((c for c in one["cells"] if (c["depth"], c["attribute"], c["property"]) == wanted), nothing)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE", help="of the ties, as weight=2")
    parser.add_argument("--in-array", action="store_true", help="only print the best shifts in x_j of a trained row")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.list:
        print("\n".join(f"{data}/{arm}" for data, arms in ROWS.items() for arm in arms))
    elif given.row in {f"{data}/{arm}" for data, arms in ROWS.items() for arm in arms}:
        if given.in_array:
            return print(in_array(given.row, given.seed, given.data_dir))
        if given.change and not given.validation:
            parser.error("--change: expected --validation beside it, for settings are chosen on validation images")
        print(say(run_row(given.row, given.seed, given.data_dir, validation=given.validation, changes=given.change)))
    else:
        parser.error(f"expected a row that --list names; got {given.row!r}")


if __name__ == "__main__":
    main()
