"""A run folder from start to result: configuration, logs, checkpoints, weights, and how they are read again.

config.json            everything that determines the run
metrics.jsonl          one line per epoch; the same bytes however often the run was interrupted
timing.jsonl           seconds and images/s per epoch of each process that worked on it
checkpoints/           what a restart goes on from
weights.safetensors    the trained network
result.json            accuracy, parameters, versions, hardware, commit, time
"""

import hashlib
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from hcnn.data.augment import Augmentation
from hcnn.data.image_set import ImageSet, Splits
from hcnn.models.hierarchical import KINDS, Network, NetworkConfig, build, count_parameters
from hcnn.runs.interrupts import Interrupted, StopRequest
from hcnn.storage import atomic as files
from hcnn.storage import checkpoints
from hcnn.storage import safetensors as weights
from hcnn.training.distillation.config import Teaching
from hcnn.training.distillation.losses import Distillation
from hcnn.training.distributed import local_device, process_group, rank_and_size, share
from hcnn.training.recipes import Recipe
from hcnn.training.trainer import Diverged, Preprocessing, Progress, Trainer, accuracy

WEIGHTS, CONFIG, METRICS, TIMING, RESULT = (
    "weights.safetensors",
    "config.json",
    "metrics.jsonl",
    "timing.jsonl",
    "result.json",
)


@dataclass(frozen=True)
class RunSettings:
    """What a run is, beside its data.

    Attributes:
        network: configuration of the network.
        recipe: how to train it.
        data_name: what the data are called in the records, and how they are loaded again.
        seed: of initialization, order and augmentation.
        device: a torch device; "cuda" takes the GPU of the local rank.
        checkpoint_seconds: a checkpoint at the end of an epoch and whenever this much time has passed.
        flip: also report test accuracy with the logits of mirrored images averaged in.
        graph: record the training step as a CUDA graph; changes the last bits of results at most.
        teacher: the run folder of a network to learn from, or None.
        teaching: what is learned from it.
    """

    network: NetworkConfig
    recipe: Recipe
    data_name: str
    seed: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = 300.0
    flip: bool = False
    graph: bool = False
    teacher: Path | None = None
    teaching: Teaching = field(default_factory=Teaching)


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
        folder: where it lies.
        model: the trained network, an `AttributeNetwork` or a `Comparator`, in eval mode.
        preprocessing: how its input is made.
        config: the contents of config.json.
    """

    folder: Path
    model: Any
    preprocessing: Preprocessing
    config: dict[str, Any]


def fit_preprocessing(images: ImageSet) -> Preprocessing:
    """Standardization by the channels' mean and deviation over a training set."""
    mean, std = images.channel_statistics()
    return Preprocessing(
        tuple(float(m) for m in mean), tuple(float(s) for s in std), tuple(images.images.shape[2:]), images.classes
    )


def train_run(
    folder: Path,
    settings: RunSettings,
    data: Splits,
    *,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train into a run folder, alone or as one process of a group that torchrun made.

    The validation set, if there is one, is looked at after each epoch; the test set is read once, at the end.

    Args:
        folder: made if missing; everything in it is checked before training.
        settings: the run.
        data: training set, and validation and test sets if there are.
        resume: go on from the newest valid checkpoint; without one start anew, and return a finished result as it is.
        on_step: called after every step.
        say: told of checkpoints that were refused or gone on from.

    Returns:
        The contents of result.json.

    Raises:
        ValueError: if the folder holds another run, or data, network and recipe do not fit.
        RunFolderBusy: if another run works in the folder.
        OSError: if the folder cannot be written.
        Diverged: if the loss becomes NaN or infinite; names the last good checkpoint.
        Interrupted: after SIGTERM or SIGINT, with a checkpoint written.
        MemoryError: if the memory does not suffice; says what to lower.
    """
    _check_fit(settings, data)
    say = say or (lambda text: None)
    device = local_device(settings.device)
    preprocessing = fit_preprocessing(data.train)
    if settings.teacher is not None:  # all that can be refused is refused before anything is written
        lesson_of(settings, build(settings.network), preprocessing)
    config = run_config(settings, data, preprocessing)
    with process_group(device) as group, StopRequest() as stop, ExitStack() as stack:
        rank, processes = rank_and_size(group)
        finished: dict[str, Any] | None = None
        if rank == 0:
            folder = files.ensure_writable(folder)
            stack.enter_context(files.RunLock(folder))
            finished = _prepare(folder, config, resume)
        finished = share(finished, group, device)
        if finished is not None:
            return finished
        torch.manual_seed(settings.seed)
        with memory_advice(settings.recipe):
            model = build(settings.network).to(device)
            images, labels = data.train.images.to(device), data.train.labels.to(device)
            lesson = None if settings.teacher is None else lesson_of(settings, model, preprocessing)
            trainer = Trainer(
                model,
                images,
                labels,
                preprocessing,
                settings.recipe,
                seed=settings.seed,
                group=group,
                graph=settings.graph,
                lesson=lesson,
            )
        seconds = 0.0
        state: dict[str, Any] | None = None
        if rank == 0:
            state, seconds = _newest(folder, trainer, say)
        found = share({"found": state is not None}, group, device)["found"]
        if found or group is not None:  # all processes start from rank 0's weights, to the bit
            trainer.load_state(share(state or trainer.state(), group, device))
        writer = _Writer(folder, trainer, settings, data, seconds) if rank == 0 else None
        try:
            with memory_advice(settings.recipe):
                for progress in trainer.run():
                    trainer.stop_requested = stop.number is not None
                    if writer:
                        writer.after_step(
                            progress, stopping=progress.stop or (group is None and trainer.stop_requested)
                        )
                    if on_step and rank == 0:
                        on_step(progress)
                    if progress.stop or (group is None and trainer.stop_requested):
                        newest = writer.last if writer and writer.last else folder
                        raise Interrupted(stop.number or 15, newest)
        except Diverged as error:
            last = writer.last if writer else None
            raise Diverged(f"{error}; last good checkpoint: {last or 'none'}; lower --lr") from None
        result: dict[str, Any] = {}
        if writer:
            result = writer.finish(preprocessing, processes)
        return share(result, group, device)


def run_config(settings: RunSettings, data: Splits, preprocessing: Preprocessing) -> dict[str, Any]:
    """The contents of config.json: everything that determines a run."""
    return _as_json(
        {
            "format": 1,
            "network": network_kind(settings.network),
            "model": asdict(settings.network),
            "recipe": asdict(settings.recipe),
            "data": settings.data_name,
            "data_sha256": data.train.digest(),
            "preprocessing": asdict(preprocessing),
            "seed": settings.seed,
            **_teacher_record(settings),
        }
    )


def check_same_run(folder: Path, known: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse a folder whose config.json, `known`, is not that of the run at hand.

    Raises:
        ValueError: says what differs.
    """
    different = [key for key in {**config, "teaching": None} if known.get(key) != config.get(key)]
    if different:
        raise ValueError(f"{folder} holds another run: its {', '.join(different)} differ; give another --output")


def _check_fit(settings: RunSettings, data: Splits) -> None:
    network, train = settings.network, data.train
    if network.classes != len(train.classes):
        raise ValueError(f"the network has {network.classes} classes; {settings.data_name} has {len(train.classes)}")
    if network.channels != train.images.shape[1]:
        raise ValueError(
            f"the network expects {network.channels} channels; {settings.data_name} has {train.images.shape[1]}"
        )
    if network.spatial_axes != train.images.ndim - 2:
        raise ValueError(
            f"the network expects {network.spatial_axes} spatial axes; {settings.data_name} has {train.images.ndim - 2}"
        )


def lesson_of(settings: RunSettings, student: nn.Module, preprocessing: Preprocessing) -> Distillation:
    """The teacher of a run, ready to teach this student.

    Raises:
        ValueError: if there is no such run, or it cannot teach this student.
    """
    assert settings.teacher is not None
    if settings.recipe.compile and (settings.teaching.attention or settings.teaching.hints):
        raise ValueError("compile: attention and hints look into the layers of a network that is not compiled")
    run = load_run(settings.teacher)
    device = next(student.parameters()).device
    try:
        return Distillation(
            run.model.to(device),
            student,
            run.preprocessing,
            preprocessing,
            settings.teaching,
            precision=settings.recipe.precision,
        )
    except ValueError as error:
        raise ValueError(f"{settings.teacher}: {error}") from None


def _teacher_record(settings: RunSettings) -> dict[str, Any]:
    """Which teacher, by its weights, and what it teaches; nothing for a run without one."""
    if settings.teacher is None:
        return {}
    digest = hashlib.sha256((settings.teacher / WEIGHTS).read_bytes()).hexdigest()
    known = json.loads((settings.teacher / CONFIG).read_text())
    teacher = {"network": known["network"], "model": known["model"], "weights_sha256": digest}
    return {"teacher": teacher, "teaching": asdict(settings.teaching)}


def _prepare(folder: Path, config: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Make the folder this run's; returns the result if the run is finished already."""
    before = folder / CONFIG
    if before.exists():
        if not resume:
            state = "a finished" if (folder / RESULT).exists() else "an unfinished"
            raise ValueError(f"{folder} already holds {state} run; add --resume to go on, or give another --output")
        known = json.loads(before.read_text())
        check_same_run(folder, known, config)
        if (folder / RESULT).exists():
            return json.loads((folder / RESULT).read_text())
    else:
        files.write_json(before, config)
    return None


def _newest(folder: Path, trainer: Trainer, say: Callable[[str], None]) -> tuple[dict[str, Any] | None, float]:
    """State and seconds of the newest valid checkpoint, with the log cut back to it; or None and an empty log."""
    checkpoint, rejected = checkpoints.load_newest(folder)
    for one in rejected:
        say(f"refused {one}")
    if checkpoint is None:
        files.write_atomically(folder / METRICS, b"")
        return None, 0.0
    files.truncate_log(folder / METRICS, checkpoint.state["log_size"])
    say(f"going on from {checkpoint.path}, step {checkpoint.step} of {trainer.steps}")
    return checkpoints.unflatten_state(checkpoint.tensors, checkpoint.state["tree"]), checkpoint.state["seconds"]


class _Writer:
    """All that rank 0 writes during a run."""

    def __init__(self, folder: Path, trainer: Trainer, settings: RunSettings, data: Splits, seconds: float) -> None:
        self.folder, self.trainer, self.settings, self.data = folder, trainer, settings, data
        self.before, self.start = seconds, time.perf_counter()
        self.saved_at = self.start
        newest, _ = checkpoints.load_newest(folder) if trainer.step else (None, [])
        self.last: Path | None = newest.path if newest else None
        self.board = _tensorboard(folder)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all its processes in turn."""
        return self.before + time.perf_counter() - self.start

    def after_step(self, progress: Progress, *, stopping: bool) -> None:
        """Log and save what is due."""
        if progress.epoch_done:
            row = dict(progress.epoch_done)
            if self.data.validation is not None:
                row["validation_accuracy"] = self._accuracy(self.data.validation)
            files.append_line(self.folder / METRICS, row)
            files.append_line(
                self.folder / TIMING,
                {
                    "epoch": progress.epoch,
                    "seconds": round(self.seconds, 3),
                    "images_per_second": round(progress.images_per_second, 1),
                },
            )
            if self.board:
                for name, value in row.items():
                    if name != "epoch":
                        self.board.add_scalar(name, value, progress.epoch)
                self.board.flush()
        due = time.perf_counter() - self.saved_at > self.settings.checkpoint_seconds
        if progress.epoch_done or due or stopping:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the trainer as it is, unless its weights are beyond use already."""
        if not all(bool(value.isfinite().all()) for value in self.trainer.model.parameters()):
            return
        tensors, tree = checkpoints.flatten_state(self.trainer.state())
        log_size = files.sync_log(self.folder / METRICS)
        state = {"tree": tree, "log_size": log_size, "seconds": self.seconds}
        cpu = {name: value.detach().cpu() for name, value in tensors.items()}
        self.last = checkpoints.save_checkpoint(self.folder, self.trainer.step, cpu, state)
        self.saved_at = time.perf_counter()

    def _accuracy(self, images: ImageSet, *, flip: bool = False) -> float:
        """Accuracy of the result's weights on a set, leaving the trainer as it was."""
        model = self.trainer.model
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.trainer.result_state())
        standardized = self.trainer.preprocessing.standardize(images.images.to(self.trainer.device))
        value = accuracy(model, standardized, images.labels.to(self.trainer.device), flip=flip)
        model.load_state_dict(kept)
        return value

    def finish(self, preprocessing: Preprocessing, processes: int) -> dict[str, Any]:
        """Write weights and result; read the test set, once."""
        trainer, settings = self.trainer, self.settings
        state = {name: value.detach().cpu() for name, value in trainer.result_state().items()}
        digest = weights.save_weights(self.folder / WEIGHTS, state, {"format": "hcnn-1"})
        model = trainer.model
        result: dict[str, Any] = {
            "data": settings.data_name,
            "seed": settings.seed,
            "epochs": settings.recipe.epochs,
            "train_images": len(self.data.train),
            "weights": "moving average" if trainer.average else "last step",
            "weights_sha256": digest,
            "parameters": asdict(count_parameters(cast(Network, model))),
        }
        if self.data.validation is not None:
            result["validation_images"] = len(self.data.validation)
            result["validation_accuracy"] = self._accuracy(self.data.validation)
        if self.data.test is not None:
            result["test_images"] = len(self.data.test)
            result["test_accuracy"] = self._accuracy(self.data.test)
            result["test_set"] = "read once, after training; one view per image"
            if settings.flip:
                result["test_accuracy_with_flips"] = self._accuracy(self.data.test, flip=True)
        result |= {
            "seconds": round(self.seconds, 2),
            "processes": processes,
            "hardware": hardware(trainer.device),
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
            "commit": commit(),
        }
        files.write_json(self.folder / RESULT, result)
        if self.board:
            self.board.close()
        return result


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, threads and GPU, for the records."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    found = {"processor": name, "threads": torch.get_num_threads(), "device": str(device)}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def commit() -> str | None:
    """The commit of this package's source if it lies in its own git checkout, marked if changed since; else None."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer where TensorBoard is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


@contextmanager
def memory_advice(recipe: Recipe) -> Iterator[None]:
    """Turn a failed allocation into an error that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        text = str(error)
        known = ("not enough memory", "can't allocate memory", "bad_alloc", "could not create a memory")
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(one in text for one in known):
            raise
        raise MemoryError(
            f"out of memory with {recipe.batch_size} images a step in {recipe.accumulate} part(s): lower --batch-size, "
            f"or raise --accumulate, or choose --precision bfloat16; nothing was changed ({text.splitlines()[0]})"
        ) from error


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: tuples are lists."""
    return json.loads(json.dumps(config))


def load_run(folder: Path) -> Run:
    """Load the network of a run folder.

    Args:
        folder: as `train_run` leaves it.

    Returns:
        The run, its network in eval mode.

    Raises:
        ValueError: if the folder, its configuration or its weights are missing, damaged, or do not fit each other.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a finished run: expected {name} in it, as `hcnn train` leaves")
    try:
        config = json.loads((folder / CONFIG).read_text())
        network, preprocessing = network_config(config), preprocessing_of(config)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / CONFIG}: expected a run's configuration; {error!r}") from error
    model = build(network)
    state, _ = weights.load_weights(folder / WEIGHTS)
    weights.match_state(model.state_dict(), state, str(folder / WEIGHTS))
    model.load_state_dict(state)
    return Run(folder, model.eval(), preprocessing, config)


def network_kind(network: NetworkConfig) -> str:
    """What config.json calls a network of this configuration."""
    return next(name for name, kind in KINDS.items() if isinstance(network, kind))


def network_config(config: dict[str, Any]) -> NetworkConfig:
    """The network in a run's config.json."""
    return KINDS[config["network"]](**_tuples(config["model"]))


def read_result(folder: Path) -> dict[str, Any]:
    """The contents of a run's result.json, or {} where there is none."""
    path = Path(folder) / RESULT
    return json.loads(path.read_text()) if path.is_file() else {}


def folder_options(data: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """Options that make `hcnn.data.datasets.load` resize a folder's images to the size and channels of a network."""
    if not Path(data).expanduser().is_dir() or len(preprocessing.size) != 2:
        return {}
    return {"image_size": tuple(preprocessing.size), "channels": len(preprocessing.mean)}


def preprocessing_of(config: dict[str, Any]) -> Preprocessing:
    """The preprocessing in a run's config.json."""
    return Preprocessing(**_tuples(config["preprocessing"]))


def load_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe in a run's config.json."""
    fields = _tuples(config["recipe"])
    return Recipe(**{**fields, "augmentation": Augmentation(**fields["augmentation"])})


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def summarize_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of the accuracies of several seeds.

    Args:
        results: contents of result.json, one per seed.

    Returns:
        For each accuracy the mean, the sample standard deviation (None for one seed) and the values.

    Example:
        >>> summarize_seeds([{"seed": 0, "test_accuracy": 0.9}, {"seed": 1, "test_accuracy": 0.8}])["test_accuracy"]
        {'mean': 0.85, 'std': 0.0707..., 'values': [0.9, 0.8]}
    """
    summary: dict[str, Any] = {"seeds": [result["seed"] for result in results]}
    for name in ("validation_accuracy", "test_accuracy", "test_accuracy_with_flips"):
        values = [result[name] for result in results if name in result]
        if len(values) == len(results):
            mean = math.fsum(values) / len(values)
            spread = (
                math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
            )
            summary[name] = {"mean": round(mean, 6), "std": spread, "values": values}
    return summary
