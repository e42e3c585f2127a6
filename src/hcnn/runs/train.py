"""Training into a run folder, from the first check to the result.

config.json            everything that determines the run
metrics.jsonl          one line per epoch; the same bytes however often the run was interrupted
timing.jsonl           seconds and images/s of each epoch, from every process that trained
checkpoints/           what a restart resumes from
weights.safetensors    the trained network
result.json            accuracy, parameters, time; versions, hardware and commit of each process that trained
"""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from hcnn.data.image_set import Splits
from hcnn.layers.randomness import drawn_from
from hcnn.models.factory import build
from hcnn.runs.allocator import memory_advice
from hcnn.runs.initial import first_network, fit_run_preprocessing
from hcnn.runs.interrupts import Interrupted, StopRequest
from hcnn.runs.load import read_result
from hcnn.runs.recorder import Recorder
from hcnn.runs.settings import (
    CONFIG,
    METRICS,
    RESULT,
    TIMING,
    WEIGHTS,
    RunSettings,
    check_fit,
    check_same_run,
    graph_hint,
    run_config,
    settle,
)
from hcnn.runs.teacher import load_distillation
from hcnn.storage.atomic import ensure_writable, leftovers, write_atomically, write_json
from hcnn.storage.checkpoints import load_newest
from hcnn.storage.log import truncate_log
from hcnn.storage.records import read_object
from hcnn.storage.run_lock import RunLock
from hcnn.storage.safetensors import shortened
from hcnn.storage.state_tree import flatten_state, unflatten_state
from hcnn.training.best_epoch import BestEpoch
from hcnn.training.device import find_device
from hcnn.training.distributed import failing_together, process_group, rank_and_size, share
from hcnn.training.progress import Diverged, Progress
from hcnn.training.recipe import SCHEDULE, learning_rate
from hcnn.training.trainer import Trainer


def train_run(
    folder: Path,
    settings: RunSettings,
    data: Splits,
    *,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train into a run folder, alone or as one process of a group that torchrun started.

    Accuracy on the validation set, if there is one, is measured after each epoch, and the weights of the epoch that
    does best on it are the result; without one they are those of the last epoch. The test set is read once, at the end.
    A run that is refused leaves the folder as it was.

    A run may be resumed with more epochs than it began with, whether it is finished or not. The schedule is then
    computed for the new number, as if the run had had it from the start, and the learning rate resumes where that
    schedule is at the present step.

    Args:
        folder: the run folder; it is created if it does not exist.
        settings: the run.
        data: the training set, and validation and test sets where there are any.
        resume: resume from the newest valid checkpoint, or start anew if there is none. The result of a finished run is
            returned as it is.
        on_step: called after every step.
        say: called with each line of the log: the precision, and checkpoints that were refused or resumed from.

    Returns:
        The contents of result.json.

    Raises:
        ValueError: if the folder holds another run, or device, data, network, recipe, teacher and initial network do
            not fit together; in the other processes of a group for whatever the first one raises.
        RunFolderBusy: if another process is training in the folder.
        OSError: if the folder cannot be written, or the disk has no room for the checkpoints.
        Diverged: if the loss, the weights or the logits become NaN or infinite; names the last good checkpoint.
        Interrupted: after SIGTERM or SIGINT, once a checkpoint is written, or the result if it is being measured.
        MemoryError: if there is not enough memory; says which settings need less.
    """
    say = say or (lambda text: None)
    device = find_device(settings.device)
    group = process_group(device)
    with StopRequest() as stop, ExitStack() as stack:
        rank, processes = rank_and_size(group)
        with failing_together(group, device):
            checked = check_run(folder, settings, data, resume=resume) if rank == 0 else None
        known = {"result": checked and checked.result, "precision": checked and checked.precision, "stop": stop.number}
        found = share(known, group, device)
        if found["result"] is not None:
            if found["stop"] is not None:  # during the check: whoever called may have more to do, and must not
                raise Interrupted(found["stop"], folder)
            return found["result"]
        settings = replace(settings, recipe=replace(settings.recipe, precision=found["precision"]))
        trainer = _make_trainer(settings, data, device, group)
        state = recorder = None
        with failing_together(group, device):
            if checked is not None:
                _check_start(folder, trainer, settings, data, checked.epochs_before)
                folder = ensure_writable(folder)  # nothing is written before this line
                stack.enter_context(RunLock(folder))
                for name, path in leftovers(folder):
                    if name in (CONFIG, METRICS, TIMING, WEIGHTS, RESULT):
                        path.unlink()
                for note in filter(None, (checked.note, graph_hint(settings, device, processes))):
                    say(note)
                state, recorder = _begin(folder, checked, trainer, settings, data, say)
                stack.callback(recorder.close)
        if group is not None:  # all processes start from rank 0's weights, to the bit
            trainer.load_state(share(state or trainer.state(), group, device))
        try:
            with memory_advice(settings.recipe):
                _train(trainer, recorder, stop, on_step, folder)
            with failing_together(group, device):
                result = recorder.finish() if recorder else {}
        except Diverged as error:
            last = recorder.last if recorder else None
            raise Diverged(f"{error}; last good checkpoint: {last or 'none'}; lower --lr") from None
        ended = share({"result": result, "stop": stop.number}, group, device)
        if ended["stop"] is not None:  # during the final measurement
            raise Interrupted(ended["stop"], (recorder and recorder.last) or folder)
        return ended["result"]


@dataclass(frozen=True)
class CheckedRun:
    """What `check_run` found.

    Attributes:
        precision: float32 or bfloat16.
        note: a sentence about the precision for the log, or "".
        config: the contents of config.json.
        known: what config.json holds already, or None.
        result: that of a run that is finished already, or None.
        epochs_before: number of epochs that the run had, where it gets more of them; else None.
    """

    precision: Literal["float32", "bfloat16"]
    note: str
    config: dict[str, Any]
    known: dict[str, Any] | None
    result: dict[str, Any] | None
    epochs_before: int | None = None


def check_run(folder: Path, settings: RunSettings, data: Splits, *, resume: bool = False) -> CheckedRun:
    """Refuse a run that cannot begin in a folder, without writing anything.

    What only building the network shows is refused by `train_run`, before it writes anything too.

    Args:
        folder: the run folder.
        settings: the run.
        data: its data.
        resume: whether the folder may hold this run already.

    Returns:
        What the run would do.

    Raises:
        ValueError: if device, data, network, recipe or teacher do not fit, or the folder holds something else.
    """
    check_fit(settings, data)
    device, preprocessing = (
        find_device(settings.device),
        fit_run_preprocessing(settings.network, settings.initial, data.train),
    )
    known = _known_config(folder)
    if known is not None and not resume:
        state = "a finished" if (folder / RESULT).exists() else "an unfinished"
        raise ValueError(f"{folder} already holds {state} run; add --resume to resume it, or give another --output")
    settings, note = settle(settings, known, device)
    if settings.teacher is not None:
        with drawn_from(torch.Generator()):
            load_distillation(settings, build(settings.network), preprocessing)
    config = run_config(settings, data, preprocessing)
    result = epochs_before = None
    if known is not None:
        epochs_before = check_same_run(folder, known, config)
        result = read_result(folder) or None
        if result and result.get("epochs", settings.recipe.epochs) < settings.recipe.epochs:
            result = None  # the run has got more epochs since
        if result:
            _check_complete(folder / RESULT, result)
    precision = settings.recipe.precision
    assert precision != "auto"
    return CheckedRun(precision, note, config, known, result, epochs_before)


def _known_config(folder: Path) -> dict[str, Any] | None:
    """The config.json of the run in a folder, or None if there is no run that has written a checkpoint.

    Raises:
        ValueError: if config.json is damaged, or the folder holds files that a run would replace and did not write.
    """
    if (folder / "checkpoints").is_file():
        raise ValueError(f"{folder / 'checkpoints'}: expected a folder; it is a file; give another --output")
    written = [name for name in (WEIGHTS, RESULT) if (folder / name).exists()]
    written += [path.name for path in (folder / "checkpoints").glob("step-*")]
    if (folder / CONFIG).exists():
        known = read_object(folder / CONFIG)
        if not {"format", "network", "recipe"} <= known.keys():
            raise ValueError(f"{folder / CONFIG} is not that of a run and would be replaced; give another --output")
        return known if written else None
    others = (METRICS, TIMING, "curves.png", "translations.png")
    written += [name for name in others if (folder / name).exists()]
    if written:
        raise ValueError(f"{folder} holds {shortened(written)} without a {CONFIG}; give another --output")
    return None


def _check_complete(path: Path, result: dict[str, Any]) -> None:
    """Refuse a result that lacks what every run records, before it stands for a run that need not be trained."""
    measured = [f"{part}_images" for part in ("validation", "test") if f"{part}_accuracy" in result]
    for name in ("seed", "train_images", "parameters", "seconds", *measured):
        if name not in result:
            raise ValueError(f"{path}: expected a field {name!r}; it is missing")


def check_room(folder: Path, trainer: Trainer, *, best: bool = False) -> None:
    """Refuse a disk without room for the checkpoints that a run keeps, the one being written, and the weights.

    Args:
        folder: the run folder.
        trainer: of the run.
        best: whether checkpoints keep the weights of the best epoch too.

    Raises:
        OSError: with the number of bytes needed and free.
    """
    tensors, _ = flatten_state(trainer.state())
    moments = 2 if trainer.recipe.optimizer == "adamw" else 1  # which the optimizer creates in its first step
    size = sum(value.nbytes for value in tensors.values())
    size += moments * sum(value.nbytes for value in trainer.optimizer.parameters)
    size += sum(value.nbytes for value in trainer.result_state().values()) if best else 0
    copies = 1 if any((folder / "checkpoints").glob("step-*.json")) else 3
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < copies * size:
        reason = f"{os.strerror(errno.ENOSPC)}: checkpoints take {copies * size:,} bytes, and {free:,} are free"
        raise OSError(errno.ENOSPC, reason, str(folder))


def _make_trainer(
    settings: RunSettings, data: Splits, device: torch.device, group: dist.ProcessGroup | None
) -> Trainer:
    """The network of a run, as it starts, and what trains it."""
    preprocessing = fit_run_preprocessing(settings.network, settings.initial, data.train)
    with memory_advice(settings.recipe), drawn_from(torch.Generator().manual_seed(settings.seed)):
        model = first_network(settings.network, settings.initial, settings.freeze, data.train.classes).to(device)
        distillation = None if settings.teacher is None else load_distillation(settings, model, preprocessing)
        return Trainer(
            model,
            data.train.images.to(device),
            data.train.labels.to(device),
            preprocessing,
            settings.recipe,
            seed=settings.seed,
            group=group,
            graph=settings.graph,
            distillation=distillation,
        )


def _check_start(
    folder: Path, trainer: Trainer, settings: RunSettings, data: Splits, epochs_before: int | None
) -> None:
    """Refuse a disk without room, and runs that have lost the checkpoints without which they cannot go on."""
    check_room(folder, trainer, best=data.validation is not None)
    needed = ""
    if settings.initial and settings.initial.network is None:
        needed = f"no checkpoint to resume from; to start anew, {settings.initial.source} is needed"
    if epochs_before is not None:  # a run from the start is not to replace what this one has learned
        needed = f"no checkpoint to train further from, after {epochs_before} epochs; give another --output"
    if needed and load_newest(folder)[0] is None:
        raise ValueError(f"{folder}: {needed}")


def _begin(
    folder: Path,
    checked: CheckedRun,
    trainer: Trainer,
    settings: RunSettings,
    data: Splits,
    say: Callable[[str], None],
) -> tuple[dict[str, Any] | None, Recorder]:
    """Write the configuration of a run, or load its newest checkpoint; returns the state that was loaded, or None."""
    if _known_config(folder) != checked.known:
        raise ValueError(f"{folder}: another run has begun there in the meantime")
    if checked.known is None:
        write_json(folder / CONFIG, checked.config)
        (folder / TIMING).unlink(missing_ok=True)
    path, state, seconds, earlier = _newest(folder, trainer, say)
    if checked.epochs_before is not None:
        _extend(folder, trainer, checked, say)
    best = BestEpoch()
    if state is not None and "best" in state:
        best.load_state_dict(state["best"])
    return state, Recorder(folder, trainer, settings, data, seconds, best, path, earlier)


def _train(
    trainer: Trainer,
    recorder: Recorder | None,
    stop: StopRequest,
    on_step: Callable[[Progress], None] | None,
    folder: Path,
) -> None:
    """Take all remaining steps and record them; `recorder` is that of rank 0, and None in other processes."""
    failure: Exception | None = None
    for progress in trainer.run():
        trainer.stop_requested = stop.number is not None or failure is not None
        stopping = progress.stop or (trainer.group is None and trainer.stop_requested)
        # Where all processes know that rank 0 measures and saves; between, it saves when time has passed.
        together = progress.epoch_done or stopping
        try:
            with failing_together(trainer.group, trainer.device) if together else nullcontext():
                if failure is not None:
                    raise failure
                if recorder:
                    progress = recorder.after_step(progress, stopping=stopping)
        except Exception as error:
            if together or trainer.group is None:
                raise
            # Only rank 0 knows. It asks all to stop with the next step, and fails together with them.
            failure, trainer.stop_requested = error, True
        if on_step and trainer.rank == 0:
            on_step(progress)
        if stopping:
            raise Interrupted(stop.number or 15, (recorder and recorder.last) or folder)


def _newest(
    folder: Path, trainer: Trainer, say: Callable[[str], None]
) -> tuple[Path | None, dict[str, Any] | None, float, list[dict[str, Any]]]:
    """Load the newest valid checkpoint and cut the log back to it.

    Returns:
        Its path and state, or None; the seconds of training so far, and what trained.
    """
    checkpoint, rejected = load_newest(folder)
    for one in rejected:
        say(f"refused {one}")
    if checkpoint is None:
        write_atomically(folder / METRICS, b"")
        return None, None, 0.0, []
    try:
        size, seconds, tree = (checkpoint.state[key] for key in ("log_size", "seconds", "tree"))
        state = unflatten_state(checkpoint.tensors, tree)
        earlier = list(checkpoint.state.get("processes", ()))  # earlier versions did not record them
        trainer.load_state(state)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"{checkpoint.path}: it does not hold the state of this run; {error!r}") from error
    truncate_log(folder / METRICS, size)
    say(f"resuming from {checkpoint.path}, step {checkpoint.step} of {trainer.steps}")
    return checkpoint.path, state, seconds, earlier


def _extend(folder: Path, trainer: Trainer, checked: CheckedRun, say: Callable[[str], None]) -> None:
    """Record that a run gets more epochs, and say at which rate it resumes."""
    recipe, before = trainer.recipe, checked.epochs_before
    assert checked.known is not None
    assert before is not None
    record = {"from_epochs": before, "to_epochs": recipe.epochs, "step": trainer.step}
    config = checked.config | {"extended": [*checked.known.get("extended", []), record]}
    write_json(folder / CONFIG, config)
    rate = learning_rate(recipe, trainer.step, trainer.steps)
    known = checked.known["recipe"]
    earlier = replace(recipe, epochs=before, **{name: tuple(known.get(name, ())) for name in SCHEDULE[1:]})
    last = learning_rate(earlier, max(trainer.step - 1, 0), trainer.batches * before)
    say(
        f"extended from {before} to {recipe.epochs} epochs: the {recipe.schedule} schedule is now that of "
        f"{recipe.epochs} epochs, and the learning rate resumes at {rate:.4g} (it was {last:.4g})"
    )
