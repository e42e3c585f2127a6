"""A search for settings: successive halving over learning rate, weight decay, width and batch size.

tune.json                  the trials, what each of them gave, and the best one
tune.csv                   the same as a table
rung-1/trial-0/ …          a run folder for each trial that was trained
"""

import math
import random
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hcnn.data.image_set import Splits
from hcnn.models.factory import build
from hcnn.runs.initial import fit_run_preprocessing
from hcnn.runs.settings import (
    CONFIG,
    RunSettings,
    check_fit,
    describe_differences,
    run_config,
    run_differences,
    settle,
)
from hcnn.runs.train import train_run
from hcnn.storage.atomic import write_atomically, write_json
from hcnn.storage.records import read_object
from hcnn.text import csv_row, is_number
from hcnn.training.attribute_ties import check_ties
from hcnn.training.device import find_device
from hcnn.training.first_step import check_batch
from hcnn.training.progress import Diverged, Progress
from hcnn.training.recipe import changed_recipe

RECORD, TABLE = "tune.json", "tune.csv"
SEARCHED = ("lr", "weight_decay", "width", "batch_size")
DIVERGED = "the loss became infinite"
SHARE = 3  # the best third of a round is trained again, three times as long
_MOST = 10_000  # trials


@dataclass(frozen=True)
class Score:
    """What a trial gave.

    Attributes:
        rung: in which round, from 1.
        epochs: how long it was trained.
        trial: its number, from 0; trial 0 has the settings that the search began with.
        settings: its values of what is searched.
        accuracy: on the validation images, after the best epoch; 0 if training failed.
        loss: cross-entropy there, or None.
        seconds: of training, or None.
        failure: why training failed, or None; earlier versions recorded no reason.
    """

    rung: int
    epochs: int
    trial: int
    settings: dict[str, float | int]
    accuracy: float
    loss: float | None
    seconds: float | None
    failure: str | None = None


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        scores: of every trial in every round, in the order of training.
        best: the score that won the last round.
        settings: of the best run, for `train_run`.
        folder: its run folder, trained to the end.
    """

    scores: tuple[Score, ...]
    best: Score
    settings: RunSettings
    folder: Path


def tune(
    folder: Path,
    settings: RunSettings,
    data: Splits,
    *,
    trials: int = 9,
    fixed: Collection[str] = (),
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Tuning:
    """Search by successive halving: every round trains its trials anew, keeps the best third, and triples the epochs.

    The last round trains one network for all epochs of the recipe. All rounds together take about as many epochs as
    there are rounds times those of the recipe. The test images are never read.

    Args:
        folder: for the records and the runs; it is created if it does not exist.
        settings: where the search begins; trial 0 has them as they are.
        data: with validation images, by which trials are compared.
        trials: how many there are in the first round, at most 10,000.
        fixed: names among `SEARCHED` that keep their value.
        resume: continue a search in the folder, within the trial that was interrupted.
        on_step: called after every step of every trial.
        say: called with a line for each trial.

    Returns:
        Scores, and the best settings with their run.

    Raises:
        ValueError: if there are no validation images, nothing is to be searched, the folder holds another search, or
            every trial diverged.
        Interrupted: as `train_run` does.

    """
    say = say or (lambda text: None)
    if data.validation is None:
        raise ValueError(f"{settings.data_name}: expected validation images, by which trials are compared")
    if not isinstance(trials, int) or not 2 <= trials <= _MOST:
        raise ValueError(f"trials: expected 2 to {_MOST:,}; got {trials}")
    data = replace(data, test=None)
    check_fit(settings, data)
    device = find_device(settings.device)
    plan = dict(enumerate(plan_trials(settings, trials, len(data.train), fixed)))
    names = [*plan[0]]
    begun = {
        "trials": trials,
        "fixed": sorted(fixed),
        **run_config(settings, data, fit_run_preprocessing(settings.network, settings.initial, data.train)),
    }
    scores = _known_scores(folder, begun, names, resume=resume)
    settings, note = settle(settings, _first_config(folder), device)
    if note:
        say(note)
    plan |= {one.trial: one.settings for one in scores}  # an earlier version may have drawn others
    going, rung, rungs = sorted(plan), 1, rounds(len(plan))
    while True:
        epochs = max(1, round(settings.recipe.epochs / SHARE ** (rungs - rung)))
        here = []
        for number in going:
            known = [one for one in scores if (one.rung, one.trial) == (rung, number)]
            if not known:
                known = [_train(folder, settings, data, (rung, epochs, number, plan[number]), on_step)]
                scores.append(known[0])
                _write(folder, begun, scores, None)
                say(f"round {rung} of {rungs}, {_describe(known[0])}")
            here += known
        here.sort(key=lambda one: (-one.accuracy, math.inf if one.loss is None else one.loss, one.trial))
        if here[0].loss is None:
            why = ", ".join(sorted({one.failure or DIVERGED for one in here}))
            raise ValueError(f"{folder}: every trial of round {rung} failed ({why}); begin the search at a lower lr")
        if rung == rungs:
            break
        going, rung = sorted(one.trial for one in here[: math.ceil(len(going) / SHARE)]), rung + 1
    best = here[0]
    _write(folder, begun, scores, best)
    return Tuning(tuple(scores), best, changed(settings, best.settings), run_folder(folder, best))


def rounds(trials: int) -> int:
    """How many rounds it takes until one trial is left.

    Example:
        >>> [rounds(trials) for trials in (2, 3, 4, 9, 10)]
        [2, 2, 3, 3, 4]
    """
    count = 1
    while trials > 1:
        trials, count = math.ceil(trials / SHARE), count + 1
    return count


def run_folder(folder: Path, score: Score) -> Path:
    """The run folder of a trial."""
    return folder / f"rung-{score.rung}" / f"trial-{score.trial}"


def changed(settings: RunSettings, values: dict[str, Any]) -> RunSettings:
    """Settings of a run with the values of a trial."""
    of_recipe = {name: value for name, value in values.items() if name != "width"}
    network: Any = settings.network
    if "width" in values:
        network = replace(network, width=values["width"])
    return replace(settings, network=network, recipe=changed_recipe(settings.recipe, of_recipe))


def plan_trials(
    settings: RunSettings, count: int, images: int, fixed: Collection[str] = ()
) -> list[dict[str, float | int]]:
    """The trials of the first round: the settings as they are, and random ones around them.

    Learning rates are drawn from an eighth to four times the given one, weight decays from a tenth to thirty times,
    both evenly on a logarithmic scale and rounded to two digits; widths and batch sizes are half, the same or double,
    where the network and the number of images allow it.

    Args:
        settings: the centre of the search, and its seed.
        count: how many; fewer if there are not so many different ones.
        images: number of training images.
        fixed: names among `SEARCHED` that keep their value.

    Returns:
        For each trial its values by name.

    Raises:
        ValueError: if nothing is left to search, or a name is none of `SEARCHED`.
    """
    if unknown := sorted(set(fixed) - {*SEARCHED}):
        raise ValueError(f"fixed: expected names among {', '.join(SEARCHED)}; got {', '.join(unknown)}")
    recipe, draw = settings.recipe, random.Random(settings.seed)
    choices: dict[str, Callable[[], float | int]] = {
        "lr": lambda: _rounded(recipe.lr * 2 ** draw.uniform(-3, 2)),
        "weight_decay": lambda: _rounded(recipe.weight_decay * 10 ** draw.uniform(-1, 1.5)),
    }
    for name, values in (("width", _widths(settings)), ("batch_size", _batches(settings, images))):
        if len(values) > 1:
            choices[name] = lambda values=values: draw.choice(values)
    if not recipe.weight_decay:
        del choices["weight_decay"]
    choices = {name: choose for name, choose in choices.items() if name not in fixed}
    if not choices:
        raise ValueError(f"tune: expected something to search among {', '.join(SEARCHED)}; all of them are given")
    begun = {"width": getattr(settings.network, "width", None), **asdict(recipe)}
    plan: list[dict[str, float | int]] = [{name: begun[name] for name in choices}]
    known = {tuple(plan[0].values())}
    for _ in range(100 * count):
        if len(plan) == count:
            break
        values = {name: choose() for name, choose in choices.items()}
        if (key := tuple(values.values())) not in known:
            known.add(key)
            plan.append(values)
    return plan


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _widths(settings: RunSettings) -> list[int]:
    network: Any = settings.network
    found: list[int] = []
    if settings.initial is not None or not hasattr(network, "width"):
        return found
    for width in (network.width // 2, network.width, 2 * network.width):
        try:
            config = replace(network, width=width)
            if ties := settings.recipe.attributes:  # a narrow network may have too few values for them
                with torch.device("meta"):
                    check_ties(ties, build(config), config.spatial_axes)
        except ValueError:
            continue
        found.append(width)
    return found


def _batches(settings: RunSettings, images: int) -> list[int]:
    recipe = settings.recipe
    found: list[int] = []
    for size in (recipe.batch_size // 2, recipe.batch_size, 2 * recipe.batch_size):
        try:
            check_batch(replace(recipe, batch_size=size), images // 4, 1)
        except ValueError:
            continue
        found += [size] if size >= 4 else []
    return found if recipe.batch_size in found else [recipe.batch_size]


def _train(
    folder: Path,
    settings: RunSettings,
    data: Splits,
    asked: tuple[int, int, int, dict[str, float | int]],
    on_step: Callable[[Progress], None] | None,
) -> Score:
    rung, epochs, number, values = asked
    own = changed(settings, {**values, "epochs": epochs})
    score = Score(rung, epochs, number, values, 0.0, None, None)
    try:
        result = train_run(run_folder(folder, score), own, data, resume=True, on_step=on_step)
    except Diverged:
        return replace(score, failure=DIVERGED)
    except MemoryError:
        if not number:  # of the settings that were given, not of those that were drawn
            raise
        return replace(score, failure="not enough memory")
    return replace(
        score, accuracy=result["validation_accuracy"], loss=result["validation_loss"], seconds=result["seconds"]
    )


def _describe(score: Score) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in score.settings.items())
    found = score.failure or f"validation {score.accuracy:.2%}"
    return f"trial {score.trial}, {score.epochs} epoch{'s' * (score.epochs > 1)}: {values}: {found}"


def _known_scores(folder: Path, begun: dict[str, Any], names: list[str], *, resume: bool) -> list[Score]:
    """The scores that a search in the folder has so far."""
    path = folder / RECORD
    there = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if there - {"rung-1"} and RECORD not in there:
        raise ValueError(f"{folder}: expected a new or empty folder, or one that holds a search; give another --output")
    if there and not resume:
        raise ValueError(f"{folder} already holds a search; add --resume to continue it, or give another --output")
    if RECORD not in there:
        return []
    known = read_object(path)
    before = known.get("begun")
    if different := run_differences(before if isinstance(before, dict) else {}, begun):
        told = describe_differences(different)
        raise ValueError(f"{folder} holds another search: its {told} differ; give another --output")
    try:
        scores = [Score(**score) for score in known["scores"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: it does not hold the scores of a search; {error!r}") from error
    for index, one in enumerate(scores):
        _check_score(one, f"{path}: scores[{index}]", begun["trials"], names)
    return scores


def _first_config(folder: Path) -> dict[str, Any] | None:
    """The config.json of the trial that a search trains first, whose precision all others share, or None."""
    path = folder / "rung-1" / "trial-0" / CONFIG
    return read_object(path) if path.is_file() else None


def _check_score(score: Score, where: str, trials: int, names: list[str]) -> None:
    """Refuse a score from a file whose values are of other kinds than `tune` writes."""
    whole = [("rung", 1, rounds(trials)), ("epochs", 1, 2**31), ("trial", 0, trials - 1)]
    for name, least, most in whole:
        value = getattr(score, name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{where}.{name}: expected a whole number from {least} to {most}; got {value!r}")
    for name in ("accuracy", "loss", "seconds"):
        value = getattr(score, name)
        if not (is_number(value) or (value is None and name != "accuracy")):
            raise ValueError(f"{where}.{name}: expected a number; got {value!r}")
    if not (score.failure is None or isinstance(score.failure, str)):
        raise ValueError(f"{where}.failure: expected text; got {score.failure!r}")
    found: Any = score.settings
    if not isinstance(found, dict) or {*found} != {*names} or not all(map(is_number, found.values())):
        raise ValueError(f"{where}.settings: expected a number for each of {', '.join(names)}; got {found!r}")


def _write(folder: Path, begun: dict[str, Any], scores: list[Score], best: Score | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    records = [asdict(score) for score in scores]
    write_json(folder / RECORD, {"begun": begun, "scores": records, "best": None if best is None else asdict(best)})
    names = list(scores[0].settings)
    rows: list[list[object]] = [
        ["rung", "epochs", "trial", *names, "validation_accuracy", "validation_loss", "seconds"]
    ]
    for one in scores:
        found = [round(one.accuracy, 6), one.loss and round(one.loss, 6), one.seconds]
        rows.append([one.rung, one.epochs, one.trial, *(one.settings[name] for name in names), *found])
    write_atomically(folder / TABLE, "".join(map(csv_row, rows)).encode())
