"""The options of `hcnn train`, read in two stages.

First the words are parsed, once, into what was given: which options there are depends on the network that --model
names, and on nothing else. Then model, recipe and data imply the defaults of everything that was not given.
"""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

from hcnn.cli.options import Setting, read_assignment, with_settings
from hcnn.cli.train_parser import DEFAULT_MODELS, make_parser, named_recipe
from hcnn.storage.user_paths import user_path
from hcnn.text import is_number, suggest_name


@dataclass(frozen=True)
class TrainOptions:
    """What `hcnn train` is asked to do, with every default filled in.

    Attributes:
        data: name of the data set, or a path.
        model: name of the network.
        recipe_name: name of the recipe that `recipe` was made from.
        network: configuration of the network; `channels` and `classes` follow from the data.
        recipe: how to train it.
        distillation: what is learned from the teacher.
        image_size: side, or (height, width), to which a folder's images are resized, or None.
        validation: number of training images to set aside.
        reason: a sentence on what was chosen for a folder or an .npz file, or "".
        initial: the trained network that training starts from, or None.
        output: the run folder; of several seeds, the folder of their run folders.
        rest: the other options as they were given.
        given: names of the settings that were given.
        words: as they were typed.
    """

    data: str
    model: str
    recipe_name: str
    network: Any
    recipe: Any
    distillation: Any
    image_size: int | tuple[int, int] | None
    validation: int
    reason: str
    initial: Any
    output: Path
    rest: Any
    given: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()


def read(words: Sequence[str], description: str = "", command: str = "train") -> TrainOptions:
    """Read the words after `hcnn train`, or after `hcnn tune`, which has the same options and some of its own.

    Args:
        words: as they were typed.
        description: for the help.
        command: "train" or "tune".

    Returns:
        The options.

    Raises:
        ValueError: for unknown models, recipes and keys of --set, and values out of range.
        SystemExit: after help, and for words that cannot be parsed.
    """
    parser, settings = make_parser(words, description, command)
    if "--help-all" in words:
        parser.parse_args(["--help"])
    given = vars(parser.parse(words))
    refused = {option[2:].replace("-", "_"): why for option, why in parser.refused.items()}
    for text in given.pop("set"):
        name, value = read_assignment(text, settings, refused)
        if name in given:
            raise ValueError(f"{name}: expected one value; it is given twice")
        given[name] = value
    return replace(_with_defaults(given, settings), words=tuple(words))


def from_keywords(data: str, given: Mapping[str, Any], initial: Any = None) -> TrainOptions:
    """The options of `hcnn.train`, by the names that they have on the command line.

    Args:
        data: name of the data set, or a path.
        given: values by option, with underscores.
        initial: the trained network that `init` in `given` names, if it is in memory.

    Returns:
        The options.

    Raises:
        ValueError: for an unknown option (similar ones are suggested), or a value out of range.
    """
    for name, value in {"data": data, **given}.items():
        if isinstance(value, str) and not value:
            raise ValueError(f"{name}: expected a value; got ''")
    words = [f"--{name}={given[name]}" for name in ("model", "recipe", "init") if given.get(name) is not None]
    parser, settings = make_parser(words)
    found = vars(parser.parse([*words, "--", data]))
    for name in ("set", "seeds"):  # of the command only
        del found[name]
    refused = {option[2:].replace("-", "_"): why for option, why in parser.refused.items()}
    for name, value in given.items():
        if name in refused:
            raise ValueError(f"{name}: {refused[name]}")
        if name not in (known := {*found, *settings, "validation"}):
            raise ValueError(f"train: unknown option {name!r}; {suggest_name(name, known)}")
        if value is None:  # as if it were not given
            continue
        found[name] = _of_its_kind(name, value, flag=isinstance(found.get(name), bool))
    return _with_defaults({**found, "seeds": 1}, settings, initial)


def _of_its_kind(name: str, value: Any, *, flag: bool) -> Any:
    """A value that Python gave for an option whose words argparse would have converted."""
    if type(value).__module__ == "numpy":  # JSON holds Python's numbers only
        value = tuple(value.tolist()) if value.ndim else value.item()
    if flag and not isinstance(value, bool):  # "no" would mean yes
        raise ValueError(f"{name}: expected True or False; got {value!r}")
    if name in ("output", "teacher", "data_dir", "validation_data"):
        if not isinstance(value, str | PathLike):
            raise ValueError(f"{name}: expected a path; got {value!r}")
        return os.fspath(value) if name == "validation_data" else user_path(value)
    if name in ("seed", "validation", "train_images", "freeze", "threads"):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name}: expected a whole number; got {value!r}")
        return int(value)
    if name == "checkpoint_seconds" and not is_number(value):
        raise ValueError(f"{name}: expected a number; got {value!r}")
    return value


def _with_defaults(given: Mapping[str, Any], settings: Mapping[str, Setting], initial: Any = None) -> TrainOptions:
    """Fill in what was not given, as model, recipe and data imply it."""
    from hcnn.cli.folder_defaults import suggest
    from hcnn.cli.initial import find_initial, further_recipe, source_label
    from hcnn.data.datasets import NAMES
    from hcnn.models.registry import model_config
    from hcnn.training.distillation.config import get_distillation
    from hcnn.training.recipe import SCHEDULE, changed_recipe

    data, size = given["data"], given["image_size"]
    folder = user_path(data)
    image_size: int | tuple[int, int] | None = size
    apart = given["validation_data"] is not None
    if apart and "validation" in given:
        raise ValueError("--validation-data: expected no --validation beside it; got both")
    validation, reason = given.get("validation", 0), ""
    source, seed = given["init"], given["seed"]
    label = source and source_label(source)
    if source is not None:
        output = _output(given, label)
        one = output if given["seeds"] == 1 else output / f"seed-{seed}"
        initial = find_initial(source, given["model"], one if given["resume"] else None, initial)
    if data not in NAMES and (folder.is_dir() or (folder.is_file() and folder.suffix.lower() == ".npz")):
        held = 0 if apart else given.get("validation")
        wanted = _image_size_of(initial) if size is None else size
        why = f"as for {initial.source}" if size is None and initial is not None else "as requested"
        found = suggest(folder, wanted, given["model"], held, why)
        model, image_size, reason = found.model, found.image_size or size, found.reason
        if initial is None and found.hint:
            reason += f"\n  {found.hint}"
        validation, name, recipe = found.validation, found.recipe_name, found.recipe
        if initial is not None:
            usual = named_recipe(model, name)[1]
            name, further = further_recipe(initial)
            lr = float(f"{further.lr * recipe.lr / usual.lr:.2g}")  # as much lower as for few images
            recipe = replace(further, batch_size=recipe.batch_size, epochs=recipe.epochs, lr=lr)
    else:
        model = given["model"] or DEFAULT_MODELS.get(data, "hcnn_small_cifar10")
        name, recipe = named_recipe(model, None) if initial is None else further_recipe(initial)
    if given["recipe"]:
        name, recipe = named_recipe(model, given["recipe"])
    changed = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in settings
    }
    recipe = changed_recipe(recipe, {name: changed[name] for name in SCHEDULE if name in changed})
    if changed.get("attributes") and "boundary" in settings:  # a translation is exact in a periodic network only
        changed.setdefault("boundary", "circular")
    return TrainOptions(
        data,
        label or model,
        name,
        initial.config if initial else with_settings(model_config(model), changed),
        with_settings(recipe, changed),
        with_settings(get_distillation(given["teach"]), changed),
        image_size,
        validation,
        reason,
        initial,
        _output(given, label or model),
        Namespace(**{key: value for key, value in given.items() if key not in settings}),
        frozenset(changed),
    )


def _image_size_of(initial: Any) -> tuple[int, int] | None:
    """The size of the images that an initial network was trained with."""
    sides = () if initial is None else initial.preprocessing.size
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _output(given: Mapping[str, Any], label: str) -> Path:
    """The run folder: the one given, or one named for the data, the network and the seed."""
    data = user_path(given["data"])
    name = (data.name if data.is_dir() else data.stem) or "data"
    return given["output"] or Path("runs") / f"{name}-{label}-{given['seed']}"
