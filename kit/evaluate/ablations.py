"""Does the model look at all? Its answers to a blank image, to another record's image, and to the
question alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from kit.data.records import SftRecord
from kit.data.types import Shown
from kit.evaluate.answering import Answer, Predictor
from kit.model.processor import PreparedImage
from kit.prompting.answers import same_answer
from kit.scoring.exact import exact_match

ABLATIONS = ("blank", "shuffled", "question_only")
GREY = (127, 127, 127)


def measure_ablations(
    predictor: Predictor, answers: Sequence[Answer], partners: dict[Shown, Shown]
) -> list[dict[str, dict]]:
    """For each answer, by what stood in the place of its image: ``answer``, whether it is
    ``changed`` from the one to the image, and whether it is ``exact`` (1.0 or 0.0); of a
    ``shuffled`` image also which it was."""
    shuffled = [item.record.shown for item in answers if item.record.shown in partners]
    others = predictor.image_cache.prepared_all([(partners[shown], ()) for shown in shuffled])
    other = dict(zip(shuffled, others, strict=True))
    wanted = []
    for item in answers:
        record = item.record
        shown = {"blank": blank(predictor, record.shown), "question_only": None}
        if record.shown in other:
            shown["shuffled"] = other[record.shown]
        wanted += [(item, name, shown[name]) for name in ABLATIONS if name in shown]
    said = predictor.answers([(image, i.record.question, i.mode) for i, _, image in wanted])
    found: dict[int, dict[str, dict]] = {id(item): {} for item in answers}
    for (item, name, _), text in zip(wanted, said, strict=True):
        found[id(item)][name] = {
            "answer": text,
            "changed": float(not same_answer(text, item.parsed.answer, item.record.choices)),
            "exact": exact_match(text, item.record.answer, item.record.choices),
        } | ({"image": partners[item.record.shown]} if name == "shuffled" else {})
    return [found[id(item)] for item in answers]


def blank(predictor: Predictor, shown: Shown) -> PreparedImage:
    """Grey images of the size of others."""
    prepare = predictor.processor.prepare_image
    sizes = predictor.image_cache.canvas(shown).sizes
    return PreparedImage.together([prepare(Image.new("RGB", size, GREY)) for size in sizes])


def other_images(records: Sequence[SftRecord], seed: int) -> dict[Shown, Shown]:
    """For each image another one of the same dataset, of the same modality and location where
    there is one, else of the same modality; none for the only one of its dataset. For several
    images of one question, as many of another one.

    An image of another kind would change answers about the kind for free.
    """
    kinds = (
        lambda r: (len(r.images), r.dataset, r.modality, r.location),
        lambda r: (len(r.images), r.dataset, r.modality),
        lambda r: (len(r.images), r.dataset),
    )
    found: dict[Shown, Shown] = {}
    for kind in kinds:
        alike: dict[tuple, dict[Shown, None]] = {}
        for record in records:
            alike.setdefault(kind(record), {})[record.shown] = None
        for images in alike.values():
            order = np.random.default_rng(seed).permutation(len(images))
            ring = [list(images)[place] for place in order]
            if len(ring) > 1:
                found = dict(zip(ring, [*ring[1:], ring[0]], strict=True)) | found
    return found
