"""Opening image files safely and faithfully: the one door from a path to pixels.

The content decides the format, never the extension. Nothing is decoded before its header says
that it is of a sane size. An image stands as people see it: its EXIF orientation is applied, and
sizes and boxes are those of the upright image.
"""

from __future__ import annotations

import contextlib
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

from kit.errors import ImageError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
MAX_PIXELS = 50_000_000
MAX_ASPECT_RATIO = 200  # Qwen2-VL's smart_resize raises above it

_CONVERT = "convert it to PNG or JPEG"
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError)
_DECODING_ERRORS += (struct.error, zlib.error, OverflowError, Image.DecompressionBombError)

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REDUCED, _MASK = 1, 4  # bits of what a TIFF's frame is of another
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # fmt: skip
_LYING = (5, 6, 7, 8)  # width and height change places

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
    *((0, head, "a TIFF of a kind that is not read", _CONVERT) for head in _TIFF_HEADS),
    (4, b"ftyp", "a HEIF or AVIF image or a video", _CONVERT),
    (0, b"<", "a web page or XML", "download the image itself"),
    (0, b"{", "JSON text", "check the path"),
)


def open_image(path: str | Path) -> Image.Image:
    """Decode one image file completely, as an 8-bit RGB PIL image, upright.

    Samples of 16 and 32 bits and floating-point ones are scaled to 0..255 by the image's own
    minimum and maximum (PIL's own conversion clips or cuts silently; pixels that are not finite
    become black). Transparency is composited on black, CMYK, palette and 1-bit images are
    converted. Of a photograph with previews of itself (a camera's JPEG, a TIFF) it is the
    photograph.

    Raises:
        ImageError: missing, a folder, empty, no image (says what it seems to be), truncated,
            more than ``MAX_PIXELS``, an aspect ratio above ``MAX_ASPECT_RATIO``, several frames.
    """
    path = Path(path)
    with _opened(path) as image:
        orientation, deep_colour = _orientation(image), _is_deep_colour(image)
        image.load()
        rgb = _deep_colour(path, image.size) if deep_colour else _to_rgb(image)
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def image_size(path: str | Path) -> tuple[int, int]:
    """``(width, height)`` in pixels of the upright image, read from the header only.

    Raises:
        ImageError: as :func:`open_image`, but damage behind the header stays unseen.
    """
    with _opened(Path(path)) as image:
        return image.size[::-1] if _orientation(image) in _LYING else image.size


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
            # given the path, PIL maps a TIFF that lies on its side with width for height
            with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
                _check_size(image.size, path)
                _seek_whole(image, path)
                yield image
    except UnidentifiedImageError as error:
        raise _not_an_image(path) from error
    except Image.DecompressionBombError as error:
        raise _too_large(f"{re.search(r'[0-9]+', str(error))[0]} pixels", path) from error
    except PermissionError as error:
        raise ImageError("no permission to read", where=path, fix="check its mode") from error
    except _DECODING_ERRORS as error:
        what = f"cannot be decoded: {_reason(error)}"
        raise ImageError(what, where=path, fix="fetch the file again") from error


def _seek_whole(image: Image.Image, path: Path) -> None:
    """Go to the frame that is the image, where all others are previews or masks of it."""
    n_frames = getattr(image, "n_frames", 1)
    if n_frames == 1 or image.format == "MPO":  # a JPEG whose first frame is the image by its rules
        return
    whole = range(n_frames)
    if image.format == "TIFF":
        whole = [frame for frame in whole if not _kind_of(image, frame) & (_REDUCED | _MASK)]
    if len(whole) != 1:
        what = f"holds {n_frames} frames (an animation or a volume), not one image"
        raise ImageError(what, where=path, fix="save the wanted frame as a PNG of its own")
    image.seek(whole[0])
    _check_size(image.size, path)


def _kind_of(image: Image.Image, frame: int) -> int:
    image.seek(frame)
    return _tag(image, ExifTags.Base.NewSubfileType, 0)


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A number of a TIFF's header, the first where there is one a channel."""
    return int(np.ravel(image.tag_v2.get(tag, default))[0])


def _orientation(image: Image.Image) -> int:
    """Which way the stored pixels lie by EXIF (1: upright, 6: turned left, ...). A TIFF is turned
    by PIL itself; a PNG is not decoded to look behind its pixels."""
    if image.format == "TIFF" or not image.info.get("exif"):
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what a camera or an editor has garbled says nothing
        return 1


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether PIL will cut samples of 16 bits to 8: those of 12 bits would come out black."""
    raw = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile[:1]]
    return image.mode in ("RGB", "RGBA", "LA") and ";16" in str(raw)


def _deep_colour(path: Path, size: tuple[int, int]) -> Image.Image:
    """A file of ``size`` that PIL has just decoded, from 16 bits a sample. OpenCV too turns a TIFF
    by itself."""
    samples = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if np.shape(samples) not in ((*size[::-1], 3), (*size[::-1], 4)):
        raise ValueError("16-bit colour of a kind that is not read")
    values = _scaled_to_bytes(samples[..., 2::-1]).astype(np.float64)
    if samples.shape[2] == 4:
        values *= samples[..., 3:] / np.iinfo(samples.dtype).max
    return Image.fromarray(np.rint(values).astype(np.uint8))


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
    if image.format == "TIFF" and image.mode in ("L", "I", "I;16", "I;16B"):
        return Image.fromarray(_tiff_bytes(image)).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scaled_to_bytes(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, layered).convert("RGB")
    return image.convert("RGB")


def _tiff_bytes(image: Image.Image) -> np.ndarray:
    """A TIFF's whole numbers, ``[height, width]``, as 0..255: those that PIL takes for signed or
    for unsigned ones as what they are, and 16 bits of which 0 is white the right way round."""
    values = np.asarray(image)
    signed = _tag(image, ExifTags.Base.SampleFormat, 1) == 2
    if image.mode == "L":
        return values ^ 0x80 if signed else values
    if image.mode == "I" and not signed and _tag(image, ExifTags.Base.BitsPerSample, 1) == 32:
        values = values.view(np.uint32)
    scaled = _scaled_to_bytes(values)
    zero_is_white = _tag(image, ExifTags.Base.PhotometricInterpretation, 1) == 0
    return 255 - scaled if zero_is_white else scaled


def _scaled_to_bytes(values: np.ndarray) -> np.ndarray:
    """Finite values of any shape to 0..255 by their own minimum and maximum.

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
