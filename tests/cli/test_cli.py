"""The command as a user types it: a real run on digits, then every kind of wrong input."""

import json
import pickle
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress

import hcnn
from hcnn import cli
from hcnn.cli import explore as explore_command
from hcnn.cli import train_options
from hcnn.export import export_safetensors
from hcnn.storage.safetensors import load_weights, save_weights
from hcnn.training.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert cli.main(["demo", "--epochs", "2", "--output", str(folder)]) == 0
    return folder


def _error(capsys, *arguments: str) -> str:
    assert cli.main([str(one) for one in arguments]) == 2
    captured = capsys.readouterr()
    assert "wrote" not in captured.out
    assert "Traceback" not in captured.err
    return captured.err.replace("\n", " ")


def test_demo_leaves_a_complete_run(run) -> None:
    names = {path.name for path in run.iterdir()} - {".lock"}
    expected = {"config.json", "metrics.jsonl", "weights.safetensors", "result.json", "sample.png"}
    assert names == expected | {"curves.png", "translations.png", "timing.jsonl", "checkpoints", "tensorboard"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["loss"] < rows[0]["loss"]
    result = json.loads((run / "result.json").read_text())
    assert result["test_accuracy"] > 0.6
    for name in ("curves.png", "translations.png"):
        with Image.open(run / name) as image:
            assert min(image.size) > 200
    assert (run / "weights.safetensors").stat().st_mode & 0o044  # readable as any other file


def test_evaluate_repeats_the_recorded_accuracy(run, capsys) -> None:
    assert cli.main(["evaluate", str(run)]) == 0
    recorded = json.loads((run / "result.json").read_text())["test_accuracy"]
    assert f"digits, test: {recorded:.2%} of 360 images" in capsys.readouterr().out


def test_predict_names_classes_with_probabilities(run, capsys) -> None:
    assert cli.main(["predict", str(run), str(run / "sample.png"), "--top", "10"]) == 0
    out = capsys.readouterr().out
    found = re.findall(r"([0-9]) +([0-9.]+)%", out.split("sample.png:")[1].replace("\n", " "))
    assert sorted(name for name, _ in found) == [str(digit) for digit in range(10)]
    assert abs(sum(float(p) for _, p in found) - 100) < 1


def test_training_twice_gives_the_same_weights(tmp_path) -> None:
    for name in ("a", "b"):
        assert cli.main(["train", "digits", "--epochs", "1", "--width", "4", "--output", str(tmp_path / name)]) == 0
    first, second = (load_weights(tmp_path / name / "weights.safetensors")[0] for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["model"]["width"] == 4


def test_a_finished_run_without_a_test_says_how_to_measure_it(tmp_path, capsys) -> None:
    command = ["train", "digits", "--epochs", "1", "--width", "4", "--output", str(tmp_path)]
    hint = f"the run was finished without its test images; to measure them: hcnn evaluate {tmp_path}\n"
    for options, expected in ((["--no-test"], False), (["--no-test", "--resume"], False), (["--resume"], True)):
        assert cli.main([*command, *options]) == 0
        out = capsys.readouterr().out
        assert out.endswith(hint) is expected
        again = "--resume" in options
        assert (f"{tmp_path}: the run was finished already; it stays as it is" in out) is again
        assert (f"wrote {tmp_path}/weights.safetensors" in out) is not again


def test_a_finished_run_is_not_tested_again_with_flips(tmp_path, capsys) -> None:
    command = ["train", "digits", "--epochs", "1", "--width", "4", "--output", str(tmp_path)]
    note = "the run was finished without --test-flips, and the test images are not read again\n"
    for options, expected in (([], False), (["--resume", "--test-flips"], True), (["--resume"], False)):
        assert cli.main([*command, *options]) == 0
        assert capsys.readouterr().out.endswith(note) is expected
    assert "test_accuracy_with_flips" not in json.loads((tmp_path / "result.json").read_text())


def test_the_bar_keeps_the_loss_that_was_seen_last_where_not_every_step_is_looked_at(tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(Trainer, "_looks", lambda trainer: trainer.step % 4 == 0)  # on a GPU every 50th step
    monkeypatch.setattr(Progress, "update", lambda bar, task, **fields: seen.append(fields))
    command = ["train", "digits", "--epochs", "1", "--width", "4", "--train-images", "400", "--output", str(tmp_path)]
    assert cli.main(command) == 0
    assert "nan" not in str(seen)
    assert [bool(fields["learned"]) for fields in seen[:4]] == [False, False, True, True]  # steps 2 to 5


def test_flips_of_test_images_that_are_not_read_are_refused(tmp_path, capsys) -> None:
    assert cli.main(["train", "digits", "--no-test", "--test-flips", "--output", str(tmp_path / "run")]) == 2
    assert "--test-flips: expected no --no-test beside it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_summary_and_models(capsys) -> None:
    assert cli.main(["summary", "hcnn_cifar10"]) == 0
    out = capsys.readouterr().out
    assert "97,650" in out
    assert "344,640" in out
    assert cli.main(["models"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["hcnn_small_cifar10"][1:] == ["8", "32", "12", "10", "86,192", "24,030", "63M", "86.26%"]
    assert lines["resnet20_cifar10"][-2:] == ["41M", "-"]


def test_summary_of_runs(run, tmp_path, capsys) -> None:
    assert cli.main(["summary", str(run)]) == 0
    out = capsys.readouterr().out
    assert "boundary zeros, images 1x8x8" in out
    assert "9,168" in out
    assert cli.main(["summary", str(run), "--image-size", "16"]) == 0
    assert "images 1x16x16" in capsys.readouterr().out
    hub = pytest.importorskip("hcnn.export.hub")
    hub.HubNetwork.from_run(run).save_pretrained(tmp_path / "hub")
    assert cli.main(["summary", str(tmp_path / "hub")]) == 0
    assert "9,168" in capsys.readouterr().out
    loaded = hcnn.load(run)
    export_safetensors(tmp_path / "folded", loaded.run.model, loaded.preprocessing, "a card")
    assert "these are folded weights" in _error(capsys, "summary", str(tmp_path / "folded"))
    assert "expected a run folder" in _error(capsys, "summary", str(tmp_path / "none"))


@pytest.mark.parametrize("command", ["train", "demo", "evaluate", "predict", "summary", "models"])
def test_help_shows_an_example(command, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: hcnn {command}" in capsys.readouterr().out


def test_the_installed_command_and_an_unknown_one() -> None:
    done = subprocess.run([sys.executable, "-m", "hcnn.cli", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = (
        f"{shlex.quote(sys.executable)} -m hcnn.cli train --help | true"  # more than a pipe that nobody reads takes
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bad_images_are_explained(run, tmp_path, capsys) -> None:
    good = (run / "sample.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.png").write_text("no image at all")
    assert "cut.png" in _error(capsys, "predict", run, tmp_path / "cut.png")
    assert "text.png" in _error(capsys, "predict", run, tmp_path / "text.png")
    assert "missing.png" in _error(capsys, "predict", run, run / "sample.png", tmp_path / "missing.png")
    pixels = np.zeros((1, 8, 8))
    pixels[0, 3, 3] = np.nan
    np.save(tmp_path / "nan.npy", pixels)
    assert "nan.npy: 1 of 64 pixels are NaN" in _error(capsys, "predict", run, tmp_path / "nan.npy")
    np.save(tmp_path / "shape.npy", np.zeros((3, 8, 8)))
    assert "expected pixels of shape (1, 8, 8)" in _error(capsys, "predict", run, tmp_path / "shape.npy")


def test_bad_run_folders_are_explained(run, tmp_path, capsys) -> None:
    assert "expected config.json in it" in _error(capsys, "evaluate", tmp_path)
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    assert "expected weights.safetensors in it" in _error(capsys, "evaluate", tmp_path)
    state, _ = load_weights(run / "weights.safetensors")
    state["extra"] = state.pop("layers.0.weight")
    state["layers.1.weight"] = torch.zeros(8, 7, 3, 3)
    save_weights(tmp_path / "weights.safetensors", state, {})
    message = _error(capsys, "evaluate", tmp_path)
    for part in ("layers.0.weight", "extra", "layers.1.weight", "(8, 7, 3, 3)", "(8, 5, 3, 3)"):
        assert part in message, part
    (tmp_path / "config.json").write_text("{")
    assert "config.json: expected strict JSON" in _error(capsys, "evaluate", tmp_path)


def test_an_output_folder_that_cannot_be_written_is_said_before_training(run, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in _error(capsys, "train", "digits", "--output", tmp_path / "file" / "run")
    assert "already holds a finished run" in _error(capsys, "train", "digits", "--output", run)


def test_bad_settings_are_explained(tmp_path, capsys) -> None:
    assert "did you mean hcnn_cifar10" in _error(capsys, "summary", "hcnn_cifar")
    assert "unknown recipe 'fats'; did you mean fast?" in _error(capsys, "train", "digits", "--recipe", "fats")
    assert "K = 6 does not fit depth" in _error(capsys, "train", "digits", "--width", "6", "--output", tmp_path / "a")
    assert "is more than the 1437 training images" in _error(
        capsys, "train", "digits", "--batch-size", "2000", "--output", tmp_path / "b"
    )


@pytest.mark.parametrize(
    "words", [("train", "digits"), ("tune", "digits"), ("explore", "hcnn_digits"), ("compare", ".")]
)
def test_more_threads_than_any_machine_has_are_refused(words, capsys) -> None:
    assert re.search(r"--threads: expected 1 to \d+; got 1000000000", _error(capsys, *words, "--threads", "1000000000"))


def test_a_lack_of_memory_without_words_is_named(monkeypatch, capsys) -> None:
    def fail(options: object, console: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hcnn.cli.inspect.models", fail)
    assert _error(capsys, "models") == "hcnn: not enough memory "


def test_a_command_that_is_terminated_leaves_nothing(run, tmp_path, monkeypatch, capsys) -> None:
    def stop(*_: object) -> None:
        assert (tmp_path / "new").is_dir()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(explore_command, "open_with_progress", stop)
    assert cli.main(["figure", "3", str(run), "--output", str(tmp_path / "new" / "figure.png")]) == 143
    assert capsys.readouterr().err == "hcnn: terminated\n"
    assert [*tmp_path.iterdir()] == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys) -> None:
    message = _error(capsys, "train", "digits", "--lr", "1e30", "--epochs", "1", "--output", tmp_path / "c")
    assert re.search(r"the loss became (nan|inf) at step \d+ of 22, learning rate", message)


def test_a_run_needs_no_optional_package(tmp_path) -> None:
    """`import hcnn`, the networks and a training run: torch, numpy and safetensors only."""
    script = """
import sys
for name in ("rich", "PIL", "matplotlib", "sklearn", "scipy", "pooch", "tensorboard"):
    sys.modules[name] = None  # importing it fails as if it were not installed
import torch, hcnn
from pathlib import Path

from hcnn.data.image_set import ImageSet, Splits
from hcnn.runs.settings import RunSettings
from hcnn.runs.load import load_run
from hcnn.runs.train import train_run
from hcnn.training.recipe import Recipe
images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
data = Splits(ImageSet(images, torch.arange(20) % 10, tuple("0123456789"), "noise"))
settings = RunSettings(hcnn.model_config("hcnn_digits"), Recipe(epochs=1, batch_size=4), "noise")
train_run(Path(sys.argv[1]), settings, data)
load_run(Path(sys.argv[1]))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path / "run")], check=True)


def _write_images(folder: Path, classes: tuple[str, ...], per_class: int) -> None:
    noise = np.random.default_rng(0)
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(noise.normal(60 + 120 * shade, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_a_folder_of_images_trains_and_predicts(tmp_path, capsys) -> None:
    _write_images(tmp_path / "data" / "train", ("dark", "light"), 20)
    _write_images(tmp_path / "data" / "test", ("dark", "light"), 3)
    (tmp_path / "data" / "train" / "dark" / "broken.png").write_bytes(b"\x89PNG but no more")
    command = ["train", tmp_path / "data", "--model", "hcnn_digits", "--recipe", "digits", "--batch-size", "20"]
    command += ["--epochs", "8", "--output", tmp_path / "run"]
    assert "broken.png" in _error(capsys, *command)
    assert cli.main([*map(str, command), "--bad-images", "skip"]) == 0
    out = capsys.readouterr().out
    assert "skipped" in out
    assert "broken.png" in out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"] == 1
    image = tmp_path / "data" / "test" / "light" / "0.png"
    assert cli.main(["predict", str(tmp_path / "run"), str(image)]) == 0
    assert "0.png: light" in capsys.readouterr().out.replace("\n", "")
    for words in (["evaluate"], ["figure", "4"], ["export", "--to", "c", "--int8"]):  # which skip the same file
        assert cli.main([*words, str(tmp_path / "run")]) == 0
    (tmp_path / "data" / "test" / "dark" / "broken.png").write_bytes(b"\x89PNG but no more")
    assert cli.main([*map(str, command), "--bad-images", "skip", "--resume"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.pop("on_bad") == "skip"  # earlier versions did not record it
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert cli.main([*map(str, command), "--bad-images", "skip", "--resume"]) == 0
    capsys.readouterr()
    message = _error(capsys, "evaluate", tmp_path / "run")
    assert "2 files are not usable images:" in message  # without advice that evaluate could not follow


def test_arrays_train_and_pickles_are_refused(tmp_path, capsys) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(40) % 2)
    command = ["train", tmp_path / "data.npz", "--model", "hcnn_digits", "--recipe", "digits", "--batch-size", "20"]
    assert cli.main([*map(str, command), "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    (tmp_path / "data.pkl").write_bytes(pickle.dumps({"images": images}))
    assert "pickle" in _error(capsys, "train", tmp_path / "data.pkl", "--model", "hcnn_digits")
    (tmp_path / "run" / "weights.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    assert "pickle" in _error(capsys, "evaluate", tmp_path / "run")


def test_what_follows_from_the_data_cannot_be_set(capsys) -> None:
    assert "--classes: follows from the data" in _error(capsys, "train", "digits", "--classes", "5")


@pytest.mark.parametrize("name", hcnn.list_models())
def test_every_model_can_be_asked_for(name) -> None:
    """The options of its configuration share one command line with everything else."""
    assert train_options.read(["digits", "--model", name]).network == hcnn.model_config(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inside torch's compiler
def test_compiled_and_channels_last_training(tmp_path) -> None:
    for option in ("--compile", "--channels-last"):
        folder = tmp_path / option
        assert cli.main(["train", "digits", "--epochs", "2", option, "--output", str(folder)]) == 0
        assert json.loads((folder / "result.json").read_text())["test_accuracy"] > 0.6
