"""Every trap between an image file and its pixels."""

import contextlib
import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from kit.data.images import image_size, open_image
from kit.errors import ImageError


def png_header(width: int, height: int, depth: int = 8, color: int = 0) -> bytes:
    """A PNG of any claimed size in a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_entry(tiff: bytes, tag: int, value: int, new_tag: int, new_value: int) -> bytes:
    """A TIFF with one number of its header exchanged for another."""
    old, new = (struct.pack("<HHII", t, 3, 1, v) for t, v in ((tag, value), (new_tag, new_value)))
    assert tiff.count(old) == 1
    return tiff.replace(old, new)


def frames(*images: tuple[Image.Image, int]) -> bytes:
    """A TIFF of several frames, each of which says what it is of the others (tag 254)."""
    stream = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream, True) as writer:
        for image, kind in images:
            image.save(writer, "TIFF", tiffinfo={254: kind})
            writer.newFrame()
    return stream.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
FRAMES = [NOISE.rotate(90 * turns).convert("P") for turns in range(3)]
BROKEN = {
    "zero bytes": (b"", "is empty"),
    "truncated jpeg": (encoded(NOISE, "JPEG")[:900], "truncated"),
    "truncated png": (encoded(NOISE, "PNG")[:5000], "truncated"),
    "header only": (encoded(NOISE, "PNG")[:40], "decoded|not an image"),
    "huge": (png_header(13000, 13000), "169|13000x13000 pixels"),
    "huge beyond PIL's limit": (png_header(60000, 60000), "too large"),
    "just above the limit": (png_header(10000, 5001), "50 megapixels"),
    "thread-like": (encoded(Image.new("L", (2010, 10)), "PNG"), "aspect ratio"),
    "animated gif": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "frames"),
    "animated webp": (
        encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(90)]),
        "2 frames",
    ),
    "tiff volume": (encoded(NOISE, "TIFF", save_all=True, append_images=[NOISE]), "2 frames"),
    "tiff of two previews": (frames((NOISE, 1), (NOISE.resize((8, 8)), 1)), "2 frames"),
    "tiff of half precision": (
        with_entry(encoded(Image.new("I;16", (4, 4)), "TIFF", tiffinfo={339: 1}), 339, 1, 339, 3),
        "TIFF of a kind",
    ),
    "dicom": (b"\0" * 128 + b"DICM" + b"\2\0" * 60, "DICOM"),
    "nifti": (b"\0" * 344 + b"n+1\0" + b"\0" * 100, "NIfTI"),
    "gzip": (b"\x1f\x8b\x08\0rest", "gzip"),
    "web page": (b"<!doctype html><html>404</html>", "web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "pdf": (b"%PDF-1.7 ", "PDF"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "text": (b"hello", "not an image"),
    "encapsulated postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not an image",
    ),
    "nan tiff": (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name_without_warnings(name, tmp_path):
    content, words = BROKEN[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=words) as caught:
            open_image(path)
    assert caught.value.where == path
    assert caught.value.fix


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such image file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        image_size(tmp_path)


def test_huge_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(9000, 9000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match="too large"):
        open_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_content_decides_the_format_not_the_extension(kind, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(Image.new("RGB", (20, 10), (200, 30, 30)), kind))
    image = open_image(path)
    assert (image.mode, image.size, image_size(path)) == ("RGB", (20, 10), (20, 10))
    assert np.allclose(np.asarray(image)[5, 5], (200, 30, 30), atol=3)


MODES = {
    "cmyk": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
    "cmyk jpeg": (Image.new("CMYK", (8, 8), (255, 255, 0, 0)), "JPEG", (0, 0, 254)),
    "alpha is laid on black": (
        Image.new("RGBA", (8, 8), (200, 100, 50, 128)),
        "PNG",
        (100, 50, 25),
    ),
    "invisible white is black": (Image.new("LA", (8, 8), (255, 0)), "PNG", (0, 0, 0)),
    "grey with alpha": (Image.new("LA", (8, 8), (100, 255)), "PNG", (100, 100, 100)),
    "one bit": (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
    "grey": (Image.new("L", (8, 8), 77), "PNG", (77, 77, 77)),
    "constant 16 bit": (Image.new("I;16", (8, 8), 40000), "PNG", (0, 0, 0)),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_become_these_pixels(name, tmp_path):
    image, kind, expected = MODES[name]
    path = tmp_path / "image.bin"
    path.write_bytes(encoded(image, kind))
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert np.allclose(np.asarray(opened)[4, 4], expected, atol=1), name


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "p.png", transparency=1)
    pixels = np.asarray(open_image(tmp_path / "p.png"))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[1, 1].tolist() == [10, 20, 30]


CAMERA = encoded(NOISE, "MPO", save_all=True, append_images=[NOISE.resize((8, 8))])
PREVIEWS = {
    "camera's jpeg": CAMERA,
    "tiff, preview last": frames((NOISE, 0), (NOISE.resize((8, 8)), 1)),
    "tiff, preview first": frames((NOISE.resize((8, 8)), 1), (NOISE, 0)),
    "tiff with a mask": frames((NOISE, 0), (NOISE.convert("1"), 4)),
}


@pytest.mark.parametrize("name", PREVIEWS)
def test_an_image_with_previews_of_itself_is_the_image(name, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(PREVIEWS[name])
    image = open_image(path)
    assert image_size(path) == image.size
    whole = Image.open(io.BytesIO(encoded(NOISE, "JPEG"))) if path.read_bytes()[0] == 255 else NOISE
    assert np.array_equal(image, whole)


RAMP = np.arange(6, dtype=np.uint16).reshape(2, 3) * 51
TURNED = [RAMP, RAMP[:, ::-1], RAMP[::-1, ::-1], RAMP[::-1]]  # of EXIF's 1, 2, 3, 4
TURNED += [turned.T for turned in (RAMP, RAMP[::-1], RAMP[::-1, ::-1], RAMP[:, ::-1])]
SIDEWAYS = {
    "png": (Image.fromarray(RAMP.astype(np.uint8)), "PNG"),
    "webp": (Image.fromarray(RAMP.astype(np.uint8)), "WEBP"),
    "tiff": (Image.fromarray(RAMP.astype(np.uint8)), "TIFF"),
    "16-bit tiff": (Image.fromarray(RAMP), "TIFF"),
    "16-bit colour tiff": (None, "TIFF"),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", SIDEWAYS)
def test_an_image_stands_as_its_orientation_says(name, orientation, tmp_path):
    image, kind = SIDEWAYS[name]
    if image is None:
        deep = cv2.imencode(".tiff", np.repeat(RAMP[..., None] * 16, 3, -1))[1].tobytes()
        content = with_entry(deep, 284, 1, 274, orientation)
    elif kind == "TIFF":
        content = encoded(image, kind, tiffinfo={274: orientation})
    else:
        exif = Image.Exif()
        exif[274] = orientation
        content = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "image"
    path.write_bytes(content)
    expected = TURNED[orientation - 1]
    assert np.array_equal(np.asarray(open_image(path))[..., 0], expected)
    assert image_size(path) == expected.shape[::-1]


@pytest.mark.parametrize("exif", [b"Exif\0\0garbled", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3"])
def test_an_orientation_that_cannot_be_read_is_none(exif, tmp_path):
    NOISE.save(tmp_path / "image.jpg", exif=exif)
    assert open_image(tmp_path / "image.jpg").size == image_size(tmp_path / "image.jpg") == (64, 64)


DEEP = np.array([[0, 1365, 4095]], dtype=np.uint16)  # 12 bits in 16
WIDE = np.array([[0, 2**30, 3 * 2**30]], dtype=np.uint32)
TIFFS = {
    "0 is white": (
        with_entry(encoded(Image.fromarray(DEEP), "TIFF"), 262, 1, 262, 0), [255, 170, 0],
    ),
    "unsigned 32 bits": (
        with_entry(encoded(Image.fromarray(WIDE.view(np.int32)), "TIFF"), 339, 2, 339, 1),
        [0, 85, 255],
    ),
    "signed 8 bits": (
        encoded(Image.fromarray(np.array([[128, 0, 127]], np.uint8)), "TIFF", tiffinfo={339: 2}),
        [0, 128, 255],
    ),
    "colour tiff": (cv2.imencode(".tiff", np.stack([DEEP] * 3, -1))[1], [0, 85, 255]),
    "colour png": (cv2.imencode(".png", np.stack([DEEP] * 3, -1))[1], [0, 85, 255]),
    "half transparent": (
        cv2.imencode(".png", np.stack([DEEP] * 3 + [np.full_like(DEEP, 32768)], -1))[1],
        [0, 43, 128],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIFFS)
def test_what_pil_would_cut_wrap_or_turn_is_what_it_is(name, tmp_path):
    content, expected = TIFFS[name]
    (tmp_path / "image").write_bytes(bytes(content))
    pixels = np.asarray(open_image(tmp_path / "image"))
    assert pixels[0].tolist() == [[value] * 3 for value in expected]


def test_the_channels_of_deep_colour_keep_their_order(tmp_path):
    colours = np.array([[[0, 1365, 4095]]], dtype=np.uint16)  # blue, green, red
    (tmp_path / "image").write_bytes(cv2.imencode(".png", colours)[1])
    assert np.asarray(open_image(tmp_path / "image"))[0, 0].tolist() == [255, 85, 0]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 65535), min_size=2, max_size=12).filter(lambda v: len(set(v)) > 1),
    st.sampled_from(["PNG", "TIFF", "float TIFF", "big-endian TIFF"]),
)
def test_sixteen_bit_is_scaled_by_its_own_range(tmp_path_factory, values, kind):
    path = tmp_path_factory.mktemp("deep") / "deep.img"
    if kind == "float TIFF":
        image = Image.fromarray(np.array([values], dtype=np.float32) / 7)
    elif kind == "big-endian TIFF":
        image = Image.frombytes("I;16B", (len(values), 1), np.array(values, dtype=">u2").tobytes())
    else:
        image = Image.fromarray(np.array([values], dtype=np.uint16))
    path.write_bytes(encoded(image, kind.split()[-1]))
    low, high = min(values), max(values)
    expected = [(v - low) * 255 / (high - low) for v in values]
    pixels = np.asarray(open_image(path))
    assert np.abs(pixels[0, :, 0] - np.array(expected)).max() <= 0.501
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_pixels_that_are_not_finite_become_black(tmp_path):
    values = np.array([[1.0, 2.0, np.inf, np.nan, 3.0]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "f.tiff")
    assert np.asarray(open_image(tmp_path / "f.tiff"))[0, :, 0].tolist() == [0, 128, 0, 0, 255]


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from(
        [b"", *(encoded(NOISE, k)[:200] for k in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"))]
    ),
)
def test_no_bytes_raise_anything_else(tmp_path_factory, noise, head):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(head + noise)
    with contextlib.suppress(ImageError):
        assert open_image(path).mode == "RGB"


def test_every_real_image_opens_at_its_stored_size(realdata):
    paths = sorted(realdata.rglob("*.jpg"))
    assert len(paths) == 76
    for path in paths:
        assert open_image(path).size == image_size(path)
