"""Does the answer change when its evidence is taken away, and not when anything else is?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from kit.counterfactual.gallery import Boxes, Gallery, random_matches
from kit.counterfactual.regions import claimed_region, whole_pixels
from kit.data.records import SftRecord
from kit.evaluate.answering import complete
from kit.model.generation import question_prompt
from kit.model.processor import PreparedImage
from kit.prompting.answers import ParsedAnswer, as_set, parse_answer
from kit.prompting.messages import REQUIRED_KEYS


@dataclass(frozen=True)
class Answered:
    """A record, the mode in which it was asked, and the answer to its whole image."""

    record: SftRecord
    mode: str
    parsed: ParsedAnswer


@dataclass(frozen=True)
class Removal:
    """A region that is taken away, and the random ones that match it."""

    region: Boxes
    random: tuple[Boxes, ...]


def measure_flips(
    model: nn.Module,
    gallery: Gallery,
    answers: Sequence[Answered],
    *,
    draws: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
) -> list[dict[str, dict]]:
    """For each answer, by whose region it is (``gold``, ``claimed``): ``roi``, whether the greedy
    answer is another one without the region, and ``random``, the share of the matched random
    regions without which it is. A region that nothing matches is left out: there is nothing to
    compare it with."""
    removals = [removals_of(item, draws, seed) for item in answers]
    wanted = [
        (gallery.prepared(item.record.image, without), item.record.question, item.mode)
        for item, own in zip(answers, removals, strict=True)
        for removal in own.values()
        for without in (removal.region, *removal.random)
    ]
    said = iter(greedy_answers(model, gallery, wanted, max_new_tokens, batch_size))
    flips = []
    for item, own in zip(answers, removals, strict=True):
        before = as_set(item.parsed.answer)
        found = {}
        for source, removal in own.items():
            roi = as_set(next(said)) != before
            random = [as_set(next(said)) != before for _ in removal.random]
            found[source] = {"roi": float(roi), "random": sum(random) / len(random)}
        flips.append(found)
    return flips


def removals_of(item: Answered, draws: int, seed: int) -> dict[str, Removal]:
    """The regions of an answer, by whose they are."""
    record = item.record
    if record.image_size is None:
        return {}
    gold = whole_pixels([r.box_xyxy_pixels for r in record.regions], record.image_size)
    regions = {"gold": gold, "claimed": claimed_region(item.parsed.boxes, record.image_size)}
    found = {}
    for source, region in regions.items():
        names = (seed, record.dataset, record.qid, record.question)
        random = random_matches(region, record.image_size, draws=draws, seed=names)
        if random:
            found[source] = Removal(region, random)
    return found


def greedy_answers(
    model: nn.Module,
    gallery: Gallery,
    asks: Sequence[tuple[PreparedImage, str, str]],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The answer to each (image, question, mode), each distinct one asked once."""
    distinct = list({(image.key, q, m): (image, q, m) for image, q, m in asks}.items())
    said: dict[tuple[str, str, str], str] = {}
    for start in range(0, len(distinct), batch_size):
        part = distinct[start : start + batch_size]
        prompts = [question_prompt(gallery.processor, i, [q], m) for _, (i, q, m) in part]
        done = complete(model, gallery.processor, prompts, max_new_tokens)
        for (key, (_, _, mode)), (completion,) in zip(part, done, strict=True):
            text = gallery.processor.decode(list(completion.token_ids))
            said[key] = parse_answer(text, required=REQUIRED_KEYS[mode]).answer
    return [said[image.key, question, mode] for image, question, mode in asks]
