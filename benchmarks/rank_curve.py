"""Accuracy against the rank Q of the factorized filters: record and curve for results/rank, and the table of its page.

    for seed in 0 1 2; do for rank in 9 16 32; do
        hcnn train cifar10 --model hcnn_small_cifar10_circular --recipe cifar --rank $rank --epochs 6 \
            --seed $seed --threads 1 --output RUNS/$rank-$seed
    done; done
    python benchmarks/rank_curve.py RUNS --output results/rank

A rank of 9 already represents every 3×3 filter, so that a larger one changes the optimization and not what the network
can compute (Jacobsen et al. 2017, section 4.2). Runs of one seed see the same images in the same order, so differences
between ranks are taken within seeds.
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

from seed_interval import half_interval

from hcnn.plotting import pyplot, save
from hcnn.runs.load import read_result
from hcnn.storage.atomic import write_json

PAPER = {16: 4.2, 32: 1.1}  # relative gain over the rank before, in percent; section 4.2


def collect(runs: Path) -> list[dict[str, Any]]:
    """What every finished run below a folder reached, in order of rank and seed.

    Raises:
        ValueError: if there are none, they differ in more than rank and seed, or some rank lacks a seed.
    """
    found, settings = [], {}
    for folder in sorted(path.parent for path in runs.glob("*/result.json")):
        result, config = read_result(folder), json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rank = config["model"].pop("rank")
        settings[folder.name] = {key: config[key] for key in ("model", "recipe", "data_sha256")}
        found.append({
            "rank": rank,
            "seed": result["seed"],
            "test_accuracy": result["test_accuracy"],
            "train_accuracy": [json.loads(line)["train_accuracy"] for line in lines],
            "epochs": result["epochs"],
            "trained_weights": result["parameters"]["trained"],
            "composed_weights": result["parameters"]["composed"],
            "seconds": result["seconds"],
            "commit": result["commit"],
        })  # fmt: skip
    if not found:
        raise ValueError(f"{runs}: expected folders of finished runs; found none")
    first, *others = settings
    if other := next((name for name in others if settings[name] != settings[first]), None):
        raise ValueError(f"{runs}: expected runs that differ in rank and seed only; {first} and {other} do not")
    known = {(one["rank"], one["seed"]) for one in found}
    if missing := set(product(*map(set, zip(*known, strict=True)))) - known:
        rank, seed = min(missing)
        raise ValueError(f"{runs}: expected every rank with every seed; rank {rank} lacks seed {seed}")
    return sorted(found, key=lambda one: (one["rank"], one["seed"]))


def table(found: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, a row for each rank."""
    lines = [
        "| Q | weights trained | seeds | test accuracy, % | gain over the row above, points | relative, % | paper, % |"
        " training images, last epoch, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    below: list[float] = []
    for rank in sorted({one["rank"] for one in found}):
        ones = [one for one in found if one["rank"] == rank]
        accuracies = [100 * one["test_accuracy"] for one in ones]
        mean = statistics.fmean(accuracies)
        gain = relative = "–"
        if below:
            gains = [high - low for high, low in zip(accuracies, below, strict=True)]
            gain = f"{statistics.fmean(gains):+.2f} ± {half_interval(gains):.2f}"
            relative = f"{100 * statistics.fmean(gains) / statistics.fmean(below):+.1f}"
        paper = f"{PAPER[rank]:+.1f}" if rank in PAPER else "–"
        train = 100 * statistics.fmean(one["train_accuracy"][-1] for one in ones)
        lines.append(
            f"| {rank} | {ones[0]['trained_weights']:,} | {len(ones)} "
            f"| {mean:.2f} ± {half_interval(accuracies):.2f} | "
            f"{gain} | {relative} | {paper} | {train:.1f} |"
        )
        below = accuracies
    return "\n".join(lines) + "\n"


def curve(found: list[dict[str, Any]], path: Path) -> None:
    """Draw test accuracy against rank, a point for each run and a line through the means."""
    ranks = sorted({one["rank"] for one in found})
    figure, axes = pyplot().subplots(figsize=(5, 3.6), layout="constrained")
    for seed, marker in zip(sorted({one["seed"] for one in found}), "osD^v", strict=False):
        heights = [100 * one["test_accuracy"] for one in found if one["seed"] == seed]
        axes.plot(ranks, heights, marker, color="#d55e00", label=f"seed {seed}", markerfacecolor="none")
    means = [statistics.fmean(100 * one["test_accuracy"] for one in found if one["rank"] == rank) for rank in ranks]
    axes.plot(ranks, means, color="#0072b2", label="mean")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.set(xlabel="rank Q", ylabel="test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path)


def main() -> None:
    """Read runs, write `rank.json` and `curve.png`, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of run folders")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    try:
        found = collect(options.runs)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "rank.json", {"runs": found})
    curve(found, options.output / "curve.png")
    print(table(found), end="")


if __name__ == "__main__":
    main()
