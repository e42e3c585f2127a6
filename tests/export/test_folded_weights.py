"""Folded weights as safetensors: written, read back, refused where they are something else."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hcnn.export import export_safetensors, folded_weights, load_folded
from hcnn.layers.folded import FoldedConv
from hcnn.storage.safetensors import load_weights, save_weights


def test_folded_weights_come_back(tmp_path, settled, standard) -> None:
    model = settled("plus")
    export_safetensors(tmp_path / "out", model, standard, "# card\n")
    again, preprocessing = load_folded(tmp_path / "out")
    assert preprocessing == standard
    assert again.folded
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert (again(x) - model(x)).abs().max() < 1e-5 * model(x).abs().max()
    (tmp_path / "bad").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="is a pickle; hcnn reads safetensors only"):
        load_folded(tmp_path / "bad")
    assert any(isinstance(layer, FoldedConv) for layer in again.layers)


@pytest.mark.parametrize("name", ["zeros", "circular", "plus", "plus circular", "published", "line", "multiscale"])
def test_a_folded_network_is_saved_by_other_libraries_as_it_is(name, settled, tmp_path) -> None:
    model = settled(name).fold()
    assert all(value.is_contiguous() for value in model.state_dict().values())
    safetensors.torch.save_file(model.state_dict(), tmp_path / "a.safetensors")
    read = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(read[key], value) for key, value in model.state_dict().items())
    vector = torch.nn.utils.parameters_to_vector(model.parameters())
    torch.nn.utils.vector_to_parameters(2 * vector, model.parameters())
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), 2 * vector)


def test_an_export_that_fails_leaves_no_folder(settled, standard, tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folded_weights, "write_together", fail)
    with pytest.raises(OSError, match="No space left on device"):
        export_safetensors(tmp_path / "out", settled("zeros"), standard, "# card\n")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def exported(settled, standard, tmp_path) -> Path:
    export_safetensors(tmp_path / "folded", settled("zeros"), standard, "# card\n")
    return tmp_path / "folded"


def _changed(folder: Path, tensors=lambda state: None, about=lambda record: None) -> Path:
    """The exported file with its tensors or its configuration changed in place."""
    path = folder / "model.safetensors"
    state, metadata = load_weights(path)
    record = json.loads(metadata["hcnn"])
    tensors(state)
    about(record)
    save_weights(path, state, {**metadata, "hcnn": json.dumps(record)})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["layers.1.weight"].view(-1)[3].fill_(torch.nan),
            "1 with NaN or infinities: layers.1.weight has 1",
        ),
        (lambda s: s["layers.0.bias"].fill_(torch.inf), "1 with NaN or infinities: layers.0.bias"),
        (lambda s: s.update({"layers.0.bias": s["layers.0.bias"].long()}), "layers.0.bias expected torch.float32, got"),
        (lambda s: s.update({"readout.scale": s["readout.scale"].bool()}), "readout.scale expected torch.float32, got"),
        (
            lambda s: s.update({"layers.0.bias": s["layers.0.bias"].cfloat()}),
            "layers.0.bias expected torch.float32, got",
        ),
        (lambda s: s.pop("layers.0.bias"), "1 missing: layers.0.bias (8,)"),
        (lambda s: s.update({"x": torch.zeros(2)}), "1 extra: x (2,)"),
        (lambda s: s.update({"layers.0.bias": torch.zeros(3)}), "layers.0.bias expected (8,), got (3,)"),
    ],
)
def test_weights_that_are_no_network_are_refused_by_name(change, message, exported) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit") as error:
        load_folded(_changed(exported, tensors=change))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["model"].update(width=10**9), "model.width: 1000000000 is too large for weights of"),
        (lambda a: a["model"].update(depth=999), "model.depth: 999 is too large"),
        (lambda a: a["model"].update(width=8.0), "model.width: expected a whole number; got 8.0"),
        (lambda a: a["model"].update(width=[[8]]), "model.width: expected a whole number; got [[8]]"),
        (lambda a: a["model"].update(boundary="mirror"), "model.boundary: expected one of 'zeros', 'circular'"),
        (lambda a: a["model"].update(widht=8), "model: unknown field 'widht'; did you mean width"),
        (lambda a: a.update(model=None), "model: expected an object; got None"),
        (lambda a: a.update(network="Evil"), "network: expected one of"),
        (lambda a: a["preprocessing"].update(std=[0.0]), "std: expected positive numbers"),
        (lambda a: a["preprocessing"].update(mean=[0.1, 0.2]), "preprocessing"),
        (lambda a: a["preprocessing"].update(classes=["a"]), "preprocessing.classes: expected 10 entries"),
        (lambda a: a["preprocessing"].update(classes=[1] * 10), "expected a string; got 1"),
        (lambda a: a["preprocessing"].update(mean=[float("nan")]), "NaN is not a number"),
    ],
)
def test_configurations_that_are_none_are_refused_by_field(change, message, exported) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors") as error:
        load_folded(_changed(exported, about=change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected folded weights of format hcnn-folded-1; got None"),
        ({"format": "hcnn-1"}, "expected folded weights of format hcnn-folded-1; got 'hcnn-1'"),
        ({"format": "hcnn-folded-1"}, "expected the network's configuration in the metadata; there is none"),
    ],
)
def test_other_safetensors_are_refused(metadata, message, exported) -> None:
    path = exported / "model.safetensors"
    save_weights(path, load_weights(path)[0], metadata)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_folded(exported)


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the path of folded weights; got None"):
        load_folded(None)  # type: ignore[arg-type]


def test_loading_leaves_the_global_random_state_alone(exported) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_folded(exported)
    assert torch.equal(before, torch.get_rng_state())
