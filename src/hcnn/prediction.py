"""Classifying a stream of images in constant memory: files, folders, lists of paths, an image on standard input."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hcnn.data.array_files import read_npy
from hcnn.data.channels import Channels, channels_first
from hcnn.data.image_files import read_image
from hcnn.data.image_sources import ImageSource
from hcnn.runs.load import Run
from hcnn.training.evaluate import predict_logits


@dataclass(frozen=True)
class Prediction:
    """The classes that a network predicts for one image.

    Attributes:
        name: the path of the image, or "-" for standard input.
        best: (class, probability) pairs, the most likely class first.
    """

    name: str
    best: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.best[0][0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.best[0][1]


def predict_stream(
    run: Run,
    sources: Iterator[ImageSource],
    *,
    top: int = 3,
    batch_size: int = 64,
    channels: Channels = "auto",
    on_bad: Callable[[str], None] | None = None,
) -> Iterator[Prediction]:
    """Classify images batch by batch; never more than one batch of them is in memory.

    Args:
        run: a network with its preprocessing.
        sources: the images, as `hcnn.data.image_sources.find_images` finds them.
        top: number of classes to return for each image.
        batch_size: number of images at a time.
        channels: whether the channels of arrays come "first" or "last"; "auto" decides by their shape.
        on_bad: called with the reason for each image that cannot be used, which is then left out. Default: raise.

    Yields:
        One prediction per image, in order. Those of the images before a bad one come before its error.

    Raises:
        ValueError: if an image cannot be used; the message names it.

    """
    model = run.model.inference()
    names: list[str] = []
    inputs: list[Tensor] = []
    for source in sources:
        try:
            inputs.append(read_input(source, run, channels))
        except (ValueError, OSError) as error:
            if on_bad is None:
                yield from classify(model, names, inputs, run, top)
                raise
            on_bad(f"{source.name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error))
            continue
        names.append(source.name)
        if len(inputs) == batch_size:
            yield from classify(model, names, inputs, run, top)
            names, inputs = [], []
    yield from classify(model, names, inputs, run, top)


def classify(
    model: torch.nn.Module, names: list[str], inputs: list[Tensor], run: Run, top: int
) -> Iterator[Prediction]:
    """The predictions for standardized inputs (1, c, *u), in one batch."""
    if not inputs:
        return
    probabilities = predict_logits(model, torch.cat(inputs)).softmax(1)
    best = probabilities.topk(min(top, probabilities.shape[1]))
    for name, values, indices in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
        classes = (run.preprocessing.classes[i] for i in indices)
        yield Prediction(name, tuple(zip(classes, values, strict=True)))


def read_input(source: ImageSource, run: Run, channels: Channels = "auto") -> Tensor:
    """Read and standardize one input of a network.

    Args:
        source: an image file, its bytes, a Pillow image, or a .npy array of bytes or of numbers from 0 to 1.
        run: the network and its preprocessing.
        channels: where the channels of arrays are; see `hcnn.data.channels.channels_first`.

    Returns:
        A standardized input (1, c, *u).

    Raises:
        ValueError: if it cannot be used, naming it.
        OSError: if it cannot be read.

    """
    shape = (run.model.config.channels, *run.preprocessing.size)
    path = source.name
    if source.problem:
        raise ValueError(f"{path}: {source.problem}")
    if not path.lower().endswith(".npy") or source.data is not None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"{path}: expected a .npy array of shape {shape} (channels, then space), as the inputs of the "
                "network are not grey or RGB images"
            )
        image = _read_source(source, (shape[1], shape[2]), shape[0])
        return run.preprocessing.standardize(image[None])
    return standardize_array(read_npy(path), run, channels, path)


def standardize_array(array: np.ndarray, run: Run, channels: Channels, path: str) -> Tensor:
    """Standardize one input of a network that came as an array.

    Args:
        array: bytes, or numbers from 0 to 1, of the size that the network was trained with.
        run: the network and its preprocessing.
        channels: where the channels are.
        path: what to call the array in error messages.

    Returns:
        A standardized input (1, c, *u).

    Raises:
        ValueError: if it cannot be used, naming it.

    """
    shape = (run.model.config.channels, *run.preprocessing.size)
    wrong = f"{path}: expected pixels of shape {shape} (channels, then space) or {(*shape[1:], shape[0])}"
    if not len(shape) - 1 <= array.ndim <= len(shape):
        raise ValueError(f"{wrong}; got {array.shape}")
    pixels = channels_first(array[None], channels, count=shape[0], sides=shape[1:], name=path)
    if pixels.shape[1:] != shape:
        raise ValueError(f"{wrong}; got {array.shape}")
    if array.dtype == np.uint8:
        return run.preprocessing.standardize(torch.from_numpy(np.array(pixels)))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path}: expected uint8, or floats between 0 and 1; got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {int((~np.isfinite(array)).sum())} of {array.size} pixels are NaN or infinite")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"{path}: expected floats between 0 and 1; got {array.min():g} to {array.max():g}")
    return run.preprocessing.standardize_floats(torch.from_numpy(pixels.astype(np.float32, order="C")))


def _read_source(source: ImageSource, size: tuple[int, int], channels: int) -> Tensor:
    if source.data is None:
        return read_image(source.name, size=size, channels=channels)
    try:
        return read_image(source.data, size=size, channels=channels)
    except ValueError as error:  # which cannot know where the bytes came from
        name = "standard input" if source.name == "-" else source.name
        raise ValueError(f"{name}: {error}") from error
