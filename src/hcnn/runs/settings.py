"""What a run is, and the files of its folder."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hcnn.data.image_set import Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.models.hierarchical import KINDS, NetworkConfig
from hcnn.training.distillation.config import DistillationConfig
from hcnn.training.recipes import Recipe

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
        distillation: what is learned from it.
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


def check_fit(settings: RunSettings, data: Splits) -> None:
    """Refuse data that the network of a run does not fit.

    Raises:
        ValueError: says what was expected and what the data are.
    """
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


def network_kind(network: NetworkConfig) -> str:
    """What config.json calls a network of this configuration."""
    return next(name for name, kind in KINDS.items() if isinstance(network, kind))


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: tuples are lists."""
    return json.loads(json.dumps(config))


def _teacher_record(settings: RunSettings) -> dict[str, Any]:
    """Which teacher, by its weights, and what it teaches; nothing for a run without one."""
    if settings.teacher is None:
        return {}
    digest = hashlib.sha256((settings.teacher / WEIGHTS).read_bytes()).hexdigest()
    known = json.loads((settings.teacher / CONFIG).read_text())
    teacher = {"network": known["network"], "model": known["model"], "weights_sha256": digest}
    return {"teacher": teacher, "teaching": asdict(settings.distillation)}
