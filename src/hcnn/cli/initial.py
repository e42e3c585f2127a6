"""`hcnn train --init`: the trained network that training starts from, and how it is trained further."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from hcnn.export.opening import open_network
from hcnn.models.pretrained import list_pretrained
from hcnn.models.records import network_kind
from hcnn.models.registry import model_config, recommended_recipe
from hcnn.runs.initial import Initial, initial_network, recorded_initial
from hcnn.runs.settings import CONFIG
from hcnn.storage.records import read_object
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe


def source_label(source: str) -> str:
    """A short name for what --init names, for run folders.

    Example:
        >>> source_label("runs/demo"), source_label("runs/demo/weights.safetensors")
        ('from-demo', 'from-demo')
    """
    path = Path(source).resolve()
    return f"from-{(path.parent if path.suffix == '.safetensors' else path).name}"


def find_initial(source: str, model: str | None, resumed: Path | None, initial: Initial | None = None) -> Initial:
    """The network that --init names.

    A run that is resumed does not need it any more: if it is gone, what config.json says of it is enough.

    Args:
        source: as `hcnn.export.opening.open_network` takes it.
        model: what --model names, or None.
        resumed: the run folder that is resumed, or None.
        initial: the network, if it is in memory already.

    Raises:
        ValueError: if it is not a trained network, is folded, or is not what --model names.
    """
    gone = source not in list_pretrained() and not Path(source).exists()
    if initial is None and resumed is not None and gone and (resumed / CONFIG).is_file():
        initial = recorded_initial(read_object(resumed / CONFIG), str(resumed / CONFIG))
    elif initial is None:
        run = open_network(source)
        initial = initial_network(source, run.model, run.preprocessing)
    if model is not None and (differs := _differences(model_config(model), initial.config)):
        raise ValueError(f"--model {model}: expected the network of --init {source}; they differ in {differs}")
    return initial


def _differences(named: Any, found: Any) -> str:
    """What distinguishes two configurations, apart from classes and channels."""
    if type(named) is not type(found):
        return f"the kind of network ({network_kind(named)} here, {network_kind(found)} there)"
    pairs = {one.name: (getattr(named, one.name), getattr(found, one.name)) for one in fields(named)}
    unequal = [name for name, (one, other) in pairs.items() if one != other and name not in ("channels", "classes")]
    return ", ".join(f"{name} ({pairs[name][0]} here, {pairs[name][1]} there)" for name in unequal)


def describe_initial(initial: Initial, freeze: int, classes: tuple[str, ...]) -> str:
    """A sentence on what training starts from."""
    kept = initial.preprocessing.classes == classes
    layer = "is kept, as the classes are the same" if kept else f"is initialized anew for {len(classes)} classes"
    frozen = f"; layers 1 to {freeze} are frozen, with their running statistics" if freeze > 1 else ""
    if freeze == 1:
        frozen = "; layer 1 is frozen, with its running statistics"
    return f"starting from {initial.source}: the class layer {layer}{frozen}"


def further_recipe(initial: Initial) -> tuple[str, Recipe]:
    """The recipe to train a trained network further, where none is given: its name and the recipe itself."""
    small = max(initial.preprocessing.size) <= 16
    name = recommended_recipe(initial.config, "digits" if small else "fast")
    return name, get_recipe(name)
