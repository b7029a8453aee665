"""Does an answer rest on the pixels that decide it? On phantoms these are known.

Each question that a place of its image decides (``kit.data.phantom.causes``) is asked of the same
phantom drawn again as if the things there had never been: the counterfactual itself, without a
trace of paint. The control is the phantom drawn without other things, of no part in the answer,
that change the image as much. Where a phantom cannot be drawn again, the very pixels of the things
are painted over, and for a control the same shape elsewhere. What the image gives an answer at all
is what its probability has above that for a blank one (``kit.report.causal``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kit.counterfactual.images import ImageCache
from kit.counterfactual.masks import MaskContent, boxes_of
from kit.counterfactual.probe import answer_probabilities
from kit.data.phantom.causes import ALIKE, Cause, Causes, read_causes
from kit.data.phantom.dataset import draw_without
from kit.data.phantom.layout import save_jpeg
from kit.evaluate.ablations import blank
from kit.evaluate.answering import DECIMALS, Answer, Predictor
from kit.model.processor import PreparedImage
from kit.scoring.exact import exact_match


@dataclass(frozen=True)
class _Gone:
    """What an answer is measured on: the image ``without`` what decides it and its ``controls``,
    each with how far it changes a pixel of the image on average (grey levels)."""

    by: str
    without: tuple[PreparedImage, float]
    controls: tuple[tuple[PreparedImage, float], ...]


def measure_causes(
    predictor: Predictor,
    answers: Sequence[Answer],
    probabilities: Sequence[float],
    *,
    draws: int,
    seed: int,
) -> list[dict]:
    """For each answer to a phantom's question ``causal``, for any other nothing.

    ``kind`` of question and ``things`` that decide it, none if no place does. If any does: ``by``,
    ``drawn`` again or ``painted`` over; ``probability`` of the answer given directly
    (``kit.counterfactual.probe``) by what is shown: the ``whole`` image (``probabilities``), a
    ``blank`` one, the image ``without`` the things, and the ``controls``; ``change`` and
    ``control_change``; and of one drawn again of which the truth is known, ``twin``: that
    (``gold``), the ``answer`` to it, and whether it is ``exact``.
    """
    found: list[dict] = [{} for _ in answers]
    known = {path: read_causes(path) for path in {a.record.image for a in answers}}
    chosen: list[tuple[int, Causes, Cause]] = []
    for number, item in enumerate(answers):
        record = item.record
        causes = None if record.more_images else known[record.image]
        cause = causes.of.get((record.question, record.answer)) if causes else None
        if causes is not None and cause is not None:
            found[number]["causal"] = {"kind": cause.kind, "things": list(cause.things)}
            if cause.things:
                chosen.append((number, causes, cause))
    if not chosen:
        return found
    asked = [answers[number] for number, *_ in chosen]
    gone = _without(
        predictor, [(answers[n].record.image, *rest) for n, *rest in chosen], draws, seed
    )
    likely = iter(_probabilities(predictor, asked, gone))
    for (number, *_), own in zip(chosen, gone, strict=True):
        whole = {"whole": probabilities[number]}
        found[number]["causal"] |= _row(own, whole | next(likely))
    twins = [
        (number, cause, own.without[0])
        for (number, _, cause), own in zip(chosen, gone, strict=True)
        if own.by == "drawn" and cause.without
    ]
    said = predictor.answers(
        [(image, answers[n].record.question, answers[n].mode) for n, _, image in twins]
    )
    for (number, cause, _), text in zip(twins, said, strict=True):
        exact = exact_match(text, cause.without, answers[number].record.choices)
        twin = {"gold": cause.without, "answer": text, "exact": exact}
        found[number]["causal"]["twin"] = twin
    return found


def _without(
    predictor: Predictor, chosen: Sequence[tuple[str, Causes, Cause]], draws: int, seed: int
) -> list[_Gone]:
    """What each cause of an image (by its path) is taken away by."""
    found: dict[tuple[str, tuple[str, ...]], _Gone] = {}
    of_images = {image: causes for image, causes, _ in chosen}
    drawn = {image: _Drawn(predictor, image, causes) for image, causes in of_images.items()}
    painted: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
    for image, causes, cause in chosen:
        key = image, cause.things
        if drawn[image].again and key not in found:
            without = drawn[image].without(cause.things)
            other = drawn[image].without(cause.other) if cause.other else None
            alike = other is not None and without[1] / ALIKE <= other[1] <= without[1] * ALIKE
            found[key] = _Gone("drawn", without, (other,) if alike else ())
        elif key not in found:
            painted[key] = causes.mask(cause.things)
    found |= _painted_over(predictor.image_cache, painted, draws, seed) if painted else {}
    return [found[image, cause.things] for image, _, cause in chosen]


class _Drawn:
    """A phantom that is drawn again. ``again`` says whether that gives its file: another version
    of a library may draw otherwise, and a twin would differ in more than its things."""

    def __init__(self, predictor: Predictor, image: str, causes: Causes):
        self._prepare = predictor.processor.prepare_image
        self._causes = causes
        whole = self._file(())
        self.again = whole == Path(image).read_bytes()
        self._whole = _pixels_of(whole)
        self._known: dict[tuple[str, ...], tuple[PreparedImage, float]] = {}

    def without(self, things: tuple[str, ...]) -> tuple[PreparedImage, float]:
        """The phantom without some things, as its file would show it, and how far that changes a
        pixel of the image."""
        if things not in self._known:
            pixels = _pixels_of(self._file(things))
            change = float(np.abs(pixels.astype(np.int16) - self._whole).mean())
            self._known[things] = self._prepare(Image.fromarray(pixels)), change
        return self._known[things]

    def _file(self, things: tuple[str, ...]) -> bytes:
        stream = io.BytesIO()
        save_jpeg(draw_without(self._causes.number, things, seed=self._causes.seed), stream)
        return stream.getvalue()


def _pixels_of(file: bytes) -> np.ndarray:
    """``(height, width, 3)`` uint8."""
    with Image.open(io.BytesIO(file)) as opened:
        return np.asarray(opened.convert("RGB"))


def _painted_over(
    cache: ImageCache, masks: dict[tuple[str, tuple[str, ...]], np.ndarray], draws: int, seed: int
) -> dict[tuple[str, tuple[str, ...]], _Gone]:
    """The same for masks of images."""
    regions = {key: boxes_of(mask) for key, mask in masks.items()}
    requests = [(image, region, ()) for (image, _), region in regions.items()]
    controls = cache.controls_all(requests, draws=draws, seed=seed, by=MaskContent)
    found = {}
    for (key, region), own in zip(regions.items(), controls, strict=True):
        image = key[0]
        prepared = cache.prepared_all([(image, boxes) for boxes in (region, *own)])
        share = masks[key].mean()
        changes = [float(cache.change(image, boxes) * share) for boxes in (region, *own)]
        first, *others = zip(prepared, changes, strict=True)
        found[key] = _Gone("painted", first, tuple(others))
    return found


def _probabilities(
    predictor: Predictor, asked: Sequence[Answer], gone: Sequence[_Gone]
) -> list[dict[str, float | list[float]]]:
    """Of each answer, for a ``blank`` image, ``without`` and the ``controls``."""
    blanks = {item.record.image: blank(predictor, item.record.image) for item in asked}
    asks = [
        (image, item.record.question, item.parsed.answer)
        for item, own in zip(asked, gone, strict=True)
        for image in (blanks[item.record.image], own.without[0], *(c for c, _ in own.controls))
    ]
    found = answer_probabilities(
        predictor.model, predictor.processor, asks, batch_size=predictor.batch_size
    )
    likely = iter(round(one, DECIMALS) for one in found)
    return [
        {
            "blank": next(likely),
            "without": next(likely),
            "controls": [next(likely) for _ in own.controls],
        }
        for own in gone
    ]


def _row(own: _Gone, probability: dict) -> dict:
    row = {
        "by": own.by,
        "probability": probability,
        "change": round(own.without[1], DECIMALS),
    }
    if own.controls:
        changes = [change for _, change in own.controls]
        row["control_change"] = round(sum(changes) / len(changes), DECIMALS)
    return row
