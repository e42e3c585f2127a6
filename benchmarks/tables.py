"""One command a row of the paper's tables 1 (CIFAR-10) and 2 (CIFAR-100), and of the steps past them.

    python benchmarks/tables.py --list                                      # the rows
    python benchmarks/tables.py 1.1 --data-dir DATA --minutes 9             # cut in pieces: the same command goes on
    python benchmarks/tables.py 1.1 --tiny --device cpu --output /tmp/tiny  # a smoke test: nothing to read from it

A row is checked for about 20 s first (does the loss fall, how long will it take, how much memory), trained, evaluated
and collected into OUTPUT/NAME: configuration, logs, result, learning curves where matplotlib is installed, the command.
It needs torch, numpy and safetensors only. Rows that choose set 5,000 training images aside by seed and never read the
test set; all others train on all 50,000 and read the test set once, as result.json says. Checkpoints and weights stay
in --work; `python tools/ship_weights.py RUN MODEL` puts weights into the package.
"""

import argparse
import difflib
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hcnn import kernels, model_config
from hcnn.allocator import keep_freed_memory
from hcnn.datasets import ImageSet, Splits, load
from hcnn.files import ensure_writable, write_atomically, write_json
from hcnn.networks import build
from hcnn.recipes import Recipe, get_recipe
from hcnn.runs import CONFIG, METRICS, RESULT, TIMING, RunSettings, fit_preprocessing, load_run, train_run
from hcnn.signals import Interrupted
from hcnn.teaching import get_teaching
from hcnn.training import Trainer, predict_logits


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        name: of its folder.
        model: a named network.
        recipe: a named recipe.
        goal: test accuracy in % to reach, None where the figure itself is asked for.
        network: fields of the network's configuration that differ.
        changes: fields of the recipe that differ.
        seeds: one run each.
        teacher: the row whose run teaches, or "".
        teach: a named way of teaching.
        chooses: whether it is compared on validation images; the test set is not read.
    """

    name: str
    model: str
    recipe: str = "fast"
    goal: float | None = None
    network: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    teacher: str = ""
    teach: str = "none"
    chooses: bool = False

    @property
    def data(self) -> str:
        """The data set."""
        return "cifar100" if self.model.endswith("cifar100") else "cifar10"


CIRCULAR = {"boundary": "circular"}
# One change at a time against 1.1 with validation images set aside; batches, rates and epochs as there.
_STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema": 0.999},
    "smoothing": {"label_smoothing": 0.1},
    "decay": {"weight_decay": 1e-3},
    "cosine": {"schedule": "cosine", "warmup": 0.05},
    "long": {"epochs": 100},
}


def _rows() -> dict[str, Row]:
    rows = {
        "1.1": Row("hcnn-fast", "hcnn_cifar10", goal=91.23),
        "1.2": Row("hcnn_plus-fast", "hcnn_plus_cifar10", goal=92.30),
        "1.3": Row("hcnn-circular-fast", "hcnn_cifar10", network=CIRCULAR),
        "1.3+": Row("hcnn_plus-circular-fast", "hcnn_plus_cifar10", network=CIRCULAR),
        "1.4": Row("hcnn-paper", "hcnn_cifar10", "paper", goal=91.23),
        "1.5": Row("hcnn-fast-seeds", "hcnn_cifar10", seeds=(0, 1, 2)),
        "1.5+": Row("hcnn_plus-fast-seeds", "hcnn_plus_cifar10", seeds=(0, 1, 2)),
        "1.6-9": Row("hcnn-q9-fast", "hcnn_cifar10", network={"rank": 9}),
        "1.6-16": Row("hcnn-q16-fast", "hcnn_cifar10", network={"rank": 16}),
        "1.7": Row("hcnn_plus-published", "hcnn_plus_cifar10_published", "published"),
        "1.cpu": Row("hcnn-circular-cpu20", "hcnn_cifar10", network=CIRCULAR, changes={"epochs": 20}),
        "2.1": Row("cifar100-hcnn-fast", "hcnn_cifar100", goal=62.01),
        "2.2": Row("cifar100-hcnn_plus-fast", "hcnn_plus_cifar100", goal=63.19),
        "2.3": Row("cifar100-hcnn-circular-fast", "hcnn_cifar100", network=CIRCULAR),
        "2.4": Row("cifar100-hcnn-fast-seeds", "hcnn_cifar100", seeds=(0, 1, 2)),
        "2.4+": Row("cifar100-hcnn_plus-fast-seeds", "hcnn_plus_cifar100", seeds=(0, 1, 2)),
        # The published reading-out, a linear map from K values, against one filter per class. Without the 100 filters
        # at j = 11 it has fewer weights; Q = 50 brings the trained weights within 1 % of it.
        "2.7-mean": Row("cifar100-readout-mean", "hcnn_cifar100", chooses=True),
        "2.7-linear": Row("cifar100-readout-linear", "hcnn_cifar100", network={"readout": "linear"}, chooses=True),
        "2.7-equal": Row(
            "cifar100-readout-linear-equal", "hcnn_cifar100", network={"readout": "linear", "rank": 50}, chooses=True
        ),
    }
    comparators = (
        ("wrn16_1", "wrn", 91.23),
        ("compact", "modern", None),
        ("resnet20", "resnet", 91.25),
        ("wrn40_1", "wrn", 93.42),
        ("wrn16_2", "wrn", 93.69),
        ("densenet_bc40", "densenet", 93.6),
        ("nin", "nin", 91.20),
        ("allcnn", "allcnn", 92.75),
        ("hypernetwork", "hypernetwork", 91.98),
        ("maxout", "fitnet", 90.18),
    )
    for name, recipe, goal in comparators:
        rows[f"1.8-{name}"] = Row(name, f"{name}_cifar10", recipe, goal)
    taught = {"teacher": "1.8-wrn40_1", "teach": "attention"}
    rows["1.8-wrn16_1_taught"] = Row("wrn16_1_taught", "wrn16_1_cifar10", "wrn", 91.75, **taught)
    taught = {"teacher": "1.8-maxout", "teach": "fitnet"}
    rows["1.8-fitnet4"] = Row("fitnet4_taught", "fitnet4_cifar10", "fitnet", 91.61, **taught)
    for name, recipe, goal in (("allcnn", "allcnn", 66.29), ("nin", "nin", 64.32), ("maxout", "fitnet", 63.54)):
        rows[f"2.6-{name}"] = Row(f"cifar100-{name}", f"{name}_cifar100", recipe, goal)
    taught = {"teacher": "2.6-maxout", "teach": "fitnet"}
    rows["2.6-fitnet4"] = Row("cifar100-fitnet4_taught", "fitnet4_cifar100", "fitnet", 64.96, **taught)
    for name, changes in _STEPS.items():
        rows[f"3-{name}"] = Row(f"step-{name}", "hcnn_cifar10", changes=changes, chooses=True)
    for name in ("mixup", "cutmix"):
        amount = {"mixup": 0.2, "cutmix": 1.0}[name]
        augmentation = replace(get_recipe("fast").augmentation, **{name: amount})
        rows[f"3-{name}"] = Row(f"step-{name}", "hcnn_cifar10", changes={"augmentation": augmentation}, chooses=True)
    taught = {"teacher": "1.8-wrn16_2", "teach": "soft_targets"}
    rows["3-taught"] = Row("step-taught", "hcnn_cifar10", chooses=True, **taught)
    return rows


ROWS = _rows()
_TINY = {"width": 4, "rank": 4, "attribute_support": (3, 3), "depth": 6, "downsample": (3, 5)}


def find(name: str) -> Row:
    """A row by its number; ValueError with the nearest ones."""
    if name not in ROWS:
        near = difflib.get_close_matches(name, ROWS, n=3, cutoff=0.3) or [*ROWS]
        raise ValueError(f"unknown row {name!r}; did you mean {', '.join(near)}? --list shows all")
    return ROWS[name]


def load_data(row: Row, data_dir: Path | None, *, tiny: bool) -> Splits:
    """The images of a row: with validation images where it chooses, else with the test set."""
    if tiny:
        random = torch.Generator().manual_seed(0)
        classes = 100 if row.data == "cifar100" else 10
        labels = torch.arange(classes).repeat(120 // classes)
        images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=random)
        above = tuple(f"coarse {label // 5:02}" for label in range(100)) if classes == 100 else ()
        names = tuple(str(label) for label in range(classes))
        train = ImageSet(images, labels, names, f"{row.data}/train", superclasses=above)
        return Splits(train, validation=train) if row.chooses else Splits(train, test=train)
    data = load(row.data, data_dir=data_dir, validation=5000 if row.chooses else 0)
    return replace(data, test=None) if row.chooses else data


def settings_of(row: Row, seed: int, device: str, work: Path, *, tiny: bool, graph: bool = False) -> RunSettings:
    """The run of a row and a seed."""
    ours = row.model.startswith("hcnn")
    network = model_config(row.model, **{**row.network, **(_TINY if tiny and ours else {})})
    recipe = get_recipe(row.recipe, **row.changes)
    teaching = get_teaching(row.teach)
    if tiny:
        recipe = replace(recipe, epochs=1, batch_size=40, milestones=(), factors=())
        teaching = replace(teaching, hint_epochs=0, soft_targets_end=None) if teaching.hint_epochs else teaching
    teacher = work / find(row.teacher).name / "0" if row.teacher else None
    return RunSettings(network, recipe, row.data, seed, device, graph=graph, teacher=teacher, teaching=teaching)


@dataclass(frozen=True)
class Check:
    """What the first seconds of a run say about the rest.

    Attributes:
        first: loss of the first step that was looked at.
        last: mean loss of all steps of the check.
        minutes: expected for the whole run, at the pace of these steps.
        memory: bytes of the device at most, 0 on a CPU.
    """

    first: float
    last: float
    minutes: float
    memory: int


def check(settings: RunSettings, data: Splits, *, seconds: float) -> Check:
    """Train a throw-away copy at its highest learning rate's tenth for some seconds."""
    device = torch.device(settings.device)
    torch.manual_seed(settings.seed)
    recipe: Recipe = replace(
        settings.recipe, schedule="step", milestones=(), factors=(), warmup=0.0, lr=settings.recipe.lr / 10
    )
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    trainer = Trainer(
        build(settings.network).to(device), images, labels, fit_preprocessing(data.train), recipe, seed=settings.seed
    )
    losses, times = [], [time.perf_counter()]
    for progress in trainer.run():
        if math.isfinite(progress.loss):  # mean of the epoch so far; on a GPU it is looked at every 50th step
            losses.append(progress.loss)
        times.append(time.perf_counter())
        if (times[-1] - times[0] > seconds and len(losses) >= 2) or progress.epoch_done:
            break
    if device.type == "cuda":
        torch.cuda.synchronize()
        times[-1] = time.perf_counter()
    warm = len(times) // 3
    pace = (times[-1] - times[warm]) / max(1, len(times) - 1 - warm)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Check(losses[0], losses[-1], pace * trainer.steps / 60, memory)


def coarse_accuracy(run: Path, test: ImageSet, device: str) -> float:
    """How often the superclass of the likeliest class is right, from the logits that the accuracy is from."""
    loaded = load_run(run)
    model = loaded.model.to(device)
    images = loaded.preprocessing.standardize(test.images.to(device))
    fine = predict_logits(model, images).argmax(1).cpu()
    coarse = test.coarse()
    above = torch.tensor([coarse.classes.index(name) for name in test.superclasses])
    return float((above[fine] == coarse.labels).float().mean())


def collect(run: Path, target: Path, command: str) -> None:
    """Copy what is kept of a finished run."""
    target = ensure_writable(target)
    for name in (CONFIG, METRICS, TIMING, RESULT):
        write_atomically(target / name, (run / name).read_bytes())
    write_atomically(target / "command.txt", f"{command}\n".encode())
    try:
        from hcnn.pictures import learning_curves

        learning_curves(run / METRICS, target / "curves.png")
    except ImportError:
        pass  # later: hcnn.pictures.learning_curves(metrics.jsonl, curves.png)


def run_row(name: str, options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Check, train, evaluate and collect a row; 0 when it is finished, 75 when time was up before."""
    row, end = find(name), time.monotonic() + 60 * options.minutes
    data = load_data(row, options.data_dir, tiny=options.tiny)
    work, output = ensure_writable(options.work), ensure_writable(options.output)
    command = shlex.join(["python", "benchmarks/tables.py", name, *(["--tiny"] if options.tiny else [])])
    for seed in row.seeds:
        run = work / row.name / str(seed)
        settings = settings_of(row, seed, options.device, work, tiny=options.tiny, graph=options.cuda_graph)
        if not (run / CONFIG).exists():
            found = check(settings, data, seconds=options.check)
            say(
                f"{row.name}, seed {seed}: loss {found.first:.3f} to {found.last:.3f}, {found.minutes:.1f} minutes "
                f"expected, {found.memory / 2**30:.1f} GiB"
            )
            if found.minutes > options.budget:
                raise ValueError(
                    f"{name}: expected to take {found.minutes:.0f} minutes; --budget is {options.budget:g}"
                )
            if not options.tiny and not found.last < found.first:
                raise ValueError(f"{name}: the loss did not fall in {options.check:g} s; nothing was started")

        stopped = False

        def on_step(progress: Any) -> None:
            nonlocal stopped
            if time.monotonic() > end and not stopped:  # a second signal would end the process at once
                stopped = True
                os.kill(os.getpid(), signal.SIGTERM)  # the step ends, a checkpoint is written
            if progress.epoch_done:
                say(f"epoch {progress.epoch}: {progress.epoch_done}, {progress.images_per_second:.0f} images/s")

        try:
            result = train_run(run, settings, data, resume=True, on_step=on_step, say=say)
        except Interrupted as interrupted:
            say(f"{interrupted}; the same command goes on")
            return 75
        if data.test is not None and data.test.superclasses and "test_coarse_accuracy" not in result:
            result["test_coarse_accuracy"] = coarse_accuracy(run, data.test, options.device)
            write_json(run / RESULT, result)
        target = output / row.name if len(row.seeds) == 1 else output / row.name / str(seed)
        collect(run, target, command)
        key = "validation_accuracy" if row.chooses else "test_accuracy"
        goal = f", to reach: {row.goal:.2f}" if row.goal else ""
        say(f"{row.name}, seed {seed}: {key} {100 * result[key]:.2f} %{goal}; {target}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, 2 for bad input, 75 when time was up before the row was finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", help="which row")
    parser.add_argument("--list", action="store_true", help="show the rows and stop")
    parser.add_argument("--data-dir", type=Path, help="where cifar-10-batches-bin or cifar-100-binary lies")
    parser.add_argument("--output", type=Path, default=Path("results"), help="where results are collected")
    parser.add_argument("--work", type=Path, default=Path("runs/tables"), help="where runs, checkpoints, weights lie")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop with a checkpoint after this long")
    parser.add_argument("--budget", type=float, default=600, help="refuse a run that would take more minutes than this")
    parser.add_argument("--check", type=float, default=20, help="seconds of the check before a run")
    parser.add_argument("--cuda-graph", action="store_true", help="record the step as a CUDA graph")
    parser.add_argument("--no-kernels", action="store_true", help="without Triton kernels")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--tiny", action="store_true", help="few random images, a narrow network, one epoch")
    options = parser.parse_args(arguments)
    if options.list or options.row is None:
        for name, row in ROWS.items():
            goal = (
                f"to reach {row.goal:.2f}" if row.goal else ("chooses on validation" if row.chooses else "the figure")
            )
            print(f"{name:20} {row.name:32} {row.model:28} {row.recipe:12} {goal}")
        return 0
    if options.tiny:
        options.check = min(options.check, 0.2)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cpu":
        keep_freed_memory()
    try:
        with kernels.disabled() if options.no_kernels else nullcontext():
            return run_row(options.row, options)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
