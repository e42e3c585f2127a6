"""What all layers share: the geometry of their axes, the check of what comes in, and x_j for those who ask for it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hcnn.functional import (
    Boundary,
    Method,
    axis_names,
    check_boundary,
    check_method,
    choose_method,
    marginal,
    native_available,
    native_supports,
    per_axis,
)
from hcnn.functional.dtypes import autocast_dtype

_TOO_LARGE = 2**31  # no setting of a network is so large, and products of two of them are sizes that PyTorch takes


@dataclass(frozen=True)
class Geometry:
    """The axes of a layer: which it averages, which it convolves, and how.

    Attributes:
        label: what errors call the layer.
        attribute_support: odd support along each convolved attribute, oldest first.
        spatial_support: odd support along each of 1, 2 or 3 spatial axes.
        stride: one per axis of (*v, *u).
        boundary: "zeros" or "circular", for every axis.
        averaged: how many attributes, older than the convolved ones, are averaged out first, eq. (6).
        channels: size of an axis c of unordered channels in (b, *v, c, *u), or None for no such axis.

    Example:
        >>> Geometry("W", (7, 11), (3, 3), (2, 2, 1, 1), "zeros", averaged=1).names
        'b, v1, v2, v3, u1, u2'

    """

    label: str
    attribute_support: tuple[int, ...]
    spatial_support: tuple[int, ...]
    stride: tuple[int, ...]
    boundary: Boundary
    averaged: int = 0
    channels: int | None = None

    @classmethod
    def checked(
        cls,
        label: str,
        attribute_support: Sequence[int],
        spatial_support: Sequence[int],
        stride: int | Sequence[int],
        boundary: Boundary,
        averaged: int = 0,
        channels: int | None = None,
    ) -> "Geometry":
        """The geometry of a layer's arguments; an integer as stride is taken for all axes.

        Raises:
            ValueError: naming the layer, for even supports, wrong counts or numbers, or an unknown boundary.

        """
        for what, support in (("attribute", attribute_support), ("spatial", spatial_support)):
            found = tuple(support) if isinstance(support, Iterable) else support
            if not isinstance(found, tuple) or any(not isinstance(k, Integral) or k < 1 or k % 2 == 0 for k in found):
                raise ValueError(f"{label}: expected odd, positive {what} supports; got {found!r}")
            if any(k >= _TOO_LARGE for k in found):
                raise ValueError(f"{label}: expected {what} supports below 2**31; got {found!r}")
        if len(spatial_support) not in (1, 2, 3):
            raise ValueError(f"{label}: expected 1, 2 or 3 spatial axes; got support {tuple(spatial_support)}")
        check_boundary(boundary, label)
        check_number(averaged, 0, f"{label}: averaged")
        if channels is not None:
            check_number(channels, 1, f"{label}: channels")
        steps = per_axis(stride, len(attribute_support) + len(spatial_support), f"{label}: stride")
        supports = tuple(map(int, attribute_support)), tuple(map(int, spatial_support))
        return cls(label, *supports, steps, boundary, averaged, channels)

    @property
    def attributes(self) -> int:
        """Number of attribute axes that are convolved."""
        return len(self.attribute_support)

    @property
    def spatial(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial_support)

    @property
    def attribute_stride(self) -> tuple[int, ...]:
        """Strides along the convolved attributes."""
        return self.stride[: self.attributes]

    @property
    def spatial_stride(self) -> tuple[int, ...]:
        """Strides along space."""
        return self.stride[self.attributes :]

    @property
    def names(self) -> str:
        """The axes of the input."""
        return axis_names(self.averaged + self.attributes, self.spatial, channel=self.channels is not None)

    def chosen_method(self, filters: int, sizes: Sequence[int], device: str, *, native: bool) -> Method:
        """Which form of the convolution `method="auto"` takes for attributes of these sizes."""
        return choose_method(
            sizes, self.attribute_support, self.attribute_stride, filters, prod(self.spatial_support), self.boundary,
            device, channel_axis=self.channels is not None, native=native,
        )  # fmt: skip

    def native(self, x: Tensor) -> bool:
        """Whether the native kernels take the convolution of an array that has entered."""
        if not self.attributes or self.channels is not None or not native_available(x):
            return False
        sizes = x.shape[1 : 1 + self.attributes]
        return native_supports(sizes, self.attribute_support, self.attribute_stride, self.spatial_support)


def check_number(value: int, least: int, what: str) -> None:
    """Raise a ValueError unless a number is whole, large enough, and one that PyTorch can take for a size."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{what}: expected a whole number of at least {least}; got {value!r}")
    check_below(value, what)


def check_below(value: int, what: str) -> None:
    """Raise a ValueError for a whole number beyond all settings; Python writes out none of very many digits."""
    if abs(value) >= _TOO_LARGE:
        shown = value if abs(value) < 10**30 else "a number of more than 30 digits"
        raise ValueError(f"{what}: expected a whole number below 2**31; got {shown}")


def enter(x: Tensor, geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """Check the input of a layer and average its oldest attributes out, eq. (6).

    Args:
        x: (b, *v, *u), or (b, *v, c, *u).
        geometry: of the layer.
        dtype: of its parameters.

    Returns:
        x without the averaged attributes.

    Raises:
        ValueError: if axes, sizes or type do not fit.
    """
    g = geometry
    if not isinstance(x, Tensor):
        raise ValueError(f"{g.label}: expected a tensor ({g.names}); got a {type(x).__name__}")
    shape = tuple(x.shape)
    ndim = 1 + g.averaged + g.attributes + (g.channels is not None) + g.spatial
    if x.ndim != ndim:
        raise ValueError(f"{g.label}: expected {ndim} axes ({g.names}); got {x.ndim}: shape {shape}")
    if g.channels is not None and shape[-1 - g.spatial] != g.channels:
        raise ValueError(f"{g.label}: expected c = {g.channels} of ({g.names}); got shape {shape}")
    if 0 in shape:
        raise ValueError(f"{g.label}: expected at least one entry along each of ({g.names}); got shape {shape}")
    if not x.is_floating_point():
        raise ValueError(
            f"{g.label}: expected floating-point values, as standardized images are; got {x.dtype} of shape {shape}"
        )
    if x.dtype != dtype and autocast_dtype(x) is None:
        raise ValueError(f"{g.label}: expected {dtype}, as its parameters are; got {x.dtype} of shape {shape}")
    sizes = shape[1 + g.averaged : 1 + g.averaged + g.attributes]
    if any(n % s for n, s in zip(sizes, g.attribute_stride, strict=True)):
        raise ValueError(
            f"{g.label}: strides {g.attribute_stride} do not divide the attribute sizes {sizes} of ({g.names}), "
            f"shape {shape}"
        )
    return marginal(x, range(1, 1 + g.averaged))


class AttributeLayer(nn.Module):
    """A layer ``x_j = ρ(W_j x_{j-1})``. Subclasses write `compute`.

    Args:
        geometry: its axes.
        method: how the convolution along attributes is computed, "auto", "dense", "spectral" or "native"; the results
            differ in rounding only.
        average_oldest: return x_j averaged over its oldest attribute, in the pass that normalizes. That is the input
            of a next layer that sums over that attribute, eq. (6).

    Raises:
        ValueError: for an unknown method, or `average_oldest` where no attribute is convolved.

    """

    def __init__(self, geometry: Geometry, *, method: Method = "auto", average_oldest: bool = False) -> None:
        super().__init__()
        check_method(method, geometry.label)
        if average_oldest and not geometry.attributes:  # the only attribute of x_j would be its newest one
            raise ValueError(
                f"{geometry.label}: average_oldest: expected a convolved attribute; got attribute_support=()"
            )
        self.geometry, self.average_oldest = geometry, average_oldest
        self.method: Method = method
        self._array_hooks: OrderedDict[int, Callable[[Tensor], None]] = OrderedDict()

    def compute(self, x: Tensor, average_oldest: bool) -> Tensor:
        """x_j, averaged over its oldest attribute or not."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x_j from x_{j-1}, averaged over its oldest attribute if the layer was made so."""
        if not self._array_hooks:
            return self.compute(x, self.average_oldest)
        array = self.compute(x, False)
        for hook in self._array_hooks.values():
            hook(array)
        return marginal(array, 1) if self.average_oldest else array

    @property
    def hooked(self) -> bool:
        """Whether hooks of any kind are registered that its forward pass runs."""
        forward = self._array_hooks or self._forward_pre_hooks or self._forward_hooks
        return bool(forward or self._backward_pre_hooks or self._backward_hooks)

    def register_array_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call a function with x_j, whole, in each forward pass. An ordinary forward hook sees what the layer returns.

        Args:
            hook: takes x_j, (b, *v, *u); what it returns is ignored.

        Returns:
            A handle, whose `remove` ends it.

        Example:
            >>> from hcnn.layers import AttributeConv
            >>> layer = AttributeConv(4, attribute_support=(3,), average_oldest=True)
            >>> handle = layer.register_array_hook(lambda array: print(tuple(array.shape)))
            >>> tuple(layer(torch.randn(2, 8, 5, 5)).shape)
            (2, 8, 4, 5, 5)
            (2, 4, 5, 5)

        """
        handle = RemovableHandle(self._array_hooks)
        self._array_hooks[handle.id] = hook
        return handle

    def chosen_method(self, sizes: Sequence[int], filters: int, device: str = "cpu", *, native: bool = False) -> Method:
        """The form that the convolution takes for attributes of these sizes.

        Args:
            sizes: of the convolved attributes.
            filters: K.
            device: type of the device.
            native: whether the native kernels can be had, as `Geometry.native` says for an array.

        Returns:
            `method` where it is set, else what "auto" takes.

        Example:
            >>> from hcnn.layers import FactorizedConv
            >>> layer = FactorizedConv(16, 32, attribute_support=(7, 11), stride=(2, 2, 1, 1))
            >>> layer.chosen_method((8, 16), 16), layer.chosen_method((8, 16), 16, native=True)
            ('spectral', 'native')

        """
        g = self.geometry
        if self.method != "auto" and g.attributes and g.channels is None:
            return self.method
        return g.chosen_method(filters, sizes, device, native=native)

    def multiply_adds(self, inputs: int, outputs: int) -> int:
        """Multiply-adds for one spatial position of the output, in the dense form.

        Args:
            inputs: values of all convolved attributes together, and of the channels.
            outputs: values of all attributes of the result.
        """
        return inputs * outputs * prod(self.geometry.spatial_support)

    def extra_repr(self) -> str:
        """Geometry in the package's grammar of axes."""
        g = self.geometry
        support = (*g.attribute_support, *g.spatial_support)
        end = ", average_oldest=True" if self.average_oldest else ""
        return f"({g.names}), support={support}, stride={g.stride}, boundary={g.boundary!r}{end}"
