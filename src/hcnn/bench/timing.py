"""What a network costs: multiply-adds per image, and images per second in training and inference."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Throughput:
    """Images per second over several steps.

    Attributes:
        median: over the steps.
        low: of the slowest step.
        high: of the fastest step.
        steps: how many were timed.
    """

    median: float
    low: float
    high: float
    steps: int


def make_step(
    model: nn.Module, images: Tensor, *, classes: int, train: bool, dtype: str = "float32"
) -> Callable[[], None]:
    """A function that takes one step of a network on one batch.

    Args:
        model: on the device of the images; its weights keep their values, its statistics change in training.
        images: standardized (b, c, *u).
        classes: number of classes.
        train: forward, loss and backward in training mode; else forward alone in eval mode without gradients.
        dtype: "float32", or "bfloat16" for autocast.

    Returns:
        The step.

    """
    labels, device = torch.arange(len(images), device=images.device) % classes, images.device.type
    model.train(train)

    def step() -> None:
        with torch.inference_mode(not train), torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(images)
        if train:
            F.cross_entropy(logits.float(), labels).backward()
            model.zero_grad(set_to_none=True)

    return step


def time_steps(
    steps: Sequence[Callable[[], object]],
    *,
    rounds: int = 3,
    seconds: float = 0.0,
    warm_up: int = 2,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time steps alternately, A B C A B C …, so that whatever else the machine does meets all of them alike.

    Args:
        steps: what is timed.
        rounds: how often each step is timed at least.
        seconds: further rounds follow until each step was timed for that long.
        warm_up: rounds before, which are not timed.
        device: waited for around each step.
        clock: the time in seconds; `time.process_time` counts what all threads of the process computed.

    Returns:
        The durations of each step in seconds, round by round.

    Example:
        >>> slow, fast = time_steps([lambda: time.sleep(0.01), lambda: None], rounds=2, warm_up=0)
        >>> len(slow), min(slow) > max(fast)
        (2, True)

    """
    device = torch.device(device)
    taken: list[list[float]] = [[] for _ in steps]

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    turn = 0
    while turn < warm_up + rounds or min(map(sum, taken)) < seconds:
        for own, step in zip(taken, steps, strict=True):
            wait()
            start = clock()
            step()
            wait()
            if turn >= warm_up:
                own.append(clock() - start)
        turn += 1
    return taken


def measure_throughput(
    model: nn.Module,
    images: Tensor,
    *,
    train: bool,
    seconds: float = 3.0,
    rounds: int = 3,
    classes: int | None = None,
) -> Throughput:
    """Time steps of a network on one batch, after two that warm up.

    Args:
        model: on the device of the images; see `make_step`.
        images: standardized (b, c, *u).
        train: whether to train.
        seconds: how long to measure.
        rounds: how many steps to time at least.
        classes: number of classes; ``model.config.classes`` if None.

    Returns:
        Images per second.

    Example:
        >>> speed = measure_throughput(nn.Linear(4, 2), torch.zeros(8, 4), train=True, seconds=0.01, classes=2)
        >>> speed.low <= speed.median <= speed.high
        True

    """
    config: Any = getattr(model, "config", None)
    step = make_step(model, images, classes=config.classes if classes is None else classes, train=train)
    [taken] = time_steps([step], rounds=rounds, seconds=seconds, device=images.device)
    return throughput(len(images), taken)


def throughput(images: int, taken: Sequence[float]) -> Throughput:
    """Images per second of steps of that many images that took these seconds."""
    return Throughput(images / statistics.median(taken), images / max(taken), images / min(taken), len(taken))
