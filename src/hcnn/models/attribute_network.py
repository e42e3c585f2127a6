"""A chain of attribute layers and a readout: what the paper's two networks are."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hcnn.functional import axis_names, marginal
from hcnn.layers import AttributeLayer
from hcnn.layers.folded import fold_layer
from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
from hcnn.models.cost import attribute_counts, attribute_rows
from hcnn.models.counts import LayerRow, ParameterCount
from hcnn.models.fine_tuning import FineTuning, linear_classes
from hcnn.models.network import Network


class AttributeArray(NamedTuple):
    """One x_j with its axes named, as ``model(x, return_arrays=True)`` gives it.

    Attributes:
        values: the array, (b, *v, *u).
        axes: one name per axis, for example ("b", "v3", "v4", "v5", "u1", "u2").

    """

    values: Tensor
    axes: tuple[str, ...]


class Readout(nn.Module):
    """The last operator: averages all but the newest attribute, eq. (5) and (7), then maps to logits.

    Args:
        values: size of the newest attribute.
        classes: number of classes, for a linear map with bias; None multiplies by one learned scale instead.
        spatial: number of spatial axes.

    """

    # The mean of thousands of ELU outputs of unit variance hardly leaves 0, so logits need a gain to start from.
    initial_scale = 10.0

    def __init__(self, values: int, classes: int | None, spatial: int) -> None:
        super().__init__()
        self.spatial = spatial
        self.linear = None if classes is None else nn.Linear(values, classes)
        self.scale = nn.Parameter(torch.tensor(self.initial_scale)) if classes is None else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, *v, values, *u) -> (b, classes)."""
        axes = [*range(1, x.ndim - self.spatial - 1), *range(x.ndim - self.spatial, x.ndim)]
        pooled = marginal(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, axes)
        if self.linear is not None:
            return self.linear(pooled.to(self.linear.weight.dtype))
        assert self.scale is not None
        return pooled * self.scale


class AttributeNetwork(FineTuning, Network):
    """A chain of attribute layers x_1 … x_{J-1} and a readout.

    Args:
        config: what it was made from.
        layers: the operators W_1 … W_{J-1}, each with its non-linearity.
        readout: the operator W_J.
        attribute_sizes: the sizes of the attribute axes of each x_j, oldest first.

    """

    def __init__(
        self,
        config: HierarchicalCNNConfig | MultiscaleHierarchicalCNNConfig,
        layers: Sequence[nn.Module],
        readout: nn.Module,
        attribute_sizes: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)
        self.readout = readout
        self.attribute_sizes = tuple(attribute_sizes)
        self.stages = tuple(f"layers.{index}" for index in range(len(layers)))
        self.array_count = len(layers)

    @property
    def folded(self) -> bool:
        """Whether this is an inference network made by `fold`."""
        return not any(isinstance(module, nn.BatchNorm1d) for module in self.modules())

    def axes(self, j: int) -> tuple[str, ...]:
        """Names of the axes of x_j.

        Args:
            j: depth, 1 … J-1.

        Returns:
            One name per axis, for example ("b", "v3", "v4", "v5", "u1", "u2").

        Raises:
            ValueError: if there is no such x_j.

        """
        if not isinstance(j, Integral) or not 1 <= j <= len(self.attribute_sizes):
            raise ValueError(f"axes: expected a depth j from 1 to {len(self.attribute_sizes)}; got {j!r}")
        names = axis_names(len(self.attribute_sizes[j - 1]), self.config.spatial_axes, newest=j)
        return tuple(names.split(", "))

    def forward(self, x: Tensor, *, return_arrays: bool = False) -> Any:
        """Class scores of a batch.

        Args:
            x: (b, channels, *u), standardized.
            return_arrays: also return every x_j.

        Returns:
            Logits (b, classes); with `return_arrays`, logits and a dict from j to `AttributeArray`.

        Raises:
            ValueError: if x does not fit; it names the layer, the axes expected and the shape that came.

        """
        return self.forward_from(x, 0, return_arrays=return_arrays)

    def forward_from(self, x: Tensor, j: int, *, return_arrays: bool = False) -> Any:
        """Class scores from x_j on; x_0 is the input. Proposition 3.1 speaks of this map.

        Args:
            x: x_j.
            j: between 0 and J-1.
            return_arrays: also return x_{j+1} … x_{J-1}.

        Returns:
            As `forward`.

        Raises:
            ValueError: if there is no such j, or x is not of the axes and attribute sizes of x_j.

        """
        if not isinstance(j, Integral) or not 0 <= j <= len(self.layers):
            raise ValueError(f"forward_from: expected j between 0 and {len(self.layers)}; got {j!r}")
        if j:
            self._check_array(x, j)
        if self._answers_nothing(x):
            one = self.forward_from(x.new_zeros(1, *x.shape[1:]), j, return_arrays=return_arrays)
            return (one[0][:0], _without_images(one[1])) if return_arrays else one[:0]
        if j and _averages_oldest(self.layers[j - 1]):
            x = marginal(x, 1)
        if return_arrays:
            arrays, x = self._arrays(x, j, len(self.layers))
            return self.readout(x), arrays
        for index in range(j, len(self.layers)):
            x = self.layers[index](x)
        return self.readout(x)

    def first_arrays(self, x: Tensor, last: int) -> dict[int, AttributeArray]:
        """The arrays of the first layers, without computing the layers behind them.

        Args:
            x: (b, channels, *u), standardized.
            last: depth of the last array, 1 … J-1.

        Returns:
            x_1 … x_last by depth, as ``forward(x, return_arrays=True)`` gives them.

        Raises:
            ValueError: if x does not fit.

        """
        if self._answers_nothing(x):
            return _without_images(self.first_arrays(x.new_zeros(1, *x.shape[1:]), last))
        return self._arrays(x, 0, last)[0]

    def _answers_nothing(self, x: object) -> bool:
        """Whether x is an empty batch, which has (no) answers, as in an exported file; not while training.

        What is not a tensor is refused by the first layer.
        """
        return isinstance(x, Tensor) and x.shape[:1] == (0,) and not self.training

    def _arrays(self, x: Tensor, j: int, last: int) -> tuple[dict[int, AttributeArray], Tensor]:
        """x_{j+1} … x_last, and what layer `last` returns, from what layer j returns."""
        arrays: dict[int, AttributeArray] = {}
        for index in range(j, last):
            array, x = self._array(index, x)
            arrays[index + 1] = AttributeArray(array, self.axes(index + 1))
        return arrays, x

    def _check_array(self, x: Tensor, j: int) -> None:
        """Refuse what cannot be x_j: the layers after it might take it for another array."""
        sizes, names = self.attribute_sizes[j - 1], self.axes(j)
        if not isinstance(x, Tensor):
            raise ValueError(f"forward_from: expected x_{j} as a tensor ({', '.join(names)}); got a {type(x).__name__}")
        if x.ndim != len(names) or tuple(x.shape[1 : 1 + len(sizes)]) != sizes:
            raise ValueError(
                f"forward_from: expected x_{j} ({', '.join(names)}) with attributes of {sizes} values; got shape "
                f"{tuple(x.shape)}"
            )

    def _array(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_j, j = index + 1, and what layer j returns: x_j, or its mean over the oldest attribute."""
        layer = self.layers[index]
        if not isinstance(layer, AttributeLayer):
            raise ValueError(
                f"return_arrays: layer {index + 1} is a {type(layer).__name__}, which does not give its whole array; "
                "expected one of this package's layers, not wrapped"
            )
        if layer.hooked:  # hooks may set its weights, as those of pruning do, or want to see what it returns
            kept: list[Tensor] = []
            with layer.register_array_hook(kept.append):
                x = layer(x)
            return kept[-1], x
        array = layer.compute(x, average_oldest=False)
        return array, marginal(array, 1) if layer.average_oldest else array

    def invariant_shift(self, j: int, axis: str) -> int:
        """The smallest translation of x_j along an axis that leaves the logits unchanged (periodic network).

        Proposition 3.1 with strides: a translation passes a layer of stride s where s divides it, until the layer
        that averages its axis out; so it must be a multiple of the product of the strides on the way.

        Args:
            j: depth, 1 … J-1.
            axis: "v…" or "u…", one of ``axes(j)``; the class attribute of x_{J-1} has no such shift.

        Returns:
            The product of the strides that the axis meets.

        Raises:
            ValueError: if there is no such x_j, it has no such axis, or that is the classes'.

        Example:
            >>> from hcnn import create_model
            >>> model = create_model("hcnn_digits")
            >>> [model.invariant_shift(3, axis) for axis in ("v1", "v2", "v3")]
            [1, 2, 4]

        """
        names = self.axes(j)
        if axis not in names[1:] or axis == f"v{len(self.layers)}":
            raise ValueError(f"invariant_shift: expected one of {names[1:]} of x_{j}, not the classes; got {axis!r}")
        shift = 1
        for layer, index in zip(list(self.layers)[j:], range(j, len(self.layers)), strict=True):
            assert isinstance(layer, AttributeLayer)
            stride, axes = layer.geometry.stride, self.axes(index)
            before = axes[len(axes) - len(stride) :]  # the axes this layer convolves
            if axis not in before:
                break
            shift *= stride[before.index(axis)]
        return shift

    def fold(self) -> "AttributeNetwork":
        """The equivalent inference network: composed filters w, all normalizations folded in.

        HCNN(+) keeps h and g, scaled. Outputs equal those of eval mode to 1e-5 relative in float32.

        Returns:
            A new network; this one is unchanged.

        Raises:
            ValueError: if it is folded already.

        Example:
            >>> from hcnn import create_model
            >>> model = create_model("hcnn_digits").eval()
            >>> x = torch.randn(2, 1, 8, 8)
            >>> bool(torch.allclose(model(x), model.fold()(x), atol=1e-5))
            True

        """
        if self.folded:
            raise ValueError("fold: this network is folded already")
        layers = [
            fold_layer(
                layer,
                sizes[1:] if index and _averages_oldest(self.layers[index - 1]) else sizes,
                where=f"fold: layer {index + 1}",
            )
            for index, (layer, sizes) in enumerate(zip(self.layers, ((), *self.attribute_sizes), strict=False))
        ]
        with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
            readout = Readout(self.attribute_sizes[-1][-1], linear_classes(self.config), self.config.spatial_axes)
        state = {name: value.clone() for name, value in self.readout.state_dict().items()}
        readout.load_state_dict(state, assign=True)
        parameter = next(self.parameters())
        folded = AttributeNetwork(self.config, layers, readout, self.attribute_sizes)
        folded.preprocessing = self.preprocessing
        return folded.to(parameter.device, parameter.dtype).eval()

    def inference(self) -> "AttributeNetwork":
        """The folded network."""
        return self if self.folded else self.eval().fold()

    def count_parameters(self) -> ParameterCount:
        """The counts of `hcnn.count_parameters`."""
        return attribute_counts(self.layers, self.readout)

    def layer_rows(self, image_size: Sequence[int]) -> list[LayerRow]:
        """The rows of `hcnn.models.summary.summarize`."""
        names = [", ".join(self.axes(j)[1:]) for j in range(1, len(self.layers) + 1)]
        return attribute_rows(self.config, self.layers, self.readout, names, self.attribute_sizes, image_size)


def _without_images(arrays: dict[int, AttributeArray]) -> dict[int, AttributeArray]:
    return {j: AttributeArray(array.values[:0], array.axes) for j, array in arrays.items()}


def _averages_oldest(layer: nn.Module) -> bool:
    return bool(getattr(layer, "average_oldest", False))
