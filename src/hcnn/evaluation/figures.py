"""Pictures of an evaluation: the confusion matrix, calibration, and accuracy against the share of images answered."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hcnn.evaluation.measures import BINS, Evaluation
from hcnn.evaluation.shifts import SHIFTS, ShiftScore
from hcnn.plotting import literal, pyplot, save

_NUMBERS = 20  # classes up to which the counts are written into the cells


def draw_confusion(found: Evaluation, path: Path) -> None:
    """The confusion matrix: rows are true classes, a cell's colour is its share of the row."""
    plot = pyplot()
    k = len(found.classes)
    side = min(14.0, 2.2 + 0.48 * k)
    figure, axes = plot.subplots(figsize=(side + 1, side))
    totals = found.confusion.sum(1, keepdim=True).clamp_min(1)
    shares = (found.confusion / totals).numpy()
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    figure.colorbar(picture, ax=axes, label="share of the true class", fraction=0.046)
    names = [literal(name) for name in found.classes]
    size = 9 if k <= _NUMBERS else max(3.0, 160 / k)
    axes.set_xticks(range(k), names, rotation=90, fontsize=size)
    axes.set_yticks(range(k), names, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if k <= _NUMBERS:
        for i in range(k):
            for j in range(k):
                if count := int(found.confusion[i, j]):
                    axes.text(
                        j,
                        i,
                        f"{count}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="black" if shares[i, j] > 0.5 else "white",
                    )
    save(figure, path)


def draw_calibration(found: Evaluation, path: Path) -> None:
    """Accuracy against confidence, and how many images have it."""
    plot = pyplot()
    figure, (axes, below) = plot.subplots(2, 1, figsize=(5, 5.4), sharex=True, height_ratios=(3, 1))
    filled = [(place, one) for place, one in enumerate(found.bins) if one.count]
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfectly calibrated")
    axes.plot(
        [one.confidence for _, one in filled], [one.accuracy for _, one in filled], marker="o", label="this network"
    )
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"expected calibration error {found.calibration_error:.1%}", fontsize=11)
    axes.legend(loc="upper left")
    below.bar([(place + 0.5) / BINS for place, _ in filled], [one.count for _, one in filled], width=0.9 / BINS)
    below.set_ylabel("images")
    below.set_xlabel("confidence: probability of the predicted class")
    below.set_xlim(-0.02, 1.02)
    save(figure, path)


def draw_coverage(found: Evaluation, path: Path) -> None:
    """Accuracy against the share of images that are answered, the least certain being left out first."""
    plot = pyplot()
    figure, axes = plot.subplots(figsize=(5, 3.6))
    axes.plot([100 * share for share, _ in found.coverage], [100 * value for _, value in found.coverage], marker=".")
    axes.set_xlabel("images answered, the most certain first (%)")
    axes.set_ylabel("accuracy on them (%)")
    axes.set_xlim(0, 102)
    _upper_margin(axes)
    axes.grid(alpha=0.3)
    save(figure, path)


def _upper_margin(axes: Any) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, 100.5) if high > 95 else high)


def draw_shifts(found: Mapping[str, Sequence[ShiftScore]], path: Path) -> None:
    """Accuracy against the strength of each change, a line per network; the band is its 95 % interval."""
    plot = pyplot()
    names = list(dict.fromkeys(one.shift for scores in found.values() for one in scores if one.shift != "none"))
    rows = math.ceil(len(names) / 4)
    figure, grid = plot.subplots(rows, 4, figsize=(13, 2.9 * rows), sharey=True, squeeze=False, layout="constrained")
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.remove()
            continue
        every = [one for scores in found.values() for one in scores]
        strengths = list(dict.fromkeys(one.strength for one in every if one.shift == names[place]))
        ticks = {("none", 0.0): 0} | {(names[place], one): n for n, one in enumerate(strengths, 1)}
        for network, scores in found.items():
            line = [one for one in scores if (one.shift, one.strength) in ticks]
            at = [ticks[one.shift, one.strength] for one in line]
            values = [100 * one.accuracy for one in line]
            (drawn,) = axes.plot(at, values, marker=".", label=literal(network))
            low, high = zip(*([100 * end for end in one.interval] for one in line), strict=True)
            axes.fill_between(at, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
        axes.set_xticks(range(len(ticks)), ["none", *(f"{one:g}" for one in strengths)])
        axes.set_title(names[place], fontsize=11)
        axes.set_xlabel(SHIFTS[names[place]].unit, fontsize=9)
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    grid[0, 0].legend(fontsize=8, loc="lower left")
    save(figure, path)
