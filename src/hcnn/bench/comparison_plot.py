"""The plot of the comparison: accuracy against parameters and multiply-adds. Needs matplotlib."""

from pathlib import Path
from typing import Any

from hcnn.bench.comparison import SHORT, Entry
from hcnn.plotting import pyplot, save

_PRINTED, _OURS = "#999999", "#0072b2"
_Point = tuple[float, float, str]
_PLACES = tuple(
    (far, dx * far, dy * far, ha, va)
    for far in range(1, 8)
    for dx, dy, ha, va in (
        (7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top"),
        (6, 6, "left", "bottom"), (6, -6, "left", "top"), (-6, 6, "right", "bottom"), (-6, -6, "right", "top"),
    )
)  # fmt: skip


def plot(entries: list[Entry], path: Path) -> None:
    """Draw CIFAR-10: published results and our full runs above, our short runs below, each on its own scale.

    Bars are the sample deviation over runs.

    Args:
        entries: from `hcnn.bench.comparison.make_entries`.
        path: the PNG to write.
    """
    short = [entry for entry in entries if entry.data == "cifar10" and entry.images < SHORT]
    full = [entry for entry in entries if entry.data == "cifar10" and entry.images >= SHORT]
    printed = list({entry.system.title: entry for entry in entries if entry.system.cifar10 is not None}.values())
    tall = 2 if short else 1
    figure, grid = pyplot().subplots(tall, 2, figsize=(11, 4.6 * tall), layout="constrained", squeeze=False)
    named: list[tuple[Any, list[_Point]]] = []
    for column, (what, field) in enumerate(
        (("parameters to be stored", "stored"), ("multiply-adds of an image", "multiply_adds"))
    ):
        axes = grid[0][column]
        theirs = [(getattr(r, field), r.system.cifar10 or 0.0, _name(r)) for r in printed]
        ours = [(getattr(r, field), r.mean, _name(r)) for r in full]
        _points(axes, theirs, _PRINTED, "published", "o")
        _points(axes, ours, _OURS, "ours", "D")
        _spreads(axes, full, field)
        named.append((axes, theirs + ours))
        axes.set(title="CIFAR-10, published" + (" and ours" if full else "; ours not yet trained"))
        if short:
            below = grid[1][column]
            points = [(getattr(r, field), r.mean, _name(r)) for r in short]
            named.append((below, points))
            _points(below, points, _OURS, "ours, short", "D")
            _spreads(below, short, field)
            below.set(title="Short runs, not reproductions")
        for one in grid[:, column]:
            one.set(xscale="log", xlabel=what, ylabel="accuracy, %")
            one.margins(x=0.22, y=0.12)
            one.spines[["top", "right"]].set_visible(False)
            if one.get_legend_handles_labels()[0]:
                one.legend(frameon=False, loc="lower right")
    for axes, points in named:
        _name_points(figure, axes, points)
    save(figure, path)


def _name(entry: Entry) -> str:
    return entry.system.title.split(",")[0] + (" distilled" if entry.system.distilled else "")


def _points(axes: Any, points: list[_Point], colour: str, label: str, marker: str) -> None:
    if points:
        axes.scatter(
            [x for x, _, _ in points], [y for _, y, _ in points], c=colour, marker=marker, label=label, zorder=3
        )


def _spreads(axes: Any, entries: list[Entry], field: str) -> None:
    """A bar of one sample deviation over runs to either side, where there is more than one."""
    for entry in entries:
        if entry.spread is not None:
            axes.errorbar(getattr(entry, field), entry.mean, entry.spread, ecolor=_OURS, alpha=0.4, capsize=2)


def _name_points(figure: Any, axes: Any, points: list[_Point]) -> None:
    """Write the name of each point at the first place around it that is within the axes and covers nothing else.

    A name that does not stand beside its point is joined to it by a line.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure.canvas.draw()
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in axes.transData.transform([p[:2] for p in points])]
    inside = axes.get_window_extent()
    for x, y, title in sorted(points):
        for place in _PLACES:
            far, dx, dy, ha, va = place
            line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "shrinkA": 0} if far > 1 else None
            text = axes.annotate(
                title, (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=7, ha=ha, va=va, arrowprops=line
            )  # fmt: skip
            text.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(text)  # without the line
            free = inside.x0 < box.x0 and box.x1 < inside.x1 and not any(box.overlaps(other) for other in taken)
            if free or place is _PLACES[-1]:
                taken.append(box)
                break
            text.remove()
