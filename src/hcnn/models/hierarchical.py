"""Attribute CNNs: `HierarchicalCNN` (paper, section 4), `MultiscaleHierarchicalCNN` (section 3), the named models.

`create_model` and `list_models` also know the paper's other systems, which lie in `hcnn.models.baselines`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from hcnn.functional import BOUNDARIES, Boundary, Method, axis_names, marginal
from hcnn.layers.base import AttributeLayer
from hcnn.layers.factorized import FactorizedConv
from hcnn.layers.folded import fold_layer
from hcnn.layers.plain import AttributeConv
from hcnn.models import baselines as comparators
from hcnn.models.baselines import Comparator, ComparatorConfig
from hcnn.text import suggest_name


class AttributeArray(NamedTuple):
    """One x_j with its axes named, as ``model(x, return_arrays=True)`` gives it.

    Attributes:
        values: the array, (b, *v, *u).
        axes: one name per axis, for example ("b", "v3", "v4", "v5", "u1", "u2").

    """

    values: Tensor
    axes: tuple[str, ...]


@dataclass(frozen=True)
class HierarchicalCNNConfig:
    """Everything that determines a `HierarchicalCNN`; the defaults are the paper's CIFAR-10 network.

    Attributes:
        channels: input channels, the size of v_0.
        classes: values of the last attribute, v_{J-1}.
        width: K, values of every other attribute.
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

    def __post_init__(self) -> None:
        _check_common(self)
        if len(self.attribute_support) != 2 or any(k < 1 or k % 2 == 0 for k in self.attribute_support):
            raise ValueError(f"attribute_support: expected two odd supports (k1, k2); got {self.attribute_support}")
        if self.rank < 1:
            raise ValueError(f"rank: expected Q >= 1 separable terms; got {self.rank}")
        need = 4 if self.depth > 3 else 2
        if self.width < need or self.width % need:
            raise ValueError(
                f"width: K = {self.width} is too small for depth J = {self.depth}: attributes of K, K/2 and K/4 values "
                f"need a multiple of {need}"
            )
        if self.readout not in ("mean", "linear"):
            raise ValueError(f"readout: expected 'mean' or 'linear'; got {self.readout!r}")
        if any(not 1 <= j < self.depth for j in self.downsample):
            raise ValueError(f"downsample: expected layers between 1 and J-1 = {self.depth - 1}; got {self.downsample}")


@dataclass(frozen=True)
class MultiscaleConfig:
    """Everything that determines a `MultiscaleHierarchicalCNN` (paper, section 3).

    Attributes:
        channels: input channels, the size of v_0.
        classes: values of the last attribute, v_{J-1}.
        width: K, values of every other attribute.
        depth: J; layers 1 … J-1 convolve, layer J sums. The size grows as K to the power J.
        support: filter support along every axis, odd.
        attribute_stride: stride along every attribute in every layer.
        spatial_axes: 1, 2 or 3.
        downsample: the layers j with spatial stride 2.
        boundary: "zeros" or "circular", on every axis of the whole network.

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


def _check_common(config: Any) -> None:
    for name in ("channels", "classes", "width"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected a positive number; got {getattr(config, name)}")
    if config.depth < 3:
        raise ValueError(f"depth: expected J >= 3; got {config.depth}")
    if config.spatial_axes not in (1, 2, 3):
        raise ValueError(f"spatial_axes: expected 1, 2 or 3; got {config.spatial_axes}")
    if config.boundary not in BOUNDARIES:
        raise ValueError(f"boundary: expected 'zeros' or 'circular'; got {config.boundary!r}")


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
            return self.linear(pooled)
        assert self.scale is not None
        return pooled * self.scale


class AttributeNetwork(nn.Module):
    """A chain of attribute layers x_1 … x_{J-1} and a readout.

    Args:
        config: what it was made from.
        layers: the operators W_1 … W_{J-1}, each with its non-linearity.
        readout: the operator W_J.
        attribute_sizes: the sizes of the attribute axes of each x_j, oldest first.
        newest: the index of the newest attribute of each x_j.

    """

    def __init__(
        self,
        config: "HierarchicalCNNConfig | MultiscaleConfig",
        layers: Sequence[nn.Module],
        readout: nn.Module,
        attribute_sizes: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)
        self.readout = readout
        self.attribute_sizes = tuple(attribute_sizes)

    @property
    def folded(self) -> bool:
        """Whether this is an inference network made by `fold`."""
        return not any(isinstance(module, nn.BatchNorm1d) for module in self.modules())

    def axes(self, j: int) -> tuple[str, ...]:
        """Names of the axes of x_j."""
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

        """
        if not 0 <= j <= len(self.layers):
            raise ValueError(f"forward_from: expected j between 0 and {len(self.layers)}; got {j}")
        if j and _averages_oldest(self.layers[j - 1]):
            x = marginal(x, 1)
        arrays: dict[int, AttributeArray] = {}
        for index in range(j, len(self.layers)):
            if return_arrays:
                x = self._array(index, x)
                arrays[index + 1] = AttributeArray(x, self.axes(index + 1))
                x = marginal(x, 1) if _averages_oldest(self.layers[index]) else x
            else:
                x = self.layers[index](x)
        return (self.readout(x), arrays) if return_arrays else self.readout(x)

    def _array(self, index: int, x: Tensor) -> Tensor:
        """x_j, j = index + 1, of what the layer before returns."""
        layer = self.layers[index]
        if not isinstance(layer, AttributeLayer):
            raise ValueError(
                f"return_arrays: layer {index + 1} is a {type(layer).__name__}, which does not give its whole array; "
                "expected one of this package's layers, not wrapped"
            )
        return layer.compute(x, average_oldest=False)

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
            ValueError: if x_j has no such axis, or it is the classes'.

        Example:
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
        readout = Readout(self.attribute_sizes[-1][-1], _linear_classes(self.config), self.config.spatial_axes)
        readout.load_state_dict(self.readout.state_dict())
        parameter = next(self.parameters())
        folded = AttributeNetwork(self.config, layers, readout, self.attribute_sizes)
        return folded.to(parameter.device, parameter.dtype).eval()


def _averages_oldest(layer: nn.Module) -> bool:
    return bool(getattr(layer, "average_oldest", False))


def _linear_classes(config: Any) -> int | None:
    return config.classes if getattr(config, "readout", "mean") == "linear" else None


class HierarchicalCNN(AttributeNetwork):
    """HCNN and HCNN(+): every x_j keeps its last three attributes (paper, section 4).

    Law: covariant as its layers are; the logits are invariant to the translations that `invariant_shift` names,
    exactly if periodic (Proposition 3.1).

    Args:
        config: a `HierarchicalCNNConfig`.
        method: how its layers compute, "auto", "dense", "spectral" or "native"; the results differ in rounding only.

    Shapes:
        x (b, channels, *u) -> logits (b, classes). Attributes of x_j: (K), (K/2, K), then (K/4, K/2, K).

    Example:
        >>> model = HierarchicalCNN(HierarchicalCNNConfig(width=8, depth=5, downsample=()))
        >>> logits, arrays = model(torch.randn(2, 3, 8, 8), return_arrays=True)
        >>> arrays[4].axes, tuple(arrays[4].values.shape)
        (('b', 'v2', 'v3', 'v4', 'u1', 'u2'), (2, 2, 4, 10, 8, 8))

    """

    def __init__(self, config: HierarchicalCNNConfig, *, method: Method = "auto") -> None:
        c, K = config, config.width
        k1, k2 = c.attribute_support
        layers: list[nn.Module] = []
        sizes: list[tuple[int, ...]] = []
        for j in range(1, c.depth):
            filters = c.classes if j == c.depth - 1 and c.readout == "mean" else K
            support = ((), (k2,), (k1, k2))[min(j, 3) - 1]
            step = 2 if j in c.downsample else 1
            common: dict[str, Any] = {
                "attribute_support": support,
                "spatial_support": (c.spatial_support,) * c.spatial_axes,
                "stride": (2,) * len(support) + (step,) * c.spatial_axes,
                "boundary": c.boundary,
                "average_oldest": 3 <= j < c.depth - 1,
                "method": method,
                "label": f"layer {j}",
            }
            if j < 3:
                layers.append(AttributeConv(filters, channels=c.channels if j == 1 else None, **common))
            else:
                layers.append(
                    FactorizedConv(filters, c.rank, inner_elu=c.inner_elu, inner_affine=c.inner_affine, **common)
                )
            sizes.append((K // 4, K // 2, filters)[3 - min(j, 3) :])
        readout = Readout(sizes[-1][-1], _linear_classes(c), c.spatial_axes)
        super().__init__(config, layers, readout, sizes)


class MultiscaleHierarchicalCNN(AttributeNetwork):
    """Every x_j keeps every earlier attribute and W_j convolves along all of them (paper, section 3).

    Law: as for `HierarchicalCNN`; with attribute stride 1 (the default) and periodic boundaries the logits are
    invariant to *every* translation of every x_j, j < J-1, along attributes: Proposition 3.1 to the letter.

    Args:
        config: a `MultiscaleConfig`.
        method: how its layers compute, "auto", "dense", "spectral" or "native"; the results differ in rounding only.

    Shapes:
        x (b, channels, *u) -> logits (b, classes).

    Example:
        >>> model = MultiscaleHierarchicalCNN(MultiscaleConfig(width=2, depth=4, downsample=()))
        >>> model(torch.randn(2, 3, 4, 4), return_arrays=True)[1][3].axes
        ('b', 'v1', 'v2', 'v3', 'u1', 'u2')

    """

    def __init__(self, config: MultiscaleConfig, *, method: Method = "auto") -> None:
        c = config
        layers: list[nn.Module] = []
        sizes: list[tuple[int, ...]] = []
        previous: tuple[int, ...] = ()
        for j in range(1, c.depth):
            filters = c.classes if j == c.depth - 1 else c.width
            step = 2 if j in c.downsample else 1
            layers.append(
                AttributeConv(
                    filters,
                    attribute_support=(c.support,) * (j - 1),
                    spatial_support=(c.support,) * c.spatial_axes,
                    stride=(c.attribute_stride,) * (j - 1) + (step,) * c.spatial_axes,
                    boundary=c.boundary,
                    channels=c.channels if j == 1 else None,
                    method=method,
                    label=f"layer {j}",
                )
            )
            previous = (*(n // c.attribute_stride for n in previous), filters)
            sizes.append(previous)
        super().__init__(config, layers, Readout(c.classes, None, c.spatial_axes), sizes)


_CIFAR10 = HierarchicalCNNConfig()
_CIFAR100 = replace(_CIFAR10, classes=100, attribute_support=(11, 11))
_PUBLISHED: dict[str, Any] = {"downsample": (4, 8), "readout": "linear", "inner_affine": True}
NetworkConfig = HierarchicalCNNConfig | MultiscaleConfig | ComparatorConfig
Network = AttributeNetwork | Comparator
KINDS: dict[str, type[NetworkConfig]] = {
    "HierarchicalCNN": HierarchicalCNNConfig,
    "MultiscaleHierarchicalCNN": MultiscaleConfig,
    **{name: config for name, (config, _) in comparators.KINDS.items()},
}
_NAMED: dict[str, NetworkConfig] = {
    "hcnn_cifar10": _CIFAR10,
    "hcnn_plus_cifar10": replace(_CIFAR10, inner_elu=True),
    "hcnn_cifar100": _CIFAR100,
    "hcnn_plus_cifar100": replace(_CIFAR100, inner_elu=True),
    "hcnn_cifar10_published": replace(_CIFAR10, **_PUBLISHED),
    "hcnn_plus_cifar10_published": replace(_CIFAR10, inner_elu=True, **_PUBLISHED),
    "hcnn_cifar100_published": replace(_CIFAR100, **_PUBLISHED),
    "hcnn_plus_cifar100_published": replace(_CIFAR100, inner_elu=True, **_PUBLISHED),
    "hcnn_cifar10_circular": replace(_CIFAR10, boundary="circular"),
    "hcnn_plus_cifar10_circular": replace(_CIFAR10, inner_elu=True, boundary="circular"),
    "hcnn_cifar100_circular": replace(_CIFAR100, boundary="circular"),
    "hcnn_small_cifar10": replace(_CIFAR10, width=8, attribute_support=(5, 7)),
    "hcnn_digits": HierarchicalCNNConfig(
        channels=1, width=8, rank=16, depth=7, attribute_support=(3, 5), downsample=(4,)
    ),
    "multiscale_tiny": MultiscaleConfig(),
    **comparators.NAMED,
}


def list_models() -> list[str]:
    """Names that `create_model` knows.

    Example:
        >>> "hcnn_cifar10" in list_models()
        True

    """
    return list(_NAMED)


def model_config(name: str, **overrides: Any) -> Any:
    """The configuration of a named model, with some of its fields replaced.

    Args:
        name: one of `list_models`.
        **overrides: fields of its configuration.

    Returns:
        A frozen configuration, one of the classes in `KINDS`, as the name says.

    Raises:
        ValueError: for an unknown name (near ones are suggested) or an unknown field.

    Example:
        >>> model_config("hcnn_cifar10", boundary="circular").boundary
        'circular'

    """
    if name not in _NAMED:
        raise ValueError(f"unknown model {name!r}; {suggest_name(name, _NAMED)}")
    known = [field.name for field in fields(_NAMED[name])]
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise ValueError(f"{name}: unknown settings {unknown}; expected some of {known}")
    return replace(_NAMED[name], **overrides)


def suited_recipe(name: str, base: str) -> str:
    """The recipe that a named network is trained by where nobody names one.

    Args:
        name: one of `list_models`.
        base: "fast" or "digits".

    Returns:
        `base`, or the recipe that stands for it where the network does not learn by it.

    Example:
        >>> suited_recipe("nin_cifar10", "fast"), suited_recipe("maxout_cifar10", "fast")
        ('fast', 'fast_plain')

    """
    return getattr(model_config(name), "recipes", {}).get(base, base)


@overload
def build(config: HierarchicalCNNConfig | MultiscaleConfig, *, method: Method = "auto") -> AttributeNetwork: ...
@overload
def build(config: ComparatorConfig, *, method: Method = "auto") -> Comparator: ...
@overload
def build(config: NetworkConfig, *, method: Method = "auto") -> Network: ...
def build(config: NetworkConfig, *, method: Method = "auto") -> Network:
    """The network of a configuration; `method` is for attribute layers only."""
    if isinstance(config, ComparatorConfig):
        return comparators.build_comparator(config)
    if isinstance(config, HierarchicalCNNConfig):
        return HierarchicalCNN(config, method=method)
    return MultiscaleHierarchicalCNN(config, method=method)


def create_model(name: str, *, pretrained: bool = False, **overrides: Any) -> Any:
    """Build a named model, freshly initialized from torch's global random state, or with its trained weights.

    Args:
        name: one of `list_models`.
        pretrained: load the weights that lie in the package (no network needed; their digest is checked). How its
            images must be standardized, and how it was trained, is in `hcnn.models.pretrained.load_pretrained`.
        **overrides: fields of its configuration, for example ``boundary="circular"``; not with `pretrained`.

    Returns:
        An `AttributeNetwork`, or a `Comparator` if the name is of one; in training mode, with `pretrained` in eval
        mode.

    Raises:
        ValueError: for an unknown name or setting, and where there are no trained weights.

    Example:
        >>> create_model("hcnn_small_cifar10")(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    """
    config = model_config(name, **overrides)
    if pretrained:
        from hcnn.models.pretrained import load_pretrained  # it imports this module

        model = load_pretrained(name).model
        if model.config != config:
            raise ValueError(f"{name}: its trained weights are for {model.config}; overrides {overrides} do not fit")
        return model
    return build(config)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a network, kind by kind.

    Attributes:
        trained: convolution weights (and a linear readout) as they are trained: h and g, or w. Of a comparator,
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


def count_parameters(model: Network) -> ParameterCount:
    """Count the parameters of an unfolded network as design and paper do.

    Args:
        model: a `HierarchicalCNN`, a `MultiscaleHierarchicalCNN` or a comparator.

    Returns:
        The counts.

    Example:
        >>> count_parameters(create_model("hcnn_cifar10"))
        ParameterCount(trained=344640, composed=97650, normalization=340, logit_scale=1)

    """
    if isinstance(model, Comparator):
        return ParameterCount(*comparators.count_comparator(model), 0)
    linear = sum(p.numel() for name, p in model.readout.named_parameters() if name.startswith("linear"))
    trained = composed = norms = 0
    for layer in model.layers:
        own = sum(p.numel() for p in layer.parameters(recurse=False))
        trained += own
        norms += sum(p.numel() for p in layer.parameters()) - own
        composes = isinstance(layer, AttributeConv) or (isinstance(layer, FactorizedConv) and not layer.inner_elu)
        compose: Callable[[], Tensor] | None = getattr(layer, "composed_weight", None)
        composed += compose().numel() if composes and compose else own
    scale = sum(p.numel() for name, p in model.readout.named_parameters() if name == "scale")
    return ParameterCount(trained + linear, composed + linear, norms, scale)
