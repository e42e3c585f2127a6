"""What `named_attributes.py` measured, as tables and as the curve of accuracy against equivariance error.

python benchmarks/named_attributes_report.py        # writes README.md and curve.png into results/named-attributes
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from named_attributes import DATA, RESULTS, ROWS, WEIGHTS, cell_of
from seed_interval import half_interval

from hcnn.plotting import pyplot, save


def _over_seeds(values: list[float], digits: int = 2, factor: float = 1.0) -> str:
    """Mean and half the width of the 95 % interval over seeds, by Student's t."""
    values = [factor * value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f} (one seed)"
    return f"{mean:.{digits}f} ± {half_interval(values):.{digits}f}"


# What else is looked for in plain networks: the properties of the other arms.
_ALSO = {"digits": ["scale", "position right", "brightness"], "cifar10": ["rotation", "scale", "position right"]}


_COLUMNS = """
The columns: *cell* is attribute@depth; *accuracy* is that on images as in training, then that on images whose
property is changed over its full range; *r* is the correlation of the best shift with the amount of the change, whose
sign is arbitrary where nothing is tied, so that it may cancel in the mean over seeds; *share* is the part of the
array's change that the shift explains, and the same in the best of five shuffled orders of the attribute (two, where it
has four values), both at the central position; *consistency* is how often the image found along the shift has the
query's class, and the same in a shuffled order; *error* is the relative equivariance error; *change left* is the part
of the change of all of x_j, turned or stretched as its image is, that the translation by τ(a) leaves (more than 1 where
it leads elsewhere); *roughness* is 1 where the attribute has no order.
"""


def _rows(head: str, rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [head, "|---" * (head.count("|") - 1) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def table() -> str:
    """All results as Markdown."""
    known: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        one = json.loads(path.read_text(encoding="utf-8"))
        known.setdefault(one["row"], []).append(one)
    lines = []
    for data, spec in DATA.items():
        mine = {name: ones for name, ones in known.items() if name.startswith(f"{data}/")}
        if not mine:
            continue
        images = next(iter(mine.values()))[0]
        lines += [
            f"\n## {data}\n",
            f"{spec.network}, periodic, {spec.epochs} epochs of {images['train_images']:,} images, measured on "
            f"{images['images']:,} test images. Mean ± half of the 95 % interval over seeds.\n",
        ]
        found, more = [], []
        arms = [f"{data}/{arm}" for arm in ROWS[data]]
        for name in [arm for arm in arms if arm in mine]:
            ones = mine[name]
            properties = [ones[0]["property"]]
            if name.endswith("/plain"):
                properties += _ALSO.get(data, [])
            for property in properties:
                cells = [cell_of(one, property) for one in ones]
                own = property == ones[0]["property"]
                first = [name.split("/")[1], property, f"{ones[0]['cell'][1]}@{ones[0]['cell'][0]}"]
                found.append([
                    *first, str(len(ones)),
                    _over_seeds([one["accuracy"][0] for one in ones], 1, 100),
                    _over_seeds([one["accuracy_changed"][property][0] for one in ones], 1, 100),
                    _over_seeds([c["r"][0] for c in cells]),
                    _over_seeds([c["share"][0] for c in cells]),
                    _over_seeds([c["shuffled_share"] for c in cells]),
                ])  # fmt: skip
                more.append([
                    *first,
                    _over_seeds([one.get("consistency", [math.nan])[0] for one in ones], 1, 100),
                    _over_seeds([one.get("consistency_shuffled", [math.nan])[0] for one in ones], 1, 100),
                    _over_seeds([one["error"]["of_spread"] if own else math.nan for one in ones], 3),
                    _over_seeds([one["error"]["of_change"] if own else math.nan for one in ones]),
                    _over_seeds([one.get("roughness", math.nan) for one in ones]),
                ])  # fmt: skip
        lines += _rows(
            "| arm | property | cell | seeds | accuracy, % | under the full range, % | r | share | share, shuffled |",
            found,
        )
        head = "| arm | property | cell | consistency, % | shuffled, % | error | change left | roughness |"
        lines += ["", *_rows(head, more)]
    return "\n".join(lines) + "\n"


def curve(path: Path) -> None:
    """Draw accuracy on coloured digits against the weight of the tie and against the error; a point for each seed."""
    paths = sorted(RESULTS.glob("coloured-digits-hue-*.json"))
    records = [json.loads(one.read_text(encoding="utf-8")) for one in paths]
    known = {"coloured-digits/hue-augmentation": 0.0, "coloured-digits/hue-tied": 1.0}
    known |= {f"coloured-digits/hue-tied-weight-{w:g}": w for w in WEIGHTS}
    points = [(known[one["row"]], one) for one in records if one["row"] in known]
    weights = sorted(set(known.values()))
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for label, colour, marker, side, value in (
        ("images as in training", "#0072b2", "o", -0.08, lambda one: one["accuracy"][0]),
        ("hues turned by up to ±180 degrees", "#d55e00", "s", 0.08, lambda one: one["accuracy_changed"]["hue"][0]),
    ):
        heights = [100 * value(one) for _, one in points]
        left.scatter([weights.index(weight) + side for weight, _ in points], heights, c=colour, marker=marker)
        errors = [one["error"]["of_spread"] for _, one in points]
        right.scatter(errors, heights, c=colour, marker=marker, label=label)
    left.set(xlabel="weight of the tie", ylabel="test accuracy, %")
    left.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    right.set(xscale="log", xlabel="relative equivariance error at v3, depth 3")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save(figure, path)


def main() -> None:
    """Write both."""
    head = "# Named attributes\n\n`python benchmarks/named_attributes_report.py` writes this page.\n" + _COLUMNS
    picture = "\n![Accuracy against equivariance error](curve.png)\n"
    curve(RESULTS / "curve.png")
    (RESULTS / "README.md").write_text(head + table() + picture, encoding="utf-8")


if __name__ == "__main__":
    main()
