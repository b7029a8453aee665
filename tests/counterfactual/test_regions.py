"""Evidence regions, on random boxes."""

import pytest
from helpers import pixel_boxes
from hypothesis import given

from kit.counterfactual.regions import (
    area_share,
    claimed_region,
    evidence_region,
    mask_of,
    whole_pixels,
)
from kit.data.canvas import Canvas
from kit.data.types import Region

SIZE = (60, 40)
CANVAS = Canvas((SIZE,))


def test_gold_boxes_come_before_claimed_ones():
    gold, claimed = [Region("Liver", (1.5, 2.0, 10.0, 20.9))], [(0, 0, 500, 500)]
    assert evidence_region(gold, claimed, CANVAS) == (((1, 2, 10, 21),), "gold")
    assert evidence_region([], claimed, CANVAS) == (((0, 0, 30, 20),), "claimed")
    assert evidence_region([], [], CANVAS) == ((), None)


@given(pixel_boxes(SIZE, largest=30))
def test_area_share_counts_pixels_once(evidence):
    share = area_share(evidence, CANVAS)
    assert 0 < share <= 1
    assert share == pytest.approx(mask_of(evidence, SIZE).sum() / (SIZE[0] * SIZE[1]))
    assert share <= sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in evidence) / 2400 + 1e-12


def test_boxes_are_grown_to_whole_pixels_inside_the_image():
    assert whole_pixels([(-3, -1, 2.1, 3.0)], SIZE) == ((0, 0, 3, 3),)
    assert whole_pixels([(70, 0, 80, 5)], SIZE) == ()
    assert claimed_region([(999, 999, 1000, 1000)], CANVAS) == ((59, 39, 60, 40),)
