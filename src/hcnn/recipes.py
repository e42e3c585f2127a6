"""Frozen training recipes. A recipe is data: what a run did can be read from it, and changed by name."""

import difflib
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum under a one-cycle learning rate.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step.
        lr: largest learning rate; it rises linearly from 0 and falls to 0 along a half cosine.
        warmup: fraction of all steps in which it rises.
        momentum: of SGD.
        weight_decay: on convolution weights only, not on normalizations and the logit scale.
        label_smoothing: probability mass spread evenly over all classes.
        translation: largest random translation in pixels, filled with zeros.
        flip: mirror images left to right at random.
        precision: "float32", or "bfloat16" for the convolutions (statistics stay float32).

    """

    epochs: int = 30
    batch_size: int = 100
    lr: float = 0.3
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 2e-4
    label_smoothing: float = 0.05
    translation: int = 0
    flip: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number; got {getattr(self, name)}")
        for name in ("warmup", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1); got {getattr(self, name)}")
        if self.weight_decay < 0 or self.translation < 0:
            raise ValueError(f"weight_decay and translation: expected numbers >= 0; got {self}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision: expected 'float32' or 'bfloat16'; got {self.precision!r}")


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(epochs=40, batch_size=64, lr=0.1, translation=1),
    "fast": Recipe(epochs=30, batch_size=100, lr=0.3, translation=4, flip=True, precision="bfloat16"),
}


def get_recipe(name: str, **overrides: Any) -> Recipe:
    """A named recipe with some of its fields replaced.

    Args:
        name: one of `RECIPES`.
        **overrides: fields of `Recipe`.

    Returns:
        A frozen recipe.

    Raises:
        ValueError: for an unknown name or a value out of range.

    Example:
        >>> get_recipe("digits", epochs=3).epochs
        3

    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    return replace(RECIPES[name], **overrides)
