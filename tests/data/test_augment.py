"""Augmentation: against slow loops over pixels, and independent of how images are put into batches."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hcnn.data.augment import Augmentation, augment
from hcnn.data.counter_random import beta_quantile, counter_uniform
from hcnn.data.preprocessing import standardize

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SHAPES = [(12,), (8, 10), (6, 5, 7)]


def batch(b: int = 64, c: int = 2, u: tuple[int, ...] = (8, 10), classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(b, c, *u, generator=generator)
    labels = torch.randint(classes, (b,), generator=generator)
    return images, labels, torch.randperm(1000, generator=generator)[:b]


def run(how: Augmentation, images: Tensor, labels: Tensor, index: Tensor, seed: int = 3, epoch: int = 2):
    return augment(images, labels, classes=5, augmentation=how, seed=seed, epoch=epoch, index=index)


# --------------------------------------------------------------------------------------------- random numbers


def test_the_hash_is_splitmix64():
    # The published generator: the state grows by golden, and each output is a mix of the state.
    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    assert mix(golden) == 0xE220A8397B1DCDAF  # first output of splitmix64 seeded with 0
    for seed, epoch, stream in [(0, 0, 0), (1, 2, 3), (2**63, 10**6, 40), (-5, 0, 1)]:
        key = 0
        for value in (seed, epoch, stream):
            key = mix((key + golden + value) % 2**64)
        index = torch.tensor([0, 1, 7, 49_999, 2**40])
        expected = [(mix((key + i * golden) % 2**64) >> 40) / 2**24 for i in index.tolist()]
        assert counter_uniform(seed, epoch, index, stream).tolist() == expected


def test_uniform_in_the_unit_interval():
    u = counter_uniform(1, 2, torch.arange(100_000), 3).double()
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    # Chi-square of 100 bins: mean 99, deviation 14.
    counts = torch.bincount((u * 100).long(), minlength=100).double()
    assert 50 < float(((counts - 1000) ** 2 / 1000).sum()) < 155
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * 100_000)


def test_streams_epochs_seeds_and_neighbours_are_independent():
    index = torch.arange(50_000)
    base = (0, 0, 0)
    others = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 8), (0, 2, 0), (-1, 0, 0)]
    draws = [counter_uniform(s, e, index, k) for s, e, k in (base, *others)]
    draws += [draws[0].roll(1), draws[0].roll(2)]
    correlation = torch.corrcoef(torch.stack(draws).double())
    off_diagonal = correlation - torch.eye(len(draws), dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 5 / math.sqrt(50_000)


def test_any_cut_of_the_indices_gives_the_same_numbers():
    index = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    whole = counter_uniform(5, 6, index, 7)
    assert torch.equal(whole, torch.cat([counter_uniform(5, 6, part, 7) for part in index.split([1, 99, 400, 500])]))
    assert torch.equal(whole.reshape(10, 100), counter_uniform(5, 6, index.reshape(10, 100), 7))


def test_indices_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"counter_uniform: expected int64 indices; got torch.int32"):
        counter_uniform(0, 0, torch.zeros(3, dtype=torch.int32), 0)


# ------------------------------------------------------------------------------------------------- standardize


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 8e-3)]
)
def test_standardize(dtype, tolerance):
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), [0.2, 0.3, 1.0]
    expected = (images.double() / 255 - mean[:, None, None]) / torch.tensor(std, dtype=torch.float64)[:, None, None]
    result = standardize(images, mean, std, dtype)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize(
    ("images", "mean", "message"),
    [
        (
            torch.zeros(2, 3, 4),
            [0.5] * 3,
            r"uint8 images \(b, c, \*u\); got torch.float32 of shape \(2, 3, 4\)",
        ),
        (torch.zeros(2, 3, 4, dtype=torch.uint8), [0.5], r"mean and std of shape \(3,\).*\(2, 3, 4\); got \(1,\) and"),
    ],
)
def test_standardize_refuses(images, mean, message):
    with pytest.raises(ValueError, match=message):
        standardize(images, mean, [1.0] * 3)


# ---------------------------------------------------------------------------------------- flips and translation


def pixel(image: Tensor, place: tuple[int, ...], fill: str) -> Tensor:
    """image (c, *u) at any place: beyond the border zero or mirrored."""
    inside = []
    for p, size in zip(place, image.shape[1:], strict=True):
        if not 0 <= p < size and fill == "zeros":
            return torch.zeros(len(image))
        inside.append(-p if p < 0 else 2 * (size - 1) - p if p >= size else p)
    return image[:, *inside]


def shifted(image: Tensor, shift: tuple[int, ...], flip: bool, fill: str) -> Tensor:
    """The slow way to flip the last axis, then to translate."""
    image = image.flip(-1) if flip else image
    result = torch.empty_like(image)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in image.shape[1:])).reshape(-1, image.ndim - 1).tolist():
        result[:, *place] = pixel(image, tuple(p - s for p, s in zip(place, shift, strict=True)), fill)
    return result


@pytest.mark.parametrize("u", SHAPES)
@pytest.mark.parametrize("fill", ["zeros", "reflect"])
@pytest.mark.parametrize("flip", ["none", "random"])
def test_translations_and_flips_against_loops(u, fill, flip):
    images, labels, index = batch(24, u=u)
    before = images.clone()
    moved, _ = run(Augmentation(translation=3, fill=fill, flip=flip), images, labels, index)
    assert torch.equal(images, before)
    shifts = torch.stack([(counter_uniform(3, 2, index, a) * 7).long() - 3 for a in range(len(u))], 1)
    flips = (counter_uniform(3, 2, index, 8) < 0.5) & (flip == "random")
    for i in range(len(images)):
        assert torch.equal(moved[i], shifted(images[i], tuple(shifts[i].tolist()), bool(flips[i]), fill)), i
    assert len(set(map(tuple, shifts.tolist()))) > 4  # so that images do not share a shift
    assert flip == "none" or 0 < int(flips.sum()) < len(flips)


def test_every_shift_comes_equally_often_on_every_axis():
    ramp = torch.arange(1, 82, dtype=torch.float32).reshape(1, 1, 9, 9).repeat(20_000, 1, 1, 1)
    moved, _ = run(Augmentation(translation=2), ramp, torch.zeros(20_000, dtype=torch.int64), torch.arange(20_000))
    centre = moved[:, 0, 4, 4].long() - 1
    counts = torch.bincount((centre // 9 - 2) * 5 + centre % 9 - 2, minlength=25)
    assert len(counts) == 25
    assert int((counts - 800).abs().max()) < 5 * math.sqrt(800)


def test_alternating_flips_show_both_versions_in_two_epochs():
    images, labels, index = batch(200)
    how = Augmentation(flip="alternating")
    flipped = []
    for epoch in range(4):
        result, _ = run(how, images, labels, index, epoch=epoch)
        mirrored = (result == images.flip(-1)).flatten(1).all(1)
        assert torch.equal(mirrored, ~(result == images).flatten(1).all(1))
        flipped.append(mirrored)
    assert torch.equal(flipped[1], ~flipped[0])
    assert torch.equal(flipped[2], flipped[0])
    assert torch.equal(flipped[3], flipped[1])
    assert 60 < int(flipped[0].sum()) < 140
    assert not torch.equal(
        run(how, images, labels, index, seed=4, epoch=0)[0], run(how, images, labels, index, epoch=0)[0]
    )


def test_epochs_and_seeds_change_the_augmentation():
    images, labels, index = batch()
    how = Augmentation(translation=3, flip="random")
    base = run(how, images, labels, index)[0]
    assert torch.equal(base, run(how, images, labels, index)[0])
    assert not torch.equal(base, run(how, images, labels, index, epoch=3)[0])
    assert not torch.equal(base, run(how, images, labels, index, seed=4)[0])


# ------------------------------------------------------------------------------------------------------ cutout


@pytest.mark.parametrize("u", SHAPES)
@pytest.mark.parametrize("side", [1, 3, 4, 5])  # 5 is the smallest side of a volume
def test_cutout_is_a_box_about_a_uniform_centre(u, side):
    images, labels, index = batch(40, u=u)
    cut, _ = run(Augmentation(cutout=side), images, labels, index)
    for i in range(len(images)):
        expected = images[i].clone()
        slices = []
        for axis, size in enumerate(u):
            centre = int(counter_uniform(3, 2, index, 16 + axis)[i] * size)
            slices.append(slice(max(centre - side // 2, 0), centre - side // 2 + side))
        expected[:, *slices] = 0
        assert torch.equal(cut[i], expected)


# -------------------------------------------------------------------------------------------- mixup and CutMix


def test_without_mixing_targets_are_one_hot():
    images, labels, index = batch()
    same, targets = run(Augmentation(), images, labels, index)
    assert torch.equal(same, images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 5).float())


@pytest.mark.parametrize("b", [8, 7, 1])
def test_mixup_mixes_neighbours_and_their_labels_alike(b):
    images, labels, index = batch(b)
    mixed, targets = run(Augmentation(mixup=0.4), images, labels, index)
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    for i in range(b):
        other = i if i == b - 1 and b % 2 else i ^ 1
        if other == i:
            assert torch.equal(mixed[i], images[i])
            continue
        weight = float(((mixed[i] - images[other]) / (images[i] - images[other])).median())
        torch.testing.assert_close(mixed[i], weight * images[i] + (1 - weight) * images[other], rtol=1e-4, atol=1e-5)
        expected = weight * one_hot[i] + (1 - weight) * one_hot[other]
        torch.testing.assert_close(targets[i], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(b))


@pytest.mark.parametrize("u", SHAPES)
def test_cutmix_pastes_a_box_and_weighs_labels_by_its_volume(u):
    images, _, index = batch(400, u=u)
    labels = torch.arange(400) % 2  # neighbours always differ
    mixed, targets = run(Augmentation(cutmix=1.0), images, labels, index)
    partner = images.reshape(200, 2, *images.shape[1:]).flip(1).reshape(images.shape)
    pasted = (mixed != images).all(1)  # (b, *u)
    assert torch.equal(mixed, torch.where(pasted[:, None], partner, images))
    share = pasted.flatten(1).double().mean(1)
    torch.testing.assert_close(targets[torch.arange(400), 1 - labels].double(), share, rtol=0, atol=1e-6)
    part = counter_uniform(3, 2, index, 24)  # λ: Beta(1, 1) is uniform
    for i in range(20):
        expected = torch.ones(u, dtype=torch.bool)
        for axis, size in enumerate(u):
            length = round(float(1 - part[i]) ** (1 / len(u)) * size)
            start = int(counter_uniform(3, 2, index, 32 + axis)[i] * size) - length // 2
            inside = torch.arange(start, start + length)
            along = torch.isin(torch.arange(size), inside)
            expected &= along.reshape(*[1] * axis, -1, *[1] * (len(u) - 1 - axis))
        assert torch.equal(pasted[i], expected)
    for mask in pasted[:20]:
        spans = [mask.movedim(a, 0).reshape(u[a], -1).any(1) for a in range(len(u))]
        assert int(mask.sum()) == math.prod(int(span.sum()) for span in spans)  # a box …
        for span in spans:
            where = torch.nonzero(span).flatten()
            assert len(where) == 0 or int(where[-1] - where[0]) + 1 == len(where)  # … in one piece
    assert 0.15 < float(share.mean()) < 0.5  # 1/2 but for what the border cuts off


def test_with_both_each_image_gets_one_of_them():
    images, _, index = batch(400)
    labels = torch.arange(400) % 2
    mixed, targets = run(Augmentation(mixup=1.0, cutmix=1.0), images, labels, index)
    partner = images.reshape(200, 2, *images.shape[1:]).flip(1).reshape(images.shape)
    boxed = ((mixed == images) | (mixed == partner)).flatten(1).all(1)
    assert 150 < int(boxed.sum()) < 250
    own = targets[torch.arange(400), labels][~boxed]
    assert own.min() < 0.1  # which of the two it is says nothing of λ
    assert own.max() > 0.9


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 3.0, 100.0])
def test_weights_are_beta_distributed(alpha):
    stats = pytest.importorskip("scipy.stats")
    n = 40_000
    images = torch.tensor([0.0, 1.0]).repeat(n // 2).reshape(n, 1, 1)
    mixed, _ = run(Augmentation(mixup=alpha), images, torch.zeros(n, dtype=torch.int64), torch.arange(n))
    weights = torch.where(images == 1, mixed, 1 - mixed).flatten().double().numpy()
    # Away from the ends, where float32 cannot tell 1 - λ from 1.
    grid = np.linspace(0.001, 0.999, 999)
    below = np.searchsorted(np.sort(weights), grid) / n
    assert np.abs(below - stats.beta(alpha, alpha).cdf(grid)).max() < 2 / math.sqrt(n)
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_the_ends_and_the_middle_of_the_uniform_numbers_have_weights(alpha):
    weights = beta_quantile(torch.tensor([0.0, 0.5, 1 - 2**-24]), alpha)
    assert weights.tolist() == pytest.approx([0, 0.5, 1], abs=1e-3)


# ---------------------------------------------------------------------------------------------- independence

EVERYTHING = Augmentation(translation=3, fill="zeros", flip="random", cutout=3, mixup=0.3, cutmix=1.0)


@pytest.mark.parametrize("device", DEVICES)
def test_an_image_is_augmented_alike_in_any_batch(device):
    images, labels, index = (x.to(device) for x in batch(60))
    alone = Augmentation(translation=3, fill="reflect", flip="alternating", cutout=3)
    whole, _ = run(alone, images, labels, index)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).to(device)
    shuffled, _ = run(alone, images[order], labels[order], index[order])
    assert torch.equal(shuffled, whole[order])
    for sizes in ([1, 59], [20, 20, 20]):
        parts = zip(images.split(sizes), labels.split(sizes), index.split(sizes), strict=True)
        assert torch.equal(torch.cat([run(alone, *part)[0] for part in parts]), whole)


def test_mixing_does_not_notice_cuts_of_even_length():
    images, labels, index = batch(60)
    whole, targets = run(EVERYTHING, images, labels, index)
    parts = [
        run(EVERYTHING, *part)
        for part in zip(images.split([2, 18, 40]), labels.split([2, 18, 40]), index.split([2, 18, 40]), strict=True)
    ]
    torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([t for _, t in parts]), targets, rtol=1e-6, atol=1e-6)


def test_no_global_generator_is_touched():
    images, labels, index = batch()
    before = torch.get_rng_state()
    run(EVERYTHING, images, labels, index)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_devices_agree():
    images, labels, index = batch()
    here = run(EVERYTHING, images, labels, index)
    there = run(EVERYTHING, images.cuda(), labels.cuda(), index.cuda())
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_of_images_are_kept(dtype):
    images, labels, index = batch()
    result, targets = run(EVERYTHING, images.to(dtype), labels, index)
    assert result.dtype == dtype
    assert targets.dtype == torch.float32


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"translation": -1}, r"Augmentation: expected translation to be a whole number of pixels, 0 or more; got -1"),
        ({"translation": True}, r"Augmentation: expected translation to be a whole number of pixels, .* got True"),
        ({"cutout": 2.5}, r"Augmentation: expected cutout to be a whole number of pixels, 0 or more; got 2.5"),
        (
            {"mixup": float("nan")},
            r"Augmentation: expected mixup \(α of a Beta\) to be 0 or from 0.01 to 100; got nan",
        ),
        ({"mixup": "0.2"}, r"Augmentation: expected mixup .* to be 0 or from 0.01 to 100; got '0.2'"),
        ({"cutmix": -0.1}, r"Augmentation: expected cutmix .* to be 0 or from 0.01 to 100; got -0.1"),
        ({"mixup": 101}, r"Augmentation: expected mixup .* to be 0 or from 0.01 to 100; got 101"),
        ({"fill": "wrap"}, r"Augmentation: expected fill 'zeros' or 'reflect'; got 'wrap'"),
        ({"flip": True}, r"Augmentation: expected flip 'none', 'random' or 'alternating'; got True"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**values)


@pytest.mark.parametrize(
    ("how", "change", "message"),
    [
        (
            Augmentation(translation=8),
            {},
            r"translation below the smallest side, 8, of images \(b, c, \*u\) = \(64, 2, 8, 10\); got 8",
        ),
        (Augmentation(cutout=9), {}, r"cutout of at most the smallest side, 8, .*; got 9"),
        (
            Augmentation(),
            {"images": torch.zeros(64, 2, 8, 10, dtype=torch.uint8)},
            r"floating-point .* torch.uint8",
        ),
        (Augmentation(), {"images": torch.zeros(64, 2)}, r"1 to 3 spatial axes; got torch.float32 of shape \(64, 2\)"),
        (Augmentation(), {"images": torch.zeros(64, 1, 2, 2, 2, 2)}, r"1 to 3 spatial axes; got torch.float32"),
        (
            Augmentation(),
            {"labels": torch.zeros(63, dtype=torch.int64)},
            r"labels int64 of shape \(64,\).*\(63,",
        ),
        (Augmentation(), {"index": torch.zeros(64)}, r"expected index int64 of shape \(64,\).* got torch.float32"),
    ],
)
def test_bad_batches_are_refused(how, change, message):
    images, labels, index = batch()
    with pytest.raises(ValueError, match=message):
        run(how, **({"images": images, "labels": labels, "index": index} | change))
