"""Rows of the original VQA-RAD file for phantoms, with the traps of the real one."""

from __future__ import annotations

import uuid

import numpy as np

from kit.data.phantom.layout import Question

_ORGANS = {"CT abdomen": "ABD", "CT lung": "CHEST", "MRI brain": "HEAD", "X-ray chest": "CHEST"}
_TYPES = {
    "Modality": "MODALITY",
    "Position": "POS",
    "Organ": "PRES",
    "Abnormality": "ABN",
    "Quantity": "COUNT",
    "Size": "SIZE",
    "Color": "COLOR",
    "Shape": "ATTRIB",
    "Plane": "PLANE",
}
_KIND_TYPES = {
    "body part": "ORGAN",
    "lesion host": "POS",
    "lesions host": "POS",
    "named host": "POS",
    "disease": "PRES",
    "lesion at": "PRES",
    "has disease": "PRES",
}
_PARAPHRASED = 0.4
_NAMESPACE = uuid.UUID("9a1b7c52-0c67-4df1-8d5e-6f4a7f1c2b3d")


def rad_rows(
    number: int, kind: str, questions: list[Question], prefix: str, rng: np.random.Generator
) -> list[dict]:
    """The rows of one image's questions, some with a paraphrase; ``prefix`` is "" or "test_".

    A question and its paraphrase share ``qid_linked_id`` and name each other as rephrase.
    ``qid`` is left for :func:`set_traps` to number.
    """
    rows = []
    for question in questions:
        link = uuid.uuid5(_NAMESPACE, f"{number} {question.question}")
        others = [text for text in question.wordings if text != question.question]
        texts = [question.question]
        if others and rng.random() < _PARAPHRASED:
            texts.append(others[0])
        for index, text in enumerate(texts):
            row = _row(number, kind, question, rng)
            row["phrase_type"] = prefix + ("para" if index else "freeform")
            row["qid_linked_id"] = str(link)
            row["question"] = text
            if len(texts) == 2:
                row["question_rephrase"] = texts[1 - index]
                row["question_relation"] = "strict agreement"
            rows.append(row)
    return rows


def _row(number: int, kind: str, question: Question, rng: np.random.Generator) -> dict:
    answer: str | int = question.answer
    if question.answer_type == "CLOSED" and rng.random() < 0.5:
        answer = question.answer.lower()
    if question.content_type == "Quantity" and rng.random() < 0.5:
        answer = int(question.answer)
    case = uuid.uuid5(_NAMESPACE, f"case {number}")
    return {
        "qid": 0,
        "phrase_type": "",
        "qid_linked_id": "",
        "image_case_url": f"https://phantom.invalid/case?id={case}",
        "image_name": f"synpic{number}.jpg",
        "image_organ": _ORGANS[kind],
        "evaluation": str(rng.choice(["evaluated", "not evaluated", "given"])),
        "question": question.question,
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": _KIND_TYPES.get(question.kind, _TYPES[question.content_type]),
        "answer": answer,
        "answer_type": question.answer_type,
    }


def set_traps(rows: list[dict]) -> list[dict]:
    """The rows as a new numbered list with the faults of the original file among them.

    A repeated triplet and one triplet of the test split in train; two "CLOSED " with a space;
    two rows without ``question_rephrase``; tabs for commas and a lost character in questions,
    white space around answers, misspelt and joined question types; the first qid as text. A
    fault for which there is no fitting row is left out.
    """
    rows = [dict(row) for row in rows]
    train = [row for row in rows if not row["phrase_type"].startswith("test_")]
    shared = {row["image_name"] for row in train}
    tested = [r for r in rows if r["phrase_type"] == "test_freeform" and r["image_name"] in shared]
    loose = {"phrase_type": "freeform", "question_rephrase": "NULL", "question_relation": "NULL"}
    repeats = [{**row, **loose} for row in train[3:4] + tested[1:2]]

    closed = [row for row in train if row["answer_type"] == "CLOSED"]
    for row in closed[1:3]:
        row["answer_type"] = "CLOSED "
    for row in [row for row in train if row["question_rephrase"] == "NULL"][2:4]:
        del row["question_rephrase"]
    for row in [row for row in train if ", " in row["question"]][:2]:
        row["question"] = row["question"].replace(", ", " \t")
    for row in [row for row in train if row["question"].count(" ") > 4][7:8]:
        row["question"] = row["question"].replace(" ", "\ufffd", 1)
    for row, form in zip(closed[4:6], (" {}", "{} "), strict=False):
        row["answer"] = form.format(row["answer"])
    for wrong, right in (("ATRIB", "ATTRIB"), ("PRSE", "PRES"), ("SIZE, PRES", "SIZE")):
        for row in [row for row in train if row["question_type"] == right][1:2]:
            row["question_type"] = wrong
    rows += repeats
    for index, row in enumerate(rows):
        row["qid"] = index if index else "0"
    return rows
