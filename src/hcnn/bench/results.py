"""Every finished run below a folder, as the comparison needs it."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hcnn.models.records import network_config
from hcnn.models.registry import NetworkConfig, list_models, model_config
from hcnn.runs.settings import CONFIG, RESULT, completed_recipe, network_kind
from hcnn.storage.records import read_object


@dataclass(frozen=True)
class Result:
    """A finished run as the comparison sees it.

    Attributes:
        path: its result.json.
        model: the name of its network, or None if that network has no name.
        distilled: whether it learned from a teacher, too.
        data: the data set it was trained on.
        recipe: all but data and network that runs of several seeds share, as JSON: recipe, teaching, number of training
            images, and when the run got more epochs.
        seed: of the run.
        accuracy: on the test set, or on validation images if the test set was not read.
        tested: whether the accuracy is that on the test set.
        images: training images seen, counting every epoch.
    """

    path: Path
    model: str | None
    distilled: bool
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
        say: told of each result that is left out, with the reason.

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
            result, config = (read_object(path.parent / name) for name in (RESULT, CONFIG))
            if "test_accuracy" not in result and "validation_accuracy" not in result:
                say(f"left out {path}: neither test nor validation accuracy in it")
                continue
            if reason := _no_run_of_its_own(result, config):
                say(f"left out {path}: {reason}")
                continue
            one = _result(path, result, config, names)
            first = seen.setdefault(str(result["weights_sha256"]), path)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: expected a run's result with its {CONFIG}; {error!r}") from error
        if first != path:
            say(f"left out {path}: the same run as {first}")
            continue
        found.append(one)
    return found


def _no_run_of_its_own(result: dict[str, Any], config: dict[str, Any]) -> str:
    """Why config.json and result.json do not describe one training from random weights; "" if they do."""
    if "init" in config:
        return "it started from trained weights, which the comparison does not count"
    finished, epochs = result["epochs"], config["recipe"]["epochs"]
    return f"it is being trained further, from {finished} to {epochs} epochs" if finished < epochs else ""


def _result(path: Path, result: dict[str, Any], config: dict[str, Any], names: dict[str, str]) -> Result:
    tested = "test_accuracy" in result
    accuracy = float(result["test_accuracy" if tested else "validation_accuracy"])
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy: expected 0 to 1; got {accuracy}")
    network = _key(network_config(config, str(path)))  # fields that are newer than the run have their defaults
    known = completed_recipe(config)
    shared = [known["recipe"], known.get("teaching"), result["train_images"], config.get("extended")]
    recipe = json.dumps(shared, sort_keys=True)
    images = int(result["epochs"]) * int(result["train_images"])
    data, seed = str(result["data"]), int(result["seed"])
    return Result(path, names.get(network), "teacher" in config, data, recipe, seed, accuracy, tested, images)


def _key(network: NetworkConfig) -> str:
    """A network's configuration as config.json has it."""
    return json.dumps([network_kind(network), json.loads(json.dumps(asdict(network)))], sort_keys=True)
