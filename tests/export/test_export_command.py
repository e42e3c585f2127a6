"""`hcnn export` as a command: what it writes, replaces, prints and refuses."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hcnn import cli, create_model
from hcnn.data import archives
from hcnn.data.cifar import CIFAR10
from hcnn.export.check_images import find_check_images
from hcnn.export.model_card import Records, model_card, read_records
from hcnn.export.opening import open_network
from hcnn.export.replace import is_export
from hcnn.models.pretrained import pretrained_record


def test_the_card_of_shipped_weights_has_their_accuracy(tmp_path) -> None:
    assert cli.main(["export", "hcnn_digits", "--to", "safetensors", "--output", str(tmp_path / "folded")]) == 0
    accuracy = pretrained_record("hcnn_digits")["result"]["test_accuracy"]
    assert f"test: {accuracy:.2%} of 360 images" in (tmp_path / "folded" / "README.md").read_text()


def test_a_card_says_what_the_records_hold(settled, tmp_path) -> None:
    standard = {"mean": [0.3], "std": [0.4], "size": [8, 8], "classes": [f"c{n}" for n in range(22)]}
    config = {"data": "there/photos", "data_sha256": "ab12", "seed": 3, "preprocessing": standard}
    config["recipe"] = {"lr": 0.1, "augmentation": {"flip": True}}
    result = {"seconds": 1234.5, "hardware": {"processor": "any"}, "versions": {"torch": "2.13"}, "seed": 3}
    result |= {"validation_accuracy": 0.25, "validation_images": 40, "test_accuracy": 0.5, "test_images": 1234}
    result |= {"train_images": 1500, "test_accuracy_with_flips": 0.52}
    seeds = {"seeds": [3], "test_accuracy": {"mean": 0.5, "std": None}}
    card = model_card(settled("plus"), Records(config, result, seeds))
    for part in (
        "# HCNN(+), photos\n",
        "\nphotos, images of 8×8, pixels from 0 to 1 standardized by mean (0.3000) and deviation (0.4000). "
        "SHA-256 of the training set: ab12.\n",
        ", c19 and 2 more.\n",
        "\nImages: 1,500 train, 40 validation, 1,234 test.\n",
        "\n| lr | 0.1 |\n| augmentation: flip | True |\n| seed | 3 |\n\n1,234 s on any; torch 2.13.\n",
        "- validation: 25.00% of 40 images, seed 3\n",
        "- test: 50.00% of 1,234 images, seed 3\n  - over seeds [3]: 50.00%\n",
        "- test, mirrored averaged in: 52.00% of 1,234 images, seed 3\n",
    ):
        assert part in card
    assert "unknown" not in card.lower()
    (tmp_path / "seeds.json").write_text(json.dumps(seeds))
    assert read_records(tmp_path / "seed-3").seeds == seeds
    assert read_records(tmp_path / "another").seeds == {}


def test_a_card_names_the_network(settled) -> None:
    kinds = {"zeros": "HCNN", "plus": "HCNN(+)", "multiscale": "Multiscale hierarchical CNN"}
    for name, kind in kinds.items():
        assert f"\n# {kind}, unknown data\n" in model_card(settled(name), Records({}, {}, {}))


def test_a_card_says_what_the_records_lack(settled) -> None:
    model = settled("zeros")
    nothing = model_card(model, Records({}, {}, {}))
    for part in (
        "# HCNN, unknown data\n",
        "## Data\n\nUnknown: the network was saved without the records of a run.\n",
        "## Training\n\nUnknown.\n",
        "## Accuracy\n\nUnknown.\n",
        "- How it was trained is unknown.\n",
    ):
        assert part in nothing
    assert "generated from the records" not in nothing
    standard = {"mean": [0.3], "std": [0.4], "size": [8, 8], "classes": [f"c{n}" for n in range(20)]}
    result = {"train_images": 50, "validation_images": 0, "test_images": 0}
    untested = model_card(model, Records({"data": "photos", "preprocessing": standard}, result, {}))
    for part in (
        "SHA-256 of the training set: not recorded.\n",
        ", c19.\n",
        "\nImages: 50 train.\n",
        "Not measured: the run had neither a validation nor a test set.\n",
    ):
        assert part in untested


def test_a_card_describes_the_architecture_and_draws_no_random_numbers() -> None:
    model = create_model("hcnn_digits")
    before = torch.get_rng_state()
    card = model_card(model, Records({}, {}, {}), size=(8, 8), usage="load_it()")
    assert torch.equal(before, torch.get_rng_state())
    for part in (
        "```python\nload_it()\n```\n",
        "9,168 convolution weights while training, 5,022 composed for inference; "
        "101 of normalization and logit scale in addition while training.\n",
        "\n| 3 | v1, v2, v3, u1, u2 | 2×4×8×8×8 | 2,064 | 1,080 | 16 | 1.2M |\n",
        "\nConfiguration: channels 1, classes 10, width 8, rank 16, depth 7, attribute_support (3, 5), ",
        "\n- Trained on images of 8×8 only: other sizes must be resized first.\n",
    ):
        assert part in card


def test_the_command_exports_everything(run, capsys) -> None:
    for target, file in (("onnx", "model.onnx"), ("torch", "model.pt2"), ("c", "model.c")):
        assert cli.main(["export", str(run), "--to", target]) == 0
        out = capsys.readouterr().out
        assert "checking with 64 images of digits/test" in out
        assert re.search(r"largest difference from the trained network: \d+e-0[678]", out), out
        assert (run / file).is_file()
    assert "multiply-adds an image of 1x8x8" in out
    assert cli.main(["export", str(run), "--to", "safetensors"]) == 0
    card = (run / "folded" / "README.md").read_text()
    for part in (
        "## Architecture",
        "| total |",
        "digits, images of 8×8",
        "| lr | 0.1 |",
        "One seed: the spread is unknown",
        "## Limits",
    ):
        assert part in card, part
    recorded = json.loads((run / "result.json").read_text())
    assert f"test: {recorded['test_accuracy']:.2%} of 360 images, seed 0" in card
    assert cli.main(["export", str(run), "--to", "onnx", "--int8"]) == 0
    out = capsys.readouterr().out
    assert "calibrated on 256 images of digits/train" in out
    numbers = r"float32 [\d.]+%, int8 [\d.]+% \([+-][\d.]+%\); [\d.]+% of the answers differ"
    assert re.search(rf"accuracy on 200 images of digits/validation: {numbers}", out), out
    assert cli.main(["export", str(run), "--to", "c", "--image-size", "16", "--output", str(run / "16.c")]) == 0
    out = capsys.readouterr().out
    assert "1x16x16" in out
    assert f"wrote {run / '16.h'}" in out
    assert "int n16_classify(" in (run / "16.h").read_text()
    assert cli.main(["export", str(run), "--to", "c", "--output", str(run / "16.c"), "--prefix", "dogs"]) == 0
    assert "int dogs_classify(" in (run / "16.h").read_text()


def _error(capsys, *arguments: object) -> str:
    assert cli.main([str(one) for one in arguments]) == 2
    return capsys.readouterr().err.replace("\n", " ")


def test_what_cannot_be_exported_is_explained(run, tmp_path, capsys) -> None:
    assert "--int8: only for --to onnx and c; got --to html" in _error(capsys, "export", run, "--to", "html", "--int8")
    assert "--prefix: only for --to c" in _error(capsys, "export", run, "--to", "onnx", "--prefix", "a")
    new = tmp_path / "new" / "new" / "a.c"
    message = _error(capsys, "export", run, "--to", "c", "--prefix", "2", "--output", new)
    assert "expected a prefix of letters" in message
    for option in (["--data", "digits"], ["--data-dir", tmp_path]):
        message = _error(capsys, "export", run, "--to", "safetensors", *option)
        assert "--data and --data-dir: not with --to safetensors" in message
    assert "--image-size: only for --to c and executorch" in _error(
        capsys, "export", run, "--to", "onnx", "--image-size", "9"
    )
    for side in (0, 100_000):
        message = _error(capsys, "export", run, "--to", "c", "--image-size", side, "--output", new)
        assert re.search(rf"image_size: expected .*; got {side}", message)
    assert "expected config.json in it" in _error(capsys, "export", tmp_path, "--to", "onnx")
    assert "name another data set with --data" in _error(capsys, "export", run, "--to", "onnx", "--data", "nowhere")
    assert not list(tmp_path.iterdir())


def _somewhere_else(run: Path, folder: Path, data: str) -> Path:
    """A copy of a run on a machine that lacks its data."""
    folder.mkdir()
    for name in ("config.json", "result.json", "weights.safetensors"):
        folder.joinpath(name).write_bytes((run / name).read_bytes().replace(b'"data": "digits"', data.encode()))
    return folder


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('"data": "cifar10"', "cifar10 is not in "),
        ('"data": "/nowhere/photos"', "/nowhere/photos: the images cannot be read; no such file or folder"),
    ],
)
def test_a_network_is_exported_where_its_data_is_not(data, reason, run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(archives, "fetch", None)  # nothing is downloaded for a check
    moved = _somewhere_else(run, tmp_path / "run", data)
    arguments = ["export", str(moved), "--to", "onnx", "--data-dir", str(tmp_path)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert f"checking with 64 synthetic images, because {reason}" in out
    assert re.search(r"largest difference from the trained network: \d+e-0[678]", out), out
    if "cifar" not in data:  # int8 needs real images
        assert "name another data set with --data" in _error(capsys, *arguments, "--int8")


def test_pretrained_weights_are_exported_without_any_data(tmp_path, capsys) -> None:
    arguments = ["hcnn_small_cifar10", "--to", "c", "--output", str(tmp_path / "a.c"), "--data-dir", str(tmp_path)]
    assert cli.main(["export", *arguments]) == 0
    assert f"64 synthetic images, because cifar10 is not in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["the archive", "unpacked", "in its folder"])
def test_damaged_data_is_not_called_missing(where, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "fetch", lambda archive, folder: folder / archive.file)  # without a download
    archive = CIFAR10.archive
    home = tmp_path / archive.folder if where == "in its folder" else tmp_path
    home.mkdir(exist_ok=True)
    for name in [archive.file] if where == "the archive" else [name for name, _ in archive.members]:
        (home / name).touch()
    source = find_check_images(open_network("hcnn_small_cifar10"), data_dir=tmp_path).source
    assert source.startswith("64 synthetic images, because ")
    assert "is not in" not in source


def test_labels_of_other_classes_are_not_those_of_the_network(run) -> None:
    loaded = open_network(run)
    assert find_check_images(loaded).labels is not None
    renamed = replace(loaded.preprocessing, classes=tuple("9876543210"))
    found = find_check_images(replace(loaded, preprocessing=renamed), "digits")
    assert (found.source, found.labels) == ("64 images of digits/test", None)


def test_folded_weights_have_no_data(run, tmp_path, capsys) -> None:
    assert cli.main(["export", str(run), "--to", "safetensors", "--output", str(tmp_path / "folded")]) == 0
    assert cli.main(["export", str(tmp_path / "folded"), "--to", "c"]) == 0
    assert "64 synthetic images, because the network has no record of its data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "name"), [("onnx", "a.onnx"), ("torch", "a.pt2"), ("c", "a.c"), ("safetensors", "f")]
)
def test_only_files_of_an_earlier_export_are_replaced(target, name, run, tmp_path, capsys) -> None:
    path = tmp_path / name
    arguments = ["export", run, "--to", target, "--output", path]
    assert cli.main([str(one) for one in arguments]) == 0
    assert cli.main([str(one) for one in arguments]) == 0  # our own
    folder = [path / "README.md", path / "model.safetensors"]
    written = {"safetensors": folder, "c": [path, path.with_suffix(".h")]}.get(target, [path])
    for one in written:
        before = one.read_bytes()
        for other in (b"# My notes\n", b"", b"PK\x03\x04 of something", b"\x08\x07\x12\x07pytorch"):
            one.write_bytes(other)
            error = _error(capsys, *arguments)
            assert f"{one}: the file exists and hcnn export did not write it; add --force to replace it" in error
            assert one.read_bytes() == other
        assert cli.main([str(part) for part in (*arguments, "--force")]) == 0
        assert one.read_bytes()[:100] == before[:100]


def test_folders_links_to_nothing_and_devices_are_never_replaced(run, tmp_path, capsys) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("folder", "a folder"), ("link", "a link to nothing"), ("pipe", "a device")):
        error = _error(capsys, "export", run, "--to", "c", "--force", "--output", tmp_path / name)
        assert f"expected a file or a free name; it is {kind}" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        (["c"], "a.c", "not checked: there is no C compiler (cc) here"),
        (["c", "--int8"], "a.c", "the C file was not checked: there is no C compiler (cc) here"),
        (["html"], "a.html", "not checked: there is no Node.js (node) here"),
    ],
)
def test_what_could_not_be_checked_is_said(options, name, says, run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert cli.main(["export", str(run), "--to", *options, "--output", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert says in out
    assert "largest difference" not in out
    assert (tmp_path / name).is_file()


def _archive(entry: str) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(entry, "")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "ours"),
    [
        (b"\0\0\0\0ET12" + 99_999 * b"\0" + b"written by hcnn", True),  # ExecuTorch
        (b"\0\0\0\0ET12" + 99_999 * b"\0", False),
        (_archive("archive/extra/written by hcnn"), True),
        (_archive("archive/extra/written by someone"), False),
        (_archive("archive/extra/written by hcnn")[:-1], False),
        (200 * b"-" + b"How to tell a file that was written by hcnn", False),
        (b'The header has "format":"hcnn-folded-1" in it', False),
    ],
)
def test_an_export_is_known_by_its_producer(data, ours, tmp_path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert is_export(tmp_path / "file") is ours


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(missing, run, tmp_path) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None\nfrom hcnn import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "export", str(run), "--to", "onnx", "--output", str(tmp_path / "a.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"this needs {missing}: pip install 'hcnn[export]'" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "a.onnx").exists()
