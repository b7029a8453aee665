"""``certificate.json``: what may be certified, by which rule, and for which model.

What is known of an answer when it is given (:class:`Seen`) decides; no gold answer does. An answer
is *bad* if it is wrong or does not need its boxes. It needs them if it loses at least ``need`` more
of its probability without them than without their controls, on average: a number, where a flip of
the greedy answer hangs on one token, and with a margin, without which half of the answers that do
not look would pass by chance. What claims no box, or boxes without a control, is bad, too: that it
needs them is not shown. Since all this is seen when an answer is given, what does not need its
boxes is never given, and of what is given only the wrong is left to bound; its score is the
probability of the answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.errors import ConfigError, UserError
from kit.files import write_json

KIND = "medvqa certificate"
SETTING = "setting.json"  # beside predictions.jsonl: of which model they are, asked how
MODE = "caption_reason_answer"  # the mode whose answers claim boxes
AGAIN = "make one: medvqa certify RUN, of an evaluation with --counterfactual true"


def percent(share: float) -> str:
    """
    >>> percent(0.1), percent(1 - 0.025), percent(0.004)
    ('10%', '97.5%', '0.4%')
    """
    return f"{100 * share:g}%"


@dataclass(frozen=True)
class Seen:
    """Of one answer: its ``probability``, whether it claims boxes, and how much further that
    probability falls without them than without their controls (None: none was measured)."""

    probability: float
    claims_boxes: bool
    drop: float | None

    @classmethod
    def of_row(cls, row: Mapping) -> Seen:
        """Of a line of ``predictions.jsonl``.

        >>> flip = {"drop_roi": 0.5, "drop_random": 0.25}
        >>> row = {"confidences": {"answer_probability": 0.9}, "boxes": [[0, 0, 9, 9]]}
        >>> Seen.of_row(row | {"flips": {"claimed": flip}})
        Seen(probability=0.9, claims_boxes=True, drop=0.25)
        """
        found = row["flips"].get("claimed")
        drop = found["drop_roi"] - found["drop_random"] if found else None
        return cls(row["confidences"]["answer_probability"], bool(row["boxes"]), drop)

    def lack(self, need: float) -> str:
        """Why it is not shown that the answer needs its boxes; empty where it is.

        >>> Seen(0.9, True, 0.01).lack(0.05)
        'it does not need its boxes: without them its probability falls by 0.01 more than without \
their controls, not by 0.05'
        """
        if not self.claims_boxes:
            return "it claims no boxes"
        if self.drop is None:
            return "no region of the image matches its boxes, so that it needs them is not shown"
        if self.drop < need:
            return (
                f"it does not need its boxes: without them its probability falls by "
                f"{self.drop:.2f} more than without their controls, not by {need:g}"
            )
        return ""

    def score(self, need: float) -> float:
        """The score of an answer, NaN of one that is never given."""
        return math.nan if self.lack(need) else self.probability


@dataclass(frozen=True)
class Certificate:
    """From which probability on (``threshold``; None: none, and ``why``) an answer that needs its
    boxes (``need``) is certified, so that at most ``alpha`` of such answers are bad at a confidence
    of ``1 - delta``, among those of the next ``batch`` images (None: in the population).

    ``setting``: of which model, asked how, this holds. ``calibration`` and ``held_out``: what was
    counted there (``kit.report.certificate.Counts``; held_out None: no part was held out);
    ``modalities``: the same by modality.
    """

    alpha: float
    delta: float
    need: float
    threshold: float | None
    why: str
    batch: int | None
    setting: Mapping | None
    calibration: Mapping
    held_out: Mapping | None
    modalities: Mapping[str, Mapping]

    @property
    def promise(self) -> str:
        """What it promises, in a sentence."""
        of = "answers" if self.batch is None else f"answers to the next {self.batch} images"
        return (
            f"Among the certified {of} at most {percent(self.alpha)} are wrong or do not need "
            f"their boxes, with {percent(1 - self.delta)} confidence, if these are images like "
            "those that it was calibrated on, and no worse where more is asked of them."
        )

    def withheld(self, seen: Seen) -> str:
        """Why an answer is not certified; empty where it is."""
        if self.threshold is None:
            return f"nothing is certified: {self.why}"
        if lack := seen.lack(self.need):
            return lack
        if seen.probability < self.threshold:
            return f"its probability is {seen.probability:.3f}, below {self.threshold:.3f}"
        return ""

    def require(self, setting: Mapping, where: str) -> None:
        """
        Raises:
            ConfigError: the certificate is of another model, or of one that is asked otherwise.
        """
        if self.setting is None:
            what = "the certificate does not say of which model it is"
            raise ConfigError(what, where=where, fix=f"evaluate again, and {AGAIN}")
        own = json.loads(json.dumps(setting))
        names = [name for name in own if own[name] != self.setting.get(name)]
        if names:
            told = "; ".join(
                f"{name} (there {_short(self.setting.get(name))}, here {_short(own[name])})"
                for name in names
            )
            fix = "ask as that evaluation did, or calibrate one for this model"
            raise ConfigError(f"the certificate is not of this: {told}", where=where, fix=fix)

    def write(self, path: Path) -> None:
        """As JSON."""
        write_json(path, {"kind": KIND, "score": "answer_probability"} | asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> Certificate:
        """
        Raises:
            UserError: there is none, or it is none.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError("no certificate to read", where=path, fix=AGAIN) from error
        names = list(cls.__dataclass_fields__)
        if not (isinstance(found, dict) and found.get("kind") == KIND and found.keys() >= {*names}):
            raise UserError("this is no certificate", where=path, fix=AGAIN)
        return cls(**{name: found[name] for name in names})


def _short(value: object) -> str:
    """A value for a message; a sum of a file by its first digits.

    >>> _short({"a.safetensors": "0123456789abcdef"}), _short(None)
    ('a.safetensors 01234567', 'none')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {digits[:8]}" for name, digits in value.items())
    return "none" if value is None else str(value)
