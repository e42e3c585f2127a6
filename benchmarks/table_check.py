"""What the first seconds of a run tell about the rest; `tables.py` looks at them before it starts a run."""

import math
import resource
import time
from dataclasses import dataclass, replace

import torch

from hcnn.data.image_set import Splits
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.models.factory import build
from hcnn.runs.settings import RunSettings
from hcnn.runs.teacher import load_distillation
from hcnn.training.trainer import Trainer


@dataclass(frozen=True)
class Check:
    """What the first seconds of a run tell about the rest.

    Attributes:
        first: loss of the first step whose loss was read.
        last: mean loss of all steps of the check.
        minutes: expected duration of the whole run, at the pace of these steps.
        memory: peak in bytes, of the GPU or, on a CPU, of this process.
    """

    first: float
    last: float
    minutes: float
    memory: int


def check(settings: RunSettings, data: Splits, *, seconds: float) -> Check:
    """Train a throw-away network for some seconds, at a tenth of the recipe's highest learning rate."""
    device = torch.device(settings.device)
    torch.manual_seed(settings.seed)
    recipe = replace(
        settings.recipe, schedule="step", milestones=(), factors=(), warmup=0.0, lr=settings.recipe.lr / 10
    )
    preprocessing, model = fit_preprocessing(data.train), build(settings.network).to(device)
    trainer = Trainer(
        model,
        data.train.images.to(device),
        data.train.labels.to(device),
        preprocessing,
        recipe,
        seed=settings.seed,
        graph=settings.graph,
        distillation=load_distillation(settings, model, preprocessing) if settings.teacher else None,
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
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Check(losses[0], losses[-1], pace * trainer.steps / 60, memory)
