"""The named models: their configurations, their image sizes, and the recipes recommended for them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hcnn.models.baselines import BASELINES, BaselineConfig
from hcnn.models.configs import HierarchicalCNNConfig, MultiscaleHierarchicalCNNConfig
from hcnn.text import suggest_name

NetworkConfig = HierarchicalCNNConfig | MultiscaleHierarchicalCNNConfig | BaselineConfig


@dataclass(frozen=True)
class ModelSpec:
    """A named model.

    Attributes:
        config: its configuration.
        image_size: sides of the images that it is meant for.
        base_recipe: the recipe for models of its kind and images: "cifar", "fast" or "digits".
    """

    config: NetworkConfig
    image_size: tuple[int, ...] = (32, 32)
    base_recipe: str = "fast"

    @property
    def recipe(self) -> str:
        """The recipe recommended for it."""
        return recommended_recipe(self.config, self.base_recipe)


def recommended_recipe(config: NetworkConfig, base: str) -> str:
    """The recipe recommended for a network.

    Args:
        config: of the network.
        base: "cifar", "fast" or "digits".

    Returns:
        `base`, or another recipe where the network does not learn by it.

    Example:
        >>> recommended_recipe(model_config("maxout_cifar10"), "fast")
        'fast_plain'

    """
    recipes: Mapping[str, str] = getattr(config, "recipes", {})
    return recipes.get(base, base)


def common_standardization(config: NetworkConfig) -> bool:
    """Whether a network wants one mean and one deviation for all channels: a turn of the hue must stay one.

    Example:
        >>> common_standardization(model_config("hcnn_small_cifar10", first_attribute="hue"))
        True

    """
    return getattr(config, "first_attribute", "learned") == "hue"


_CIFAR10 = HierarchicalCNNConfig()
_CIFAR100 = replace(_CIFAR10, classes=100, attribute_support=(11, 11))
# The published script also takes the inner statistics of layers 4 and 8 after their stride, of a quarter of the
# positions; here, as in the paper, they are of all.
_PUBLISHED: dict[str, Any] = {"downsample": (4, 8), "readout": "linear", "inner_affine": True}
_DIGITS = HierarchicalCNNConfig(channels=1, width=8, rank=16, depth=7, attribute_support=(3, 5), downsample=(4,))
_SMALL = replace(_CIFAR10, width=8, attribute_support=(5, 7))
_CIFAR_MODELS: dict[str, NetworkConfig] = {
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
    "hcnn_small_cifar10": _SMALL,
    "hcnn_small_cifar10_circular": replace(_SMALL, boundary="circular"),
}
_SPECS: dict[str, ModelSpec] = {
    **{name: ModelSpec(config, base_recipe="cifar") for name, config in _CIFAR_MODELS.items()},
    "hcnn_digits": ModelSpec(_DIGITS, (8, 8), "digits"),
    "multiscale_tiny": ModelSpec(MultiscaleHierarchicalCNNConfig()),
    **{
        f"{system}_{data}": ModelSpec(config, (8, 8), "digits") if data == "digits" else ModelSpec(config)
        for (system, data), config in BASELINES.items()
    },
}


def list_models() -> list[str]:
    """Names that `create_model` knows.

    Example:
        >>> "hcnn_cifar10" in list_models()
        True

    """
    return list(_SPECS)


def model_spec(name: str) -> ModelSpec:
    """Configuration, image size and recommended recipe of a named model.

    Args:
        name: one of `list_models`.

    Raises:
        ValueError: for an unknown name; near ones are suggested.

    Example:
        >>> spec = model_spec("nin_digits")
        >>> spec.image_size, spec.recipe
        ((8, 8), 'digits_muon')

    """
    if not isinstance(name, str) or name not in _SPECS:
        raise ValueError(f"unknown model {name!r}; {suggest_name(str(name), _SPECS)}")
    return _SPECS[name]


def model_config(name: str, **overrides: Any) -> Any:
    """The configuration of a named model, with some of its fields replaced.

    Args:
        name: one of `list_models`.
        **overrides: fields of its configuration.

    Returns:
        A frozen configuration: a `HierarchicalCNNConfig`, a `MultiscaleHierarchicalCNNConfig` or a baseline's.

    Raises:
        ValueError: for an unknown name (near ones are suggested) or an unknown field.

    Example:
        >>> model_config("hcnn_cifar10", boundary="circular").boundary
        'circular'

    """
    config = model_spec(name).config
    known = [field.name for field in fields(config)]
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise ValueError(f"{name}: unknown settings {unknown}; expected some of {known}")
    return replace(config, **overrides)
