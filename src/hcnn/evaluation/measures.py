"""What is measured of a classifier on labelled images, from its logits alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # of confidence, as in Guo et al. 2017
TOP = 5
MISTAKES = 10
_COVERAGES = tuple(range(100, 0, -5))  # percent of the images that are answered


@dataclass(frozen=True)
class ClassScore:
    """How one class fares.

    Attributes:
        name: of the class.
        count: images of it.
        correct: those of them that are classified correctly.
        predicted: images that are classified as it.
        interval: 95 % interval of ``correct / count``.
    """

    name: str
    count: int
    correct: int
    predicted: int
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """Share of the class's images that are classified correctly (recall); NaN without images."""
        return self.correct / self.count if self.count else math.nan

    @property
    def precision(self) -> float:
        """Share of the images classified as this class that belong to it; NaN without any."""
        return self.correct / self.predicted if self.predicted else math.nan


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in one interval.

    Attributes:
        count: number of images.
        confidence: mean probability of the class that was answered.
        accuracy: share of correct answers.
    """

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Mistake:
    """An image that was classified wrongly.

    Attributes:
        image: its position in the data set.
        label: its class.
        answer: the class that was answered.
        confidence: the probability of the answer.
    """

    image: int
    label: int
    answer: int
    confidence: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        classes: names of the classes.
        count: number of images.
        accuracy: share of correct answers.
        interval: its 95 % interval (Wilson's).
        top5: share of images whose class is among the five likeliest; None with ten classes or fewer.
        scores: one entry per class.
        confusion: (classes, classes) int64; entry (i, k) counts images of class i that are classified as k.
        bins: fifteen intervals of confidence of equal width, from 0 to 1.
        calibration_error: expected calibration error, ``Σ_b n_b/n |accuracy_b - confidence_b|``.
        log_loss: mean negative log-probability of the right class.
        coverage: pairs (share of images answered, accuracy on them), the least certain left out first.
        mistakes: the ten wrong answers that were given with the highest confidence.
    """

    classes: tuple[str, ...]
    count: int
    accuracy: float
    interval: tuple[float, float]
    top5: float | None
    scores: tuple[ClassScore, ...]
    confusion: Tensor
    bins: tuple[Bin, ...]
    calibration_error: float
    log_loss: float
    coverage: tuple[tuple[float, float], ...]
    mistakes: tuple[Mistake, ...]


def evaluate(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Evaluation:
    """Measure a classifier on labelled images.

    Args:
        logits: (n, classes), finite.
        labels: (n,), integers below the number of classes.
        classes: their names.

    Returns:
        The measures.

    Raises:
        ValueError: if the shapes or types do not fit, there are no images, or logits are not finite.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
        >>> found = evaluate(logits, torch.tensor([0, 1, 1]), ["cat", "dog"])
        >>> found.confusion.tolist(), round(found.accuracy, 3)
        ([[1, 0], [1, 1]], 0.667)
        >>> found.mistakes[0].image
        1

    """
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        raise ValueError(
            f"evaluate: expected tensors of logits and labels; got a {type(logits).__name__} and a "
            f"{type(labels).__name__}"
        )
    if not isinstance(classes, Sequence):
        raise ValueError(f"evaluate: expected the names of the classes; got {classes!r}")
    if logits.ndim != 2 or logits.shape[1] != len(classes) or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"evaluate: expected logits (n, {len(classes)}) and labels (n,); got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not len(logits):
        raise ValueError("evaluate: expected at least one image; got none")
    if labels.is_floating_point():
        raise ValueError(f"evaluate: expected labels that are integers; got {labels.dtype}")
    if not logits.isfinite().all():
        raise ValueError("evaluate: expected finite logits; got NaN or Inf")
    logits, labels = logits.double().cpu(), labels.long().cpu()
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"evaluate: expected labels from 0 to {len(classes) - 1}; got {labels.unique().tolist()[:20]}")
    probabilities = logits.softmax(1)
    confidence, answers = probabilities.max(1)
    right = answers == labels
    n, k = logits.shape
    confusion = torch.bincount(labels * k + answers, minlength=k * k).reshape(k, k)
    counts, predicted, correct = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    bins = _bins(confidence, right)
    top = logits.topk(TOP, 1).indices if k > 2 * TOP else None
    return Evaluation(
        classes=tuple(classes),
        count=n,
        accuracy=right.double().mean().item(),
        interval=wilson_interval(int(right.sum()), n),
        top5=None if top is None else (top == labels[:, None]).any(1).double().mean().item(),
        scores=tuple(
            ClassScore(name, count, hits, answered, wilson_interval(hits, count))
            for name, count, hits, answered in zip(
                classes, counts.tolist(), correct.tolist(), predicted.tolist(), strict=True
            )
        ),
        confusion=confusion,
        bins=bins,
        calibration_error=sum(one.count / n * abs(one.accuracy - one.confidence) for one in bins if one.count),
        log_loss=-logits.log_softmax(1).gather(1, labels[:, None]).mean().item(),  # finite where a probability is 0
        coverage=_coverage(confidence, right),
        mistakes=_mistakes(confidence, answers, labels),
    )


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: close to its nominal level for few images too.

    Args:
        successes: how many.
        count: out of how many; with none the interval is (0, 1).

    Returns:
        Its lower and upper end.

    Raises:
        ValueError: if there are more successes than attempts, or fewer than none.

    Example:
        >>> [round(end, 4) for end in wilson_interval(9, 10)]
        [0.5958, 0.9821]

    """
    if not 0 <= successes <= count:
        raise ValueError(f"wilson_interval: expected between 0 and {count} successes; got {successes}")
    if not count:
        return 0.0, 1.0
    z = 1.959964  # quantile of the normal distribution
    share, spread = successes / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    low = middle - half if successes else 0.0  # an end that is 0 or 1 is not left to rounding
    high = middle + half if successes < count else 1.0
    return low, high


def _bins(confidence: Tensor, right: Tensor) -> tuple[Bin, ...]:
    places = (confidence * BINS).long().clamp(max=BINS - 1)
    found = []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        means = [one[inside].double().mean().item() if count else math.nan for one in (confidence, right)]
        found.append(Bin(count, *means))
    return tuple(found)


def _coverage(confidence: Tensor, right: Tensor) -> tuple[tuple[float, float], ...]:
    # Images of equal confidence count with their mean: which of them are answered first is open, and must not depend on
    # the order of the images.
    _, group = confidence.unique(return_inverse=True)
    means = torch.bincount(group, weights=right.double()) / torch.bincount(group)
    ordered = means[group[confidence.argsort(descending=True)]]
    kept = sorted({max(1, round(len(ordered) * percent / 100)) for percent in _COVERAGES}, reverse=True)
    return tuple((count / len(ordered), ordered[:count].mean().item()) for count in kept)


def _mistakes(confidence: Tensor, answers: Tensor, labels: Tensor) -> tuple[Mistake, ...]:
    wrong = torch.nonzero(answers != labels).flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    return tuple(Mistake(i, int(labels[i]), int(answers[i]), float(confidence[i])) for i in order.tolist())
