"""The table that is printed."""

import pytest

from kit.prompting.messages import MODES
from kit.report.table import ROWS, metrics_table

GOLDEN = """\
think_answer            base    sft
exact match            25.0%  75.0%
LLaVA-Med open recall  12.3%      -
valid JSON              0.0%  99.9%

caption_reason_answer   base     sft
exact match                -  100.0%
IoU with gold boxes    0.049   0.425
IoU at least 0.5        5.0%       -"""


def test_golden_table():
    base = {
        "caption_reason_answer/iou/mean": 0.049, "caption_reason_answer/iou/acc@0.5": 0.05,
        "think_answer/exact/all": 0.25, "think_answer/llava_med/open_recall": 0.1234,
        "think_answer/json_valid_rate": 0.0, "n": 3, "think_answer/exact/modality/CT": 1.0,
    }  # fmt: skip
    sft = {
        "think_answer/exact/all": 0.75, "think_answer/json_valid_rate": 0.9994,
        "caption_reason_answer/exact/all": 1.0, "caption_reason_answer/iou/mean": 0.4251,
    }  # fmt: skip
    assert metrics_table({"base": base, "sft": sft}) == GOLDEN


def test_nothing_measured_is_no_table():
    assert metrics_table({}) == ""
    assert metrics_table({"base": {"n": 0}}) == ""


@pytest.mark.parametrize("names", [["a"], ["a", "a much longer name", "é"]])
def test_columns_stand_below_each_other(names):
    metrics = {f"{mode}/{name}": 0.5 for mode in MODES for name in ROWS}
    for block in metrics_table(dict.fromkeys(names, metrics)).split("\n\n"):
        head, *lines = block.split("\n")
        assert len(lines) == len(ROWS)
        ends = {len(line) for line in [head, *lines]}
        assert len(ends) == 1
        for name in names[1:]:
            end = head.index(name) + len(name)
            assert {line[end - 1] in "%05" and line[end : end + 2].strip() == "" for line in lines}
