"""From what users give `HCNNClassifier` to images, weights, a network and a recipe."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight  # what scikit-learn's own estimators use
from torch import Tensor

from hcnn.data.channels import Channels, channels_first, rows_to_images
from hcnn.data.preprocessing import Preprocessing, as_float32
from hcnn.export.opening import open_network
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.network import Network
from hcnn.models.registry import model_config
from hcnn.runs.initial import Initial, initial_network
from hcnn.text import count_of
from hcnn.training.recipe import Recipe, changed_recipe
from hcnn.training.recipes import get_recipe


def images_of(
    X: np.ndarray,
    image_shape: tuple[int, ...] | str | None,
    channels: Channels,
    count: int | None = None,
    *,
    name: str = "X",
) -> Tensor:
    """Images (n, c, height, width), float32, of whatever X came as.

    Args:
        X: numbers of two, three or four axes.
        image_shape: of an image, for X of two axes.
        channels: where they are, for X of four axes.
        count: number of channels where it is known.
        name: what to call X in error messages.

    Raises:
        ValueError: if X is not one of these, or does not have `count` channels.
    """
    if X.ndim in (3, 4):
        images = channels_first(X, channels, count=count, name=name)
    elif X.ndim == 2 and image_shape is not None:
        images = rows_to_images(X, image_shape)
    else:
        raise ValueError(
            f"{name}: expected images (n, height, width), (n, channels, height, width) or "
            "(n, height, width, channels), or (n, features) with image_shape given; got shape "
            f"{X.shape} and image_shape={image_shape!r}"
        )
    if count is not None and images.shape[1] != count:
        raise ValueError(f"{name}: expected images of {count_of(count, 'channel')}; got shape {X.shape}")
    return as_float32(images, name=name)


def weights_of(
    sample_weight: Any, class_weight: Any, X: np.ndarray, y: np.ndarray, classes: np.ndarray
) -> tuple[Tensor | slice, Tensor | None]:
    """Which images take part, and their weights.

    Images of weight 0 take no part, not even in the statistics. The others' weights have the mean 1.

    Args:
        sample_weight: numbers of 0 or more (n,), or None.
        class_weight: a dict from label to weight, "balanced", or None.
        X: the images, for their number.
        y: their labels (n,), which need not show every class.
        classes: all labels, sorted.

    Returns:
        Indices of the images that take part, and weights, float32 with one for each of these; None where all are equal.

    Raises:
        ValueError: if the weights are not such numbers, or all of them are 0.
    """
    if sample_weight is None and class_weight is None:
        return slice(None), None
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if class_weight is not None:
        of_classes = compute_class_weight(class_weight, classes=classes, y=y)[np.searchsorted(classes, y)]
        if not (np.isfinite(of_classes) & (of_classes >= 0)).all():
            raise ValueError(f"class_weight: expected finite weights of 0 or more; got {class_weight!r}")
        weights = weights * of_classes
    part = np.flatnonzero(weights > 0)
    if not len(part):
        raise ValueError("sample_weight: expected a positive weight of at least one image; all of them are zero")
    weights = weights[part] / weights[part].mean()
    same = bool((weights == weights[0]).all())
    return torch.from_numpy(part), None if same else torch.from_numpy(weights.astype(np.float32))


def initial_of(init: Any, freeze: int, model: str, network: dict[str, Any] | None) -> Initial | None:
    """The trained network to start from.

    Args:
        init: a name, a path, a network, or None.
        freeze: how many of its layers stay as they are.
        model: "auto", as the network follows from `init`.
        network: None, likewise.

    Raises:
        ValueError: if there is no such network, or the settings contradict each other.
    """
    if init is None:
        if freeze:
            raise ValueError(f"freeze: expected 0 without init; got {freeze!r}")
        return None
    if model != "auto" or network:
        raise ValueError(f"init: expected no model and no network beside it; got model={model!r}, network={network!r}")
    given = getattr(init, "model", init)  # a `TrainedNetwork` has one
    if isinstance(given, Network):
        return initial_network("init", given, given.preprocessing or Preprocessing((), (), (), ()))
    run = open_network(init)
    return initial_network(str(init), run.model, run.preprocessing)


def network_config(
    model: str,
    network: dict[str, Any] | None,
    shape: tuple[int, ...],
    classes: int,
    initial: Initial | None = None,
) -> HierarchicalCNNConfig:
    """The configuration of the network.

    Args:
        model: a named network, or "auto".
        network: fields to replace, or None.
        shape: (c, height, width) of the images.
        classes: how many there are.
        initial: the trained network to start from, in place of `model` and `network`.

    Raises:
        ValueError: if there is no such network of two spatial axes, or no such field.
    """
    if initial is not None:
        config: Any = replace(initial.config, channels=shape[0], classes=classes)
        if not isinstance(config, HierarchicalCNNConfig) or config.spatial_axes != 2:
            raise ValueError(f"init: expected a HierarchicalCNN of two spatial axes; got {initial.source}")
        return config
    auto = "hcnn_digits" if max(shape[1:]) <= 16 else "hcnn_small_cifar10"
    name = auto if model == "auto" else model
    if given := sorted({"channels", "classes"} & {*(network or {})}):
        raise ValueError(f"network: channels and classes follow from the data; got {', '.join(given)}")
    config = model_config(name, **(network or {}), channels=shape[0], classes=classes)
    if not isinstance(config, HierarchicalCNNConfig) or config.spatial_axes != 2:
        raise ValueError(f"model: expected a HierarchicalCNN of two spatial axes; got {name!r}")
    return config


def recipe_for(recipe: str | Recipe, changes: dict[str, Any], images: Tensor) -> Recipe:
    """A recipe that fits the images.

    Args:
        recipe: a named one, or one.
        changes: fields to replace; None keeps the recipe's.
        images: (n, c, height, width), which bound the batch size and the translations.
    """
    chosen = recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
    chosen = changed_recipe(chosen, {name: value for name, value in changes.items() if value is not None})
    shift = min(chosen.augmentation.translation, min(images.shape[2:]) - 1)  # a small image allows less
    augmentation = replace(chosen.augmentation, translation=shift)
    batch, parts = min(chosen.batch_size, len(images)), chosen.accumulate
    return replace(chosen, batch_size=max(batch - batch % parts, parts), augmentation=augmentation)
