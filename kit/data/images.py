"""Opening image files safely and faithfully: the one door from a path to pixels.

The content decides the format, never the extension. Nothing is decoded before its header says
that it is of a sane size. An EXIF orientation is not applied: boxes are in stored pixels.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kit.errors import ImageError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
MAX_PIXELS = 50_000_000
MAX_ASPECT_RATIO = 200  # Qwen2-VL's smart_resize raises above it

_CONVERT = "convert it to PNG or JPEG"
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError)
_DECODING_ERRORS += (struct.error, zlib.error, OverflowError, Image.DecompressionBombError)

# What a file that is no image begins with, and what to say of it.
_SIGNATURES = (
    (128, b"DICM", "a DICOM file", "convert it to PNG with its display window applied"),
    (344, b"n+1\0", "a NIfTI volume", "export its slices as PNG"),
    (344, b"ni1\0", "a NIfTI volume", "export its slices as PNG"),
    (0, b"\x1f\x8b", "gzip data (perhaps a NIfTI volume)", "unpack it and export PNG slices"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the real file: git lfs pull"),
    (0, b"%PDF", "a PDF document", "export the image from it"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (4, b"ftyp", "a HEIF or AVIF image or a video", _CONVERT),
    (0, b"<", "a web page or XML", "download the image itself"),
    (0, b"{", "JSON text", "check the path"),
)


def open_image(path: str | Path) -> Image.Image:
    """Decode one image file completely, as an 8-bit RGB PIL image of its stored size.

    16-bit, 32-bit and floating-point greyscale is scaled to 0..255 by the image's own minimum
    and maximum (PIL's own conversion clips silently; pixels that are not finite become black).
    Transparency is composited on black, CMYK, palette and 1-bit images are converted.

    Raises:
        ImageError: missing, a folder, empty, no image (says what it seems to be), truncated,
            more than ``MAX_PIXELS``, an aspect ratio above ``MAX_ASPECT_RATIO``, several frames.
    """
    path = Path(path)
    with _opened(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            what = f"holds {image.n_frames} frames (an animation or a volume), not one image"
            raise ImageError(what, where=path, fix="save the wanted frame as a PNG of its own")
        image.load()
        return _to_rgb(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """``(width, height)`` in pixels, read from the header only.

    Raises:
        ImageError: as :func:`open_image`, but damage behind the header stays unseen.
    """
    with _opened(Path(path)) as image:
        return image.size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.exists():
        raise ImageError("no such image file", where=path, fix="check the path")
    if not path.is_file():
        what = "is a folder, not an image" if path.is_dir() else "is not a regular file"
        raise ImageError(what, where=path, fix="give the path of an image file")
    try:
        if path.stat().st_size == 0:
            raise ImageError("is empty (0 bytes)", where=path, fix="fetch the file again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(path, formats=FORMATS) as image:
                _check_size(image.size, path)
                yield image
    except UnidentifiedImageError as error:
        raise _not_an_image(path) from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), path) from error
    except PermissionError as error:
        raise ImageError("no permission to read", where=path, fix="check its mode") from error
    except _DECODING_ERRORS as error:
        what = f"cannot be decoded: {_reason(error)}"
        raise ImageError(what, where=path, fix="fetch the file again") from error


def _check_size(size: tuple[int, int], path: Path) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"has no pixels: {width}x{height}", where=path, fix="fetch it again")
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width}x{height} pixels", path)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        what = f"is {width}x{height}: an aspect ratio above {MAX_ASPECT_RATIO}"
        raise ImageError(what, where=path, fix="crop or pad the image")


def _too_large(size: str, path: Path) -> ImageError:
    what = f"is too large: {size}, more than {MAX_PIXELS // 1_000_000} megapixels"
    return ImageError(what, where=path, fix="scale it down first")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scaled_to_bytes(np.asarray(image)), mode="L").convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, layered).convert("RGB")
    return image.convert("RGB")


def _scaled_to_bytes(values: np.ndarray) -> np.ndarray:
    """Finite values of ``[height, width]`` to 0..255 by their own minimum and maximum.

    >>> _scaled_to_bytes(np.array([[0, 30000], [60000, 15000]])).tolist()
    [[0, 128], [255, 64]]
    """
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel is a finite number")
    low, high = values[finite].min(), values[finite].max()
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return np.where(finite, np.rint(np.where(finite, scaled, 0)), 0).astype(np.uint8)


def _not_an_image(path: Path) -> ImageError:
    with path.open("rb") as stream:
        head = stream.read(512)
    for offset, signature, name, fix in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return ImageError(f"is not an image but {name}", where=path, fix=fix)
    what = "is not an image of a known format (JPEG, PNG, BMP, TIFF, WEBP, GIF)"
    return ImageError(what, where=path, fix=_CONVERT)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "the file is truncated" if "truncated" in text.lower() else text
