"""How the two factors of a layer compose: the statistics between them, and the one filter and bias of both.

Each is one operator with a gradient of its own: as a chain of PyTorch's operations on arrays of a few thousand numbers
it would cost more to call than a small layer's convolution costs to compute.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hcnn.functional.attribute_conv.dense import placement
from hcnn.functional.axes import Boundary
from hcnn.functional.custom_op import define_operator
from hcnn.functional.dtypes import exactly


def inner_normalization(
    mean: Tensor, covariance: Tensor, h: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The affine map that normalizes x * h_q, from the moments of the patches of x.

    ``m_q = h_q · mean``, ``var_q = h_qᵀ C h_q``, ``scale_q = weight_q / sqrt(var_q + eps)``,
    ``shift_q = bias_q - scale_q m_q``.

    Args:
        mean: (P,), float32 or wider.
        covariance: (P, P), symmetric.
        h: (q, P).
        weight: (q,), or None for ones.
        bias: (q,), or None for zeros.
        eps: added to the variance.

    Returns:
        scale (q,) and shift (q,); m (q,) and var (q,), for running statistics, without gradient.

    Example:
        >>> import torch
        >>> scale, shift, m, var = inner_normalization(torch.ones(1), torch.eye(1), 2 * torch.ones(1, 1), None, None, 0)
        >>> scale, shift, m, var
        (tensor([0.5000]), tensor([-1.]), tensor([2.]), tensor([4.]))
    """
    dtype = covariance.dtype
    weight = h.new_ones(len(h)) if weight is None else weight
    bias = h.new_zeros(len(h)) if bias is None else bias
    scale, shift, m, variance = _inner(
        mean.to(dtype), covariance, h.to(dtype), weight.to(dtype), bias.to(dtype), float(eps)
    )
    return scale, shift, m.detach(), variance.detach()


def compose(
    h: Tensor,
    scale: Tensor,
    shift: Tensor,
    g: Tensor,
    sizes: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
) -> tuple[Tensor, Tensor]:
    """One filter and bias of both steps, eq. (8): ``w(k, v, u) = Σ_q g(k, q, v) scale_q h(q, u)``.

    The bias is what the constants shift_q become behind g, ``Σ_q shift_q Σ_{taps inside} g(k, q, t)``: under zeros it
    depends on the position v'.

    Args:
        h: (q, *ku).
        scale: (q,).
        shift: (q,).
        g: (k, q, *kv).
        sizes: lengths of the attribute axes of x.
        stride: strides along them.
        boundary: "zeros" or "circular".

    Returns:
        w (k, *kv, *ku) and bias (*v', k), in the type of h.

    Example:
        >>> import torch
        >>> w, bias = compose(torch.ones(1, 3), torch.ones(1), torch.ones(1), torch.ones(1, 1, 3), [4], [2], "zeros")
        >>> w.shape, bias
        (torch.Size([1, 3, 3]), tensor([[2.],
                [3.]]))
    """
    space, support = h.shape[1:], g.shape[2:]
    flat = g.reshape(*g.shape[:2], math.prod(support))
    w, bias = _compose(
        h.flatten(1),
        scale.to(h.dtype),
        shift.to(h.dtype),
        flat,
        [*sizes],
        [*support],
        [*stride],
        boundary == "circular",
    )
    outputs = [n // s for n, s in zip(sizes, stride, strict=True)]
    return w.reshape(len(g), *support, *space), bias.reshape(*outputs, len(g))


def _inner_forward(
    mean: Tensor, covariance: Tensor, h: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with exactly(h):
        m = h @ mean
        variance = ((h @ covariance) * h).sum(1)
        scale = torch.rsqrt(variance.clamp_min(0) + eps) * weight
        return scale, bias - scale * m, m, variance


def _inner_backward(
    grad_scale: Tensor,
    grad_shift: Tensor,
    grad_m: Tensor,
    grad_variance: Tensor,
    mean: Tensor,
    covariance: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor,
    m: Tensor,
    variance: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for everything but eps. Mean and variance of x * h_q have none."""
    with exactly(h):
        inverse = torch.rsqrt(variance.clamp_min(0) + eps)
        to_scale = grad_scale - grad_shift * m
        to_m = -scale * grad_shift
        to_variance = (to_scale * scale * inverse * inverse).mul_(-0.5).masked_fill_(variance < 0, 0.0)
        weighted = h * to_variance[:, None]  # (q, P)
        to_h = torch.addmm(torch.outer(to_m, mean), weighted, covariance, alpha=2)
        return to_m @ h, weighted.T @ h, to_h, to_scale * inverse, grad_shift.clone()


def _inner_fake(
    mean: Tensor, covariance: Tensor, h: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(weight), torch.empty_like(weight), torch.empty_like(weight), torch.empty_like(weight)


_inner = define_operator("inner_normalization", _inner_forward, _inner_backward, _inner_fake, keep=(0, 2, 3))


@lru_cache(maxsize=64)
def _inside(
    sizes: tuple[int, ...],
    support: tuple[int, ...],
    stride: tuple[int, ...],
    circular: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Which taps lie inside for which output, (v', t); how many, where a long filter wraps around."""
    with torch.inference_mode(False):  # it outlives the mode it is first needed in
        inside = torch.ones(1, 1, device=device, dtype=dtype)
        for n, k, s in zip(sizes, support, stride, strict=True):
            taps = placement(n, k, s, "circular" if circular else "zeros", device=device, dtype=dtype)
            inside = torch.kron(inside, taps.sum(1))
        return inside


def _factors(h: Tensor, scale: Tensor, shift: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled h with the shifts as one more tap, (q, P + 1), and g as a matrix, (k · t, q)."""
    return torch.cat([h * scale[:, None], shift[:, None]], 1), g.transpose(1, 2).reshape(-1, len(h))


def _compose_forward(
    h: Tensor,
    scale: Tensor,
    shift: Tensor,
    g: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> tuple[Tensor, Tensor]:
    """(k, t, P) and (v', k)."""
    with exactly(h):
        spatial, along = _factors(h, scale, shift, g)
        product = (along @ spatial).view(len(g), -1, spatial.shape[1])  # (k, t, P + 1)
        inside = _inside(tuple(sizes), tuple(support), tuple(stride), circular, h.device, h.dtype)
        return product[:, :, :-1].contiguous(), inside @ product[:, :, -1].T


def _compose_backward(
    grad_w: Tensor,
    grad_bias: Tensor,
    h: Tensor,
    scale: Tensor,
    shift: Tensor,
    g: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for h, scale, shift and g."""
    with exactly(h):
        spatial, along = _factors(h, scale, shift, g)
        inside = _inside(tuple(sizes), tuple(support), tuple(stride), circular, h.device, h.dtype)
        grad = torch.cat([grad_w, (grad_bias.T @ inside)[:, :, None]], 2).flatten(0, 1)  # (k · t, P + 1)
        to_spatial = along.T @ grad  # (q, P + 1)
        to_g = (grad @ spatial.T).view(len(g), -1, len(h)).transpose(1, 2).contiguous()
        to_h = to_spatial[:, :-1]
        return to_h * scale[:, None], (to_h * h).sum(1), to_spatial[:, -1].contiguous(), to_g


def _compose_fake(
    h: Tensor,
    scale: Tensor,
    shift: Tensor,
    g: Tensor,
    sizes: list[int],
    support: list[int],
    stride: list[int],
    circular: bool,
) -> tuple[Tensor, Tensor]:
    outputs = math.prod(n // s for n, s in zip(sizes, stride, strict=True))
    return h.new_empty(len(g), g.shape[2], h.shape[1]), h.new_empty(outputs, len(g))


_compose = define_operator("compose_filters", _compose_forward, _compose_backward, _compose_fake)
