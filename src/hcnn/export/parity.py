"""What every exported file is held against before it gets its final name."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.models.hierarchical import AttributeNetwork
from hcnn.training.evaluate import predict_logits

TOLERANCE = 1e-5


def needs(extra: str, *modules: str) -> tuple[ModuleType, ...]:
    """Import optional packages.

    Args:
        extra: the extra of hcnn that brings them.
        modules: their names.

    Returns:
        The modules, in order.

    Raises:
        ImportError: naming the package that is missing and the extra to install.

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
    model: AttributeNetwork,
    preprocessing: Preprocessing | None,
    images: Tensor,
    what: str,
) -> float:
    """Compare what an exported network says with what the trained one says.

    Args:
        run: the exported network; pixels 0 … 1 (or standardized images) to logits.
        model: the trained network.
        preprocessing: the standardization that the exported network has inside, or None.
        images: uint8 (n, c, *u) with preprocessing, else standardized.
        what: the name of the export in the error.

    Returns:
        The largest difference of a logit, relative to the largest logit.

    Raises:
        ValueError: if it is above 1e-5, or a value is not finite.

    """
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
