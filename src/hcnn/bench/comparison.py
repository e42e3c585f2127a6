"""The comparison: our results of each system beside what its publication prints."""

import functools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hcnn.bench.published import SYSTEMS, System
from hcnn.bench.results import Result
from hcnn.bench.throughput import Speed
from hcnn.models.counts import count_parameters
from hcnn.models.factory import build
from hcnn.models.registry import list_models, model_config

SHORT = 500_000  # a run that has seen fewer training images, ten epochs of CIFAR, is called short
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


@dataclass(frozen=True)
class Entry:
    """A line of the comparison: a system, and our runs of one recipe on one data set, if there are any.

    Attributes:
        system: with the publication's figures.
        data: "cifar10" or "cifar100"; "" if there is no run.
        accuracies: in %, one per run.
        seeds: of the runs.
        tested: whether the accuracies are those on the test set.
        images: training images seen per run.
        learned: number of all parameters that are trained.
        computing: number of parameters of the inference network, with normalizations counted as they are trained.
        multiply_adds: for one image of 32×32.
        train: images per second in training, with those of the slowest and fastest step; None if not measured.
        infer: the same for inference.
    """

    system: System
    data: str
    accuracies: tuple[float, ...]
    seeds: tuple[int, ...]
    tested: bool
    images: int
    learned: int
    computing: int
    multiply_adds: int
    train: Speed | None
    infer: Speed | None

    @property
    def stored(self) -> int:
        """Parameters to be stored: composed filters of an HCNN, the hypernetwork instead of what it generates."""
        return min(self.learned, self.computing)

    @property
    def mean(self) -> float:
        """The mean of the accuracies, of which there must be one."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """The sample deviation over runs; None for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def run(self) -> str:
        """What was run, in words."""
        if not self.accuracies:
            return "not yet trained"
        kind = "short run, not a reproduction" if self.images < SHORT else "full run"
        return f"{kind}: {self.seen}"

    @property
    def seen(self) -> str:
        """How many images a run has seen and what its accuracy is of, in words; the second half of `run`."""
        if not self.accuracies:
            return "–"
        return f"{self.images:,} images seen, {'test' if self.tested else 'validation'} accuracy"

    @property
    def accuracy(self) -> str:
        """Mean, spread over runs and their number."""
        if not self.accuracies:
            return "–"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.mean:.2f}{spread} (n = {len(self.accuracies)})"


@functools.cache
def _costs(name: str) -> tuple[int, int, int]:
    """Numbers of trained and of computing parameters, and multiply-adds for one image of 32×32."""
    model = build(model_config(name))
    counts = count_parameters(model)
    more = counts.normalization + counts.logit_scale
    return counts.trained + more, counts.composed + more, model.multiply_adds((32, 32))


def system_of(result: Result) -> System | None:
    """The system that a result belongs to, or None if its network, its data or its teacher is not compared."""
    if result.data not in DATA:
        return None
    same = (one for one in SYSTEMS if one.distilled == result.distilled and one.network(result.data) == result.model)
    return next(same, None)


def make_entries(results: Iterable[Result], throughput: dict[str, Any] | None = None) -> list[Entry]:
    """One entry for each group of runs of a system that differ in the seed only, and one for each system without runs.

    Args:
        results: from `hcnn.bench.results.read_results`.
        throughput: from `hcnn.bench.throughput.load_throughput`.

    Returns:
        The entries in the order of `SYSTEMS`; within a system, the runs that have seen most images come first.
    """
    results, speeds = list(results), (throughput or {}).get("models", {})
    entries: list[Entry] = []
    for system in SYSTEMS:
        mine: dict[tuple[str, str, bool], list[Result]] = {}
        for one in results:
            if system_of(one) is system:
                mine.setdefault((one.data, one.recipe, one.tested), []).append(one)
        groups = sorted(mine.values(), key=lambda group: (-group[0].images, group[0].data))
        for group in groups or [[]]:
            data = group[0].data if group else "cifar10"
            name = system.network(data)
            if name not in list_models():  # hcnn_small has no CIFAR-100 network
                name = system.network("cifar10")
            speed = speeds.get(name, {})
            entries.append(
                Entry(
                    system,
                    group[0].data if group else "",
                    tuple(100 * one.accuracy for one in group),
                    tuple(one.seed for one in group),
                    bool(group) and group[0].tested,
                    group[0].images if group else 0,
                    *_costs(name),
                    tuple(speed["train"]) if speed else None,
                    tuple(speed["infer"]) if speed else None,
                )
            )
    return entries
