"""The progress of training after a step, and the error that ends it."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Diverged(ValueError):
    """The loss or the weights became NaN or infinite."""


@dataclass(frozen=True)
class Progress:
    """The progress of training after a step.

    Attributes:
        epoch: current epoch, from 1.
        epochs: how many there are.
        step: steps done in all.
        steps: steps there are in all.
        loss: mean training loss of this epoch so far. On a GPU, whose work each look at it waits for, it is read after
            every 50th step and at the end of an epoch only; else it is NaN.
        accuracy: training accuracy of this epoch so far, a fraction; against the likelier label where images are mixed.
            NaN where the loss is.
        images_per_second: since this process began the epoch.
        seconds_left: estimate for the whole run.
        epoch_done: the metrics of the epoch that just ended, or None.
        stop: some process was asked to stop.
        validation: accuracy on the validation images after this epoch, where there are some and the epoch is done.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float
    epoch_done: dict[str, Any] | None
    stop: bool
    validation: float | None = None


class Steps(Iterator[Progress]):
    """The steps of training, which are done as they are asked for; it warns if nobody ever asks.

    Args:
        steps: does a step for each `next`.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     del (steps := [Steps(iter(()))])[0]
        >>> print(caught[0].message)
        nothing was trained: run() does a step for each iteration; use it in a loop, or call fit()

    """

    def __init__(self, steps: Iterator[Progress]) -> None:
        self._steps, self._begun = steps, False

    def __next__(self) -> Progress:
        self._begun = True
        return next(self._steps)

    def __del__(self) -> None:
        if not self._begun:
            text = "nothing was trained: run() does a step for each iteration; use it in a loop, or call fit()"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
