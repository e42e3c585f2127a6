"""`hcnn train --validation-data`: images of one's own, in the order of the training classes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hcnn import cli
from hcnn.data import datasets
from hcnn.storage.records import read_object

TINY = ["--set", "width=4", "--set", "rank=4", "--set", "depth=4", "--set", "downsample=", "--threads", "1"]


def folder(root: Path, classes: tuple[str, ...], count: int, side: int = 8) -> Path:
    noise = np.random.default_rng(count)
    for shade, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(noise.normal(60 + 60 * shade, 20, (side, side)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return folder(tmp_path / "data", ("dark", "light"), 10)


@pytest.fixture
def own(tmp_path) -> Path:
    return folder(tmp_path / "own", ("dark", "light"), 6, side=12)


def test_the_run_records_it_and_evaluation_finds_it_again(data, own, capsys) -> None:
    assert cli.main(["train", "data", "--validation-data", "own", "--epochs", "2", "--output", "run", *TINY]) == 0
    out = capsys.readouterr().out
    assert "held out" not in out
    assert "  validation " in next(line for line in out.splitlines() if line.startswith("epoch 1/2"))
    result, config = (read_object(Path("run", name)) for name in ("result.json", "config.json"))
    assert (result["train_images"], result["validation_images"]) == (20, 12)
    assert config["validation_data"] == "own"
    assert len(config["validation_sha256"]) == 64
    assert cli.main(["evaluate", "run"]) == 0
    assert f"{result['validation_accuracy']:.2%} of 12 images" in capsys.readouterr().out
    again = ["train", "data", "--epochs", "2", "--output", "run", "--resume", *TINY]
    assert cli.main([*again, "--validation", "0"]) == 2
    assert "its validation_data (none here, " in capsys.readouterr().err


def test_test_images_are_measured_without_it(data, own, capsys) -> None:
    shutil.move("data", "moved")
    for part in ("train", "test"):
        shutil.copytree("moved", f"data/{part}")
    assert cli.main(["train", "data", "--validation-data", "own", "--epochs", "1", "--output", "run", *TINY]) == 0
    shutil.rmtree(own)
    assert cli.main(["evaluate", "run"]) == 0
    assert "data, test: " in capsys.readouterr().out
    assert cli.main(["evaluate", "run", "--on", "validation"]) == 2
    assert (
        "its validation images, own, cannot be read; choose others with --on (test, train)" in capsys.readouterr().err
    )


def test_classes_go_by_name(data, tmp_path) -> None:
    arrays = datasets.load(data).train.images[:4, 0].numpy()
    np.savez(tmp_path / "own.npz", images=arrays, labels=[0, 0, 1, 1], classes=["light", "dark"])
    splits = datasets.with_validation(datasets.load(data), tmp_path / "own.npz")
    assert splits.validation is not None
    assert splits.validation.classes == ("dark", "light")
    assert splits.validation.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("dark", "lihgt"), "expected the classes of data/train; it has lihgt and lacks light"),
        (("dark",), "expected the classes of data/train; it lacks light"),
        (("dark", "light", "other"), "expected the classes of data/train; it has other"),
    ],
)
def test_other_classes_are_refused(data, tmp_path, classes, message, capsys) -> None:
    folder(tmp_path / "wrong", classes, 2)
    assert cli.main(["train", "data", "--validation-data", "wrong", "--output", "run", *TINY]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_two_sources_of_validation_images_are_refused(data, own, tmp_path, capsys) -> None:
    assert cli.main(["train", "data", "--validation-data", "own", "--validation", "3"]) == 2
    assert "--validation-data: expected no --validation beside it" in capsys.readouterr().err
    for part in ("train", "val"):
        folder(tmp_path / "parts" / part, ("dark", "light"), 4)
    assert cli.main(["train", "parts", "--validation-data", "own"]) == 2
    assert "expected data without validation images; parts/validation has some" in capsys.readouterr().err
    assert cli.main(["train", "data", "--validation-data", "nowhere/x"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_of_data_with_parts_the_validation_images_are_taken(data, tmp_path) -> None:
    for part, count in (("train", 4), ("val", 3), ("test", 5)):
        folder(tmp_path / "parts" / part, ("dark", "light"), count)
    splits = datasets.with_validation(datasets.load(data), tmp_path / "parts")
    assert splits.validation is not None
    assert len(splits.validation) == 6
    (tmp_path / "parts" / "val").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="expected validation images, or images without parts"):
        datasets.with_validation(datasets.load(data), tmp_path / "parts")
