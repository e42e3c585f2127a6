"""The weights of the epoch that did best on validation images."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.training.evaluate import predict_logits


class BestEpoch:
    """Keeps the weights of the epoch with the highest validation accuracy; of equal ones, that with the lower loss.

    Attributes:
        epoch: number of the best epoch, from 1; 0 before the first.
        accuracy: its accuracy on the validation images.
        loss: its cross-entropy there.
        weights: a copy of its weights.

    Example:
        >>> best = BestEpoch()
        >>> [best.offer(epoch, accuracy, 1.0, {}) for epoch, accuracy in enumerate((0.5, 0.9, 0.9), 1)]
        [True, True, False]
        >>> best.epoch
        2

    """

    def __init__(self) -> None:
        self.epoch, self.accuracy, self.loss = 0, 0.0, 0.0
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, accuracy: float, loss: float, weights: dict[str, Tensor]) -> bool:
        """Take an epoch if it is better than the best so far.

        Args:
            epoch: its number, from 1.
            accuracy: on the validation images.
            loss: likewise.
            weights: copied if they are taken.

        Returns:
            Whether it was taken.

        """
        if self.epoch and (accuracy, -loss) <= (self.accuracy, -self.loss):
            return False
        self.epoch, self.accuracy, self.loss = epoch, accuracy, loss
        self.weights = {name: value.detach().clone() for name, value in weights.items()}
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"epoch": self.epoch, "accuracy": self.accuracy, "loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`."""
        self.epoch, self.accuracy, self.loss = int(state["epoch"]), float(state["accuracy"]), float(state["loss"])
        self.weights = dict(state["weights"])


def logits_with(model: nn.Module, weights: dict[str, Tensor], images: Tensor, *, flip: bool = False) -> Tensor:
    """Logits (n, classes) of standardized images by other weights of a network, which is left as it was."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        return predict_logits(model, images, flip=flip)
    finally:
        model.load_state_dict(kept)


def accuracy_and_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
    """Fraction of hits, and cross-entropy.

    Args:
        logits: (n, classes).
        labels: int64 (n,).
        weights: of the images (n,), positive; None for equal ones.

    Example:
        >>> accuracy_and_loss(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([3.0, 1.0]))
        (0.75, 2.250...)
    """
    share = torch.ones_like(logits[:, 0]) if weights is None else weights / weights.mean()
    hits = (logits.argmax(1) == labels).float()
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (hits * share).mean().item(), (losses * share).mean().item()
