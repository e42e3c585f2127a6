"""Draws from a generator of one's own: the numbers of a seed, in any thread, and the global random state left alone."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hcnn
from hcnn.layers.randomness import drawn_from


@pytest.mark.parametrize(
    "name", ["hcnn_digits", "maxout_digits", "nin_digits", "compact_digits", "hypernetwork_digits"]
)
def test_networks_get_the_weights_of_their_seed_and_nothing_is_drawn_globally(name) -> None:
    torch.manual_seed(7)
    expected = hcnn.create_model(name).state_dict()
    before = torch.get_rng_state()
    with drawn_from(torch.Generator().manual_seed(7)):
        actual = hcnn.create_model(name).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(actual[key], value) for key, value in expected.items())


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.Dropout, (4, 3, 8, 8)),
        (nn.Dropout1d, (4, 30, 8)),
        (nn.Dropout1d, (30, 8)),
        (nn.Dropout2d, (4, 30, 8, 8)),
        (nn.Dropout3d, (4, 30, 2, 4, 4)),
        (nn.Dropout3d, (30, 2, 4, 4)),
        (nn.AlphaDropout, (4, 3, 8, 8)),
        (nn.FeatureAlphaDropout, (4, 30, 8, 8)),
    ],
)
def test_dropout_is_that_of_torch(kind, shape, p, inplace) -> None:
    x = torch.randn(shape)
    given, other = x.clone(), x.clone()
    torch.manual_seed(3)
    expected = kind(p, inplace)(other)
    before = torch.get_rng_state()
    with drawn_from(torch.Generator().manual_seed(3)):
        actual = kind(p, inplace)(given)
        assert torch.equal(kind(p).eval()(x), x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(actual, expected)
    assert torch.equal(given, other)


@pytest.mark.parametrize("drop", [F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout])
def test_functions_drop_by_default_where_those_of_torch_do(drop) -> None:
    x = torch.randn(4, 30, 8, 8)
    torch.manual_seed(3)
    expected = drop(x)
    with drawn_from(torch.Generator().manual_seed(3)):
        assert torch.equal(drop(x), expected)


def test_threads_do_not_disturb_each_other() -> None:
    built: dict[int, dict[str, torch.Tensor]] = {}

    def build(which: int) -> None:
        with drawn_from(torch.Generator().manual_seed(0)):
            built[which] = hcnn.create_model("hcnn_digits").state_dict()

    stop = threading.Event()

    def noise() -> None:
        while not stop.is_set():
            torch.randn(10)
            torch.manual_seed(1)

    other = threading.Thread(target=noise)
    other.start()
    threads = [threading.Thread(target=build, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    other.join()
    assert all(torch.equal(built[which][key], value) for which in built for key, value in built[0].items())
    assert len(built) == 4
