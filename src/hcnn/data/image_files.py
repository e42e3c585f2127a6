"""Image files: what Pillow reads safely becomes a uint8 tensor, or an error that names the file."""

import logging
import os
import warnings
from collections.abc import Callable, Iterable
from io import BytesIO
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from hcnn.data.regular_files import read_regular
from hcnn.storage.atomic import StrPath

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
OnBad = Literal["refuse", "skip"]
Size = int | tuple[int, int]

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
)  # fmt: skip
MAX_PIXELS = 64 << 20

# Without a handler, Python would print what Pillow logs about damaged files.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Formats whose decoders start no other program and are bounded by the size of the picture.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF")
_EXPECTED = "expected a PNG, JPEG, WebP, GIF, BMP or TIFF image"
_GREY = ("1", "L", "LA")
_DEEP_GREY = ("I;16", "I;16B", "I;16L")
_COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_ORIENTATION, _WIDTH, _HEIGHT, _BITS, _SUBFILE = 0x0112, 256, 257, 258, 254  # TIFF tags, the first one EXIF's too
_COPIES = 64  # reduced ones that a TIFF file may hold; a pyramid of them has about a dozen
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


def read_image(source: "StrPath | bytes | Image", *, size: Size, channels: int) -> Tensor:
    """Read one image file the way `hcnn.data.datasets.load` reads those of a folder.

    PNG, JPEG (JFIF, and the first picture of MPO), WebP, GIF, BMP and TIFF files are read; of an animation, its first
    frame. The image is turned as its EXIF says. 16-bit grey is scaled from 0 … 65535 to 0 … 255 and rounded (12-bit
    grey from 0 … 4095); 16-bit colours keep their upper 8 bits. CMYK becomes sRGB by the colour profile in the file,
    or, where there is none that can be used, by R = (1 - C)(1 - K) and so on.

    Args:
        source: path of an image file, its bytes, or a Pillow image, of which the present frame is read.
        size: side, or (height, width), that the image is resized to cover and cropped to about its centre.
        channels: 1 for grey or 3 for RGB.

    Returns:
        uint8 tensor (c, height, width).

    Raises:
        ValueError: if it is not a regular file or not an image, is truncated, has pixels of another kind or several
            pages, is transparent, or is too large; names the file.
        FileNotFoundError: if there is no such file.
        ImportError: if pillow is not installed.

    """
    pair = height_and_width(size)
    if pair is None or channels not in (1, 3):
        raise ValueError(f"expected a size, and 1 or 3 channels; got size {size!r}, channels {channels!r}")
    is_path = isinstance(source, str | os.PathLike)
    data = read_regular(source) if is_path else source
    try:
        return fit(decode(data, upright), pair, channels)
    except ValueError as error:
        raise (ValueError(f"{source}: {error}") if is_path else error) from error


def height_and_width(size: Size | None) -> tuple[int, int] | None:
    """A size as (height, width), None as None; a ValueError for one that no image may have."""
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise ValueError(f"image_size: expected a positive side or (height, width); got {size!r}")
    if sides[0] * sides[1] > MAX_PIXELS:
        raise ValueError(f"image_size: expected at most {MAX_PIXELS:,} pixels; got {sides[0]} × {sides[1]}")
    return int(sides[0]), int(sides[1])


def decode(data: "bytes | Image", use: "Callable[[Image], T]") -> T:
    """Open an image unless it is open, judge its header, and return `use(image)`; ValueErrors lack the file's name."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs pillow: pip install pillow") from error
    if isinstance(data, bytes) and not data:
        raise ValueError(f"{_EXPECTED}; got an empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that is judged here
        try:
            image = Image.open(BytesIO(data), formats=_FORMATS) if isinstance(data, bytes) else data
            if not image.width * image.height:
                raise _Unfit(f"expected at least one pixel; got {image.height} × {image.width}")
            if image.width * image.height > MAX_PIXELS:
                raise _Unfit(f"expected at most {MAX_PIXELS:,} pixels; got {image.height} × {image.width}")
            if image.mode not in (*_GREY, *_COLOUR) and not _is_deep(image):
                raise _Unfit(f"expected grey, RGB or CMYK pixels of 8 bits, or grey of 16; got mode {image.mode}")
            if image.format == "TIFF":
                _expect_one_page(image)
            return use(image)
        except (_Unfit, MemoryError):  # too little memory is no fault of the image
            raise
        except Image.DecompressionBombError as error:
            raise _Unfit(f"expected at most {MAX_PIXELS:,} pixels; {error}") from error
        except Image.UnidentifiedImageError as error:
            raise _Unfit(f"{_EXPECTED}; this is not one, or its header is cut off") from error
        # On damaged data Pillow's decoders raise OSError, SyntaxError, struct.error, KeyError and more.
        except Exception as error:
            raise _Unfit(f"the image is truncated or corrupt: {error}") from error


class _Unfit(ValueError):
    """An image that this package does not take."""


def _is_deep(image: "Image") -> bool:
    """Whether it is 16-bit grey; older versions of Pillow open such PNG files as 32-bit integers."""
    return image.mode in _DEEP_GREY or (image.mode == "I" and image.format == "PNG")


def _is_grey(image: "Image") -> bool:
    return image.mode in _GREY or _is_deep(image)


def _expect_one_page(image: Any) -> None:
    """Refuse a TIFF file of several pages, which are pictures of equal rank; reduced copies do not count.

    A small file can hold the headers of very many pages, so no more are read than need be.
    """
    present, copies = image.tell(), 0
    try:
        for page in range(1 + _COPIES):
            image.seek(page)
            copies += page > 0 and bool(image.tag_v2.get(_SUBFILE, 0) & 1)
            if copies < page:
                raise _Unfit("expected a single page; got several")
        image.seek(1 + _COPIES)
        raise _Unfit(f"expected at most {_COPIES} reduced copies; got more")
    except EOFError:  # there is no such page
        pass
    finally:
        image.seek(present)


def header(image: Any) -> tuple[tuple[int, int], bool]:
    """(height, width) once it is upright, and whether it is grey."""
    width, height = image.size
    if image.format == "TIFF":  # whose size some versions of Pillow turn by themselves
        width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width), _is_grey(image)


def upright(image: "Image") -> "Image":
    """The pixels, as grey or RGB, turned as the EXIF orientation says."""
    from PIL import Image

    image.load()
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))  # asked after loading: TIFF images turn themselves
    pixels = _eight_bits(image)
    return pixels if turn is None else pixels.transpose(Image.Transpose[turn])


def _eight_bits(image: "Image") -> "Image":
    """The pixels as grey or RGB of 8 bits."""
    if _is_deep(image):
        return _from_deep_grey(image)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise _Unfit("expected opaque pixels; some are transparent")
        # An unused transparent colour would make Pillow add an alpha channel, or warn. The image may be the caller's.
        image = image.copy()
        image.info.pop("transparency", None)
    return _from_cmyk(image) if image.mode == "CMYK" else image.convert("L" if _is_grey(image) else "RGB")


def _from_deep_grey(image: Any) -> "Image":
    from PIL import Image

    values = np.asarray(image).astype(np.uint32)
    if "transparency" in image.info and (values == image.info["transparency"]).any():
        raise _Unfit("expected opaque pixels; some are transparent")
    twelve = image.format == "TIFF" and image.tag_v2.get(_BITS) == (12,)
    largest = 4095 if twelve else 65535
    return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8))


def _from_cmyk(image: "Image") -> "Image":
    """RGB by the colour profile of the file where there is one that can be used."""
    from PIL import ImageCms

    if profile := image.info.get("icc_profile"):
        try:
            source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            if (converted := ImageCms.profileToProfile(image, source, target, outputMode="RGB")) is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ImportError):
            pass
    return image.convert("RGB")


def fit(image: "Image", size: tuple[int, int], channels: int) -> Tensor:
    """Resize to cover (height, width), crop about the centre, convert."""
    from PIL import Image, ImageOps

    height, width = size
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return torch.tensor(np.asarray(image)).reshape(height, width, channels).permute(2, 0, 1).contiguous()
