"""Images per second of the networks of the comparison: measured for `hcnn bench` and `hcnn compare`, and kept."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from hcnn.bench.published import SYSTEMS
from hcnn.bench.timing import Throughput, measure_throughput
from hcnn.models.factory import build
from hcnn.models.registry import list_models, model_config
from hcnn.runs.environment import hardware
from hcnn.storage.atomic import write_json

THROUGHPUT = "throughput.json"
Speed = tuple[float, float, float]  # images per second: median, slowest step, fastest step


def compared_networks(trained: Iterable[str] = ()) -> list[str]:
    """The networks of the comparison, each once: those for CIFAR-10, and what else there are results of.

    Args:
        trained: names of networks that have results; others than those of `list_models` are left out.

    Example:
        >>> compared_networks(["hcnn_cifar100_circular", "hcnn_cifar10"])[-1]
        'hcnn_cifar100_circular'

    """
    names = dict.fromkeys([*(system.network("cifar10") for system in SYSTEMS), *trained])
    return [name for name in names if name in list_models()]


def measure_networks(
    names: Iterable[str],
    *,
    batch: int = 20,
    seconds: float = 0.0,
    rounds: int = 3,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, Throughput]]:
    """Time named networks on images of 32×32 in float32, one after the other in this process.

    Args:
        names: of `list_models`.
        batch: images per step.
        seconds: how long each measurement takes at least.
        rounds: how many steps each measurement times at least.
        device: where.
        say: told of each network.

    Returns:
        For each name the throughput in "train"ing and "infer"ence, the latter of `Network.inference`.

    """
    found = {}
    for name in names:
        torch.manual_seed(0)
        model = build(model_config(name)).to(device)
        images = torch.randn(batch, model.config.channels, 32, 32, device=device)
        own = {}
        for kind, network in (("infer", model.inference()), ("train", model)):
            own[kind] = measure_throughput(network, images, train=kind == "train", seconds=seconds, rounds=rounds)
        say(f"{name}: {own['train'].median:,.0f} images/s in training, {own['infer'].median:,.0f} in inference")
        found[name] = own
    return found


def measure_all(
    names: Iterable[str], *, batch: int = 20, seconds: float = 2.0, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """What `hcnn compare --measure` keeps in throughput.json: machine, versions, and the speed of each network.

    Args:
        names: of `list_models`.
        batch: images per step.
        seconds: how long each measurement takes at least.
        say: told of each network.

    Returns:
        Plain values for JSON.

    """
    speeds = measure_networks(names, batch=batch, seconds=seconds, say=say)
    return {
        "images": "32x32, float32, median, slowest and fastest step",
        "batch": batch,
        "hardware": hardware(torch.device("cpu")),
        "torch": str(torch.__version__),
        "models": {
            name: {
                kind: [round(value, 1) for value in (own[kind].median, own[kind].low, own[kind].high)]
                for kind in ("train", "infer")
            }
            for name, own in speeds.items()
        },
    }


def load_throughput(folder: Path) -> dict[str, Any] | None:
    """The throughput.json of a folder of results, or None where there is none.

    Raises:
        ValueError: if it cannot be read.

    """
    path = folder / THROUGHPUT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        speeds: dict[str, dict[str, Speed]] = {}
        for name, one in found["models"].items():
            for kind in ("train", "infer"):
                median, low, high = map(float, one[kind])
                if not all(math.isfinite(value) and value > 0 for value in (median, low, high)):
                    raise ValueError(f"{name}: expected images per second; got {one[kind]}")
                speeds.setdefault(name, {})[kind] = (median, low, high)
        machine = {"processor": str(found["hardware"]["processor"]), "threads": int(found["hardware"]["threads"])}
        return {"hardware": machine, "torch": str(found["torch"]), "batch": int(found["batch"]), "models": speeds}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: expected the figures that `hcnn compare --measure` writes; {error!r}") from error


def save_throughput(measured: dict[str, Any], folder: Path) -> Path:
    """Write throughput.json into a folder of results."""
    write_json(folder / THROUGHPUT, measured)
    return folder / THROUGHPUT
