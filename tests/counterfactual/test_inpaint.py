"""Inpainting takes what is in the boxes away, and nothing else."""

import cv2
import numpy as np
import pytest
from PIL import Image

from kit.counterfactual.images import ImageCache
from kit.counterfactual.inpaint import METHODS, inpaint
from kit.counterfactual.regions import mask_of

BOXES = ((10, 12, 22, 30), (18, 20, 40, 26))


@pytest.fixture
def pixels():
    """Smooth ground with a bright thing in the first box."""
    rng = np.random.default_rng()
    ground = np.full((50, 60, 3), 90, np.uint8) + rng.integers(0, 4, (50, 60, 3)).astype(np.uint8)
    ground[14:28, 12:20] = 240
    return ground


@pytest.mark.parametrize("method", METHODS)
def test_outside_the_boxes_nothing_changes(pixels, method):
    before = pixels.copy()
    after = inpaint(pixels, BOXES, method)
    outside = ~mask_of(BOXES, (60, 50))
    assert np.array_equal(after[outside], before[outside])
    assert np.array_equal(pixels, before), "the image itself was changed"
    assert after.dtype == np.uint8
    assert after.shape == pixels.shape


@pytest.mark.parametrize("method", METHODS)
def test_the_bright_thing_is_gone(pixels, method):
    inside = inpaint(pixels, BOXES, method)[14:28, 12:20].astype(float)
    assert inside.mean() < (150 if method == "blur" else 110)
    assert inside.max() < 240


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_wide_blur_is_that_of_the_whole_image(share):
    """OpenCV's in floating point: made on a smaller copy it differs by two grey levels at most."""
    rng = np.random.default_rng()
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (240, 180), interpolation=cv2.INTER_CUBIC)
    box = (12, 9, 12 + round(200 * share), 9 + round(160 * share))
    sigma = max(box[2] - box[0], box[3] - box[1]) / 2
    exact = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
    apart = np.abs(inpaint(image, [box], "blur") - exact)[mask_of([box], (240, 180))]
    assert apart.mean() < 1
    assert apart.max() < 2.5


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_large_images_and_whole_images(method):
    rng = np.random.default_rng()
    large = rng.integers(0, 255, (900, 1400, 3), dtype=np.uint8)
    box = (100, 200, 500, 700)
    after = inpaint(large, [box], method)
    outside = ~mask_of([box], (1400, 900))
    assert np.array_equal(after[outside], large[outside])
    assert not np.array_equal(after, large)
    small = large[:20, :20]
    assert inpaint(small, [(0, 0, 20, 20)], method).shape == small.shape


@pytest.mark.parametrize("method", ["telea", "ns"])
@pytest.mark.parametrize("colour", ["none", "near", "far"])
def test_a_grey_part_is_filled_as_opencv_fills_three_channels(pixels, method, colour):
    image = np.repeat(pixels[..., :1], 3, axis=2)
    if colour != "none":
        image[(31, 12) if colour == "near" else (45, 55)] = (250, 20, 90)
    hole = mask_of(BOXES, (60, 50))
    flag = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[method]
    whole = cv2.inpaint(image, hole.astype(np.uint8), 3, flag)
    assert np.array_equal(inpaint(image, BOXES, method), np.where(hole[..., None], whole, image))


def test_nothing_to_take_away_is_a_copy(pixels):
    after = inpaint(pixels, [])
    assert np.array_equal(after, pixels)
    assert after is not pixels
    with pytest.raises(ValueError, match="telea, ns, blur, mean"):
        inpaint(pixels, BOXES, "magic")


def test_gallery_prepares_each_image_once_and_keeps_what_was_asked(processor, pixels, tmp_path):
    path = tmp_path / "xmlab1" / "source.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    image_cache = ImageCache(processor, "mean", tmp_path / "kept")
    whole, without = image_cache.prepared(str(path)), image_cache.prepared(str(path), BOXES)
    assert image_cache.prepared(str(path)) is whole
    assert image_cache.prepared(str(path), BOXES) is without
    assert whole.key != without.key
    assert image_cache.size(str(path)) == (60, 50)
    (kept,) = (tmp_path / "kept").iterdir()
    assert np.array_equal(np.asarray(Image.open(kept)), inpaint(pixels, BOXES, "mean"))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_a_part_of_a_large_image_is_left(method):
    """Which OpenCV fills at a smaller size: the rim of the part too."""
    large = np.full((900, 1301, 3), 50, np.uint8)
    box = (101, 203, 142, 267)
    large[box[1] : box[3], box[0] : box[2]] = 255
    after = inpaint(large, [box], method)
    if method == "blur":  # keeps what is coarse
        assert after.max() < 200
    else:
        assert after.max() < 60
