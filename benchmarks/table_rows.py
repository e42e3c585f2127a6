"""The rows of tables 1 (CIFAR-10) and 2 (CIFAR-100), and steps beyond the paper, as data; `tables.py` runs them."""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hcnn import model_config
from hcnn.data.augment import Augmentation
from hcnn.models.factory import build
from hcnn.models.registry import NetworkConfig
from hcnn.text import suggest_name
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe

TRAIN_IMAGES, VALIDATION_IMAGES = 50_000, 5_000
# Assumed for the estimate, not measured: a tenth of the bfloat16 speed that is stated for an H100's tensor cores, and
# the time to launch the kernels of one step, whatever they compute.
FLOP_PER_SECOND, SECONDS_PER_STEP = 1e14, 0.005


@dataclass(frozen=True)
class Experiment:
    """What one row of a table trains, and why.

    Attributes:
        name: the name of its results folder.
        model: a named network.
        recipe: a named recipe.
        goal: test accuracy in % to reach; None where the accuracy itself is the question.
        near: a row whose accuracy it should match within 0.5, or "".
        network: fields of the network's configuration that differ from the named network's.
        changes: fields of the recipe that differ from the named recipe's.
        seeds: the seeds, one run each.
        runs: the folder of its runs, which rows that train the same network share; `name` if "".
        teacher: the row whose run is the teacher for distillation, or "".
        distillation: a named kind of distillation.
        chooses: whether it serves to choose, so that it is evaluated on validation images and never on the test set.
        ships: the name under which its weights are put into the package, or "".
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
    distillation: str = "none"
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
        return "chooses on validation" if self.chooses else "to measure"

    def network_config(self) -> NetworkConfig:
        """The network."""
        return model_config(self.model, **self.network)

    def get_recipe(self) -> Recipe:
        """The recipe."""
        return get_recipe(self.recipe, **self.changes)


_CIRCULAR = {"boundary": "circular"}


def _hcnn_rows(data: str, prefix: str, goals: tuple[float, float]) -> dict[str, Experiment]:
    """HCNN and HCNN(+) with zeros, circular, and with zeros for three seeds, the first of which is the first row's."""
    before, models = ("" if data == "cifar10" else f"{data}-"), (f"hcnn_{data}", f"hcnn_plus_{data}")
    names = [f"{before}hcnn", f"{before}hcnn_plus"]
    circular, seeds = ("3", "5") if data == "cifar10" else ("3", "4")
    rows = {}
    for number, plus, name, model, goal in zip(("1", "2"), ("", "+"), names, models, goals, strict=True):
        rows[f"{prefix}.{number}"] = Experiment(f"{name}-fast", model, goal=goal, ships=model)
        if data == "cifar10" or not plus:
            rows[f"{prefix}.{circular}{plus}"] = Experiment(
                f"{name}-circular-fast", model, near=f"{prefix}.{number}", network=_CIRCULAR, ships=f"{model}_circular"
            )
        rows[f"{prefix}.{seeds}{plus}"] = Experiment(
            f"{name}-fast-seeds", model, goal=goal, seeds=(0, 1, 2), runs=f"{name}-fast"
        )
    return rows


def _baselines() -> dict[str, Experiment]:
    rows = {}
    for name, recipe, goal in (
        ("wrn16_1", "wrn", 91.23),
        ("compact", "fast_adamw", None),
        ("resnet20", "resnet", 91.25),
        ("wrn40_1", "wrn", 93.42),
        ("wrn16_2", "wrn", 93.69),
        ("densenet_bc40", "densenet", 93.6),
        ("nin", "nin", 91.20),
        ("allcnn", "allcnn", 92.75),
        ("hypernetwork", "hypernetwork", 91.98),
        ("maxout", "fitnet", 90.18),
    ):
        rows[f"1.8-{name}"] = Experiment(name, f"{name}_cifar10", recipe, goal)
    rows["1.8-wrn16_1_taught"] = Experiment(
        "wrn16_1_taught", "wrn16_1_cifar10", "wrn", 91.75, teacher="1.8-wrn40_1", distillation="attention"
    )
    rows["1.8-fitnet4"] = Experiment(
        "fitnet4_taught", "fitnet4_cifar10", "fitnet", 91.61, teacher="1.8-maxout", distillation="fitnet"
    )
    for name, recipe, goal in (("allcnn", "allcnn", 66.29), ("nin", "nin", 64.32), ("maxout", "fitnet", 63.54)):
        rows[f"2.6-{name}"] = Experiment(f"cifar100-{name}", f"{name}_cifar100", recipe, goal)
    rows["2.6-fitnet4"] = Experiment(
        "cifar100-fitnet4_taught", "fitnet4_cifar100", "fitnet", 64.96, teacher="2.6-maxout", distillation="fitnet"
    )
    return rows


# One change at a time against "plain", the recipe `cifar`, with validation images set aside; batch size, rate and
# epochs stay. They can be combined, as in 3-ema,cutmix. "taught" is distilled from 3-teacher, which has not seen the
# validation images. `hcnn_cifar10` overfits with `cifar` (results/hcnn_cifar10-120); most steps are against that.
_STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema": 0.999},
    "smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "cutout": {"cutout": 8},
    "decay": {"weight_decay": 1e-3},
    "cosine": {"schedule": "cosine", "warmup": 0.05},
    "long": {"epochs": 100},
    "taught": {"teacher": "3-teacher", "distillation": "soft_targets"},
}


def step_row(plus: bool, steps: list[str]) -> Experiment:
    """HCNN, or HCNN(+), with some of `_STEPS` taken together."""
    base = get_recipe("cifar")
    changes: dict[str, Any] = {}
    distilled: dict[str, Any] = {}
    for step in steps:
        for name, value in _STEPS[step].items():
            if name in ("mixup", "cutmix", "cutout"):
                before: Augmentation = changes.get("augmentation", base.augmentation)
                changes["augmentation"] = replace(before, **{name: value})
            else:
                (distilled if name in ("teacher", "distillation") else changes)[name] = value
    name = f"step-{'plus-' if plus else ''}{'-'.join(steps)}"
    return Experiment(
        name, f"hcnn{'_plus' if plus else ''}_cifar10", "cifar", changes=changes, chooses=True, **distilled
    )


def _rows() -> dict[str, Experiment]:
    rows = {
        **_hcnn_rows("cifar10", "1", (91.23, 92.30)),
        "1.4": Experiment("hcnn-paper", "hcnn_cifar10", "paper", near="1.1", goal=91.23),
        "1.6-9": Experiment("hcnn-q9-fast", "hcnn_cifar10", network={"rank": 9}),
        "1.6-16": Experiment("hcnn-q16-fast", "hcnn_cifar10", network={"rank": 16}),
        "1.6-32": Experiment("hcnn-fast", "hcnn_cifar10", network={"rank": 32}),  # row 1.1 itself
        "1.7": Experiment("hcnn_plus-published", "hcnn_plus_cifar10_published", "published"),
        "1.cpu": Experiment(
            "hcnn-circular-cpu20",
            "hcnn_cifar10",
            network=_CIRCULAR,
            changes={"epochs": 20},
            ships="hcnn_cifar10_circular",
        ),
        **_hcnn_rows("cifar100", "2", (62.01, 63.19)),
        # The published readout, a linear map from K values, against one filter per class. Without the 100 filters at
        # j = 11 it has fewer weights; with Q = 50 the number of trained weights is equal within 1 %.
        "2.7-mean": Experiment("cifar100-readout-mean", "hcnn_cifar100", chooses=True),
        "2.7-linear": Experiment(
            "cifar100-readout-linear", "hcnn_cifar100", network={"readout": "linear"}, chooses=True
        ),
        "2.7-equal": Experiment(
            "cifar100-readout-linear-equal", "hcnn_cifar100", network={"readout": "linear", "rank": 50}, chooses=True
        ),
        **_baselines(),
        "3-teacher": Experiment("step-teacher", "wrn16_2_cifar10", "wrn", chooses=True),
    }
    for plus in (False, True):
        rows.update({f"3{'+' if plus else ''}-{step}": step_row(plus, [step]) for step in _STEPS})
    return dict(sorted(rows.items(), key=lambda item: item[0].replace("cpu", "9")))


ROWS = _rows()


def find(name: str, *, final: bool = False) -> Experiment:
    """A row by its number; 3-A,B takes the steps A and B together.

    Args:
        name: the number.
        final: for a row that chooses, the run after the choice, on all training images and with the test set.

    Raises:
        ValueError: for an unknown row, with similar ones, or if the row does not choose.
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
    return build(network).multiply_adds((32, 32))


@dataclass(frozen=True)
class Cost:
    """An estimate of what a row costs with all seeds, without the training of its teacher.

    Attributes:
        steps: of the optimizer.
        flop: floating-point operations: two per multiply-add, three passes for forward and backward, and one more
            pass for a teacher.
        minutes: on a GPU, by the assumptions above; nothing was measured.
    """

    steps: int
    flop: float
    minutes: float


def estimate(row: Experiment) -> Cost:
    """The cost of a row."""
    recipe = row.get_recipe()
    images = TRAIN_IMAGES - VALIDATION_IMAGES * row.chooses
    steps = images // recipe.batch_size * recipe.epochs * len(row.seeds)
    each = 6.0 * _multiply_adds(row.network_config())
    if row.teacher:
        each += 2.0 * _multiply_adds(find(row.teacher).network_config())
    flop = each * steps * recipe.batch_size
    return Cost(steps, flop, max(flop / FLOP_PER_SECOND, steps * SECONDS_PER_STEP) / 60)
