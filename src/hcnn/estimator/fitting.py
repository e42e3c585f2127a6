"""Training until the validation images show no more progress."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor

from hcnn.training.best_epoch import BestEpoch, accuracy_and_loss, logits_with
from hcnn.training.trainer import Trainer

_P = ParamSpec("_P")
_R = TypeVar("_R")


def all_or_nothing(fit: Callable[_P, _R]) -> Callable[_P, _R]:
    """A `fit` that leaves the estimator as it was if it fails or is interrupted.

    Otherwise new classes beside old weights would predict wrong labels.

    Args:
        fit: a method, which may replace attributes but not change their values in place.

    Returns:
        The method.

    """

    @wraps(fit)
    def fit_or_restore(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        attributes = vars(arguments[0])
        before = dict(attributes)
        try:
            return fit(*arguments, **keywords)
        except BaseException:
            attributes.clear()
            attributes.update(before)
            raise

    return fit_or_restore


@dataclass(frozen=True)
class Held:
    """Validation images.

    Attributes:
        images: standardized (n, c, height, width); none of them means that there is no validation.
        labels: int64 (n,).
        weights: (n,), or None for equal ones.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Fitted:
    """What training gave.

    Attributes:
        weights: state of the network: of the best epoch by validation, else of the last one.
        losses: mean training loss of each epoch.
        scores: accuracy on the validation images after each epoch.
    """

    weights: dict[str, Tensor]
    losses: list[float]
    scores: list[float]


def train_until_best(trainer: Trainer, held: Held, patience: int) -> Fitted:
    """Train to the end, or until a number of epochs in a row were not better than the best before.

    Args:
        trainer: at its start.
        held: the validation images.
        patience: that number of epochs.

    Returns:
        Weights, losses and scores.

    """
    best, losses, scores = BestEpoch(), [], []
    for progress in trainer.run():
        if not progress.epoch_done:
            continue
        losses.append(progress.loss)
        if not len(held.labels):
            continue
        weights = trainer.result_state()
        logits = logits_with(trainer.model, weights, held.images)
        accuracy, loss = accuracy_and_loss(logits, held.labels, held.weights)
        scores.append(accuracy)
        if not best.offer(progress.epoch, accuracy, loss, weights) and progress.epoch - best.epoch >= patience:
            break
    return Fitted(best.weights or trainer.result_state(), losses, scores)
