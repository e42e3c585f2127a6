"""A run and its database, opened for exploring: neighbours, class scores and thumbnails by image number."""

import io
import math
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn.data.image_set import ImageSet
from hcnn.explore import shifts
from hcnn.explore.arrays import Arrays, build_arrays, invariant_arrays
from hcnn.explore.images import images_of
from hcnn.explore.named import Name, named_attributes
from hcnn.explore.neighbours import Neighbours, Space
from hcnn.explore.sources import AttributeSource, Position, attribute_dim
from hcnn.runs.load import Run, load_named
from hcnn.storage.atomic import StrPath
from hcnn.storage.user_paths import user_path
from hcnn.text import kind_of
from hcnn.training.device import find_device

Query = int | Tensor
Moves = Sequence[Mapping[str, float]]
# Prepared depths kept in memory, two for a view: 6 MB each at K = 8 and 50,000 images, 26 MB at K = 16.
_SPACES = 24


@dataclass(frozen=True, eq=False)
class Explorer:
    """A trained network with the invariant arrays of a database.

    Attributes:
        run: the run.
        base: the database: images, labels and class names.
        arrays: its invariant arrays.
        position: the position in space at which they are taken.
        held_out: images of the same kind that the network was not trained on, or None.

    """

    run: Run
    base: ImageSet
    arrays: Arrays
    position: Position = "centre"
    held_out: ImageSet | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _spaces: "OrderedDict[tuple[Any, ...], Space]" = field(default_factory=OrderedDict, repr=False)

    @cached_property
    def source(self) -> AttributeSource:
        """The network as a source of arrays."""
        return AttributeSource(self.run.model)

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths j that can be explored: 3 … J-1."""
        return tuple(self.arrays.depths)

    @property
    def periodic(self) -> bool:
        """Whether whole translations are exact; under zeros they are an approximation."""
        return self.arrays.boundary == "circular"

    def attributes(self, j: int) -> dict[str, int]:
        """The attributes that x̄_j can be translated along, with their numbers of values.

        The classes, v_{J-1}, are not among them: no layer convolves along them, so their order means nothing.

        """
        self.arrays.at(j)
        return {axis: size for axis, size in self.source.attributes()[j].items() if axis != f"v{j - 2}"}

    def named(self, j: int) -> dict[str, Name]:
        """The attributes of x̄_j that training tied to a property, with its name and unit."""
        return named_attributes(self.run.config, j, self.attributes(j))

    def space(self, j: int, smooth: Sequence[str] = (), orders: Mapping[str, Sequence[int]] | None = None) -> Space:
        """One depth of the database, prepared for search; the most recent ones are kept in memory.

        Args:
            j: depth.
            smooth: attributes to smooth along.
            orders: as for `Space`.

        """
        key = (j, tuple(sorted(set(smooth))), tuple((axis, *order) for axis, order in (orders or {}).items()))
        with self._lock:  # a server asks from several threads
            if key not in self._spaces:
                self._spaces[key] = Space(self.arrays, j, key[1], orders=orders)
                if len(self._spaces) > _SPACES:
                    self._spaces.popitem(last=False)
            self._spaces.move_to_end(key)
            return self._spaces[key]

    def neighbours(
        self, query: Query, j: int, moves: Moves, *, k: int = 1, smooth: Sequence[str] | None = None
    ) -> Neighbours:
        """The images nearest to one query after each of several translations.

        Args:
            query: the number of an image of the database, which is excluded from the search; or any image, uint8
                (c, *u).
            j: depth.
            moves: translations, such as ``{"v6": 1, "v7": -0.5}`` or ``{}``; row m of the result is for ``moves[m]``.
            k: neighbours per translation.
            smooth: attributes to smooth along; by default all that occur in `moves`, as in the paper.

        Returns:
            Neighbours, (moves, k).

        Raises:
            ValueError: for an image, depth, attribute or k that does not exist, or no translation.

        """
        _check_moves(moves, j)
        axes = {axis for move in moves for axis in move} if smooth is None else smooth
        space, query = self.space(j, [*axes]), self._query(query)
        moved = space.moved(self._start(query, j), moves)[0]
        exclude = torch.full((len(moves),), query) if isinstance(query, int) else None
        return space.nearest(moved, k, exclude=exclude)

    def arrays_of(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Class scores and invariant arrays (not smoothed) of any images, uint8 (n, c, *u)."""
        expected = tuple(self.base.images.shape[1:])
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"expected uint8 images (n, {expected}) as a tensor; got {kind_of(images)}")
        return invariant_arrays(self.source, images, self.run.preprocessing, position=self.position)

    def scores(self, query: Query, j: int, moves: Moves) -> Tensor:
        """Class probabilities after each of several translations of the whole array x_j (not x̄_j).

        Proposition 3.1: in a periodic network those at multiples of ``model.invariant_shift(j, axis)`` are equal.

        Args:
            query: an image of the database, or any image, uint8 (c, *u).
            j: depth, 3 … J-1.
            moves: translations along v_{j-2}, v_{j-1} and v_j, such as ``{"v6": 1, "v7": -0.5}`` or ``{}``; row m of
                the result is for ``moves[m]``.

        Returns:
            (moves, classes); each row adds up to 1.

        Raises:
            ValueError: for an image, depth or attribute that does not exist, or no translation.

        """
        _check_moves(moves, j)
        self.arrays.at(j)
        dims = [{attribute_dim(axis, j, newest_at=-1): amount for axis, amount in move.items()} for move in moves]
        image = self.image(query)[None]
        device = next(self.run.model.parameters()).device
        translations = [partial(shifts.translate, amounts=amounts) for amounts in dims]
        logits = self.source.scores(self.run.preprocessing.standardize(image.to(device)), j, translations)
        return logits[:, 0].softmax(1).cpu()

    def image(self, query: Query) -> Tensor:
        """The pixels of a query, uint8 (c, *u)."""
        query = self._query(query)
        return self.base.images[query] if isinstance(query, int) else query

    def label(self, index: int) -> int:
        """The class of an image of the database."""
        number = self._query(index)
        if not isinstance(number, int):
            raise ValueError(f"image: expected a number; got pixels of shape {tuple(number.shape)}")
        return int(self.base.labels[number])

    def array(
        self, query: Query, j: int, move: Mapping[str, float] | None = None, smooth: Sequence[str] = ()
    ) -> Tensor:
        """x̄_j of a query, (v_{j-1}, v_j), smoothed and translated as requested, for drawing beneath an image."""
        space = self.space(j, smooth)
        return space.moved(self._start(query, j), [move or {}])[0, 0]

    def thumbnail(self, query: Query, side: int = 64) -> bytes:
        """An image as the bytes of a PNG of `side` pixels or a little more, enlarged by whole pixels.

        Raises:
            ImportError: if pillow is not installed.
            ValueError: if the image is not grey or RGB in two dimensions.

        """
        return png(self.image(query), side)

    def _query(self, query: Query) -> int | Tensor:
        """The number of an image of the database, from an integer of any kind, or the pixels of an image."""
        if isinstance(query, Tensor) and query.ndim:
            return query
        try:
            number = operator.index(query)
        except TypeError:
            raise ValueError(f"image: expected a number, or pixels uint8 (c, *u); got {query!r}") from None
        self._check(number)
        return number

    def _start(self, query: Query, j: int) -> Tensor:
        """What `Space.moved` takes for a query."""
        query = self._query(query)
        return torch.tensor([query]) if isinstance(query, int) else self.arrays_of(query[None])[1][j]

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self.base):
            raise ValueError(f"image: expected a number from 0 to {len(self.base) - 1}; got {index}")


def _check_moves(moves: Moves, j: int) -> None:
    if isinstance(moves, str) or not (isinstance(moves, Sequence) and all(isinstance(move, Mapping) for move in moves)):
        raise ValueError(f"moves: expected a list of translations, such as [{{'v{j}': 1}}]; got {moves!r}")
    if not len(moves):
        raise ValueError("moves: expected one translation or more, such as {}; got none")


def png(image: Tensor, side: int = 64) -> bytes:
    """A uint8 image (1 or 3, height, width) as the bytes of a PNG, enlarged by whole pixels to `side` or more."""
    buffer = io.BytesIO()
    picture(image, side).save(buffer, "PNG")
    return buffer.getvalue()


def picture(image: Tensor, side: int = 64) -> Any:
    """The image that `png` encodes, as a Pillow image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("thumbnails need pillow: pip install pillow") from error
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"thumbnail: expected an image (1 or 3, height, width); got shape {tuple(image.shape)}")
    factor = max(1, math.ceil(side / max(image.shape[1:])))
    pixels = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0)
    return Image.fromarray((pixels[:, :, 0] if image.shape[0] == 1 else pixels).contiguous().numpy())


def explore_images(run: Run, base: ImageSet, *, position: Position = "centre") -> Explorer:
    """An explorer for a few thousand images in memory; nothing is written.

    Args:
        run: a loaded run.
        base: the database.
        position: as for `hcnn.explore.invariant_arrays`.

    Returns:
        The explorer.

    """
    logits, depths = invariant_arrays(run.model, base.images, run.preprocessing, position=position)
    arrays = {j: array.numpy() for j, array in depths.items()}
    return Explorer(run, base, Arrays(None, arrays, logits.numpy(), run.model.config.boundary), position)


def open_explorer(
    run: StrPath,
    *,
    data: str | None = None,
    data_dir: StrPath | None = None,
    folder: StrPath | None = None,
    position: Position = "centre",
    device: str = "cpu",
    on_block: Callable[[int, int], None] | None = None,
) -> Explorer:
    """Open a run for exploring; its arrays are computed in the first call and used again in later calls.

    Args:
        run: a run folder, or a model whose pretrained weights ship with the package.
        data: a data set, as `hcnn.data.datasets.load` takes it, whose training images form the database; by default
            the run's own data.
        data_dir: the folder of data sets.
        folder: the folder for the arrays; ``arrays-POSITION`` in the run folder if None, with the name of `data`
            behind it if that is given.
        position: "centre" or "mean", as for `hcnn.explore.invariant_arrays`.
        device: the device that computes the arrays.
        on_block: called with the number of images done and the total.

    Returns:
        The explorer.

    Raises:
        ValueError: if the run or the data is unsuitable, or the folder holds arrays of another origin.

    """
    loaded = load_named(run)
    if loaded.model.array_count < 3:
        raise ValueError(
            f"{run}: expected a network with attributes, of depth J ≥ 4; got {type(loaded.model).__name__}. "
            "Other networks can serve as a control: hcnn explore --control"
        )
    if folder is None:
        packed = not loaded.folder.exists()  # a pretrained model of the package has no run folder
        name = f"arrays-{position}" if data is None else f"arrays-{position}-{user_path(data).stem}"
        folder = Path("runs") / f"{loaded.folder.name}-{name}" if packed else loaded.folder / name
    base, held_out = images_of(loaded, data=data, data_dir=data_dir)
    model = loaded.model.to(find_device(device))
    arrays = build_arrays(
        folder,
        model,
        base,
        loaded.preprocessing,
        position=position,
        on_block=on_block,
    )
    return Explorer(loaded, base, arrays, position, held_out)
