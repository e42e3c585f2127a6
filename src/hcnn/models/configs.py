"""Everything that determines one of the paper's networks."""

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from hcnn.functional import BOUNDARIES, Boundary
from hcnn.layers.base import check_below

FirstAttribute = Literal["learned", "hue"]
_DEEPEST = 2000  # layers; many more take hours to build before anything is said


@dataclass(frozen=True)
class HierarchicalCNNConfig:
    """Everything that determines a `HierarchicalCNN`; the defaults are the paper's CIFAR-10 network.

    Attributes:
        channels: input channels, the size of v_0.
        classes: values of the last attribute, v_{J-1}.
        width: K, filters per layer: the values of every attribute but the last.
        rank: Q, separable terms per factorized filter (layers j >= 3).
        depth: J; layers 1 … J-1 convolve, layer J averages.
        attribute_support: (k1, k2), filter support along v_{j-2} and v_{j-1}, odd.
        spatial_support: filter support along every spatial axis, odd.
        spatial_axes: 1 (sound, series), 2 (images) or 3 (volumes).
        downsample: the layers j with spatial stride 2.
        boundary: "zeros" or "circular", on every axis of the whole network.
        inner_elu: an ELU between h and g: HCNN(+).
        inner_affine: a learned scale and shift in the inner normalization.
        readout: "mean" has *classes* filters at j = J-1 and one learned scale of eq. (7); "linear" has K filters
            there and a linear map with bias to the classes, as the published code does.
        first_attribute: what v_1 is: "learned", or "hue", see `hcnn.layers.HueConv`.

    """

    channels: int = 3
    classes: int = 10
    width: int = 16
    rank: int = 32
    depth: int = 12
    attribute_support: tuple[int, int] = (7, 11)
    spatial_support: int = 3
    spatial_axes: int = 2
    downsample: tuple[int, ...] = (5, 9)
    boundary: Boundary = "zeros"
    inner_elu: bool = False
    inner_affine: bool = False
    readout: str = "mean"
    first_attribute: FirstAttribute = "learned"

    def __post_init__(self) -> None:
        _check_common(self)
        if any(k < 1 or k % 2 == 0 for k in self.attribute_support):
            raise ValueError(f"attribute_support: expected two odd supports (k1, k2); got {self.attribute_support}")
        if self.rank < 1:
            raise ValueError(f"rank: expected Q >= 1 separable terms; got {self.rank}")
        need = 4 if self.depth > 3 else 2
        if self.width < need or self.width % need:
            raise ValueError(
                f"width: K = {self.width} does not fit depth J = {self.depth}: attributes of K, K/2 and K/4 values "
                f"need a multiple of {need}"
            )
        if self.readout not in ("mean", "linear"):
            raise ValueError(f"readout: expected 'mean' or 'linear'; got {self.readout!r}")
        if any(not 1 <= j < self.depth for j in self.downsample):
            raise ValueError(f"downsample: expected layers between 1 and J-1 = {self.depth - 1}; got {self.downsample}")


@dataclass(frozen=True)
class MultiscaleHierarchicalCNNConfig:
    """Everything that determines a `MultiscaleHierarchicalCNN` (paper, section 3).

    Attributes:
        channels: input channels, the size of v_0.
        classes: values of the last attribute, v_{J-1}.
        width: K, filters per layer: the values of every attribute but the last.
        depth: J; layers 1 … J-1 convolve, layer J averages. The size grows as K to the power J.
        support: filter support along every axis, odd.
        attribute_stride: stride along every attribute in every layer.
        spatial_axes: 1, 2 or 3.
        downsample: the layers j with spatial stride 2.
        boundary: "zeros" or "circular", on every axis of the whole network.
        first_attribute: what v_1 is: "learned", or "hue", see `hcnn.layers.HueConv`.

    """

    channels: int = 3
    classes: int = 10
    width: int = 4
    depth: int = 5
    support: int = 3
    attribute_stride: int = 1
    spatial_axes: int = 2
    downsample: tuple[int, ...] = (3,)
    boundary: Boundary = "zeros"
    first_attribute: FirstAttribute = "learned"

    def __post_init__(self) -> None:
        _check_common(self)
        if self.support < 1 or self.support % 2 == 0:
            raise ValueError(f"support: expected an odd filter support; got {self.support}")
        if self.attribute_stride < 1:
            raise ValueError(f"attribute_stride: expected a positive stride; got {self.attribute_stride}")
        if self.width % self.attribute_stride ** max(self.depth - 2, 0):
            raise ValueError(
                f"width: K = {self.width} is too small for depth J = {self.depth}: stride {self.attribute_stride} "
                f"divides v1 {self.depth - 2} times"
            )
        if any(not 1 <= j < self.depth for j in self.downsample):
            raise ValueError(f"downsample: expected layers between 1 and J-1 = {self.depth - 1}; got {self.downsample}")


def check_types(config: Any) -> None:
    """Refuse numbers, tuples of numbers, and truth values that are something else, and tuples of another length.

    NumPy's numbers count as numbers and lists as tuples, but truth values do not count as numbers. All become Python's
    own numbers and tuples, so that equal configurations are equal and can be written as JSON. Whole numbers from 2**31
    on and depths above 2,000 are refused too: no network of theirs could be built.

    Args:
        config: a configuration, a dataclass.

    Raises:
        ValueError: naming the setting.

    Example:
        >>> HierarchicalCNNConfig(width="8")
        Traceback (most recent call last):
        ValueError: width: expected a whole number; got '8'
    """
    known: dict[Any, tuple[Any, str]] = {
        int: (Integral, "whole number"),
        float: (Real, "number"),
        bool: (bool | np.bool_, "truth value, True or False"),
    }
    hints = get_type_hints(type(config))
    for name, hint in ((field.name, hints[field.name]) for field in fields(config)):
        value, many = getattr(config, name), get_origin(hint) is tuple
        kinds = get_args(hint) if many else (hint,)
        kind, what = known.get(kinds[0], (object, ""))
        if many and not (isinstance(value, tuple | list) and all(_is_a(one, kind) for one in value)):
            raise ValueError(f"{name}: expected a tuple of {what}s; got {value!r}")
        if many and Ellipsis not in kinds and len(value) != len(kinds):
            raise ValueError(f"{name}: expected {len(kinds)} {what}s; got {value!r}")
        if not many and not _is_a(value, kind):
            raise ValueError(f"{name}: expected a {what}; got {value!r}")
        plain: Any = tuple(map(_plain, value)) if many else _plain(value)
        for one in plain if many else (plain,):
            if kind is Integral:
                check_below(one, name)
        if name == "depth" and plain > _DEEPEST:
            raise ValueError(f"{name}: expected at most {_DEEPEST:,} layers; got {plain}")
        object.__setattr__(config, name, plain)  # which is frozen


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_a(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not (kind in (Integral, Real) and isinstance(value, bool))


def _check_common(config: Any) -> None:
    check_types(config)
    for name in ("channels", "classes", "width"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected a positive number; got {getattr(config, name)}")
    if config.depth < 3:
        raise ValueError(f"depth: expected J >= 3; got {config.depth}")
    if config.spatial_axes not in (1, 2, 3):
        raise ValueError(f"spatial_axes: expected 1, 2 or 3; got {config.spatial_axes}")
    if config.first_attribute not in ("learned", "hue"):
        raise ValueError(f"first_attribute: expected 'learned' or 'hue'; got {config.first_attribute!r}")
    if config.first_attribute == "hue" and config.channels != 3:
        raise ValueError(f"first_attribute: 'hue' needs 3 channels, RGB; got {config.channels}")
    if config.boundary not in BOUNDARIES:
        raise ValueError(f"boundary: expected 'zeros' or 'circular'; got {config.boundary!r}")
