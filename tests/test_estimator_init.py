"""`HCNNClassifier` that starts from a trained network."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

import hcnn
from hcnn.data import datasets
from hcnn.estimator import HCNNClassifier

TINY = {"width": 4, "depth": 4, "rank": 4, "downsample": ()}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    train = datasets.load("digits").train
    return train.images[-300:, 0].numpy(), train.labels[-300:].numpy()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "run"
    return hcnn.train("digits", output=folder, epochs=3, width=4, rank=4, depth=4, downsample=())


def test_it_starts_from_a_trained_network(digits, start) -> None:
    X, y = digits
    few = {"epochs": 3, "batch_size": 16, "lr": 0.02, "random_state": 0, "early_stopping": False}
    tuned = HCNNClassifier(init=start.run.folder, freeze=2, **few).fit(X[:100], y[:100])
    assert tuned.network_config_["width"] == 4
    before = start.model.state_dict()
    for name, value in tuned.training_weights_.items():
        if name.startswith(("layers.0.", "layers.1.")):
            assert np.array_equal(value, before[name].numpy()), name
    scratch = HCNNClassifier(network=TINY, **few).fit(X[:100], y[:100])
    assert tuned.score(X[100:], y[100:]) > scratch.score(X[100:], y[100:]) + 0.2
    for init in (start.model, start):
        again = clone(HCNNClassifier(init=init, freeze=2, **few))
        assert isinstance(again, HCNNClassifier)
        same = again.fit(X[:100], y[:100])
        assert np.array_equal(same.weights_["layers.2.weight"], tuned.weights_["layers.2.weight"])
    copy = clone(tuned)
    assert isinstance(copy, HCNNClassifier)
    assert copy.init == start.run.folder


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_network_that_it_starts_from_may_be_of_any_type(digits, start, dtype) -> None:
    X, y = digits
    init = hcnn.load(start.run.folder).model.to(dtype)
    tuned = HCNNClassifier(init=init, freeze=2, epochs=1, batch_size=16, random_state=0).fit(X[:100], y[:100])
    kept = start.model.state_dict()["layers.1.weight"].to(dtype).float().numpy()
    assert np.array_equal(tuned.training_weights_["layers.1.weight"], kept)
    assert {value.dtype for value in tuned.weights_.values() if value.dtype.kind == "f"} == {np.dtype("float32")}


def test_the_default_type_may_be_another(digits) -> None:
    X, y = digits
    torch.set_default_dtype(torch.float64)
    try:
        model = HCNNClassifier(network=TINY, epochs=1, batch_size=16, random_state=0).fit(X[:100], y[:100])
        assert model.transform(X[:5]).shape[0] == len(model.predict(X[:5])) == 5
    finally:
        torch.set_default_dtype(torch.float32)


def test_colours_words_and_parts_start_from_it_too(digits, start) -> None:
    X, y = digits
    colours = np.repeat(X[:90, None], 3, 1)
    words = np.array(["even", "odd"])[y[:90] % 2]
    tuned = HCNNClassifier(init=start.run.folder, epochs=2, batch_size=16, random_state=0, lr=0.02)
    assert set(tuned.fit(colours, words).predict(colours)) <= {"even", "odd"}
    tuned.partial_fit(colours, words).partial_fit(colours, words)
    again = HCNNClassifier(init=start.run.folder, freeze=1, random_state=0, lr=0.02, batch_size=16)
    again.partial_fit(colours[:40], words[:40], classes=["even", "odd"]).partial_fit(colours[40:], words[40:])
    assert np.array_equal(again.training_weights_["layers.1.weight"].shape, start.model.layers[1].weight.shape)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"freeze": 1}, "freeze: expected 0 without init; got 1"),
        ({"init": "hcnn_digits", "model": "hcnn_digits"}, "init: expected no model and no network beside it"),
        ({"init": "hcnn_digits", "network": {"width": 4}}, "init: expected no model and no network beside it"),
        ({"init": "hcnn_digits", "freeze": 6}, "freeze: expected a depth below 6"),
        ({"init": "nowhere"}, "nowhere: expected a run folder, or a network with pretrained weights"),
        (
            {"init": hcnn.create_model("resnet20_digits")},
            "init: expected a HierarchicalCNN of two spatial axes; got init",
        ),
        ({"init": hcnn.create_model("hcnn_digits").eval().fold()}, "init: these are folded weights"),
    ],
)
def test_what_contradicts_the_initial_network_is_named(digits, settings, says) -> None:
    X, y = digits
    with pytest.raises(ValueError, match=says):
        HCNNClassifier(epochs=1, batch_size=16, **settings).fit(X[:50], y[:50])
