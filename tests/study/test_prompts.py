"""Prompts of a study: questions that can be put to the test, and others as they come."""

from collections import Counter

from helpers import rows

from kit.data.grpo_records import read_grpo_records
from kit.study.config import ChooseConfig
from kit.study.prompts import choose_prompts, matched


def test_others_are_of_all_kinds(prepared, tmp_path):
    """Evidence that nothing matches (both lungs, an organ) is asked after too."""
    records, _ = read_grpo_records(str(prepared["train"]))
    tested = {r.qid for r, fine in zip(records, matched(records), strict=True) if fine}
    unmatched = {r.qid for r in records if r.regions} - tested
    assert tested
    assert unmatched

    def chosen(others: float) -> Counter:
        output = tmp_path / "chosen.json"
        choose_prompts(ChooseConfig(data=str(prepared["train"]), output=str(output), others=others))
        return Counter(row["qid"] for row in rows(tmp_path, "chosen.json"))

    assert chosen(1e3) == Counter(r.qid for r in records), "all of them once"
    assert chosen(0).keys() == tested
    some = chosen(8)
    assert some.total() == 9 * len(tested)
    assert tested < some.keys()
    share = len(unmatched & some.keys()) / (8 * len(tested))
    assert abs(share - len(unmatched) / (len(records) - len(tested))) < 0.2
