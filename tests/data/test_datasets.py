"""Data sets: what they hold, how they are split, and the errors that name what is wrong."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hcnn.data import archives, cifar, datasets
from hcnn.data.datasets import load
from hcnn.data.image_set import ImageSet, Splits, from_arrays
from hcnn.data.preprocessing import Preprocessing, fit_float_preprocessing, fit_preprocessing
from hcnn.data.splits import epoch_order, fewer, set_aside, stratified_split


def image_set(n: int = 12, classes: int = 3, **fields) -> ImageSet:
    images = torch.arange(n * 2 * 4, dtype=torch.int64).reshape(n, 2, 2, 2).to(torch.uint8)
    names = tuple("abcdefgh"[:classes])
    return ImageSet(images, torch.arange(n) % classes, names, "toy", **fields)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------- sets


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images": torch.zeros(4, 1, 2, 2)},
            r"toy: expected uint8 images \(n, c, \*u\) as a tensor; got torch.float32 of shape",
        ),
        ({"images": torch.zeros(4, 2, dtype=torch.uint8)}, r"toy: expected uint8 images .* of shape \(4, 2\)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"toy: expected int64 labels \(4,\), one per image; .*\(3,\)"),
        ({"labels": torch.zeros(4)}, r"toy: expected int64 labels \(4,\), one per image; got torch.float32"),
        (
            {"labels": torch.tensor([0, 1, 2, -1])},
            r"toy: expected labels from 0 to 1, for 2 classes; got 2 at image 2 \(2 labels are out of range\)",
        ),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, r"toy: expected images of every class; none of class 'dog'"),
        ({"classes": ("cat", "cat")}, r"toy: expected classes of different names"),
        ({"superclasses": ("pet",)}, r"toy: expected 2 superclasses; got 1"),
        (
            {"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
            r"toy: expected at least one image",
        ),
    ],
)
def test_sets_are_validated(changed, message):
    fields = {
        "images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        "labels": torch.tensor([0, 1, 0, 1]),
        "classes": ("cat", "dog"),
        "name": "toy",
    }
    ImageSet(**fields)
    with pytest.raises(ValueError, match=message):
        ImageSet(**(fields | changed))


def test_subsets_may_lack_a_class_and_keep_order():
    whole = image_set()
    part = whole.subset([4, 1], "part")
    assert part.labels.tolist() == [1, 1]
    assert torch.equal(part.images, whole.images[[4, 1]])
    assert repr(part) == "ImageSet('part', n=2, c=2, u=(2, 2), classes=3)"
    for indices, got in (([12], "12 to 12"), ([0, -1], "-1 to 0")):
        with pytest.raises(ValueError, match=rf"toy: expected indices from 0 to 11; got {got}"):
            whole.subset(indices)
    for indices, got in ((whole.labels == 1, "torch.bool"), (np.array([0.0, 1.0]), "torch.float64")):
        with pytest.raises(ValueError, match=rf"toy: expected indices, whole numbers; got {got} of shape"):
            whole.subset(indices)


def test_the_digest_sees_every_part():
    base = image_set()
    assert base.digest() == image_set().digest()
    images, labels = base.images.clone(), base.labels.clone()
    images[7, 1, 0, 1] ^= 1
    labels[[0, 1]] = labels[[1, 0]]
    others = [
        ImageSet(images, base.labels, base.classes, "toy"),
        ImageSet(base.images, labels, base.classes, "toy"),
        ImageSet(base.images, base.labels, ("a", "b", "d"), "toy"),
        ImageSet(base.images.reshape(12, 2, 4), base.labels, base.classes, "toy"),
        ImageSet(base.images.reshape(12, 2, 4, 1), base.labels, base.classes, "toy"),
    ]
    assert len({one.digest() for one in (base, *others)}) == 6
    # Pinned, because results name data by it.
    assert base.digest() == "be4f3f6db7772ba32995b9272421723e4d3d161d8076c2a5e8d5061462ead1eb"


def test_channel_statistics_against_numpy():
    images = torch.randint(0, 256, (50, 3, 8, 6), dtype=torch.uint8)
    images[:, 1] = 17
    mean, std = ImageSet(images, torch.zeros(50, dtype=torch.int64), ("any",), "noise").channel_statistics()
    expected = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, expected.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std[[0, 2]], expected.std((0, 2, 3))[[0, 2]], rtol=1e-12)
    assert mean.dtype == std.dtype == torch.float64
    assert std[1] == 1


def test_common_standardization_is_that_of_all_channels_together():
    images = torch.randint(0, 100, (20, 3, 8, 6), dtype=torch.uint8)
    images[:, 1] += 120
    floats = images / 255
    for found in (
        fit_preprocessing(ImageSet(images, torch.zeros(20, dtype=torch.int64), ("any",), "noise"), common=True),
        fit_float_preprocessing(floats, ("any",), common=True),
    ):
        assert found.mean == pytest.approx([floats.double().mean().item()] * 3, rel=1e-6)
        assert found.std == pytest.approx([floats.double().std(correction=0).item()] * 3, rel=1e-6)


def test_splits_must_match():
    train = image_set()
    with pytest.raises(ValueError, match=r"toy: expected classes \('a', 'b', 'c'\); got \('a', 'b'\)"):
        Splits(train, test=image_set(classes=2))
    other = ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3), train.classes, "other")
    with pytest.raises(ValueError, match=r"other: expected images .* = \(2, 2, 2\), as in toy; got \(1, 2, 2\)"):
        Splits(train, other)


# ---------------------------------------------------------------------------------------------- random choices


def test_epoch_order_is_a_permutation_of_seed_and_epoch_alone():
    orders = [epoch_order(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(orders[0], epoch_order(1000, 0, 0))
    assert epoch_order(10, 0, 0).tolist() == [0, 4, 9, 7, 1, 5, 6, 3, 8, 2]  # on every platform and version
    with pytest.raises(ValueError, match=r"expected seed and epoch not to be negative; got \(0, -1\)"):
        epoch_order(10, 0, -1)


@pytest.mark.parametrize("count", [0, 1, 5, 30, 97])
def test_stratified_splits_keep_proportions_and_every_class(count):
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 9 + [4])[epoch_order(100, 5, 0)]
    if count > 96:
        with pytest.raises(ValueError, match=r"expected to set aside 0 to 96 of 100 images, .*; got 97"):
            stratified_split(labels, count, 0)
        return
    rest, chosen = stratified_split(labels, count, 0)
    assert torch.equal(torch.cat([rest, chosen]).sort().values, torch.arange(100))
    assert len(chosen) == count
    taken = labels[chosen].bincount(minlength=5)
    assert (taken - labels.bincount() * count / 100).abs().max() <= 1
    assert (labels[rest].bincount(minlength=5) > 0).tolist() == [True, True, True, False, True]
    assert not count or not torch.equal(chosen, stratified_split(labels, count, 1)[1])


def test_a_split_takes_all_but_one_of_each_class_at_most():
    labels = torch.tensor([0] * 5 + [1] * 2 + [2])
    rest, _ = stratified_split(labels, 5, 0)
    assert labels[rest].tolist() == [0, 1, 2]


def pixels(images: ImageSet) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


def test_fewer_training_images_are_drawn_by_seed_and_nothing_else_changes():
    base = Splits(image_set(30), image_set(6), image_set(9), (("a.png", "empty"),))
    few = fewer(base, 10)
    assert len(set(pixels(few.train)) & set(pixels(base.train))) == len(few.train) == 10
    assert few.train.labels.bincount().tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])
    assert (few.validation, few.test, few.skipped) == (base.validation, base.test, base.skipped)
    assert pixels(fewer(base, 10).train) == pixels(few.train) != pixels(fewer(base, 10, seed=1).train)
    for count in (0, 30):
        with pytest.raises(ValueError, match=f"toy: train_images: expected 1 to 27; got {count}"):
            fewer(base, count)


def test_images_are_set_aside_and_drawn_independently():
    base = Splits(image_set(30), test=image_set(9), skipped=(("a.png", "empty"),))
    aside = set_aside(base, 10, 0)
    assert aside.validation is not None
    assert sorted(pixels(aside.train) + pixels(aside.validation)) == pixels(base.train)
    assert (len(aside.validation), aside.test, aside.skipped) == (10, base.test, base.skipped)
    assert pixels(aside.validation) != pixels(fewer(base, 10).train)
    assert set_aside(aside, 0, 0) is aside
    with pytest.raises(ValueError, match="the data has a validation set; expected validation=0, got 1"):
        set_aside(aside, 1, 0)


# --------------------------------------------------------------------------------------------------- built in


def test_digits_are_split_once_and_for_all():
    splits = load("digits")
    assert splits.test is not None
    assert repr(splits.train) == "ImageSet('digits/train', n=1437, c=1, u=(8, 8), classes=10)"
    assert len(splits.test) == 360
    whole = torch.cat([splits.train.labels, splits.test.labels]).bincount()
    assert (splits.test.labels.bincount() - whole * 360 / 1797).abs().max() < 1
    assert sorted(set(splits.train.images.flatten().tolist()))[:4] == [0, 16, 32, 48]
    assert splits.train.images.max() == 255
    assert splits.train.digest() == "4450ed442b73795dda70c5d11db03e5f4b6a51d11f448c38b2154b94628c8929"
    assert splits.test.digest() == "57365328cc11915a22c4f2d4ac84913ef8cf77d66c583a66f95b6bf5c896e0e7"


def test_validation_comes_out_of_the_training_set_by_seed():
    base = load("digits")
    one, same, other = (
        load("digits", validation=200),
        load("digits", validation=200),
        load("digits", validation=200, seed=1),
    )
    for splits in (one, other):
        assert splits.validation is not None
        assert splits.test is not None
        assert base.test is not None
        assert splits.test.digest() == base.test.digest()
        assert len(splits.train) == 1237
        together = torch.cat([splits.train.images, splits.validation.images]).flatten(1)
        assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, base.train.images.flatten(1).numpy()))
    assert one.train.digest() == same.train.digest() != other.train.digest()
    with pytest.raises(ValueError, match=r"digits/train: validation: expected to set aside 0 to 1427 of 1437 .*5000"):
        load("digits", validation=5000)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn"):
        load("digits")


def test_importing_needs_none_of_the_optional_packages():
    code = "import sys, hcnn.data.datasets, hcnn.data.augment; print({'PIL', 'pooch', 'sklearn'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_cifar_goes_through_load(tmp_path, monkeypatch):
    pixels = noise(4, 3072)
    pixels[:, 0] = 0
    names = {"train.bin": 2, "test.bin": 2}
    for name in names:
        labels = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.uint8)
        (tmp_path / name).write_bytes(np.concatenate([labels, pixels], 1).tobytes())
    (tmp_path / "fine_label_names.txt").write_bytes(b"rose\nwhale\n")
    (tmp_path / "coarse_label_names.txt").write_bytes(b"sea\nland\n")
    members = tuple((path.name, path.stat().st_size) for path in sorted(tmp_path.iterdir()))
    official = cifar.CIFAR100
    spec = cifar.CifarSpec(
        archives.ArchiveSpec("CIFAR-100", "", "", 0, "none", members),
        official.train, official.test, official.classes, official.superclasses, 2,
    )  # fmt: skip
    monkeypatch.setattr(datasets, "CIFAR100", spec)
    splits = load("cifar100", data_dir=tmp_path, validation=1)
    assert splits.validation is not None
    assert splits.test is not None
    assert repr(splits.test) == "ImageSet('cifar100/test', n=4, c=3, u=(32, 32), classes=2)"
    assert splits.test.labels.tolist() == [1, 0, 1, 0]
    assert splits.test.superclasses == ("land", "sea")
    coarse = splits.test.coarse()
    assert coarse.classes == ("land", "sea")
    assert coarse.labels.tolist() == [1, 0, 1, 0]
    assert splits.train.coarse().labels.tolist() == [(0, 1)[k] for k in splits.train.labels.tolist()]
    with pytest.raises(ValueError, match=r"digits/train: expected a set with superclasses"):
        load("digits").train.coarse()


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_the_real_cifar(name, classes):
    spec = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name].archive
    root = archives.cache_folder() if os.environ.get("HCNN_DATA") else Path(os.devnull)
    if not any((root / place).exists() for place in (spec.folder, spec.file)):
        pytest.skip(f"no {name} in HCNN_DATA")
    splits = load(name)
    assert splits.test is not None
    assert splits.train.labels.bincount().tolist() == [50_000 // classes] * classes
    assert splits.test.labels.bincount().tolist() == [10_000 // classes] * classes
    published = {"cifar10": [0.4914, 0.4822, 0.4465], "cifar100": [0.5071, 0.4865, 0.4409]}[name]
    np.testing.assert_allclose(splits.train.channel_statistics()[0], published, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "cifar-10",
            ValueError,
            r"unknown data set: expected digits, .* got 'cifar-10'. Did you mean cifar10",
        ),
        ("Digit", ValueError, r"unknown data set: .* got 'Digit'. Did you mean digits\?"),
        ("imagenet", ValueError, r"unknown data set, and no such file or folder: expected digits, cifar10, cifar100"),
        ("some/where", FileNotFoundError, r"no such file or folder: expected digits, .* got 'some/where'"),
    ],
)
def test_unknown_names(name, error, message):
    with pytest.raises(error, match=message):
        load(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 28}, r"digits: expected images \(c, \*u\) = \(1, 28, 28\) as asked for; they are \(1, 8, 8\)"),
        ({"channels": 3}, r"digits: expected images \(c, \*u\) = \(3, 8, 8\) as asked for; they are \(1, 8, 8\)"),
        ({"channels": 2}, r"channels: expected 1 \(grey\) or 3 \(RGB\); got 2"),
        ({"image_size": 0}, r"image_size: expected a positive side or \(height, width\); got 0"),
        ({"image_size": 9000}, "image_size: expected at most 67,108,864 pixels; got 9000 × 9000"),
        ({"on_bad": "ignore"}, r"on_bad: expected 'refuse' or 'skip'; got 'ignore'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


# ------------------------------------------------------------------------------------------------------ arrays


def test_arrays_of_either_layout():
    grey, colour = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 3, 4, 5), np.uint8)
    assert from_arrays(grey, [0, 1, 2]).images.shape == (3, 1, 4, 5)
    assert from_arrays(colour, [0, 1, 2]).images.shape == (3, 3, 4, 5)
    assert from_arrays(colour, np.array([0, 1, 0], np.uint8), ["cat", "dog"]).classes == ("cat", "dog")
    assert from_arrays([np.zeros((4, 5), np.uint8)] * 2, torch.tensor([0, 1])).images.shape == (2, 1, 4, 5)
    assert from_arrays(torch.zeros(2, 1, 3, 4, 5, dtype=torch.uint8), [0, 1]).images.shape == (2, 1, 3, 4, 5)


def test_labels_of_every_integer_type():
    for kind in (np.uint8, np.int8, np.uint16, np.int32, np.uint64, ">i2"):
        made = from_arrays(np.zeros((3, 4, 4), np.uint8), np.array([0, 1, 2], kind))
        assert made.labels.tolist() == [0, 1, 2]
        assert made.classes == ("0", "1", "2")


def test_arrays_are_copied():
    pixels = np.zeros((2, 4, 4), np.uint8)
    made = from_arrays(pixels, [0, 1])
    pixels[:] = 9
    assert made.images.max() == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4)), [0, 1], r"mine: expected uint8 pixels from 0 to 255; got float64. Scale"),
        (np.full((2, 4, 4), np.nan, np.float32), [0, 1], r"mine: .* got float32, with NaN among them"),
        (np.zeros((2, 4, 4), np.int64), [0, 1], r"mine: expected uint8 pixels from 0 to 255; got int64"),
        (
            np.zeros((4, 4), np.uint8),
            [0, 1],
            r"mine: expected images \(n, h, w\) or \(n, c, h, w\); got shape",
        ),
        (np.zeros((2, 8, 8, 8), np.uint8), [0, 1], r"mine: shape \(2, 8, 8, 8\) may be .*; say which with channels="),
        (
            [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)],
            [0, 1],
            r"mine: expected images of one size, \(4, 4\) as image 0; image 1 has \(4, 5\)",
        ),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], r"mine: expected integer labels; got float64"),
        (np.zeros((2, 4, 4), np.uint8), [0, -1], r"mine: expected labels from 0 to 0, .*; got -1 at image 1"),
        (np.zeros((2, 4, 4), np.uint8), [0], r"mine: expected int64 labels \(2,\), one per image; .*\(1,\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2], r"mine: expected images of every class; none of class '1'"),
        (np.zeros((2, 4, 4), np.uint8), [0, 10**7], r"mine: expected labels from 0, below 1,048,576; got 10000000"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2**62], r"mine: expected labels from 0, below 1,048,576; got 46116860184"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, 2**63 + 1], np.uint64), r"mine: .*; got 9223372036854775809"),
        (np.zeros((2, 4, 4), np.uint8), ["cat", "dog"], r"mine: expected integer labels; got <U3"),
        (np.zeros((2, 4, 4), np.uint8), [[0], [1]], r"mine: expected int64 labels \(2,\), one per image; .*\(2, 1\)"),
        (np.zeros((2, 4, 4), np.uint8), [], r"mine: expected integer labels; got float64"),
        (np.zeros((2, 4, 4), np.uint8), np.array([], np.uint8), r"mine: expected int64 labels .*\(0,\)"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(images, labels, name="mine")


def test_npz_files(tmp_path):
    path, pixels = tmp_path / "a.npz", noise(6, 4, 4)
    np.savez(path, images=pixels, labels=[0, 1] * 3, classes=["x", "y"], test_images=pixels[:2], test_labels=[1, 1])
    splits = load(path, validation=2)
    assert splits.validation is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4, 2, 2)
    assert splits.test.classes == ("x", "y")
    assert torch.equal(splits.test.images[:, 0], torch.tensor(pixels[:2]))
    with pytest.raises(ValueError, match=r"a.npz: expected images \(c, \*u\) = \(1, 9, 9\) as asked for; they are"):
        load(path, image_size=9)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, r"a.npz: expected arrays images and labels, .*; got images$"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 1], "x": 0}, r"a.npz: .* got images, labels, x$"),
        ({"images": np.zeros((2, 4, 4)), "labels": [0, 1]}, r"a.npz: images: expected uint8 pixels"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 3], "classes": ["a", "b"]},
            r"a.npz: labels: expected labels from 0 to 1, for 2 classes; got 3 at image 1",
        ),
    ],
)
def test_npz_files_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.npz")


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["data.pkl", "data.npz", "data.npy", "data.pt", "data"])
def test_pickles_are_never_unpickled(tmp_path, name):
    mark = tmp_path / "it ran"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match=rf"{name}: expected (a folder of images or )?an .npz file"):
        load(tmp_path / name)
    assert not mark.exists()


def test_object_arrays_are_never_unpickled(tmp_path):
    mark = tmp_path / "it ran"
    np.savez(tmp_path / "a.npz", images=np.array([Bomb(mark)], dtype=object), labels=[0])
    with pytest.raises(ValueError, match=r"a.npz: expected plain arrays, no pickles; array 'images' was refused"):
        load(tmp_path / "a.npz")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((0.5, (0.25,), (8, 8), ("a",)), r"mean: expected a tuple; got 0\.5"),
        (((0.5,), None, (8, 8), ("a",)), "std: expected a tuple; got None"),
        (((0.5,), (0.25,), 8, ("a",)), "size: expected a tuple; got 8"),
        (((0.5,), (0.25,), (8, 8), None), "classes: expected a tuple; got None"),
    ],
)
def test_a_number_is_no_standardization(given, says):
    with pytest.raises(ValueError, match=says):
        Preprocessing(*given)
