"""The words of `hcnn train`: what was given, and what model, recipe and data imply for the rest."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hcnn
from hcnn import cli
from hcnn.cli import train_options
from hcnn.cli.options import settings_of
from hcnn.training import AttributeTie
from hcnn.training.distillation.config import DistillationConfig, get_distillation
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("options") / "digits photos"  # a name of data is part of it
    for shade, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((20, 30), 100 * shade + number, np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("words", "model", "recipe"),
    [
        ([], "hcnn_digits", "digits"),
        (["digits"], "hcnn_digits", "digits"),
        (["cifar10"], "hcnn_small_cifar10", "cifar"),
        (["cifar100"], "hcnn_cifar100", "cifar"),
        (["cifar10", "--output", "digits"], "hcnn_small_cifar10", "cifar"),  # a value that looks like data
        (["--output", "cifar100", "digits"], "hcnn_digits", "digits"),
        (["--teach", "none", "--output=digits", "cifar10"], "hcnn_small_cifar10", "cifar"),
        (["cifar10", "--model", "nin_digits"], "nin_digits", "digits_muon"),
        (["--model=maxout_cifar10", "cifar10"], "maxout_cifar10", "fast_plain"),
        (["cifar10", "--recipe", "paper"], "hcnn_small_cifar10", "paper"),
    ],
)
def test_model_and_recipe_follow_from_the_data(words, model, recipe) -> None:
    found = train_options.read(words)
    assert (found.model, found.recipe_name) == (model, recipe)
    assert (found.network, found.recipe) == (hcnn.model_config(model), get_recipe(recipe))


def test_milestones_move_with_the_epochs_unless_they_are_given() -> None:
    words = ["cifar10", "--recipe", "wrn", "--epochs", "50"]
    assert train_options.read(words).recipe == get_recipe("wrn", epochs=50)
    assert train_options.read(words).recipe.milestones == (15, 30, 40)
    given = train_options.read([*words, "--milestones", "20", "--factors", "0.1"]).recipe
    assert (given.milestones, given.factors) == ((20,), (0.1,))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--attribute-support", "3", "5"],
        ["--downsample", "3", "5", "--seed", "1"],
        ["--no-test"],
        ["--test-flips"],
        ["--output", "cifar10"],
        ["--set", "attribute_support=3,5"],
    ],
)
def test_a_folder_keeps_its_defaults_wherever_it_stands(folder, options, first) -> None:
    found = train_options.read([str(folder), *options] if first else [*options, str(folder)])
    assert (found.data, found.model, found.image_size) == (str(folder), "hcnn_small_cifar10", (20, 30))
    assert (found.validation, found.recipe.batch_size) == (4, 8)
    assert "20 training images of 2 classes" in found.reason


def test_what_is_given_wins_over_what_a_folder_implies(folder) -> None:
    words = [str(folder), "--validation", "0", "--batch-size", "7", "--set", "epochs=3", "--image-size", "16"]
    found = train_options.read(words)
    assert (found.validation, found.recipe.batch_size, found.recipe.epochs) == (0, 7, 3)
    assert (found.image_size, found.model) == ((16, 16), "hcnn_digits")


@pytest.mark.parametrize(
    "words",
    [
        ["train", ""],
        ["train", "--output", ""],
        ["train", "--validation-data", ""],
        ["train", "--init="],
        ["tune", "--teacher", ""],
        ["predict", ""],
        ["predict", "hcnn_digits", ""],
        ["evaluate", "hcnn_digits", "--output", ""],
        ["evaluate", "hcnn_digits", "--data", ""],
        ["export", "hcnn_digits", "--to", "c", "--output", ""],
        ["explore", "hcnn_digits", "--data-dir", ""],
        ["summary", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(words, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert re.match(r"hcnn [a-z]+: [^ ]+: expected a name or a path; got ''; see hcnn", capsys.readouterr().err)


@pytest.mark.parametrize(("data", "given"), [("", {}), ("digits", {"output": ""}), ("digits", {"init": ""})])
def test_an_empty_path_is_refused_from_python_too(data, given) -> None:
    with pytest.raises(ValueError, match=r"(data|output|init): expected a value; got ''"):
        train_options.from_keywords(data, given)


@pytest.mark.parametrize(("size", "got"), [("0", "0"), ("-3", "-3"), ("100000", "100000 × 100000")])
def test_image_sizes_that_cannot_be_are_refused(folder, size, got, tmp_path, capsys) -> None:
    assert cli.main(["train", str(folder), "--image-size", size, "--output", str(tmp_path / "run")]) == 2
    assert re.search(rf"image_size: expected .*; got {got}$", capsys.readouterr().err.strip())


def _values(config: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, field.name)
        found |= _values(value) if is_dataclass(value) else {field.name: value}
    return found


@pytest.mark.parametrize(
    "name", ["hcnn_digits", "multiscale_tiny", "nin_digits", "maxout_digits", "densenet_bc40_cifar10"]
)
def test_every_setting_is_an_option_and_a_key_of_set(name) -> None:
    config, recipe, distillation = hcnn.model_config(name), get_recipe("published"), get_distillation("fitnet")
    values = _values(config) | _values(recipe) | _values(distillation)
    by_option, by_set = ["--model", name], ["--model", name]
    for key, value in values.items():
        if key in ("channels", "classes", "attributes"):  # the last is tested below
            continue
        option = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            by_option.append(option if value else option.replace("--", "--no-"))
        elif isinstance(value, tuple):
            by_option += [option, *map(str, value)]
        else:
            by_option += [option, str(value)]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        by_set += ["--set", f"{key}={text}"]
    for words in (by_option, by_set):
        found = train_options.read([*words, "--seed", "1"])
        assert (found.network, found.recipe, found.distillation) == (config, recipe, distillation)


def test_attributes_are_given_one_by_one_and_make_the_network_periodic() -> None:
    ties = (AttributeTie("hue", "v3", 3), AttributeTie("position right", "v2", 4, 0.5))
    texts = ("hue=v3@3", "position-right=v2@4:weight=0.5")
    by_option = train_options.read(["cifar10", "--attribute", texts[0], "--attribute", texts[1]])
    by_set = train_options.read(["cifar10", "--set", "attributes=" + ",".join(texts)])
    for found in (by_option, by_set):
        assert found.recipe == get_recipe("cifar", attributes=ties)
        assert found.network == hcnn.model_config("hcnn_small_cifar10", boundary="circular")
    one = train_options.from_keywords("cifar10", {"attributes": texts[0]})  # a text, no sequence of letters
    assert one.recipe == get_recipe("cifar", attributes=texts[0]) == get_recipe("cifar", attributes=ties[0])
    assert one.recipe.attributes == ties[:1]
    assert train_options.read(["--attribute", texts[0], "--boundary", "zeros"]).network.boundary == "zeros"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attribute", "hew=v3@3"], "attribute 'hew=v3@3': property: unknown 'hew'; did you mean hue"),
        (["--attribute", "hue"], "attribute: expected PROPERTY=ATTRIBUTE@DEPTH, as in hue=v3@3"),
        (["--attribute", "hue=v3@3", "--set", "attributes=hue=v3@3"], "attributes: expected one value"),
        (["--attribute", "hue=v3@3", "--epochs", "1"], "1 channel and 2 spatial axes have no 'hue'; expected one of"),
        (["--attribute", "scale=v3@3", "--boundary", "zeros"], "attribute scale=v3@3: expected a periodic network"),
        (["--attribute", "scale=v9@3"], "attribute scale=v9@3: expected one of v1, v2, v3 of x_3"),
        (["--attribute", "scale=v3@3", "--model", "nin_digits"], "expected a network with attributes; got a Net"),
        (["--set", "witdh=8"], "--set: unknown key 'witdh'; did you mean width?"),
        (["--set", "width"], "--set: expected KEY=VALUE, as in --set width=8; got 'width'"),
        (["--set", "width=wide"], "--set width: expected a whole number; got 'wide'"),
        (["--set", "lr=fast"], "--set lr: expected a number; got 'fast'"),
        (["--set", "nesterov=maybe"], "--set nesterov: expected true or false; got 'maybe'"),
        (["--set", "boundary=round"], "--set boundary: expected zeros or circular; got 'round'"),
        (["--set", "attribute_support=3"], "--set attribute_support: expected 2 values, separated by commas; got '3'"),
        (["--set", "classes=3"], "--set classes: follows from the data and cannot be set"),
        (["--channels", "3"], "--channels: follows from the data and cannot be set"),
        (["--width", "8", "--set", "width=4"], "width: expected one value; it is given twice"),
        (["--set", "width=4", "--set", "width=4"], "width: expected one value; it is given twice"),
        (["--model", "hcnn_digit"], "unknown model 'hcnn_digit'; did you mean hcnn_digits"),
        (["--recipe", "fats"], "unknown recipe 'fats'; did you mean fast"),
        (["--width", "6"], "K = 6 does not fit depth J = 7"),
        (["--depth", str(10**9)], "depth: expected at most 2,000 layers; got 1000000000"),
        (["--spatial-support", str(10**9 + 1)], "out of memory"),
        (["--seeds", str(10**9)], "--seeds: expected 1 to 10,000; got 1000000000"),
        (
            ["--set", "image_sizes=4,16", "--set", "image_sizes_until=0.2,0.5"],
            "image_sizes: expected sides of at most 8, as the images have; got 16",
        ),
        (["--milestones", "3", "--factors", "0.1"], "milestones: expected --schedule step beside it, without which"),
        (["--attribute-warmup", "0.2"], "attribute_warmup: expected ties or topography beside it"),
        (
            ["--teacher", "none", "--teach", "soft_targets", "--set", "pairs=layers.1=layers.1"],
            "pairs: expected attention or hints beside it",
        ),
    ],
)
def test_settings_that_cannot_be_are_explained(words, message, capsys) -> None:
    assert cli.main(["train", "digits", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epocs", "3"], "unknown option '--epocs'; did you mean --epochs"),
        (["--seed", "x"], "--seed: expected a whole number; got 'x'"),
        (["--checkpoint-seconds", "x"], "--checkpoint-seconds: expected a number; got 'x'"),
        (["-x"], "unknown option '-x'; see hcnn train --help"),
        (["--width", "wide"], "--width: expected a whole number; got 'wide'"),
        (["--boundary", "round"], "--boundary: expected zeros or circular; got 'round'"),
        (["--output"], "--output: expected one argument"),
        (["digits", "digits"], "expected no further word; got 'digits'"),
        (["--epoch=3"], "unknown option '--epoch'; did you mean --epochs"),  # nothing is abbreviated
    ],
)
def test_words_that_cannot_be_read_are_explained_in_one_line(words, message, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hcnn train: {message}")
    assert error.count("\n") == 1


def test_help_says_the_defaults_of_the_model_and_recipe(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help-all", "--model", "hcnn_cifar100", "--recipe", "published"])
    out = " ".join(capsys.readouterr().out.split())
    for part in ("network (hcnn_cifar100)", "Q, separable terms", "Default: 11 11.", "Default: off.", "Default: none."):
        assert part in out
    assert "--milestones [N ...] Epochs at which" in out
    assert "Default: 40 80 120 160 200 240 260 280 300." in out


def _help(capsys, *words: str) -> dict[str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *words])
    assert stop.value.code == 0
    return dict(re.findall(r"^  (?:-h, )?(--[a-z-]+)(.*)", capsys.readouterr().out, flags=re.MULTILINE))


def test_help_shows_what_most_people_use_and_help_all_the_rest(capsys) -> None:
    short, everything = _help(capsys, "--help"), _help(capsys, "--help-all")
    assert 15 <= len(short) <= 21
    for name, text in short.items():  # although it is made without loading the settings
        assert everything[name] == text
    kinds = (type(hcnn.model_config("hcnn_digits")), Recipe, DistillationConfig)
    settings = {one.option for kind in kinds for one in settings_of(kind).values()}
    assert settings - {"--channels", "--classes", "--attributes"} | {"--attribute"} <= everything.keys()
    assert not {"--channels", "--classes"} & everything.keys()
    assert "--widths" in _help(capsys, "--help-all", "--model", "nin_cifar10")


def test_options_may_be_spelt_with_underscores() -> None:
    assert train_options.read(["digits", "--batch_size=9", "--attribute_support", "3", "3"]).recipe.batch_size == 9


def test_a_tilde_is_the_home_folder_for_every_path(folder, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    found = train_options.read([f"~/{folder.name}", "--output=~/run", "--data-dir=~/data"])
    assert (found.output, found.rest.data_dir) == (folder.parent / "run", folder.parent / "data")
    given = {"output": "~/run", "data_dir": "~/data"}
    found = train_options.from_keywords(f"~/{folder.name}", given)
    assert (found.output, found.rest.data_dir) == (folder.parent / "run", folder.parent / "data")
    with pytest.raises(FileNotFoundError, match=f"'{folder.parent}/none'"):
        hcnn.load("hcnn_digits").predict("~/none")
    with pytest.raises(ValueError, match=rf"^{folder.parent}/none: expected a run folder"):
        hcnn.load("~/none")


def test_a_point_in_the_name_of_a_folder_is_no_suffix(tmp_path) -> None:
    for name in ("x.v1", "x.npz"):
        (tmp_path / name / "a").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "a" / "1.png")
        found = train_options.read([str(tmp_path / name)])
        assert found.output.as_posix() == f"runs/{name}-hcnn_digits-0"


def test_numbers_of_numpy_are_numbers() -> None:
    found = train_options.from_keywords("digits", {"epochs": np.int64(2), "lr": np.float32(0.5), "seed": np.int64(3)})
    assert (found.recipe.epochs, found.recipe.lr, found.rest.seed) == (2, 0.5, 3)
    assert type(found.recipe.epochs) is int
    with pytest.raises(ValueError, match=r"lr: expected .*; got \(1.0, 2.0\)"):
        train_options.from_keywords("digits", {"lr": np.array([1.0, 2.0])})
    with pytest.raises(ValueError, match="validation_data: expected a path; got 3"):
        train_options.from_keywords("digits", {"validation_data": 3})
