"""Where the channels of arrays are: decided by rule, refused where the shape cannot tell, alike everywhere."""

from typing import Any

import numpy as np
import pytest

from hcnn.data.channels import channels_first
from hcnn.data.datasets import load
from hcnn.data.image_set import from_arrays

FIRST = [(1, 8, 8), (3, 8, 8), (3, 32, 512), (4, 16, 128), (13, 64, 64), (13, 64, 128), (3, 4, 5), (1, 3, 4, 5)]
LAST = [(16, 16, 4), (64, 64, 13), (4, 4, 3), (8, 8, 3), (48, 64, 3), (48, 64, 13), (28, 28, 1), (9, 9, 9, 2)]
UNCLEAR = [(64, 8, 8), (64, 8, 7), (8, 8, 8), (3, 3, 3), (1, 1, 64), (3, 1, 128), (32, 40, 64), (2, 8, 2)]


@pytest.mark.parametrize(("shape", "axis"), [*((one, 1) for one in FIRST), *((one, -1) for one in LAST)])
def test_the_rule_decides(shape, axis):
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    expected = np.moveaxis(images, axis, 1)
    assert np.array_equal(channels_first(images), expected)
    assert np.shares_memory(channels_first(images), images)
    assert np.array_equal(from_arrays(images, [0] * 5).images.numpy(), expected)


@pytest.mark.parametrize("shape", UNCLEAR)
def test_what_the_shape_cannot_tell_is_refused_until_it_is_said(shape):
    images = np.zeros((5, *shape), np.uint8)
    with pytest.raises(ValueError, match=r"mine: shape \(5, .* may be .* channels of .*; say which with channels='fir"):
        channels_first(images, name="mine")
    assert channels_first(images, "first").shape == (5, *shape)
    assert channels_first(images, "last").shape == (5, shape[-1], *shape[:-1])


def test_what_is_known_of_the_images_decides_before_the_rule():
    assert channels_first(np.zeros((2, 64, 8, 8)), count=64).shape == (2, 64, 8, 8)
    assert channels_first(np.zeros((2, 64, 8, 8)), count=8).shape == (2, 8, 64, 8)
    assert channels_first(np.zeros((2, 3, 5, 3)), count=3, sides=(3, 5)).shape == (2, 3, 3, 5)
    assert channels_first(np.zeros((2, 9, 2)), count=2, sides=(9,)).shape == (2, 2, 9)
    assert channels_first(np.zeros((2, 9)), count=1, sides=(9,)).shape == (2, 1, 9)
    assert channels_first(np.zeros((2, 8, 8, 3)), count=5).shape == (2, 8, 8, 3)  # for the caller to refuse
    with pytest.raises(ValueError, match="say which"):
        channels_first(np.zeros((2, 3, 3, 3)), count=3, sides=(3, 3))


def test_grey_images_have_no_axis_of_channels():
    for channels in ("auto", "first", "last"):
        assert channels_first(np.zeros((2, 9, 3)), channels).shape == (2, 1, 9, 3)
    with pytest.raises(ValueError, match=r"images: expected images \(n, h, w\) or \(n, c, h, w\); got shape \(2, 9\)"):
        channels_first(np.zeros((2, 9)))
    unknown: Any = "middle"
    with pytest.raises(ValueError, match="channels: expected 'first', 'last' or 'auto'; got 'middle'"):
        channels_first(np.zeros((2, 9, 3)), unknown)


def test_npz_files_may_say_where_their_channels_are(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 13), dtype=np.uint8)
    labels = np.arange(6) % 2
    np.savez(tmp_path / "bands.npz", images=images, labels=labels, test_images=images[:2], test_labels=labels[:2])
    splits = load(tmp_path / "bands.npz")
    assert splits.test is not None
    assert np.array_equal(splits.train.images.numpy(), images.transpose(0, 3, 1, 2))
    assert np.array_equal(splits.test.images.numpy(), images[:2].transpose(0, 3, 1, 2))
    deep = np.zeros((6, 64, 8, 8), np.uint8)
    np.savez(tmp_path / "deep.npz", images=deep, labels=labels)
    with pytest.raises(ValueError, match=r"deep.npz: images: shape \(6, 64, 8, 8\) may be 64 channels of 8×8 or 8 cha"):
        load(tmp_path / "deep.npz")
    np.savez(tmp_path / "deep.npz", images=deep, labels=labels, channels="last")
    assert load(tmp_path / "deep.npz").train.images.shape == (6, 8, 64, 8)
    np.savez(tmp_path / "deep.npz", images=deep, labels=labels, channels="front")
    with pytest.raises(ValueError, match="channels: expected 'first', 'last' or 'auto'; got 'front'"):
        load(tmp_path / "deep.npz")
