"""Runs that start from a trained network: what is kept, what is new, what stays frozen, and how they are resumed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnn
from hcnn import cli
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.export.folded_weights import export_safetensors
from hcnn.export.opening import open_network
from hcnn.models.registry import model_config
from hcnn.models.transfer import class_entries
from hcnn.runs.initial import Initial, first_network, initial_network
from hcnn.runs.interrupts import Interrupted
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.safetensors import load_weights
from hcnn.training.recipe import Recipe

TINY = model_config("hcnn_digits", width=4, rank=2, depth=5, downsample=(3,))
RECIPE = Recipe(epochs=2, batch_size=32, lr=0.1)


def digits(count: int = 128, *, classes: tuple[str, ...] | None = None, channels: int = 1) -> Splits:
    train = datasets.load("digits").train.subset(range(count))
    images = train.images.repeat(1, channels, 1, 1)
    return Splits(replace(train, images=images, classes=classes or train.classes))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "run"
    train_run(folder, RunSettings(TINY, RECIPE, "digits"), digits())
    return folder


@pytest.fixture(scope="module")
def baseline(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "resnet"
    train_run(folder, RunSettings(model_config("resnet20_digits", depth=8, width=4), RECIPE, "digits"), digits())
    return folder


def initial(where: Path) -> Initial:
    run = open_network(where)
    return initial_network(str(where), run.model, run.preprocessing)


def settings(start: Initial, **changed: Any) -> RunSettings:
    network = replace(start.config, **{key: changed.pop(key) for key in ("classes", "channels") if key in changed})
    return RunSettings(network, changed.pop("recipe", RECIPE), "digits", initial=start, **changed)


OTHERS = tuple("abcdefghij")


@pytest.mark.parametrize("which", ["source", "baseline"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_frozen_layers_stay_and_the_rest_learns(request, tmp_path, which, optimizer) -> None:
    start = initial(request.getfixturevalue(which))
    assert start.network is not None
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01, epochs=1, layer_decay=0.5)
    train_run(tmp_path / "run", settings(start, recipe=recipe, freeze=2), digits(classes=OTHERS))
    before, after = start.network.state_dict(), load_weights(tmp_path / "run" / "weights.safetensors")[0]
    frozen = ("layers.0.", "layers.1.") if which == "source" else ("conv.", "norm.", "groups.0.", "groups.1.")
    for name, value in after.items():
        if name.startswith(frozen):
            assert torch.equal(value, before[name]), name
        elif value.ndim > 0 and "inner_norm" not in name:
            assert not torch.equal(value, before[name]), name


def test_a_deep_freeze_leaves_the_class_layer_alone_to_learn(tmp_path, baseline) -> None:
    start = initial(baseline)
    assert start.network is not None
    train_run(tmp_path / "run", settings(start, freeze=3), digits())
    after = load_weights(tmp_path / "run" / "weights.safetensors")[0]
    changed = {name for name, value in after.items() if not torch.equal(value, start.network.state_dict()[name])}
    assert changed == {"linear.weight", "linear.bias"}


def test_the_class_layer_is_kept_for_the_same_classes_only(tmp_path, source) -> None:
    start = initial(source)
    assert start.network is not None
    still = replace(RECIPE, epochs=1, lr=1e-30)
    trained = start.network.state_dict()
    for folder, classes, kept in (("same", None, True), ("other", OTHERS, False)):
        train_run(tmp_path / folder, settings(start, recipe=still), digits(classes=classes))
        weights = load_weights(tmp_path / folder / "weights.safetensors")[0]
        for name, parameter in start.network.named_parameters():
            expected = kept or name not in class_entries(start.network)
            if parameter.ndim > 1:  # scales of normalizations begin as ones in either
                assert torch.allclose(weights[name], trained[name], atol=1e-6) is expected, name


def test_a_run_trains_in_float32_whatever_its_initial_network_is_in(source) -> None:
    start = initial(source)
    assert start.network is not None
    double = replace(start, network=start.network.double())
    for freeze, classes in ((0, start.preprocessing.classes), (1, OTHERS)):
        model = first_network(start.config, double, freeze, classes)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_record_and_the_way_back(tmp_path, source) -> None:
    start = initial(source)
    train_run(tmp_path / "run", settings(start, channels=3, freeze=1), digits(classes=OTHERS, channels=3))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    digest = json.loads((source / "result.json").read_text())["weights_sha256"]
    assert config["init"] == {"source": str(source), "weights_sha256": digest, "freeze": 1}
    run = open_network(tmp_path / "run")
    assert run.preprocessing.classes == OTHERS
    assert run.preprocessing.mean == start.preprocessing.mean * 3
    assert run.model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert all(parameter.requires_grad for parameter in run.model.parameters())


def stopped(folder: Path, asked: RunSettings, data: Splits) -> None:
    """Train until a checkpoint of the first epoch is there, and stop."""

    def stop(progress: Any) -> None:
        if progress.step == 6:
            raise Interrupted(15, folder)

    with pytest.raises(Interrupted):
        train_run(folder, asked, data, on_step=stop)


def test_a_resumed_run_ends_with_the_same_bits_with_its_source_and_without(tmp_path, source) -> None:
    start, data = initial(source), digits(classes=OTHERS)
    asked = settings(start, freeze=1, seed=3)
    train_run(tmp_path / "whole", asked, data)
    expected = (tmp_path / "whole" / "weights.safetensors").read_bytes()
    for name, resumed in (("with", asked), ("without", replace(asked, initial=replace(start, network=None)))):
        stopped(tmp_path / name, asked, data)
        train_run(tmp_path / name, resumed, data, resume=True)
        assert (tmp_path / name / "weights.safetensors").read_bytes() == expected


def test_a_run_without_its_source_needs_a_checkpoint(tmp_path, source) -> None:
    start, data = initial(source), digits(classes=OTHERS)
    stopped(tmp_path / "run", settings(start), data)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"no checkpoint to resume from; to start anew, .*run is needed"):
        train_run(tmp_path / "run", settings(replace(start, network=None)), data, resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_another_start_is_another_run(tmp_path, source) -> None:
    start, data = initial(source), digits()
    train_run(tmp_path / "run", settings(start, freeze=1), data)
    for asked, differs in (
        (settings(start), "init.freeze"),
        (settings(replace(start, weights_sha256="other"), freeze=1), "init.weights_sha256"),
        (RunSettings(TINY, RECIPE, "digits"), "preprocessing|init"),
    ):
        with pytest.raises(ValueError, match=f"its .*({differs}).* differ"):
            train_run(tmp_path / "run", asked, data, resume=True)
    moved = replace(start, source="the same weights, moved")
    assert train_run(tmp_path / "run", settings(moved, freeze=1), data, resume=True)["epochs"] == 2


REFUSED: dict[str, tuple[Callable[[Initial], RunSettings], str]] = {
    "freeze alone": (lambda start: RunSettings(TINY, RECIPE, "digits", freeze=1), "freeze: expected 0 without"),
    "negative": (lambda start: settings(start, freeze=-1), "freeze: expected a number of layers, 0 or more; got -1"),
    "no such layer": (lambda start: settings(start, freeze=9), "freeze: expected a depth from 0 to 4; got 9"),
    "class layer": (lambda start: settings(start, freeze=4), "expected a depth below 4, so that the class layer"),
    "network": (
        lambda start: RunSettings(replace(TINY, width=8), RECIPE, "digits", initial=start), "network: expected that of"
    ),
    "whitening": (
        lambda start: settings(start, recipe=replace(RECIPE, first_layer="whitening")), "first_layer: expected random"
    ),
}  # fmt: skip


@pytest.mark.parametrize("cause", REFUSED)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(tmp_path, source, cause) -> None:
    asked, message = REFUSED[cause]
    with pytest.raises(ValueError, match=message):
        train_run(tmp_path / "run", asked(initial(source)), digits())
    assert not [*tmp_path.iterdir()]


def test_folded_weights_cannot_be_trained(tmp_path, source) -> None:
    run = open_network(source)
    export_safetensors(tmp_path / "folded", run.model, run.preprocessing, "a card")
    with pytest.raises(ValueError, match="folded: init: these are folded weights, which have no layers to train"):
        initial(tmp_path / "folded")


# ---------------------------------------------------------------------------------------------------- the command


def _train(*words: object) -> int:
    return cli.main(["train", *map(str, words), "--threads", "1"])


def test_the_command_trains_further_from_a_file_and_resumes_when_it_is_gone(tmp_path, source, capsys) -> None:
    shutil.copytree(source, tmp_path / "start")
    words = ("digits", "--init", tmp_path / "start" / "weights.safetensors", "--freeze", 2, "--layer-decay", 0.7,
             "--epochs", 1, "--train-images", 200, "--output", tmp_path / "run")  # fmt: skip
    assert _train(*words) == 0
    out = capsys.readouterr().out
    assert "the class layer is kept, as the classes are the same; layers 1 to 2 are frozen" in out.replace("\n", " ")
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "start")
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    assert _train(*words, "--resume") == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0


def test_the_command_refuses_a_start_that_has_changed(tmp_path, source, capsys) -> None:
    shutil.copytree(source, tmp_path / "start")
    words = ("digits", "--init", tmp_path / "start", "--epochs", 1, "--train-images", 200, "--output", tmp_path / "run")
    assert _train(*words) == 0
    train_run(tmp_path / "start2", RunSettings(TINY, RECIPE, "digits", seed=9), digits())
    for name in ("weights.safetensors", "result.json"):
        shutil.copy(tmp_path / "start2" / name, tmp_path / "start")
    capsys.readouterr()
    assert _train(*words, "--resume") == 2
    assert "init.weights_sha256 (" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--width", "16"], "--width: follows from --init and cannot be set"),
        (["--set", "attribute_support=3,5"], "--set attribute_support: follows from --init and cannot be set"),
        (["--model", "resnet20_digits"], "they differ in the kind of network (ResNet here, HierarchicalCNN there)"),
        (["--model", "hcnn_cifar10"], "they differ in width (16 here, 8 there), rank (32 here, 16 there)"),
        (["--freeze", "6"], "freeze: expected a depth below 6"),
        (["--freeze", "x"], "--freeze: expected a whole number; got 'x'"),
        (["--layer-decay", "1.5"], "layer_decay: expected a number above 0, at most 1; got 1.5"),
        (
            ["--init", "nowhere"],
            "nowhere: expected a run folder, or a network with pretrained weights "
            f"({', '.join(hcnn.list_pretrained())})",
        ),
    ],
)
def test_contradictions_are_named(tmp_path, capsys, words, says) -> None:
    try:
        code = _train("digits", "--init", "hcnn_digits", "--output", tmp_path / "run", *words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert not [*tmp_path.iterdir()]


def test_no_pickle_is_opened(tmp_path, capsys) -> None:
    torch.save({}, tmp_path / "weights.pt")
    assert _train("digits", "--init", tmp_path / "weights.pt", "--output", tmp_path / "run") == 2
    assert "expected a folder of a run or of the Hub, or a .safetensors file" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert not (tmp_path / "run").exists()


def test_the_model_may_be_named_too(tmp_path) -> None:
    words = ("--model", "hcnn_digits", "--epochs", 1, "--train-images", 100, "--output", tmp_path / "run")
    assert _train("digits", "--init", "hcnn_digits", *words) == 0


def test_grey_images_start_from_colour_weights(tmp_path, capsys) -> None:
    from PIL import Image

    train = datasets.load("digits").train
    for index in range(60):
        folder = tmp_path / "photos" / f"class {int(train.labels[index]) % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[index, 0].numpy()).resize((40, 40)).save(folder / f"{index}.png")
    run = tmp_path / "run"
    assert (
        _train(tmp_path / "photos", "--init", "hcnn_small_cifar10", "--freeze", 8, "--epochs", 1, "--output", run) == 0
    )
    out = capsys.readouterr().out.replace("\n", " ")
    assert "grey, resized to 32x32 (as for hcnn_small_cifar10)" in out
    assert "the class layer is initialized anew for 3 classes; layers 1 to 8 are frozen" in out
    config = json.loads((run / "config.json").read_text())
    assert (config["model"]["channels"], config["model"]["classes"]) == (1, 3)
    expected = hcnn.load_pretrained("hcnn_small_cifar10").preprocessing.mean
    assert config["preprocessing"]["mean"] == [pytest.approx(sum(expected) / 3)]
    assert cli.main(["predict", str(run), str(tmp_path / "photos")]) == 0
    assert capsys.readouterr().out.count(".png: class ") == 60
