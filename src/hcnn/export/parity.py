"""The check that every exported file passes before it is written: its logits equal those of the trained network."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.models.network import Network
from hcnn.training.evaluate import predict_logits

TOLERANCE = 1e-5


def needs(extra: str, *modules: str) -> tuple[ModuleType, ...]:
    """Import optional packages.

    Args:
        extra: the extra of hcnn that installs them.
        modules: their names.

    Returns:
        The modules, in order.

    Raises:
        ImportError: if one is missing; the text names it and the extra to install.

    Example:
        >>> needs("export", "no_such_package")
        Traceback (most recent call last):
        ImportError: this needs no_such_package: pip install 'hcnn[export]'

    """
    found = []
    for name in modules:
        try:
            found.append(import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or name.split(".")[0] != error.name.split(".")[0]:
                raise
            raise ImportError(f"this needs {error.name}: pip install 'hcnn[{extra}]'") from error
    return tuple(found)


def check_outputs(
    run: Callable[[Tensor], Tensor],
    model: Network,
    preprocessing: Preprocessing | None,
    images: Tensor,
    what: str,
) -> float:
    """Compare the logits of an exported network with those of the trained network.

    Args:
        run: the exported network, from pixels between 0 and 1 (or standardized images) to logits.
        model: the trained network.
        preprocessing: the standardization that is part of the exported network, or None.
        images: uint8 (n, c, *u) with preprocessing; otherwise standardized.
        what: the name of the export, for the error.

    Returns:
        The largest difference between logits, relative to the largest logit.

    Raises:
        ValueError: if the difference is above 1e-5 or not finite, the shapes differ, or there are no images.

    """
    if not len(images):
        raise ValueError(f"{what}: expected images to compare it with the network on; got none")
    expected = predict_logits(model, preprocessing.standardize(images) if preprocessing else images)
    got = run(images.float() / 255 if preprocessing else images)
    if got.shape != expected.shape:
        raise ValueError(f"{what}: expected logits of shape {tuple(expected.shape)}; got {tuple(got.shape)}")
    difference = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{what}: its logits differ by {difference:.2g} of the largest from the network's on {len(images)} "
            f"images; expected at most {TOLERANCE:g}. Nothing was written"
        )
    return difference
