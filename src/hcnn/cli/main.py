"""The command `hcnn`: it and its parts, `cli_…`, are the only modules that print."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hcnn.cli import bench as cli_bench
from hcnn.cli import compare as cli_compare
from hcnn.cli import explore as cli_explore
from hcnn.cli import serve as cli_serve
from hcnn.cli.folder_defaults import suggest
from hcnn.cli.use import Export, Predict, export, predict
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.data.splits import fewer
from hcnn.models.hierarchical import (
    AttributeNetwork,
    HierarchicalCNNConfig,
    NetworkConfig,
    build,
    count_parameters,
    list_models,
    model_config,
    suited_recipe,
)
from hcnn.models.summary import summarize
from hcnn.prediction import open_network
from hcnn.runs import allocator
from hcnn.runs.interrupts import Interrupted
from hcnn.runs.load import folder_options, load_run
from hcnn.runs.seeds import summarize_seeds
from hcnn.runs.settings import CONFIG, METRICS, RESULT, WEIGHTS, RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.atomic import write_json
from hcnn.storage.run_lock import RunFolderBusy
from hcnn.training.distillation.config import DistillationConfig, get_distillation
from hcnn.training.evaluate import accuracy
from hcnn.training.recipes import RECIPES, Recipe, get_recipe
from hcnn.training.trainer import Progress as StepProgress

_DEFAULT_MODELS = {"digits": "hcnn_digits", "cifar10": "hcnn_small_cifar10", "cifar100": "hcnn_cifar100"}


@dataclass(frozen=True)
class Train:
    """Train a network and leave a run folder.

    Example: hcnn train digits --output runs/digits --epochs 5

    Every field of the network and of the recipe is an option; their defaults come from --model and --recipe.
    """

    data: tyro.conf.Positional[str] = "digits"
    """digits, cifar10, cifar100, a folder with a subfolder of images per class, or an .npz file."""
    model: str = "hcnn_digits"
    """A named network; see `hcnn models`."""
    recipe: str = "digits"
    """A named recipe: paper, published, fast, digits, modern, or that of a comparator's publication. If not given,
    fast or digits, or what stands for these with a network that does not learn by them, as fast_adamw does."""
    output: Path | None = None
    """The run folder; runs/DATA-MODEL-SEED if not given."""
    seed: int = 0
    """Of initialization, order and augmentation."""
    seeds: int = 1
    """Train with this many seeds, one after the other, and report mean and spread."""
    resume: bool = False
    """Go on from the newest valid checkpoint in the folder; start anew if there is none."""
    validation: int = 0
    """Training images set aside, the same for every seed, and looked at after each epoch."""
    train_images: int | None = None
    """Train on that many of the training images only, the same for every seed, in the proportions of the classes."""
    test: bool = True
    """Read the test set, once, after training; --no-test while choosing settings."""
    test_flips: bool = False
    """Also report test accuracy with mirrored images averaged in."""
    device: str = "cpu"
    """A torch device; cuda takes the GPU of the local rank."""
    cuda_graph: bool = False
    """Record the training step as a CUDA graph; for one process on a GPU."""
    threads: int | None = None
    """CPU threads of torch; its own choice if not given."""
    data_dir: Path | None = None
    """Where data sets lie or are downloaded to; else $HCNN_DATA, else a cache folder."""
    image_size: int | None = None
    """Side that the images of a folder are brought to; chosen from their median size, and said, if not given."""
    bad_images: Literal["refuse", "skip"] = "refuse"
    """What to do with damaged files in a folder of images."""
    note: tyro.conf.Suppress[str] = ""
    sides: tyro.conf.Suppress[tuple[int, int] | None] = None
    checkpoint_seconds: float = 300.0
    """A checkpoint after each epoch, and whenever this many seconds have passed."""
    teacher: Path | None = None
    """The run folder of a network to learn from; any network that knows the same classes."""
    teach: str = "none"
    """A named way of teaching: soft_targets, attention, attention_soft or fitnet."""
    network: tyro.conf.OmitArgPrefixes[NetworkConfig] = field(default_factory=HierarchicalCNNConfig)
    training: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    teaching: tyro.conf.OmitArgPrefixes[DistillationConfig] = field(default_factory=DistillationConfig)


@dataclass(frozen=True)
class Demo:
    """Train an HCNN on the handwritten digits of scikit-learn; what `make demo` runs.

    Example: hcnn demo --epochs 4
    """

    output: Path | None = None
    """The run folder; runs/demo, or the next free runs/demo-N, if not given."""
    epochs: int = RECIPES["digits"].epochs
    """Passes over the 1,437 training images."""
    seed: int = 0
    """Of initialization, order and augmentation."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained network on the test set of its data.

    Example: hcnn evaluate runs/demo
    """

    run: tyro.conf.Positional[Path]
    """A run folder, or a model whose trained weights lie in the package."""
    data: str | None = None
    """Other data with the same classes; the run's own by default."""
    data_dir: Path | None = None
    """Where data sets lie."""


@dataclass(frozen=True)
class Summary:
    """Show a network layer by layer: axes, supports, strides, weights, multiply-adds.

    Example: hcnn summary hcnn_cifar10
    """

    model: tyro.conf.Positional[str]
    """A named network; see `hcnn models`."""
    image_size: int | None = None
    """Side of the image; 8 for hcnn_digits, 32 otherwise."""


@dataclass(frozen=True)
class Models:
    """List the named networks with their weights.

    Example: hcnn models
    """


def _train(command: Train, console: Console) -> None:
    if command.seeds < 1:
        raise ValueError(f"--seeds: expected 1 or more; got {command.seeds}")
    if command.threads is not None:
        if command.threads < 1:
            raise ValueError(f"--threads: expected 1 or more; got {command.threads}")
        torch.set_num_threads(command.threads)
    if command.device == "cpu":
        allocator.keep_freed_memory()
    splits = datasets.load(
        command.data,
        data_dir=command.data_dir,
        image_size=command.sides or command.image_size,
        validation=command.validation,
        on_bad=command.bad_images,
    )
    if command.note:
        console.print(command.note, soft_wrap=True, highlight=False)
    for path, reason in splits.skipped:
        console.print(f"skipped {path}: {reason}", soft_wrap=True, highlight=False)
    if not command.test:
        splits = replace(splits, test=None)
    if command.train_images is not None:
        splits = fewer(splits, command.train_images)
    if command.teacher is None and command.teaching != DistillationConfig():
        raise ValueError("--teach and the weights of what is taught need a --teacher: the folder of a finished run")
    network = replace(command.network, channels=splits.train.images.shape[1], classes=len(splits.train.classes))
    name = Path(command.data).stem or "data"
    results = []
    for seed in range(command.seed, command.seed + command.seeds):
        base = command.output or Path("runs") / f"{name}-{command.model}-{command.seed}"
        folder = base if command.seeds == 1 else base / f"seed-{seed}"
        settings = RunSettings(
            network,
            command.training,
            command.data,
            seed,
            command.device,
            command.checkpoint_seconds,
            command.test_flips,
            teacher=command.teacher,
            distillation=command.teaching,
            graph=command.cuda_graph,
        )
        results.append(_run_training(folder, settings, splits, console, resume=command.resume))
    if command.seeds > 1 and _is_first_process():
        summary = summarize_seeds(results)
        path = (command.output or Path("runs") / f"{name}-{command.model}-{command.seed}") / "seeds.json"
        write_json(path, summary)
        for key in ("validation_accuracy", "test_accuracy", "test_accuracy_with_flips"):
            if key in summary:
                one = summary[key]
                console.print(f"{key.replace('_', ' ')}: {one['mean']:.2%} ± {one['std']:.2%}, {command.seeds} seeds")
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _run_training(
    folder: Path, settings: RunSettings, splits: Splits, console: Console, *, resume: bool = False
) -> dict[str, Any]:
    recipe, data_name = settings.recipe, settings.data_name
    with Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:6.2%}"),
        TextColumn("{task.fields[speed]:,.0f} images/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not _is_first_process(),
    ) as bar:
        task = bar.add_task(
            "", total=None, epoch=f"0/{recipe.epochs}", loss=float("nan"), accuracy=0.0, speed=0.0, start=True
        )

        def show(progress: StepProgress) -> None:
            bar.update(
                task,
                total=progress.steps,
                completed=progress.step,
                epoch=f"{progress.epoch}/{progress.epochs}",
                loss=progress.loss,
                accuracy=progress.accuracy,
                speed=progress.images_per_second,
            )
            every = max(1, recipe.epochs // 5)
            if progress.epoch_done and not console.is_terminal and progress.epoch % every == 0:
                console.print(
                    f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  accuracy "
                    f"{progress.accuracy:.2%}  {progress.images_per_second:,.0f} images/s  "
                    f"{progress.seconds_left:.0f} s left"
                )

        result = train_run(
            folder,
            settings,
            splits,
            resume=resume,
            on_step=show,
            say=lambda text: console.print(text, soft_wrap=True, highlight=False),
        )
    if not _is_first_process():
        return result
    table = Table(title=f"{folder.name}: {data_name}, seed {settings.seed}", show_header=False)
    counts = result["parameters"]
    table.add_row("weights, trained / composed", f"{counts['trained']:,} / {counts['composed']:,}")
    table.add_row("normalization, logit scale", f"{counts['normalization']:,}, {counts['logit_scale']}")
    table.add_row("training", f"{result['train_images']:,} images, {result['seconds']:.1f} s")
    if "validation_accuracy" in result:
        table.add_row("validation", f"{result['validation_accuracy']:.2%} of {result['validation_images']:,} images")
    if "test_accuracy" in result:
        table.add_row("test accuracy", f"{result['test_accuracy']:.2%} of {result['test_images']:,} images")
    if "test_accuracy_with_flips" in result:
        table.add_row("the same with test-time flips", f"{result['test_accuracy_with_flips']:.2%}")
    console.print(table)
    written = [folder / n for n in (CONFIG, METRICS, WEIGHTS, RESULT)]
    written += _pictures(folder, splits, result.get("test_accuracy"), console)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
    return result


def _pictures(folder: Path, splits: Splits, test_accuracy: float | None, console: Console) -> list[Path]:
    """Learning curves, and translations where the images can be drawn; nothing without matplotlib."""
    try:
        from hcnn.explore import explore_images, figures
        from hcnn.runs.curves import learning_curves

        curves, translations = folder / "curves.png", folder / "translations.png"
        learning_curves(folder / METRICS, curves, test_accuracy=test_accuracy)
        shown = splits.test or splits.train
        if shown.images.ndim != 4 or shown.images.shape[1] not in (1, 3):
            return [curves]
        run = load_run(folder)
        if not isinstance(run.model, AttributeNetwork) or len(run.model.layers) < 3:  # no array of three attributes
            return [curves]
        figures.figure3(explore_images(run, shown.subset(range(min(len(shown), 2000)))), translations)
    except ImportError as error:
        console.print(f"no pictures: {error}")
        return []
    return [curves, translations]


def _free_folder(base: Path) -> Path:
    candidates = [base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def _demo(command: Demo, console: Console) -> None:
    from PIL import Image

    splits = datasets.load("digits")
    console.print(
        f"Training an HCNN on {len(splits.train.labels):,} handwritten digits of 8x8 pixels; "
        f"{len(splits.test.labels) if splits.test else 0} more are the test set."
    )
    recipe = get_recipe("digits", epochs=command.epochs)
    folder = command.output or _free_folder(Path("runs/demo"))
    settings = RunSettings(model_config("hcnn_digits"), recipe, "digits", command.seed)
    _run_training(folder, settings, splits, console)
    assert splits.test is not None
    sample = folder / "sample.png"
    Image.fromarray(splits.test.images[0, 0].numpy()).save(sample)
    console.print(f"wrote {sample} (a {splits.test.classes[int(splits.test.labels[0])]} from the test set)")
    console.print(f"try: hcnn predict {folder} {sample}", soft_wrap=True, highlight=False)


def _evaluate(command: Evaluate, console: Console) -> None:
    run = open_network(command.run)
    name = command.data or run.config.get("data")
    if name is None:
        raise ValueError(f"{command.run}: it keeps no record of its data; give some with --data")
    options = folder_options(name, run.preprocessing)
    splits = datasets.load(name, data_dir=command.data_dir, **options)
    if splits.test is None:
        raise ValueError(f"{name}: it has no test set to evaluate on")
    if splits.test.classes != run.preprocessing.classes:
        raise ValueError(f"{name}: its classes differ from the run's: {run.preprocessing.classes}")
    images = run.preprocessing.standardize(splits.test.images)
    value = accuracy(run.model, images, splits.test.labels)
    console.print(f"{name}, test: {value:.2%} of {len(images):,} images")


def _summary(command: Summary, console: Console) -> None:
    model = build(model_config(command.model))
    side = command.image_size or (8 if command.model.endswith("_digits") else 32)
    if side < 1:
        raise ValueError(f"--image-size: expected a positive number; got {side}")
    rows = summarize(model, (side,) * model.config.spatial_axes)
    boundary = f"boundary {model.config.boundary}, " if isinstance(model, AttributeNetwork) else ""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{command.model}, {boundary}images {model.config.channels}x{side}x{side}",
    )
    attributes_shown = isinstance(model, AttributeNetwork)
    for column in ("j", "attributes", "v, u sizes") if attributes_shown else ("layer", "sizes"):
        table.add_column(column, no_wrap=True)
    for column in ("support", "stride"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", "composed", "norm.", "mult-adds"):
        table.add_column(column, justify="right", no_wrap=True)

    def times(values: tuple[int, ...]) -> str:
        return "x".join(map(str, values)) or "-"

    for row in rows:
        attributes = [row.axes.replace(",", "").split(" u1")[0]] if attributes_shown else []
        table.add_row(
            row.name, *attributes, times(row.sizes), times(row.support), times(row.stride), f"{row.trained:,}",
            f"{row.composed:,}", f"{row.normalization:,}", f"{row.multiply_adds / 1e6:,.1f}M",
        )  # fmt: skip
    table.add_section()
    totals = [sum(getattr(row, f) for row in rows) for f in ("trained", "composed", "normalization", "multiply_adds")]
    table.add_row(
        *(("", "total", "") if attributes_shown else ("total", "")),
        "",
        "",
        *(f"{total:,}" for total in totals[:3]),
        f"{totals[3] / 1e6:,.1f}M",
    )
    console.print(table)
    if attributes_shown:
        notes = "support and stride: attributes, then space; norm.: normalization parameters,\n"
        notes += "at j = J the logit scale; mult-adds: of one image, dense form"
    else:
        notes = "norm.: normalization parameters; mult-adds: of one image"
    console.print(notes, highlight=False)


def _models(command: Models, console: Console) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("name", "K", "Q", "J", "classes"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", "composed"):
        table.add_column(column, justify="right")
    for name in list_models():
        config = model_config(name)
        counts = count_parameters(build(config))
        width, rank, depth = (str(getattr(config, field, "-")) for field in ("width", "rank", "depth"))
        table.add_row(
            name, width, rank, depth, str(config.classes), f"{counts.trained:,}", f"{counts.composed:,}",
        )  # fmt: skip
    console.print(table)


_ACTIONS: dict[type, Callable[[Any, Console], None]] = {
    Train: _train, Demo: _demo, Evaluate: _evaluate, Predict: predict, Export: export,
    Summary: _summary, Models: _models,
    **cli_compare.ACTIONS, **cli_bench.ACTIONS, **cli_explore.ACTIONS, **cli_serve.ACTIONS,
}  # fmt: skip


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The last value of --name in either spelling, read ahead of the parser since other defaults depend on it."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == f"--{name}":
            found = following
        elif argument.startswith(f"--{name}="):
            found = argument.split("=", 1)[1]
    return found


def _folder_argument(arguments: Sequence[str]) -> Path | None:
    """The folder of images that is to be trained on, if the data are one: the first word that no option takes."""
    switches = {f.name.replace("_", "-") for kind in (Train, Recipe, HierarchicalCNNConfig) for f in fields(kind)
                if f.type in (bool, "bool")}  # fmt: skip
    for before, word in zip(["", *arguments[1:]], arguments[1:], strict=False):
        option = before.startswith("--") and "=" not in before
        if word.startswith("-") or (option and before[2:].removeprefix("no-").replace("_", "-") not in switches):
            continue
        return Path(word).expanduser() if word not in datasets.NAMES and Path(word).expanduser().is_dir() else None
    return None


def _train_defaults(arguments: Sequence[str]) -> Train:
    for name in ("channels", "classes"):
        if _option(arguments, name) is not None:
            raise ValueError(f"--{name}: follows from the data and cannot be set")
    teach = _option(arguments, "teach") or "none"
    folder = _folder_argument(arguments)
    if folder is not None:
        side = _option(arguments, "image-size")
        found = suggest(folder, int(side) if side and side.isdigit() else None, _option(arguments, "model"))
        recipe = _option(arguments, "recipe")
        return Train(
            model=found.model,
            recipe=recipe or found.recipe_name,
            validation=found.validation,
            network=model_config(found.model),
            training=get_recipe(recipe) if recipe else found.recipe,
            note=found.reason,
            sides=found.image_size,
            teach=teach,
            teaching=get_distillation(teach),
        )
    data = next((name for name in _DEFAULT_MODELS if name in arguments), None)
    model = _option(arguments, "model") or _DEFAULT_MODELS.get(data or "digits", "hcnn_small_cifar10")
    base = "digits" if model.endswith("_digits") else "fast"
    recipe = _option(arguments, "recipe") or suited_recipe(model, base)
    return Train(
        model=model,
        recipe=recipe,
        teach=teach,
        network=model_config(model),
        training=get_recipe(recipe),
        teaching=get_distillation(teach),
    )


def _parse(arguments: Sequence[str]) -> Any:
    default = _train_defaults(arguments) if arguments and arguments[0] == "train" else Train()
    return tyro.cli(
        Annotated[Train, tyro.conf.subcommand("train", default=default)]
        | Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Summary, tyro.conf.subcommand("summary")]
        | Annotated[cli_compare.Compare, tyro.conf.subcommand("compare")]
        | Annotated[cli_bench.Bench, tyro.conf.subcommand("bench")]
        | Annotated[cli_explore.Figure, tyro.conf.subcommand("figure")]
        | Annotated[cli_explore.Explore, tyro.conf.subcommand("explore")]
        | Annotated[cli_serve.Serve, tyro.conf.subcommand("serve")]
        | Annotated[Models, tyro.conf.subcommand("models")],  # pyright: ignore[reportArgumentType]
        prog="hcnn",
        description="Hierarchical Attribute CNNs: train, evaluate, predict, look inside.",
        args=arguments,
        config=(tyro.conf.AvoidSubcommands,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: instead of those of the process.

    Returns:
        The exit code: 0, 2 for bad input, 130 after an interrupt.
    """
    errors = Console(stderr=True)
    try:
        command = _parse(list(sys.argv[1:] if arguments is None else arguments))
        _ACTIONS[type(command)](command, Console())
    except Interrupted as stopped:
        words = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--resume"]
        errors.print(
            f"hcnn: {stopped}\nto go on: {shlex.join(['hcnn', *words, '--resume'])}", soft_wrap=True, markup=False
        )
        return stopped.exit_code
    except BrokenPipeError:  # whoever read has seen enough, as `head` does
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still buffered is written at exit
    except (ValueError, OSError, ImportError, MemoryError, RunFolderBusy) as error:
        errors.print(f"hcnn: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        return 2
    except KeyboardInterrupt:
        errors.print("hcnn: interrupted")
        return 130
    return 0
