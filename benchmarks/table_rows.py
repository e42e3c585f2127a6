"""The rows of tables 1 (CIFAR-10) and 2 (CIFAR-100), and of the steps past them, as data; `tables.py` runs them."""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hcnn import model_config
from hcnn.bench.timing import multiply_adds
from hcnn.data.augment import Augmentation
from hcnn.models.hierarchical import NetworkConfig, build
from hcnn.text import suggest_name
from hcnn.training.recipes import Recipe, get_recipe

TRAIN_IMAGES, VALIDATION_IMAGES = 50_000, 5_000
# Assumed for the estimate, not measured: a tenth of what an H100's tensor cores are said to do in bfloat16, and what
# launching the kernels of one step takes, whatever they compute.
FLOP_PER_SECOND, SECONDS_PER_STEP = 1e14, 0.005


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        name: of its folder.
        model: a named network.
        recipe: a named recipe.
        goal: test accuracy in % to reach, None where the figure itself is asked for.
        near: a row whose accuracy it should come within 0.5 of, or "".
        network: fields of the network's configuration that differ.
        changes: fields of the recipe that differ.
        seeds: one run each.
        runs: the folder of its runs, shared with rows that train the same; `name` if "".
        teacher: the row whose run teaches, or "".
        teach: a named way of teaching.
        chooses: whether it is compared on validation images; the test set is not read.
        ships: the name under which its weights go into the package, or "".
    """

    name: str
    model: str
    recipe: str = "fast"
    goal: float | None = None
    near: str = ""
    network: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    runs: str = ""
    teacher: str = ""
    teach: str = "none"
    chooses: bool = False
    ships: str = ""

    @property
    def data(self) -> str:
        """The data set."""
        return "cifar100" if self.model.endswith("cifar100") else "cifar10"

    @property
    def purpose(self) -> str:
        """What the row is for."""
        if self.goal:
            return f"to reach {self.goal:.2f}"
        if self.near:
            return f"within 0.5 of row {self.near}"
        return "chooses on validation" if self.chooses else "the figure"

    def network_config(self) -> NetworkConfig:
        """The network."""
        return model_config(self.model, **self.network)

    def get_recipe(self) -> Recipe:
        """The recipe."""
        return get_recipe(self.recipe, **self.changes)


_CIRCULAR = {"boundary": "circular"}


def _hcnn_rows(data: str, prefix: str, goals: tuple[float, float]) -> dict[str, Row]:
    """HCNN and HCNN(+) with zeros, circular, and with three seeds, the first of which is the run with zeros."""
    before, models = ("" if data == "cifar10" else f"{data}-"), (f"hcnn_{data}", f"hcnn_plus_{data}")
    names = [f"{before}hcnn", f"{before}hcnn_plus"]
    circular, seeds = ("3", "5") if data == "cifar10" else ("3", "4")
    rows = {}
    for number, plus, name, model, goal in zip(("1", "2"), ("", "+"), names, models, goals, strict=True):
        rows[f"{prefix}.{number}"] = Row(f"{name}-fast", model, goal=goal, ships=model)
        if data == "cifar10" or not plus:
            rows[f"{prefix}.{circular}{plus}"] = Row(
                f"{name}-circular-fast", model, near=f"{prefix}.{number}", network=_CIRCULAR, ships=f"{model}_circular"
            )
        rows[f"{prefix}.{seeds}{plus}"] = Row(
            f"{name}-fast-seeds", model, goal=goal, seeds=(0, 1, 2), runs=f"{name}-fast"
        )
    return rows


def _comparators() -> dict[str, Row]:
    rows = {}
    for name, recipe, goal in (
        ("wrn16_1", "wrn", 91.23),
        ("compact", "modern", None),
        ("resnet20", "resnet", 91.25),
        ("wrn40_1", "wrn", 93.42),
        ("wrn16_2", "wrn", 93.69),
        ("densenet_bc40", "densenet", 93.6),
        ("nin", "nin", 91.20),
        ("allcnn", "allcnn", 92.75),
        ("hypernetwork", "hypernetwork", 91.98),
        ("maxout", "fitnet", 90.18),
    ):
        rows[f"1.8-{name}"] = Row(name, f"{name}_cifar10", recipe, goal)
    rows["1.8-wrn16_1_taught"] = Row(
        "wrn16_1_taught", "wrn16_1_cifar10", "wrn", 91.75, teacher="1.8-wrn40_1", teach="attention"
    )
    rows["1.8-fitnet4"] = Row(
        "fitnet4_taught", "fitnet4_cifar10", "fitnet", 91.61, teacher="1.8-maxout", teach="fitnet"
    )
    for name, recipe, goal in (("allcnn", "allcnn", 66.29), ("nin", "nin", 64.32), ("maxout", "fitnet", 63.54)):
        rows[f"2.6-{name}"] = Row(f"cifar100-{name}", f"{name}_cifar100", recipe, goal)
    rows["2.6-fitnet4"] = Row(
        "cifar100-fitnet4_taught", "fitnet4_cifar100", "fitnet", 64.96, teacher="2.6-maxout", teach="fitnet"
    )
    return rows


# One change at a time against "plain", with validation images set aside; batches, rates and epochs as there. They can
# be combined: 3-ema,cutmix. "taught" learns from 3-teacher, which has not seen the validation images either.
_STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema": 0.999},
    "smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "decay": {"weight_decay": 1e-3},
    "cosine": {"schedule": "cosine", "warmup": 0.05},
    "long": {"epochs": 100},
    "taught": {"teacher": "3-teacher", "teach": "soft_targets"},
}


def step_row(plus: bool, steps: list[str]) -> Row:
    """HCNN, or HCNN(+), with some of `_STEPS` taken together."""
    base = get_recipe("fast")
    changes: dict[str, Any] = {}
    taught: dict[str, Any] = {}
    for step in steps:
        for name, value in _STEPS[step].items():
            if name in ("mixup", "cutmix"):
                before: Augmentation = changes.get("augmentation", base.augmentation)
                changes["augmentation"] = replace(before, **{name: value})
            else:
                (taught if name.startswith("teach") else changes)[name] = value
    name = f"step-{'plus-' if plus else ''}{'-'.join(steps)}"
    return Row(name, f"hcnn{'_plus' if plus else ''}_cifar10", changes=changes, chooses=True, **taught)


def _rows() -> dict[str, Row]:
    rows = {
        **_hcnn_rows("cifar10", "1", (91.23, 92.30)),
        "1.4": Row("hcnn-paper", "hcnn_cifar10", "paper", near="1.1", goal=91.23),
        "1.6-9": Row("hcnn-q9-fast", "hcnn_cifar10", network={"rank": 9}),
        "1.6-16": Row("hcnn-q16-fast", "hcnn_cifar10", network={"rank": 16}),
        "1.6-32": Row("hcnn-fast", "hcnn_cifar10", network={"rank": 32}),  # row 1.1 itself
        "1.7": Row("hcnn_plus-published", "hcnn_plus_cifar10_published", "published"),
        "1.cpu": Row(
            "hcnn-circular-cpu20",
            "hcnn_cifar10",
            network=_CIRCULAR,
            changes={"epochs": 20},
            ships="hcnn_cifar10_circular",
        ),
        **_hcnn_rows("cifar100", "2", (62.01, 63.19)),
        # The published reading-out, a linear map from K values, against one filter per class. Without the 100 filters
        # at j = 11 it has fewer weights; Q = 50 brings the trained weights within 1 % of it.
        "2.7-mean": Row("cifar100-readout-mean", "hcnn_cifar100", chooses=True),
        "2.7-linear": Row("cifar100-readout-linear", "hcnn_cifar100", network={"readout": "linear"}, chooses=True),
        "2.7-equal": Row(
            "cifar100-readout-linear-equal", "hcnn_cifar100", network={"readout": "linear", "rank": 50}, chooses=True
        ),
        **_comparators(),
        "3-teacher": Row("step-teacher", "wrn16_2_cifar10", "wrn", chooses=True),
    }
    for plus in (False, True):
        rows.update({f"3{'+' if plus else ''}-{step}": step_row(plus, [step]) for step in _STEPS})
    return dict(sorted(rows.items(), key=lambda item: item[0].replace("cpu", "9")))


ROWS = _rows()


def find(name: str, *, final: bool = False) -> Row:
    """A row by its number; 3-A,B takes the steps A and B together.

    Args:
        name: the number.
        final: of a row that chooses, the run that follows the choice: all training images, and the test set.

    Raises:
        ValueError: for an unknown row, with the nearest ones, or if the row is final anyway.
    """
    before, _, steps = name.partition("-")
    if name in ROWS:
        row = ROWS[name]
    elif before in ("3", "3+") and "," in steps and all(step in _STEPS for step in steps.split(",")):
        row = step_row(before == "3+", steps.split(","))
    else:
        raise ValueError(f"unknown row {name!r}; {suggest_name(name, ROWS)} --list shows all")
    if not final:
        return row
    if not row.chooses:
        raise ValueError(f"--final: expected a row that chooses on validation; {name} trains on all images anyway")
    return replace(row, name=f"{row.name}-final", chooses=False)


@cache
def _multiply_adds(network: NetworkConfig) -> int:
    return multiply_adds(build(network), (32, 32))


@dataclass(frozen=True)
class Cost:
    """What a row costs by arithmetic, all seeds, without its teacher's own training.

    Attributes:
        steps: of the optimizer.
        flop: floating-point operations: twice the multiply-adds, three times for forward and backward, and once for
            a teacher's pass.
        minutes: on a GPU, by the assumptions above: an estimate that nothing was measured for.
    """

    steps: int
    flop: float
    minutes: float


def estimate(row: Row) -> Cost:
    """The cost of a row."""
    recipe = row.get_recipe()
    images = TRAIN_IMAGES - VALIDATION_IMAGES * row.chooses
    steps = images // recipe.batch_size * recipe.epochs * len(row.seeds)
    each = 6.0 * _multiply_adds(row.network_config())
    if row.teacher:
        each += 2.0 * _multiply_adds(find(row.teacher).network_config())
    flop = each * steps * recipe.batch_size
    return Cost(steps, flop, max(flop / FLOP_PER_SECOND, steps * SECONDS_PER_STEP) / 60)
