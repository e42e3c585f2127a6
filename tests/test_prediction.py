"""`hcnn predict` on files, folders and standard input, as a user's shell would call it."""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hcnn import cli
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.data.image_sources import ImageSource
from hcnn.export import export_safetensors
from hcnn.export.opening import open_network
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.prediction import read_input
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

TINY = HierarchicalCNNConfig(channels=1, width=4, rank=2, depth=4, attribute_support=(3, 3), downsample=())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    few = datasets.load("digits").train.subset(range(256))
    train_run(folder, RunSettings(TINY, get_recipe("digits", epochs=1), "digits"), Splits(few))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    images = datasets.load("digits").train.images[:7, 0].numpy()
    (root / "sub folder").mkdir()
    (root / ".hidden").mkdir()
    for i, image in enumerate(images[:5]):
        Image.fromarray(image).save(root / f"{i}.png")
    Image.fromarray(images[5]).save(root / "sub folder" / "5, é.png")
    np.save(root / "sub folder" / "6.npy", images[6][None] / 255)
    Image.fromarray(images[6]).save(root / ".hidden" / "no.png")
    (root / "notes.txt").write_text("no image")
    return root


def _expected(run: Path, count: int) -> list[tuple[str, float]]:
    loaded = load_run(run)
    images = datasets.load("digits").train.images[:count]
    with torch.no_grad():
        best = loaded.model(loaded.preprocessing.standardize(images)).softmax(1).max(1)
    return [(str(int(i)), float(p)) for p, i in zip(best.values, best.indices, strict=True)]


def _names(photos: Path) -> list[str]:
    inner = photos / "sub folder"
    return [*(str(photos / f"{i}.png") for i in range(5)), str(inner / "5, é.png"), str(inner / "6.npy")]


def test_a_folder_is_walked_in_order_whatever_the_batch(run, photos, capsys) -> None:
    outputs = []
    for size in ("1", "3", "64"):
        assert cli.main(["predict", str(run), str(photos), "--format", "json", "--batch-size", size]) == 0
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for rows in outputs:
        assert [row["file"] for row in rows] == _names(photos)
        for row, (name, probability) in zip(rows, _expected(run, 7), strict=True):
            assert row["class"] == name == row["top"][0]["class"]
            assert abs(row["probability"] - probability) < 1e-4
            assert len(row["top"]) == 3


def test_csv_and_table(run, photos, capsys) -> None:
    assert cli.main(["predict", str(run), str(photos), "--format", "csv", "--top", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == _names(photos)
    assert list(rows[0]) == ["file", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row["class_1"] for row in rows] == [name for name, _ in _expected(run, 7)]
    assert cli.main(["predict", str(run), str(photos), "--format", "table", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "prob.", "file"]
    assert len(lines) == 8
    assert len({line.index("/") for line in lines[1:]}) == 1  # the columns stand under each other


def _shell(arguments: list[object], given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hcnn.cli", "predict", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def test_standard_input_holds_an_image_or_paths(run, photos) -> None:
    name, _ = _expected(run, 1)[0]
    one = _shell([run, "-", "--format", "json"], (photos / "0.png").read_bytes())
    assert json.loads(one.stdout)["class"] == name
    assert json.loads(one.stdout)["file"] == "-"
    paths = "\n".join(_names(photos)).encode() + b"\n"
    several = _shell([run, "-", "--format", "json"], paths)
    assert [json.loads(line)["file"] for line in several.stdout.splitlines()] == _names(photos)
    wrong = _shell([run, "-"], b"nowhere.png\n")
    assert wrong.returncode == 2
    assert b"nowhere.png" in wrong.stderr


def test_a_bad_image_stops_or_is_skipped(run, photos, tmp_path, capsys) -> None:
    good = str(photos / "0.png")
    (tmp_path / "bad.png").write_bytes((photos / "0.png").read_bytes()[:40])
    command = ["predict", str(run), good, str(tmp_path / "bad.png"), good]
    assert cli.main(command) == 2
    captured = capsys.readouterr()
    assert "bad.png" in captured.err
    assert captured.out.count("0.png: ") == 1  # what came before it is not lost
    assert cli.main([*command, "--bad-images", "skip"]) == 0
    captured = capsys.readouterr()
    assert "skipped" in captured.err
    assert captured.out.count("0.png: ") == 2
    assert cli.main(["predict", str(run), good, str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""  # what does not exist is known before the first image is read
    assert "nowhere: no such file or folder" in captured.err
    assert cli.main(["predict", str(run), good, "--batch-size", "0"]) == 2
    assert "--batch-size: expected a positive number; got 0" in capsys.readouterr().err


def test_what_is_left_out_is_said_and_nothing_found_is_an_error(run, photos, tmp_path, capsys) -> None:
    assert cli.main(["predict", str(run), str(photos), "--format", "csv"]) == 0
    assert capsys.readouterr().err == "left out 1 file that is not an image: 1 .txt\n"
    (tmp_path / "notes.txt").write_text("no image")
    assert cli.main(["predict", str(run), str(tmp_path), "--format", "csv"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "or .npy arrays; found none and left out 1 file that is not an image: 1 .txt" in captured.err


def test_files_that_cannot_be_read_do_not_end_a_run_that_skips_them(run, photos, tmp_path, capsys) -> None:
    for name in ("a.png", "z.png"):
        (tmp_path / name).write_bytes((photos / "0.png").read_bytes())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "device.npy").symlink_to("/dev/zero")
    with (tmp_path / "renamed.npy").open("wb") as file:
        np.savez(file, images=np.zeros((1, 8, 8)))
    terabytes = str({"descr": "|u1", "fortran_order": False, "shape": (1, 10**6, 10**6)}).encode()
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\1\0" + len(terabytes).to_bytes(2, "little") + terabytes)
    assert cli.main(["predict", str(run), str(tmp_path), "--bad-images", "skip"]) == 0
    captured = capsys.readouterr()
    assert [line.partition(": ")[0] for line in captured.out.splitlines()] == [str(tmp_path / f"{n}.png") for n in "az"]
    assert captured.err.count("skipped ") == 5
    assert cli.main(["predict", str(run), str(tmp_path / "pipe.png")]) == 2
    assert "pipe.png: expected a regular file; it is a named pipe" in capsys.readouterr().err


def test_arrays_between_0_and_1_are_pixels(run, tmp_path) -> None:
    loaded = load_run(run)
    image = datasets.load("digits").train.images[0]
    np.save(tmp_path / "a.npy", image.numpy() / 255)
    np.save(tmp_path / "b.npy", image.numpy())
    a, b = (read_input(ImageSource(str(tmp_path / name)), loaded) for name in ("a.npy", "b.npy"))
    torch.testing.assert_close(a, b)
    for array, message in (
        (image.numpy().astype(float), "expected floats between 0 and 1; got 0 to 239"),
        (image.numpy() / 255 - 0.5, r"expected floats between 0 and 1; got -0\.5 to 0"),
        (np.where(image.numpy() > 200, np.nan, 0.5), r"\d+ of 64 pixels are NaN or infinite"),
        (image.numpy().astype(np.int64), "expected uint8, or floats between 0 and 1; got int64"),
    ):
        np.save(tmp_path / "c.npy", array)
        with pytest.raises(ValueError, match=rf"c\.npy: {message}"):
            read_input(ImageSource(str(tmp_path / "c.npy")), loaded)


def test_the_command_line_may_say_where_channels_are(run, tmp_path, capsys) -> None:
    np.save(tmp_path / "last.npy", datasets.load("digits").train.images[0].numpy().transpose(1, 2, 0))
    command = ["predict", str(run), str(tmp_path / "last.npy"), "--channels"]
    assert cli.main([*command, "last"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/last.npy: {_expected(run, 1)[0][0]} ")
    assert cli.main([*command, "first"]) == 2
    assert "last.npy: expected pixels of shape (1, 8, 8)" in capsys.readouterr().err


def test_arrays_may_have_their_channels_last_or_none(run, tmp_path) -> None:
    loaded = load_run(run)
    image = datasets.load("digits").train.images[0].numpy()
    for name, array in (
        ("first", image),
        ("last", image.transpose(1, 2, 0)),
        ("none", image[0]),
        ("f", image.copy("F")),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        np.save(tmp_path / f"{name}-big.npy", (array / 255).astype(">f8"))
    expected = read_input(ImageSource(str(tmp_path / "first.npy")), loaded)
    for path in sorted(tmp_path.glob("*.npy")):
        torch.testing.assert_close(read_input(ImageSource(str(path)), loaded), expected)
    np.save(tmp_path / "wrong.npy", image.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r"wrong.npy: expected pixels of shape \(1, 8, 8\) .*; got \(8, 1, 8\)"):
        read_input(ImageSource(str(tmp_path / "wrong.npy")), loaded)


def test_folded_weights_predict_too(run, photos, tmp_path, capsys) -> None:
    loaded = load_run(run)
    export_safetensors(tmp_path / "folded", loaded.model, loaded.preprocessing, "")
    assert open_network(tmp_path / "folded").model.folded
    for where in (tmp_path / "folded", tmp_path / "folded" / "model.safetensors"):
        assert cli.main(["predict", str(where), str(photos / "0.png"), "--top", "1"]) == 0
        assert f"0.png: {_expected(run, 1)[0][0]} " in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "folded")]) == 2
    assert "the network has no record of its data; name a data set with --data" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(run, photos) -> None:
    words = [sys.executable, "-m", "hcnn.cli", "predict", str(run), *[str(photos / "0.png")] * 2000]
    command = f"{shlex.join(words)} | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def _peak(run: Path, folder: Path) -> int:
    """Peak memory, in KiB, of a process that classifies a folder."""
    script = (
        "import resource, sys; from hcnn import cli; code = cli.main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "predict", str(run), str(folder), "--format", "csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1 + sum(1 for _ in folder.iterdir())
    return int(done.stderr.split()[-1])


def _many(folder: Path, count: int) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(count):
        # 120×160 in colour: held all at once even as network inputs, thousands of them would show
        Image.fromarray(noise.integers(0, 256, (120, 160, 3), np.uint8)).save(folder / f"{i:05}.png", compress_level=1)
    return folder


@pytest.mark.parametrize("count", [pytest.param(500), pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_images(count, run, tmp_path) -> None:
    few, many = (_peak(run, _many(tmp_path / str(n), n)) for n in (70, count))
    print(f"peak KiB: {few} for 70 images, {many} for {count}")
    assert many - few < 15_000  # one decoded image is 58 KiB; a list of 1,000 would be 57 MiB
