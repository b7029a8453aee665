"""Boxes between pixels and the 0..1000 grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.data.box_columns import WrittenBox, rule_of
from kit.data.boxes import CONVENTIONS, GRID, Frame, grid_to_pixels, pixels_to_grid, xywh_to_xyxy
from kit.errors import DataError

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


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_frame_holds_what_lies_in_the_image_and_gives_it_on_the_grid(convention):
    """Beyond 1000 where the image is, and no further than its sides."""
    frame = Frame(convention, (4000, 600), (2016, 308))
    width, height = {"grid_1000": (1000, 1000), "pixels": (4000, 600), "unit": (1, 1)}.get(
        convention, (2016, 308)
    )
    box = [width / 4, height / 2, width, height]
    assert frame.holds(box)
    assert frame.to_grid(box) == (250, 500, 1000, 1000)
    for wrong in (
        [-1, 0, width, height],
        [0, 0, width * 1.01, height],
        [0, 0, width, height * 2],
        box[2:] + box[:2],
        [width, 0, width, height],
    ):
        assert not frame.holds(wrong)
    fraction = [width / 4 + 0.5, height / 2, width, height]
    assert frame.holds(fraction) == (convention != "grid_1000")  # the grid has integers alone


EITHER, INVERTED, WIDE = (2, 3, 20, 30), (20, 30, 12, 31), (30, 3, 40, 30)  # on 64x64


@pytest.mark.parametrize(
    ("boxes", "order"),
    [
        ([INVERTED] * 4 + [EITHER] * 8, "xywh"),
        ([INVERTED] * 2 + [EITHER] * 3, "xywh"),
        ([WIDE] + [EITHER] * 11, "xyxy"),
        ([EITHER] * 12, "height\\)\n"),
        ([INVERTED] + [EITHER] * 11, "1 of 12 are inverted: \\[20, 30, 12, 31]\n"),
        ([INVERTED] * 3 + [EITHER] * 9, "3 of 12 are inverted: .*, ...\n"),
        ([INVERTED], "1 of 1 are inverted"),
        ([INVERTED] * 6 + [WIDE], "6 of 7 are inverted"),
    ],
)
def test_mistyped_boxes_do_not_say_what_all_are(boxes, order):
    written = [(WrittenBox("mass", box), (64, 64)) for box in boxes]
    if order in ("xywh", "xyxy"):
        assert rule_of(written, "pixels", None, "my.csv").order == order
        return
    with pytest.raises(DataError, match=f"{order}(.|\n)*--box_format"):
        rule_of(written, "pixels", None, "my.csv")
