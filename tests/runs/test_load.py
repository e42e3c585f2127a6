"""Run folders that others have changed: one line that names file and field, and neither much time nor much memory."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnn
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.data.splits import fewer
from hcnn.export.model_card import read_records
from hcnn.layers.randomness import drawn_from
from hcnn.models.factory import build
from hcnn.runs.load import load_run, read_result
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.safetensors import load_weights, save_weights
from hcnn.training.recipe import Recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    network = hcnn.model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=())
    train_run(
        folder, RunSettings(network, Recipe(epochs=1), "digits"), Splits(fewer(datasets.load("digits"), 200).train)
    )
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "weights.safetensors", "result.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    return tmp_path


def put(folder: Path, *path: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "width"), 10**9, r"model.width: 1000000000 is too large for weights of [\d,]+ numbers"),
        (("model", "width"), 10**12, r"model.width: expected a whole number; got 1000000000000"),
        (("model", "width"), 8.0, r"model.width: expected a whole number; got 8.0"),
        (("model", "width"), True, r"model.width: expected a whole number; got True"),
        (("model", "width"), "8", r"model.width: expected a whole number; got '8'"),
        (("model", "width"), -4, r"model: width: expected a positive number; got -4"),
        (("model", "depth"), 999, r"model.depth: 999 is too large for weights"),
        (("model", "downsample"), [[1]], r"model.downsample\[0\]: expected a whole number; got \[1\]"),
        (("model", "downsample"), 5, r"model.downsample: expected a list; got 5"),
        (("model", "attribute_support"), [3, 5, 7], r"model.attribute_support: expected a list of 2; got 3 entries"),
        (("model", "boundary"), "mirror", r"model.boundary: expected one of 'zeros', 'circular'; got 'mirror'"),
        (("model", "inner_elu"), 1, r"model.inner_elu: expected true or false; got 1"),
        (("model", "widht"), 8, r"model: unknown field 'widht'; did you mean width"),
        (("model",), [1, 2], r"model: expected an object; got \[1, 2\]"),
        (("format",), 2, r"format: expected 1, the only one so far; got '2'"),
        (("data",), ["digits"], r"data: expected a name or a path; got "),
        (("network",), "Transformer", r"network: expected one of HierarchicalCNN.*; got 'Transformer'"),
        (("network",), ["HierarchicalCNN"], r"network: expected one of HierarchicalCNN"),
        (("preprocessing",), None, r"preprocessing: expected an object; got None"),
        (("preprocessing", "std"), [0.0], r"preprocessing: std: expected positive numbers; got \(0.0,\)"),
        (("preprocessing", "std"), [-1], r"preprocessing: std: expected positive numbers"),
        (("preprocessing", "std"), "half", r"preprocessing.std: expected a list; got 'half'"),
        (("preprocessing", "mean"), [0.1, 0.2], r"preprocessing: mean and std: expected one number per channel each"),
        (("preprocessing", "size"), [8], r"preprocessing.size: expected 2 entries, as in model; got 1"),
        (("preprocessing", "size"), [8, 0], r"preprocessing: size: expected positive numbers of pixels"),
        (("preprocessing", "classes"), ["a"], r"preprocessing.classes: expected 10 entries, as in model; got 1"),
        (("preprocessing", "classes"), ["a"] * 10, r"preprocessing: classes: expected different names"),
        (("preprocessing", "classes"), list(range(10)), r"preprocessing.classes\[0\]: expected a string; got 0"),
    ],
)
def test_a_malformed_config_is_refused_by_file_and_field(folder, path, value, message) -> None:
    put(folder, *path, value=value)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        load_run(folder)
    assert str(caught.value).startswith(str(folder / "config.json"))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 5


def test_missing_fields_are_named(folder) -> None:
    whole = json.loads((folder / "config.json").read_text())
    for key in ("network", "model", "preprocessing"):
        (folder / "config.json").write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(ValueError, match=rf"config.json: {key}: expected"):
            load_run(folder)
    config = {"network": "HierarchicalCNN", "model": {}, "preprocessing": {"mean": [0.5]}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: preprocessing: expected a field 'std'; it is missing"):
        load_run(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected strict JSON"),
        (b"[" * 100_000, "expected strict JSON; it is nested too deeply"),
        (b'{"a": ' * 100_000, "expected strict JSON; it is nested too deeply"),
        (b'{"a": 1e999}', "expected strict JSON; '1e999' is not a finite number"),
        (b'{"a": -Infinity}', "expected strict JSON; -Infinity is not a number"),
        (b"\xff\xfe{}", "expected strict JSON"),
        (b"[]", r"expected a JSON object; got \[\]"),
        (b'{"a": ' + b"9" * 5000 + b"}", "expected strict JSON"),
        (b" " * (17 << 20), "expected at most 16,777,216 bytes of JSON; it has 17,825,792"),
    ],
)
def test_what_is_no_strict_json_is_refused(folder, text, message) -> None:
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"config.json: {message}"):
        load_run(folder)
    (folder / "result.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"result.json: {message}"):
        read_result(folder)


def test_only_regular_files_are_opened(folder) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"is not a finished run: expected config.json in it"):
        load_run(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ValueError, match=r"is not a finished run: expected config.json in it"):
        load_run(folder)


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the path of a run folder; got None"):
        load_run(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), 1.5, "high", None, True, [1]])
def test_accuracies_in_a_result_are_fractions(folder, value) -> None:
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "test_accuracy": value}))
    with pytest.raises(
        ValueError, match=r"result.json: (test_accuracy: expected a number from 0 to 1|expected strict)"
    ):
        read_result(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": "two"}, "epochs: expected a number of epochs; got 'two'"),
        ({"epochs": None}, "epochs: expected a number of epochs; got 'None'"),
        ({"seconds": "long"}, "seconds: expected a number of seconds; got 'long'"),
        ({"seconds": -1}, "seconds: expected a number of seconds; got '-1'"),
        ({"parameters": [1]}, r"parameters: expected an object; got \[1\]"),
        ({"parameters": {}}, "parameters: expected a field 'trained'; it is missing"),
    ],
)
def test_counts_in_a_result_are_numbers(folder, change, message) -> None:
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, **change}))
    with pytest.raises(ValueError, match=rf"result.json: {message}"):
        read_result(folder)
    with pytest.raises(ValueError, match=rf"result.json: {message}"):
        read_records(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda one: one.index_fill(0, torch.tensor([0]), torch.nan),
            r"1 with NaN or infinities: NAME has [\d,]+ among",
        ),
        (lambda one: one.index_fill(0, torch.tensor([0]), -torch.inf), r"1 with NaN or infinities: NAME has"),
        (lambda one: one.double() * 1e300, r"1 with NaN or infinities: NAME has"),
        (lambda one: one.to(torch.complex64), r"1 of another type: NAME expected torch.float32, got torch.complex64"),
        (lambda one: one.to(torch.int64), r"1 of another type: NAME expected torch.float32, got torch.int64"),
        (lambda one: one[:1], r"1 of another shape: NAME expected"),
    ],
)
def test_unsound_weights_are_refused_by_name(folder, change, message) -> None:
    path = folder / "weights.safetensors"
    state, _ = load_weights(path)
    name = "layers.1.weight"
    save_weights(path, {**state, name: change(state[name] + 1)}, {})
    with pytest.raises(ValueError, match=message.replace("NAME", name)):
        load_run(folder)


def test_negative_variances_are_refused_by_name(folder) -> None:
    path = folder / "weights.safetensors"
    state, _ = load_weights(path)
    name = next(key for key in state if key.endswith("running_var"))
    save_weights(path, {**state, name: -state[name]}, {})
    with pytest.raises(ValueError, match=rf"with negative variances: {name} has"):
        load_run(folder)


def test_sound_weights_of_another_width_still_load(folder) -> None:
    path = folder / "weights.safetensors"
    state, _ = load_weights(path)
    doubled = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    save_weights(path, doubled, {})
    expected = load_run(folder).model.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in state.items())


def test_a_changed_byte_of_the_weights_is_noticed(folder) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # of the last number
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights.safetensors: expected weights with SHA-256 \w+…, as result.json"):
        load_run(folder)
    for text in ("{", "{}"):  # damaged, or of an early version
        (folder / "result.json").write_text(text)
        load_run(folder)
    (folder / "result.json").unlink()
    load_run(folder)


def test_loading_draws_nothing(folder) -> None:
    before = torch.get_rng_state()
    load_run(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", hcnn.list_models())
def test_shapes_of_every_network_are_known_without_building_it(name) -> None:
    config = hcnn.model_config(name)
    with drawn_from(torch.Generator()):
        real = build(config).state_dict()
        with torch.device("meta"):
            shapes = build(config).state_dict()
    assert {key: (value.shape, value.dtype) for key, value in real.items()} == {
        key: (value.shape, value.dtype) for key, value in shapes.items()
    }
