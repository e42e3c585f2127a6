"""Batch normalization, ELU and the mean over the oldest attribute by the native kernels; only y is kept."""

import math

import torch
from torch import Tensor

from hcnn.functional.custom_op import define_operator
from hcnn.functional.native.library import Normalize, call
from hcnn.functional.normalize_elu.naive import per_value


def batch_normalize_elu(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `hcnn.functional.normalize_elu.naive.batch_normalize_elu`."""
    out, mean, variance = _batch(y, weight.to(y.dtype), bias.to(y.dtype), eps, spatial, average_oldest)
    return out, mean.detach(), variance.detach()


def normalize_elu(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool) -> Tensor:
    """As `hcnn.functional.normalize_elu.naive.normalize_elu`."""
    return _scaled(y, scale.to(y.dtype), shift.to(y.dtype), spatial, average_oldest)


def _sizes(y: Tensor, values: list[Tensor], eps: float, spatial: int, average_oldest: bool) -> Normalize:
    axis = y.ndim - 1 - spatial
    filters = y.shape[axis]
    if any(one.dtype != torch.float32 for one in (y, *values)) or any(one.shape != (filters,) for one in values):
        raise ValueError(
            f"native normalize_elu: expected float32 y (b, *v, k, *u) and values (k,); got {y.dtype} {tuple(y.shape)}, "
            f"{[tuple(one.shape) for one in values]}"
        )
    if axis < (2 if average_oldest else 1) or y.numel() == 0:
        raise ValueError(f"native normalize_elu: expected values and attributes to average; got {tuple(y.shape)}")
    oldest, others = (y.shape[1], y.shape[2:axis]) if average_oldest else (1, y.shape[1:axis])
    return Normalize(len(y), oldest, math.prod(others), filters, y.shape[axis + 1 :].numel(), eps)


def _like(y: Tensor, average_oldest: bool) -> Tensor:
    return y.new_empty(y.shape[:1] + y.shape[2:] if average_oldest else y.shape)


def _batch_forward(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, mean and biased variance."""
    sizes = _sizes(y, [weight, bias], eps, spatial, average_oldest)
    out, mean, variance = _like(y, average_oldest), torch.empty_like(weight), torch.empty_like(weight)
    call("hcnn_normalize", sizes, y.contiguous(), weight.contiguous(), bias.contiguous(), out, mean, variance)
    return out, mean, variance


def _batch_backward(
    grad: Tensor,
    grad_mean: Tensor,
    grad_variance: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    spatial: int,
    average_oldest: bool,
    mean: Tensor,
    variance: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for y, weight and bias. Mean and variance have none."""
    sizes = _sizes(y, [weight, bias, mean, variance], eps, spatial, average_oldest)
    if grad.shape != _like(y, average_oldest).shape:
        raise ValueError(f"native normalize_elu: the gradient has shape {tuple(grad.shape)}, unlike the result")
    grads = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in (y, weight, bias)]
    arrays = (one.contiguous() for one in (grad, y, weight, bias, mean, variance))
    call("hcnn_normalize_backward", sizes, *arrays, *grads)
    return grads[0], grads[1], grads[2]


def _batch_fake(
    y: Tensor, weight: Tensor, bias: Tensor, eps: float, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(y, average_oldest), torch.empty_like(weight), torch.empty_like(weight)


_batch = define_operator("native_batch_normalize_elu", _batch_forward, _batch_backward, _batch_fake, keep=(1, 2))


def _scaled_forward(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool) -> Tensor:
    sizes, out = _sizes(y, [scale, shift], 0.0, spatial, average_oldest), _like(y, average_oldest)
    call("hcnn_scale_elu", sizes, y.contiguous(), scale.contiguous(), shift.contiguous(), out)
    return out


def _scaled_backward(
    grad: Tensor, y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for y, scale and shift; of use with fixed statistics only, so not worth a kernel."""
    slope = (y * per_value(scale, spatial) + per_value(shift, spatial)).clamp_(max=0).exp_()
    d = slope.mul_(grad.unsqueeze(1) / y.shape[1] if average_oldest else grad).contiguous()
    axes = [axis for axis in range(y.ndim) if axis != y.ndim - 1 - spatial]
    return d * per_value(scale, spatial), (d * y).sum(axes), d.sum(axes)


def _scaled_fake(y: Tensor, scale: Tensor, shift: Tensor, spatial: int, average_oldest: bool) -> Tensor:
    return _like(y, average_oldest)


_scaled = define_operator("native_normalize_elu", _scaled_forward, _scaled_backward, _scaled_fake)
