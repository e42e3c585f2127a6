"""A training recipe as frozen data, and its schedule: what a run did can be read from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hcnn.data.augment import Augmentation
from hcnn.text import is_number
from hcnn.training.attribute_ties import AttributeTie, as_ties
from hcnn.training.device import PRECISIONS, Precision

# The length of a training and what moves with it, unless it is given too: see `changed_recipe`.
SCHEDULE = ("epochs", "milestones", "factors")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step, over all processes and all accumulated parts.
        optimizer: "sgd", "adamw", or "muon" (on weights as matrices, SGD on everything else).
        lr: peak learning rate.
        momentum: momentum of SGD and Muon, and the first β of AdamW, whose second is 0.99.
        nesterov: whether SGD and Muon use Nesterov's form of momentum.
        weight_decay: λ of the gradient ``λ w`` (decoupled in AdamW and Muon), on convolution and linear weights only.
        layer_decay: factor on the learning rate for each stage further from the classes, see `hcnn.parameter_groups`;
            1 for the same rate everywhere.
        schedule: "one_cycle" or "cosine", two names for a linear rise over `warmup` and then half a cosine to 0; or
            "step".
        warmup: fraction of all steps in which the learning rate rises; ignored by "step".
        milestones: epochs at which a "step" schedule changes; those of a recipe move in proportion when it is given
            another number of epochs.
        factors: for each milestone, the factor on `lr` from that epoch on.
        label_smoothing: probability mass spread evenly over all classes.
        augmentation: how training images are changed at random.
        image_sizes: side lengths of smaller images at the beginning of training, to which batches are resized after
            augmentation; () for none. This saves time. The longest side gets this length, the others in proportion;
            lengths that are not below that of the images are passed over.
        image_sizes_until: for each of `image_sizes`, the fraction of all steps until which it is used.
        first_layer: "random", or "whitening": the first layer starts with filters that whiten patches of the training
            images, see `whitening_filters`.
        statistics_momentum: weight of a batch in the running statistics of the normalizations, or None for the
            network's own.
        ema: decay per step of an exponential moving average of the weights, which is then the result; 0 for none.
        precision: "float32", "bfloat16" for the convolutions (weights and statistics stay float32), or "auto": what the
            device is fast at, see `hcnn.training.device.settle_precision`.
        accumulate: number of parts that a batch is split into and computed in turn, to save memory; each part is
            normalized by its own statistics.
        compile: compile the network with `torch.compile`.
        channels_last: keep images in channels-last memory format.
        attributes: properties of the input that are to be translations along attributes.
        attribute_warmup: fraction of all steps in which the weights of `attributes` and of `topography` rise from 0.
        topography: weight of a penalty that makes neighbouring values of every attribute alike; 0 for none.
    """

    epochs: int = 30
    batch_size: int = 100
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 2e-4
    layer_decay: float = 1.0
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    warmup: float = 0.2
    milestones: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    label_smoothing: float = 0.05
    augmentation: Augmentation = field(default_factory=Augmentation)
    image_sizes: tuple[int, ...] = ()
    image_sizes_until: tuple[float, ...] = ()
    first_layer: Literal["random", "whitening"] = "random"
    statistics_momentum: float | None = None
    ema: float = 0.0
    precision: Precision = "float32"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool = False
    attributes: tuple[AttributeTie, ...] = ()
    attribute_warmup: float = 0.0
    topography: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
                raise ValueError(f"{name}: expected a whole number, 1 or more; got {value!r}")
        if not (is_number(self.lr) and self.lr > 0):
            raise ValueError(f"lr: expected a positive number; got {self.lr!r}")
        object.__setattr__(self, "attributes", as_ties(self.attributes))
        if not isinstance(self.augmentation, Augmentation):
            raise ValueError(f"augmentation: expected an Augmentation; got {self.augmentation!r}")
        for name in ("nesterov", "compile", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected True or False; got {getattr(self, name)!r}")
        for name in ("milestones", "factors", "image_sizes", "image_sizes_until"):
            if not isinstance(getattr(self, name), tuple | list):
                raise ValueError(f"{name}: expected a tuple; got {getattr(self, name)!r}")
        for name in ("warmup", "momentum", "label_smoothing", "ema", "attribute_warmup"):
            if not (is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise ValueError(f"{name}: expected a number in [0, 1); got {getattr(self, name)!r}")
        if not (is_number(self.layer_decay) and 0 < self.layer_decay <= 1):
            raise ValueError(f"layer_decay: expected a number above 0, at most 1; got {self.layer_decay!r}")
        for name in ("weight_decay", "topography"):
            if not (is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: expected 0 or more; got {getattr(self, name)!r}")
        if self.compile and (self.attributes or self.topography):
            raise ValueError("compile: attributes and topography look into the layers, which are not compiled")
        if not all(is_number(one) and one >= 0 for one in (*self.milestones, *self.factors)):
            raise ValueError(
                f"milestones and factors: expected numbers of 0 or more; got {self.milestones} and {self.factors}"
            )
        for name, known in (
            ("optimizer", ("sgd", "adamw", "muon")),
            ("schedule", ("one_cycle", "cosine", "step")),
            ("first_layer", ("random", "whitening")),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}; got {getattr(self, name)!r}")
        if len(self.milestones) != len(self.factors) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"milestones and factors: expected rising epochs and one factor for each; got {self.milestones} "
                f"and {self.factors}"
            )
        momentum = self.statistics_momentum
        if momentum is not None and not (is_number(momentum) and 0 < momentum <= 1):
            raise ValueError(f"statistics_momentum: expected a number in (0, 1], or None; got {momentum!r}")
        if not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in self.image_sizes):
            raise ValueError(f"image_sizes: expected whole numbers of pixels, 1 or more; got {self.image_sizes}")
        until = self.image_sizes_until
        if (
            len(until) != len(self.image_sizes)
            or not all(is_number(one) and 0 < one <= 1 for one in until)
            or list(until) != sorted(set(until))
        ):
            raise ValueError(
                f"image_sizes_until: expected rising fractions in (0, 1], one for each of the image sizes "
                f"{self.image_sizes}; got {until}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide the batch size {self.batch_size}")


def changed_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some of its fields replaced.

    Another number of epochs moves the milestones of a "step" schedule in proportion, so that the schedule is the same
    as a function of the fraction of the training that is done, as that of the other schedules is. Milestones that are
    given stay as they are.

    Args:
        recipe: the recipe.
        changes: new values by field.

    Returns:
        The changed recipe.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> recipe = Recipe(epochs=200, schedule="step", milestones=(60, 120, 160), factors=(0.2, 0.04, 0.008))
        >>> changed_recipe(recipe, {"epochs": 50}).milestones
        (15, 30, 40)
        >>> changed_recipe(recipe, {"epochs": 50, "lr": 0.2, "milestones": (40,), "factors": (0.1,)}).milestones
        (40,)
    """
    changed = replace(recipe, **changes)
    if {*SCHEDULE[1:]} & changes.keys() or changed.epochs == recipe.epochs:
        return changed
    starts = (math.ceil(start * changed.epochs / recipe.epochs) for start in recipe.milestones)
    moved = dict(zip(starts, recipe.factors, strict=True))  # of several that now fall on one epoch, the last
    kept = {start: factor for start, factor in moved.items() if start < changed.epochs}
    return replace(changed, milestones=tuple(kept), factors=tuple(kept.values()))


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step.

    Args:
        recipe: the schedule.
        step: steps done before, from 0.
        steps: steps of the whole run.

    Returns:
        The learning rate.

    Example:
        >>> recipe = Recipe(lr=1.0, warmup=0.5)
        >>> [round(learning_rate(recipe, step, 4), 2) for step in range(4)]
        [0.5, 1.0, 0.85, 0.15]
        >>> steps = Recipe(epochs=3, lr=1.0, schedule="step", milestones=(1, 2), factors=(0.1, 0.01))
        >>> [learning_rate(steps, step, 6) for step in range(6)]
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    if recipe.schedule == "step":
        epoch = step * recipe.epochs // steps
        passed = [factor for start, factor in zip(recipe.milestones, recipe.factors, strict=True) if epoch >= start]
        return recipe.lr * (passed[-1] if passed else 1.0)
    rise = max(1, round(recipe.warmup * steps))
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * (1 + math.cos(math.pi * (step - rise + 0.5) / max(1, steps - rise))) / 2


def image_size(recipe: Recipe, step: int, steps: int) -> int | None:
    """The side length to which the images of a step are resized, or None if they are not.

    Args:
        recipe: the recipe.
        step: steps done before, from 0.
        steps: steps of the whole run.

    Example:
        >>> recipe = Recipe(image_sizes=(24, 28), image_sizes_until=(0.25, 0.5))
        >>> [image_size(recipe, step, 8) for step in range(8)]
        [24, 24, 28, 28, None, None, None, None]
    """
    for size, until in zip(recipe.image_sizes, recipe.image_sizes_until, strict=True):
        if step < until * steps:
            return size
    return None
