"""Weights that lie in the package."""

import os
from pathlib import Path

import pytest
import torch

import hcnn
from hcnn.data import datasets
from hcnn.models import pretrained
from hcnn.training.evaluate import accuracy


@pytest.mark.parametrize("name", pretrained.list_pretrained())
def test_weights_load_and_classify_as_recorded(name) -> None:
    model = hcnn.create_model(name, pretrained=True)
    assert not model.training
    found = hcnn.load_pretrained(name)
    assert found.record["result"]["test_accuracy"] > 0.5
    shape = (1, len(found.preprocessing.mean), *found.preprocessing.size)
    logits = model(found.preprocessing.standardize(torch.zeros(shape, dtype=torch.uint8)))
    assert logits.isfinite().all()
    data = found.record["config"]["data"]
    if data != "digits" and not Path(os.environ.get("HCNN_DATA", "none")).is_dir():  # digits come with scikit-learn
        pytest.skip("set HCNN_DATA to a folder with CIFAR to compare accuracies")
    test = datasets.load(data).test
    assert test is not None
    images, labels = found.preprocessing.standardize(test.images[:1000]), test.labels[:1000]
    found_accuracy = accuracy(model, images, labels)
    assert abs(found_accuracy - found.record["result"]["test_accuracy"]) < 0.04  # 3.4 standard errors of 1,000 images


def test_weights_are_loaded_whatever_the_default_device_is() -> None:
    expected = hcnn.load_pretrained("hcnn_digits").model.state_dict()
    with torch.device("meta"):
        state = hcnn.load_pretrained("hcnn_digits").model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_absent_weights_are_explained() -> None:
    with pytest.raises(ValueError, match="multiscale_tiny: no pretrained weights in this package"):
        hcnn.create_model("multiscale_tiny", pretrained=True)


def test_damaged_weights_are_refused(tmp_path, monkeypatch) -> None:
    names = pretrained.list_pretrained()
    if not names:
        pytest.skip("no weights in the package")
    source = Path(pretrained.__file__).parent
    data = bytearray((source / f"{names[0]}.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / f"{names[0]}.safetensors").write_bytes(data)
    (tmp_path / f"{names[0]}.json").write_bytes((source / f"{names[0]}.json").read_bytes())
    monkeypatch.setattr(pretrained, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"SHA-256 \w+, expected \w+: damaged"):
        hcnn.load_pretrained(names[0])


def test_overrides_do_not_go_with_trained_weights() -> None:
    names = pretrained.list_pretrained()
    if not names:
        pytest.skip("no weights in the package")
    with pytest.raises(ValueError, match="only classes and channels can be changed, not boundary"):
        hcnn.create_model(names[0], pretrained=True, boundary="circular")
