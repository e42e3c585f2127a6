"""The search for settings: what it compares, what it records, and that it survives a kill."""

import csv
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnn
from hcnn.data.augment import Augmentation
from hcnn.data.image_set import ImageSet, Splits
from hcnn.runs import tune as tune_module
from hcnn.runs.interrupts import Interrupted
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.runs.tune import Tuning, plan_trials, tune
from hcnn.training.progress import Diverged, Progress
from hcnn.training.recipe import Recipe


class Killed(Exception):
    pass


def shades(count: int, seed: int) -> ImageSet:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = torch.randn(count, 1, 8, 8, generator=random) * 60 + 120 + 20 * labels[:, None, None, None]
    return ImageSet(pixels.clamp(0, 255).to(torch.uint8), labels, ("dark", "light"), f"shades-{seed}")


DATA = Splits(shades(32, 0), shades(40, 1), shades(20, 2))


def settings(**changed: Any) -> RunSettings:
    network = hcnn.model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=(), classes=2)
    return RunSettings(network, Recipe(**{"epochs": 9, "batch_size": 8, "lr": 0.2, **changed}), "shades")


def record(folder: Path) -> dict[str, Any]:
    known = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    for score in known["scores"]:
        del score["seconds"]
    del known["best"]["seconds"]
    return known


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Tuning]:
    folder = tmp_path_factory.mktemp("tune") / "search"
    return folder, tune(folder, settings(), DATA, trials=4)


def test_every_round_keeps_the_best_third_and_triples_the_epochs(whole) -> None:
    folder, found = whole
    rounds = [[score for score in found.scores if score.rung == rung] for rung in (1, 2, 3)]
    assert [(len(one), one[0].epochs) for one in rounds] == [(4, 1), (2, 3), (1, 9)]
    for earlier, later in itertools.pairwise(rounds):
        threshold = min(score.accuracy for score in earlier if score.trial in {one.trial for one in later})
        assert all(score.accuracy <= threshold for score in earlier if score.trial not in {one.trial for one in later})
    assert found.best == rounds[2][0]
    assert found.folder == folder / "rung-3" / f"trial-{found.best.trial}"
    assert found.settings.recipe.lr == found.best.settings["lr"]
    result = json.loads((found.folder / "result.json").read_text(encoding="utf-8"))
    assert result["epochs"] == 9
    assert "test_accuracy" not in result
    assert load_run(found.folder).config["model"]["width"] == found.best.settings["width"]
    rows = list(csv.DictReader((folder / "tune.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["validation_accuracy"] for row in rows] == [str(round(score.accuracy, 6)) for score in found.scores]


def test_trials_lie_around_the_settings_and_the_first_has_them() -> None:
    plan = plan_trials(settings(), 20, 32)
    assert plan[0] == {"lr": 0.2, "weight_decay": 2e-4, "width": 4, "batch_size": 8}
    assert len({json.dumps(one) for one in plan}) == 20
    assert all(0.2 / 8.1 < one["lr"] < 0.2 * 4.1 for one in plan)
    assert {one["width"] for one in plan} == {4, 8}  # 2 would be too small for these layers
    assert {one["batch_size"] for one in plan} == {4, 8}  # 16 would be half of the images
    assert plan_trials(settings(), 20, 32) == plan
    assert plan_trials(replace(settings(), seed=1), 20, 32)[1:] != plan[1:]
    assert {*plan_trials(settings(), 3, 32, ["lr", "width"])[2]} == {"weight_decay", "batch_size"}
    assert "weight_decay" not in plan_trials(settings(weight_decay=0.0), 3, 32)[0]
    pairs = settings(batch_size=12, accumulate=2, augmentation=Augmentation(mixup=1.0))  # 6 would leave parts of 3
    assert {one["batch_size"] for one in plan_trials(pairs, 10, 96)} == {12, 24}
    tied = settings(attributes=("rotation=v2@3",))
    network = hcnn.model_config("hcnn_digits", boundary="circular", classes=2)
    plan = plan_trials(replace(tied, network=network), 10, 32)
    assert {one["width"] for one in plan} == {8, 16}  # v2 would have 2 values in a network of width 4


def test_trials_of_fewer_epochs_have_the_whole_schedule(tmp_path) -> None:
    steps = settings(schedule="step", milestones=(3, 6), factors=(0.1, 0.01))
    found = tune(tmp_path / "search", steps, DATA, trials=2)
    assert found.scores[0].epochs == 3
    config = json.loads((tmp_path / "search" / "rung-1" / "trial-0" / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["milestones"] == [1, 2]
    assert found.settings.recipe.milestones == (3, 6)


@pytest.mark.parametrize("kills", [(2,), (5, 30, 3, 9)])  # steps after each start
def test_a_search_survives_a_kill(whole, tmp_path, kills) -> None:
    folder = tmp_path / "search"

    def killed_after(steps: int) -> Callable[[Progress], None]:
        left = itertools.repeat(None, steps - 1)

        def stop(progress: Progress) -> None:
            if next(left, progress) is progress:
                raise Killed

        return stop

    for steps in kills:
        with pytest.raises(Killed):
            tune(folder, settings(), DATA, trials=4, resume=True, on_step=killed_after(steps))
    found = tune(folder, settings(), DATA, trials=4, resume=True)
    assert record(folder) == record(whole[0])
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (found.folder / name).read_bytes() == (whole[1].folder / name).read_bytes()
    seen: list[Progress] = []
    assert tune(folder, settings(), DATA, trials=4, resume=True, on_step=seen.append).best == found.best
    assert seen == []


def test_a_trial_that_diverges_is_out(tmp_path, monkeypatch) -> None:
    def train(folder: Path, own: RunSettings, *others: Any, **named: Any) -> dict[str, Any]:
        if own.recipe.lr == 0.2:
            raise Diverged("the loss became inf")
        return train_run(folder, own, *others, **named)

    monkeypatch.setattr(tune_module, "train_run", train)
    found = tune(tmp_path / "search", settings(epochs=2), DATA, trials=3, fixed=["width", "batch_size", "weight_decay"])
    assert [score.loss is None for score in found.scores] == [True, False, False, False]
    assert found.best.trial != 0
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"every trial of round 1 failed \(the loss became infinite\); begin"):
        tune(tmp_path / "all", settings(lr=1e25), DATA, trials=2)


def test_a_trial_that_needs_too_much_memory_is_out(tmp_path, monkeypatch) -> None:
    too_large: list[int] = []

    def train(folder: Path, own: RunSettings, *others: Any, **named: Any) -> dict[str, Any]:
        if own.recipe.batch_size in too_large:
            raise MemoryError("out of memory")
        return train_run(folder, own, *others, **named)

    monkeypatch.setattr(tune_module, "train_run", train)
    too_large += [size for size in (4, 8, 16, 32) if size != settings().recipe.batch_size]
    lines: list[str] = []
    found = tune(tmp_path / "search", settings(epochs=2), DATA, trials=2, fixed=["width", "lr", "weight_decay"],
                 say=lines.append)  # fmt: skip
    assert [score.failure for score in found.scores] == [None, "not enough memory", None]
    assert found.best.trial == 0
    assert lines[1].endswith(": not enough memory")
    too_large.append(settings().recipe.batch_size)
    with pytest.raises(MemoryError):  # what was asked for does not fit
        tune(tmp_path / "all", settings(), DATA, trials=2)


def test_refusals_leave_nothing(tmp_path, whole) -> None:
    folder = tmp_path / "search"
    with pytest.raises(ValueError, match="shades: expected validation images"):
        tune(folder, settings(), Splits(DATA.train))
    with pytest.raises(ValueError, match="trials: expected 2 to 10,000; got 1"):
        tune(folder, settings(), DATA, trials=1)
    with pytest.raises(ValueError, match="expected something to search among lr, weight_decay, width, batch_size"):
        tune(folder, settings(), DATA, fixed=["lr", "weight_decay", "width", "batch_size"])
    with pytest.raises(ValueError, match=r"fixed: expected names among .*; got depth"):
        tune(folder, settings(), DATA, fixed=["depth"])
    with pytest.raises(ValueError, match="40 is more than the 32 training images"):
        tune(folder, settings(batch_size=40), DATA)
    assert not folder.exists()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected a new or empty folder, or one that holds a search"):
        tune(tmp_path, settings(), DATA, resume=True)
    before = (whole[0] / "tune.json").read_bytes()
    with pytest.raises(ValueError, match="already holds a search; add --resume"):
        tune(whole[0], settings(), DATA, trials=4)
    with pytest.raises(
        ValueError, match=r"holds another search: its trials \(5 here, 4 there\), recipe\.lr \(0\.1 here, .* differ"
    ):
        tune(whole[0], settings(lr=0.1), DATA, trials=5, resume=True)
    assert (whole[0] / "tune.json").read_bytes() == before


def test_a_search_of_an_earlier_version_is_resumed(whole, tmp_path) -> None:
    folder = tmp_path / "search"
    shutil.copytree(whole[0], folder)
    known = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    for part, newer in (("recipe", "topography"), ("model", "first_attribute")):
        del known["begun"][part][newer]
    del known["begun"]["recipe"]["augmentation"]["cutmix"]
    known["scores"] = known["scores"][:4]  # of the first round
    known["scores"][2]["settings"]["lr"] = 0.125  # such trials it drew
    known["scores"][2]["accuracy"] = 1.0
    (folder / "tune.json").write_text(json.dumps(known), encoding="utf-8")
    shutil.rmtree(folder / "rung-2")
    shutil.rmtree(folder / "rung-3")
    tune(folder, settings(), DATA, trials=4, resume=True)
    config = json.loads((folder / "rung-2" / "trial-2" / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["lr"] == 0.125


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rung", "1", "a whole number from 1 to 3; got '1'"),
        ("trial", 99, "a whole number from 0 to 3; got 99"),
        ("epochs", None, "a whole number from 1 to 2147483648; got None"),
        ("accuracy", None, "a number; got None"),
        ("loss", "x", "a number; got 'x'"),
        ("settings", 3, "a number for each of lr, weight_decay, width, batch_size; got 3"),
        ("settings", {"lr": 0.1}, "a number for each of lr, .*; got {'lr': 0.1}"),
    ],
)
def test_damaged_scores_are_refused(whole, tmp_path, name, value, expected) -> None:
    """They ended in a traceback, or a trial that had been trained counted as lost."""
    folder = tmp_path / "search"
    shutil.copytree(whole[0], folder)
    known = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    known["scores"][1][name] = value
    (folder / "tune.json").write_text(json.dumps(known), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"tune\.json: scores\[1\]\.{name}: expected {expected}"):
        tune(folder, settings(), DATA, trials=4, resume=True)
    assert json.loads((folder / "tune.json").read_text(encoding="utf-8")) == known


def test_a_search_is_not_resumed_without_its_validation_images(whole, tmp_path) -> None:
    folder = tmp_path / "search"
    shutil.copytree(whole[0], folder)
    known = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    known["begun"] |= {"validation_data": "elsewhere", "validation_sha256": "0" * 64}
    (folder / "tune.json").write_text(json.dumps(known), encoding="utf-8")
    with pytest.raises(ValueError, match="holds another search: its validation_data"):
        tune(folder, settings(), DATA, trials=4, resume=True)


def test_a_resumed_search_keeps_the_precision_of_its_first_trial(tmp_path) -> None:
    """Another processor might choose another one, whose scores could not be compared with the earlier ones."""

    def interrupt(progress: Progress) -> None:
        raise Killed

    folder, lines = tmp_path / "search", list[str]()
    given = replace(settings(epochs=3), recipe=replace(settings(epochs=3).recipe, precision="auto"))
    with pytest.raises(Killed):
        tune(folder, given, DATA, trials=2, on_step=interrupt)
    first = folder / "rung-1" / "trial-0" / "config.json"
    config = json.loads(first.read_text(encoding="utf-8"))
    assert config["recipe"]["precision"] == "float32"
    config["recipe"]["precision"] = "bfloat16"
    first.write_text(json.dumps(config), encoding="utf-8")
    tune(folder, given, DATA, trials=2, resume=True, say=lines.append)
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("rung-*/trial-*/config.json")]
    assert len(configs) == 3
    assert {one["recipe"]["precision"] for one in configs} == {"bfloat16"}
    assert lines[0].startswith("precision bfloat16, as the run began with")


def test_a_signal_in_the_final_measurement_of_a_trial_ends_the_search(whole, tmp_path) -> None:
    def signal_after_the_last_step(progress: Progress) -> None:
        if progress.step == progress.steps:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        tune(tmp_path, settings(), DATA, trials=4, on_step=signal_after_the_last_step)
    assert [path.name for path in (tmp_path / "rung-1").iterdir()] == ["trial-0"]
    assert (tmp_path / "rung-1" / "trial-0" / "result.json").exists()
    tune(tmp_path, settings(), DATA, trials=4, resume=True)
    assert record(tmp_path) == record(whole[0])
