"""Batch normalization followed by ELU, and which form computes it."""

from torch import Tensor

from hcnn.functional.backend import choose
from hcnn.functional.normalize_elu import naive, native, tiled, triton_op


def channel_statistics(y: Tensor, spatial: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per value of the newest attribute, reading y once.

    Args:
        y: (b, *v, k, *u), channels first or channels last.
        spatial: number of spatial axes.

    Returns:
        mean (k,) and variance (k,), float32 or wider.

    Example:
        >>> import torch
        >>> channel_statistics(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]), 1)
        (tensor([2., 5.]), tensor([1., 0.]))

    """
    return choose(y, naive.channel_statistics, triton=triton_op.channel_statistics)(y, spatial)


def normalize_elu(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool = False) -> Tensor:
    """``ELU(scale_k y + shift_k)``, averaged over the oldest attribute if wanted; keeps y only for its gradient.

    Args:
        y: (b, *v, k, *u), channels first or channels last; the result has the memory order of y.
        scale: (k,).
        shift: (k,).
        spatial: number of spatial axes.
        average_oldest: whether to average over axis 1, as the next layer does first, eq. (6).

    Returns:
        (b, *v, k, *u) without axis 1 if averaged, in the type of y.

    Example:
        >>> import torch
        >>> y = torch.tensor([[[[1.0], [-1.0]], [[3.0], [-1.0]]]])       # b v1 k u
        >>> normalize_elu(y, torch.ones(2), torch.tensor([0.0, 1.0]), 1, average_oldest=True)
        tensor([[[2.],
                 [0.]]])

    """
    form = choose(y, naive.normalize_elu, native=native.normalize_elu, triton=triton_op.normalize_elu)
    return form(y, scale, shift, spatial, average_oldest)


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`channel_statistics` and `normalize_elu` as one batch normalization, whose backward pass is fused too.

    Args:
        y: (b, *v, k, *u), channels first or channels last.
        weight: (k,).
        bias: (k,).
        eps: added to the variance.
        spatial: number of spatial axes.
        average_oldest: whether to average over axis 1.

    Returns:
        What `normalize_elu` returns; mean and biased variance, for running statistics, without gradient.

    Example:
        >>> import torch
        >>> out, mean, variance = batch_normalize_elu(torch.randn(2, 4, 8, 8), torch.ones(4), torch.zeros(4), 1e-5, 2)
        >>> out.shape, mean.shape
        (torch.Size([2, 4, 8, 8]), torch.Size([4]))

    """
    form = choose(
        y,
        naive.batch_normalize_elu,
        cpu=tiled.batch_normalize_elu,
        native=native.batch_normalize_elu,
        triton=triton_op.batch_normalize_elu,
    )
    return form(y, weight, bias, eps, spatial, average_oldest)
