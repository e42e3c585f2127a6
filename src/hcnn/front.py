"""The simplest way: `hcnn.load` opens any trained network, `hcnn.train` makes one, and both can `predict`."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any, overload

import numpy as np
from torch import Tensor

from hcnn.data.channels import Channels
from hcnn.data.image_sources import ImageSource, find_images
from hcnn.data.preprocessing import Preprocessing
from hcnn.export.opening import open_network
from hcnn.models.network import Network
from hcnn.prediction import Prediction, classify, read_input, standardize_array
from hcnn.runs.initial import Initial, initial_network
from hcnn.runs.load import Run
from hcnn.runs.train import train_run
from hcnn.storage.atomic import StrPath
from hcnn.storage.user_paths import user_path
from hcnn.training.progress import Progress

_BATCH = 64


class TrainedNetwork:
    """A trained network with everything that it needs to classify images.

    Args:
        run: the network with its preprocessing and the record of its training.

    Attributes:
        model: the network, in eval mode; ``model.preprocessing`` says how its input is made.
        run: what it was made from.

    Example:
        >>> import hcnn
        >>> network = hcnn.load("hcnn_digits")
        >>> network
        TrainedNetwork('hcnn_digits', HierarchicalCNN, 10 classes, images 1x8x8)
        >>> network.predict(np.zeros((8, 8), np.uint8)).label in network.classes
        True

    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: Network = run.model

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the network's input."""
        return self.run.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.run.preprocessing.classes

    def __repr__(self) -> str:
        name, sizes = str(self.run.folder), (self.model.config.channels, *self.preprocessing.size)
        kind = self.run.config.get("network", type(self.model).__name__)
        return f"TrainedNetwork({name!r}, {kind}, {len(self.classes)} classes, images {'x'.join(map(str, sizes))})"

    @overload
    def predict(self, images: np.ndarray | Tensor, *, top: int = 3, channels: Channels = "auto") -> Prediction: ...
    @overload
    def predict(self, images: list[Any], *, top: int = 3, channels: Channels = "auto") -> list[Prediction]: ...
    @overload
    def predict(self, images: Any, *, top: int = 3, channels: Channels = "auto") -> Any: ...
    def predict(self, images: Any, *, top: int = 3, channels: Channels = "auto") -> Any:
        """Classify an image, or several.

        Args:
            images: an image: the path of a file, its bytes, a Pillow image, or an array of bytes or of numbers from 0
                to 1, (h, w), (c, h, w) or (h, w, c), of the size that the network was trained with; the others are
                resized. Or several: a list of such images, or the path of a folder.
            top: number of classes to return for each image.
            channels: whether the channels of arrays come "first" or "last"; "auto" decides by their shape.

        Returns:
            A `Prediction` with ``label``, ``probability`` and ``best``; of several images a list of them.

        Raises:
            ValueError: if an image cannot be used; it is named.
            FileNotFoundError: if a path does not exist.

        """
        if not isinstance(top, Integral) or isinstance(top, bool) or top < 1:
            raise ValueError(f"top: expected 1 or more; got {top!r}")
        top = int(top)
        if isinstance(images, str) and not images:
            raise ValueError("images: expected a path; got ''")
        if isinstance(images, str | os.PathLike) and user_path(images).is_dir():
            return list(self._several(find_images([user_path(images)], None), top, channels))
        if isinstance(images, list | tuple):
            return list(self._several(images, top, channels))
        return next(self._several([images], top, channels))

    def _several(self, images: Iterable[Any], top: int, channels: Channels) -> Iterator[Prediction]:
        model = self.model.inference()
        names: list[str] = []
        inputs: list[Tensor] = []
        for index, image in enumerate(images):
            name, x = self._input(image, f"image {index}", channels)
            names.append(name)
            inputs.append(x)
            if len(inputs) == _BATCH:
                yield from classify(model, names, inputs, self.run, top)
                names, inputs = [], []
        yield from classify(model, names, inputs, self.run, top)

    def _input(self, image: Any, name: str, channels: Channels) -> tuple[str, Tensor]:
        """The name of an image, and the standardized input that it becomes."""
        if isinstance(image, Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()  # NumPy has no bfloat16
        if isinstance(image, np.ndarray):
            return name, standardize_array(image, self.run, channels, name)
        if isinstance(image, str | os.PathLike):
            image = ImageSource(os.fspath(user_path(image)))
        elif isinstance(image, bytes | bytearray):
            image = ImageSource(name, bytes(image))
        elif (pillow := sys.modules.get("PIL.Image")) and isinstance(image, pillow.Image):  # else there is none
            image = ImageSource(name, image)
        if not isinstance(image, ImageSource):
            raise ValueError(
                f"{name}: expected a path, bytes, a Pillow image or an array; got a {type(image).__name__}"
            )
        return image.name, read_input(image, self.run, channels)


def load(where: StrPath) -> TrainedNetwork:
    """Open a trained network.

    Args:
        where: a run folder, a Hub folder, a folder or file of folded weights, the file of weights in one of them, or a
            name of `hcnn.list_pretrained`.

    Raises:
        ValueError: if it is none of these, or damaged.

    Example:
        >>> load("hcnn_small_cifar10").classes[3]
        'cat'

    """
    return TrainedNetwork(open_network(where))


def train(
    data: StrPath,
    *,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> TrainedNetwork:
    """Train a network, as ``hcnn train`` does, and return it.

    Args:
        data: "digits", "cifar10", "cifar100", a folder with a subfolder of images for each class, or an .npz file.
        progress: called after every step.
        say: called with each line about what was chosen for the data, and with each line of the log; `print`, for
            example.
        **options: those of ``hcnn train``, with underscores: ``init``, ``freeze``, ``epochs``, ``lr``, ``output``,
            ``model``, ``recipe``, ``width``, ``seed``, ``resume``, … Their defaults are the same; ``init`` may be a
            `TrainedNetwork` or a `hcnn.Network` too, with the weights that it has now.

    Returns:
        The network, loaded from its run folder.

    Raises:
        ValueError: for an unknown option, a value out of range, data that cannot be used, or a run folder that holds
            another run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     network = train("digits", init="hcnn_digits", freeze=4, epochs=1, train_images=200, output=folder)
        >>> network.model.config.classes
        10

    """
    from hcnn.cli.initial import describe_initial
    from hcnn.cli.train_options import from_keywords
    from hcnn.cli.train_plan import load_splits, prepare_process, run_settings

    if not isinstance(data, str | os.PathLike):
        raise ValueError(f"data: expected the name of a data set or a path; got a {type(data).__name__}")
    for name, function in (("progress", progress), ("say", say)):
        if function is not None and not callable(function):
            raise ValueError(f"{name}: expected a function; got {function!r}")
    say = say or (lambda line: None)
    initial, init = None, options.get("init")
    if isinstance(init, TrainedNetwork | Network):
        initial = _initial(init)
        options["init"] = initial.source
    elif isinstance(init, str | os.PathLike):
        options["init"] = os.fspath(init)
    elif init is not None:
        raise ValueError(f"init: expected a path, a name or a network of this package; got a {type(init).__name__}")
    chosen = from_keywords(os.fspath(data), options, initial)
    prepare_process(chosen)
    splits = load_splits(chosen, say)
    if chosen.initial is not None:
        say(describe_initial(chosen.initial, chosen.rest.freeze, splits.train.classes))
    settings = run_settings(chosen, splits, chosen.rest.seed)
    train_run(chosen.output, settings, splits, resume=chosen.rest.resume, on_step=progress, say=say)
    return load(chosen.output)


def _initial(init: TrainedNetwork | Network) -> Initial:
    """A network in memory as the start of a run."""
    if isinstance(init, TrainedNetwork):
        return initial_network(str(init.run.folder), init.model, init.preprocessing)
    name = type(init).__name__
    if init.preprocessing is None:
        raise ValueError(f"init: expected a {name} whose `preprocessing` says how images become its input; got None")
    return initial_network(name, init, init.preprocessing)
