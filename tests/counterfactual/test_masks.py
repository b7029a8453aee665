"""Regions that are no boxes: pixels of a shape, and that shape elsewhere."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kit.counterfactual.controls import RING
from kit.counterfactual.masks import MaskContent, _sums, boxes_of
from kit.counterfactual.regions import mask_of


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_boxes_fill_a_mask_and_do_not_overlap(mask):
    boxes = boxes_of(mask)
    assert np.array_equal(mask_of(boxes, mask.shape[::-1]), mask)
    assert sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes) == mask.sum()


def test_sums_are_those_of_a_shape_at_each_place():
    rng = np.random.default_rng()
    values, shape = rng.random((30, 40)), (rng.random((13, 9)) < 0.5).astype(float)
    plain = [[(values[y : y + 13, x : x + 9] * shape).sum() for x in range(32)] for y in range(18)]
    assert np.allclose(_sums(values, shape), plain)


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: size[1], : size[0]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_controls_are_the_shape_elsewhere_and_touch_nothing():
    rng, size = np.random.default_rng(0), (90, 70)
    pixels = np.repeat(rng.integers(60, 140, (70, 90, 1), dtype=np.uint8), 3, axis=2)
    mask = disc(size, 20, 20, 8) | disc(size, 60, 40, 5)
    region = boxes_of(mask)
    found = MaskContent(pixels).controls(region, draws=3, rng=rng, avoid=[(0, 50, 90, 70)])
    assert len(found) == 3
    near = np.logical_or.reduce([np.roll(mask, (y, x), (0, 1)) for y, x in np.ndindex(3, 3)])
    for control in found:
        taken = mask_of(control, size)
        assert taken.sum() == mask.sum()
        assert not (np.roll(taken, (1, 1), (0, 1)) & near).any()
        assert not taken[50:].any()
        assert pieces(taken) == pieces(mask)


def pieces(mask: np.ndarray) -> list[list]:
    """What hangs together, each cut out, the largest first."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    cut = [
        (parts[y : y + h, x : x + w] == n).tolist()
        for n, (x, y, w, h, _) in enumerate(stats.tolist()[1:], start=1)
    ]
    assert len(cut) == count - 1
    return sorted(cut, key=lambda piece: -np.sum(piece))


def test_a_shape_is_matched_by_what_it_holds_and_is_contrasted_with():
    """Two bright discs on even ground, and a square as bright: the other disc is the one match."""
    pixels = np.full((80, 90, 3), 90, np.uint8)
    discs = [disc((90, 80), 20, 20, 7), disc((90, 80), 65, 55, 7)]
    for each in discs:
        pixels[each] = 220
    grown = disc((90, 80), 20, 20, 7 + RING)
    (control,) = MaskContent(pixels).controls(
        boxes_of(grown), draws=1, rng=np.random.default_rng(0)
    )
    taken = mask_of(control, (90, 80))
    assert (taken & discs[1]).sum() > 0.9 * discs[1].sum()
