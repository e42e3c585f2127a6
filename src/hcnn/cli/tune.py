"""`hcnn tune`: a search for settings, with a table of the trials and the command to train with."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.table import Table

from hcnn.cli.initial import describe_initial
from hcnn.cli.options import with_options
from hcnn.cli.terminal import progress_bar, say
from hcnn.cli.train_options import TrainOptions
from hcnn.cli.train_plan import load_splits, prepare_process, run_settings
from hcnn.runs.settings import WEIGHTS
from hcnn.runs.tune import DIVERGED, RECORD, SEARCHED, TABLE, Score, Tuning
from hcnn.runs.tune import tune as search
from hcnn.storage.atomic import write_json
from hcnn.storage.records import read_object
from hcnn.training.progress import Progress

_OWN = {"--trials": 1, "--output": 1, "--resume": 0}  # options of the search, with the number of their values


def tune(options: TrainOptions, console: Console) -> None:
    """Search, and print the trials and the command."""
    rest = options.rest
    prepare_process(options)
    splits = load_splits(options, lambda line: say(console, line))
    extra: dict[str, Any] = {}
    if splits.validation is None and not hasattr(rest, "validation"):
        extra["validation"] = len(splits.train) // 5
        splits = load_splits(replace(options, validation=extra["validation"]), lambda line: None)  # said above
        say(console, f"{extra['validation']:,} training images are held out for validation")
    folder = rest.output or options.output.with_name(f"tune-{options.output.name}")
    if options.initial is not None:
        say(console, describe_initial(options.initial, rest.freeze, splits.train.classes))
    with progress_bar(console, TextColumn("epoch {task.fields[epoch]}"), BarColumn()) as bar:

        def show(progress: Progress) -> None:
            now: dict[str, Any] = {
                "total": progress.steps, "completed": progress.step, "epoch": f"{progress.epoch}/{progress.epochs}",
            }  # fmt: skip
            if bar.tasks:
                bar.update(bar.tasks[0].id, **now)
            else:
                bar.add_task("", **now)

        found = search(
            folder,
            run_settings(options, splits, rest.seed),
            splits,
            trials=rest.trials,
            fixed=options.given & {*SEARCHED},
            resume=rest.resume,
            on_step=show,
            say=lambda text: say(console, text),
        )
    console.print(_table(found, folder))
    command = train_command(options.words, {**extra, **found.best.settings})
    write_json(folder / RECORD, {**read_object(folder / RECORD), "command": command})
    say(console, f"wrote {folder / RECORD}, {folder / TABLE} and the trained network {found.folder / WEIGHTS}")
    say(console, f"to train with these settings: {command}")


def _table(found: Tuning, folder: Path) -> Table:
    """The trials, the best of the last round first."""
    names = list(found.best.settings)
    table = Table(title=f"{folder.name}: accuracy on the validation images")
    for name in ("trial", *names, "epochs", "validation"):
        table.add_column(name, justify="right")
    last: dict[int, Score] = {score.trial: score for score in found.scores}
    for one in sorted(last.values(), key=lambda score: (-score.rung, -score.accuracy)):
        values = (f"{one.settings[name]:g}" for name in names)
        reached = f"{one.accuracy:.2%}" if one.loss is not None else one.failure or DIVERGED
        table.add_row(str(one.trial), *values, str(one.epochs), reached)
    return table


def train_command(words: Sequence[str], settings: Mapping[str, float]) -> str:
    """The command that trains with the settings that a search found.

    Args:
        words: of the search, after `hcnn tune`.
        settings: what it found, by name.

    Example:
        >>> train_command(["photos", "--trials", "3", "--epochs=9", "--output=there"], {"lr": 0.02, "width": 8})
        'hcnn train photos --epochs=9 --lr 0.02 --width 8'
        >>> train_command(["--epochs=9", "--", "-photos"], {"lr": 0.02})
        'hcnn train --epochs=9 --lr 0.02 -- -photos'
    """
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
        if name not in _OWN:
            kept.append(word)
        elif not equals:
            del rest[: _OWN[name]]
    found = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), f"{value:g}")]
    return shlex.join(["hcnn", "train", *with_options(kept, found)])
