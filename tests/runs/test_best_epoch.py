"""Validation images choose the epoch whose weights are kept, and a run may get more epochs; both survive a kill."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnn
from hcnn.data.image_set import ImageSet, Splits
from hcnn.runs.curves import learning_curves
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.safetensors import load_weights
from hcnn.training.best_epoch import BestEpoch, logits_with
from hcnn.training.evaluate import predict_logits
from hcnn.training.progress import Progress
from hcnn.training.recipe import Recipe, learning_rate


class Killed(Exception):
    pass


def shades(count: int, seed: int) -> ImageSet:
    """Dark and light noise, hard to tell apart, so that accuracy goes up and down."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = torch.randn(count, 1, 8, 8, generator=random) * 60 + 120 + 12 * labels[:, None, None, None]
    return ImageSet(pixels.clamp(0, 255).to(torch.uint8), labels, ("dark", "light"), f"shades-{seed}")


DATA = Splits(shades(24, 0), shades(30, 1))


def settings(epochs: int = 6, **changed: Any) -> RunSettings:
    network = hcnn.model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=(), classes=2)
    recipe = Recipe(**{"epochs": epochs, "batch_size": 4, "lr": 0.5, "ema": 0.8, **changed})
    return RunSettings(network, recipe, "shades", checkpoint_seconds=0)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def killed_at(step: int) -> Any:
    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return stop


def final(folder: Path) -> dict[str, bytes]:
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    return {
        "weights": (folder / "weights.safetensors").read_bytes(),
        "log": (folder / "metrics.jsonl").read_bytes(),
        "state": newest.read_bytes(),
        "config": (folder / "config.json").read_bytes(),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("best") / "run"
    train_run(folder, settings(), DATA)
    return folder


def test_of_epochs_that_are_equally_accurate_the_one_with_the_lowest_loss_is_kept() -> None:
    best = BestEpoch()
    offers = ((0.8, 0.5), (0.9, 0.7), (0.9, 0.8), (0.9, 0.6), (0.9, 0.6), (0.8, 0.1))
    taken = [best.offer(n, *offer, {"w": torch.tensor(n)}) for n, offer in enumerate(offers, 1)]
    assert taken == [True, True, False, True, False, False]
    assert (best.epoch, best.accuracy, best.loss, int(best.weights["w"])) == (4, 0.9, 0.6, 4)


def test_the_first_epoch_is_kept_however_bad_it_is() -> None:
    best = BestEpoch()
    assert best.offer(1, 0.0, 2.3, {})
    assert (best.epoch, best.loss) == (1, 2.3)


def test_other_weights_are_used_for_once() -> None:
    model, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), torch.randn(5, 1, 2, 2)
    before = predict_logits(model, x)
    doubled = {name: 2 * value for name, value in model.state_dict().items()}
    torch.testing.assert_close(logits_with(model, doubled, x), 2 * before)
    torch.testing.assert_close(predict_logits(model, x), before)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits_with(model, doubled, torch.randn(5, 1, 3, 3))
    torch.testing.assert_close(predict_logits(model, x), before)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_measured_in_eval_mode_and_left_in_the_mode_it_was_in(training) -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Flatten()).train(training)
    x = torch.randn(5, 1, 2, 2)
    torch.testing.assert_close(predict_logits(model, x), x.flatten(1))
    assert all(module.training is training for module in model.modules())
    with pytest.raises(IndexError):  # images without channels and space
        predict_logits(model, torch.randn(5))
    assert all(module.training is training for module in model.modules())


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_the_weights_are_those_of_the_best_epoch_and_the_records_say_so(tmp_path, ema) -> None:
    seen: list[Progress] = []
    test = shades(30, 2)
    asked = replace(settings(ema=ema), flip=True)
    result = train_run(tmp_path / "run", asked, replace(DATA, test=test), on_step=seen.append)
    log = rows(tmp_path / "run")
    best = max(log, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert best["epoch"] < 6, "the test is of no use if the last epoch is the best"
    assert result["best_epoch"] == best["epoch"]
    assert result["graph"] is False
    assert result["validation_accuracy"] == best["validation_accuracy"]
    kind = "moving average after epoch" if ema else "epoch"
    assert result["weights"] == f"{kind} {best['epoch']}, the best on the validation images"
    assert [one.validation for one in seen if one.epoch_done] == [row["validation_accuracy"] for row in log]
    assert all(one.validation is None for one in seen if not one.epoch_done)
    run = load_run(tmp_path / "run")
    assert DATA.validation is not None
    for name, images, flip in (
        ("validation_accuracy", DATA.validation, False),
        ("test_accuracy", test, False),
        ("test_accuracy_with_flips", test, True),
    ):
        x = run.preprocessing.standardize(images.images)
        with torch.no_grad():
            logits = run.model(x) + run.model(x.flip(-1)) if flip else run.model(x)
        hits = (logits.argmax(1) == images.labels).float().mean().item()
        assert result[name] == pytest.approx(hits, abs=1e-6)


def test_without_validation_images_the_last_epoch_is_kept_and_the_same_is_learned(tmp_path, whole) -> None:
    result = train_run(tmp_path / "run", settings(), Splits(DATA.train))
    assert result["weights"] == "moving average"
    assert "best_epoch" not in result
    log = rows(tmp_path / "run")
    assert "validation_accuracy" not in log[0]
    assert [row["loss"] for row in log] == [row["loss"] for row in rows(whole)]


@pytest.mark.parametrize("step", [5, 13, 24, 36])  # within epochs, after one, and after the last step
def test_the_best_epoch_survives_a_kill(tmp_path, whole, step) -> None:
    with pytest.raises(Killed):
        train_run(tmp_path / "run", settings(), DATA, on_step=killed_at(step))
    train_run(tmp_path / "run", settings(), DATA, resume=True)
    assert final(tmp_path / "run") == final(whole)


def test_curves_show_the_validation_images(whole, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    learning_curves(whole / "metrics.jsonl", tmp_path / "with.png")
    bare = [{key: value for key, value in row.items() if "validation" not in key} for row in rows(whole)]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    learning_curves(tmp_path / "bare.jsonl", tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected a line for each epoch; it is empty"),
        (b"{", "line 1: expected strict JSON"),
        (b"[1]\n", r"line 1: expected a JSON object; got \[1\]"),
        (b'{"epoch": 1, "loss": 1, "train_accuracy": 0}\n{}\n', "line 2: epoch: expected a number; got 'None'"),
        (
            b'{"epoch": 1, "loss": 1, "train_accuracy": 0, "validation_loss": "x"}\n',
            "line 1: validation_loss: expected a number; got 'x'",
        ),
    ],
)
def test_a_damaged_log_is_named(tmp_path, text, message) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=rf"metrics.jsonl: {message}"):
        learning_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_gets_more_epochs(tmp_path, finished) -> None:
    folder, said, data = tmp_path / "run", [], replace(DATA, test=shades(30, 2))
    if finished:
        train_run(folder, settings(4), data)
    else:
        with pytest.raises(Killed):
            train_run(folder, settings(4), data, on_step=killed_at(13))
    result = train_run(folder, settings(8), data, resume=True, say=said.append)
    log = rows(folder)
    assert [row["epoch"] for row in log] == [*range(1, 9)]
    at = 24 if finished else 13
    assert result["extended"] == [{"from_epochs": 4, "to_epochs": 8, "step": at}]
    assert json.loads((folder / "config.json").read_text())["extended"] == result["extended"]
    assert result["epochs"] == 8
    assert result["test_set"] == "read once after every training length that was finished; one view per image"
    rate = learning_rate(settings(8).recipe, at, 48)
    assert any(f"the learning rate resumes at {rate:.4g}" in line for line in said), said
    assert log[-1]["lr"] == learning_rate(settings(8).recipe, 47, 48)
    again = train_run(folder, settings(8), data, resume=True)
    assert again == result  # it is finished now
    assert train_run(folder, settings(10), data, resume=True)["extended"][1]["from_epochs"] == 8


def test_the_milestones_of_a_run_that_gets_more_epochs_move(tmp_path) -> None:
    folder, said = tmp_path / "run", []
    steps = {"schedule": "step", "milestones": (2,), "factors": (0.1,)}
    train_run(folder, settings(4, **steps), DATA)
    with pytest.raises(ValueError, match=r"its recipe\.milestones \(\[3\] here, \[2\] there\) differs"):
        train_run(folder, settings(4, **{**steps, "milestones": (3,)}), DATA, resume=True)
    longer = settings(12, **{**steps, "milestones": (6,)})
    train_run(folder, longer, DATA, resume=True, say=said.append)
    assert any("the learning rate resumes at 0.5 (it was 0.05)" in line for line in said), said
    assert [row["lr"] for row in rows(folder)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.5, 0.5, *[0.05] * 6])


def test_an_extended_run_survives_a_kill(tmp_path) -> None:
    for name, steps in (("whole", ()), ("killed", (25, 33, 48))):
        folder = tmp_path / name
        train_run(folder, settings(4), DATA)
        for step in steps:
            with pytest.raises(Killed):
                train_run(folder, settings(8), DATA, resume=True, on_step=killed_at(step))
            assert json.loads((folder / "result.json").read_text())["epochs"] == 4
            load_weights(folder / "weights.safetensors")  # still those of the shorter run
        train_run(folder, settings(8), DATA, resume=True)
    assert final(tmp_path / "killed") == final(tmp_path / "whole")


def test_a_finished_run_without_its_checkpoints_gets_no_more_epochs(tmp_path) -> None:
    folder = tmp_path / "run"
    train_run(folder, settings(4), DATA)
    shutil.rmtree(folder / "checkpoints")  # to save room
    before = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=r"run: no checkpoint to train further from, after 4 epochs; give another"):
        train_run(folder, settings(8), DATA, resume=True)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()} == before


def test_what_cannot_be_changed_is_named(tmp_path) -> None:
    folder = tmp_path / "run"
    train_run(folder, settings(4), DATA)
    before = final(folder)
    with pytest.raises(ValueError, match="holds a run of 4 epochs: expected --epochs 4 or more; got 3"):
        train_run(folder, settings(3), DATA, resume=True)
    with pytest.raises(
        ValueError, match=r"its recipe\.lr \(0\.1 here, .* there\) differs \(only --epochs may be raised\)"
    ):
        train_run(folder, settings(8, lr=0.1), DATA, resume=True)
    other = Splits(DATA.train, shades(30, 2))
    with pytest.raises(ValueError, match=r"its validation_data \(mine here, none there\), validation_sha256 .* differ"):
        train_run(folder, replace(settings(8), validation_name="mine"), other, resume=True)
    assert final(folder) == before


def test_validation_images_that_belong_to_the_data_must_stay_the_same(tmp_path) -> None:
    """Another set would choose among epochs that were measured on the first one."""
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        train_run(folder, settings(4), DATA, on_step=killed_at(9))
    before = rows(folder)
    other, without = Splits(DATA.train, shades(30, 2)), Splits(DATA.train)
    with pytest.raises(ValueError, match=r"its validation_sha256 \(\w{12}… here, \w{12}… there\) differs"):
        train_run(folder, settings(4), other, resume=True)
    with pytest.raises(ValueError, match=r"its validation_sha256 \(none here, \w{12}… there\) differs"):
        train_run(folder, settings(4), without, resume=True)
    assert rows(folder) == before
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["validation_sha256"]  # as earlier versions wrote it
    path.write_text(json.dumps(config))
    train_run(folder, settings(4), DATA, resume=True)
    train_run(tmp_path / "whole", settings(4), DATA)
    assert final(folder) | {"config": b""} == final(tmp_path / "whole") | {"config": b""}


def test_a_run_without_validation_images_is_not_resumed_with_some(tmp_path) -> None:
    train_run(tmp_path / "run", settings(2), Splits(DATA.train))
    with pytest.raises(ValueError, match=r"its validation_sha256 \(\w{12}… here, none there\) differs"):
        train_run(tmp_path / "run", settings(4), DATA, resume=True)


def test_a_resumed_run_removes_what_a_killed_one_left(tmp_path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        train_run(folder, settings(2), DATA, on_step=killed_at(3))
    for name in ("config.json", "weights.safetensors", "result.json"):
        (folder / f".{name}.tmp-1").write_bytes(b"half of it")
    train_run(folder, settings(2), DATA, resume=True)
    assert not [*folder.glob(".*.tmp-*")]


def test_a_run_that_fails_ends_tensorboard(tmp_path, monkeypatch) -> None:
    closed: list[str] = []

    class Board:
        def add_scalar(self, *_: object) -> None: ...

        def flush(self) -> None: ...

        def close(self) -> None:
            closed.append("closed")

    monkeypatch.setattr("hcnn.runs.recorder._tensorboard", lambda folder: Board())
    with pytest.raises(Killed):
        train_run(tmp_path / "run", settings(4), DATA, on_step=killed_at(2))
    assert closed == ["closed"]
