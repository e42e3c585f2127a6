"""`hcnn train`: one run or several seeds, with progress, a table of results, and plots."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from hcnn.cli.initial import describe_initial
from hcnn.cli.terminal import progress_bar, say
from hcnn.cli.train_options import TrainOptions
from hcnn.cli.train_plan import load_splits, prepare_process, run_settings
from hcnn.data.image_set import Splits
from hcnn.data.splits import spread
from hcnn.runs.load import load_run, read_result
from hcnn.runs.seeds import summarize_seeds
from hcnn.runs.settings import CONFIG, METRICS, RESULT, WEIGHTS, RunSettings
from hcnn.runs.train import check_run, train_run
from hcnn.storage.atomic import write_json
from hcnn.text import printable
from hcnn.training.progress import Progress

_MOST_SEEDS = 10_000  # each of them is checked before the first one is trained
_ACCURACIES = ("validation_accuracy", "test_accuracy", "test_accuracy_with_flips")


def train(options: TrainOptions, console: Console) -> None:
    """Train with one seed or several."""
    rest = options.rest
    if not 1 <= rest.seeds <= _MOST_SEEDS:
        raise ValueError(f"--seeds: expected 1 to {_MOST_SEEDS:,}; got {rest.seeds}")
    prepare_process(options)
    base, first = options.output, _is_first_process()
    splits = load_splits(options, lambda line: say(console, line) if first else None)
    if options.initial is not None and first:
        say(console, describe_initial(options.initial, rest.freeze, splits.train.classes))
    planned = []
    for seed in range(rest.seed, rest.seed + rest.seeds):
        settings = run_settings(options, splits, seed)
        folder = base if rest.seeds == 1 else base / f"seed-{seed}"
        planned.append((folder, settings))
        if rest.seeds > 1 and first:  # before hours go into the first
            check_run(folder, settings, splits, resume=rest.resume)
    names = (options.model, options.recipe_name)
    results = [train_one(folder, settings, splits, console, names, resume=rest.resume) for folder, settings in planned]
    if rest.seeds > 1 and first:
        summary = summarize_seeds(results)
        write_json(base / "seeds.json", summary)
        for key in _ACCURACIES:
            if key in summary:
                one = summary[key]
                say(console, f"{key.replace('_', ' ')}: {one['mean']:.2%} ± {one['std']:.2%}, {rest.seeds} seeds")
        say(console, f"wrote {base / 'seeds.json'}")


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def train_one(
    folder: Path,
    settings: RunSettings,
    splits: Splits,
    console: Console,
    names: tuple[str, str],
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Train one run and print what became of it.

    Args:
        folder: the run folder.
        settings: the run.
        splits: its data.
        console: where to print.
        names: of the network and of the recipe.
        resume: resume from the newest valid checkpoint.

    Returns:
        The contents of result.json.
    """
    recipe, first = settings.recipe, _is_first_process()
    if first:
        epochs = "epoch" if recipe.epochs == 1 else "epochs"
        precision = check_run(folder, settings, splits, resume=resume).precision
        say(
            console,
            f"network {names[0]}, recipe {names[1]}, precision {precision}, {recipe.epochs} {epochs} of "
            f"{len(splits.train):,} images in batches of {recipe.batch_size}, {_device(settings.device)}",
        )
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[learned]}{task.fields[validation]}"),
        TextColumn("{task.fields[speed]:,.0f} images/s"),
        TimeRemainingColumn(),
    )
    with progress_bar(console, *columns, shown=first) as bar:
        every = max(1, recipe.epochs // 5)
        validation = learned = ""  # of the last epoch that was measured, and of the last step that was looked at

        def show(progress: Progress) -> None:
            nonlocal validation, learned
            if progress.validation is not None:
                validation = f"  validation {progress.validation:.2%}"
            if not math.isnan(progress.loss):
                learned = f"loss {progress.loss:.3f}  accuracy {progress.accuracy:6.2%}"
            now: dict[str, Any] = {
                "total": progress.steps,
                "completed": progress.step,
                "epoch": f"{progress.epoch}/{progress.epochs}",
                "learned": learned,
                "validation": validation,
                "speed": progress.images_per_second,
            }
            if bar.tasks:
                bar.update(bar.tasks[0].id, **now)
            else:  # a run that is refused shows no bar
                bar.add_task("", **now)
            if progress.epoch_done and progress.epoch % every == 0:
                say(
                    console,
                    f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  accuracy "
                    f"{progress.accuracy:.2%}{validation}  {progress.images_per_second:,.0f} images/s  "
                    f"{progress.seconds_left:.0f} s left",
                )

        before = read_result(folder) if resume else {}
        result = train_run(folder, settings, splits, resume=resume, on_step=show, say=lambda text: say(console, text))
    if first:
        _show_result(folder, settings, splits, result, console, trained=result != before)
    return result


def _device(name: str) -> str:
    threads = torch.get_num_threads()
    return f"on {name} with {threads} thread{'s' * (threads != 1)}" if name == "cpu" else f"on {name}"


def _show_result(
    folder: Path, settings: RunSettings, splits: Splits, result: dict[str, Any], console: Console, *, trained: bool
) -> None:
    title = printable(f"{folder.name}: {settings.data_name}, seed {settings.seed}")
    table = Table(title=title, show_header=False)
    counts = result["parameters"]
    table.add_row("weights, trained / composed", f"{counts['trained']:,} / {counts['composed']:,}")
    table.add_row("normalization, logit scale", f"{counts['normalization']:,}, {counts['logit_scale']}")
    table.add_row("training", f"{result['train_images']:,} images, {result['seconds']:.1f} s")
    if "validation_accuracy" in result:
        table.add_row("validation", f"{result['validation_accuracy']:.2%} of {result['validation_images']:,} images")
    if "best_epoch" in result:
        table.add_row("weights kept", f"epoch {result['best_epoch']}, the best on the validation images")
    if "test_accuracy" in result:
        table.add_row("test accuracy", f"{result['test_accuracy']:.2%} of {result['test_images']:,} images")
    if "test_accuracy_with_flips" in result:
        table.add_row("averaged with mirrored images", f"{result['test_accuracy_with_flips']:.2%}")
    console.print(table)
    written = [folder / name for name in (CONFIG, METRICS, WEIGHTS, RESULT)] if trained else []
    if not trained:
        say(console, f"{folder}: the run was finished already; it stays as it is")
    written += _plots(folder, splits, result.get("test_accuracy"), console)
    for path in written:
        say(console, f"wrote {path}")
    if splits.test is not None and "test_accuracy" not in result:  # finished before, with --no-test
        say(console, f"the run was finished without its test images; to measure them: hcnn evaluate {folder}")
    elif settings.flip and "test_accuracy" in result and "test_accuracy_with_flips" not in result:
        say(console, "the run was finished without --test-flips, and the test images are not read again")


def _plots(folder: Path, splits: Splits, test_accuracy: float | None, console: Console) -> list[Path]:
    """Learning curves, and translations where the images can be drawn; nothing without matplotlib."""
    try:
        from hcnn.explore import explore_images, figures
        from hcnn.runs.curves import learning_curves

        curves, translations = folder / "curves.png", folder / "translations.png"
        learning_curves(folder / METRICS, curves, test_accuracy=test_accuracy)
        shown = splits.test or splits.train
        if shown.images.ndim != 4 or shown.images.shape[1] not in (1, 3):
            return [curves]
        run = load_run(folder)
        if run.model.array_count < 3:  # no array of three attributes
            return [curves]
        figures.figure3(explore_images(run, shown.subset(spread(len(shown), 2000))), translations)
    except ImportError as error:
        say(console, f"no plots: {error}")
        return []
    return [curves, translations]
