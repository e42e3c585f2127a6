"""The options of `hcnn train`, read in two stages.

First the words are parsed, once, into what was given: which options there are depends on the network that --model
names, and on nothing else. Then model, recipe and data imply the defaults of everything that was not given.
"""

from argparse import SUPPRESS, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from hcnn.cli.options import Parser, Setting, add_setting, name_or_path, read_assignment, settings_of, with_settings
from hcnn.text import is_number, suggest_name

DEFAULT_MODELS = {"digits": "hcnn_digits", "cifar10": "hcnn_small_cifar10", "cifar100": "hcnn_cifar100"}
REFUSED: dict[str, str] = dict.fromkeys(("channels", "classes"), "follows from the data and cannot be set")
_COMMON = {
    "epochs": "Passes over the training set. Default: the recipe's.",
    "batch_size": "Images per step. Default: the recipe's.",
    "lr": "Peak learning rate. Default: the recipe's.",
    "precision": "float32, bfloat16 (convolutions only) or auto, the faster one here. Default: the recipe's.",
}
_COMMON_KINDS = {"epochs": int, "batch_size": int, "lr": float, "precision": Literal["auto", "float32", "bfloat16"]}


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
        reason: a sentence on what was chosen for a folder, or "".
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
        if value == "":
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
        found[name] = _of_its_kind(name, value)
    return _with_defaults({**found, "seeds": 1}, settings, initial)


def _of_its_kind(name: str, value: Any) -> Any:
    """A value that Python gave for an option whose words argparse would have converted."""
    if value is None:
        return None
    if name in ("output", "teacher", "data_dir"):
        if not isinstance(value, str | PathLike):
            raise ValueError(f"{name}: expected a path; got {value!r}")
        return Path(value)
    if name in ("seed", "validation", "train_images", "freeze", "threads"):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name}: expected a whole number; got {value!r}")
        return int(value)
    if name == "checkpoint_seconds" and not is_number(value):
        raise ValueError(f"{name}: expected a number; got {value!r}")
    return value


def make_parser(
    words: Sequence[str] = (), description: str = "", command: str = "train"
) -> tuple[Parser, dict[str, Setting]]:
    """The parser of `hcnn train` or `hcnn tune`, with an option for every setting of the named network and recipe.

    Args:
        words: as they were typed; help among them is answered with the most used options.
        description: for the help.
        command: "train" or "tune".

    Returns:
        The parser, and the settings by name.
    """
    parser = Parser(command, description, usage="[DATA] [options]")
    parser.refused = {f"--{name}": why for name, why in REFUSED.items()}
    common = parser.add_argument_group("most used")
    if command == "tune":
        common.add_argument(
            "--trials", type=int, default=9, metavar="N", help="Number of settings in the first round. Default: 9."
        )
    _add_common(parser, common, command)
    if {"-h", "--help"} & {*words}:  # without the settings, which take PyTorch to list
        for name, text in _COMMON.items():
            add_setting(common, Setting(name, _COMMON_KINDS[name], ""), None, described=text)
        parser.parse_args(["--help"])
    _add_rare(parser.add_argument_group("less used"))
    parser.set_defaults(test=True, test_flips=False, cuda_graph=False)
    early = Parser(command)
    early.add_argument("--model")
    early.add_argument("--recipe")
    early.add_argument("--init")
    named, _ = early.parse_known_args(list(words))
    return parser, _add_settings(parser, common, named.model, named.recipe, named.init)


def _add_common(parser: Parser, group: Any, command: str) -> None:
    parser.add_argument(
        "data", nargs="?", type=name_or_path, default="digits", metavar="DATA",
        help="digits, cifar10, cifar100, a folder with a subfolder of images for each class, or an .npz file. Default: "
        "digits.",
    )  # fmt: skip
    parser.add_argument("--help-all", action="store_true", default=SUPPRESS, help="List every option and exit.")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="Change any setting that --help-all lists, such as --set boundary=circular or --set downsample=3,5; can "
        "be repeated.",
    )  # fmt: skip
    add = group.add_argument
    add("--model", default=None, metavar="NAME", help="Network; `hcnn models` lists the names. Default: by the data.")
    add(
        "--recipe", default=None, metavar="NAME",
        help="Named recipe: cifar, fast, digits, paper, published, or that of a baseline's publication. Default: the "
        "recipe recommended for the model.",
    )  # fmt: skip
    place = "Run folder. Default: runs/" if command == "train" else "Folder of the search. Default: runs/tune-"
    add("--output", type=Path, metavar="FOLDER", help=f"{place}DATA-MODEL-SEED.")
    add(
        "--seed", type=int, default=0, metavar="N",
        help="Random seed for initialization, data order and augmentation. Default: 0.",
    )  # fmt: skip
    if command == "train":
        add(
            "--seeds", type=int, default=1, metavar="N",
            help="Train with N seeds in turn, from --seed on, and report mean and standard deviation. Default: 1.",
        )  # fmt: skip
    else:
        parser.refused["--seeds"] = "a search compares its trials with one seed, --seed"
        parser.set_defaults(seeds=1)
    add(
        "--resume", action="store_true",
        help="Resume from the newest valid checkpoint of the run folder, or start if there is none. With more --epochs "
        "than the run had, its schedule is computed anew for them." if command == "train" else
        "Resume the search in the folder within the trial that was interrupted, or start if there is none.",
    )  # fmt: skip
    add(
        "--validation", type=int, metavar="N", default=SUPPRESS,
        help="Training images to hold out and measure after each epoch, the same ones for every seed; the weights of "
        "the epoch that does best on them are kept. Default: "
        + ("0, or a fifth of a folder without held-out images." if command == "train" else "a fifth."),
    )  # fmt: skip
    add(
        "--validation-data", type=name_or_path, metavar="PATH",
        help="Validation images of your own, in place of --validation: a folder with a subfolder for each class, or an "
        ".npz file.",
    )  # fmt: skip
    add(
        "--image-size", type=int, default=None, metavar="N",
        help="Resize images of a folder to this side length. Default: derived from the median size and printed.",
    )  # fmt: skip
    add("--device", default="cpu", help="PyTorch device; cuda is the GPU of the local rank. Default: cpu.")
    add("--threads", type=int, metavar="N", help="Number of CPU threads. Default: PyTorch's own choice.")
    add(
        "--attribute", action="append", dest="attributes", metavar="TIE", default=SUPPRESS,
        help="Tie a property of images to an attribute: hue=v3@3 makes hue a translation of x_3 along v3. Can be "
        "repeated, and continued with :weight=W, :range=LOW..HIGH and :period=P. Makes the network periodic.",
    )  # fmt: skip
    add(
        "--init", type=name_or_path, default=None, metavar="SOURCE",
        help="Start from a trained network: the name of one with pretrained weights, a run folder, a Hub folder, or "
        "the weights file in either. Its settings and the standardization of its images are kept; the class layer is "
        "made anew unless the classes are the same.",
    )  # fmt: skip
    add(
        "--freeze", type=int, default=0, metavar="N",
        help="With --init: keep the weights and the running statistics of the first N layers (of a baseline, stages). "
        "Default: 0.",
    )  # fmt: skip


def _add_rare(group: Any) -> None:
    add, switch = group.add_argument, BooleanOptionalAction
    add(
        "--train-images", type=int, metavar="N",
        help="Train on N of the training images only, in the proportions of the classes; the same ones for every seed.",
    )  # fmt: skip
    add(
        "--test", action=switch,
        help="Measure the test set once, after training. Use --no-test while choosing settings. Default: on.",
    )  # fmt: skip
    add("--teacher", type=Path, metavar="RUN", help="Run folder of a trained network to distil from.")
    add(
        "--teach", default="none", metavar="NAME",
        help="Named distillation: soft_targets, attention, attention_soft or fitnet. Default: none.",
    )  # fmt: skip
    add("--test-flips", action=switch, help="Also report test accuracy averaged with mirrored images.")
    add("--cuda-graph", action=switch, help="Record the training step as a CUDA graph; for one GPU.")
    add("--data-dir", type=Path, help="Folder of the data sets. Default: $HCNN_DATA, else ~/.cache/hcnn.")
    add(
        "--bad-images", choices=("refuse", "skip"), default="refuse",
        help="What to do with damaged files in a folder of images. Default: refuse.",
    )  # fmt: skip
    add(
        "--checkpoint-seconds", type=float, default=300.0, metavar="X",
        help="Write a checkpoint after each epoch, and whenever this many seconds have passed. Default: 300.",
    )  # fmt: skip


def _add_settings(
    parser: Parser, common: Any, model: str | None, recipe: str | None, init: str | None
) -> dict[str, Setting]:
    """Declare an option for every setting of the network, the recipe and distillation; returns them."""
    from hcnn.models.registry import model_config
    from hcnn.training.distillation.config import DistillationConfig

    model = model or DEFAULT_MODELS["digits"]
    sections = [
        (f"network ({model})", model_config(model)),
        ("recipe", _recipe(model, recipe)[1]),
        ("distillation, with --teacher", DistillationConfig()),
    ]
    if init is not None:
        sections = sections[1:]
        parser.refused |= {one.option: "follows from --init and cannot be set" for one in _network_settings()}
    found: dict[str, Setting] = {}
    for title, config in sections:
        settings = {name: one for name, one in settings_of(type(config)).items() if name not in REFUSED}
        if twice := settings.keys() & found.keys():
            raise ValueError(f"{title}: expected settings of different names; got {sorted(twice)} twice")
        defaults, group = _values(config), parser.add_argument_group(title)
        for name, one in settings.items():
            if name != "attributes":  # which is --attribute
                place = common if name in _COMMON else group
                add_setting(place, one, defaults[name], described=_COMMON.get(name))
        found |= settings
    return found


def _network_settings() -> list[Setting]:
    """The settings of all kinds of networks, those in `REFUSED` left out."""
    from hcnn.models.registry import list_models, model_config

    kinds = {type(model_config(name)) for name in list_models()}
    return [one for kind in kinds for name, one in settings_of(kind).items() if name not in REFUSED]


def _values(config: Any) -> dict[str, Any]:
    """Every setting of a configuration with its value, those of nested ones among them."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= _values(value) if is_dataclass(value) else {field.name: value}
    return found


def _recipe(model: str, name: str | None) -> tuple[str, Any]:
    """A named recipe, by default the one recommended for the model."""
    from hcnn.models.registry import model_spec
    from hcnn.training.recipes import get_recipe

    name = name or model_spec(model).recipe
    return name, get_recipe(name)


def _with_defaults(given: Mapping[str, Any], settings: Mapping[str, Setting], initial: Any = None) -> TrainOptions:
    """Fill in what was not given, as model, recipe and data imply it."""
    from hcnn.cli.folder_defaults import suggest
    from hcnn.cli.initial import find_initial, further_recipe, source_label
    from hcnn.data.datasets import NAMES
    from hcnn.models.registry import model_config
    from hcnn.training.distillation.config import get_distillation

    data, size = given["data"], given["image_size"]
    folder = Path(data).expanduser()
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
    if data not in NAMES and folder.is_dir():
        held = 0 if apart else given.get("validation")
        wanted = _image_size_of(initial) if size is None else size
        why = f"as for {initial.source}" if size is None and initial is not None else "as requested"
        found = suggest(folder, wanted, given["model"], held, why)
        model, image_size, reason = found.model, found.image_size, found.reason
        if initial is None and found.hint:
            reason += f"\n  {found.hint}"
        validation, name, recipe = found.validation, found.recipe_name, found.recipe
        if initial is not None:
            usual = _recipe(model, name)[1]
            name, further = further_recipe(initial)
            lr = float(f"{further.lr * recipe.lr / usual.lr:.2g}")  # as much lower as for few images
            recipe = replace(further, batch_size=recipe.batch_size, epochs=recipe.epochs, lr=lr)
    else:
        model = given["model"] or DEFAULT_MODELS.get(data, "hcnn_small_cifar10")
        name, recipe = _recipe(model, None) if initial is None else further_recipe(initial)
    if given["recipe"]:
        name, recipe = _recipe(model, given["recipe"])
    changed = {name: value for name, value in given.items() if name in settings}
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
    data = Path(given["data"]).stem or "data"
    return given["output"] or Path("runs") / f"{data}-{label}-{given['seed']}"
