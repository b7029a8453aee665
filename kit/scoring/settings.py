"""What the reward and the scorers can be configured by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kit.errors import ConfigError

COMPONENTS = ("format", "answer", "consistency", "counterfactual")
AnswerScoring = Literal["exact", "f1"]
CounterfactualAnswers = Literal["right", "given"]
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Weights:
    """What each component counts."""

    format: float = 0.2
    answer: float = 0.4
    consistency: float = 0.2
    counterfactual: float = 0.2

    def __post_init__(self):
        values = [getattr(self, name) for name in COMPONENTS]
        if not all(0 <= v < math.inf for v in values) or not sum(values):
            raise ConfigError(
                f"weights must not be negative and not all 0: {values}",
                where="weights",
                fix='give four, like "0.2,0.4,0.2,0.2"',
            )

    def as_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in COMPONENTS}


DEFAULT_WEIGHTS = Weights()


def parse_weights(text: str) -> Weights:
    """``"format,answer,consistency,counterfactual"`` as numbers.

    >>> parse_weights("0.2, 0.4, 0.2, 0.2") == Weights()
    True
    """
    try:
        values = [float(part) for part in text.split(",")]
        return Weights(**dict(zip(COMPONENTS, values, strict=True)))
    except ValueError as error:
        raise ConfigError(
            f"weights must be four numbers ({', '.join(COMPONENTS)}), not {text!r}",
            where="weights",
            fix='give them like "0.2,0.4,0.2,0.2"',
        ) from error
