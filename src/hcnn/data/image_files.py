"""Image files and folders of them: PNG, JPEG and WebP become uint8 tensors, or errors that name the file."""

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from hcnn.storage.atomic import StrPath

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
OnBad = Literal["refuse", "skip"]
Size = int | tuple[int, int]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 64 << 20


def read_image(source: StrPath | bytes, *, size: Size, channels: int) -> Tensor:
    """Read one image file the way `hcnn.data.datasets.load` reads those of a folder.

    Args:
        source: path of a PNG, JPEG or WebP file, or its bytes.
        size: side, or (height, width), that the image is resized to cover and cropped to about its centre.
        channels: 1 for grey or 3 for RGB.

    Returns:
        uint8 tensor (c, height, width).

    Raises:
        ValueError: if it is no image, is truncated, is neither grey nor RGB, or is too large; names the file.
        FileNotFoundError: if there is no such file.
        ImportError: if pillow is not installed.

    """
    pair = height_and_width(size)
    if pair is None or channels not in (1, 3):
        raise ValueError(f"expected a size, and 1 or 3 channels; got size {size!r}, channels {channels!r}")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        return fit(decode(data, upright), pair, channels)
    except ValueError as error:
        raise (error if isinstance(source, bytes) else ValueError(f"{source}: {error}")) from error


def height_and_width(size: Size | None) -> tuple[int, int] | None:
    """A size as (height, width), None as None."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size: expected a positive side or (height, width); got {size!r}")
    return sides[0], sides[1]


def decode(data: bytes, use: "Callable[[Image], T]") -> T:
    """Open an image, judge its header, and return `use(image)`; ValueErrors lack the file's name."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs pillow: pip install pillow") from error
    if not data:
        raise ValueError("expected a PNG, JPEG or WebP image; got an empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that is judged here
        try:
            image: Image.Image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
            if image.width * image.height > MAX_PIXELS:
                raise _Unfit(f"expected at most {MAX_PIXELS:,} pixels; got {image.height} × {image.width}")
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
                raise _Unfit(f"expected grey or RGB pixels of 8 bits; got mode {image.mode}")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise _Unfit(f"expected a still image; got {frames} frames")
            return use(image)
        except _Unfit:
            raise
        except Image.DecompressionBombError as error:
            raise _Unfit(f"expected at most {MAX_PIXELS:,} pixels; {error}") from error
        except Image.UnidentifiedImageError as error:
            raise _Unfit("expected a PNG, JPEG or WebP image; this is none, or its header is cut off") from error
        # On damaged data Pillow's decoders raise OSError, SyntaxError, struct.error, KeyError and more.
        except Exception as error:
            raise _Unfit(f"the image is truncated or corrupt: {error}") from error


class _Unfit(ValueError):
    """An image that this package does not take."""


def _is_grey(image: "Image") -> bool:
    return image.mode in ("1", "L", "LA")


def header(image: "Image") -> tuple[tuple[int, int], bool]:
    """(height, width) once it is upright, and whether it is grey."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width), _is_grey(image)


def upright(image: "Image") -> "Image":
    """The pixels, as grey or RGB, turned as the EXIF orientation says."""
    from PIL import ImageOps

    image.load()
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise _Unfit("expected opaque pixels; some are transparent")
        # An unused transparent colour would make Pillow add an alpha channel, or warn.
        image.info.pop("transparency", None)
    return ImageOps.exif_transpose(image).convert("L" if _is_grey(image) else "RGB")


def fit(image: "Image", size: tuple[int, int], channels: int) -> Tensor:
    """Resize to cover (height, width), crop about the centre, convert."""
    from PIL import Image, ImageOps

    height, width = size
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return torch.tensor(np.asarray(image)).reshape(height, width, channels).permute(2, 0, 1).contiguous()
