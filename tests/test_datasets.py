"""Data sets: what they hold, how they are split, and the errors that name the file."""

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hcnn import archives, datasets
from hcnn.datasets import ImageSet, Splits, epoch_order, from_arrays, load, read_image, stratified_split

Pixels = np.ndarray


def image_set(n: int = 12, classes: int = 3, **fields) -> ImageSet:
    images = torch.arange(n * 2 * 4, dtype=torch.int64).reshape(n, 2, 2, 2).to(torch.uint8)
    names = tuple("abcdefgh"[:classes])
    return ImageSet(images, torch.arange(n) % classes, names, "toy", **fields)


def noise(height: int = 12, width: int = 12, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: Pixels | Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def write(root: Path, files: dict[str, Pixels | Image.Image | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = {".jpg": "JPEG", ".webp": "WEBP"}.get(path.suffix, "PNG")
        path.write_bytes(content if isinstance(content, bytes) else encode(content, form))
    return root


# ------------------------------------------------------------------------------------------------------- sets


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(4, 1, 2, 2)}, r"toy: expected uint8 images \(n, c, \*u\); got torch.float32 of shape"),
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
    with pytest.raises(ImportError, match=r"pip install 'hcnn\[digits\]'"):
        load("digits")


def test_importing_needs_none_of_the_optional_packages():
    code = "import sys, hcnn.datasets, hcnn.augment; print({'PIL', 'pooch', 'sklearn'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_cifar_goes_through_load(tmp_path, monkeypatch):
    pixels = noise(4, 3072, 1)
    pixels[:, 0] = 0
    names = {"train.bin": 2, "test.bin": 2}
    for name in names:
        labels = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.uint8)
        write(tmp_path, {name: np.concatenate([labels, pixels], 1).tobytes()})
    write(tmp_path, {"fine_label_names.txt": b"rose\nwhale\n", "coarse_label_names.txt": b"sea\nland\n"})
    members = tuple((path.name, path.stat().st_size) for path in sorted(tmp_path.iterdir()))
    official = archives.CIFAR100
    spec = archives.CifarSpec(
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
    spec = {"cifar10": archives.CIFAR10, "cifar100": archives.CIFAR100}[name].archive
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
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            [0, 1],
            r"mine: .*\(2, 8, 8, 3\) looks like channels last: .*\(0, 3, 1",
        ),
        (
            [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)],
            [0, 1],
            r"mine: expected images of one size, \(4, 4\) as image 0; image 1 has \(4, 5\)",
        ),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], r"mine: expected integer labels; got float64"),
        (np.zeros((2, 4, 4), np.uint8), [0, -1], r"mine: expected labels from 0 to 0, .*; got -1 at image 1"),
        (np.zeros((2, 4, 4), np.uint8), [0], r"mine: expected int64 labels \(2,\), one per image; .*\(1,\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2], r"mine: expected images of every class; none of class '1'"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(images, labels, name="mine")


def test_npz_files(tmp_path):
    path, pixels = tmp_path / "a.npz", noise(6, 4 * 4, 1).reshape(6, 4, 4)
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
        ({"images": np.zeros((2, 4, 4), np.uint8)}, r"a.npz: expected arrays images, labels and, .*; got images$"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 1], "x": 0}, r"a.npz: .* got images, labels, x$"),
        ({"images": np.zeros((2, 4, 4)), "labels": [0, 1]}, r"a.npz: images: expected uint8 pixels"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 3], "classes": ["a", "b"]},
            r"a.npz: images: expected labels from 0 to 1, for 2 classes; got 3 at image 1",
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


# ------------------------------------------------------------------------------------------------- image files


def test_pixels_come_back_exactly():
    pixels = noise(8, 8)
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        image = read_image(encode(pixels, form, **options), size=8, channels=3)
        assert torch.equal(image, torch.tensor(pixels).permute(2, 0, 1))
        assert image.is_contiguous()
    grey = noise(8, 8, 1)
    assert torch.equal(read_image(encode(grey), size=8, channels=1), torch.tensor(grey)[None])
    assert torch.equal(read_image(encode(grey), size=8, channels=3), torch.tensor(grey)[None].expand(3, 8, 8))
    opaque = np.concatenate([pixels, np.full((8, 8, 1), 255, np.uint8)], 2)
    assert torch.equal(read_image(encode(opaque), size=8, channels=3), torch.tensor(pixels).permute(2, 0, 1))


def test_jpeg_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (9, 9), (200, 30, 60)).save(path, quality=95)
    mean = read_image(path, size=9, channels=3).flatten(1).float().mean(1)
    assert (mean - torch.tensor([200, 30, 60])).abs().max() < 4


def test_palette_images_are_colour_or_grey_as_asked():
    palette = Image.fromarray(noise(8, 8)).quantize(16)
    expected = torch.tensor(np.asarray(palette.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_image(encode(palette), size=8, channels=3), expected)


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (31, 17), (8, 8), (5, 9)])
@pytest.mark.parametrize("size", [8, (6, 10)])
def test_resizing_covers_and_crops_about_the_centre(height, width, size):
    # A plane stays a plane: its middle stays in the middle, its slope scales alike on both axes.
    rows, columns = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    pixels = np.clip(128 + 2.0 * rows + 1.0 * columns, 0, 255).round().astype(np.uint8)
    image = read_image(encode(pixels), size=size, channels=1)[0].double()
    h, w = (size, size) if isinstance(size, int) else size
    assert image.shape == (h, w)
    scale = min(height / h, width / w)
    assert abs(float(image.mean()) - 128) < 1
    inner = image[1:-1, 1:-1]
    assert abs(float(inner.diff(dim=0).mean()) - 2.0 * scale) < 0.35
    assert abs(float(inner.diff(dim=1).mean()) - 1.0 * scale) < 0.35


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    image = read_image(encode(stripes), size=16, channels=1)[:, 2:-2, 2:-2].double()
    assert float((image - 127.5).abs().max()) < 12


def test_exif_orientation_is_respected():
    pixels = np.zeros((8, 8), np.uint8)
    pixels[0, 0] = 255  # top left as stored; orientation 6 is shown turned by 90° clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(encode(pixels, exif=exif), size=8, channels=1)
    assert image[0, 0, 7] == 255
    assert int((image > 0).sum()) == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path, form):
    data = encode(noise(16, 16), form)
    whole = read_image(data, size=16, channels=3)
    path = tmp_path / "cut.img"
    refused = 0
    for length in (*range(0, 40), *range(40, len(data), 23)):
        path.write_bytes(data[:length])
        try:
            # What was cut off can only have been a trailer without pixels.
            assert torch.equal(read_image(path, size=16, channels=3), whole)
        except ValueError as error:
            refused += 1
            assert re.match(rf"{re.escape(str(path))}: (the image is truncated or corrupt|expected a PNG)", str(error))  # noqa: PT017
    assert refused >= 40 + (len(data) - 40) // 23 - 1


def png(height: int, width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def stills(count: int) -> bytes:
    frames = [Image.fromarray(noise(8, 8, seed=i)) for i in range(count)]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])


UNFIT = [
    (b"", r"expected a PNG, JPEG or WebP image; got an empty file"),
    (b"hello, world", r"expected a PNG, JPEG or WebP image; this is none"),
    (encode(noise(), "BMP"), r"expected a PNG, JPEG or WebP image; this is none"),
    (encode(Image.new("CMYK", (8, 8)), "JPEG"), r"expected grey or RGB pixels of 8 bits; got mode CMYK"),
    (encode(Image.fromarray(np.zeros((8, 8), np.uint16))), r"expected grey or RGB pixels of 8 bits; got mode I;16"),
    (encode(Image.new("RGBA", (8, 8), (1, 2, 3, 128))), r"expected opaque pixels; some are transparent"),
    (encode(Image.new("P", (8, 8)), transparency=0), r"expected opaque pixels; some are transparent"),
    (stills(3), r"expected a still image; got 3 frames"),
    (png(8193, 8192), r"expected at most 67,108,864 pixels; got 8193 × 8192"),
    (png(10_000, 10_000), r"expected at most 67,108,864 pixels; got 10000 × 10000"),
    (png(60_000, 60_000), r"expected at most 67,108,864 pixels; .*3600000000"),
]


@pytest.mark.parametrize(("data", "reason"), UNFIT)
def test_unfit_images_are_refused_by_name(tmp_path, data, reason):
    path = tmp_path / "unfit.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"unfit.png: {reason}"):
        read_image(path, size=8, channels=3)
    with pytest.raises(ValueError, match=rf"^<bytes>: {reason}"):
        read_image(data, size=8, channels=3)


def test_a_missing_image_and_missing_pillow(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere.png"):
        read_image(tmp_path / "nowhere.png", size=8, channels=3)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install pillow"):
        read_image(b"x", size=8, channels=3)


# ---------------------------------------------------------------------------------------------- image folders


def pets(root: Path, **more: Pixels | Image.Image | bytes) -> Path:
    files = {f"{name}/{i}.png": noise(seed=10 * k + i) for k, name in enumerate(("dog", "cat")) for i in range(4)}
    return write(root, files | more)


def lookup(images: Tensor, pixels: Pixels) -> list[int]:
    wanted = torch.tensor(pixels).permute(2, 0, 1)
    return [i for i, image in enumerate(images) if torch.equal(image, wanted)]


def test_a_folder_per_class(tmp_path):
    root = pets(tmp_path / "pets")
    write(root, {"cat/.hidden.png": b"", "cat/Thumbs.db": b"", "README.txt": b"", ".git/x.png": b""})
    splits = load(root)
    assert repr(splits.train) == "ImageSet('pets/train', n=8, c=3, u=(12, 12), classes=2)"
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4
    assert splits.test is None
    assert splits.validation is None
    assert splits.skipped == ()
    assert lookup(splits.train.images, noise(seed=12)) == [2]
    with_validation = load(root, validation=2)
    assert with_validation.validation is not None
    assert with_validation.validation.labels.tolist() == [0, 1]


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_split_folders(tmp_path, validation):
    for split in ("train", validation):
        pets(tmp_path / split)
    write(tmp_path / "test", {"dog/x.png": noise(seed=99)})
    splits = load(tmp_path)
    assert splits.validation is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 8, 1)
    assert splits.test.labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"/validation: the data has a validation set; expected validation=0, got 3"):
        load(tmp_path, validation=3)


def test_sizes_and_channels(tmp_path):
    root = write(tmp_path, {"a/1.png": noise(10, 14, 1), "b/1.webp": noise(10, 14, 1), "b/2.jpg": noise(10, 14, 1)})
    assert load(root).train.images.shape == (3, 3, 10, 14)  # WebP has no grey
    (root / "b/1.webp").unlink()
    assert load(root).train.images.shape == (2, 1, 10, 14)
    assert load(root, image_size=8, channels=3).train.images.shape == (2, 3, 8, 8)
    assert load(root, image_size=(4, 6)).train.images.shape == (2, 1, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = 8
    write(root, {"b/3.jpg": encode(noise(14, 10, 1), "JPEG", exif=exif)})  # lies on its side
    assert load(root).train.images.shape == (3, 1, 10, 14)
    (root / "b/3.jpg").unlink()
    write(root, {"a/2.png": noise(11, 14, 1)})
    assert load(root).train.images.shape == (3, 1, 32, 32)


def test_bad_files_are_listed_and_refused_or_skipped(tmp_path):
    cut = encode(noise(40, 40), "JPEG")[:-300]  # its header is whole, and of another size than the rest
    root = pets(tmp_path, **{"cat/cut.jpg": cut, "dog/text.jpg": b"text", "dog/notes.md": b"", "cat/deep/x.png": b""})
    with pytest.raises(ValueError, match=r"^4 files are no usable images \(on_bad='skip' leaves") as caught:
        load(root)
    reasons = {
        "cat/cut.jpg": "the image is truncated or corrupt",
        "cat/deep": "expected an image file; got a folder",
        "dog/notes.md": "expected a file named .png, .jpg, .jpeg, .webp; got .md",
        "dog/text.jpg": "expected a PNG, JPEG or WebP image; this is none",
    }
    for name, reason in reasons.items():
        assert f"\n  {root / name}: {reason}" in str(caught.value)
    splits = load(root, on_bad="skip")
    assert splits.train.images.shape == (8, 3, 12, 12)
    assert [name for name, _ in splits.skipped] == [str(root / name) for name in reasons]
    assert all(got.startswith(reason) for (_, got), reason in zip(splits.skipped, reasons.values(), strict=True))
    assert load(root, on_bad="skip", image_size=12, channels=3).train.digest() == splits.train.digest()


def test_a_long_list_of_bad_files_is_cut(tmp_path):
    root = pets(tmp_path, **{f"cat/bad{i:02}.png": b"x" for i in range(30)})
    with pytest.raises(ValueError, match=r"(?s)^30 files .*bad19.png: [^\n]*\n  and 10 more$"):
        load(root)


def test_classes_without_images_are_named(tmp_path):
    root = pets(tmp_path)
    (root / "bird").mkdir()
    with pytest.raises(ValueError, match=r"/bird: expected images \(.png, .jpg, .jpeg, .webp\); found none"):
        load(root)
    write(root, {"bird/1.png": b"no image"})
    with pytest.raises(ValueError, match=r"/bird: expected images that can be read; every file was skipped"):
        load(root, on_bad="skip")


def test_layouts_that_are_not_understood(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"/empty: expected a folder of images for each class; .*load\('cifar10"):
        load(tmp_path / "empty")
    for folders in (("test", "cat"), ("train", "cat"), ("train", "val", "validation"), ("val", "test")):
        root = tmp_path / "-".join(folders)
        for folder in folders:
            (root / folder).mkdir(parents=True)
        with pytest.raises(ValueError, match=r"expected a folder per class, or train/ with") as caught:
            load(root)
        assert str(caught.value).endswith("; got " + ", ".join(f"{folder}/" for folder in sorted(folders)))


def test_a_class_that_only_the_test_set_has_is_refused(tmp_path):
    pets(tmp_path / "train")
    write(tmp_path / "test", {"bird/x.png": noise()})
    with pytest.raises(ValueError, match=r"/test/bird: expected one of the classes of train/; got 'bird'"):
        load(tmp_path)
