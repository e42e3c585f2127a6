"""What an attribute means: the shift along it that best explains a known change of images, and how well it follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn.data.image_changes import Property, changed_inputs
from hcnn.data.preprocessing import Preprocessing
from hcnn.explore import shifts
from hcnn.explore.sources import Position, Source, attribute_dim
from hcnn.explore.statistics import Bootstrap

STEP, REACH = 0.25, 3 / 8


def shift_grid(size: int) -> list[float]:
    """The shifts that are tried: steps of 1/4, up to 3/8 of the period in either direction.

    A shift by τ and one by τ minus the period are the same translation; below half a period they cannot be confused.

    Example:
        >>> shift_grid(4)[:3], len(shift_grid(4))
        ([-1.5, -1.25, -1.0], 13)

    """
    steps = int(REACH * size / STEP)
    return [STEP * k for k in range(-steps, steps + 1)]


@dataclass(frozen=True)
class Fit:
    """The best shift of each image at each amount.

    Attributes:
        shift: (n, amounts), counted in values of the attribute.
        explained: (n, amounts), squared change that the shift explains: ||y - x||² - min over τ of ||y - T_τ x||².
        total: (n, amounts), ||y - x||², the whole change.

    """

    shift: Tensor
    explained: Tensor
    total: Tensor


def best_shifts(before: Tensor, after: Tensor, axis: int) -> Fit:
    """Find for each changed array y the shift τ of the unchanged one x that minimizes ||y - T_τ x||².

    Both are smoothed along the attribute first, so that fractional shifts keep distances. All τ of `shift_grid` are
    tried, from the cross-spectrum.

    Args:
        before: (n, …), arrays of images.
        after: (n, amounts, …), arrays of the same images, changed.
        axis: dimension of the attribute, counted from the end.

    Returns:
        The fit; among equally good shifts, the smallest.

    Example:
        >>> x = torch.randn(5, 4, 8)
        >>> best_shifts(x, torch.stack([x.roll(1, -1), x.roll(-2, -1)], 1), -1).shift[0]
        tensor([ 1., -2.], dtype=torch.float64)

    """
    size = before.shape[axis]
    x = shifts.smooth(before, axis).movedim(axis, -1).flatten(1, -2).double()  # (n, others, size)
    y = shifts.smooth(after, axis).movedim(axis, -1).flatten(2, -2).double()  # (n, amounts, others, size)
    grid = sorted(shift_grid(size), key=abs)
    once = torch.full((size // 2 + 1,), 2.0, dtype=torch.float64)
    once[0] = 1  # smoothed arrays have nothing of the highest frequency of an even axis, which would count once too
    phases = shifts.phases(grid, size) * (once / size)  # (τ, frequencies)
    spectrum_x, spectrum_y = torch.fft.rfft(x), torch.fft.rfft(y)
    cross = (spectrum_y.conj() * spectrum_x[:, None]).sum(2)  # (n, amounts, frequencies)
    product = (cross @ phases.T).real  # <y, T_τ x>, (n, amounts, τ)
    best = product.argmax(2)  # smoothed arrays keep their norm, so this minimizes the distance
    gain = 2 * (product.gather(2, best[..., None])[..., 0] - product[..., 0])  # the grid starts with τ = 0
    total = (y - x[:, None]).square().sum((2, 3))
    return Fit(torch.tensor(grid, dtype=torch.float64)[best], gain, total)


def correlations(fit: Fit, amounts: Sequence[float], boot: Bootstrap) -> tuple[Tensor, Tensor]:
    """Correlation of shift with amount over images and amounts, and the share of the change that the shifts explain.

    Resampling draws images with all their amounts.

    Returns:
        Two arrays (1 + resamples,): the value for the images themselves, then for each resample. It is 0 where
        nothing varies.

    """
    a = torch.tensor(amounts, dtype=torch.float64).expand_as(fit.shift)
    moments = [torch.ones_like(a), a, fit.shift, a * a, fit.shift**2, a * fit.shift, fit.explained, fit.total]
    sums = torch.stack([one.sum(1) for one in moments])  # (8, n)
    every = torch.cat([torch.full((1, sums.shape[1]), 1 / sums.shape[1], dtype=torch.float64), boot.weights])
    n, sa, st, saa, stt, sat, explained, total = sums @ every.T
    covariance = sat / n - sa * st / n**2
    spread = ((saa / n - (sa / n) ** 2) * (stt / n - (st / n) ** 2)).clamp_min(0).sqrt()
    share = torch.where(total > 0, explained / total.clamp_min(1e-300), 0)
    return torch.where(spread > 1e-12, covariance / spread.clamp_min(1e-12), 0), share


@dataclass(frozen=True)
class Meaning:
    """The result for one network (or order), depth, attribute and property.

    Attributes:
        correlation: (1 + resamples,), between shift and amount.
        explained: (1 + resamples,), share of the change of the array that the shifts explain, 0 … 1.
        at_bound: share of the shifts at the end of `shift_grid`, where a larger one could not have been found.

    """

    correlation: Tensor
    explained: Tensor
    at_bound: float


Orders = Callable[[int], Sequence[Sequence[int] | None]]


def meanings(
    source: Source,
    images: Tensor,
    preprocessing: Preprocessing,
    properties: Sequence[Property],
    boot: Bootstrap,
    *,
    position: Position = "centre",
    orders: Orders = lambda size: [None],
    on_property: Callable[[str], None] | None = None,
) -> dict[tuple[int, str, str], list[Meaning]]:
    """Measure every property along every attribute at every depth of one network.

    Attributes of fewer than 4 values are left out: a circle of 3 has no order, and one of 2 no fractional shifts.
    So are the classes. v_{j-1} and v_j are measured in x̄_j, and v_{j-2} in the array before eq. (9) averages over it.

    Args:
        source: the network.
        images: uint8 (n, c, h, w).
        preprocessing: the network's.
        properties: the properties to change.
        boot: the resamples of the n images.
        position: as for `hcnn.explore.invariant_arrays`.
        orders: gives, for the number of values of an attribute, the orders to use; None stands for the original order.
        on_property: called with the name of each property before it is measured.

    Returns:
        For each (depth, attribute, property) one `Meaning` per order.

    """
    before = _read(source, preprocessing.standardize(images), position)
    result: dict[tuple[int, str, str], list[Meaning]] = {}
    for one in properties:
        if on_property:
            on_property(one.name)
        after = [
            _read(source, changed_inputs(images, one.name, amount, preprocessing), position) for amount in one.amounts
        ]
        for j, start in before.items():
            end = torch.stack([arrays[j] for arrays in after], 1)  # (n, amounts, v_{j-2}, v_{j-1}, v_j)
            for axis, size in source.attributes()[j].items():
                if size < 4:
                    continue
                dim = attribute_dim(axis, j, newest_at=-1)
                x, y = (start, end) if dim == -3 else (start.mean(1), end.mean(2))
                found = []
                for order in orders(size):
                    index = torch.tensor(range(size) if order is None else list(order))
                    fit = best_shifts(x.index_select(dim, index), y.index_select(dim, index), dim)
                    bound = float((fit.shift.abs() >= max(shift_grid(size))).double().mean())
                    found.append(Meaning(*correlations(fit, one.amounts, boot), bound))
                result[j, axis, one.name] = found
    return result


def _read(source: Source, x: Tensor, position: Position, batch: int = 250) -> dict[int, Tensor]:
    device = next(source.model.parameters()).device
    parts = [source.read(part.to(device), position)[1] for part in x.split(batch)]
    return {j: torch.cat([part[j].cpu() for part in parts]) for j in parts[0]}
