"""Logits and accuracy of a network on many images."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor, *, batch_size: int = 250, flip: bool = False) -> Tensor:
    """Logits of standardized images in eval mode, batch by batch.

    Args:
        model: maps (b, c, *u) to logits; left in the mode it was in.
        images: (n, c, *u), which get the type of the model's parameters.
        batch_size: images at a time.
        flip: average with the logits of the mirrored images (test-time augmentation).

    Returns:
        (n, classes), float.
    """
    training = model.training
    images = images.to(parameter_type(model))
    model.eval()
    parts = []
    try:
        for part in images.split(batch_size):
            logits = model(part).float()
            parts.append((logits + model(part.flip(-1)).float()) / 2 if flip else logits)
    finally:
        model.train(training)
    return torch.cat(parts)


def parameter_type(model: nn.Module) -> torch.dtype:
    """The floating-point type of a network's parameters; float32 if it has none."""
    types = (one.dtype for one in model.parameters() if one.is_floating_point())
    return next(types, torch.float32)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of standardized images that are classified correctly.

    Args:
        model: maps (b, c, *u) to logits.
        images: (n, c, *u), as `predict_logits` takes them.
        labels: int64 (n,).

    Example:
        >>> accuracy(nn.Flatten(), torch.tensor([[[9.0, 0.0]], [[9.0, 0.0]]]), torch.tensor([0, 1]))
        0.5
    """
    return (predict_logits(model, images).argmax(1) == labels).float().mean().item()
