"""Invariant arrays (eq. 9) of a whole data set on disk: computed in one pass, resumable, and tied to their origin.

A folder of arrays holds::

    index.json     digests of weights and images, position, sizes, and how many images are done
    x3.npy …       x̄_j of every image, float32 (n, v_{j-1}, v_j), one file per depth
    logits.npy     class scores, float32 (n, classes)
    near-….npy     nearest distances of unshifted images, computed when first needed (`hcnn.explore.neighbours`)
"""

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import Preprocessing
from hcnn.explore.sources import AttributeSource, Position, Source
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.storage.atomic import StrPath, ensure_writable, name_failure, write_json
from hcnn.storage.records import read_object
from hcnn.storage.run_lock import RunLock

INDEX, LOGITS = "index.json", "logits.npy"
_FORMAT = "hcnn-arrays-1"


@dataclass(frozen=True, eq=False)
class Arrays:
    """The invariant arrays of a data set.

    Attributes:
        folder: the folder that holds them, or None for arrays in memory.
        depths: for each depth j, (n, v_{j-1}, v_j), float32; memory-mapped if they are in a folder.
        logits: (n, classes), float32.
        boundary: the boundary of their network, as in `Source`.

    """

    folder: Path | None
    depths: dict[int, np.ndarray]
    logits: np.ndarray
    boundary: str

    def __len__(self) -> int:
        return len(self.logits)

    def at(self, j: int) -> np.ndarray:
        """x̄_j of all images; a ValueError for a depth that was not computed."""
        if j not in self.depths:
            raise ValueError(f"depth: expected one of {', '.join(map(str, self.depths))}; got {j!r}")
        return self.depths[j]


def invariant_arrays(
    source: Source | AttributeNetwork,
    images: Tensor,
    preprocessing: Preprocessing,
    *,
    position: Position = "centre",
    batch: int = 250,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Class scores and invariant arrays of some images, at every depth, in memory.

    Eq. (9), paper, section 5.3: x̄_j(v_{j-1}, v_j) = Σ over v_{j-2} of x_j(u0, v_{j-2}, v_{j-1}, v_j), here as a mean.

    Args:
        source: a network in eval mode, or any other `Source`.
        images: uint8, (n, c, *u); or floats that are standardized already.
        preprocessing: the network's.
        position: "centre" takes the array at the central position u0; "mean" averages it over u.
        batch: number of images processed at a time.

    Returns:
        Logits (n, classes), and for each depth 3 ≤ j ≤ J-1 an array (n, v_{j-1}, v_j); float32 on the CPU.

    Raises:
        ValueError: for another position, and where an array is not finite.

    Example:
        >>> import hcnn
        >>> plain = Preprocessing((0.5,), (0.25,), (8, 8), tuple("0123456789"))
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> logits, arrays = invariant_arrays(hcnn.create_model("hcnn_digits").eval(), images, plain)
        >>> {j: tuple(array.shape) for j, array in arrays.items()}
        {3: (2, 4, 8), 4: (2, 4, 8), 5: (2, 4, 8), 6: (2, 4, 10)}

    """
    source = as_source(source)
    device = next(source.model.parameters()).device
    parts = []
    for part in images.split(batch):
        part = part.to(device)
        x = preprocessing.standardize(part) if part.dtype == torch.uint8 else part
        logits, arrays = source.read(x, position)
        parts.append((logits.cpu(), {j: array.mean(1).cpu() for j, array in arrays.items()}))
    logits = torch.cat([one for one, _ in parts])
    result = {j: torch.cat([arrays[j] for _, arrays in parts]) for j in parts[0][1]}
    for name, array in [("class scores", logits), *((f"x̄{j}", array) for j, array in result.items())]:
        if not bool(array.isfinite().all()):
            bad = int((~array.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"invariant_arrays: {name} of image {bad} is NaN or infinite: the weights contain NaN or Inf"
            )
    return logits, result


def as_source(source: Source | AttributeNetwork) -> Source:
    """The network as a `Source`, if it is not one already."""
    return AttributeSource(source) if isinstance(source, AttributeNetwork) else source


def build_arrays(
    folder: StrPath,
    source: Source | AttributeNetwork,
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    position: Position = "centre",
    block: int = 2000,
    on_block: Callable[[int, int], None] | None = None,
) -> Arrays:
    """Compute the invariant arrays of a data set into a folder, or resume where an interrupted process stopped.

    One pass computes every depth and needs memory for one block only. Progress is recorded after the arrays are
    written.

    Args:
        folder: created if missing; if it holds all arrays of the same origin, it is opened and nothing is computed.
        source: a network in eval mode, or any other `Source`; it may be on a GPU.
        images: the data set.
        preprocessing: the network's.
        position: as for `invariant_arrays`.
        block: number of images between two records of progress.
        on_block: called with the number of images done and the total.

    Returns:
        The arrays, mapped from disk.

    Raises:
        ValueError: if the folder holds arrays of other weights, other images or another position; it says which. Also
            if it holds files of these names that are not arrays of this package.
        RunFolderBusy: if another process is computing into the folder.
        OSError: if the folder cannot be written.

    """
    source, folder = as_source(source), Path(folder)
    origin = _origin(source, images, position)
    if (folder / INDEX).exists() and _read(folder, origin)["done"] == len(images):
        return open_arrays(folder, source, images, position=position)
    if not (folder / INDEX).exists():
        _refuse_others(folder, origin)
    folder = ensure_writable(folder)
    with RunLock(folder):
        done = _read(folder, origin)["done"] if (folder / INDEX).exists() else 0
        if not done:
            write_json(folder / INDEX, {**origin, "done": 0})  # first: from now on the files are known to be ours
        files = _open(folder, origin, "r+" if done else "w+")
        while done < len(images):
            end = min(done + block, len(images))
            logits, arrays = invariant_arrays(source, images.images[done:end], preprocessing, position=position)
            for name, values in [(LOGITS, logits), *((f"x{j}.npy", array) for j, array in arrays.items())]:
                files[name][done:end] = values.numpy()
                files[name].flush()
            done = end
            write_json(folder / INDEX, {**origin, "done": done})
            if on_block:
                on_block(done, len(images))
    return open_arrays(folder, source, images, position=position)


def open_arrays(
    folder: StrPath, source: Source | AttributeNetwork, images: ImageSet, *, position: Position = "centre"
) -> Arrays:
    """Open a folder that `build_arrays` finished, if it belongs to these weights, images and position.

    Args:
        folder: the folder.
        source: the network.
        images: the data set.
        position: the position they were computed for.

    Returns:
        The arrays, mapped from disk.

    Raises:
        ValueError: if the folder holds no arrays, not all of them, or those of another origin; it says which.

    """
    folder, source = Path(folder), as_source(source)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: expected a folder of arrays, with {INDEX} in it; there is none")
    origin = _origin(source, images, position)
    record = _read(folder, origin)
    if record["done"] != len(images):
        raise ValueError(
            f"{folder}: expected the arrays of {len(images):,} images; {record['done']:,} are done: "
            "run the computation again to resume it"
        )
    files = _open(folder, origin, "r")
    logits = files.pop(LOGITS)
    return Arrays(folder, {int(name[1:-4]): array for name, array in files.items()}, logits, source.boundary)


def _origin(source: Source, images: ImageSet, position: Position) -> dict[str, Any]:
    if position not in ("centre", "mean"):
        raise ValueError(f"position: expected 'centre' or 'mean'; got {position!r}")
    return {
        "format": _FORMAT,
        "weights_sha256": source.digest(),
        "data_sha256": images.digest(),
        "position": position,
        "images": len(images),
        "classes": len(images.classes),
        "sizes": {str(j): list(sizes[1:]) for j, sizes in source.sizes().items()},
    }


def _read(folder: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """The record of a folder, which must be of the same origin."""
    path, again = folder / INDEX, f"Delete {folder} to start again"
    try:
        record = read_object(path)
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: expected a record of arrays; {reason}. {again}") from error
    if lacking := [key for key in (*origin, "done") if key not in record]:
        raise ValueError(f"{path}: expected a record of arrays; it lacks {', '.join(lacking)}. {again}")
    done, different = record["done"], [key for key in origin if record[key] != origin[key]]
    if not isinstance(done, int):
        raise ValueError(f"{path}: done: expected a number of images; got {_short(done)}. {again}")
    if different:
        texts = [f"{key} {_short(record[key])}, expected {_short(origin[key])}" for key in different]
        raise ValueError(
            f"{folder} holds arrays of another origin: {'; '.join(texts)}; choose another folder for the arrays, or "
            "delete this one if nobody needs it"
        )
    return {**record, "done": done}


def _refuse_others(folder: Path, origin: dict[str, Any]) -> None:
    """Refuse to write over files of a folder without a record, which someone else has put there."""
    if there := [name for name in _shapes(origin) if (folder / name).exists()]:
        raise ValueError(
            f"{folder}: expected a folder of arrays or a new one; it holds {', '.join(there)} without {INDEX}, which "
            "would be replaced; choose another folder"
        )


def _shapes(origin: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The files of a folder of arrays, and the shapes of what they hold."""
    n = origin["images"]
    return {f"x{j}.npy": (n, *sizes) for j, sizes in origin["sizes"].items()} | {LOGITS: (n, origin["classes"])}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def _open(folder: Path, origin: dict[str, Any], mode: Any) -> dict[str, Any]:
    shapes, files = _shapes(origin), {}
    for name, shape in shapes.items():
        path = folder / name
        if mode == "w+":
            try:
                files[name] = _create(path, shape)
            except OSError:
                for made in (*shapes, INDEX):
                    (folder / made).unlink(missing_ok=True)
                raise
            continue
        try:
            files[name] = np.lib.format.open_memmap(path, mode)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path}: expected an array of shape {shape}; {error}. Delete {folder} to start again"
            ) from error
        if files[name].shape != shape or files[name].dtype != np.float32:
            found = f"{files[name].dtype} of shape {files[name].shape}"
            raise ValueError(f"{path}: expected float32 of shape {shape}; got {found}. Delete {folder} to start again")
    return files


def _create(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A mapped array of zeros, with all its room on the disk taken at once.

    The file would be sparse, and a disk that is full when its pages are written ends the process by a signal.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if sys.platform == "linux":
        size = path.stat().st_size
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot do it
                raise name_failure(error, f"while making room for {size:,} bytes", path) from error
    return array
