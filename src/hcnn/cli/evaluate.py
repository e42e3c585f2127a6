"""`hcnn evaluate`: how good trained networks are, with files that say more than one number."""

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from torch import Tensor

from hcnn.cli.outputs import EVALUATION, SHIFTS, default_place, results_in
from hcnn.cli.terminal import make_console, say
from hcnn.data.image_set import ImageSet
from hcnn.evaluation import Evaluation, evaluate, measure_shifts, write_evaluation, write_shifts
from hcnn.evaluation.report import MISTAKES, as_json
from hcnn.evaluation.shifts import ShiftScore
from hcnn.export.opening import open_network
from hcnn.runs.held_out import load_run_data, warn_of_change
from hcnn.runs.load import Run, read_result
from hcnn.training.evaluate import predict_logits


def evaluate_runs(options: Namespace, console: Console) -> None:
    """Measure every network on its images, print its accuracy, and write the files of its evaluation."""
    several = len(options.runs) > 1
    if options.output is not None and several and not options.shifts:
        raise ValueError("--output: expected one run, or --shifts to compare several; each run's files go beside it")
    opened = [open_network(where) for where in options.runs]
    names = [_name(where) for where in options.runs]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluate: expected runs whose folders have different names; got {', '.join(names)}")
    chosen = [_images(run, options.data, options.data_dir, options.on) for run in opened]
    for images, _ in chosen:
        if options.shifts and (images.images.ndim != 4 or images.images.shape[1] not in (1, 3)):
            raise ValueError(f"--shifts: expected images with 1 or 3 channels; got {tuple(images.images.shape[1:])}")
    own = None if several else options.output
    folders = [own or default_place(where, "evaluation") for where in options.runs]
    together = options.output or folders[0]
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(results_in(folder, EVALUATION, inner=MISTAKES))
        if options.shifts:
            stack.enter_context(results_in(together, SHIFTS))
        shifted: dict[str, list[ShiftScore]] = {}
        written = []
        for run, (images, data), name, folder in zip(opened, chosen, names, folders, strict=True):
            predict = _predictor(run)
            found = evaluate(predict(images.images), images.labels, images.classes)
            if options.format == "json":
                record = {"network": name, "data": data, **as_json(found)}
                say(console, json.dumps(record, allow_nan=False))
            else:
                say(console, (f"{name} on " if several else "") + _sentence(found, data))
            written.append(write_evaluation(found, folder, title=name, data=data, images=images.images))
            if options.shifts:
                shifted[name] = measure_shifts(predict, images.images, images.labels)
        if shifted:
            written.append(write_shifts(shifted, together, data=chosen[0][1]).with_suffix(".png"))
        if options.format == "text":
            _print_shifts(shifted, console)
            for path in written:
                say(console, f"wrote {path}")


def _name(where: Path) -> str:
    return where.resolve().name if where.exists() else where.name


def _images(run: Run, data: str | None, data_dir: Path | None, on: str | None) -> tuple[ImageSet, str]:
    """The images to evaluate on (those asked for, else test images, else those that the run set aside); their name."""
    splits = load_run_data(run, data, data_dir)
    if data is None and (warning := warn_of_change(run, splits)):
        say(make_console(stderr=True), warning, "yellow")
    sets = {"test": splits.test, "validation": splits.validation, "train": splits.train}
    if on is None:
        on = "test" if splits.test is not None else "validation"
        if splits.validation is None and data is not None and splits.test is None:
            on = "train"  # a labelled folder without parts: all of its images
    chosen = sets[on]
    if chosen is None:
        there = [name for name, one in sets.items() if one is not None]
        reason = f"its data has no {on} images"
        if on == "validation" and data is None and (aside := read_result(run.folder).get("validation_images")):
            apart = run.config.get("validation_data")
            reason = f"its validation images, {apart}, cannot be read"
            if apart is None:
                reason = (
                    f"{run.config['data']} is not what it was for the training, so it cannot be told which {aside:,} "
                    "images were set aside for validation"
                )
        raise ValueError(
            f"{run.folder}: {reason}; choose others with --on ({', '.join(there)}), or name a labelled folder with "
            "--data"
        )
    if chosen.classes != run.preprocessing.classes:
        raise ValueError(
            f"{chosen.name}: expected the classes of the run, {', '.join(run.preprocessing.classes)}; got "
            f"{', '.join(chosen.classes)}"
        )
    name = str(data or run.config["data"])
    whole = splits.test is None and splits.validation is None
    return chosen, name if whole else f"{name}, {on}"


def _predictor(run: Run) -> Callable[[Tensor], Tensor]:
    network = run.model.inference()

    def predict(images: Tensor) -> Tensor:
        return predict_logits(network, run.preprocessing.standardize(images))

    return predict


def _sentence(found: Evaluation, data: str) -> str:
    low, high = found.interval
    top = "" if found.top5 is None else f", {found.top5:.2%} among the five likeliest"
    return (
        f"{data}: {found.accuracy:.2%} of {found.count:,} images{top} (95 % interval {low:.2%} to {high:.2%}); "
        f"expected calibration error {found.calibration_error:.2%}"
    )


def _print_shifts(shifted: dict[str, list[ShiftScore]], console: Console) -> None:
    for name, scores in shifted.items():
        for shift in dict.fromkeys(one.shift for one in scores):
            line = ", ".join(f"{one.strength:g}: {one.accuracy:.1%}" for one in scores if one.shift == shift)
            say(console, f"{name}, {'unchanged' if shift == 'none' else shift}: {line.removeprefix('0: ')}")
