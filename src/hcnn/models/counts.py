"""What is counted of a network: its parameters, and the rows of its summary."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a network, kind by kind.

    Attributes:
        trained: convolution weights (and a linear readout) as they are trained: h and g, or w. Of a baseline,
            everything but the normalizations, biases included.
        composed: convolution weights of the composed filters; equals `trained` with an inner ELU. Of a hypernetwork,
            the weights of the network that it generates.
        normalization: scales and shifts of the normalizations, on top.
        logit_scale: the learned scale of the logits, on top.

    """

    trained: int
    composed: int
    normalization: int
    logit_scale: int


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network.

    Attributes:
        name: "1" … "J"; of a baseline, the module's.
        axes: of its output, for example "v1, v2, v3, u1, u2".
        sizes: of those axes.
        support: of the filter, along the convolved attributes, then space; () for the readout.
        stride: as support.
        trained: convolution (or linear) weights while training.
        composed: of the composed filters.
        normalization: normalization parameters, or the logit scale.
        multiply_adds: of one image, in the dense form (with an inner ELU: of both steps).

    """

    name: str
    axes: str
    sizes: tuple[int, ...]
    support: tuple[int, ...]
    stride: tuple[int, ...]
    trained: int
    composed: int
    normalization: int
    multiply_adds: int


class Counted(Protocol):
    """A network that counts its parameters, as `hcnn.Network` does."""

    def count_parameters(self) -> ParameterCount:
        """The counts."""
        ...


def check_image_size(image_size: Any, axes: int) -> tuple[int, ...]:
    """The size of an image, if it has a positive size for each spatial axis.

    Raises:
        ValueError: if it has not.

    Example:
        >>> check_image_size(32, 2)
        Traceback (most recent call last):
        ValueError: image_size: expected 2 spatial sizes of 1 or more; got 32

    """
    sizes = tuple(image_size) if isinstance(image_size, Iterable) else ()
    if len(sizes) != axes or not all(isinstance(one, Integral) and int(one) >= 1 for one in sizes):
        raise ValueError(f"image_size: expected {axes} spatial sizes of 1 or more; got {image_size!r}")
    return sizes


def count_parameters(model: Counted) -> ParameterCount:
    """Count the parameters of a network as design and paper do; of a folded one, biases are weights.

    Args:
        model: a `HierarchicalCNN`, a `MultiscaleHierarchicalCNN` or a baseline.

    Returns:
        The counts.

    Raises:
        ValueError: if it is none of these.

    Example:
        >>> from hcnn import create_model
        >>> count_parameters(create_model("hcnn_cifar10"))
        ParameterCount(trained=344640, composed=97650, normalization=340, logit_scale=1)

    """
    if isinstance(model, type) or not hasattr(model, "count_parameters"):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ValueError(f"count_parameters: expected a network of this package; got {what}")
    return model.count_parameters()
