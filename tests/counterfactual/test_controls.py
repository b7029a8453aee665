"""Controls differ from the evidence in place alone: what a model would gain that reacts to how much
of an image changes, and to nothing else."""

import itertools

import numpy as np
import pytest
from helpers import pixel_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.counterfactual.controls import (
    BLACK,
    CHANGE_TOLERANCE,
    MEAN_TOLERANCE,
    SHARE_TOLERANCE,
    Content,
    body_of,
)
from kit.counterfactual.images import ImageCache
from kit.counterfactual.regions import mask_of, whole_pixels
from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.questions import RawQuestion
from kit.data.slake import read_slake
from kit.report.statistics import mean_interval

SIZE = (60, 40)


def noise(width: int, height: int, low: int = 60) -> np.ndarray:
    rng = np.random.default_rng(width)
    return rng.integers(low, low + 80, (height, width, 3), dtype=np.uint8)


NOISE = Content(noise(*SIZE))


def neighbourhood(region, size) -> np.ndarray:
    """The region and the pixels next to it, corners too."""
    taken = mask_of(region, size)
    grown = np.zeros((size[1] + 2, size[0] + 2), dtype=bool)
    for dy, dx in itertools.product(range(3), range(3)):
        grown[dy : dy + size[1], dx : dx + size[0]] |= taken
    return grown[1:-1, 1:-1]


def check(found, evidence, size) -> None:
    taken, near = mask_of(evidence, size), neighbourhood(evidence, size)
    shapes = sorted((x2 - x1, y2 - y1) for x1, y1, x2, y2 in evidence)
    for region in found:
        assert all(0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1] for x1, y1, x2, y2 in region)
        mask = mask_of(region, size)
        assert mask.sum() == taken.sum()
        assert not (mask & near).any()
        assert sorted((x2 - x1, y2 - y1) for x1, y1, x2, y2 in region) == shapes
    assert len(set(found)) == len(found)


@settings(max_examples=30, deadline=None)
@given(pixel_boxes(SIZE, smallest=2, largest=14), st.integers(0, 2**32))
def test_controls_have_the_same_area_inside_the_image_and_touch_nothing(evidence, seed):
    found = NOISE.controls(evidence, draws=3, rng=np.random.default_rng(seed))
    check(found, evidence, SIZE)


def test_in_a_large_image_too():
    """Which is looked at in a smaller size, and where that is no whole fraction of it."""
    size = (913, 701)
    content = Content(noise(*size))
    for evidence in ([(300, 200, 420, 333)], [(0, 0, 90, 41), (700, 600, 913, 701)]):
        found = content.controls(evidence, draws=4, rng=np.random.default_rng(2))
        assert len(found) == 4
        check(found, evidence, size)


def test_overlapping_boxes_keep_their_arrangement():
    """A lesion within its organ is moved with it."""
    evidence = ((2, 2, 12, 12), (4, 4, 6, 6), (20, 30, 25, 35))
    found = NOISE.controls(evidence, draws=5, rng=np.random.default_rng(0))
    assert len(found) == 5
    for region in found:
        organ = next(b for b in region if b[2] - b[0] == 10)
        lesion = next(b for b in region if b[2] - b[0] == 2)
        assert (lesion[0] - organ[0], lesion[1] - organ[1]) == (2, 2)


def test_nothing_matches_what_covers_most_of_the_image():
    assert NOISE.controls([(0, 0, 40, 40)], draws=3, rng=np.random.default_rng(0)) == ()
    assert NOISE.controls([], draws=3, rng=np.random.default_rng(0)) == ()


def test_air_is_no_control_of_tissue():
    """Half of the image is tissue, the rest is air with as much noise, so that as much is changed
    by taking out a part of either; there is room in both."""
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[:, 40:] = noise(40, 80)[..., :1]
    pixels[:, :38][np.random.default_rng(0).random((80, 38)) < 0.5] = 45
    content = Content(pixels)
    for seed in range(20):
        found = content.controls([(60, 30, 70, 40)], draws=2, rng=np.random.default_rng(seed))
        assert len(found) == 2
        assert all(box[0] >= 39 for (box,) in found)
    tissue = [(40, y, 80, y + 20) for y in range(0, 80, 20)]
    assert content.controls(tissue[:3], draws=2, rng=np.random.default_rng(0)) == ()


def test_what_changes_much_is_not_compared_with_what_changes_little():
    """One bright thing on even ground, and the same with a second one elsewhere."""
    pixels = np.full((60, 60, 3), 90, np.uint8) + noise(60, 60, 0) // 40
    pixels[10:20, 10:20] = 230
    evidence, rng = [(9, 9, 21, 21)], np.random.default_rng(0)
    assert Content(pixels).controls(evidence, draws=2, rng=rng) == ()
    pixels[40:50, 30:40] = 230
    ((box,), *_) = Content(pixels).controls(evidence, draws=2, rng=rng)
    assert abs(box[0] - 29) <= 2
    assert abs(box[1] - 39) <= 2


def test_no_control_touches_what_is_to_be_avoided():
    avoid = [(0, 0, 60, 20)]
    found = NOISE.controls([(5, 30, 15, 36)], draws=4, rng=np.random.default_rng(0), avoid=avoid)
    assert len(found) == 4
    assert all(box[1] > 20 for (box,) in found)


def test_the_body_is_the_largest_thing_and_all_within_its_outline():
    scan = np.zeros((50, 60))
    scan[5:45, 10:50], scan[15:30, 20:30], scan[47:49, :] = 90, 3, 120  # a lung, and the table
    body = body_of(scan)
    assert body.sum() == 40 * 40
    assert body[20, 25]
    assert not body[48].any()
    assert not body_of(np.zeros((5, 5))).any()


def test_the_same_claim_meets_the_same_controls(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(noise(*SIZE)).save(path)
    claim = ((1, 1, 9, 9),)

    def controls(seed):
        return ImageCache(None).controls(str(path), claim, draws=2, seed=seed)

    assert controls(0) == controls(0)
    assert len({controls(seed) for seed in range(3)}) == 3


# --------------------------------------------------------------- what a biased measure would say
class Scans:
    """Evidence of the questions about some scans, its controls, and those of the old rule: the
    same shape anywhere in the image."""

    def __init__(self, rows):
        self.cache, self.rng = ImageCache(None), np.random.default_rng(0)
        self.rows, self.unmatched = [], []
        for row in {(r.image, r.evidence): r for r in rows if r.evidence}.values():
            region = whole_pixels([r.box_xyxy_pixels for r in row.evidence], row.image_size)
            path = str(row.image)
            found = self.cache.controls(path, region, draws=2, seed=0)
            (self.rows if found else self.unmatched).append((row, path, region, found))

    def anywhere(self, region, size):
        left, top = min(b[0] for b in region), min(b[1] for b in region)
        right, bottom = max(b[2] for b in region), max(b[3] for b in region)
        dx = int(self.rng.integers(0, size[0] - right + left + 1)) - left
        dy = int(self.rng.integers(0, size[1] - bottom + top + 1)) - top
        return tuple((x1 + dx, y1 + dy, x2 + dx, y2 + dy) for x1, y1, x2, y2 in region)

    def black(self, path, region) -> float:
        grey = self.cache._open(path).mean(axis=2)
        return float((grey[mask_of(region, grey.shape[::-1])] < BLACK).mean())

    def total_change(self, row, path, region) -> float:
        """Of the whole image: all that the stub sees."""
        share = mask_of(region, row.image_size).mean()
        return self.cache.change(path, region) * share

    def gap(self, controls_of) -> tuple[float, float, float]:
        """The flip gap of a stub that answers otherwise whenever an image has changed by more than
        half of the evidence does, with its interval over images."""
        changed = [self.total_change(row, path, region) for row, path, region, _ in self.rows]
        limit = np.median(changed)
        gaps = []
        for entry, own in zip(self.rows, changed, strict=True):
            others = [self.total_change(*entry[:2], other) > limit for other in controls_of(entry)]
            gaps.append(float(own > limit) - np.mean(others))
        interval = mean_interval(gaps, [entry[1] for entry in self.rows], (-1.0, 1.0))
        return float(np.mean(gaps)), *interval


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    write_slake_phantoms(root, images={"test": 40}, seed=5)
    return Scans(read_slake(root, "test")[0])


@pytest.mark.slow
def test_who_answers_by_the_amount_of_change_has_no_gap(phantoms):
    """With the old rule the same stub would pass for a faithful model."""
    gap, low, high = phantoms.gap(lambda entry: entry[3])
    old, old_low, _ = phantoms.gap(
        lambda entry: [phantoms.anywhere(entry[2], entry[0].image_size) for _ in range(2)]
    )
    print(f"gap {gap:.3f} [{low:.3f}, {high:.3f}], by the old rule {old:.3f}")
    assert low <= 0 <= high
    assert old_low > 0


@pytest.mark.slow
def test_controls_are_as_tolerances_say(phantoms):
    assert len(phantoms.rows) > 25
    for row, path, region, found in phantoms.rows:
        own = phantoms.cache.change(path, region)
        changes = [phantoms.cache.change(path, other) for other in found]
        assert max(changes) + 1 <= (own + 1) * CHANGE_TOLERANCE * 1.001
        assert min(changes) + 1 >= (own + 1) / CHANGE_TOLERANCE / 1.001
        assert abs(np.mean(np.log(np.add(changes, 1) / (own + 1)))) <= np.log(MEAN_TOLERANCE) + 1e-6
        body = body_of(phantoms.cache._open(path).astype(np.float32).mean(axis=2))
        for other in found:
            shares = [body[mask_of(r, row.image_size)].mean() for r in (region, other)]
            assert abs(shares[0] - shares[1]) <= SHARE_TOLERANCE + 1e-6
            assert abs(phantoms.black(path, region) - phantoms.black(path, other)) <= 0.1 + 1e-6


@pytest.mark.slow
def test_on_real_scans(realdata):
    """Near-black pixels within 10 points and change within 25%, by modality; and the stub."""
    every = [
        r
        for split in ("train", "validate", "test")
        for r in read_slake(realdata / "SLAKE", split)[0]
    ]
    scans = Scans([row for row in every if isinstance(row, RawQuestion)])
    for modality in ("CT", "MRI", "X-Ray"):
        own = [entry for entry in scans.rows if entry[0].modality == modality]
        left_out = sum(row.modality == modality for row, *_ in scans.unmatched)
        black, change = (
            np.transpose(
                [
                    (
                        (scans.black(path, region), np.mean([scans.black(path, o) for o in found])),
                        (
                            scans.cache.change(path, region),
                            np.mean([scans.cache.change(path, o) for o in found]),
                        ),
                    )
                    for _, path, region, found in own
                ]
            )
            .mean(axis=-1)
            .T
        )
        print(
            f"{modality}: {len(own)} matched, {left_out} not; near-black {black}; change {change}"
        )
        assert len(own) >= 5
        assert abs(black[0] - black[1]) < 0.1
        assert abs(change[0] / change[1] - 1) < 0.25
    gap, low, high = scans.gap(lambda entry: entry[3])
    assert low <= 0 <= high, gap
