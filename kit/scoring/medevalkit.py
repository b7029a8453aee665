"""Scores as MedEvalKit computes them without its language-model judge (Xu et al. 2025, arXiv
2506.07044; alibaba-damo-academy/MedEvalKit, ``utils/utils.py``), quirks included.

- The text after the last "answer is", "answer:" and the like is the answer; in lower case, and
  trimmed, as in lmms-eval's port. (Tags are read by ``kit.prompting.answers``; ``\\boxed`` is not.)
- Closed, gold yes or no: exactly one of "yes" and "no" is a substring of the prediction ("no" is
  one of "normal"), and it is the gold answer. The gold answer's case is ignored, as lmms-eval's
  port does; the original looks for lower case only, and so compares SLAKE's "Yes" and "No" as
  other closed answers.
- Closed, other: the prediction without points and line ends is the gold answer.
- Open: exact string, BLEU-1..4, ROUGE-1, -2, -L, and precision, recall and F1 of the sets of
  tokens. The original returns (F1, precision, recall) and unpacks them as (precision, recall,
  F1), so that each is printed under another's name; here each has its own.
- ``total`` is the accuracy over closed and open (exact string) together.

Open and closed follow the record's ``answer_type``, as the original does for SLAKE; for VQA-RAD it
calls closed what has yes or no as its gold answer. The accuracies in its paper count open answers
as right where a language model judges so: ``open_exact`` and ``total`` are stricter.

BLEU is NLTK's unsmoothed sentence BLEU in the original and sacrebleu's here: equal to within
1e-12 (where an n-gram order has no match NLTK gives some 1e-77 and sacrebleu 0). ROUGE is the
package ``rouge`` in the original, which counts each distinct n-gram once; rouge-score counts
repeats, so the few lines are here. Empty predictions, on which the original raises, score 0.

For English only, like LLaVA-Med's: of Chinese gold answers ``kit.scoring.accuracy`` gives no score.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics import BLEU

_LEADS = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
)
_TINY = 1e-8  # the package adds it to the denominator of F

MOST_ORDER = 4

_BLEU = BLEU(tokenize="none", smooth_method="none", max_ngram_order=MOST_ORDER, force=True)


def final_part(text: str) -> str:
    """What follows the last phrase that announces an answer, in lower case and trimmed.

    >>> final_part("There is a mass. The answer is Yes")
    'yes'
    """
    text = text.lower()
    for lead in _LEADS:
        text = text.split(lead)[-1]
    return text.strip()


def closed_hit(prediction: str, gold: str) -> float:
    """1.0 or 0.0; see the module's docstring.

    >>> closed_hit("Yes.", "yes"), closed_hit("Not normal", "No"), closed_hit("yes, no", "Yes")
    (1.0, 1.0, 0.0)
    >>> closed_hit("Lung.", "lung"), closed_hit("the lung", "lung")
    (1.0, 0.0)
    """
    said = final_part(prediction).replace("\n", "").replace(".", "")
    wanted = gold.lower().strip()
    if wanted in ("yes", "no"):
        return float(("yes" in said) != ("no" in said) and wanted in said)
    return float(said == wanted)


def open_scores(prediction: str, gold: str) -> dict[str, float]:
    """``open_exact``, ``bleu1`` to ``bleu4``, ``rouge1``, ``rouge2``, ``rougeL`` (F), and
    ``precision``, ``recall``, ``f1`` of tokens, each in 0..1.

    >>> scores = open_scores("left lower lobe", "left lobe")
    >>> [round(scores[name], 3) for name in ("precision", "recall", "f1", "bleu1", "rougeL")]
    [0.667, 1.0, 0.8, 0.667, 0.8]
    """
    said, wanted = final_part(prediction), gold.lower().strip()
    scores = {"open_exact": float(said == wanted)}
    scores |= {f"bleu{order}": value for order, value in enumerate(bleu(said, wanted), 1)}
    scores |= rouge(said, wanted)
    return scores | token_overlap(said, wanted)


def bleu(said: str, wanted: str) -> list[float]:
    """BLEU-1 to BLEU-4 in 0..1 without smoothing, so 0 above the length of the shorter text.

    Tokens are parted by single spaces, and a point is one.
    """
    numbers: dict[str, str] = {}  # sacrebleu parts text at any white space; numbers hold none
    lines = [
        " ".join(numbers.setdefault(token, str(len(numbers))) for token in _tokens(text))
        for text in (said, wanted)
    ]
    found = _BLEU.corpus_score(lines[:1], [lines[1:]])
    return [
        BLEU.compute_bleu(
            correct=found.counts[:order],
            total=found.totals[:order],
            sys_len=found.sys_len,
            ref_len=found.ref_len,
            smooth_method="none",
            max_ngram_order=order,
        ).score
        / 100
        for order in range(1, MOST_ORDER + 1)
    ]


def rouge(said: str, wanted: str) -> dict[str, float]:
    """F of ROUGE-1, ROUGE-2 and summary-level ROUGE-L over distinct n-grams; points part
    sentences.

    >>> {name: round(value, 4) for name, value in rouge("a b b c", "a b c d").items()}
    {'rouge1': 0.8571, 'rouge2': 0.6667, 'rougeL': 0.8571}
    """
    said_sentences, wanted_sentences = _sentences(said), _sentences(wanted)
    said_words = [word for sentence in said_sentences for word in sentence]
    wanted_words = [word for sentence in wanted_sentences for word in sentence]
    scores = {}
    for order in (1, 2):
        said_grams, wanted_grams = _grams(said_words, order), _grams(wanted_words, order)
        common = len(said_grams & wanted_grams)
        scores[f"rouge{order}"] = _f_score(common, len(said_grams), len(wanted_grams))
    shared: set[str] = set()
    for sentence in wanted_sentences:
        for other in said_sentences:
            shared |= _common_subsequence(sentence, other)
    scores["rougeL"] = _f_score(len(shared), len(set(said_words)), len(set(wanted_words)))
    return scores


def token_overlap(said: str, wanted: str) -> dict[str, float]:
    """Precision, recall and F1 of the sets of tokens, each under its own name."""
    said_tokens, wanted_tokens = set(said.split()), set(wanted.split())
    common = len(said_tokens & wanted_tokens)
    if not common:
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    precision, recall = common / len(said_tokens), common / len(wanted_tokens)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
    }


def _tokens(text: str) -> list[str]:
    return text.replace(".", " .").split(" ")


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence; one of nothing but white space holds one empty word."""
    return [part.split() or [""] for part in text.split(".") if part]


def _grams(words: Sequence[str], order: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + order]) for i in range(len(words) - order + 1)}


def _f_score(common: int, said: int, wanted: int) -> float:
    precision = common / said if said else 0.0
    recall = common / wanted if wanted else 0.0
    return 2 * precision * recall / (precision + recall + _TINY)


def _common_subsequence(wanted: Sequence[str], said: Sequence[str]) -> set[str]:
    """The distinct words of one longest common subsequence; of several, that which the package
    ``rouge`` finds: from the end, a word of ``said`` is skipped where both could be."""
    lengths = [[0] * (len(said) + 1)]
    for word in wanted:
        above = lengths[-1]
        row = [0]
        for j, other in enumerate(said):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    found = set()
    i, j = len(wanted), len(said)
    while i and j:
        if wanted[i - 1] == said[j - 1]:
            i, j = i - 1, j - 1
            found.add(wanted[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
