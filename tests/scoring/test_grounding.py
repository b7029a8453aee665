"""Box scores against counting pixels."""

import random

import numpy as np
import pytest

from kit.data.boxes import pixels_to_grid
from kit.data.canvas import Canvas
from kit.scoring.grounding import grounding_scores, iou, union_iou

SIDE = 40


def random_boxes(draw: random.Random, count: int, side: int = SIDE) -> list[tuple[int, ...]]:
    boxes = []
    for _ in range(count):
        x1, x2 = sorted(draw.sample(range(side + 1), 2))
        y1, y2 = sorted(draw.sample(range(side + 1), 2))
        boxes.append((x1, y1, x2, y2))
    return boxes


def paint(boxes) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE), dtype=int)
    for y in range(SIDE):
        for x in range(SIDE):
            canvas[y, x] = any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in boxes)
    return canvas


def test_union_iou_counts_pixels():
    draw = random.Random(1)
    for _ in range(150):
        one, two = random_boxes(draw, draw.randint(1, 5)), random_boxes(draw, draw.randint(1, 5))
        first, second = paint(one), paint(two)
        expected = (first * second).sum() / ((first + second) > 0).sum()
        assert union_iou(one, two) == pytest.approx(expected, abs=1e-12)
        assert union_iou(two, one) == pytest.approx(expected, abs=1e-12)


def test_iou_of_two_is_the_union_s():
    draw = random.Random(2)
    for _ in range(500):
        one, two = random_boxes(draw, 2)
        assert iou(one, two) == pytest.approx(union_iou([one], [two]), abs=1e-12)
        assert iou(one, one) == 1


def test_repeating_and_splitting_change_no_union():
    draw = random.Random(3)
    for _ in range(100):
        (x1, y1, x2, y2), *others = random_boxes(draw, 4)
        middle = draw.uniform(x1, x2)
        parts = [(x1, y1, middle, y2), (middle, y1, x2, y2), (x1, y1, x2, y2)]
        expected = union_iou([(x1, y1, x2, y2)], others)
        assert union_iou(parts, others) == pytest.approx(expected, abs=1e-9)


def test_grid_boxes_are_compared_in_pixels():
    """On an image that is twice as wide as high; box by box, as loops."""
    size = (2000, 1000)
    draw = random.Random(4)
    for _ in range(200):
        claimed = random_boxes(draw, draw.randint(1, 4), side=1000)
        gold = random_boxes(draw, draw.randint(1, 3), side=1000)
        scores = grounding_scores(claimed, gold, Canvas((size,)))
        fits, inside = [], 0
        for x1, y1, x2, y2 in claimed:
            best = 0.0
            hit = False
            for gx1, gy1, gx2, gy2 in gold:
                width = min(2 * x2, gx2) - max(2 * x1, gx1)
                height = min(y2, gy2) - max(y1, gy1)
                common = width * height if width > 0 and height > 0 else 0
                area = 2 * (x2 - x1) * (y2 - y1) + (gx2 - gx1) * (gy2 - gy1) - common
                best = max(best, common / area)
                hit = hit or (gx1 <= x1 + x2 <= gx2 and gy1 <= (y1 + y2) / 2 <= gy2)
            fits.append(best)
            inside += hit
        assert scores.box_iou == pytest.approx(sum(fits) / len(fits))
        assert scores.pointing == pytest.approx(inside / len(claimed))
        assert scores.iou == pytest.approx(
            union_iou([(2 * a, b, 2 * c, d) for a, b, c, d in claimed], gold)
        )
        assert scores.acc_at_half == float(scores.iou >= 0.5)


def test_the_gold_boxes_themselves_score_one():
    draw = random.Random(5)
    for _ in range(100):
        size = (draw.randint(200, 900), draw.randint(200, 900))
        gold = random_boxes(draw, 3, side=200)
        claimed = [tuple(pixels_to_grid(box, size)) for box in gold]
        big = [b for b in gold if min(b[2] - b[0], b[3] - b[1]) >= 20]
        if len(big) == 3:
            scores = grounding_scores(claimed, gold, Canvas((size,)))
            assert scores.iou > 0.85
            assert scores.box_iou > 0.85
            assert scores.acc_at_half == scores.pointing == 1


def test_claiming_everything_or_one_of_two():
    gold = [(0, 0, 10, 10), (90, 90, 100, 100)]
    everything = grounding_scores([(0, 0, 1000, 1000)], gold, Canvas(((100, 100),)))
    assert everything.iou == pytest.approx(0.02)
    assert everything.box_iou == pytest.approx(0.01)
    assert everything.pointing == 0
    one = grounding_scores([(0, 0, 100, 100)] * 3, gold, Canvas(((100, 100),)))
    assert one.iou == pytest.approx(0.5)  # the other gold box is missed
    assert one.box_iou == one.pointing == 1


def test_half_is_a_hit():
    scores = grounding_scores([(0, 0, 500, 1000)], [(0, 0, 100, 100)], Canvas(((100, 100),)))
    assert scores.iou == scores.box_iou == 0.5
    assert scores.acc_at_half == 1


def test_the_unit_does_not_matter():
    one, two = [(0.0, 0.0, 0.2, 0.1)], [(0.1, 0.0, 0.3, 0.1)]
    assert union_iou(one, two) == pytest.approx(1 / 3)
    assert iou(one[0], two[0]) == pytest.approx(1 / 3)


def test_nothing_claimed_scores_zero_and_nothing_to_find_is_refused():
    assert set(grounding_scores([], [(0, 0, 1, 1)], Canvas(((10, 10),))).to_json().values()) == {
        0.0
    }
    with pytest.raises(ValueError, match="no grounding"):
        grounding_scores([(0, 0, 1, 1)], [], Canvas(((10, 10),)))


def test_empty_areas():
    assert iou((0, 0, 0, 5), (0, 0, 0, 5)) == 0
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert union_iou([(0, 0, 0, 5)], [(0, 0, 0, 5)]) == 0
    assert union_iou([], []) == 0
    assert iou((5, 5, 0, 0), (0, 0, 5, 5)) == 0
