"""The parser of `hcnn train` and `hcnn tune`; which options it has depends on the network that --model names."""

from argparse import SUPPRESS, BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from hcnn.cli.options import Parser, Setting, add_setting, name_or_path, settings_of

DEFAULT_MODELS = {"digits": "hcnn_digits", "cifar10": "hcnn_small_cifar10", "cifar100": "hcnn_cifar100"}
REFUSED: dict[str, str] = dict.fromkeys(("channels", "classes"), "follows from the data and cannot be set")
_COMMON = {
    "epochs": "Passes over the training set. Default: the recipe's.",
    "batch_size": "Images per step. Default: the recipe's.",
    "lr": "Peak learning rate. Default: the recipe's.",
    "precision": "float32, bfloat16 (convolutions only) or auto, the faster one here. Default: the recipe's.",
}
_COMMON_KINDS = {"epochs": int, "batch_size": int, "lr": float, "precision": Literal["auto", "float32", "bfloat16"]}


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
        "than the run had, it is trained further by the schedule of the new number." if command == "train" else
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
        help="Resize images of a folder to this side length. Default: their common size, if it is between 8 and 64 "
        "pixels, or else a size derived from the median; it is printed.",
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
        "initialized anew unless the classes are the same.",
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
        ("recipe", named_recipe(model, recipe)[1]),
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


def named_recipe(model: str, name: str | None) -> tuple[str, Any]:
    """A recipe with its name.

    Args:
        model: name of the network.
        name: of the recipe; None for the one that is recommended for the network.

    Returns:
        The name and the recipe.

    Raises:
        ValueError: if there is no such network or recipe.
    """
    from hcnn.models.registry import model_spec
    from hcnn.training.recipes import get_recipe

    name = name or model_spec(model).recipe
    return name, get_recipe(name)
