"""What `hcnn predict` and `hcnn train` say about input that they cannot use, in the words of the command line."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hcnn import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    np.savez(folder / "d.npz", images=images, labels=np.arange(40) % 2)
    command = ["train", folder / "d.npz", "--model", "hcnn_digits", "--width", "4", "--epochs", "1"]
    assert cli.main([*map(str, command), "--batch-size", "20", "--output", str(folder / "run")]) == 0
    for suffix in ("gif", "bmp", "tif", "png", "jpg"):
        Image.fromarray(images[0].transpose(1, 2, 0)).save(folder / f"x.{suffix}")
    return folder / "run"


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BufferedReader(io.BytesIO(data))


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tif", "png", "jpg"])
def test_an_image_on_standard_input_is_classified(run, suffix, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", _Stdin((run.parent / f"x.{suffix}").read_bytes()))
    assert cli.main(["predict", str(run), "-"]) == 0
    assert capsys.readouterr().out.startswith("-: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "-: expected images"),
        (b"\x89PNG\r\n\x1a\n cut off", "standard input: expected a PNG"),
        (b"nowhere/x.png\n", "nowhere/x.png: no such file; standard input is expected to hold one image, or a path on"),
        (b"what\nis this", "what: no such file; standard input is expected to hold one image, or a path on each line"),
        (b"noise \0\1\2\n more", "standard input: expected a PNG"),
    ],
)
def test_other_bytes_on_standard_input_are_explained(run, data, message, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", _Stdin(data))
    assert cli.main(["predict", str(run), "-"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"hcnn: {message}")
    assert captured.out == ""


def test_missing_and_left_out_files_are_named(run, tmp_path, capsys) -> None:
    assert cli.main(["predict", str(run), str(tmp_path)]) == 2
    assert "found none" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "x.bmp").write_bytes((run.parent / "x.bmp").read_bytes())
    assert cli.main(["predict", str(run), str(tmp_path), "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 2
    assert captured.err == "left out 1 file that is not an image: 1 .txt\n"


def test_options_are_named_where_python_names_arguments(run, tmp_path, capsys) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.png").write_bytes(b"no image")
    assert cli.main(["train", str(tmp_path / "data"), "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "--bad-images skip leaves such files out" in error
    assert "on_bad" not in error


def test_the_place_of_channels_can_be_said(run, capsys) -> None:
    image = np.asarray(Image.open(run.parent / "x.png"))  # (8, 8, 3)
    outputs = []
    for name, array, words in (
        ("last", image, ["--channels", "last"]),
        ("auto", image, []),
        ("first", image.transpose(2, 0, 1), ["--channels", "first"]),
    ):
        np.save(run.parent / f"{name}.npy", array)
        assert cli.main(["predict", str(run), str(run.parent / f"{name}.npy"), *words]) == 0
        outputs.append(capsys.readouterr().out.split(": ", 1)[1])
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("device", ["gpu", "mps:7", "cuda:99"])
def test_a_device_that_is_not_here_is_refused_before_anything_is_written(device, tmp_path, capsys) -> None:
    output = tmp_path / "out"
    for words in (["train", "digits"], ["explore", "hcnn_small_cifar10"], ["bench", "--quick"]):
        assert cli.main([*words, "--device", device, "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(("hcnn: device: expected one of cpu", "hcnn: --device: expected cpu or cuda"))
        assert error.count("\n") == 1
        assert not output.exists()


def test_the_first_line_of_a_run_names_what_it_does(tmp_path, capsys) -> None:
    command = ["train", "digits", "--width", "4", "--epochs", "1", "--precision", "float32", "--threads", "1"]
    assert cli.main([*command, "--output", str(tmp_path / "run")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        "network hcnn_digits, recipe digits, precision float32, 1 epoch of 1,437 images in batches of 64, on cpu with "
        "1 thread"
    )


def test_a_picture_for_a_network_of_five_channels_is_named(tmp_path, capsys) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(40) % 2)
    command = ["train", tmp_path / "d.npz", "--width", "4", "--epochs", "1", "--output", tmp_path / "run"]
    assert cli.main([*map(str, command)]) == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert cli.main(["predict", str(tmp_path / "run"), str(tmp_path / "x.png")]) == 2
    reason = f"{tmp_path}/x.png: expected a .npy array of shape (5, 8, 8) (channels, then space)"
    assert capsys.readouterr().err.startswith(f"hcnn: {reason}")
    np.save(tmp_path / "y.npy", images[0])
    names = [str(tmp_path / name) for name in ("x.png", "y.npy")]
    assert cli.main(["predict", str(tmp_path / "run"), *names, "--bad-images", "skip"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(names[1])
    assert captured.err.startswith(f"skipped {reason}")
