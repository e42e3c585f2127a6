"""`hcnn.load` and `hcnn.train`: what is trained on the command line answers in Python, and the other way round."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hcnn
from hcnn import cli
from hcnn.data import datasets
from hcnn.export import export_safetensors
from hcnn.front import TrainedNetwork
from hcnn.storage.safetensors import load_weights
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

TINY: dict[str, Any] = {"width": 4, "rank": 2, "depth": 4, "downsample": ()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainedNetwork:
    folder = tmp_path_factory.mktemp("front") / "run"
    return hcnn.train("digits", output=folder, epochs=2, train_images=300, **TINY)


@pytest.fixture(scope="module")
def digit(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("digit") / "digit.png"
    Image.fromarray(datasets.load("digits").train.images[0, 0].numpy()).save(path)
    return path


def test_every_form_of_an_image_gives_the_same_answer(trained, digit) -> None:
    pixels = np.asarray(Image.open(digit))
    forms = [str(digit), digit, digit.read_bytes(), Image.open(digit), pixels, pixels[None], pixels[..., None],
             torch.from_numpy(pixels.copy()), pixels / np.float32(255)]  # fmt: skip
    expected = trained.predict(digit, top=10)
    assert expected.name == str(digit)
    assert sum(probability for _, probability in expected.best) == pytest.approx(1, abs=1e-5)
    assert (expected.label, expected.probability) == expected.best[0]
    for form in forms:
        found = trained.predict(form, top=10)
        assert [name for name, _ in found.best] == [name for name, _ in expected.best]
        assert [p for _, p in found.best] == pytest.approx([p for _, p in expected.best], abs=1e-5)
    several = trained.predict(forms, top=10)
    assert len(several) == len(forms)
    assert several[4].name == "image 4"
    assert [one.name for one in trained.predict(digit.parent)] == [str(digit)]
    assert trained.predict([]) == []


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_pillow_image_is_turned_and_converted_as_its_file_is(trained, digit, tmp_path, mode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    stored = Image.open(digit).convert(mode)
    stored.save(tmp_path / "turned.jpg", exif=exif)
    expected = trained.predict(tmp_path / "turned.jpg", top=10).best
    assert trained.predict(Image.open(tmp_path / "turned.jpg"), top=10).best == expected
    assert trained.predict(stored, top=10).best != expected


@pytest.fixture
def double() -> Iterator[None]:
    """PyTorch's default type is float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_and_networks_may_be_of_any_type(trained, digit, dtype) -> None:
    expected = trained.predict(digit)
    pixels = torch.from_numpy(np.asarray(Image.open(digit)) / np.float32(255))
    assert trained.predict(pixels.to(dtype)).probability == pytest.approx(expected.probability, abs=0.02)
    network = hcnn.load(trained.run.folder)
    network.model.to(dtype)
    assert network.predict(digit).probability == pytest.approx(expected.probability, abs=0.05)


@pytest.mark.usefixtures("double")
def test_the_default_type_may_be_another(trained, digit, tmp_path) -> None:
    assert hcnn.load(trained.run.folder).predict(digit).label == trained.predict(digit).label
    again = hcnn.train("digits", output=tmp_path / "run", epochs=2, train_images=300, **TINY)
    assert again.predict(digit).label in again.classes
    weights, _ = load_weights(tmp_path / "run" / "weights.safetensors")
    assert {one.dtype for one in weights.values() if one.is_floating_point()} == {torch.float32}


def test_more_images_than_a_batch(trained) -> None:
    images = datasets.load("digits").train.images[:130, 0].numpy()
    found = trained.predict([*images])
    with torch.no_grad():
        x = trained.preprocessing.standardize(torch.from_numpy(images)[:, None])
        expected = trained.model(x).argmax(1).tolist()
    assert [one.label for one in found] == [trained.classes[index] for index in expected]


def test_every_way_in_which_a_network_is_saved_is_opened(trained, digit, tmp_path) -> None:
    hub = pytest.importorskip("hcnn.export.hub")
    run = trained.run.folder
    expected = trained.predict(digit, top=10)
    hub.HubNetwork.from_run(run).save_pretrained(tmp_path / "hub")
    export_safetensors(tmp_path / "folded", trained.model, trained.preprocessing, "a card")
    for where in (run, str(run), run / "weights.safetensors", tmp_path / "hub", tmp_path / "hub" / "model.safetensors",
                  tmp_path / "folded", tmp_path / "folded" / "model.safetensors"):  # fmt: skip
        network = hcnn.load(where)
        assert network.model.preprocessing == trained.preprocessing
        found = network.predict(digit, top=10)
        assert [p for _, p in found.best] == pytest.approx([p for _, p in expected.best], abs=1e-5)
    shutil.copytree(run, tmp_path / "both")
    export_safetensors(tmp_path / "both", trained.model, trained.preprocessing, "a card")
    assert not hcnn.load(tmp_path / "both").model.folded  # the run, not what was exported from it
    assert hcnn.load("hcnn_digits").classes == tuple("0123456789")


def test_a_file_of_another_name_is_opened_itself_whatever_lies_beside_it(trained, tmp_path) -> None:
    hub = pytest.importorskip("hcnn.export.hub")
    hub.HubNetwork.from_run(trained.run.folder).save_pretrained(tmp_path / "hub")
    export_safetensors(tmp_path / "folded", trained.model, trained.preprocessing, "a card")
    mine = tmp_path / "hub" / "mine.safetensors"
    shutil.copy(tmp_path / "folded" / "model.safetensors", mine)
    run = hcnn.load(mine).run
    assert run.model.folded
    assert (run.folder, run.config) == (mine, {})
    (tmp_path / "folded" / "config.json").write_text('{"written by": "another program"}')
    assert hcnn.load(tmp_path / "folded").run.config == {}


def test_a_hub_folder_is_opened_with_the_record_of_its_run(trained, tmp_path) -> None:
    hub = pytest.importorskip("hcnn.export.hub")
    hub.HubNetwork.from_run(trained.run.folder).save_pretrained(tmp_path / "hub")
    for where in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors"):
        run = hcnn.load(where).run
        assert (run.folder, run.config) == (tmp_path / "hub", trained.run.config)


def test_a_folder_may_be_named_as_a_file_of_weights(trained, tmp_path) -> None:
    shutil.copytree(trained.run.folder, tmp_path / "run.safetensors")
    assert hcnn.load(tmp_path / "run.safetensors").run.config == trained.run.config


@pytest.mark.parametrize("model", ["resnet20_digits", "nin_digits"])
def test_the_command_predicts_with_baselines_and_hub_folders(trained, digit, tmp_path, capsys, model) -> None:
    hub = pytest.importorskip("hcnn.export.hub")
    hub.HubNetwork.from_run(trained.run.folder).save_pretrained(tmp_path / "hub")
    hcnn.train("digits", model=model, output=tmp_path / "baseline", epochs=1, train_images=300)
    for where in ("hub", "baseline"):
        capsys.readouterr()
        assert cli.main(["predict", str(tmp_path / where), str(digit), "--format", "json"]) == 0
        line = json.loads(capsys.readouterr().out)
        found = hcnn.load(tmp_path / where).predict(digit)
        assert (line["class"], line["probability"]) == (found.label, pytest.approx(found.probability, abs=1e-5))


def test_a_damaged_hub_folder_is_refused(trained, digit, tmp_path, capsys) -> None:
    hub = pytest.importorskip("hcnn.export.hub")
    hub.HubNetwork.from_run(trained.run.folder).save_pretrained(tmp_path / "hub")
    config = tmp_path / "hub" / "config.json"
    whole = json.loads(config.read_text())
    for broken, says in (
        ({**whole, "run": 3}, "run: expected an object"),
        ({**whole, "run": {**whole["run"], "network": "other"}}, "run: network: expected one of"),
        ({**whole, "run": {**whole["run"], "model": {**whole["run"]["model"], "width": 8}}}, "does not fit"),
    ):
        config.write_text(json.dumps(broken))
        assert cli.main(["predict", str(tmp_path / "hub"), str(digit)]) == 2
        assert says in capsys.readouterr().err.replace("\n", " ")


def test_training_on_the_command_line_and_in_python_is_the_same(trained, tmp_path) -> None:
    words = ["train", "digits", "--output", str(tmp_path / "run"), "--epochs", "2", "--train-images", "300"]
    assert cli.main([*words, "--width", "4", "--rank", "2", "--depth", "4", "--downsample", "--threads", "1"]) == 0
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    assert weights == (trained.run.folder / "weights.safetensors").read_bytes()


def test_training_starts_from_what_was_loaded(trained, tmp_path) -> None:
    said: list[str] = []
    steps: list[int] = []
    again = hcnn.train(
        "digits", init=trained, freeze=2, epochs=1, train_images=200, output=tmp_path / "run", say=said.append,
        progress=lambda progress: steps.append(progress.step),
    )  # fmt: skip
    assert any("layers 1 to 2 are frozen" in line for line in said)
    assert steps == [1, 2, 3]
    assert again.run.config["init"]["source"] == str(trained.run.folder)
    before, after = trained.model.state_dict(), again.model.state_dict()
    assert torch.equal(before["layers.1.weight"], after["layers.1.weight"])


def test_training_starts_from_the_weights_in_memory(trained, tmp_path) -> None:
    changed = hcnn.load(trained.run.folder)
    changed.model.state_dict()["layers.1.weight"].add_(1)
    options: dict[str, Any] = {"freeze": 2, "epochs": 1, "train_images": 200}
    loaded = hcnn.train("digits", init=changed, output=tmp_path / "loaded", **options)
    plain = hcnn.train("digits", init=changed.model, output=tmp_path / "plain", **options)
    for again in (loaded, plain):
        found = again.model.state_dict()["layers.1.weight"]
        assert torch.equal(found, trained.model.state_dict()["layers.1.weight"] + 1)
    assert plain.run.config["init"]["source"] == "HierarchicalCNN"
    for init, says in (
        (3, "init: expected a path, a name or a network of this package; got a int"),
        (hcnn.create_model("hcnn_digits"), "init: expected a HierarchicalCNN whose `preprocessing` says how"),
        (hcnn.load("hcnn_digits").model.inference(), "init: these are folded weights"),
    ):
        with pytest.raises(ValueError, match=says):
            hcnn.train("digits", init=init, output=tmp_path / "refused")
    with pytest.raises(ValueError, match="--model resnet20_digits: expected the network of --init HierarchicalCNN"):
        hcnn.train("digits", init=changed.model, model="resnet20_digits", output=tmp_path / "refused")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epoch": 3}, "train: unknown option 'epoch'; did you mean epochs"),
        ({"seeds": 3}, "train: unknown option 'seeds'"),
        ({"epochs": 0}, "epochs: expected a whole number, 1 or more; got 0"),
        ({"epochs": "3"}, "epochs: expected a whole number, 1 or more; got '3'"),
        ({"channels": 3}, "channels: follows from the data and cannot be set"),
        ({"init": "hcnn_digits", "width": 8}, "width: follows from --init and cannot be set"),
        ({"init": "nowhere"}, "nowhere: expected a run folder"),
        ({"model": "hcnn_digit"}, "unknown model 'hcnn_digit'"),
        ({"freeze": 2}, "freeze: expected 0 without an initial network"),
        ({"freeze": "4"}, "freeze: expected a whole number; got '4'"),
        ({"train_images": 2.5}, "train_images: expected a whole number; got 2.5"),
        ({"checkpoint_seconds": "1"}, "checkpoint_seconds: expected a number; got '1'"),
        ({"teacher": 3}, "teacher: expected a path; got 3"),
        ({"resume": "no"}, "resume: expected True or False; got 'no'"),
        ({"device": 3}, "device: expected one of cpu.*; got '3'"),
        ({"lr": 10**400}, "lr: expected"),
        ({"width": None, "threads": None, "epochs": -1}, "epochs: expected"),
        ({"progress": 3}, "progress: expected a function; got 3"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(tmp_path, options, says) -> None:
    with pytest.raises(ValueError, match=says):
        hcnn.train("digits", output=tmp_path / "run", **options)
    assert not [*tmp_path.iterdir()]


def test_what_names_no_data_or_network_is_refused() -> None:
    with pytest.raises(ValueError, match="data: expected the name of a data set or a path; got a list"):
        hcnn.train(["digits"])  # type: ignore[arg-type]
    for where in (None, ""):  # an empty path is not the current folder
        with pytest.raises(ValueError, match=f"expected the path or the name of a trained network; got {where!r}"):
            hcnn.load(where)  # type: ignore[arg-type]


def test_wrong_images_are_named(trained, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        trained.predict(tmp_path / "none.png")
    for image, says in (
        (np.zeros((9, 8), np.uint8), r"image 0: expected pixels of shape \(1, 8, 8\)"),
        (np.full((8, 8), 2.0), "image 0: expected floats between 0 and 1"),
        ("", "images: expected a path; got ''"),
        (object(), "image 0: expected a path, bytes, a Pillow image or an array; got a object"),
        (b"no image", "image 0"),
        (Image.new("F", (8, 8)), "image 0: expected grey, RGB or CMYK pixels of 8 bits, or grey of 16; got mode F"),
    ):
        with pytest.raises(ValueError, match=says):
            trained.predict(image)
    with pytest.raises(ValueError, match="top: expected 1 or more; got 0"):
        trained.predict(np.zeros((8, 8), np.uint8), top=0)


def test_training_that_nobody_asks_for_is_no_silence() -> None:
    few = datasets.load("digits").train.subset(range(64))
    model = hcnn.create_model("hcnn_digits", width=4, rank=2, depth=4, downsample=())
    preprocessing = hcnn.load("hcnn_digits").preprocessing
    trainer = Trainer(model, few.images, few.labels, preprocessing, Recipe(epochs=1, batch_size=32))
    with pytest.warns(RuntimeWarning, match="nothing was trained"):
        trainer.run()
    assert trainer.step == 0
    assert [row["epoch"] for row in trainer.fit()] == [1]
    assert not model.training
    assert next(iter(trainer.run()), None) is None


def test_a_network_names_itself(trained) -> None:
    assert repr(trained) == f"TrainedNetwork({str(trained.run.folder)!r}, HierarchicalCNN, 10 classes, images 1x8x8)"
