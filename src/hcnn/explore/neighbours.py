"""Exact nearest neighbours of translated invariant arrays, and whether they are near enough to mean something."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from hcnn.explore import shifts
from hcnn.explore.arrays import Arrays
from hcnn.explore.sources import attribute_dim
from hcnn.storage.atomic import write_atomically

_SPARE = 16  # candidates beyond k that are measured exactly
_ROWS = 65536  # images of the database per matrix product


@dataclass(frozen=True)
class Neighbours:
    """The nearest images of each query; row m belongs to query m.

    Attributes:
        indices: int64 (m, k), images of the database, nearest first.
        distances: float32 (m, k), Euclidean.
        near: bool (m, k), whether the distance is usual for an unshifted image and its nearest one: whether `rarity` is
            at least `Space.level`.
        rarity: float32 (m, k), fraction of unshifted images whose own nearest image is at least as far away. At 0.3
            the distance is not unusual; at 0 no image of the database resembles the query's array.

    """

    indices: Tensor
    distances: Tensor
    near: Tensor
    rarity: Tensor


class Space:
    """One depth of a database, smoothed along some attributes: the space in which distances are computed.

    Args:
        arrays: the arrays of the database.
        j: depth.
        smooth: attributes to smooth along, "v…"; the paper smooths along the one that is translated.
        orders: attributes whose values are taken in another order, before anything else; see `shuffled_orders`.
        level: a neighbour is near if its distance is exceeded by at least this fraction of unshifted images.
        sample: number of unshifted images on which `near` is calibrated.

    Raises:
        ValueError: for an unknown depth or attribute.

    Example:
        >>> base = Arrays(None, {3: np.eye(16, dtype=np.float32).reshape(16, 4, 4)}, np.zeros((16, 2)), "circular")
        >>> space = Space(base, 3)
        >>> space.nearest(space.moved(torch.tensor([5]), [{"v2": 0}, {"v2": 1}, {"v3": 2}])[0], k=1).indices.flatten()
        tensor([5, 9, 7])

    """

    def __init__(
        self,
        arrays: Arrays,
        j: int,
        smooth: Sequence[str] = (),
        *,
        orders: Mapping[str, Sequence[int]] | None = None,
        level: float = 0.05,
        sample: int = 1000,
    ) -> None:
        values = torch.from_numpy(np.array(arrays.at(j)))
        self.j, self.smooth, self.level = j, tuple(sorted(set(smooth))), level
        self.orders = {axis: torch.tensor(order) for axis, order in (orders or {}).items()}
        self.folder = None if orders else arrays.folder  # which holds the distances of the attributes' own orders
        self.sample = min(sample, len(arrays))
        self.shape = tuple(values.shape[1:])
        values = self.prepare(values)
        # About the mean the norms are smallest, and with them what ||a||² + ||b||² - 2ab loses to cancellation.
        self.mean = values.mean(0, dtype=torch.float64).float()
        self.base = (values - self.mean).flatten(1).contiguous()
        self.squares = self.base.square().sum(1)
        self._nearest: Tensor | None = None

    def __len__(self) -> int:
        return len(self.base)

    def dim(self, axis: str) -> int:
        """The dimension of an attribute in (…, v_{j-1}, v_j)."""
        dim = attribute_dim(axis, self.j, newest_at=-1)
        if dim == -3:
            raise ValueError(f"expected an attribute of x̄{self.j}, v{self.j - 1} or v{self.j}; got {axis!r}")
        return dim

    def prepare(self, arrays: Tensor) -> Tensor:
        """Reorder and smooth arrays (…, v_{j-1}, v_j) like the database, before they are translated or compared."""
        for axis, order in self.orders.items():
            arrays = arrays.index_select(self.dim(axis), order)
        for axis in self.smooth:
            arrays = shifts.smooth(arrays, self.dim(axis))
        return arrays

    def arrays(self, index: Tensor | Sequence[int]) -> Tensor:
        """The prepared arrays of images of the database, (m, v_{j-1}, v_j)."""
        return self.base[torch.as_tensor(index)].unflatten(1, self.shape) + self.mean

    def moved(self, query: Tensor, moves: Sequence[Mapping[str, float]]) -> Tensor:
        """Translate arrays by several translations.

        Args:
            query: int64 (m,), images of the database; or floats (m, v_{j-1}, v_j), arrays from
                `hcnn.explore.invariant_arrays` that are not smoothed yet.
            moves: for each move the amount per attribute, such as ``{"v6": 1, "v7": -0.5}``; ``{}`` is no translation.

        Returns:
            (m, moves, v_{j-1}, v_j).

        """
        arrays = self.prepare(query) if query.is_floating_point() else self.arrays(query)
        dims = [{self.dim(axis): amount for axis, amount in move.items()} for move in moves]
        return torch.stack([shifts.translate(arrays, amounts) for amounts in dims], 1)

    def nearest(self, queries: Tensor, k: int = 1, *, exclude: Tensor | None = None) -> Neighbours:
        """The k nearest images of each query, exactly.

        Args:
            queries: (m, v_{j-1}, v_j), smoothed in the same way as the database and translated.
            k: number of neighbours.
            exclude: int64 (m,), an image that each query must not find, usually itself; -1 for none.

        Returns:
            The neighbours, with the calibrated decision whether they are near.

        Raises:
            ValueError: if the database has fewer images, or the queries have another shape.

        """
        if tuple(queries.shape[1:]) != self.shape:
            raise ValueError(f"nearest: expected queries (m, {self.shape}); got shape {tuple(queries.shape)}")
        distances, indices = self._search(queries, k, exclude)
        reference = self.nearest_distances()
        # Unshifted images whose nearest is at least as far, counted from the sorted distances.
        below = torch.searchsorted(reference, distances.contiguous())
        rarity = (len(reference) - below).float() / len(reference)
        return Neighbours(indices, distances, rarity >= self.level, rarity)

    def nearest_distances(self) -> Tensor:
        """Sorted distances of a sample of unshifted images to their nearest others; stored in the folder."""
        if self._nearest is None:
            path = (
                self.folder / f"near-x{self.j}-{'-'.join(self.smooth) or 'raw'}-{self.sample}.npy"
                if self.folder
                else None
            )
            if path and path.exists():
                self._nearest = torch.from_numpy(np.load(path, allow_pickle=False))
            else:
                step = len(self) / self.sample
                chosen = (torch.arange(self.sample, dtype=torch.float64) * step).long()
                self._nearest = self._search(self.arrays(chosen), 1, chosen)[0].flatten().sort().values
                if path and os.access(path.parent, os.W_OK):
                    buffer = io.BytesIO()
                    np.save(buffer, self._nearest.numpy())
                    write_atomically(path, buffer.getvalue())
        return self._nearest

    def _search(self, queries: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
        excluded = torch.full((len(queries),), -1) if exclude is None else exclude
        if not isinstance(k, Integral) or not 1 <= k <= len(self) - (exclude is not None):
            raise ValueError(f"nearest: expected 1 ≤ k ≤ {len(self) - (exclude is not None)} neighbours; got {k!r}")
        flat = (queries.float() - self.mean).flatten(1)
        count = min(k + 1 + _SPARE, len(self))
        parts = [
            self._refine(part, candidates, cut, out, k)
            for part, out in zip(flat.split(256), excluded.split(256), strict=True)
            for candidates, cut in [self._candidates(part, count)]
        ]
        return torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])

    def _candidates(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Indices (m, count) of the images that look nearest in float32, and the last one's squared distance."""
        best = torch.empty(len(queries), 0)
        where = torch.empty(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(self), _ROWS):
            rows = self.base[start : start + _ROWS]
            # Without ||query||², which is the same for all images.
            block = torch.addmm(self.squares[start : start + _ROWS], queries, rows.T, alpha=-2)
            found = block.topk(min(count, len(rows)), largest=False, sorted=False)
            best, where = torch.cat([best, found.values], 1), torch.cat([where, found.indices + start], 1)
        chosen = best.topk(count, largest=False)
        return where.gather(1, chosen.indices), chosen.values[:, -1] + queries.square().sum(1)

    def _refine(
        self, queries: Tensor, candidates: Tensor, cut: Tensor, exclude: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Measure candidates without cancellation; where rounding may have hidden a nearer image, measure all."""
        candidates = candidates.sort(1).values  # so that of equally near images the first one counts, as it does below
        gaps = (self.base[candidates].double() - queries.double()[:, None]).square().sum(2)
        gaps[candidates == exclude[:, None]] = torch.inf
        order = gaps.argsort(dim=1, stable=True)[:, :k]
        squares, indices = gaps.gather(1, order), candidates.gather(1, order)
        if candidates.shape[1] < len(self):
            reach = queries.square().sum(1).sqrt() + self.squares.max().sqrt()
            slack = (queries.shape[1] + 8) * torch.finfo(torch.float32).eps * reach.square()
            for row in torch.nonzero(squares[:, -1] > cut - slack).flatten().tolist():
                every = (self.base.double() - queries[row].double()).square().sum(1)
                if exclude[row] >= 0:
                    every[exclude[row]] = torch.inf
                nearest = every.argsort(dim=0, stable=True)[:k]
                squares[row], indices[row] = every[nearest], nearest
        return squares.sqrt().float(), indices
