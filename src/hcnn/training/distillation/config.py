"""Configuration of distillation, and the named configurations of the publications."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hcnn.text import check_fields, is_number, suggest_name

Match = Literal["exact", "pool", "convolve"]


@dataclass(frozen=True)
class DistillationConfig:
    """How a student learns from its teacher: the weights of a sum of losses.

    ``loss = labels · L + soft_targets · T² KL(p_T || p_S) + attention / 2 · Σ A + hints · Σ H``, L the loss against
    the labels, the sums over pairs of layers.

    Attributes:
        labels: weight of the loss against the labels.
        soft_targets: weight of the teacher's softened probabilities (Hinton, Vinyals, Dean 2015); see `soft_loss`.
        soft_targets_end: the weight of soft targets at the end of training, reached linearly; `soft_targets` if None.
        temperature: T, by which logits are divided before the softmax of soft targets.
        attention: β of attention transfer (Zagoruyko, Komodakis 2017); see `attention_loss`.
        hints: weight of hints (Romero et al. 2014); see `Distillation`.
        pairs: layers that learn from layers, as "student=teacher", each a module's name; if empty, the last layer of
            each resolution that both networks have.
        match: what to do where the maps of a pair differ in resolution: "exact" refuses; "pool" averages the larger
            down to the smaller; "convolve" (hints only) lets the regressor's unpadded support take up the difference.
        hint_epochs: number of epochs at the beginning that learn from the hints alone; later ones learn from
            everything else: the two stages of FitNets. With 0 all losses are added.
    """

    labels: float = 1.0
    soft_targets: float = 0.0
    soft_targets_end: float | None = None
    temperature: float = 4.0
    attention: float = 0.0
    hints: float = 0.0
    pairs: tuple[str, ...] = ()
    match: Match = "exact"
    hint_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "soft_targets", "attention", "hints"):
            if not (is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: expected 0 or more; got {getattr(self, name)}")
        if not isinstance(self.hint_epochs, int) or self.hint_epochs < 0:
            raise ValueError(f"hint_epochs: expected a whole number, 0 or more; got {self.hint_epochs}")
        if self.soft_targets_end is not None and not (is_number(self.soft_targets_end) and self.soft_targets_end >= 0):
            raise ValueError(f"soft_targets_end: expected 0 or more; got {self.soft_targets_end}")
        if not (is_number(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature: expected a positive number; got {self.temperature}")
        if self.match not in ("exact", "pool", "convolve"):
            raise ValueError(f"match: expected 'exact', 'pool' or 'convolve'; got {self.match!r}")
        if self.match == "convolve" and self.attention:
            raise ValueError("match: 'convolve' is for hints; attention maps of unlike resolution need 'pool'")
        if self.hint_epochs and not self.hints:
            raise ValueError(f"hint_epochs: {self.hint_epochs} epochs of hints need a positive weight of hints; got 0")
        for pair in self.pairs:
            if pair.count("=") != 1 or not all(pair.split("=")):
                raise ValueError(f"pairs: expected STUDENT_LAYER=TEACHER_LAYER; got {pair!r}")


DISTILLATIONS: dict[str, DistillationConfig] = {
    "none": DistillationConfig(),
    # Zagoruyko and Komodakis 2017, section 4.1: T = 4, α = 0.9 of soft targets, β = 1000, halved as in eq. 2; their
    # program does not halve it.
    "soft_targets": DistillationConfig(labels=0.1, soft_targets=0.9),
    "attention": DistillationConfig(attention=1000.0),
    "attention_soft": DistillationConfig(labels=0.1, soft_targets=0.9, attention=1000.0),
    # Romero et al. 2014, table 7 and section A.1: τ = 3, λ from 4 to 1 and counted without τ².
    "fitnet": DistillationConfig(
        soft_targets=4 / 9,
        soft_targets_end=1 / 9,
        temperature=3.0,
        hints=1.0,
        pairs=("layers.10=layers.1",),
        match="convolve",
        hint_epochs=40,
    ),
}


def get_distillation(name: str, **overrides: Any) -> DistillationConfig:
    """A named configuration of distillation, with some of its fields replaced.

    Raises:
        ValueError: for an unknown name or field, or a value out of range.

    Example:
        >>> get_distillation("attention", match="pool").attention
        1000.0
    """
    if name not in DISTILLATIONS:
        raise ValueError(f"unknown distillation {name!r}; {suggest_name(name, DISTILLATIONS)}")
    check_fields(overrides, (one.name for one in fields(DistillationConfig)), "distillation")
    return replace(DISTILLATIONS[name], **overrides)
