"""Image files and folders of them: exact pixels, and every unfit file refused by name."""

import io
import logging
import os
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hcnn.data import regular_files
from hcnn.data.datasets import load
from hcnn.data.image_files import SUFFIXES, decode, read_image

Pixels = np.ndarray


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
    for form, options in (("BMP", {}), ("DIB", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        assert torch.equal(
            read_image(encode(pixels, form, **options), size=8, channels=3), torch.tensor(pixels).permute(2, 0, 1)
        )
        assert torch.equal(read_image(encode(grey, form, **options), size=8, channels=1), torch.tensor(grey)[None])
    assert torch.equal(read_image(encode(grey, "GIF"), size=8, channels=1), torch.tensor(grey)[None])


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("MPO", {})])
def test_of_several_pictures_the_first_is_read(form, options):
    data = several(form, 3, **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "n_frames", 1) == 3
    expected = read_image(several(form, 1, **options), size=8, channels=3)
    assert torch.equal(read_image(data, size=8, channels=3), expected)


def test_a_reduced_copy_is_no_page_of_its_own():
    frames = [Image.fromarray(noise(8, 8)), Image.fromarray(noise(4, 4))]
    frames[1].encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    assert torch.equal(read_image(buffer.getvalue(), size=8, channels=3), torch.tensor(noise(8, 8)).permute(2, 0, 1))


def test_headers_of_many_pages_are_not_read():
    """Each takes some fifty bytes and a tenth of a millisecond: a file of a few megabytes would take half a minute."""
    data = bytearray(encode(Image.fromarray(noise(8, 8)), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    place = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]  # of the number that says where the next one is
    for _ in range(70):
        data += bytes(len(data) % 2)
        struct.pack_into("<I", data, place, len(data))
        data += struct.pack("<H", 4)
        data += b"".join(
            struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((254, 1), (256, 4), (257, 4), (273, 8))
        )
        data += bytes(4)
        place = len(data) - 4
    with pytest.raises(ValueError, match="expected at most 64 reduced copies; got more"):
        read_image(bytes(data), size=8, channels=3)


def test_too_little_memory_is_no_fault_of_the_image():
    def use(image: Image.Image) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        decode(encode(noise(8, 8)), use)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_deep_grey_is_scaled_to_8_bits(form):
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = read_image(encode(deep, form), size=256, channels=1)[0].numpy()
    assert np.array_equal(image, np.round(deep / 257).astype(np.uint8))


def profile(colours: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """A CMYK profile with a table of two points per ink, and L, a, b (of 255) where they are given, else white."""
    grid = [colours.get(ink, (255, 128, 128)) for ink in np.ndindex(2, 2, 2, 2)]
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", 65536 if i % 4 == 0 else 0) for i in range(9))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(sum(grid, ())) + ramp * 3
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    tags = {b"A2B0": table, b"wtpt": white}
    offset, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        directory += name + struct.pack(">II", offset + len(body), len(content))
        body += padded
    head = struct.pack(">I4sI4s4s4s12s4s", offset + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ",
                       struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    head += bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + directory + body


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_by_its_profile_or_by_its_inks(form):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    plain = read_image(encode(cyan, form), size=8, channels=3)
    assert np.allclose(plain[:, 4, 4], (0, 255, 255), atol=2)
    red_ink = profile({(1, 0, 0, 0): (136, 208, 195)})  # where this printer puts cyan, it prints sRGB's red
    red = read_image(encode(cyan, form, icc_profile=red_ink), size=8, channels=3)
    assert np.allclose(red[:, 4, 4], (255, 0, 0), atol=12)
    broken = read_image(encode(cyan, form, icc_profile=b"no profile"), size=8, channels=3)
    assert torch.equal(broken, plain)
    dark = read_image(encode(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), form), size=8, channels=1)
    assert int(dark.max()) <= 2


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
    for form, stored in (("PNG", pixels), ("TIFF", pixels), ("PNG", pixels.astype(np.uint16) * 257)):
        image = read_image(encode(stored, form, exif=exif), size=8, channels=1)
        assert image[0, 0, 7] == 255
        assert int((image > 0).sum()) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_that_pillow_has_opened_is_read_as_its_file_is(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    path.write_bytes(encode(noise(12, 9), form, exif=exif))
    expected = read_image(path, size=8, channels=3)
    for loaded in (False, True):
        with Image.open(path) as opened:
            if loaded:
                opened.load()
            assert torch.equal(read_image(opened, size=8, channels=3), expected)
            assert torch.equal(read_image(opened, size=8, channels=3), expected)  # it is left as it was
            assert torch.equal(read_image(opened.copy(), size=8, channels=3), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_a_pillow_image_of_any_mode_that_files_have_is_read(mode):
    deep = mode == "I;16"
    white = Image.fromarray(np.full((8, 8), 65535, np.uint16)) if deep else Image.new("RGB", (8, 8), "white")
    image = white if deep else white.convert(mode)
    assert image.mode == mode
    assert read_image(image, size=8, channels=3).unique().tolist() == [255]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        *[(Image.new(mode, (8, 8)), f"expected grey, RGB .*; got mode {mode}") for mode in ("F", "I", "LAB", "HSV")],
        (Image.new("L", (0, 8)), "expected at least one pixel; got 8 × 0"),
        (Image.new("RGBA", (8, 8), (1, 2, 3, 128)), "expected opaque pixels; some are transparent"),
    ],
)
def test_unfit_pillow_images_are_refused(image, reason):
    with pytest.raises(ValueError, match=reason):
        read_image(image, size=8, channels=3)


def test_a_transparent_colour_without_pixels_stays_with_the_callers_image():
    opened = Image.open(io.BytesIO(encode(noise(8, 8), transparency=(1, 2, 3))))
    assert torch.equal(read_image(opened, size=8, channels=3), torch.tensor(noise(8, 8)).permute(2, 0, 1))
    assert opened.info["transparency"] == (1, 2, 3)


def test_of_an_opened_file_the_present_frame_is_read_and_pages_are_refused():
    opened = Image.open(io.BytesIO(several("GIF", 3)))
    opened.seek(2)
    assert torch.equal(read_image(opened, size=8, channels=1), torch.tensor(noise(8, 8, 1, seed=2))[None])
    opened = Image.open(io.BytesIO(several("TIFF", 3)))
    opened.seek(1)
    with pytest.raises(ValueError, match="expected a single page; got several"):
        read_image(opened, size=8, channels=3)
    assert opened.tell() == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
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


def several(form: str, count: int, **options: object) -> bytes:
    frames = [Image.fromarray(noise(8, 8, 1 if form == "GIF" else 3, seed=i)) for i in range(count)]
    return encode(frames[0], form, save_all=True, append_images=frames[1:], **options)


UNFIT = [
    (b"", r"expected a PNG, JPEG, WebP, GIF, BMP or TIFF image; got an empty file"),
    (b"hello, world", r"expected a PNG, JPEG, WebP, GIF, BMP or TIFF image; this is not one"),
    (encode(noise(), "PPM"), r"expected a PNG, JPEG, WebP, GIF, BMP or TIFF image; this is not one"),
    (encode(noise(), "JPEG2000"), r"expected a PNG, JPEG, WebP, GIF, BMP or TIFF image; this is not one"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", r"expected a PNG, .* image; this is not one"),
    (encode(Image.new("F", (8, 8)), "TIFF"), r"expected grey, RGB or CMYK pixels of 8 bits, .* 16; got mode F"),
    (encode(Image.new("I", (8, 8)), "TIFF"), r"expected grey, RGB or CMYK pixels of 8 bits, .* 16; got mode I"),
    (encode(Image.new("LAB", (8, 8)), "TIFF"), r"expected grey, RGB or CMYK pixels of 8 bits, .* 16; got mode LAB"),
    (encode(Image.new("RGBA", (8, 8), (1, 2, 3, 128))), r"expected opaque pixels; some are transparent"),
    (encode(Image.new("P", (8, 8)), transparency=0), r"expected opaque pixels; some are transparent"),
    (encode(Image.fromarray(np.full((8, 8), 7, np.uint16)), transparency=7), r"expected opaque pixels; some are"),
    (several("TIFF", 3), r"expected a single page; got several"),
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
    with pytest.raises(ValueError, match=rf"^{reason}"):
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


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "validation", "test"), ("train", "val", "test"), ("Train", "Val", "TEST"), ("train", "valid", "testing"),
     ("training", "dev", "test")],
)  # fmt: skip
def test_split_folders(tmp_path, train, validation, test):
    for split in (train, validation):
        pets(tmp_path / split)
    write(tmp_path / test, {"dog/x.png": noise(seed=99)})
    splits = load(tmp_path)
    assert splits.validation is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 8, 1)
    assert splits.test.labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"/validation: the data has a validation set; expected validation=0, got 3"):
        load(tmp_path, validation=3)


def test_classes_may_have_the_names_that_only_some_people_give_to_splits(tmp_path):
    write(tmp_path, {f"{name}/{i}.png": noise(seed=i) for i, name in enumerate(("valid", "invalid", "dev"))})
    assert load(tmp_path).train.classes == ("dev", "invalid", "valid")


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
    write(root, {"b/3.tif": encode(noise(14, 10, 1), "TIFF", exif=exif)})
    assert load(root).train.images.shape == (3, 1, 10, 14)
    (root / "b/3.tif").unlink()
    write(root, {"a/2.png": noise(11, 14, 1)})
    assert load(root).train.images.shape == (3, 1, 32, 32)


def test_bad_files_are_listed_and_refused_or_skipped(tmp_path):
    cut = encode(noise(40, 40), "JPEG")[:-300]  # its header is whole, and of another size than the rest
    root = pets(tmp_path, **{"cat/cut.jpg": cut, "dog/text.jpg": b"text", "dog/notes.md": b"", "cat/deep/x.png": b""})
    with pytest.raises(
        ValueError, match=r"^4 files are not usable images \(on_bad='skip' leaves such files out"
    ) as caught:
        load(root)
    reasons = {
        "cat/cut.jpg": "the image is truncated or corrupt",
        "cat/deep": "expected an image file; got a folder",
        "dog/notes.md": f"expected a file named {', '.join(SUFFIXES)}; got .md",
        "dog/text.jpg": "expected a PNG, JPEG, WebP, GIF, BMP or TIFF image; this is not one",
    }
    for name, reason in reasons.items():
        assert f"\n  {root / name}: {reason}" in str(caught.value)
    splits = load(root, on_bad="skip")
    assert splits.train.images.shape == (8, 3, 12, 12)
    assert [name for name, _ in splits.skipped] == [str(root / name) for name in reasons]
    assert all(got.startswith(reason) for (_, got), reason in zip(splits.skipped, reasons.values(), strict=True))
    assert load(root, on_bad="skip", image_size=12, channels=3).train.digest() == splits.train.digest()


def test_images_beside_the_class_folders_are_not_lost_without_a_word(tmp_path):
    root = pets(tmp_path / "flat", **{"x.png": noise(), "labels.csv": b"x", "cat/a.md": b""})
    (root / "bird").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"^3 files are not usable images") as caught:
        load(root)
    assert f"\n  {root / 'bird'}: expected the folder of a class; this is a link to nothing" in str(caught.value)
    assert f"\n  {root / 'x.png'}: expected it in the folder of a class; it lies beside these folders" in str(
        caught.value
    )
    (root / "bird").unlink()
    (root / "cat" / "a.md").unlink()
    with pytest.raises(ValueError, match=r"^1 file is not a usable image"):
        load(root)
    splits = load(root, on_bad="skip")
    assert len(splits.train) == 8
    assert [name for name, _ in splits.skipped] == [str(root / "x.png")]

    parts = write(tmp_path / "parts", {"train/cat/1.png": noise(), "train/dog/1.png": noise(), "x.png": noise()})
    with pytest.raises(ValueError, match=r"^1 file is not a usable image [^:]*:\n  .*/parts/x.png: expected it in the"):
        load(parts)


def test_only_regular_files_are_opened(tmp_path):
    root = pets(tmp_path)
    os.mkfifo(root / "cat/pipe.png")
    (root / "cat/zero.png").symlink_to("/dev/zero")
    (root / "cat/loop.png").symlink_to("loop.png")
    splits = load(root, on_bad="skip")
    assert len(splits.train) == 8
    reasons = {Path(name).name: reason for name, reason in splits.skipped}
    assert reasons["pipe.png"] == "expected a regular file; it is a named pipe"
    assert reasons["zero.png"] == "expected a regular file; it is a device"
    assert "Too many levels of symbolic links" in reasons["loop.png"]
    with pytest.raises(ValueError, match=r"pipe.png: expected a regular file; it is a named pipe"):
        read_image(root / "cat/pipe.png", size=8, channels=3)


def test_a_file_that_makes_its_reader_wait_is_refused(monkeypatch):
    read, write = os.pipe()  # as /proc/kmsg, which is a regular file by its type
    os.set_blocking(read, False)
    monkeypatch.setattr(regular_files, "open_regular", lambda path: os.fdopen(read, "rb"))
    with pytest.raises(ValueError, match=r"kmsg: expected a regular file; reading this one would wait"):
        read_image("kmsg", size=8, channels=3)
    os.close(write)


def test_damage_is_not_logged_to_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest
    samples = b"\x15\x01\x03\x00\x01\x00\x00\x00"  # the tag that holds the number of samples per pixel
    data = encode(noise(), "TIFF").replace(samples + b"\x03", samples + b"\xff")
    assert data != encode(noise(), "TIFF")
    with pytest.raises(ValueError, match="TIFF"):
        read_image(data, size=8, channels=3)
    assert capsys.readouterr().err == ""


def test_a_very_large_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"sparse.png: expected at most 536,870,912 bytes; got 1,099,511,627,776"):
        read_image(tmp_path / "sparse.png", size=8, channels=3)


def test_class_names_may_hold_any_character_that_a_file_name_may(tmp_path):
    names = ("two\nlines", "tab\tcr\r", "\x1b[31mred", "$a$ [red] <b>", "\udcff")
    if sys.getfilesystemencoding() == "utf-8":  # else no file can have this name
        names += ("犬",)
    root = write(tmp_path, {f"{name}/{i}.png": noise(seed=i) for i, name in enumerate(names)})
    splits = load(root)
    assert splits.train.classes == tuple(sorted(names))
    assert len(splits.train.digest()) == 64


def test_a_long_list_of_bad_files_is_cut(tmp_path):
    root = pets(tmp_path, **{f"cat/bad{i:02}.png": b"x" for i in range(30)})
    with pytest.raises(ValueError, match=r"(?s)^30 files .*bad19.png: [^\n]*\n  and 10 more$"):
        load(root)


def test_classes_without_images_are_named(tmp_path):
    root = pets(tmp_path)
    (root / "bird").mkdir()
    with pytest.raises(ValueError, match=r"/bird: expected images \(.png, .jpg, .*, .tiff\); found none"):
        load(root)
    write(root, {"bird/1.png": b"no image"})
    with pytest.raises(ValueError, match=r"/bird: expected images that can be read; every file was skipped"):
        load(root, on_bad="skip")


def test_layouts_that_are_not_understood(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"/empty: expected a folder of images for each class; .*'cifar10"):
        load(tmp_path / "empty")
    for folders in (
        ("test", "cat"), ("train", "cat"), ("train", "val", "validation"), ("val", "test"), ("Val", "Test"),
        ("dev", "testing"), ("Train", "train"), ("train", "dev", "val"),
    ):  # fmt: skip
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
