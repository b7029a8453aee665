"""Predictions as scored rows, in the form of ``predictions.jsonl``, and the figures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.audit.conventions import of_conventions, scores_of
from kit.audit.joining import Joined
from kit.audit.leaks import Leaks
from kit.audit.prediction_files import Predictions
from kit.data.types import SftRecord
from kit.prompting.messages import MODES
from kit.report.metrics import summarise_mode
from kit.scoring.exact import exact_match

MODE = MODES[-1]  # under which comparisons are made, whatever a system was asked in

Rows = list[dict]


@dataclass
class System:
    """One system's predictions: where from, how they found their records, and a row a record."""

    name: str
    predictions: Predictions
    joined: Joined
    rows: Rows


@dataclass(frozen=True)
class Test:
    """The records that were asked, the volume of each image, and what the question-only guesser
    answers (None: it has no training file)."""

    records: Sequence[SftRecord]
    volumes: Mapping[str, str]
    floor: Sequence[str] | None

    def rows(self, answers: Sequence[str | None], keep_missing: bool = True) -> Rows:
        """A scored row for each record; one without an answer (None) counts as wrong, or is left
        out."""
        return [
            self._row(number, answer)
            for number, answer in enumerate(answers)
            if keep_missing or answer is not None
        ]

    def _row(self, number: int, answer: str | None) -> dict:
        record = self.records[number]
        row = {
            "number": number,
            "mode": MODE,
            **record.facts(),
            "evidence": [{"label": region.label} for region in record.regions],
            "volume": self.volumes[record.image],
            "given": answer is not None,
            "answer": answer or "",
            "scores": scores_of(answer or "", record),
        }
        if self.floor is not None:
            guess = self.floor[number]
            exact = exact_match(guess, record.answer, record.choices)
            row["floor"] = {"answer": guess, "exact": exact}
        return row


def most_frequent_answers(known: Sequence[SftRecord], records: Sequence[SftRecord]) -> list[str]:
    """For each record the answer that is most frequent among the known ones of its content type
    (of its answer type where it has none), in any case; ties by the alphabet."""
    tallies: dict[str, Counter[str]] = {}
    for record in known:
        for kind in ("", _kind(record)):
            tallies.setdefault(kind, Counter())[record.answer.casefold()] += 1
    most = {
        kind: min(tally, key=lambda answer: (-tally[answer], answer))
        for kind, tally in tallies.items()
    }
    return [most.get(_kind(record), most[""]) for record in records]


def _kind(record: SftRecord) -> str:
    return record.content_type or record.answer_type or "any"


def subsets(rows: Rows, leaks: Leaks | None) -> dict[str, dict[str, float]]:
    """The figures of the conventions on parts of the test, each with the part's ``n``: what was
    answered, what a guesser without images gets right and wrong, and what the training file does
    not give away."""
    parts = {"answered": [row for row in rows if row["given"]]}
    if all("floor" in row for row in rows):
        parts["guessable"] = [row for row in rows if row["floor"]["exact"]]
        parts["not_guessable"] = [row for row in rows if not row["floor"]["exact"]]
    if leaks is not None:
        parts["without_leaks"] = [r for r in rows if leaks.kinds[r["number"]] is None]
        parts["image_disjoint"] = [
            row for row in parts["without_leaks"] if row["number"] not in leaks.of_known_image
        ]
    return {name: {"n": len(part), **of_conventions(figures(part))} for name, part in parts.items()}


def figures(rows: Rows) -> dict[str, float]:
    """Flat metrics of scored rows, as evaluate has them (``kit.report.metrics``)."""
    return summarise_mode(rows) if rows else {}
