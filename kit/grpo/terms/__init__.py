"""What GRPO pays for, one small file each, chosen by name and weight (``--weights``).

A file holds ``score(groups, judge)``: of each completion of all groups, in their order, a number in
0..1, or None where it cannot be known (absent, which is not 0: see
:func:`kit.scoring.faithfulness.group_rewards`). ``judge`` has the model, the images and the
configuration. ``VIEWS`` names the changed images that it wants prompts to be answered on
(``kit.grpo.views``), ``CAPTIONS`` says that it compares texts.

An objective (``--objectives``) is a term of the loss itself, with a gradient. Its file holds
``VIEWS``, the changed images that it looks at (``kit.grpo.objectives``), and ``value(whole_K,
...)``: from the log-probabilities of the sampled tokens on the whole image and on each of those,
what is to be maximised, a value a token. ``RIGHT`` says that it is of completions with the right
answer alone.

Naming them here loads none of them.
"""

from __future__ import annotations

import math

from kit.errors import ConfigError

DOCUMENTED = ("format", "answer", "consistency", "counterfactual")  # what four bare numbers weigh
REWARDS = {
    "format": "exactly one JSON object with its four keys",
    "answer": "the gold answer",
    "consistency": "the caption speaks of what is asked",
    "counterfactual": "a right answer needs the boxes that it claims",
    "gold_evidence": "a right answer needs its gold evidence, and claims it",
    "iou": "the claimed boxes cover the gold ones",
    "caption_answer": "what the answer speaks of is in the caption",
    "contrast": "without its evidence another answer, without a control of it the right one",
    "abstention": "without its evidence no answer, without a control of it the right one",
}
OBJECTIVES = {
    "perception": "what is said is less likely with most of the image black (PAPO)",
    "double_entropy": "PAPO's regularisation of it",
    "evidence": "what is said is less likely without the evidence",
    "differential": "the same, and not without a control of it (DVRP)",
    "preference": "what is rightly said is likelier without a control than without it (mDPO)",
}


def parse_weights(text: str) -> dict[str, float]:
    """Weights by name: ``"answer=0.5,iou=0.5"``, or four bare numbers, those of
    ``DOCUMENTED``.

    >>> parse_weights("0.2, 0.4, 0.2, 0.2")
    {'format': 0.2, 'answer': 0.4, 'consistency': 0.2, 'counterfactual': 0.2}
    >>> parse_weights("answer=0.5, iou=0.5")
    {'answer': 0.5, 'iou': 0.5}

    Raises:
        ConfigError: another name or form, a weight below 0, or all of them 0.
    """
    parts = [part.partition("=") for part in text.split(",")]
    named = all(equals for _, equals, _ in parts)
    names = [name.strip() for name, _, _ in parts] if named else list(DOCUMENTED)
    try:
        values = [float(value if named else name) for name, _, value in parts]
        weights = dict(zip(names, values, strict=True))
    except ValueError as error:
        raise ConfigError(
            f"weights must be four numbers ({', '.join(DOCUMENTED)}) or name=number, not {text!r}",
            where="weights",
            fix='give them like "0.2,0.4,0.2,0.2" or "format=0.2,answer=0.4,iou=0.4"',
        ) from error
    unknown = [name for name in names if name not in REWARDS]
    if unknown or len(weights) < len(names):
        what = f"no reward is called {unknown[0]!r}" if unknown else "a reward is named twice"
        fix = f"choose from {', '.join(REWARDS)}"
        raise ConfigError(what, where=f"weights: {text}", fix=fix)
    if not all(0 <= value < math.inf for value in values) or not sum(values):
        raise ConfigError(
            f"weights must not be negative and not all 0: {text}",
            where="weights",
            fix='give them like "0.2,0.4,0.2,0.2"',
        )
    return weights


def parse_objectives(text: str) -> dict[str, float]:
    """Weights by name; none for the empty text.

    >>> parse_objectives("perception=0.01, double_entropy=0.03"), parse_objectives("")
    ({'perception': 0.01, 'double_entropy': 0.03}, {})

    Raises:
        ConfigError: another name or form, or a weight that is negative or no number.
    """
    parts = [part.partition("=") for part in text.split(",") if text.strip()]
    names = [name.strip() for name, _, _ in parts]
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown or len(set(names)) < len(names):
        what = f"no objective is called {unknown[0]!r}" if unknown else "one is named twice"
        fix = f"choose from {', '.join(OBJECTIVES)}"
        raise ConfigError(what, where=f"objectives: {text}", fix=fix)
    try:
        weights = {name: float(value) for name, (_, _, value) in zip(names, parts, strict=True)}
    except ValueError:
        weights = {"": -1.0}
    if not all(0 <= weight < math.inf for weight in weights.values()):
        raise ConfigError(
            "weights of objectives are numbers of at least 0",
            where=f"objectives: {text}",
            fix='give them like "perception=0.01"',
        )
    return weights
