"""Translations along an attribute, periodic: by whole and fractional amounts, by one for all arrays or one for each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hcnn.functional.axes import check_axis


def smooth(arrays: Tensor, axis: int) -> Tensor:
    """Average consecutive samples along an attribute, periodically: ``y(v) = (x(v) + x(v+1)) / 2``.

    Paper, section 5.3: high frequencies are eliminated before a translation is computed. Law: smoothing commutes with
    every translation, and removes the highest frequency of an even axis, so that fractional shifts keep all distances.

    Args:
        arrays: any array.
        axis: dimension of the attribute.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: if the axis does not exist.

    Example:
        >>> smooth(torch.tensor([0.0, 2.0, 4.0, 2.0]), 0)
        tensor([1., 3., 3., 1.])

    """
    axis = check_axis(arrays, axis, "smooth")
    return (arrays + arrays.roll(-1, axis)) / 2


def shift(arrays: Tensor, axis: int, amount: float) -> Tensor:
    """Translate along an attribute, periodically: ``y(v) = x(v - amount)``.

    A whole amount rolls the array exactly. A fractional one interpolates with the Fourier transform: every frequency is
    rotated by its phase; the highest one of an even axis, whose phase is not determined, is multiplied by the cosine.

    Args:
        arrays: any array of floats.
        axis: dimension of the attribute.
        amount: τ, of either sign, in values of the attribute.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: if the axis does not exist or the amount is not a finite number.

    Example:
        >>> shift(torch.tensor([1.0, 2.0, 3.0, 4.0]), 0, 1)
        tensor([4., 1., 2., 3.])
        >>> wave = torch.cos(torch.arange(8) * torch.pi / 4)
        >>> torch.allclose(shift(wave, 0, 0.5), torch.cos((torch.arange(8) - 0.5) * torch.pi / 4), atol=1e-6)
        True

    """
    axis = check_axis(arrays, axis, "shift")
    if amount is None or isinstance(amount, str) or not math.isfinite(amount):
        raise ValueError(f"shift: expected a finite amount; got {amount!r}")
    size = arrays.shape[axis]
    if float(amount).is_integer():
        return arrays.roll(int(amount) % size, axis)
    if arrays.dtype in (torch.bfloat16, torch.float16):  # of which PyTorch has no transform on the CPU
        return shift(arrays.float(), axis, amount).to(arrays.dtype)
    spectrum = torch.fft.rfft(arrays, dim=axis)
    turned = spectrum.movedim(axis, -1) * phases([amount], size, spectrum.device)[0].to(spectrum.dtype)
    return torch.fft.irfft(turned.movedim(-1, axis), n=size, dim=axis)


def shift_each(arrays: Tensor, axis: int, amounts: Tensor) -> Tensor:
    """Translate each array of a batch by its own amount, as `shift` does: ``y_n(v) = x_n(v - amount_n)``.

    A translation is a product with a circulant matrix, ``y_n = M(amount_n) x_n``, so that gradients are exact and
    nothing depends on the values of the amounts but the numbers in it.

    Args:
        arrays: (n, …), floats.
        axis: dimension of the attribute, not the first.
        amounts: (n,), in values of the attribute.

    Returns:
        An array of the same shape and type.

    Raises:
        ValueError: if there is not one amount for each array.

    Example:
        >>> x = torch.randn(2, 8, 3, dtype=torch.float64)
        >>> y = shift_each(x, 1, torch.tensor([2.0, 0.5]))
        >>> [torch.allclose(y[n], shift(x[n], 0, tau)) for n, tau in enumerate([2, 0.5])]
        [True, True]

    """
    if amounts.shape != arrays.shape[:1]:
        raise ValueError(
            f"shift_each: expected one amount for each of {len(arrays)} arrays; got shape {tuple(amounts.shape)}"
        )
    moved = arrays.movedim(axis, 1)
    matrix = _circulants(amounts, moved.shape[1], arrays)
    return (matrix @ moved.flatten(2)).reshape(moved.shape).movedim(1, axis)  # (n, v, others)


def translation_distances(
    changed: Tensor, arrays: Tensor, axis: int, amounts: Tensor, others: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Squared distances of arrays from all translations of others, by inner products alone.

    ``D(s) = ‖x_j(P_a x) - T_s T_{v,τ} x_j(x)‖²`` for whole s along v and along other attributes. A fractional
    translation is a sum of whole ones, ``T_τ = Σ_d k(d) T_d``, so that products with whole translations are enough, and
    no translated array is made.

    Args:
        changed: arrays of changed images, (n, …), float32.
        arrays: those of the images themselves.
        axis: dimension of v.
        amounts: τ of each array, (n,).
        others: dimensions of other attributes along which s runs.

    Returns:
        D, (n, translations), D(0) first; and the squared norms of `changed`, (n,).

    Example:
        >>> x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> y = torch.stack([x[0].roll(3, 1), x[1]])
        >>> distances, _ = translation_distances(y, x, 2, torch.tensor([3.0, -1.0]))
        >>> distances.argmin(1).tolist()
        [0, 1]

    """
    axes = [axis, *others]
    size, rest = changed.shape[axis], math.prod(changed.shape[other] for other in others)
    a, b = (one.movedim(axes, list(range(1, len(axes) + 1))).flatten(len(axes) + 1) for one in (changed, arrays))
    sizes = a.shape[1:-1]
    cross = _cyclic_products(a.flatten(1, -2), b.flatten(1, -2), sizes).unflatten(1, (size, rest))  # (n, d, others)
    own = _cyclic_products(b.flatten(2), b.flatten(2), [size])  # (n, d)
    weights = _circulants(amounts, size, a)  # (n, d, s): k(d - s)
    norms = a.square().flatten(1).sum(1)
    translated = torch.einsum("nds,nd,ns->n", weights, weights[:, :, 0], own)  # ‖T_τ x‖²
    products = (weights.mT @ cross).flatten(1)
    return (norms[:, None] + translated[:, None] - 2 * products).clamp_min(0), norms


def _circulants(amounts: Tensor, size: int, like: Tensor) -> Tensor:
    """Translations as matrices (n, v, w), what x(w) adds to y(v): k(v - w) with the kernel k of each amount."""
    kernel = torch.fft.irfft(phases(amounts, size, like.device), n=size).to(like.dtype)  # (n, size)
    place = torch.arange(size, device=like.device)
    return kernel[:, (place[:, None] - place) % size]


def _cyclic_products(a: Tensor, b: Tensor, sizes: Sequence[int]) -> Tensor:
    """``Σ_v ⟨a(v), b(v - s)⟩`` for each translation s, (n, values); a and b are (n, values, others)."""
    place = torch.arange(a.shape[1], device=a.device)
    source, stride = torch.zeros(len(place), len(place), dtype=torch.int64, device=a.device), len(place)
    for size in sizes:
        stride //= size
        along = place // stride % size
        source = source * size + (along - along[:, None]) % size  # (s, v)
    pairs = (place * len(place) + source).flatten()
    return (a @ b.mT).flatten(1).index_select(1, pairs).unflatten(1, (len(place), len(place))).sum(2)


def phases(amounts: Sequence[float] | Tensor, size: int, device: torch.device | str = "cpu") -> Tensor:
    """The factors by which a translation multiplies the frequencies of a real array, as `shift` does.

    Args:
        amounts: translations.
        size: values of the attribute.
        device: the device of the result.

    Returns:
        complex128 (amounts, size // 2 + 1).

    """
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64, device=device)
    angle = -2 * torch.pi / size * torch.as_tensor(amounts, dtype=torch.float64, device=device)[:, None] * frequency
    result = torch.polar(torch.ones_like(angle), angle)
    if size % 2 == 0:
        result[:, -1] = result[:, -1].real.to(result.dtype)
    return result
