"""The inner step of HCNN(+) on attribute arrays, by whichever form is less work."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from hcnn.functional.attribute_conv.choose import Method, check_method, choose_plus_method
from hcnn.functional.attribute_conv.dense import bands, dense_weight
from hcnn.functional.attribute_conv.native_cost import native_refused, native_supports
from hcnn.functional.attribute_conv.spectral import plus_transforms
from hcnn.functional.axes import Boundary
from hcnn.functional.native.library import native_available
from hcnn.functional.plus_step.dispatch import plus_step, spectral_plus_step
from hcnn.functional.plus_step.native import native_plus_step, native_plus_weight


class PlusMatrix(NamedTuple):
    """The attribute step: of `dense_weight` or `native_plus_weight` alone, or what `plus_transforms` gives."""

    matrix: Tensor
    analysis: Tensor | None = None
    synthesis: Tensor | None = None
    native: bool = False


def attribute_plus_step(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    g: Tensor,
    stride: Sequence[int],
    boundary: Boundary,
    method: Method = "auto",
    *,
    prepared: PlusMatrix | None = None,
) -> Tensor:
    """``y_k = Σ_q ELU(x * h_q + shift_q) * g_{k,q}``.

    Args:
        x: (b, *v, *u).
        h: (q, *ku), the inner scale folded in.
        shift: (q,).
        g: (k, q, *kv).
        stride: one per axis of (*v, *u).
        boundary: "zeros" or "circular", on every axis.
        method: "auto", "dense", "spectral" or "native".
        prepared: what `plus_matrix` made of g for this geometry, where it is at hand already.

    Returns:
        (b, *v', k, *u').

    Example:
        >>> import torch
        >>> x, h, g = torch.randn(2, 8, 6, 6), torch.randn(4, 3, 3), torch.randn(5, 4, 3)
        >>> attribute_plus_step(x, h, torch.zeros(4), g, (2, 1, 1), "zeros").shape
        torch.Size([2, 4, 5, 6, 6])

    """
    n = g.ndim - 2
    sizes, along, space = [int(size) for size in x.shape[1 : 1 + n]], stride[:n], stride[n:]  # tracers give tensors
    flat = x.flatten(1, n) if n else x.unsqueeze(1)  # (b, v, *u)
    native = native_plus_available(x, h.shape[1:], g.shape, along)
    found = prepared or plus_matrix(g, sizes, along, boundary, method, x.device.type, native=native)
    if found.native:
        y = native_plus_step(flat, h, shift, found.matrix, sizes, g.shape[2:], stride, boundary)
    elif found.analysis is None or found.synthesis is None:
        blocks = bands(g, sizes, along, boundary)
        y = plus_step(flat, h, shift, found.matrix, space, boundary, bands=blocks)
    else:
        y = spectral_plus_step(flat, h, shift, found.analysis, found.matrix, found.synthesis, space, boundary)
    outputs = (size // s for size, s in zip(sizes, along, strict=True))
    return y.reshape(len(x), *outputs, len(g), *y.shape[2:])


def native_plus_available(x: Tensor, space: Sequence[int], g: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether the native kernels take the inner step of x (b, *v, *u) with filters g of a shape (k, q, *kv)."""
    sizes = x.shape[1 : len(g) - 1]
    return native_available(x) and native_supports(sizes, g[2:], stride[: len(sizes)], space)


def plus_matrix(
    g: Tensor,
    sizes: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
    method: Method,
    device: str,
    *,
    native: bool = False,
) -> PlusMatrix:
    """What the attribute step makes of its filters.

    Args:
        g: (k, q, *kv).
        sizes: lengths of the attribute axes.
        stride: strides along them.
        boundary: "zeros" or "circular".
        method: "auto", "dense", "spectral" or "native".
        device: type of the device that computes.
        native: whether the native kernels can be had, as `native_plus_available` says for an array.

    Returns:
        One matrix (v' · k, v · q), or one for each frequency.

    Raises:
        ValueError: if the method is "native" and those cannot be had.
    """
    chosen = plus_method(g.shape, sizes, stride, boundary, method, device, native=native)
    if chosen == "native":
        if not native:
            raise ValueError(native_refused("attribute_plus_step", g, sizes))
        return PlusMatrix(native_plus_weight(g, sizes, stride, boundary), native=True)
    if chosen == "spectral":
        analysis, matrix, synthesis = plus_transforms(g, tuple(sizes), tuple(stride), boundary)
        return PlusMatrix(matrix, analysis, synthesis)
    return PlusMatrix(dense_weight(g, sizes, stride, boundary, channel_axis=True))


def plus_method(
    g: Sequence[int],
    sizes: Sequence[int],
    stride: Sequence[int],
    boundary: Boundary,
    method: Method,
    device: str,
    *,
    native: bool = False,
) -> Method:
    """The form of the attribute step: the one with less work, on a CPU; only the dense one has a kernel elsewhere."""
    check_method(method, "attribute_plus_step")
    if not sizes:
        return "dense"  # without attributes there is no other form
    if method != "auto":
        return method
    return choose_plus_method(g, sizes, stride, boundary, native=native) if device == "cpu" else "dense"
