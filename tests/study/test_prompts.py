"""Prompts of a study: questions that can be put to the test, and others, in natural proportion."""

from collections import Counter

from helpers import rows

from kit.data.grpo_records import GrpoRecord, read_grpo_records
from kit.data.types import Region
from kit.study.config import ChooseConfig
from kit.study.prompts import choose_prompts, chosen_of, kind_of, matched


def test_what_can_be_tested_comes_first_in_each_kind_and_no_kind_more_often(prepared, tmp_path):
    records, _ = read_grpo_records(str(prepared["train"]))
    tested = {r.qid for r, fine in zip(records, matched(records), strict=True) if fine}
    assert 0 < len(tested) < len(records)

    def chosen(others: float) -> list[str]:
        output = tmp_path / "chosen.json"
        choose_prompts(ChooseConfig(data=str(prepared["train"]), output=str(output), others=others))
        return [row["qid"] for row in rows(tmp_path, "chosen.json")]

    assert Counter(chosen(1e3)) == Counter(r.qid for r in records), "all of them once"

    def asked(record):
        return record.content_type, record.gold, *sorted(r.label for r in record.regions)

    some = chosen(3)
    share = 4 * len(tested) / len(records)
    of, by = (
        Counter(asked(r) for r in those)
        for those in (records, [r for r in records if r.qid in some])
    )
    for kind, number in of.items():
        assert abs(by[kind] - share * number) < 1, kind
        own = [r.qid in some for r in records if asked(r) == kind and r.qid in tested]
        assert sum(own) == min(len(own), by[kind])
    assert chosen(3) == some


def test_answers_stay_as_usual_as_they_are():
    """Nothing but what is there can be tested: a reward for looking must not teach to say yes."""
    heart = (Region("Heart", (5, 5, 20, 20)),)
    kinds = [
        kind_of(
            GrpoRecord(
                image_path="a.png", question="Is the heart enlarged?", gold=gold,
                content_type="Size", regions=heart,
            )
        )
        for gold in ["Yes"] * 400 + ["No"] * 600
    ]  # fmt: skip
    yes, no = kinds[0], kinds[-1]
    tested = [n % 2 == 0 for n in range(400)] + [False] * 600
    found = [Counter(kinds[n] for n in chosen_of(kinds, tested, 0.301, seed)) for seed in range(50)]
    assert {one[yes] for one in found} == {120, 121}
    assert {one[no] for one in found} == {180, 181}
    first = chosen_of(kinds, tested, 0.301, seed=0)
    assert all(tested[n] for n in first if kinds[n] == yes)
