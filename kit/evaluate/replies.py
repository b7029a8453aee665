"""What a model says of an image, and what it says when the boxes that it claims are taken out."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kit.counterfactual.regions import Boxes, claimed_region
from kit.data.canvas import Canvas
from kit.data.records import SftRecord
from kit.data.types import Shown
from kit.evaluate.answering import (
    DECIMALS,
    Answer,
    Predictor,
    answer,
    loaded_predictor,
    plan,
)
from kit.evaluate.ask import mode_of
from kit.evaluate.ask_config import AskConfig
from kit.evaluate.confidence import measure_confidences
from kit.evaluate.flips import interventions_of, outcomes_of
from kit.prompting.answers import ParsedAnswer, same_answer
from kit.prompting.messages import REQUIRED_KEYS
from kit.report.certificate_file import Certificate, Seen
from kit.run.process import fix_algorithms, join


@dataclass(frozen=True)
class Without:
    """What is said without ``boxes`` (pixels of the canvas), whether that is another answer than
    to the whole image, and the probability of that one."""

    boxes: Boxes
    answer: str
    changed: bool
    probability: float


@dataclass(frozen=True)
class Reply:
    """An answer, the probability of it (given at once, without reasoning; geometric mean over its
    tokens), the boxes that it claims in whole pixels of the canvas, and what is said without them
    and without each region that matches them; ``removed`` is None where nothing was taken away.
    ``withheld``: why it is not certified, empty where it is, None without a certificate."""

    record: SftRecord
    mode: str
    parsed: ParsedAnswer
    truncated: bool
    canvas: Canvas
    probability: float
    region: Boxes
    removed: Without | None = None
    controls: tuple[Without, ...] = ()
    withheld: str | None = None

    @property
    def answer(self) -> str:
        return self.parsed.answer

    def boxes_in_images(self, boxes: Boxes | None = None) -> list[tuple[int, ...]]:
        """Boxes in pixels of the image; of several images with the number of theirs first."""
        by_image = self.canvas.by_image(self.region if boxes is None else boxes)
        return [
            (number, *box) if len(by_image) > 1 else box
            for number, own in enumerate(by_image, 1)
            for box in own
        ]

    @property
    def note(self) -> str:
        """What is wrong with its form; empty where nothing is."""
        if self.truncated:
            return "cut off: set a larger max_new_tokens"
        return "" if self.parsed.valid_json else f"not as it was asked for: {self.parsed.problem}"

    @property
    def certified(self) -> str:
        """What the certificate says of it; empty without one."""
        if self.withheld is None:
            return ""
        return f"withheld: {self.withheld}" if self.withheld else "certified"

    def seen(self) -> Seen:
        """What a certificate goes by."""
        drop = None
        if self.removed and self.controls:
            mean = sum(one.probability for one in self.controls) / len(self.controls)
            drop = mean - self.removed.probability
        return Seen(self.probability, bool(self.region), drop)

    def finding(self) -> str:
        """What became of the answer, in a sentence or two; empty where that was not asked."""
        if self.removed is None:
            if not self.region and "boxes" in REQUIRED_KEYS[self.mode]:
                return "The answer claims no boxes, so that nothing could be taken away."
            return ""
        changed, n = sum(one.changed for one in self.controls), len(self.controls)
        before, after = self.probability, self.removed.probability
        chance = (
            f"Given at once, its probability goes from {before:.2f} to {after:.2f} without them"
        )
        if not n:
            own = "changes" if self.removed.changed else "stays"
            return (
                f"The answer {own} without its boxes. {chance}. No other region of the image "
                "matches them in size and content, so it cannot be told whether any such region "
                "would do the same."
            )
        if not self.removed.changed:
            outcome = "stays without its boxes, as one that does not rest on them would"
        elif not changed:
            others = "the matched region" if n == 1 else f"any of {n} matched regions"
            outcome = f"changes without its boxes and not without {others}, as one that rests on "
            outcome += "them would"
        else:
            outcome = f"changes without its boxes, but also without {changed} of {n} matched "
            outcome += "regions, so that it rests on these boxes is not shown"
        matched = "the matched region" if n == 1 else "a matched region, on average"
        mean = sum(one.probability for one in self.controls) / n
        return f"The answer {outcome}. {chance}, and to {mean:.2f} without {matched}."

    def told(self) -> list[tuple[str, str]]:
        """What is said without the boxes and without each control, in lines of (what, answer)."""
        lines = []
        for name, one in self.images_without():
            change = "changed" if one.changed else "the same"
            drop = f"probability of the first {self.probability:.2f} -> {one.probability:.2f}"
            lines.append((name, f"{one.answer}   ({change}; {drop})"))
        return [*lines, ("", self.finding())]

    def images_without(self) -> list[tuple[str, Without]]:
        """What was taken away, by name: the boxes first, then each control."""
        controls = [(f"without control {n}", one) for n, one in enumerate(self.controls, 1)]
        return [("without the boxes", self.removed), *controls] if self.removed else []

    def to_json(self) -> dict:
        """As plain JSON values."""
        return {
            "question": self.record.question,
            "answer": self.answer,
            "probability": round(self.probability, DECIMALS),
            "caption": self.parsed.caption,
            "reasoning": list(self.parsed.reasoning),
            "boxes": [list(box) for box in self.boxes_in_images()],
            "text": self.parsed.text,
            "valid_json": self.parsed.valid_json,
            "truncated": self.truncated,
            "without_boxes": self.removed and self._json_without(self.removed),
            "without_controls": [self._json_without(one) for one in self.controls],
            "finding": self.finding(),
        } | ({} if self.withheld is None else {"certificate": self.certified})

    def _json_without(self, one: Without) -> dict:
        return {
            "boxes": [list(box) for box in self.boxes_in_images(one.boxes)],
            "answer": one.answer,
            "changed": one.changed,
            "probability": round(one.probability, DECIMALS),
            "drop": round(self.probability - one.probability, DECIMALS),
        }


@contextlib.contextmanager
def opened(config: AskConfig, records: Sequence[SftRecord] = ()) -> Iterator[Predictor]:
    """The model, loaded as ``evaluate`` loads it; what is said meanwhile goes to standard error,
    so that standard output holds answers alone."""
    with contextlib.ExitStack() as stack:
        with contextlib.redirect_stdout(sys.stderr):
            fix_algorithms(config.full_determinism)
            loaded = loaded_predictor(
                config,
                join(),
                records,
                [mode_of(config)],
                inpainting=config.inpainting,
                answer_boxes=config.answer_boxes,
            )
            predictor = stack.enter_context(loaded)
        yield predictor


def replies(
    predictor: Predictor,
    records: Sequence[SftRecord],
    config: AskConfig,
    certificate: Certificate | None = None,
) -> Iterator[tuple[Shown, list[Reply]]]:
    """What is said of each image, in the order of the records, of which those of one image stand
    together."""
    batches = plan(records, [mode_of(config)], config.per_device_eval_batch_size)
    found = (reply for batch in batches for reply in _of_batch(predictor, records, batch, config))
    if certificate:
        found = (replace(reply, withheld=certificate.withheld(reply.seen())) for reply in found)
    for shown, own in itertools.groupby(found, key=lambda reply: reply.record.shown):
        yield shown, list(own)


def _of_batch(predictor, records, batch, config: AskConfig) -> list[Reply]:
    asked = answer(predictor, records, batch)
    items = [
        Answer(records[i], mode, predictor.parse(done, mode, records[i].shown))
        for i, mode, done in asked
    ]
    confidences = measure_confidences(
        predictor, items, consistency=None, num_samples=0, temperature=1.0, seed=config.seed
    )
    cache = predictor.image_cache
    found = [{}] * len(items)
    if config.counterfactual:
        found = interventions_of(cache, items, config.random_draws, config.seed)
    owned = [(item, own["claimed"]) for item, own in zip(items, found, strict=True) if own]
    outcomes = iter(outcomes_of(predictor, owned))
    made = []
    for item, own, (_, mode, done), confidence in zip(
        items, found, asked, confidences, strict=True
    ):
        canvas = cache.canvas(item.record.shown)
        without = _without(item, own["claimed"], next(outcomes)) if own else []
        made.append(
            Reply(
                item.record,
                mode,
                item.parsed,
                done.truncated,
                canvas,
                confidence["answer_probability"],
                claimed_region(item.parsed.boxes, canvas),
                without[0] if own else None,
                tuple(without[1:]),
            )
        )
    return made


def _without(item: Answer, intervention, outcome) -> list[Without]:
    effect = outcome.effect
    parts = zip(
        (intervention.region, *intervention.controls),
        (outcome.answer, *outcome.of_controls),
        (effect.without_evidence, *effect.without_controls),
        strict=True,
    )
    return [
        Without(boxes, said, not same_answer(said, item.parsed.answer), probability)
        for boxes, said, probability in parts
    ]
