"""The comparison: every result.json below a folder as one table, beside what the publications print."""

import functools
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn.bench.published import SYSTEMS, System
from hcnn.bench.timing import inference_network, measure_throughput, multiply_adds
from hcnn.models.hierarchical import KINDS, build, count_parameters, list_models, model_config
from hcnn.runs.environment import hardware
from hcnn.runs.settings import CONFIG, RESULT
from hcnn.storage.atomic import write_atomically, write_json
from hcnn.text import csv_row

THROUGHPUT = "throughput.json"
SHORT = 500_000  # a run that has seen fewer training images, ten epochs of CIFAR, is called short
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


@dataclass(frozen=True)
class Result:
    """A finished run as the comparison sees it.

    Attributes:
        path: its result.json.
        model: the name of its network, or None for one without a name.
        taught: whether it learned from a teacher.
        data: what it learned.
        recipe: as its config.json has it, with the number of training images.
        seed: of the run.
        accuracy: on the test set, or on validation images if the test set was not read.
        tested: whether it is of the test set.
        images: training images seen, counting every epoch.
    """

    path: Path
    model: str | None
    taught: bool
    data: str
    recipe: str
    seed: int
    accuracy: float
    tested: bool
    images: int


def read_results(folder: Path, say: Callable[[str], None] = lambda text: None) -> list[Result]:
    """All results below a folder, in order of their paths.

    Args:
        folder: searched for result.json with config.json beside it.
        say: told of what is left out, and why.

    Returns:
        The results.

    Raises:
        ValueError: if there is no such folder, or a result cannot be read; it names the file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of results, as `hcnn train` leaves them")
    names = {_key(model_config(name)): name for name in list_models()}
    found: list[Result] = []
    seen: dict[str, Path] = {}
    for path in sorted(folder.rglob(RESULT)):
        if not (path.parent / CONFIG).is_file():
            say(f"left out {path}: no {CONFIG} beside it")
            continue
        try:
            result, config = (json.loads((path.parent / name).read_text()) for name in (RESULT, CONFIG))
            tested = "test_accuracy" in result
            if not tested and "validation_accuracy" not in result:
                say(f"left out {path}: neither test nor validation accuracy in it")
                continue
            first = seen.setdefault(result["weights_sha256"], path)
            if first != path:
                say(f"left out {path}: the same run as {first}")
                continue
            found.append(
                Result(
                    path,
                    names.get(json.dumps([config["network"], config["model"]], sort_keys=True)),
                    "teacher" in config,
                    result["data"],
                    json.dumps([config["recipe"], config.get("teaching"), result["train_images"]], sort_keys=True),
                    result["seed"],
                    float(result["test_accuracy" if tested else "validation_accuracy"]),
                    tested,
                    result["epochs"] * result["train_images"],
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected a run's result with its {CONFIG}; {error!r}") from error
    return found


def _key(config: Any) -> str:
    kind = next(name for name, one in KINDS.items() if type(config) is one)
    return json.dumps([kind, json.loads(json.dumps(asdict(config)))], sort_keys=True)


@dataclass(frozen=True)
class Row:
    """A line of the table: a system, and our runs of one recipe on one set of data, if there are any.

    Attributes:
        system: with the publication's figures.
        data: "cifar10" or "cifar100"; "" if we have no run.
        accuracies: in %, one per seed.
        seeds: of the runs.
        tested: whether accuracies are of the test set.
        images: training images seen per run.
        learned: parameters that are trained, all counted.
        computing: parameters of the inference network, normalizations counted as they are trained.
        multiply_adds: of one image of 32×32.
        train: images/s, with the slowest and fastest step; None if not measured.
        infer: the same of inference.
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
    train: tuple[float, float, float] | None
    infer: tuple[float, float, float] | None

    @property
    def stored(self) -> int:
        """Parameters to be stored: composed filters of an HCNN, the hypernetwork rather than what it generates."""
        return min(self.learned, self.computing)

    @property
    def mean(self) -> float:
        """Of the accuracies; there must be one."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Sample deviation over seeds, or None of fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def run(self) -> str:
        """What was run, in words."""
        if not self.accuracies:
            return "not yet trained"
        kind = "short run, not a reproduction" if self.images < SHORT else "full run"
        return f"{kind}: {self.images:,} images seen, {'test' if self.tested else 'validation'} accuracy"

    @property
    def accuracy(self) -> str:
        """Mean, spread over seeds and their number."""
        if not self.accuracies:
            return "–"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.mean:.2f}{spread} (n = {len(self.accuracies)})"


@functools.cache
def _costs(name: str) -> tuple[int, int, int]:
    """Parameters learned and computing, and multiply-adds of one image of 32×32."""
    model = build(model_config(name))
    counts = count_parameters(model)
    more = counts.normalization + counts.logit_scale
    return counts.trained + more, counts.composed + more, multiply_adds(model, (32, 32))


def make_rows(results: Iterable[Result], throughput: dict[str, Any] | None = None) -> list[Row]:
    """One row per system and group of runs that differ in the seed only; a row without runs for every other system.

    Args:
        results: as `read_results` gives them.
        throughput: as `measure_all` gives it.

    Returns:
        In the order of `SYSTEMS`; within a system the runs that have seen most images first.
    """
    results, speeds, rows = list(results), (throughput or {}).get("models", {}), []
    for system in SYSTEMS:
        mine: dict[tuple[str, str, bool], list[Result]] = {}
        for one in results:
            if one.taught == system.taught and one.model in {f"{system.model}_{data}" for data in DATA}:
                mine.setdefault((one.data, one.recipe, one.tested), []).append(one)
        groups = sorted(mine.values(), key=lambda group: (-group[0].images, group[0].data))
        for group in groups or [[]]:
            data = group[0].data if group else "cifar10"
            name = f"{system.model}_{data}"
            if name not in list_models():  # hcnn_small has no CIFAR-100 network
                name = f"{system.model}_cifar10"
            speed = speeds.get(name, {})
            rows.append(
                Row(
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
    return rows


def measure_all(
    names: Iterable[str], *, batch: int = 20, seconds: float = 2.0, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Throughput of named networks at 32×32 on the CPU in float32, one after the other in this process.

    Args:
        names: of `list_models`.
        batch: images a step.
        seconds: for each measurement.
        say: told of each.

    Returns:
        What goes into throughput.json: machine, versions, and per network images/s as median, slowest, fastest.
    """
    models: dict[str, Any] = {}
    for name in names:
        torch.manual_seed(0)
        model = build(model_config(name))
        images = torch.randn(batch, model.config.channels, 32, 32)
        fast = inference_network(model)
        infer = measure_throughput(fast, images, train=False, seconds=seconds)
        train = measure_throughput(model, images, train=True, seconds=seconds)
        models[name] = {
            kind: [round(value, 1) for value in (one.median, one.low, one.high)]
            for kind, one in (("train", train), ("infer", infer))
        }
        say(f"{name}: {train.median:,.0f} images/s in training, {infer.median:,.0f} in inference")
    return {
        "images": "32x32, float32, median, slowest and fastest step",
        "batch": batch,
        "hardware": hardware(torch.device("cpu")),
        "torch": str(torch.__version__),
        "models": models,
    }


def load_throughput(folder: Path) -> dict[str, Any] | None:
    """The throughput.json of a folder of results, or None.

    Raises:
        ValueError: if it cannot be read.
    """
    path = folder / THROUGHPUT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        speeds = {}
        for name, one in found["models"].items():
            for kind in ("train", "infer"):
                median, low, high = map(float, one[kind])
                speeds.setdefault(name, {})[kind] = (median, low, high)
        machine = {key: found["hardware"][key] for key in ("processor", "threads")}
        return {"hardware": machine, "torch": found["torch"], "batch": found["batch"], "models": speeds}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected the figures that `hcnn compare --measure` writes; {error!r}") from error


HEAD = (
    "system", "publication: parameters", "CIFAR-10 %", "CIFAR-100 %", "ours: data", "accuracy %", "run",
    "parameters: learned", "computing", "multiply-adds", "train images/s", "infer images/s",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row, as `HEAD` names them."""

    def figure(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    def speed(value: tuple[float, float, float] | None) -> str:
        return "–" if value is None else f"{value[0]:,.0f} ({value[1]:,.0f} to {value[2]:,.0f})"

    return (
        row.system.title, row.system.parameters or "–", figure(row.system.cifar10), figure(row.system.cifar100),
        DATA.get(row.data, "–"), row.accuracy, row.run, f"{row.learned:,}", f"{row.computing:,}",
        f"{row.multiply_adds / 1e6:,.1f}M", speed(row.train), speed(row.infer),
    )  # fmt: skip


def markdown(rows: list[Row], throughput: dict[str, Any] | None) -> str:
    """The table in Markdown, with what its columns mean."""
    lines = ["# Comparison", "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    machine = "not measured yet: `hcnn compare --measure`"
    if throughput:
        found = throughput["hardware"]
        machine = (
            f"{found['processor']}, {found['threads']} thread(s), torch {throughput['torch']}, batches of "
            f"{throughput['batch']}, float32, median (slowest to fastest step)"
        )
    lines += [
        "",
        "Publication: accuracy as printed. Ours: mean ± sample deviation over n seeds. Learned: everything trained;",
        "computing: of the inference network (composed filters, generated kernels). Multiply-adds: of one 32x32 image",
        f"through the inference network. A run is short below {SHORT:,} training images seen.",
        f"Images/s: {machine}.",
        "",
        "Sources: " + "; ".join(f"{system.title}: {system.source}" for system in SYSTEMS) + ".",
    ]
    return "\n".join(lines) + "\n"


def csv_text(rows: list[Row]) -> str:
    """The table as CSV, numbers plain."""
    head = (
        "system", "model", "taught", "published_parameters", "published_cifar10", "published_cifar100", "source",
        "data", "mean", "std", "seeds", "measured_on", "images_seen", "learned", "computing", "multiply_adds",
        "train_images_per_second", "infer_images_per_second",
    )  # fmt: skip
    lines = [csv_row(head)]
    for row in rows:
        s, spread = row.system, row.spread
        cells = (
            s.title, s.model, s.taught, s.parameters, s.cifar10, s.cifar100, s.source, row.data,
            round(row.mean, 4) if row.accuracies else "", "" if spread is None else round(spread, 4),
            " ".join(map(str, row.seeds)),
            ("test" if row.tested else "validation") if row.accuracies else "not yet trained",
            row.images or "", row.learned, row.computing, row.multiply_adds,
            row.train[0] if row.train else "", row.infer[0] if row.infer else "",
        )  # fmt: skip
        lines.append(csv_row(cells))
    return "".join(lines)


def write_comparison(rows: list[Row], throughput: dict[str, Any] | None, output: Path) -> list[Path]:
    """Write comparison.md and comparison.csv into a folder, and comparison.png where matplotlib is installed.

    Returns:
        The files written.
    """
    output.mkdir(parents=True, exist_ok=True)
    texts = {"comparison.md": markdown(rows, throughput), "comparison.csv": csv_text(rows)}
    for name, text in texts.items():
        write_atomically(output / name, text.encode())
    written = [output / name for name in texts]
    try:
        from hcnn.bench.comparison_plot import plot

        plot(rows, output / "comparison.png")
    except ImportError:
        return written
    return [*written, output / "comparison.png"]


def save_throughput(throughput: dict[str, Any], folder: Path) -> Path:
    """Write throughput.json into a folder of results."""
    write_json(folder / THROUGHPUT, throughput)
    return folder / THROUGHPUT
