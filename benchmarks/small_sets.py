"""Five small sets of images: what `hcnn train FOLDER` reaches with its defaults, beside a ResNet-20 and an SVC.

    python benchmarks/small_sets.py write SETS --data-dir DATA       # the folders, from CIFAR-10, CIFAR-100 and digits
    python benchmarks/small_sets.py compare SETS --output results/small-sets
    python benchmarks/small_sets.py choose --data-dir DATA --set vehicles --lr 0.01 0.02 --steps 400 --batch-size 32

`write` makes SETS/NAME/train and SETS/NAME/test, each with a folder of PNG files for each class. `compare` trains on
SETS/NAME/train with no other option than the network's name, as anyone would, so that a fifth of the images is held
out and chooses the epoch; then it measures the test images once. The same command resumes. `choose` is for choosing
defaults: it trains on the same training images and measures 500 further images from the training part of the archives
(400 for the digits). It never sees a test image.
"""

import argparse
import itertools
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.svm import SVC

from hcnn.data import datasets
from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.data.splits import stratified_split
from hcnn.models.factory import build
from hcnn.models.registry import model_config
from hcnn.runs.load import load_run, read_result
from hcnn.storage.atomic import write_atomically, write_json
from hcnn.training.evaluate import predict_logits
from hcnn.training.recipes import get_recipe
from hcnn.training.trainer import Trainer

KEY = 31  # of the draws


@dataclass(frozen=True)
class SmallSet:
    """A set: its source, its classes (a superclass of CIFAR-100, or how many of the first), images in all, colour."""

    data: str
    classes: str | int
    images: int
    validation: int
    grey: bool = False


SETS = {
    "digits": SmallSet("digits", 10, 400, 400),
    "flowers-grey": SmallSet("cifar100", "flowers", 250, 500, grey=True),
    "vehicles": SmallSet("cifar100", "vehicles_1", 500, 500),
    "people": SmallSet("cifar100", "people", 500, 500),  # fine-grained: baby, boy, girl, man, woman
    "five-of-cifar10": SmallSet("cifar10", 5, 750, 500),
}
MODELS = {"HCNN": {"small": "hcnn_digits", "other": "hcnn_small_cifar10"},
          "ResNet-20": {"small": "resnet20_digits", "other": "resnet20_cifar10"}}  # fmt: skip


def draw(one: SmallSet, data_dir: Path | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Training, validation and test images of a set."""
    splits = datasets.load(one.data, data_dir=data_dir)
    assert splits.test is not None
    names = list(splits.train.classes)
    if isinstance(one.classes, int):
        kept = names[: one.classes]
    else:
        pairs = zip(names, splits.train.superclasses, strict=True)
        kept = [name for name, group in pairs if group == one.classes]
    whole, test = (_only(source, kept, one.grey) for source in (splits.train, splits.test))
    rest, chosen = stratified_split(whole.labels, one.images, KEY, 0)
    others = whole.subset(rest)
    _, validation = stratified_split(others.labels, one.validation, KEY, 1)
    return whole.subset(chosen), others.subset(validation), test


def _only(source: ImageSet, names: list[str], grey: bool) -> ImageSet:
    chosen = source.subset([i for i, label in enumerate(source.labels.tolist()) if source.classes[label] in names])
    images = chosen.images
    if grey:
        luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        images = (images * luma).sum(1, keepdim=True).round().to(torch.uint8)
    labels = torch.tensor([names.index(source.classes[label]) for label in chosen.labels.tolist()])
    return ImageSet(images, labels, tuple(names), source.name)


def write(root: Path, data_dir: Path | None) -> None:
    """Write the sets as folders of PNG files."""
    for name, one in SETS.items():
        train, _, test = draw(one, data_dir)
        for part, images in (("train", train), ("test", test)):
            for i, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
                title = images.classes[label]
                # A class called "train" would be taken for the training images.
                folder = root / name / part / ("railway_train" if title == "train" else title)
                folder.mkdir(parents=True, exist_ok=True)
                array = pixels.permute(1, 2, 0).squeeze(-1).numpy()
                Image.fromarray(array).save(folder / f"{i:05}.png")
        print(f"{root / name}: {len(train)} training and {len(test)} test images of {len(train.classes)} classes")


def choose(name: str, data_dir: Path | None, options: argparse.Namespace) -> None:
    """Print the accuracy on the validation images for every combination of settings."""
    train, validation, _ = draw(SETS[name], data_dir)
    preprocessing = fit_preprocessing(train)
    small = max(train.images.shape[2:]) <= 16
    for lr, batch, steps, seed in itertools.product(options.lr, options.batch_size, options.steps, options.seed):
        recipe = get_recipe(options.recipe or ("digits" if small else "fast"), lr=lr, batch_size=batch)
        recipe = replace(recipe, epochs=max(1, round(steps / (len(train) // batch))))
        torch.manual_seed(seed)
        channels, classes = train.images.shape[1], len(train.classes)
        kind = MODELS[options.model]["small" if small else "other"]
        network = build(model_config(kind, channels=channels, classes=classes))
        trainer = Trainer(network, train.images, train.labels, preprocessing, recipe, seed=seed)
        begun = time.process_time()
        trainer.fit()
        logits = predict_logits(network, preprocessing.standardize(validation.images))
        hits = (logits.argmax(1) == validation.labels).float().mean().item()
        print(
            f"{name} {options.model} lr {lr:g} batch {batch} steps {trainer.steps} seed {seed}: {hits:.1%} of "
            f"{len(validation)} validation images, {time.process_time() - begun:.0f} CPU seconds",
            flush=True,
        )


def compare(root: Path, output: Path, work: Path, seed: int, names: list[str]) -> None:
    """Train on every set with the defaults, and write the table."""
    rows = []
    for name in names:
        test = datasets.load(root / name / "test").train
        small = "small" if max(test.images.shape[2:]) <= 16 else "other"
        row: dict[str, object] = {"set": name, "test_images": len(test), "SVC": svc(root / name / "train", test)}
        for title, models in MODELS.items():
            folder = work / f"{name}-{models[small]}"
            command = [sys.executable, "-m", "hcnn.cli", "train", str(root / name / "train"), "--model", models[small]]
            command += ["--output", str(folder), "--threads", "1", "--seed", str(seed), "--resume"]
            subprocess.run(command, check=True)
            run, result = load_run(folder), read_result(folder)
            logits = predict_logits(run.model, run.preprocessing.standardize(test.images))
            row[title] = {
                "test_accuracy": (logits.argmax(1) == test.labels).float().mean().item(),
                "validation_accuracy": result["validation_accuracy"],
                "best_epoch": result["best_epoch"],
                "seconds": result["seconds"],
                "train_images": result["train_images"],
                "recipe": run.config["recipe"],
            }
        rows.append(row)
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "small-sets.json", {"seed": seed, "sets": rows})
        write_atomically(output / "table.md", table(rows).encode())
    print(table(rows))


def svc(folder: Path, test: ImageSet) -> float:
    """Test accuracy of a support vector machine on pixels, with all images of the folder."""
    train = datasets.load(folder).train
    machine = SVC(C=10).fit(_rows(train), train.labels.numpy())
    return float(machine.score(_rows(test), test.labels.numpy()))


def _rows(images: ImageSet) -> np.ndarray:
    return images.images.flatten(1).numpy() / 255


def table(rows: list[dict]) -> str:
    """The comparison in Markdown."""
    lines = ["| set | images | SVC on pixels | ResNet-20 | HCNN |", "|---|---|---|---|---|"]
    for row in rows:
        one = SETS[row["set"]]
        reached = [row["SVC"], *(row[title]["test_accuracy"] for title in ("ResNet-20", "HCNN"))]
        lines.append(
            f"| {row['set']} | {one.images:,} | " + " | ".join(f"{100 * each:.1f} %" for each in reached) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the options and carry out the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "compare", "choose"):
        one = commands.add_parser(name)
        if name != "choose":
            one.add_argument("sets", type=Path)
        if name != "compare":
            one.add_argument("--data-dir", type=Path)
        if name == "compare":
            one.add_argument("--output", type=Path, default=Path("results/small-sets"))
            one.add_argument("--work", type=Path, default=Path("runs/small-sets"))
            one.add_argument("--seed", type=int, default=0)
            one.add_argument("--sets", dest="names", nargs="+", choices=[*SETS], default=[*SETS])
        if name == "choose":
            one.add_argument("--set", choices=[*SETS], required=True)
            one.add_argument("--model", choices=[*MODELS], default="HCNN")
            one.add_argument("--recipe")
            one.add_argument("--lr", type=float, nargs="+", default=[0.02])
            one.add_argument("--batch-size", type=int, nargs="+", default=[32])
            one.add_argument("--steps", type=int, nargs="+", default=[400])
            one.add_argument("--seed", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "write":
        write(options.sets, options.data_dir)
    elif options.command == "compare":
        compare(options.sets, options.output, options.work, options.seed, options.names)
    else:
        choose(options.set, options.data_dir, options)


if __name__ == "__main__":
    main()
