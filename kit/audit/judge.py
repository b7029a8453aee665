"""An optional language model that says whether answers are right, and how far it agrees with exact
match. No judged figure is given without that.

Each question, gold answer and answer is judged once: replies are kept in a file by the sum of what
was asked of which model, so that an audit that was interrupted asks nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.data.choices import without_choices
from kit.files import append_jsonl, log_rows
from kit.report.statistics import Interval, cluster_of, mean_interval, statistic_interval

PROMPT_VERSION = "1"
SYSTEM = (
    "You grade answers to questions about medical images. You do not see the image. Compare the "
    "answer with the reference answer alone. It is CORRECT if it says the same as the reference: "
    "other words, spelling or more detail do not matter as long as nothing contradicts it. It is "
    "INCORRECT if it says something else, leaves out a part of the reference, hedges between "
    "several answers, or confuses left and right."
)
USER = (
    "Question: {question}\nReference answer: {gold}\nAnswer: {answer}\n\n"
    "Reply with one word: CORRECT or INCORRECT."
)
LONGEST = 4000  # characters of an answer that are shown
CHUNK = 16  # replies that are written to the cache at once

_VERDICT = re.compile(r"\b(IN)?CORRECT\b")

Item = tuple[str, str, str]  # question, gold answer, answer
Ask = Callable[[list[dict]], str]  # chat messages to a reply; raises NotJudged


class NotJudged(Exception):
    """No verdict was to be had; ``args[0]`` is a short stable reason."""


@dataclass(frozen=True)
class Judged:
    """Verdicts (1.0 or 0.0) by item, how many replies came from the cache, and how many items
    have none, by reason."""

    verdicts: Mapping[Item, float]
    asked: int
    cached: int
    unjudged: Counter[str]


def messages_of(item: Item) -> list[dict]:
    """The chat that asks for a verdict."""
    question, gold, answer = item
    said = USER.format(question=question, gold=gold, answer=answer[:LONGEST])
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}]


def verdict_of(reply: str) -> float:
    """1.0 or 0.0 by the last verdict of a reply.

    Raises:
        NotJudged: it holds none.

    >>> verdict_of("correct."), verdict_of("<think>CORRECT?</think> INCORRECT")
    (1.0, 0.0)
    """
    found = _VERDICT.findall(reply.upper())
    if not found:
        raise NotJudged("the reply is no verdict")
    return 0.0 if found[-1] else 1.0


def item_of(question: str, choices: Sequence[str], gold: str, answer: str) -> Item:
    return without_choices(question, choices), gold, answer.strip()


def judge_items(
    items: Iterable[Item], ask: Ask, model: str, cache: Path, parallel: int = 1
) -> Judged:
    """Have each item judged that the cache does not know yet.

    Raises:
        UserError: the judge cannot be reached or refuses everything, or the disk is full.
    """
    known = {row["key"]: row["reply"] for row in log_rows(cache)[0] if "reply" in row}
    items = list(dict.fromkeys(items))
    keys = {item: _key(item, model) for item in items}
    new = [item for item in items if keys[item] not in known]
    unjudged: Counter[str] = Counter()

    def reply_to(item: Item) -> str | NotJudged:
        try:
            return ask(messages_of(item))
        except NotJudged as problem:
            return problem

    if new:
        cache.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(parallel) as pool:
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            replies = list(zip(part, pool.map(reply_to, part), strict=True))
            told = [(item, reply) for item, reply in replies if isinstance(reply, str)]
            append_jsonl(
                cache,
                [
                    {"key": keys[item], "model": model, "prompt": PROMPT_VERSION, "reply": reply}
                    for item, reply in told
                ],
            )
            known |= {keys[item]: reply for item, reply in told}
            unjudged.update(str(r) for _, r in replies if isinstance(r, NotJudged))
    verdicts: dict[Item, float] = {}
    for item in items:
        if keys[item] in known:
            try:
                verdicts[item] = verdict_of(known[keys[item]])
            except NotJudged as problem:
                unjudged[str(problem)] += 1
    return Judged(verdicts, len(new), len(items) - len(new), unjudged)


def _key(item: Item, model: str) -> str:
    asked = json.dumps([PROMPT_VERSION, model, messages_of(item)], ensure_ascii=False)
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


def judged_figures(rows: Sequence[Mapping], judged: Judged) -> dict[str, float | None]:
    """Of one system: ``judge/all`` (a record without an answer is wrong), ``judge/open`` and
    ``judge/closed`` with bounds and n; of the answers with a verdict, ``exact`` match, the raw
    ``agreement`` of the two and Cohen's ``kappa`` (1960, doi 10.1177/001316446002000104), each
    with bounds; ``not_judged``, the number of answers without one, which count nowhere."""
    value = {}
    for number, row in enumerate(rows):
        item = item_of(row["question"], row["choices"], row["gold"], row["answer"])
        found = judged.verdicts.get(item) if item[2] else 0.0
        if found is not None:
            value[number] = found
    figures: dict[str, float | None] = {"not_judged": len(rows) - len(value)}
    for name in ("all", "open", "closed"):
        part = [n for n in value if name in ("all", (rows[n].get("answer_type") or "").lower())]
        if part:
            figures |= _mean(f"judge/{name}", [value[n] for n in part], [rows[n] for n in part])
    both = [n for n in value if rows[n]["answer"].strip()]
    if both:
        said = np.array([value[n] for n in both])
        exact = np.array([rows[n]["scores"]["exact"] for n in both])
        part = [rows[n] for n in both]
        figures |= _mean("exact", exact, part)
        figures |= _mean("agreement", (said == exact).astype(float), part)
        figures |= _kappa(said, exact, [cluster_of(row) for row in part])
    return figures


def kappa(said: np.ndarray, exact: np.ndarray, times: np.ndarray) -> np.ndarray:
    """``(times,)`` Cohen's kappa of two raters' 0 and 1, ``(rows,)`` each, by how often each row
    counts, ``(times, rows)``; NaN where both always say the same one thing.

    >>> kappa(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.ones((1, 4))).tolist()
    [0.5]
    """
    total = times.sum(axis=1)
    a, b = (times @ side / total for side in (said, exact))
    alike = times @ (said == exact) / total
    chance = a * b + (1 - a) * (1 - b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (alike - chance) / (1 - chance), np.nan)


def _kappa(said: np.ndarray, exact: np.ndarray, clusters: list[str]) -> dict[str, float | None]:
    value = float(kappa(said, exact, np.ones((1, len(said))))[0])
    if np.isnan(value):
        return {"kappa": None}
    interval = statistic_interval(
        value, lambda times: kappa(said, exact, times), clusters, bounds=(-1.0, 1.0)
    )
    return {"kappa": value, **_bounds("kappa", interval)}


def _mean(name: str, values: Sequence[float], rows: Sequence[Mapping]) -> dict[str, float]:
    interval = mean_interval(values, [cluster_of(row) for row in rows])
    return {name: float(np.mean(values)), **_bounds(name, interval), f"{name}/n": len(rows)}


def _bounds(name: str, interval: Interval | None) -> dict[str, float]:
    return {f"{name}/low": interval[0], f"{name}/high": interval[1]} if interval else {}
