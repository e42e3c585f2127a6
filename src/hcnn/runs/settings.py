"""Settings of a run, its config.json, and the names of the files in its folder."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hcnn.data.image_files import OnBad
from hcnn.data.image_set import Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.models.baselines import BaselineConfig
from hcnn.models.records import completed_model, network_kind
from hcnn.models.registry import NetworkConfig
from hcnn.runs.initial import Initial
from hcnn.storage.records import read_object
from hcnn.storage.safetensors import shortened
from hcnn.text import count_of, is_number
from hcnn.training.device import settle_precision
from hcnn.training.distillation.config import DistillationConfig
from hcnn.training.recipe import SCHEDULE, Recipe

WEIGHTS, CONFIG, METRICS, TIMING, RESULT = (
    "weights.safetensors",
    "config.json",
    "metrics.jsonl",
    "timing.jsonl",
    "result.json",
)


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run, apart from its data.

    Attributes:
        network: configuration of the network.
        recipe: how to train it.
        data_name: name or path of the data, under which they are recorded and loaded again.
        seed: random seed for initialization, data order and augmentation.
        device: a PyTorch device; "cuda" is the GPU of the local rank.
        checkpoint_seconds: longest time between two checkpoints; one is also written after each epoch.
        flip: also report test accuracy with the logits of mirrored images averaged in.
        graph: record the training step as a CUDA graph. SGD and AdamW then differ by rounding only, Muon by some
            percent of an update, because matrices of one shape are orthogonalized together, in bfloat16.
        teacher: the run folder of a network to learn from, or None.
        distillation: what the network learns from the teacher.
        validation_name: path of the validation images, where they do not belong to the data itself.
        initial: the trained network that it starts from, or None to start from random weights.
        freeze: how many stages of the initial network stay as they are, see `hcnn.Network.freeze`.
        on_bad: whether damaged images of a folder were refused or skipped, and are when it is loaded again.
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
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    validation_name: str | None = None
    initial: Initial | None = None
    freeze: int = 0
    on_bad: OnBad = "refuse"

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: expected a whole number from 0 to 2**63 - 1; got {self.seed!r}")
        if not (is_number(self.checkpoint_seconds) and self.checkpoint_seconds >= 0):
            raise ValueError(f"checkpoint_seconds: expected 0 or more; got {self.checkpoint_seconds!r}")
        if not isinstance(self.freeze, int) or isinstance(self.freeze, bool) or self.freeze < 0:
            raise ValueError(f"freeze: expected a number of layers, 0 or more; got {self.freeze!r}")
        if self.initial is None:
            if self.freeze:
                raise ValueError(f"freeze: expected 0 without an initial network (init); got {self.freeze}")
            return
        if self.recipe.first_layer != "random":
            raise ValueError(f"first_layer: expected random with init; got {self.recipe.first_layer!r}")
        ours: Any = self.network
        if type(ours) is not type(self.initial.config) or ours != replace(
            self.initial.config, channels=ours.channels, classes=ours.classes
        ):
            raise ValueError(f"network: expected that of {self.initial.source}, {self.initial.config}; got {ours}")


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
            **_validation_record(settings, data),
            **({} if settings.on_bad == "refuse" else {"on_bad": settings.on_bad}),
            **({} if settings.initial is None else {"init": settings.initial.record(settings.freeze)}),
        }
    )


def check_same_run(folder: Path, known: dict[str, Any], config: dict[str, Any]) -> int | None:
    """Refuse a folder whose config.json, `known`, belongs to another run; a run may get more epochs, with the schedule.

    Returns:
        None for the same run; where `config` has more epochs, how many it had.

    Raises:
        ValueError: says what differs.
    """
    different = run_differences(known, config)
    more = "recipe.epochs" in different
    if more:
        before, now = known["recipe"].get("epochs"), config["recipe"]["epochs"]
        if not isinstance(before, int) or before > now:
            raise ValueError(f"{folder} holds a run of {before} epochs: expected --epochs {before} or more; got {now}")
        for name in SCHEDULE:  # the milestones move with the epochs
            different.pop(f"recipe.{name}", None)
    if different:
        verb = "differs" if len(different) == 1 else "differ"
        allowed = " (only --epochs may be raised)" if more else ""
        raise ValueError(
            f"{folder} holds another run: its {describe_differences(different)} {verb}{allowed}; give another --output"
        )
    return known["recipe"]["epochs"] if more else None


def run_differences(known: dict[str, Any], config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What makes the run of a config.json, `known`, another one than that of `config`; see `differences`.

    Not counted are the place that the initial network came from, for its weights are compared, and whether damaged
    images were skipped, for the others are compared and earlier versions did not record it.
    """
    absent = dict.fromkeys(("teaching", "init", "validation_data", "validation_sha256"))
    found = differences(_completed(known, config), {**absent, **config})
    return {name: pair for name, pair in found.items() if name not in ("init.source", "on_bad")}


def _completed(known: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with the settings that an earlier version did not write, and which it acted by."""
    filled = completed_recipe(known)
    if isinstance(known.get("model"), dict):
        filled["model"] = _filled(known["model"], completed_model({}, config["model"]))
    if "validation_data" not in config:  # only then did earlier versions record no digest
        filled.setdefault("validation_sha256", known.get("validation_sha256", config.get("validation_sha256")))
    return {**known, **filled}


def completed_recipe(known: dict[str, Any]) -> dict[str, Any]:
    """Recipe and teaching of a config.json, as far as they are there, with the settings that are newer than it."""
    defaults = {"recipe": _as_json(asdict(Recipe())), "teaching": _as_json(asdict(DistillationConfig()))}
    return {name: _filled(known[name], one) for name, one in defaults.items() if isinstance(known.get(name), dict)}


def _filled(known: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A dict with what it lacks of another, in nested dicts too."""
    nested = {key: value for key, value in known.items() if isinstance(value, dict)}
    return {
        **defaults,
        **known,
        **{key: _filled(value, defaults[key]) for key, value in nested.items() if isinstance(defaults.get(key), dict)},
    }


def differences(known: Any, config: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields of a configuration that are otherwise in the known one: new and old value, by names as "recipe.lr"."""
    found: dict[str, tuple[Any, Any]] = {}
    for key, value in config.items():
        old, name = known.get(key), f"{prefix}{key}"
        if isinstance(old, dict) and isinstance(value, dict):
            inner = differences(old, value, f"{name}.")
            found |= {name: (value, old)} if not inner and old.keys() - value.keys() else inner
        elif old != value and not (prefix == "preprocessing." and _equal_up_to_rounding(old, value)):
            found[name] = (value, old)
    return found


def describe_differences(found: dict[str, tuple[Any, Any]]) -> str:
    """Differences in one line.

    Example:
        >>> describe_differences({"seed": (1, 0), "recipe.lr": (0.1, 0.02)})
        'seed (1 here, 0 there), recipe.lr (0.1 here, 0.02 there)'
    """

    def brief(value: object) -> str:
        text = "none" if value is None else str(value)
        return text if len(text) <= 40 else f"{text[:12]}…"

    return ", ".join(f"{name} ({brief(new)} here, {brief(old)} there)" for name, (new, old) in found.items())


def _equal_up_to_rounding(old: Any, value: Any) -> bool:
    """Whether two lists are of the same numbers: processors add up the pixels of a data set in different orders."""
    if not (isinstance(old, list) and isinstance(value, list) and len(old) == len(value)):
        return False
    if not all(is_number(one) for one in [*old, *value]):
        return False
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(old, value, strict=True))


def settle(settings: RunSettings, known: dict[str, Any] | None, device: torch.device) -> tuple[RunSettings, str]:
    """Settings whose precision is float32 or bfloat16: what a run began with, else what the device is fast at.

    Args:
        settings: of the run.
        known: the config.json that the run began with, or None.
        device: where it trains.

    Returns:
        The settings, and a sentence for the log, or "".
    """
    asked = settings.recipe.precision
    recipe = known.get("recipe") if known else None
    begun: Any = recipe.get("precision") if isinstance(recipe, dict) else None
    kept = asked == "auto" and begun in ("float32", "bfloat16")
    attributes = not isinstance(settings.network, BaselineConfig)
    chosen, sentence = settle_precision(begun if kept else asked, device, attributes=attributes)
    if kept and chosen != settle_precision("auto", device, attributes=attributes)[0]:
        sentence = f"precision {chosen}, as the run began with" + (f"; {sentence}" if sentence else "")
    return replace(settings, recipe=replace(settings.recipe, precision=chosen)), sentence


def graph_hint(settings: RunSettings, device: torch.device, processes: int) -> str:
    """A sentence for the log where a run on a GPU leaves its fastest way unused, or "".

    Example:
        >>> from hcnn.models.configs import HierarchicalCNNConfig
        >>> settings = RunSettings(HierarchicalCNNConfig(), Recipe(), "cifar10", device="cuda")
        >>> graph_hint(settings, torch.device("cuda"), 1)
        'a step takes a fraction of the time on one GPU with --cuda-graph --set channels_last=true'
    """
    attributes = not isinstance(settings.network, BaselineConfig)
    if device.type != "cuda" or processes > 1 or settings.graph or settings.teacher or not attributes:
        return ""
    return "a step takes a fraction of the time on one GPU with --cuda-graph --set channels_last=true"


def check_fit(settings: RunSettings, data: Splits) -> None:
    """Refuse data that the network of a run does not fit.

    Raises:
        ValueError: says what was expected and what the data are.
    """
    network, train = settings.network, data.train
    if network.classes != len(train.classes):
        raise ValueError(f"the network has {network.classes} classes; {settings.data_name} has {len(train.classes)}")
    if network.channels != train.images.shape[1]:
        channels = count_of(network.channels, "channel")
        raise ValueError(f"the network expects {channels}; {settings.data_name} has {train.images.shape[1]}")
    if network.spatial_axes != train.images.ndim - 2:
        axes = count_of(network.spatial_axes, "spatial axis", "spatial axes")
        raise ValueError(f"the network expects {axes}; {settings.data_name} has {train.images.ndim - 2}")
    missing = torch.nonzero(torch.bincount(train.labels, minlength=len(train.classes)) == 0).flatten().tolist()
    if missing:
        names = shortened([repr(train.classes[index]) for index in missing])
        raise ValueError(f"{settings.data_name}: expected training images of every class; there are none of {names}")


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: tuples are lists."""
    return json.loads(json.dumps(config, allow_nan=False))


def _teacher_record(settings: RunSettings) -> dict[str, Any]:
    """Which teacher, by its weights, and what it teaches; nothing for a run without one."""
    if settings.teacher is None:
        return {}
    digest = hashlib.sha256((settings.teacher / WEIGHTS).read_bytes()).hexdigest()
    known = read_object(settings.teacher / CONFIG)
    teacher = {"network": known["network"], "model": known["model"], "weights_sha256": digest}
    return {"teacher": teacher, "teaching": asdict(settings.distillation)}


def _validation_record(settings: RunSettings, data: Splits) -> dict[str, Any]:
    """Which validation images, and the path of those that do not belong to the data itself."""
    if data.validation is None:
        return {"validation_sha256": None}
    named = {} if settings.validation_name is None else {"validation_data": settings.validation_name}
    return {**named, "validation_sha256": data.validation.digest()}
