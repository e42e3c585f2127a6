"""A run folder from start to result: configuration, logs, checkpoints, weights, and how they are read again.

config.json            everything that determines the run
metrics.jsonl          one line per epoch; the same bytes however often the run was interrupted
timing.jsonl           seconds and images/s per epoch of each process that worked on it
checkpoints/           what a restart goes on from
weights.safetensors    the trained network
result.json            accuracy, parameters, versions, hardware, commit, time
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hcnn.data.image_set import Splits
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.layers.randomness import drawn_from
from hcnn.models.hierarchical import build
from hcnn.runs.allocator import memory_advice
from hcnn.runs.interrupts import Interrupted, StopRequest
from hcnn.runs.recorder import Recorder
from hcnn.runs.settings import CONFIG, METRICS, RESULT, RunSettings, check_fit, check_same_run, run_config
from hcnn.runs.teacher import load_distillation
from hcnn.storage.atomic import ensure_writable, write_atomically, write_json
from hcnn.storage.checkpoints import load_newest, unflatten_state
from hcnn.storage.log import truncate_log
from hcnn.storage.run_lock import RunLock
from hcnn.training.distributed import local_device, process_group, rank_and_size, share
from hcnn.training.trainer import Diverged, Progress, Trainer


def train_run(
    folder: Path,
    settings: RunSettings,
    data: Splits,
    *,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train into a run folder, alone or as one process of a group that torchrun made.

    The validation set, if there is one, is looked at after each epoch; the test set is read once, at the end.

    Args:
        folder: made if missing; everything in it is checked before training.
        settings: the run.
        data: training set, and validation and test sets if there are.
        resume: go on from the newest valid checkpoint; without one start anew, and return a finished result as it is.
        on_step: called after every step.
        say: told of checkpoints that were refused or gone on from.

    Returns:
        The contents of result.json.

    Raises:
        ValueError: if the folder holds another run, or data, network and recipe do not fit.
        RunFolderBusy: if another run works in the folder.
        OSError: if the folder cannot be written.
        Diverged: if the loss becomes NaN or infinite; names the last good checkpoint.
        Interrupted: after SIGTERM or SIGINT, with a checkpoint written.
        MemoryError: if the memory does not suffice; says what to lower.
    """
    check_fit(settings, data)
    say = say or (lambda text: None)
    device = local_device(settings.device)
    preprocessing = fit_preprocessing(data.train)
    if settings.teacher is not None:  # all that can be refused is refused before anything is written
        with drawn_from(torch.Generator()):
            load_distillation(settings, build(settings.network), preprocessing)
    config = run_config(settings, data, preprocessing)
    with process_group(device) as group, StopRequest() as stop, ExitStack() as stack:
        rank, processes = rank_and_size(group)
        finished: dict[str, Any] | None = None
        if rank == 0:
            folder = ensure_writable(folder)
            stack.enter_context(RunLock(folder))
            finished = _prepare(folder, config, resume)
        finished = share(finished, group, device)
        if finished is not None:
            return finished
        with memory_advice(settings.recipe), drawn_from(torch.Generator().manual_seed(settings.seed)):
            model = build(settings.network).to(device)
            images, labels = data.train.images.to(device), data.train.labels.to(device)
            distillation = None if settings.teacher is None else load_distillation(settings, model, preprocessing)
            trainer = Trainer(
                model,
                images,
                labels,
                preprocessing,
                settings.recipe,
                seed=settings.seed,
                group=group,
                graph=settings.graph,
                distillation=distillation,
            )
        seconds = 0.0
        state: dict[str, Any] | None = None
        if rank == 0:
            state, seconds = _newest(folder, trainer, say)
        found = share({"found": state is not None}, group, device)["found"]
        if found or group is not None:  # all processes start from rank 0's weights, to the bit
            trainer.load_state(share(state or trainer.state(), group, device))
        writer = Recorder(folder, trainer, settings, data, seconds) if rank == 0 else None
        try:
            with memory_advice(settings.recipe):
                for progress in trainer.run():
                    trainer.stop_requested = stop.number is not None
                    if writer:
                        writer.after_step(
                            progress, stopping=progress.stop or (group is None and trainer.stop_requested)
                        )
                    if on_step and rank == 0:
                        on_step(progress)
                    if progress.stop or (group is None and trainer.stop_requested):
                        newest = writer.last if writer and writer.last else folder
                        raise Interrupted(stop.number or 15, newest)
        except Diverged as error:
            last = writer.last if writer else None
            raise Diverged(f"{error}; last good checkpoint: {last or 'none'}; lower --lr") from None
        result: dict[str, Any] = {}
        if writer:
            result = writer.finish(preprocessing, processes)
        return share(result, group, device)


def _prepare(folder: Path, config: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Make the folder this run's; returns the result if the run is finished already."""
    before = folder / CONFIG
    if before.exists():
        if not resume:
            state = "a finished" if (folder / RESULT).exists() else "an unfinished"
            raise ValueError(f"{folder} already holds {state} run; add --resume to go on, or give another --output")
        known = json.loads(before.read_text())
        check_same_run(folder, known, config)
        if (folder / RESULT).exists():
            return json.loads((folder / RESULT).read_text())
    else:
        write_json(before, config)
    return None


def _newest(folder: Path, trainer: Trainer, say: Callable[[str], None]) -> tuple[dict[str, Any] | None, float]:
    """State and seconds of the newest valid checkpoint, with the log cut back to it; or None and an empty log."""
    checkpoint, rejected = load_newest(folder)
    for one in rejected:
        say(f"refused {one}")
    if checkpoint is None:
        write_atomically(folder / METRICS, b"")
        return None, 0.0
    truncate_log(folder / METRICS, checkpoint.state["log_size"])
    say(f"going on from {checkpoint.path}, step {checkpoint.step} of {trainer.steps}")
    return unflatten_state(checkpoint.tensors, checkpoint.state["tree"]), checkpoint.state["seconds"]
