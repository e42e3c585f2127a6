"""From scratch, frozen or fine-tuned: five classes of CIFAR-100, from 50 to 1,000 training images each.

    python benchmarks/fine_tuning.py --data-dir DATA --network hcnn_small_cifar10
    python benchmarks/fine_tuning.py --data-dir DATA --network RUN      # a run folder, such as that of a ResNet-20
    python benchmarks/fine_tuning.py --report

The classes are the first five coarse labels of CIFAR-100 in alphabetical order: the fine ones have only 500 training
images each. Of the 2,500 training images of each coarse class, 200 are set aside for validation, the same ones in all
runs. Learning rate and length are chosen on them for 50 images a class; with the other sizes the length
changes as the table EPOCHS says.
The test set, 500 images of each class, is read once by each of the runs that are reported. Every seed draws its own
training images, its own class layer or network, and its own order.

After an interruption the script continues: each finished run is a line of results/fine-tuning/runs.jsonl.
"""

import argparse
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hcnn.data import datasets
from hcnn.data.image_set import ImageSet, Splits
from hcnn.export.opening import open_network
from hcnn.plotting import pyplot, save
from hcnn.runs.initial import Initial, initial_network
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.log import append_line
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe

RESULTS = Path(__file__).parents[1] / "results" / "fine-tuning"
SIZES = (50, 200, 1000)  # training images of each class
EPOCHS = {50: 20, 200: 10, 1000: 4}  # times 1 or 2 or 3, whichever validation prefers
VALIDATION, CLASSES, SEEDS = 200, 5, (0, 1, 2)
TRAINED = {  # by the first digits of the SHA-256 of weights: how they were trained
    "f3182095": "weights of 100 epochs",
    "5de0dbbb": "weights of 16 epochs",
    "bea41360": "weights of 30 epochs",
}
ARMS = {  # name: candidates for the learning rate
    "from scratch": (0.0025, 0.007, 0.02, 0.05, 0.1),
    "frozen": (0.02, 0.05, 0.15, 0.5),
    "fine-tuned": (0.005, 0.015, 0.05, 0.1),
}


def five_classes(images: ImageSet) -> ImageSet:
    """The images of the first five coarse classes, labelled by them."""
    names = sorted(set(images.superclasses))[:CLASSES]
    coarse = torch.tensor([names.index(one) if one in names else -1 for one in images.superclasses])[images.labels]
    kept = coarse >= 0
    return ImageSet(images.images[kept], coarse[kept], tuple(names), images.name)


def draw(images: ImageSet, seed: int) -> list[torch.Tensor]:
    """For each class a random order of its images."""
    generator = torch.Generator().manual_seed(seed)
    places = [torch.nonzero(images.labels == label).flatten() for label in range(CLASSES)]
    return [place[torch.randperm(len(place), generator=generator)] for place in places]


def take(images: ImageSet, places: list[torch.Tensor]) -> ImageSet:
    """The images at some places of each class."""
    return images.subset(torch.cat(places).sort().values.tolist())


class Experiment:
    """The runs of one network.

    Args:
        source: a name of pretrained weights, or a run folder.
        data_dir: where CIFAR-100 is kept.
        work: folder for the run folders, which are removed once they are finished.
    """

    def __init__(self, source: str, data_dir: Path | None, work: Path) -> None:
        run = open_network(source)
        self.initial: Initial = initial_network(Path(source).name, run.model, run.preprocessing)
        self.stages = len(run.model.stages) - (1 if run.model.array_count else 0)  # all but the class layer
        self.work = work
        data = datasets.load("cifar100", data_dir=data_dir)
        assert data.test is not None
        train, self.test = five_classes(data.train), five_classes(data.test)
        order = draw(train, seed=1_000)
        self.validation = take(train, [places[:VALIDATION] for places in order])
        self.rest = take(train, [places[VALIDATION:] for places in order])

    def run(self, arm: str, size: int, seed: int, lr: float, times: int, *, choosing: bool) -> float:
        """Accuracy of one run, on validation images while choosing, else on the test set; from the record if there."""
        key = {
            "network": self.initial.source,
            "arm": arm,
            "size": size,
            "seed": seed,
            "lr": lr,
            "epochs": times * EPOCHS[size],
            "on": "validation" if choosing else "test",
        }
        if arm != "from scratch":
            key["weights_sha256"] = self.initial.weights_sha256
        for line in read_lines():
            if key.items() <= line.items():
                return line["accuracy"]
        few = take(self.rest, [places[:size] for places in draw(self.rest, seed)])
        folder = self.work / "-".join(str(value).replace(" ", "_") for value in key.values())
        result = train_run(
            folder,
            self._settings(arm, seed, replace(get_recipe("fast"), epochs=key["epochs"], batch_size=50, lr=lr)),
            Splits(few, test=self.validation if choosing else self.test),
            resume=True,
        )
        seconds = {"seconds": result["seconds"], "versions": result["versions"], "hardware": result["hardware"]}
        append_line(RESULTS / "runs.jsonl", {**key, "accuracy": result["test_accuracy"], **seconds})
        shutil.rmtree(folder)
        print(key, f"{result['test_accuracy']:.2%} {result['seconds']:.0f} s", flush=True)
        return result["test_accuracy"]

    def _settings(self, arm: str, seed: int, recipe: Recipe) -> RunSettings:
        network = replace(self.initial.config, classes=CLASSES)
        if arm == "from scratch":
            return RunSettings(network, recipe, "cifar100, five coarse classes", seed)
        freeze = self.stages if arm == "frozen" else 0
        data = "cifar100, five coarse classes"
        return RunSettings(network, recipe, data, seed, initial=self.initial, freeze=freeze)

    def choose(self, arm: str) -> tuple[float, int]:
        """Learning rate, then length, by validation accuracy with 50 images a class."""
        size = SIZES[0]
        scores = {lr: self.run(arm, size, 100, lr, 1, choosing=True) for lr in ARMS[arm]}
        lr = max(scores, key=lambda one: scores[one])
        lengths = {1: scores[lr], 2: self.run(arm, size, 100, lr, 2, choosing=True)}
        if lengths[2] > lengths[1] and arm == "from scratch":
            lengths[3] = self.run(arm, size, 100, lr, 3, choosing=True)
        return lr, max(lengths, key=lambda one: lengths[one])


def read_lines() -> list[dict[str, Any]]:
    """The finished runs."""
    path = RESULTS / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report() -> None:
    """Write README.md and accuracy.png from all runs so far."""
    lines = read_lines()
    newest = {(line["network"], line["arm"]): line.get("weights_sha256") for line in lines}
    for line in lines:
        if line.get("weights_sha256") != newest[line["network"], line["arm"]]:
            line["arm"] += f", {_weights(line['weights_sha256'])}"
    arms = [*ARMS, *sorted({line["arm"] for line in lines} - ARMS.keys())]
    cells: dict[tuple[str, str, int], list[float]] = {}
    for line in lines:
        if line["on"] == "test":
            cells.setdefault((line["network"], line["arm"], line["size"]), []).append(100 * line["accuracy"])
    networks = sorted({line["network"] for line in lines})
    rows = ["| network | training | " + " | ".join(f"{size} a class" for size in SIZES) + " |"]
    rows.append("| --- | --- |" + " ---: |" * len(SIZES))
    for network in networks:
        for arm in arms:
            shown = [_with_spread(cells.get((network, arm, size), [])) for size in SIZES]
            if any((network, arm, size) in cells for size in SIZES):
                rows.append(f"| {network} | {arm} | " + " | ".join(shown) + " |")
    chosen = ["| network | training | epochs | " + "rate: validation accuracy |", "| --- | --- | ---: | --- |"]
    found: dict[tuple[str, str, int], dict[float, float]] = {}
    for line in lines:
        if line["on"] == "validation":
            found.setdefault((line["network"], line["arm"], line["epochs"]), {})[line["lr"]] = line["accuracy"]
    for (network, arm, epochs), scores in sorted(found.items()):
        shown = ", ".join(f"{lr:g}: {score:.1%}" for lr, score in sorted(scores.items()))
        chosen.append(f"| {network} | {arm} | {epochs} | {shown} |")
    used = ["| network | training | rate | epochs with " + ", ".join(map(str, SIZES)) + " a class |"]
    used.append("| --- | --- | ---: | --- |")
    for network in networks:
        for arm in arms:
            tested = [one for one in lines if (one["network"], one["arm"], one["on"]) == (network, arm, "test")]
            lengths = {one["size"]: str(one["epochs"]) for one in tested}
            if tested:
                shown = ", ".join(lengths.get(size, "–") for size in SIZES)
                used.append(f"| {network} | {arm} | {tested[0]['lr']:g} | {shown} |")
    started: dict[str, dict[str, None]] = {network: {} for network in networks}  # in the order of the runs
    for line in lines:
        if digest := line.get("weights_sha256"):
            started[line["network"]][f"{_weights(digest)} ({digest[:8]})"] = None
    weights = "\n".join(f"- {network}: {', '.join(names)}" for network, names in started.items())
    processor, version = lines[-1]["hardware"]["processor"], lines[-1]["versions"]["torch"]
    minutes = sum(line["seconds"] for line in lines) / 60
    text = f"""# From scratch, frozen or fine-tuned

`python benchmarks/fine_tuning.py --network NAME_OR_RUN`, then `--report`. One thread of {processor}, torch {version};
{minutes:.0f} minutes in all, beside other work.

Runs started from these weights, given with the first digits of their SHA-256. A row that does not name any started from
the last weights in the list.

{weights}

The classes are the first five coarse labels of CIFAR-100 in alphabetical order, with 2,500 test images. The table has
the accuracy on them in %, mean and standard deviation over seeds; every seed draws its own training images. Batches
have 50 images; optimizer and augmentation are those of the recipe `fast`. "Frozen" keeps all layers but the last one,
with their statistics; "fine-tuned" trains all of them.

{chr(10).join(rows)}

![Test accuracy against the number of training images](accuracy.png)

## Settings of these runs

{chr(10).join(used)}

## Chosen on validation images

With {SIZES[0]} training images of each class, on {VALIDATION * CLASSES:,} validation images that no other run reads:
first the rate, then the length.

{chr(10).join(chosen)}
"""
    (RESULTS / "README.md").write_text(text, encoding="utf-8")
    shown = [network for network in networks if any(key[0] == network for key in cells)]
    plot = pyplot()
    figure, axes = plot.subplots(1, len(shown), figsize=(4.8 * len(shown), 3.8), sharey=True, squeeze=False)
    for place, network in zip(axes[0], shown, strict=True):
        for arm in arms:
            points = [(size, cells[network, arm, size]) for size in SIZES if (network, arm, size) in cells]
            if not points:
                continue
            number = [*ARMS].index(arm.partition(",")[0])
            # Earlier weights are drawn as the present ones, dashed.
            style = {"marker": "osD"[number], "color": f"C{number}", "linestyle": "-" if arm in ARMS else "--"}
            means = [statistics.mean(values) for _, values in points]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            place.errorbar([size for size, _ in points], means, spread, **style, capsize=3, label=arm)
        place.set(xscale="log", xlabel="training images of each class", title=network)
        place.legend(loc="lower right", fontsize="small")
        place.set_xticks(SIZES, [str(size) for size in SIZES])
        place.minorticks_off()
        place.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    axes[0][0].set_ylim(bottom=40)  # room for the legends
    figure.tight_layout()
    save(figure, RESULTS / "accuracy.png")
    print("\n".join(rows))


def _weights(digest: str) -> str:
    """How weights were trained, or their digest where that is not known."""
    return TRAINED.get(digest[:8], f"weights {digest[:8]}")


def _with_spread(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f} (one seed)"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" + (
        " (2 seeds)" if len(values) == 2 else ""
    )


def main() -> None:
    """Read the options and go through the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", help="a name of pretrained weights, or a run folder")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/fine-tuning"))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, choices=SIZES)
    parser.add_argument("--report", action="store_true", help="write the table and the curves")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.network:
        experiment = Experiment(options.network, options.data_dir, options.work)
        chosen = {arm: experiment.choose(arm) for arm in reversed(ARMS)}
        for seed in options.seeds:
            for size in options.sizes:
                for arm, (lr, times) in chosen.items():
                    experiment.run(arm, size, seed, lr, times, choosing=False)
    if options.report:
        report()


if __name__ == "__main__":
    main()
