"""Frozen training recipes. A recipe is data: what a run did can be read from it, and changed by name."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from hcnn.data.augment import Augmentation
from hcnn.text import suggest_name
from hcnn.training.device import PRECISIONS, Precision


def is_number(value: object) -> bool:
    """Whether a setting is a finite number.

    Example:
        >>> is_number(0.5), is_number(float("nan")), is_number("0.5"), is_number(True)
        (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step, over all processes and all accumulated parts.
        optimizer: "sgd", "adamw", or "muon" (on weights as matrices, SGD on everything else).
        lr: peak learning rate.
        momentum: momentum of SGD and Muon, and the first β of AdamW.
        nesterov: whether SGD and Muon use Nesterov's form of momentum.
        weight_decay: λ of the gradient ``λ w`` (decoupled in AdamW and Muon), on convolution and linear weights only.
        schedule: "one_cycle" (linear rise over `warmup`, then half a cosine to 0), "cosine" (the same with the rise
            over `warmup`, kept short), or "step".
        warmup: fraction of all steps in which the learning rate rises; ignored by "step".
        milestones: epochs at which a "step" schedule changes.
        factors: for each milestone, the factor on `lr` from that epoch on.
        label_smoothing: probability mass spread evenly over all classes.
        augmentation: how training images are changed at random.
        ema: decay per step of an exponential moving average of the weights, which is then the result; 0 for none.
        precision: "float32", "bfloat16" for the convolutions (weights and statistics stay float32), or "auto": what the
            device is fast at, see `hcnn.training.device.settle_precision`.
        accumulate: number of parts that a batch is split into and computed in turn, to save memory; each part is
            normalized by its own statistics.
        compile: compile the network with `torch.compile`.
        channels_last: keep images in channels-last memory format.
    """

    epochs: int = 30
    batch_size: int = 100
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 2e-4
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    warmup: float = 0.2
    milestones: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    label_smoothing: float = 0.05
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: float = 0.0
    precision: Precision = "float32"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
                raise ValueError(f"{name}: expected a whole number, 1 or more; got {value!r}")
        if not (is_number(self.lr) and self.lr > 0):
            raise ValueError(f"lr: expected a positive number; got {self.lr!r}")
        for name in ("warmup", "momentum", "label_smoothing", "ema"):
            if not (is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise ValueError(f"{name}: expected a number in [0, 1); got {getattr(self, name)!r}")
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay: expected 0 or more; got {self.weight_decay!r}")
        if not all(is_number(one) and one >= 0 for one in (*self.milestones, *self.factors)):
            raise ValueError(
                f"milestones and factors: expected numbers of 0 or more; got {self.milestones} and {self.factors}"
            )
        for name, known in (
            ("optimizer", ("sgd", "adamw", "muon")),
            ("schedule", ("one_cycle", "cosine", "step")),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}; got {getattr(self, name)!r}")
        if len(self.milestones) != len(self.factors) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"milestones and factors: expected rising epochs and one factor for each; got {self.milestones} "
                f"and {self.factors}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide the batch size {self.batch_size}")


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
        >>> paper = RECIPES["paper"]
        >>> [round(learning_rate(paper, 1000 * epoch, 240_000), 4) for epoch in (0, 39, 40, 80)]
        [0.25, 0.25, 0.025, 0.0025]
    """
    if recipe.schedule == "step":
        epoch = step * recipe.epochs // steps
        passed = [factor for start, factor in zip(recipe.milestones, recipe.factors, strict=True) if epoch >= start]
        return recipe.lr * (passed[-1] if passed else 1.0)
    rise = max(1, round(recipe.warmup * steps))
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * (1 + math.cos(math.pi * (step - rise + 0.5) / max(1, steps - rise))) / 2


RECIPES: dict[str, Recipe] = {
    # Paper, section 4.2.
    "paper": Recipe(
        epochs=240,
        batch_size=50,
        lr=0.25,
        nesterov=False,
        weight_decay=2e-4,
        schedule="step",
        milestones=(40, 80, 120, 160, 200),
        factors=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=6, flip="random"),
    ),
    # The published Keras script. Its drop by a factor of 20 at epoch 280 looks like a slip; it is kept.
    "published": Recipe(
        epochs=320,
        batch_size=50,
        lr=0.35,
        weight_decay=6e-4,
        schedule="step",
        milestones=(40, 80, 120, 160, 200, 240, 260, 280, 300),
        factors=(0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007, 0.00035, 0.00017),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, flip="random"),
    ),
    # Chosen on 2,500 validation images after 4 epochs of 15,000 training images (hcnn_small_cifar10, 2026-11):
    # Muon 62.8 % at lr 0.05 and at 0.1; SGD at lr 0.3 55.5 %.
    "fast": Recipe(
        epochs=30,
        batch_size=100,
        optimizer="muon",
        lr=0.05,
        momentum=0.95,
        weight_decay=5e-4,
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, flip="alternating"),
        precision="auto",
    ),
    # Five-fold cross-validation on the 1,437 training images: 99.03 % after 30 epochs and after 40.
    "digits": Recipe(epochs=30, batch_size=64, lr=0.1, augmentation=Augmentation(translation=1)),
    # He et al. 2016, section 4.2: 64,000 steps of 128 images, divided by 10 at 32,000 and 48,000.
    "resnet": Recipe(
        epochs=164,
        batch_size=128,
        lr=0.1,
        nesterov=False,
        weight_decay=1e-4,
        schedule="step",
        milestones=(82, 123),
        factors=(0.1, 0.01),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, flip="random"),
    ),
    # Zagoruyko and Komodakis 2016, section 3, and 2017, section 4.1.
    "wrn": Recipe(
        epochs=200,
        batch_size=128,
        lr=0.1,
        weight_decay=5e-4,
        schedule="step",
        milestones=(60, 120, 160),
        factors=(0.2, 0.04, 0.008),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, fill="reflect", flip="random"),
    ),
    # Springenberg et al. 2014, section 3.1: the best of four rates, chosen there; no batch size is given. Without the
    # whitening and contrast normalization of the publication.
    "allcnn": Recipe(
        epochs=350,
        batch_size=128,
        lr=0.05,
        nesterov=False,
        weight_decay=1e-3,
        schedule="step",
        milestones=(200, 250, 300),
        factors=(0.1, 0.01, 0.001),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=5, flip="random"),
    ),
    # Lin et al. 2013, section 4: batches of 128, the rate divided by 10 twice "when the accuracy stops improving";
    # when, how high and the decay are ours. Without whitening and contrast normalization.
    "nin": Recipe(
        epochs=230,
        batch_size=128,
        lr=0.05,
        nesterov=False,
        weight_decay=5e-4,
        schedule="step",
        milestones=(150, 200),
        factors=(0.1, 0.01),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, flip="random"),
    ),
    # Romero et al. 2014, section A.1, and their published configuration: 288 epochs of the second stage at a constant
    # rate; here after 40 of hints, with AdamW where they have RMSProp, and without bounds on the norms of filters.
    "fitnet": Recipe(
        epochs=328,
        batch_size=128,
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.0,
        schedule="step",
        label_smoothing=0.0,
        augmentation=Augmentation(translation=8, flip="random"),
    ),
    # Ha et al. 2016, section A.3.2: Adam, 672,000 steps of 128 images; the decay here is AdamW's, of what is learned.
    "hypernetwork": Recipe(
        epochs=1723,
        batch_size=128,
        optimizer="adamw",
        lr=2e-3,
        weight_decay=5e-6,
        schedule="step",
        milestones=(431, 862, 1292),
        factors=(0.5, 0.1, 0.025),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, flip="random"),
    ),
    # Huang et al. 2017, section 4.2.
    "densenet": Recipe(
        epochs=300,
        batch_size=64,
        lr=0.1,
        weight_decay=1e-4,
        schedule="step",
        milestones=(150, 225),
        factors=(0.1, 0.01),
        label_smoothing=0.0,
        augmentation=Augmentation(translation=4, flip="random"),
    ),
}

# `fast` and `digits` for networks that learn badly by them or not at all (`BaselineConfig.recipes`). Chosen on 1,000
# validation images after 3 epochs of 5,000 images in batches of 50 (2026-11).
RECIPES |= {
    # Maxout without normalizations: FitNet 4 38.2 %; Muon's loss rises to thousands.
    "fast_plain": replace(RECIPES["fast"], optimizer="adamw", lr=3e-4, momentum=0.9, weight_decay=0.01),
    "digits_plain": replace(RECIPES["digits"], epochs=40, optimizer="adamw", lr=3e-3, weight_decay=0.01),
    # Gated maps that are not normalized, and generated kernels: the compact network 38.4 %,
    # by Muon 9.9 %; the hypernetwork 36.4 % and 28.8 %.
    "fast_adamw": replace(RECIPES["fast"], optimizer="adamw", lr=4e-3, momentum=0.9, weight_decay=0.05),
    # ReLUs without normalizations, which SGD at 0.1 switches off for good. The optimizer of `fast`.
    "digits_muon": replace(RECIPES["digits"], epochs=40, optimizer="muon", lr=0.05, momentum=0.95, weight_decay=5e-4),
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
        raise ValueError(f"unknown recipe {name!r}; {suggest_name(name, RECIPES)}")
    known = [one.name for one in fields(Recipe)]
    for key in overrides:
        if key not in known:
            raise ValueError(f"recipe: unknown field {key!r}; {suggest_name(key, known)}")
    return replace(RECIPES[name], **overrides)
