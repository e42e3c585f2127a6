"""A refused run leaves nothing: its folder is as it was, and serves the corrected command."""

import errno
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnn
from hcnn.data.image_set import ImageSet, Splits
from hcnn.runs import train as train_module
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.checkpoints import load_newest, save_checkpoint
from hcnn.storage.safetensors import save_weights
from hcnn.training import device as device_module
from hcnn.training.distillation.config import DistillationConfig
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe

RECIPE = Recipe(epochs=1, batch_size=4)


def pets(count: int = 12, classes: int = 2, channels: int = 1, side: int = 8) -> ImageSet:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=random)
    return ImageSet(images, torch.arange(count) % classes, tuple("abcdefghij"[:classes]), "pets", allow_empty=True)


def settings(**changed: Any) -> RunSettings:
    network = hcnn.model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=(), classes=2)
    return RunSettings(network, changed.pop("recipe", RECIPE), "pets", **changed)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def one_class() -> ImageSet:
    return replace(pets(), labels=torch.zeros(12, dtype=torch.int64), classes=("a",))


REFUSED: dict[str, tuple[Callable[[], RunSettings], Callable[[], ImageSet], str]] = {
    "cuda": (lambda: settings(device="cuda"), pets, r"device: expected one of cpu.*; got 'cuda'"),
    "gpu": (lambda: settings(device="gpu"), pets, r"device: expected one of cpu.*; got 'gpu'"),
    "mps": (lambda: settings(device="mps"), pets, r"device: expected one of cpu.*; got 'mps'"),
    "nonsense": (lambda: settings(device="cpu:x"), pets, r"device: expected one of cpu.*; got 'cpu:x'"),
    "meta": (lambda: settings(device="meta"), pets, r"device: expected one of cpu.*; got 'meta'"),
    "batch": (lambda: settings(recipe=Recipe(batch_size=13)), pets, "13 is more than the 12 training images"),
    "translation": (
        lambda: settings(recipe=replace(RECIPE, augmentation=replace(RECIPE.augmentation, translation=8))), pets,
        "expected a translation below the smallest side, 8",
    ),
    "cutout": (
        lambda: settings(recipe=replace(RECIPE, augmentation=replace(RECIPE.augmentation, cutout=9))), pets,
        "expected a cutout of at most the smallest side, 8",
    ),
    "graph": (lambda: settings(graph=True), pets, "graph: expected one process on a CUDA device"),
    "teacher": (lambda: settings(teacher=Path("nowhere")), pets, "nowhere is not a finished run"),
    "channels": (settings, lambda: pets(channels=3), "the network expects 1 channel; pets has 3"),
    "classes": (settings, lambda: pets(classes=3), "the network has 2 classes; pets has 3"),
    "too small an image": (
        lambda: settings_of("maxout_digits"), lambda: pets(side=4),
        "expected images of 8x8, as input_side says; got 4x4"
    ),
    "one class": (
        lambda: replace(settings(), network=replace(settings().network, classes=1)), one_class,
        "expected training images of at least two classes; all 12 are of class 'a'",
    ),
    "an empty class": (
        lambda: replace(settings(), network=replace(settings().network, classes=3)),
        lambda: replace(pets(), classes=tuple("abc")), "expected training images of every class; there are none of 'c'",
    ),
    "one image": (settings, lambda: pets(count=1), "expected training images of every class; there are none of 'b'"),
    "constant images": (
        settings, lambda: replace(pets(), images=torch.full((12, 1, 8, 8), 7, dtype=torch.uint8)),
        "expected training images that differ; all 12 have the same constant colour",
    ),
}  # fmt: skip


def settings_of(name: str) -> RunSettings:
    return RunSettings(hcnn.model_config(name, classes=2), RECIPE, "pets")


@pytest.mark.parametrize("cause", REFUSED)
def test_a_refused_run_leaves_nothing_and_the_corrected_one_takes_the_folder(tmp_path, cause) -> None:
    asked, data, message = REFUSED[cause]
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        train_run(tmp_path / "runs" / "one", asked(), Splits(data()))
    assert snapshot(tmp_path) == {}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "note.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=message):
        train_run(tmp_path / "runs", asked(), Splits(data()))
    assert snapshot(tmp_path) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_corrected_command_takes_the_folder(tmp_path) -> None:
    with pytest.raises(ValueError, match="13 is more than the 12"):
        train_run(tmp_path / "run", settings(recipe=Recipe(batch_size=13)), Splits(pets()))
    assert train_run(tmp_path / "run", settings(), Splits(pets()))["train_images"] == 12


def test_a_run_that_diverges_at_once_leaves_the_folder_to_the_corrected_command(tmp_path) -> None:
    hot = settings(recipe=replace(RECIPE, lr=1e30, epochs=4))
    with pytest.raises(ValueError, match=r"(the loss became nan|contains NaN).*last good checkpoint: none; lower --lr"):
        train_run(tmp_path / "run", hot, Splits(pets()))
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert train_run(tmp_path / "run", settings(), Splits(pets()))["epochs"] == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["lr"] == RECIPE.lr


def test_weights_that_overflow_are_refused_and_the_last_good_checkpoint_stays(tmp_path) -> None:
    spoiled = settings(recipe=replace(RECIPE, epochs=3), checkpoint_seconds=0)
    kept: list[Any] = []

    def spoil(progress: Any) -> None:
        if progress.step == 4:
            trainer = kept[0]
            next(trainer.model.buffers()).fill_(float("inf"))

    original = train_module.Trainer

    class Watched(original):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            kept.append(self)

    train_module.Trainer = Watched
    try:
        with pytest.raises(ValueError, match=r"contains NaN or infinities after step 5.*step-000000004.json"):
            train_run(tmp_path / "run", spoiled, Splits(pets()), on_step=spoil)
    finally:
        train_module.Trainer = original
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_files_that_are_not_of_a_run_are_not_replaced(tmp_path) -> None:
    save_weights(tmp_path / "weights.safetensors", {"mine": torch.ones(1)}, {})
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"holds weights.safetensors without a config.json; give another --output"):
        train_run(tmp_path, settings(), Splits(pets()))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", '{"name": "mine"}', "config.json is not that of a run and would be replaced"),
        ("config.json", "mine", "config.json: expected strict JSON"),
        ("result.json", "{}", "holds result.json without a config.json"),
        ("metrics.jsonl", "", "holds metrics.jsonl without a config.json"),
        ("curves.png", "mine", "holds curves.png without a config.json"),
        ("checkpoints", "mine", "checkpoints: expected a folder; it is a file"),
    ],
)
def test_other_files_that_would_be_replaced_are_kept(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    for resume in (False, True):
        with pytest.raises(ValueError, match=message):
            train_run(tmp_path, settings(), Splits(pets()), resume=resume)
    assert snapshot(tmp_path) == {str(tmp_path / name): text.encode()}


def test_a_damaged_config_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": NaN}')
    save_checkpoint(tmp_path, 3, {"x": torch.ones(1)}, {})
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"config.json: expected strict JSON; NaN is not a number"):
        train_run(tmp_path, settings(), Splits(pets()), resume=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("field", ["seed", "train_images", "parameters", "seconds"])
def test_a_result_that_lacks_a_field_is_named(tmp_path, field) -> None:
    train_run(tmp_path / "run", settings(), Splits(pets()))
    path = tmp_path / "run" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in result.items() if name != field}))
    with pytest.raises(ValueError, match=rf"result.json: expected a field '{field}'; it is missing"):
        train_run(tmp_path / "run", settings(), Splits(pets()), resume=True)


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(train_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"checkpoints take [\d,]+ bytes, and 1,000 are free") as caught:
        train_run(tmp_path / "deep" / "run", settings(), Splits(pets()))
    assert caught.value.errno == errno.ENOSPC
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("validation", [None, pets()], ids=["train", "best epoch"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_needs_room_for_three_checkpoints_and_a_resumed_one_for_one(
    tmp_path, monkeypatch, optimizer, validation
) -> None:
    first = settings(recipe=replace(RECIPE, optimizer=optimizer))
    longer = replace(first, recipe=replace(first.recipe, epochs=2))
    data = Splits(pets(), validation)
    train_run(tmp_path / "begun", first, data)
    checkpoint, _ = load_newest(tmp_path / "begun")
    assert checkpoint is not None
    stored = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    monkeypatch.setattr(train_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    for name, copies in (("new", 3), ("begun", 1)):
        with pytest.raises(OSError, match=r"checkpoints take [\d,]+ bytes") as caught:
            train_run(tmp_path / name, longer, data, resume=True)
        found = re.search(r"take ([\d,]+) bytes", str(caught.value))
        assert found is not None
        assert int(found[1].replace(",", "")) == pytest.approx(copies * stored, rel=0.02)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="the output folder cannot be written"):
            train_run(tmp_path / "run", settings(), Splits(pets()))
    finally:
        tmp_path.chmod(0o700)
    assert snapshot(tmp_path) == {}


def test_a_file_where_the_folder_should_be_is_refused(tmp_path) -> None:
    (tmp_path / "run").write_text("mine")
    for folder in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with pytest.raises(OSError, match="Not a directory"):
            train_run(folder, settings(), Splits(pets()))
    assert snapshot(tmp_path) == {str(tmp_path / "run"): b"mine"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: settings(seed=-1), "seed: expected a whole number from 0"),
        (lambda: settings(checkpoint_seconds=float("nan")), "checkpoint_seconds: expected 0 or more; got nan"),
        (lambda: get_recipe("digits", epoch=3), r"recipe: unknown field 'epoch'; did you mean epochs"),
        (lambda: get_recipe("digits", lr="fast"), "lr: expected a positive number; got 'fast'"),
        (lambda: get_recipe("digits", epochs=True), "epochs: expected a whole number, 1 or more; got True"),
        (lambda: get_recipe("digits", precision="float16"), "precision: expected one of"),
        (lambda: get_recipe("digits", nesterov="no"), "nesterov: expected True or False; got 'no'"),
        (lambda: get_recipe("digits", image_sizes=24), "image_sizes: expected a tuple; got 24"),
        (lambda: get_recipe("digits", augmentation={"translation": 1}), "augmentation: expected an Augmentation; got"),
        (lambda: get_recipe("digits", attributes=[3]), r"attributes: expected ties, .* as in hue=v3@3.*; got \[3\]"),
        (lambda: DistillationConfig(hints=float("inf")), "hints: expected 0 or more; got inf"),
    ],
)
def test_settings_that_nothing_can_be_done_with_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------------------------------------ precision


@pytest.fixture
def no_native(monkeypatch) -> None:
    """As where nothing was compiled: what "auto" is then depends on the processor."""
    monkeypatch.setattr(device_module, "native_available", lambda x: False)


@pytest.mark.usefixtures("no_native")
@pytest.mark.parametrize(("flags", "expected"), [({"avx2": True}, "float32"), ({"amx_bf16": True}, "bfloat16")])
def test_auto_is_what_the_processor_is_fast_at(tmp_path, monkeypatch, flags, expected) -> None:
    monkeypatch.setattr(device_module.torch.cpu, "get_capabilities", lambda: flags)
    said: list[str] = []
    auto = settings(recipe=replace(RECIPE, precision="auto"))
    result = train_run(tmp_path / "run", auto, Splits(pets()), say=said.append)
    assert result["precision"] == expected
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["precision"] == expected
    assert said[0].startswith(f"precision {expected}: the processor has")


def test_bfloat16_that_is_slow_says_what_it_costs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(device_module.torch.cpu, "get_capabilities", lambda: {"avx2": True})
    said: list[str] = []
    asked = settings(recipe=replace(RECIPE, precision="bfloat16"))
    assert train_run(tmp_path / "run", asked, Splits(pets()), say=said.append)["precision"] == "bfloat16"
    assert "warning: precision bfloat16 was asked for, but the processor has no bfloat16 instructions" in said[0]
    assert "times as long as in float32" in said[0]


def test_auto_is_float32_where_native_kernels_serve_the_network(monkeypatch) -> None:
    monkeypatch.setattr(device_module, "native_available", lambda x: True)
    monkeypatch.setattr(device_module.torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    cpu = device_module.find_device("cpu")
    chosen, sentence = device_module.settle_precision("auto", cpu, attributes=True)
    assert (chosen, sentence) == ("float32", "precision float32: the native kernels compute in it")
    assert device_module.settle_precision("auto", cpu)[0] == "bfloat16"  # a baseline
    assert device_module.settle_precision("bfloat16", cpu, attributes=True)[0] == "bfloat16"


@pytest.mark.usefixtures("no_native")
def test_a_resumed_run_keeps_the_precision_it_began_with(tmp_path, monkeypatch) -> None:
    auto = settings(recipe=replace(RECIPE, precision="auto", epochs=2), checkpoint_seconds=0)
    monkeypatch.setattr(device_module.torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    whole = train_run(tmp_path / "whole", auto, Splits(pets()))

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise Stop

    with pytest.raises(Stop):
        train_run(tmp_path / "parts", auto, Splits(pets()), on_step=stop)
    monkeypatch.setattr(device_module.torch.cpu, "get_capabilities", lambda: {"avx2": True})
    said: list[str] = []
    parts = train_run(tmp_path / "parts", auto, Splits(pets()), resume=True, say=said.append)
    assert parts["precision"] == "bfloat16"
    assert parts["weights_sha256"] == whole["weights_sha256"]
    assert said[0].startswith("precision bfloat16, as the run began with; warning")
