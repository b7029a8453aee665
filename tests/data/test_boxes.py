"""Boxes between pixels and the 0..1000 grid."""

from hypothesis import given
from hypothesis import strategies as st

from kit.data.boxes import GRID, grid_to_pixels, pixels_to_grid, xywh_to_xyxy

SIDES = st.integers(1, 5000)


@st.composite
def boxes_in_images(draw):
    width, height = draw(SIDES), draw(SIDES)
    xs = sorted(draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    ys = sorted(draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    return (xs[0], ys[0], xs[1], ys[1]), (width, height)


@given(boxes_in_images())
def test_round_trip_is_within_one_grid_step(case):
    box, size = case
    grid = pixels_to_grid(box, size)
    back = grid_to_pixels(grid, size)
    steps = (size[0] / GRID, size[1] / GRID) * 2
    assert all(abs(a - b) <= step * 1.51 for a, b, step in zip(box, back, steps, strict=True))


@given(boxes_in_images())
def test_grid_boxes_are_integers_inside_and_not_empty(case):
    x1, y1, x2, y2 = grid = pixels_to_grid(*case)
    assert all(isinstance(v, int) for v in grid)
    assert 0 <= x1 < x2 <= GRID
    assert 0 <= y1 < y2 <= GRID


@given(boxes_in_images(), st.integers(2, 7))
def test_grid_does_not_depend_on_the_resolution(case, factor):
    box, (width, height) = case
    larger = tuple(v * factor for v in box)
    both = zip(
        pixels_to_grid(box, (width, height)),
        pixels_to_grid(larger, (width * factor, height * factor)),
        strict=True,
    )
    assert all(
        abs(a - b) <= 1 for a, b in both
    )  # rounding of v * factor may differ in the last bit


def test_known_values():
    assert pixels_to_grid((0, 0, 640, 480), (640, 480)) == [0, 0, 1000, 1000]
    assert pixels_to_grid((-1, -1, 641, 481), (640, 480)) == [0, 0, 1000, 1000]
    assert pixels_to_grid((640, 480, 640, 480), (640, 480)) == [999, 999, 1000, 1000]
    assert xywh_to_xyxy([1, 2, 3, 4]) == (1.0, 2.0, 4.0, 6.0)
