"""One command for each row of the paper's tables 1 (CIFAR-10) and 2 (CIFAR-100), and for steps beyond the paper.

    python benchmarks/tables.py --list                                      # the rows and their estimated cost
    python benchmarks/tables.py 1.1 --data-dir DATA --minutes 9             # stop in time; the same command resumes
    python benchmarks/tables.py 3-ema,cutmix --data-dir DATA                # two steps beyond the paper, on validation
    python benchmarks/tables.py 3-ema,cutmix --final --data-dir DATA        # the chosen one: all images, the test set
    python benchmarks/tables.py 1.1 --tiny --device cpu                     # a smoke test, not a result
    python benchmarks/tables.py --curves results                            # draw learning curves that are missing

The script first checks a row for about 20 s (whether the loss falls, how long the run will take, how much memory it
needs). It then trains and evaluates, and collects the results in OUTPUT/NAME: configuration, logs, result, the command,
and learning curves where matplotlib is installed. Training needs torch, numpy and safetensors only (set PYTHONPATH=src
where hcnn is not installed). Rows that choose set 5,000 training images aside and never read the test set; all others
train on all 50,000 images and read the test set once. Checkpoints and weights stay in --work. For weights that are to
ship with the package, the script prints the command that puts them there (`python tools/ship_weights.py RUN MODEL`).
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from table_check import check
from table_rows import ROWS, VALIDATION_IMAGES, Experiment, estimate, find

from hcnn.data.datasets import load
from hcnn.data.image_set import ImageSet, Splits
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.functional import backend
from hcnn.runs.allocator import keep_freed_memory, memory_advice
from hcnn.runs.interrupts import Interrupted
from hcnn.runs.load import load_run
from hcnn.runs.seeds import summarize_seeds
from hcnn.runs.settings import CONFIG, METRICS, RESULT, TIMING, RunSettings, check_same_run, run_config, settle
from hcnn.runs.train import train_run
from hcnn.storage.atomic import ensure_writable, write_atomically, write_json
from hcnn.storage.records import read_object
from hcnn.training.device import find_device
from hcnn.training.distillation.config import get_distillation
from hcnn.training.evaluate import predict_logits
from hcnn.training.progress import Progress

_TINY = {"width": 4, "rank": 4, "attribute_support": (3, 3), "depth": 6, "downsample": (3, 5)}


def load_data(row: Experiment, data_dir: Path | None, *, tiny: bool) -> Splits:
    """The images of a row, with validation images for a row that chooses and with the test set for any other."""
    if tiny:
        random = torch.Generator().manual_seed(0)
        classes = 100 if row.data == "cifar100" else 10
        labels = torch.arange(classes).repeat(120 // classes)
        images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=random)
        above = tuple(f"coarse {label // 5:02}" for label in range(100)) if classes == 100 else ()
        names = tuple(str(label) for label in range(classes))
        train = ImageSet(images, labels, names, f"{row.data}/train", superclasses=above)
        return Splits(train, validation=train) if row.chooses else Splits(train, test=train)
    data = load(row.data, data_dir=data_dir, validation=VALIDATION_IMAGES if row.chooses else 0)
    return replace(data, test=None) if row.chooses else data


def settings_of(row: Experiment, seed: int, device: str, work: Path, *, tiny: bool, graph: bool = False) -> RunSettings:
    """The settings of a row's run with one seed."""
    network, recipe = row.network_config(), row.get_recipe()
    distillation = get_distillation(row.distillation)
    if device.startswith("cuda") and row.model.startswith("hcnn"):  # the faster layout there: results/benchmarks
        recipe = replace(recipe, channels_last=True)
    if tiny:
        network = replace(network, **_TINY) if row.model.startswith("hcnn") else network
        recipe = replace(recipe, epochs=1, batch_size=40, milestones=(), factors=())
        distillation = (
            replace(distillation, hint_epochs=0, soft_targets_end=None) if distillation.hint_epochs else distillation
        )
    teacher = run_folder(find(row.teacher), 0, work) if row.teacher else None
    return RunSettings(network, recipe, row.data, seed, device, graph=graph, teacher=teacher, distillation=distillation)


def run_folder(row: Experiment, seed: int, work: Path) -> Path:
    """The run folder of a row and a seed."""
    return work / (row.runs or row.name) / str(seed)


def coarse_accuracy(run: Path, test: ImageSet, device: str) -> float:
    """The share of test images for which the superclass of the most likely class is right."""
    loaded = load_run(run)
    model = loaded.model.to(device)
    images = loaded.preprocessing.standardize(test.images.to(device))
    fine = predict_logits(model, images).argmax(1).cpu()
    coarse = test.coarse()
    above = torch.tensor([coarse.classes.index(name) for name in test.superclasses])
    return float((above[fine] == coarse.labels).float().mean())


def collect(run: Path, target: Path, command: str) -> None:
    """Copy the files of a finished run that are kept."""
    target = ensure_writable(target)
    for name in (CONFIG, METRICS, TIMING, RESULT):
        write_atomically(target / name, (run / name).read_bytes())
    write_atomically(target / "command.txt", f"{command}\n".encode())
    with suppress(ImportError):  # --curves draws them later, on another machine
        draw_curves(target)


def draw_curves(folder: Path) -> list[Path]:
    """Draw curves.png beside each metrics.jsonl below a folder that has none; ImportError without matplotlib."""
    from hcnn.runs.curves import learning_curves

    missing = [log.with_name("curves.png") for log in sorted(folder.rglob(METRICS))]
    missing = [path for path in missing if not path.exists()]
    for path in missing:
        learning_curves(path.with_name(METRICS), path)
    return missing


class Stop:
    """Asks a run to stop after some time, only once: a second signal would end the process without a checkpoint."""

    def __init__(self, minutes: float, say: Callable[[str], None]) -> None:
        self.end, self.say, self.asked = time.monotonic() + 60 * minutes, say, False

    def __call__(self, progress: Progress) -> None:
        """After every step."""
        if time.monotonic() > self.end and not self.asked:
            self.asked = True
            os.kill(os.getpid(), signal.SIGTERM)  # the step ends, a checkpoint is written
        if progress.epoch_done:
            self.say(f"epoch {progress.epoch}: {progress.epoch_done}, {progress.images_per_second:.0f} images/s")


def refuse(name: str, target: Path, settings: RunSettings, data: Splits) -> None:
    """Raise a ValueError for a row whose teacher is missing, or whose results would overwrite those of another run."""
    if settings.teacher is not None and not (settings.teacher / RESULT).exists():
        raise ValueError(
            f"{name} is distilled from row {find(name).teacher}: run that first; "
            f"{settings.teacher} is not a finished run"
        )
    if (target / CONFIG).exists():
        known = read_object(target / CONFIG)
        settings, _ = settle(settings, known, find_device(settings.device))
        check_same_run(target, known, run_config(settings, data, fit_preprocessing(data.train)))


def start_check(name: str, settings: RunSettings, data: Splits, options: argparse.Namespace) -> str:
    """The result of `check` in words; a ValueError if the run would take too long or does not learn."""
    with memory_advice(settings.recipe):
        found = check(settings, data, seconds=options.check)
    if found.minutes > options.budget:
        raise ValueError(
            f"{name}: expected to take {found.minutes:.0f} minutes; --budget is {options.budget:g}; nothing was started"
        )
    if not options.tiny and not found.last < found.first:
        raise ValueError(
            f"{name}: the loss did not fall in {options.check:g} s ({found.first:.3f} to {found.last:.3f}); "
            "nothing was started"
        )
    return (
        f"loss {found.first:.3f} to {found.last:.3f}, {found.minutes:.1f} minutes expected, "
        f"{found.memory / 2**30:.1f} GiB"
    )


def run_row(name: str, options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Check, train, evaluate and collect a row; returns 0 when it is finished, 75 when the time was up before."""
    row, stop = find(name, final=options.final), Stop(options.minutes, say)
    data = load_data(row, options.data_dir, tiny=options.tiny)
    words = [name, *(["--final"] if options.final else []), *(["--tiny"] if options.tiny else [])]
    command = shlex.join(["python", "benchmarks/tables.py", *words])
    results = []
    for seed in row.seeds:
        run = run_folder(row, seed, options.work)
        settings = settings_of(row, seed, options.device, options.work, tiny=options.tiny, graph=options.cuda_graph)
        target = options.output / row.name / (str(seed) if len(row.seeds) > 1 else "")
        refuse(name, target, settings, data)
        for folder in (options.work, options.output):
            ensure_writable(folder)
        if not (run / CONFIG).exists():
            say(f"{row.name}, seed {seed}: {start_check(name, settings, data, options)}")
        stop.asked = False
        try:
            result = train_run(run, settings, data, resume=True, on_step=stop, say=say)
        except Interrupted as interrupted:
            say(f"{interrupted}; the same command resumes")
            return 75
        if data.test is not None and data.test.superclasses and "test_coarse_accuracy" not in result:
            result["test_coarse_accuracy"] = coarse_accuracy(run, data.test, options.device)
            write_json(run / RESULT, result)
        collect(run, target, command)
        key = "validation_accuracy" if row.chooses else "test_accuracy"
        say(f"{row.name}, seed {seed}: {key} {100 * result[key]:.2f} %, {row.purpose}; {target}")
        if row.ships and not options.tiny:
            say(f"its weights go into the package: python tools/ship_weights.py {run} {row.ships}")
        results.append(result)
    if len(results) > 1:
        write_json(options.output / row.name / "summary.json", summarize_seeds(results))
    return 0


def show_rows() -> None:
    """Print the rows and their estimated cost."""
    print(f"{'row':20} {'folder':32} {'model':28} {'recipe':12} {'steps':>9} {'min':>6}  purpose")
    for name, row in ROWS.items():
        cost = estimate(row)
        print(
            f"{name:20} {row.name:32} {row.model:28} {row.recipe:12} {cost.steps:9,} {cost.minutes:6.1f}  {row.purpose}"
        )
    print("min: estimated GPU minutes, assuming 10^14 operations/s and at least 5 ms per step; not measured")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input, or 75 when the time was up before the row was finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", help="number of the row")
    parser.add_argument("--list", action="store_true", help="show the rows and stop")
    parser.add_argument("--curves", type=Path, metavar="FOLDER", help="draw missing learning curves and stop")
    parser.add_argument(
        "--final", action="store_true", help="train a chosen row on all training images, with the test set"
    )
    parser.add_argument("--data-dir", type=Path, help="folder that holds cifar-10-batches-bin or cifar-100-binary")
    parser.add_argument("--output", type=Path, help="folder for the results (default: results)")
    parser.add_argument("--work", type=Path, help="folder for runs, checkpoints and weights (default: runs/tables)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop with a checkpoint after this long")
    parser.add_argument("--budget", type=float, default=600, help="refuse a run that would take more minutes than this")
    parser.add_argument("--check", type=float, default=20, help="seconds of the check before a run")
    parser.add_argument("--cuda-graph", action="store_true", help="record the step as a CUDA graph")
    parser.add_argument("--no-kernels", action="store_true", help="without Triton kernels")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--tiny", action="store_true", help="use few random images, a narrow network and one epoch")
    options = parser.parse_args(arguments)
    if options.list or not (options.row or options.curves):
        show_rows()
        return 0
    place = Path("runs/tiny") if options.tiny else Path()  # keeps a smoke test away from the results
    options.output = options.output or place / "results"
    options.work = options.work or (place / "work" if options.tiny else Path("runs/tables"))
    if options.tiny:
        options.check = min(options.check, 0.2)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cpu":
        keep_freed_memory()
    try:
        if options.curves:
            print(*draw_curves(options.curves), sep="\n")
            return 0
        with backend.disabled() if options.no_kernels else nullcontext():
            return run_row(options.row, options)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
