"""Queries are images that the network was not trained on, where there are some; the study says which."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hcnn import cli
from hcnn.data.image_set import ImageSet
from hcnn.explore.images import images_of
from hcnn.runs.load import load_run


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder of pictures of 10×12 pixels, two classes of 20."""
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (10, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number:02}.png")
    return tmp_path


def train(home: Path, *more: str) -> Path:
    run = home / "run"
    command = ["train", str(home / "photos"), "--epochs", "1", "--threads", "1", "--output", str(run)]
    assert cli.main([*command, "--image-size", "8", *more]) == 0
    return run


def pixels(images: ImageSet) -> set[bytes]:
    return {one.numpy().tobytes() for one in images.images}


def test_images_set_aside_from_a_folder_are_the_queries(home, capsys) -> None:
    run = train(home)
    base, held_out = images_of(load_run(run))
    assert base.digest() == load_run(run).config["data_sha256"]
    assert held_out is not None
    assert (len(base), len(held_out)) == (32, 8)
    assert not pixels(base) & pixels(held_out)
    command = ["explore", str(run), "--queries", "4", "--changed", "2", "--flat", "2", "--orders", "1"]
    assert cli.main(command) == 0
    info = json.loads((run / "explore" / "study.json").read_text())["info"]
    assert (info["queries"], info["held_out"]) == ("4 of photos/validation", True)
    assert "may have memorized them" not in capsys.readouterr().out


def test_images_set_aside_before_some_were_drawn_are_found_too(home) -> None:
    run = train(home, "--train-images", "10")
    base, held_out = images_of(load_run(run))
    assert held_out is not None
    assert (len(base), len(held_out)) == (32, 8)


def test_a_folder_that_has_changed_has_no_known_held_out_images(home, capsys) -> None:
    run = train(home)
    Image.new("L", (10, 12)).save(home / "photos" / "cats" / "00.png")  # as many images as before
    base, held_out = images_of(load_run(run))
    assert held_out is None
    assert len(base) == 40
    command = ["explore", str(run), "--queries", "4", "--changed", "2", "--flat", "2", "--orders", "1"]
    assert cli.main(command) == 0
    assert json.loads((run / "explore" / "study.json").read_text())["info"]["held_out"] is False
    assert "may have memorized them" in " ".join(capsys.readouterr().out.replace("│", "").split())
    for picture in [*(home / "photos").rglob("*.png")]:  # of each class one is left, so that none can be set aside
        if picture.name != "00.png":
            picture.unlink()
    base, held_out = images_of(load_run(run))
    assert (len(base), held_out) == (2, None)


def test_validation_images_of_ones_own_are_the_queries(home) -> None:
    shutil.copytree(home / "photos", home / "more")
    run = train(home, "--validation-data", str(home / "more"))
    base, held_out = images_of(load_run(run))
    assert held_out is not None
    assert (len(base), len(held_out), held_out.name) == (40, 40, str(home / "more"))


def test_other_data_is_resized_as_the_runs_own(home) -> None:
    run = train(home)
    base, held_out = images_of(load_run(run), data=str(home / "photos"))
    assert tuple(base.images.shape[1:]) == (1, 8, 8)
    assert (len(base), held_out) == (40, None)
