"""Prediction files in the forms that other people's tools write."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers import rows

from kit.audit.prediction_columns import find_prediction_columns
from kit.audit.prediction_files import answer_of, read_predictions
from kit.errors import DataError
from kit.files import write_jsonl
from kit.scoring.exact import exact_match


def lines(path: Path, values) -> Path:
    write_jsonl(path, values)
    return path


def whole(path: Path, value) -> Path:
    path.write_text(json.dumps(value, indent=2))
    return path


def table(path: Path, values: list[dict], **dialect) -> Path:
    encoding = dialect.pop("encoding", "utf-8")
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, list(values[0]), **dialect)
        writer.writeheader()
        writer.writerows(values)
    return path


def llava_med(folder, records, said):
    """microsoft/LLaVA-Med, llava/eval/model_vqa.py"""
    return lines(
        folder / "answer-file.jsonl",
        [
            {"question_id": r.qid, "prompt": f"{r.question}\n<image>", "text": a, "answer_id": "x",
             "model_id": "llava-med", "metadata": {}}
            for r, a in zip(records, said, strict=True)
        ],
    )  # fmt: skip


def medevalkit(folder, records, said):
    """results.json of MedEvalKit's SLAKE: no ids and no images."""
    return whole(
        folder / "results.json",
        [
            {"lang": "en", "answer_type": r.answer_type, "answer": r.answer, "question": r.question,
             "prompt": f"{r.question}\nAnswer with a word.", "response": a, "correct": False}
            for r, a in zip(records, said, strict=True)
        ],
    )  # fmt: skip


def vlmevalkit(folder, records, said):
    """Its spreadsheet, saved as TSV: the index counts the rows."""
    return table(
        folder / "model_VQA.tsv",
        [
            {"index": n, "question": r.question, "answer": r.answer, "category": "x",
             "prediction": a}
            for n, (r, a) in enumerate(zip(records, said, strict=True))
        ],
        delimiter="\t",
    )  # fmt: skip


def lmms_eval(folder, records, said):
    """EvolvingLMMs-Lab/lmms-eval --log_samples, in any order"""
    samples = [
        {"doc_id": n, "target": r.answer, "doc": {"question": r.question, "id": f"x{n}"},
         "resps": [[f" {a} "]], "filtered_resps": [a], "doc_hash": "0", "acc": {"score": 1}}
        for n, (r, a) in enumerate(zip(records, said, strict=True))
    ]  # fmt: skip
    return lines(folder / "samples.jsonl", samples[::-1])


def lmms_eval_without_docs(folder, records, said):
    samples = [
        {"doc_id": n, "target": r.answer, "filtered_resps": [a]}
        for n, (r, a) in enumerate(zip(records, said, strict=True))
    ]
    return lines(folder / "samples.jsonl", samples)


def hf_evaluate(folder, records, said):
    pairs = zip(records, said, strict=True)
    return lines(folder / "p.jsonl", [{"prediction": a, "reference": r.answer} for r, a in pairs])


def id_answer_pred(folder, records, said):
    pairs = zip(records, said, strict=True)
    return whole(
        folder / "p.json", [{"id": r.qid, "answer": r.answer, "pred": a} for r, a in pairs]
    )


def vqa_challenge(folder, records, said):
    pairs = zip(records, said, strict=True)
    return whole(folder / "p.json", [{"question_id": int(r.qid), "answer": a} for r, a in pairs])


def mapping(folder, records, said):
    return whole(folder / "p.json", {r.qid: a for r, a in zip(records, said, strict=True)})


def mapping_of_rows(folder, records, said):
    pairs = zip(records, said, strict=True)
    return whole(folder / "p.json", {r.qid: {"response": a, "score": 0.5} for r, a in pairs})


def in_an_object(folder, records, said):
    samples = [{"qid": r.qid, "output": a} for r, a in zip(records, said, strict=True)]
    return whole(folder / "p.json", {"model": "x", "accuracy": 0.5, "results": samples})


def json_texts(folder, records, said):
    texts = [
        ('```json\n{"caption": "x", "answer": %s}\n```', '<think>no</think> {"answer": %s}')[n % 2]
        % json.dumps(a)
        for n, a in enumerate(said)
    ]
    pairs = zip(records, texts, strict=True)
    return lines(folder / "p.jsonl", [{"qid": r.qid, "raw_output": t} for r, t in pairs])


def tagged_texts(folder, records, said):
    texts = [
        (f"Yes or no? <answer>{a}</answer>", f"So it is \\boxed{{{a}}}.")[n % 2]
        for n, a in enumerate(said)
    ]
    pairs = zip(records, texts, strict=True)
    return lines(folder / "p.jsonl", [{"id": r.qid, "completion": t} for r, t in pairs])


def csv_without_ids(folder, records, said):
    return table(
        folder / "p.csv",
        [
            {"question": r.question, "image": f"/else/{'/'.join(Path(r.image).parts[-3:])}",
             "answer": a} for r, a in zip(records, said, strict=True)
        ],
    )  # fmt: skip


def csv_of_excel(folder, records, said):
    values = [
        {"Question ID": r.qid, "Model answer": a, "note": "é"}
        for r, a in zip(records, said, strict=True)
    ]
    return table(folder / "p.csv", values, delimiter=";", encoding="cp1252")


def parquet(folder, records, said):
    columns = {"question_id": [r.qid for r in records], "generated_text": said}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "p.parquet")
    return folder / "p.parquet"


SHAPES = [
    llava_med, medevalkit, vlmevalkit, lmms_eval, lmms_eval_without_docs, hf_evaluate,
    id_answer_pred, vqa_challenge, mapping, mapping_of_rows, in_an_object, json_texts,
    tagged_texts, csv_without_ids, csv_of_excel, parquet,
]  # fmt: skip


@pytest.mark.parametrize("write", SHAPES)
def test_answers_find_their_records_in_any_shape(write, asked, audited, tmp_path):
    found = audited(write(tmp_path, asked.records, asked.said))
    (one,) = found["systems"].values()
    right = [exact_match(a, r.answer) for r, a in zip(asked.records, asked.said, strict=True)]
    assert 0.2 < sum(right) / len(right) < 0.9
    assert one["metrics"]["exact/all"] == sum(right) / len(right)
    assert one["rows"] == one["matched"] == len(asked.records)
    others = ("unmatched", "duplicates", "conflicting", "missing", "empty", "other_gold")
    assert not any(one[name] for name in others)


def test_what_does_not_fit_is_counted(asked, audited, tmp_path):
    """A record without a prediction, predictions of no record, one record answered twice."""
    records, said = asked.records, asked.said
    values = [
        {"qid": r.qid, "pred": a, "gold": r.answer} for r, a in zip(records, said, strict=True)
    ][2:]
    values += [values[0], {**values[1], "pred": "something else"}, {"qid": "no such", "pred": "x"}]
    values[2] |= {"pred": "", "gold": "another"}
    found = audited(lines(tmp_path / "p.jsonl", values))["systems"]["p"]
    counts = {
        "rows": len(values), "matched": len(values) - 1, "unmatched": 1, "duplicates": 2,
        "conflicting": 1, "missing": 2, "empty": 1, "other_gold": 1,
    }  # fmt: skip
    assert {name: found[name] for name in counts} == counts
    assert found["unmatched_rows"] == [f"{tmp_path / 'p.jsonl'}:{len(values)}"]
    assert found["metrics"]["exact/all/n"] == len(records)
    assert found["subsets"]["answered"]["n"] == len(records) - 2
    left = audited(tmp_path / "p.jsonl", missing="left_out")["systems"]["p"]
    assert left["metrics"]["exact/all/n"] == len(records) - 2
    assert left["metrics"]["exact/all"] > found["metrics"]["exact/all"]
    assert "exact/all" in left["subsets"]["answered"]


def test_answers_may_be_taken_as_they_stand(asked, audited, tmp_path):
    file = json_texts(tmp_path, asked.records, asked.said)
    found, raw = (audited(file, as_written=as_it_is)["systems"]["p"] for as_it_is in (False, True))
    assert raw["metrics"]["exact/all"] < 0.5 * found["metrics"]["exact/all"]
    assert f"{len(asked.said)} answers taken out of a JSON object" in found["read_as"]


def test_ids_that_are_places_by_chance_are_no_ids(asked, audited, tmp_path):
    """``doc_id`` counts rows, and some record has such a number for its id: the gold answers
    tell."""
    n = len(asked.records)
    data = rows(asked.data.parent, "test.json")
    renamed = lines(
        tmp_path / "test.json", [r | {"qid": str((7 * i) % n)} for i, r in enumerate(data)]
    )
    file = lmms_eval_without_docs(tmp_path, asked.records, asked.said)
    one = audited(file, data=str(renamed))["systems"]["samples"]
    assert one["joined_by"] == "the place in 'doc_id', counted from 0"
    right = [exact_match(a, r.answer) for r, a in zip(asked.records, asked.said, strict=True)]
    assert one["metrics"]["exact/all"] == sum(right) / n


def test_predictions_in_order_alone_need_a_word(asked, audited, tmp_path):
    file = lines(tmp_path / "p.jsonl", [{"pred": answer, "n": 1} for answer in asked.said])
    with pytest.raises(DataError, match="no prediction belongs") as raised:
        audited(file)
    assert "--join order" in raised.value.fix
    assert audited(file, join="order")["systems"]["p"]["missing"] == 0


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        (["id", "answer", "pred"], "pred"),
        (["question_id", "prompt", "text", "answer"], "text"),
        (["qid", "response", "parsed_pred"], "parsed_pred"),
        (["resps", "filtered_resps", "target"], "filtered_resps"),
        (["id", "answer", "gt_answer"], "answer"),
        (["Index", "Model-Output"], "Model-Output"),
        (["id", "prediction", "response"], None),
        (["id", "text", "answer"], None),
        (["id", "score"], None),
    ],
)
def test_which_column_is_the_answer(columns, answer):
    if answer:
        assert find_prediction_columns(columns, {}, "x").of["answer"] == answer
        return
    with pytest.raises(DataError) as raised:
        find_prediction_columns(columns, {}, "x")
    assert "--prediction_columns answer=" in raised.value.fix
    told = {"answer": columns[1]}
    assert find_prediction_columns(columns, told, "x").of["answer"] == columns[1]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("left lung", "left lung"),
        ("a set {x}", "a set {x}"),
        ("<think>a</think>yes", "yes"),
        ('Sure: {"answer": "No", "boxes": []}', "No"),
        ("<ANSWER> ct </ANSWER>", "ct"),
        ("\\boxed{T2}", "T2"),
        ("", ""),
    ],
)
def test_the_answer_within_a_text(text, answer):
    assert answer_of(text)[0] == answer


def test_several_answers_are_told(tmp_path):
    file = lines(
        tmp_path / "p.jsonl", [{"id": 1, "responses": ["a", "b"]}, {"id": 2, "responses": "c"}]
    )
    found = read_predictions(file, {})
    assert [row.answer for row in found.rows] == ["a", "c"]
    assert "1 rows of several answers, of which the first counts" in found.notes
