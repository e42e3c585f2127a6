"""`hcnn train FOLDER` with no other option."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hcnn import cli
from hcnn.cli import train_options
from hcnn.cli.folder_defaults import suggest
from hcnn.runs.load import load_run


def _folder(root: Path, sizes: list[tuple[int, int]], per_class: int, *, colour: bool = False) -> Path:
    noise = np.random.default_rng(0)
    for shade, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            size = (*sizes[i % len(sizes)], *([3] if colour else []))
            pixels = np.clip(noise.normal(60 + 120 * shade, 20, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("sizes", "expected", "model"),
    [
        ([(28, 28)], (28, 28), "hcnn_small_cifar10"),  # all alike: as they are
        ([(12, 16)], (12, 16), "hcnn_digits"),
        ([(20, 30), (22, 21)], (16, 16), "hcnn_digits"),  # median shorter side 21
        ([(480, 640), (500, 300), (31, 31)], (32, 32), "hcnn_small_cifar10"),
        ([(200, 200)], (32, 32), "hcnn_small_cifar10"),  # alike, but too large to be taken as they are
        ([(5, 9), (6, 5)], (8, 8), "hcnn_digits"),
    ],
)
def test_size_and_network_follow_the_images(sizes, expected, model, tmp_path) -> None:
    found = suggest(_folder(tmp_path / "data", sizes, 6))
    assert (found.image_size, found.model) == (expected, model)
    assert found.validation == 2
    done = "kept at" if expected in sizes else "resized to"
    assert f"{done} {expected[0]}x{expected[1]}" in found.reason


@pytest.mark.parametrize(
    ("shape", "model"),
    [((8, 8), "hcnn_digits"), ((3, 28, 30), "hcnn_small_cifar10"), ((1, 8, 8, 8), "hcnn_small_cifar10")],
)
def test_a_file_of_arrays_has_the_same_defaults_and_keeps_its_size(shape, model, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=np.arange(60) % 2)
    found = train_options.from_keywords(str(tmp_path / "data.npz"), {})
    assert (found.model, found.image_size, found.validation) == (model, None, 12)
    assert (found.recipe.batch_size, found.recipe.epochs) == (8, 167)
    sides = "x".join(map(str, shape[-3:] if len(shape) == 4 else shape[-2:]))
    assert "data.npz: 60 training images of 2 classes, " in found.reason
    assert f"kept at {sides} (their own size); 12 of them held out for validation" in found.reason
    np.savez(tmp_path / "parts.npz", x_train=pixels, y_train=np.arange(60) % 2, x_test=pixels, y_test=np.arange(60) % 2)
    assert train_options.from_keywords(str(tmp_path / "parts.npz"), {}).validation == 0


def test_few_images_get_small_batches_and_more_epochs(tmp_path) -> None:
    found = suggest(_folder(tmp_path / "data", [(8, 8)], 30))
    assert (found.validation, found.recipe.batch_size, found.recipe.epochs) == (12, 8, 167)
    assert found.recipe.lr == 0.1
    assert found.hint == ""  # no pretrained network suits images of 8 pixels


def test_another_network_gets_the_recipe_that_it_learns_by(tmp_path) -> None:
    found = suggest(_folder(tmp_path / "data", [(32, 32)], 30), model="maxout_cifar10")
    assert (found.model, found.recipe_name) == ("maxout_cifar10", "fast_plain")
    assert (found.recipe.optimizer, found.recipe.batch_size, found.recipe.epochs) == ("adamw", 8, 167)


def test_few_images_are_better_served_by_trained_weights(tmp_path, capsys, monkeypatch) -> None:
    found = suggest(_folder(tmp_path / "data", [(32, 32)], 30))
    assert "starting from trained weights is usually better: --init hcnn_small_cifar10" in found.hint
    assert found.recipe.lr == 0.014  # Muon's 0.05 · √(8/100)
    assert suggest(tmp_path / "data", model="resnet20_cifar10").hint == ""
    options = ["--epochs", "1", "--threads", "1", "--width", "4", "--rank", "2", "--depth", "4", "--downsample", "3"]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "data", *options]) == 0
    assert "\n  hint: with fewer than 1,000 training images" in capsys.readouterr().out


def test_a_folder_trains_with_no_other_option(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _folder(tmp_path / "shades", [(20, 30), (22, 21)], 20, colour=True)
    assert cli.main(["train", "shades", "--epochs", "3", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "shades: 40 training images of 2 classes, colour, resized to 16x16" in out
    assert "8 of them held out for validation" in out
    run = load_run(tmp_path / "runs" / "shades-hcnn_digits-0")
    assert run.preprocessing.size == (16, 16)
    assert run.model.config.channels == 3
    result = json.loads((run.folder / "result.json").read_text())
    assert result["validation_images"] == 8
    assert result["validation_accuracy"] == 1


def test_given_options_win_over_the_defaults_of_a_folder(tmp_path, capsys) -> None:
    _folder(tmp_path / "data", [(20, 30)], 10)
    command = ["train", "--image-size", "8", str(tmp_path / "data"), "--validation", "0", "--epochs", "1"]
    command += ["--width", "4", "--depth", "4", "--downsample", "--batch-size", "10", "--output", str(tmp_path / "run")]
    assert cli.main(command) == 0
    run = load_run(tmp_path / "run")
    assert run.preprocessing.size == (8, 8)
    assert (run.model.config.width, run.config["recipe"]["batch_size"]) == (4, 10)
    assert "validation_images" not in json.loads((tmp_path / "run" / "result.json").read_text())
    capsys.readouterr()
    # The same images are brought to the run's size again, whatever their own.
    (tmp_path / "tested").mkdir()
    (tmp_path / "data").rename(tmp_path / "tested" / "train")
    _folder(tmp_path / "tested" / "test", [(30, 20)], 3)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "tested")]) == 0
    assert "of 6 images" in capsys.readouterr().out


def test_a_folder_of_another_layout_is_explained(tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.main(["train", str(tmp_path / "empty")]) == 2
    message = capsys.readouterr().err.replace("\n", " ")
    assert "expected a folder of images for each class; found no folder" in message
    assert "are read as 'cifar10' or 'cifar100', with their folder as --data-dir)" in message


def test_a_search_describes_its_folder_once(tmp_path, capsys) -> None:
    for part in ("train", "test"):
        _folder(tmp_path / "data" / part, [(8, 8)], 10)
    fixed = ["--lr", "0.1", "--weight-decay", "0", "--batch-size", "4", "--width", "4"]
    assert cli.main(["tune", str(tmp_path / "data"), *fixed, "--output", str(tmp_path / "search")]) == 2
    captured = capsys.readouterr()
    assert "expected something to search" in captured.err
    assert captured.out.count("training images of 2 classes") == 1
    assert "training images are held out for validation" in captured.out


def test_one_class_is_one_class(tmp_path) -> None:
    (tmp_path / "only").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "only" / "0.png")
    assert "1 training image of 1 class, grey" in suggest(tmp_path).reason
