"""What the reward and the scorers can be configured by."""

from __future__ import annotations

from typing import Literal

AnswerScoring = Literal["exact", "f1"]
CounterfactualAnswers = Literal["right", "given"]
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
