"""Typed configuration of an audit."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.audit.claims import Claim, parse_claim
from kit.audit.prediction_columns import parse_prediction_columns
from kit.command import option, require
from kit.data.columns import TableOptions
from kit.errors import ConfigError


@dataclass
class AuditConfig(TableOptions):
    """Check anybody's predictions, without a model: every convention side by side, what a guess
    without images scores, leaks, intervals, and whether a claimed figure is reproduced."""

    predictions: list[str] = option(
        help="a file, or name=file of each system: JSON, JSON lines, CSV, TSV or Parquet, or a "
        "folder that evaluate wrote; the first is what the others are compared with",
        default_factory=list,
    )
    data: str = option("", help="the test records: of prepare_data, or any table")
    output: str = option("runs/audit", help="folder for audit.html and audit.json")
    train_data: str | None = option(
        None, help="training records, for the question-only floor, the blind subset and leaks"
    )
    prediction_columns: list[str] = option(
        help="field=column of the prediction files where their names do not tell; the fields are "
        "answer, id, question, image, gold, dataset and mode",
        default_factory=list,
    )
    join: Literal["auto", "id", "image_question", "order"] = option(
        "auto", help="how predictions find their records; auto: by what fits most of them"
    )
    missing: Literal["wrong", "left_out"] = option(
        "wrong", help="what a record without a prediction counts as"
    )
    as_written: bool = option(
        False, help="take answers as they stand, without looking for JSON or answer tags in them"
    )
    claim: list[str] = option(
        help="name=figure that somebody claims, as in exact/all=0.85 or 'open recall=61.5%'; "
        "system:name=figure for one of several systems",
        default_factory=list,
    )
    claim_margin: float = option(
        0.01, help="how far from a claimed figure is still the same: 0.01 is one point"
    )
    judge: str | None = option(
        None, help="a language model that judges too: http://host/v1, or a local folder"
    )
    judge_model: str | None = option(None, help="the name of the judge at its endpoint")
    judge_key_variable: str = option(
        "OPENAI_API_KEY", help="the environment variable that holds the endpoint's key, if any"
    )
    judge_timeout: float = option(60.0, help="seconds that the judge has for an answer")
    judge_parallel: int = option(4, help="requests at a time")
    skip_bad: bool = option(False, help="drop broken rows of any file instead of stopping")
    seed: int = option(0, help="of the swaps of systems that tests draw")

    def __post_init__(self):
        _ = self.layout, self.columns_told, self.claims  # which check them
        if not self.predictions:
            fix = "name the files: medvqa audit preds.jsonl --data test.json"
            raise ConfigError("no predictions given", where="predictions", fix=fix)
        if not self.data:
            raise ConfigError("data is not given", where="data", fix="set --data")
        if len(self.files) < len(self.predictions):
            fix = "name them: a=runs/1/preds.jsonl b=runs/2/preds.jsonl"
            raise ConfigError("two files have one name", where="predictions", fix=fix)
        if self.judge and self.judge_is_endpoint and not self.judge_model:
            fix = "set --judge_model to the name that the endpoint knows"
            raise ConfigError("judge_model is not given", where="judge_model", fix=fix)
        if self.judge and not self.judge_is_endpoint and not Path(self.judge).is_dir():
            fix = "give http://host:port/v1, or the folder of a text model"
            raise ConfigError("no such judge", where=f"--judge {self.judge}", fix=fix)
        for claim in self.claims:
            if claim.system and claim.system not in self.files:
                fix = f"the systems are {', '.join(self.files)}"
                raise ConfigError("no such system", where=f"--claim {claim.written}", fix=fix)
        require(0 <= self.claim_margin < 1, "claim_margin", "must be in 0..1", self.claim_margin)
        require(0 < self.judge_timeout < math.inf, "judge_timeout", "must be above 0", "so")
        require(self.judge_parallel >= 1, "judge_parallel", "must be at least 1", "less")
        require(self.seed >= 0, "seed", "must not be negative", self.seed)

    @property
    def files(self) -> dict[str, Path]:
        """Each file by the name of its system."""
        found = {}
        for entry in self.predictions:
            name, sign, file = entry.partition("=")
            if not sign or "/" in name or Path(entry).exists():
                name, file = Path(entry).stem or entry, entry
            found[name] = Path(file)
        return found

    @property
    def columns_told(self) -> dict[str, str]:
        """
        Raises:
            ConfigError: not field=column, or no such field.
        """
        return parse_prediction_columns(self.prediction_columns)

    @property
    def claims(self) -> list[Claim]:
        """
        Raises:
            ConfigError: no figure, or of no convention.
        """
        return [parse_claim(text) for text in self.claim]

    @property
    def judge_is_endpoint(self) -> bool:
        return bool(self.judge) and self.judge.startswith(("http://", "https://"))

    @property
    def judge_name(self) -> str:
        """What the judge is known by, and its verdicts are kept under."""
        if self.judge_is_endpoint:
            return self.judge_model or ""
        return os.path.abspath(self.judge or "")
