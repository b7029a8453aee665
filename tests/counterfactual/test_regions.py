"""Evidence regions and their random matches, on random boxes."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kit.counterfactual.images import random_matches
from kit.counterfactual.regions import (
    area_share,
    claimed_region,
    evidence_region,
    mask_of,
    matched_regions,
    whole_pixels,
)

SIZE = (60, 40)


@st.composite
def boxes(draw, most=4, largest=16):
    result = []
    for _ in range(draw(st.integers(1, most))):
        width, height = draw(st.integers(1, largest)), draw(st.integers(1, largest))
        x, y = draw(st.integers(0, SIZE[0] - width)), draw(st.integers(0, SIZE[1] - height))
        result.append((x, y, x + width, y + height))
    return tuple(dict.fromkeys(result))


@given(boxes(), st.integers(0, 2**32))
def test_matches_have_the_same_area_inside_the_image_and_touch_nothing(evidence, seed):
    found = matched_regions(evidence, SIZE, draws=3, rng=np.random.default_rng(seed))
    taken = mask_of(evidence, SIZE)
    grown = np.zeros((SIZE[1] + 2, SIZE[0] + 2), dtype=bool)  # the evidence and its neighbours
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            grown[dy : dy + SIZE[1], dx : dx + SIZE[0]] |= taken
    for region in found:
        assert all(0 <= x1 < x2 <= SIZE[0] and 0 <= y1 < y2 <= SIZE[1] for x1, y1, x2, y2 in region)
        mask = mask_of(region, SIZE)
        assert mask.sum() == taken.sum()
        assert not (mask & grown[1:-1, 1:-1]).any()
        shapes = sorted((x2 - x1, y2 - y1) for x1, y1, x2, y2 in region)
        assert shapes == sorted((x2 - x1, y2 - y1) for x1, y1, x2, y2 in evidence)


def test_overlapping_boxes_keep_their_arrangement():
    """A lesion within its organ is moved with it."""
    evidence = ((2, 2, 12, 12), (4, 4, 6, 6), (20, 30, 25, 35))
    for region in matched_regions(evidence, SIZE, draws=5, rng=np.random.default_rng(0)):
        organ = next(b for b in region if b[2] - b[0] == 10)
        lesion = next(b for b in region if b[2] - b[0] == 2)
        assert (lesion[0] - organ[0], lesion[1] - organ[1]) == (2, 2)


def touches(first, second) -> bool:
    """Whether two boxes share a pixel, or two of their pixels are neighbours, corners too."""
    across = first[0] <= second[2] and second[0] <= first[2]
    return across and first[1] <= second[3] and second[1] <= first[3]


def places_of(box, taken, size) -> set:
    """Every place of a box in an image where it touches nothing of what is taken, one by one."""
    width, height = box[2] - box[0], box[3] - box[1]
    places = itertools.product(range(size[0] - width + 1), range(size[1] - height + 1))
    moved = {(x, y, x + width, y + height) for x, y in places}
    return {place for place in moved if not any(touches(place, other) for other in taken)}


@pytest.mark.parametrize(
    ("evidence", "size"),
    [
        ((8, 5, 13, 9), (22, 16)),  # in the middle: places all around it
        ((0, 0, 3, 6), (12, 9)),  # in a corner
        ((0, 2, 14, 4), (14, 9)),  # right across: above it there is none
        ((3, 0, 5, 1), (8, 1)),  # of a single row
    ],
)
def test_every_free_place_is_hit_and_equally_often(evidence, size):
    free = places_of(evidence, [evidence], size)
    rng = np.random.default_rng(3)
    draws = 40 * len(free)
    found = matched_regions([evidence], size, draws=draws, rng=rng)
    counts = Counter(region for (region,) in found)
    assert counts.keys() == free
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_every_arrangement_of_two_boxes_is_hit():
    """They touch neither the evidence nor each other; one may lie where the other had a place."""
    evidence, size = [(0, 0, 2, 1), (3, 0, 4, 1)], (13, 2)
    wide, small = (places_of(box, evidence, size) for box in evidence)
    free = {pair for pair in itertools.product(wide, small) if not touches(*pair)}
    assert len(free) > 100
    found = matched_regions(evidence, size, draws=5000, rng=np.random.default_rng(5))
    assert {tuple(sorted(region, key=lambda b: b[0] - b[2])) for region in found} == free


def test_each_draw_is_another_one():
    """The matches of one claim are drawn apart: of 200 pairs few are equal."""
    equal = 0
    for seed in range(200):
        first, second = matched_regions(
            [(8, 5, 13, 9)], (22, 16), draws=2, rng=np.random.default_rng(seed)
        )
        equal += first == second
    assert equal < 12  # of 120 places


def test_what_covers_most_of_the_image_has_no_match():
    assert matched_regions([(0, 0, 40, 40)], SIZE, draws=3, rng=np.random.default_rng(0)) == []
    assert matched_regions([], SIZE, draws=3, rng=np.random.default_rng(0)) == []


def test_the_same_claim_meets_the_same_matches():
    claim = ((1, 1, 9, 9),)
    seed = (0, "SLAKE", "7", "What?")
    assert random_matches(claim, SIZE, draws=2, seed=seed) == random_matches(
        claim, SIZE, draws=2, seed=seed
    )
    others = {
        random_matches(claim, SIZE, draws=2, seed=other)
        for other in (seed, (1, *seed[1:]), (0, "SLAKE", "8", "What?"))
    }
    assert len(others) == 3


def test_gold_boxes_come_before_claimed_ones():
    gold, claimed = [(1.5, 2.0, 10.0, 20.9)], [(0, 0, 500, 500)]
    assert evidence_region(gold, claimed, SIZE) == (((1, 2, 10, 21),), "gold")
    assert evidence_region([], claimed, SIZE) == (((0, 0, 30, 20),), "claimed")
    assert evidence_region([], [], SIZE) == ((), None)


@given(boxes(largest=30))
def test_area_share_counts_pixels_once(evidence):
    share = area_share(evidence, SIZE)
    assert 0 < share <= 1
    assert share == pytest.approx(mask_of(evidence, SIZE).sum() / (SIZE[0] * SIZE[1]))
    assert share <= sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in evidence) / 2400 + 1e-12


def test_boxes_are_grown_to_whole_pixels_inside_the_image():
    assert whole_pixels([(-3, -1, 2.1, 3.0)], SIZE) == ((0, 0, 3, 3),)
    assert whole_pixels([(70, 0, 80, 5)], SIZE) == ()
    assert claimed_region([(999, 999, 1000, 1000)], SIZE) == ((59, 39, 60, 40),)
