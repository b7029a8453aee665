"""One answer under all conventions."""

import json

from kit.prompting.answers import normalise
from kit.scoring.accuracy import KEYS, score_answer


def test_keys_are_stable_and_the_other_type_s_are_none():
    closed = score_answer("Lung", "lung", answer_type="CLOSED")
    opened = score_answer("Lung", "lung", answer_type="OPEN")
    unknown = score_answer("Lung", "lung", answer_type="")
    assert tuple(closed) == tuple(opened) == tuple(unknown) == KEYS
    assert {k for k, v in unknown.items() if v is not None} == {"exact"}
    both = {k for k in KEYS if closed[k] is not None and opened[k] is not None}
    assert both == {"exact", "medevalkit/total"}
    assert all(closed[k] is not None or opened[k] is not None for k in KEYS)
    assert closed["llava_med/closed_accuracy"] == 0
    assert closed["medevalkit/closed"] == closed["medevalkit/total"] == 1
    assert opened["medevalkit/open_exact"] == opened["medevalkit/total"] == 1


def test_gold_answers_of_the_real_sample_match_themselves(realdata):
    rows = []
    for split in ("train", "validate", "test"):
        for row in json.loads((realdata / "SLAKE" / f"{split}.json").read_text(encoding="utf-8")):
            rows.append((row["answer"], row["answer_type"], row["q_lang"]))
    public = realdata / "VQA_RAD" / "VQA_RAD Dataset Public.json"
    for row in json.loads(public.read_text(encoding="utf-8")):
        rows.append((str(row["answer"]), row["answer_type"].strip(), "en"))
    assert len(rows) > 500
    for answer, answer_type, language in rows:
        if not answer:
            continue
        scores = score_answer(answer, answer, answer_type=answer_type)
        assert scores["exact"] == 1, answer
        assert scores["medevalkit/total"] == 1, answer
        if answer_type == "OPEN":
            assert scores["llava_med/open_recall"] == 1, answer
        elif normalise(answer) in ("yes", "no"):
            assert scores["llava_med/closed_accuracy"] == 1, answer
        elif language == "en" and "no" not in answer.lower():
            assert scores["llava_med/closed_accuracy"] == 0, answer
