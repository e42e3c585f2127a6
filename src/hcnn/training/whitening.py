"""A start for the first layer: filters that whiten the patches of the training images."""

import torch
from torch import Tensor, nn


def whitening_filters(images: Tensor, filters: int, support: tuple[int, ...]) -> Tensor:
    """Filters whose responses to the patches of images are uncorrelated, with variances ``λ_i / (λ_i + ε)`` up to 1.

    With λ_i ≥ λ_{i+1} and e_i the eigenvalues and eigenvectors of the covariance C of the patches,
    ``w_i = e_i / √(λ_i + ε)``, for the first ceil(filters / 2) of them, then the same with the opposite sign, since a
    non-linearity that saturates below loses what is negative. ε = 1e-2 · trace C / size keeps noise small (the idea
    and the signs are those of cifar10-airbench, Jordan 2024; ε is ours). If there are fewer eigenvectors than
    filters, they repeat.

    Args:
        images: standardized (n, c, *u).
        filters: how many.
        support: along each spatial axis.

    Returns:
        The filters, (filters, c, *support).

    Raises:
        ValueError: if the images are smaller than the support.

    Example:
        >>> w = whitening_filters(torch.randn(50, 3, 12, 12), 8, (3, 3))
        >>> w.shape, torch.equal(w[:4], -w[4:])
        (torch.Size([8, 3, 3, 3]), True)
    """
    if any(size < one for size, one in zip(images.shape[2:], support, strict=True)):
        raise ValueError(f"first_layer: whitening expects images of {support} or larger; got {tuple(images.shape[2:])}")
    patches = images
    for axis, size in enumerate(support):
        patches = patches.unfold(2 + axis, size, 1)  # (n, c, *positions, *support)
    axes = len(support)
    order = [0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes)]
    rows = patches.permute(order).flatten(1 + axes).flatten(0, axes).double()  # (n · positions, c · prod support)
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / len(rows)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    scaled = vectors / (values.clamp_min(0) + 1e-2 * values.mean()).sqrt()
    half = -(-filters // 2)
    chosen = scaled.flip(1).T  # the largest first
    # The sign of an eigenvector is arbitrary: let its largest entry be positive, on every machine.
    chosen = chosen * chosen.gather(1, chosen.abs().argmax(1, keepdim=True)).sign()
    chosen = chosen.repeat(-(-half // len(chosen)), 1)[:half]
    both = torch.cat([chosen, -chosen])[:filters]
    return both.reshape(filters, images.shape[1], *support).to(images.dtype)


@torch.no_grad()
def start_by_whitening(model: nn.Module, images: Tensor) -> None:
    """Replace the filters of a network's first convolution by `whitening_filters`, scaled to their present norm.

    Args:
        model: its first module whose `weight` is (filters, c, *support) is changed.
        images: standardized (n, c, *u).

    Raises:
        ValueError: if there is no such module, or its weight is frozen.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == images.ndim and weight.shape[1] == images.shape[1]:
            if not weight.requires_grad:
                raise ValueError("first_layer: expected 'random', as the first layer is frozen; got 'whitening'")
            start = whitening_filters(images, len(weight), tuple(weight.shape[2:]))
            weight.copy_(start * (weight.norm() / start.norm()))
            return
    raise ValueError(
        f"first_layer: whitening expects a network whose first convolution has a weight (filters, {images.shape[1]}, "
        f"*support); {type(model).__name__} has none"
    )
