"""Which column of somebody's prediction file is what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kit.data.columns import ALIASES, parse_columns
from kit.errors import DataError

FIELDS = ("answer", "id", "question", "image", "gold", "dataset", "mode")
# What nobody calls anything but a prediction; of a pair the first is made from the second.
PREDICTED = (
    "filtered_resps", "prediction", "predictions", "pred", "preds", "predicted",
    "predicted_answer", "prediction_answer", "pred_answer", "answer_pred", "model_answer",
    "model_prediction", "model_output", "model_response", "response", "responses", "resps",
    "output", "outputs", "generated", "generated_text", "generated_answer", "generation",
    "completion", "completions", "hypothesis", "parsed_pred", "parsed_answer", "raw_prediction",
    "raw_output", "raw_response",
)  # fmt: skip
MADE_FROM = {
    "filtered_resps": ("resps",),
    "parsed_pred": ("response", "pred", "prediction", "output"),
    "parsed_answer": ("response", "output", "model_output", "completion", "generated_text"),
    "prediction": ("raw_prediction", "raw_output", "raw_response"),
    "pred": ("raw_prediction", "raw_output", "raw_response"),
    "predicted_answer": ("raw_output", "raw_response"),
    "response": ("raw_response", "raw_output"),
}  # fmt: skip
GOLD = (
    "gold", "reference", "references", "ground_truth", "gt", "gt_answer", "gt_ans", "target",
    "label", "labels", "correct_answer", "gold_answer", "true_answer", "answers",
)  # fmt: skip
IDS = ("qid", "question_id", "id", "sample_id", "doc_id", "index", "idx")
SAMPLES = ("filtered_resps", "resps", "responses", "predictions", "outputs", "completions")


@dataclass(frozen=True)
class PredictionColumns:
    """The column of each of ``FIELDS`` that a file has; ``ids`` are all that could be one."""

    of: Mapping[str, str]
    ids: tuple[str, ...]

    def in_words(self) -> str:
        """Which column was taken for what.

        >>> PredictionColumns({"answer": "text", "gold": "gold"}, ("question_id",)).in_words()
        "answer from 'text', gold from 'gold', id from 'question_id'"
        """
        named = [f"{field} from {column!r}" for field, column in self.of.items()]
        return ", ".join([*named, *(f"id from {column!r}" for column in self.ids)])


def parse_prediction_columns(pairs: Sequence[str]) -> dict[str, str]:
    """``field=column`` of each.

    Raises:
        ConfigError: not of that form, or no such field.

    >>> parse_prediction_columns(["answer=text", "gold="])
    {'answer': 'text', 'gold': ''}
    """
    return parse_columns(pairs, FIELDS, where="prediction_columns", example="answer=text")


def find_prediction_columns(
    names: Iterable[str], told: Mapping[str, str], where: object
) -> PredictionColumns:
    """By what is told of them (where the file has that column), else by their names.

    Raises:
        DataError: no column can be the answer, or several can.

    >>> find_prediction_columns(["id", "answer", "pred"], {}, "x.csv").in_words()
    "answer from 'pred', gold from 'answer', id from 'id'"
    >>> find_prediction_columns(["question_id", "answer"], {}, "x.json").of["answer"]
    'answer'
    """
    names = list(dict.fromkeys(names))
    of = {field: column for field, column in told.items() if column in names}
    plain = {_plain(name): name for name in reversed(names) if name not in of.values()}
    if "answer" not in of:
        of["answer"] = plain.pop(_answer(plain, names, where))
    hidden = {field for field, column in told.items() if not column}
    others = {
        "gold": (*(("answer",) if _plain(of["answer"]) != "answer" else ()), *GOLD),
        "question": ("question", *ALIASES["question"], "prompt", "input"),
        "image": ("image", *ALIASES["image"]),
        "dataset": ("dataset",),
        "mode": ("mode",),
    }
    for field, known in others.items():
        found = next((plain[name] for name in known if name in plain), None)
        if found and field not in of and field not in hidden:
            of[field] = found
    ids = (of.pop("id"),) if "id" in of else tuple(plain[i] for i in IDS if i in plain)
    return PredictionColumns(of, () if "id" in hidden else ids)


def _answer(plain: Mapping[str, str], names: Sequence[str], where: object) -> str:
    """The plain name of the column of predictions."""
    found = [name for name in PREDICTED if name in plain]
    sources = {raw for name in found for raw in MADE_FROM.get(name, ())}
    found = [name for name in found if name not in sources]
    if not found and "text" in plain and not ("answer" in plain and "prompt" not in plain):
        return "text"  # of LLaVA's answer files, whose question is the prompt
    if not found and "answer" in plain and "text" not in plain:
        return "answer"
    if not found and {"answer", "text"} <= plain.keys():
        found = ["answer", "text"]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(names[:20]) or "none"
    if found:
        both = " and ".join(repr(plain[name]) for name in found)
        fix = f"say which: --prediction_columns answer={plain[found[0]]}"
        raise DataError(f"{both} could each be the predicted answer", where=where, fix=fix)
    what = f"no column holds predicted answers; the columns are: {shown}"
    raise DataError(what, where=where, fix="say which does: --prediction_columns answer=COLUMN")


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())
