"""Which pixels of a phantom decide a question, and what is true where they were never drawn.

A phantom knows its things (organs and lesions) and where each can be seen. What decides a question
is all things from which its answer can be read, so that nothing tells it once they are gone: for
"the bigger lesion" both lesions, for the colour of a kidney both kidneys (drawn in one tone), and
with an organ the lesions that lie in it. Many questions have no such place: what a whole scan
tells (modality, plane, body part, weighting, and by that the tone of a ventricle), and what
nothing there decides (a "No", a count of 0).

``causes.json`` beside an image holds that for its questions: a thing's pixels are run lengths
column by column, as COCO's uncompressed RLE has them (a mask starts with its zeros), and ``drawn``
is what the phantom can be drawn again from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from kit.data.phantom.layout import CAUSES, Question
from kit.data.phantom.lesions import Lesion, lesion_name
from kit.data.phantom.questions import LARGEST
from kit.data.phantom.scene import Scene
from kit.data.questions import load_json
from kit.errors import DataError

ALIKE = 1.25  # the most by which the changes of a cause and of the others differ, either way
_FULL = 1.08  # of a cause's change, that several others are filled up to

_EDGES = 0.02  # of a cause's pixels, that others may change too

_SEEN = 0.5  # grey levels: less cannot be seen
_BLURRED = 3  # pixels as far as the scanner's blur carries a thing


@dataclass(frozen=True)
class Cause:
    """What decides a question of this ``kind``: ``things`` by name, none where it is no place.

    ``without`` is the true answer where they were never drawn, "" where there is none.
    ``other`` are things that change the picture about as much, without which the answer stays
    what it is.
    """

    kind: str
    things: tuple[str, ...] = ()
    without: str = ""
    other: tuple[str, ...] = ()


@dataclass(frozen=True)
class Causes:
    """Those of an image's questions, by question and answer; ``masks`` of the things by name,
    ``(height, width)`` bool; ``number`` and ``seed`` of the phantom."""

    of: dict[tuple[str, str], Cause]
    masks: dict[str, np.ndarray]
    number: int
    seed: int

    def mask(self, things: Iterable[str]) -> np.ndarray:
        """``(height, width)`` bool: where any of the things can be seen."""
        return np.logical_or.reduce([self.masks[name] for name in things])


def answer_without(cause: Cause, answer: str, things: Iterable[str]) -> str:
    """The true answer where ``things`` were never drawn, "" where it is not known.

    >>> cause = Cause("lesion count", ("lesion 1", "lesion 2"), "0")
    >>> [answer_without(cause, "2", t) for t in (("Liver",), cause.things, ("lesion 1",))]
    ['2', '0', '']
    """
    gone = {*cause.things} & {*things}
    if not gone:
        return answer
    return cause.without if gone == {*cause.things} else ""


def causes_of(
    questions: Sequence[Question], scene: Scene, lesions: Sequence[Lesion]
) -> tuple[dict[tuple[str, str], Cause], dict[str, np.ndarray]]:
    """What decides each question, and the masks of the things that are named."""
    found = {}
    for question in questions:
        cause = _cause(question, scene, lesions)
        if cause.things:
            cause = replace(cause, other=_others(cause.things, scene, lesions))
        found[question.question, question.answer] = cause
    used = {name for cause in found.values() for name in cause.things}
    return found, {name: _mask(scene.things[name]) for name in sorted(used)}


def _mask(change: np.ndarray) -> np.ndarray:
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _BLURRED + 1,) * 2)
    return cv2.dilate((change > _SEEN).astype(np.uint8), ball).astype(bool)


def _cause(question: Question, scene: Scene, lesions: Sequence[Lesion]) -> Cause:
    kind, answer, names = question.kind, question.answer, question.names
    if answer in ("No", "0") and kind != "heart size":
        return Cause(kind)
    organs = [organ.label for organ in scene.organs]
    every = range(len(lesions))
    without = {"lesion count": "0", "organ count": "0"}.get(kind, "No" if answer == "Yes" else "")
    own: Iterable[int] = ()
    if kind in _EVERY_LESION or (kind in _LOOKS and names[0] in ("lesion", "bigger lesion")):
        own = every
    elif kind in (*_LOOKS, "named host", "has disease"):
        own = [i for i in every if lesions[i].label == names[0]]
    elif kind == "lesion in":
        own = [i for i in every if lesions[i].host == names[0]]
    elif kind == "lesion at":
        own = [i for i in every if lesions[i].quadrant == names[0]]
    if own:
        return Cause(kind, tuple(lesion_name(i) for i in own), without)
    asked: Sequence[str] = ()
    if kind in ("contains", "bigger organ"):
        asked = names
    elif kind == "organ count" or (kind == "organ color" and names[0].endswith("Kidney")):
        asked = [o for o in organs if o.lower().endswith(names[0].lower().split()[-1].rstrip("s"))]
    elif kind == "largest organ":
        asked = [o for o in organs if o in LARGEST[scene.kind] and o != "Brain"]
    elif kind == "heart size":
        asked, without = ("Heart",), ""
    if asked:
        return Cause(kind, _with_lesions(asked, lesions), without)
    return Cause(kind)


_EVERY_LESION = (
    "any lesion", "lesion count", "disease", "lesion host", "lesions host", "bigger lesion",
)  # fmt: skip
_LOOKS = ("quadrant", "lesion color", "lesion shape")


def _with_lesions(organs: Iterable[str], lesions: Sequence[Lesion]) -> tuple[str, ...]:
    """Organs, and the lesions that lie in them."""
    organs = tuple(organs)
    inside = [lesion_name(i) for i, lesion in enumerate(lesions) if lesion.host in organs]
    return (*organs, *inside)


def _others(things: Sequence[str], scene: Scene, lesions: Sequence[Lesion]) -> tuple[str, ...]:
    """Things that have no part in ``things``, change none of their pixels (but for a soft edge),
    and change the picture about as much: the one nearest in that, or several, the largest first
    that still fit in; none where neither comes near."""
    hosts = {lesion.host for i, lesion in enumerate(lesions) if lesion_name(i) in things}
    seen = np.logical_or.reduce([scene.things[name] > _SEEN for name in things])
    change = {name: float(each.sum()) for name, each in scene.things.items()}
    whole = sum(change[name] for name in things)
    free = {
        (names := _with_lesions([name], lesions)): sum(change[each] for each in names)
        for name in change.keys() - {*things, *hosts, "Brain"}
        if change[name] > 0 and (scene.things[name] > _SEEN)[seen].mean() <= _EDGES
    }
    several: tuple[str, ...] = ()
    total = 0.0
    for names in sorted(free, key=lambda names: (-free[names], names)):
        if total + free[names] <= _FULL * whole and not {*names} & {*several}:
            several, total = (*several, *names), total + free[names]
    found = {**free, several: total} if several else free
    apart = {names: abs(math.log(each / whole)) for names, each in found.items()}
    nearest = min(apart, key=lambda names: (apart[names], names), default=())
    return nearest if nearest and apart[nearest] <= math.log(ALIKE) else ()


def to_json(
    causes: dict[tuple[str, str], Cause], masks: dict[str, np.ndarray], number: int, seed: int
) -> str:
    """The text of a ``causes.json``."""
    shape = next(iter(masks.values())).shape if masks else ()
    value = {
        "drawn": {"number": number, "seed": seed},
        "size": list(shape),
        "things": {name: run_lengths(mask) for name, mask in masks.items()},
        "questions": [
            {
                "question": question, "answer": answer, "kind": cause.kind,
                "things": cause.things, "without": cause.without, "other": cause.other,
            }
            for (question, answer), cause in causes.items()
        ],
    }  # fmt: skip
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_causes(image: str | Path) -> Causes | None:
    """Those beside an image, or None where there are none: it is no phantom.

    Raises:
        DataError: a broken file.
    """
    path = Path(image).parent / CAUSES
    if not path.is_file():
        return None
    value = load_json(path)
    try:
        masks = {name: mask_of_runs(runs, value["size"]) for name, runs in value["things"].items()}
        of = {
            (one["question"], one["answer"]): Cause(
                one["kind"], tuple(one["things"]), one["without"], tuple(one["other"])
            )
            for one in value["questions"]
        }
        named = {name for cause in of.values() for name in cause.things}
        if not named <= masks.keys():
            raise ValueError(f"no pixels of {', '.join(sorted(named - masks.keys()))}")
        return Causes(of, masks, int(value["drawn"]["number"]), int(value["drawn"]["seed"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fix = "draw the phantoms again (python -m kit.data.phantom), or remove the file"
        raise DataError(f"not as it was written: {error!r}", where=path, fix=fix) from error


def run_lengths(mask: np.ndarray) -> list[int]:
    """A ``(height, width)`` bool mask as the lengths of its runs, column by column, zeros first.

    >>> mask = np.array([[True, False], [True, True]])
    >>> run_lengths(mask), bool((mask_of_runs([0, 2, 1, 1], (2, 2)) == mask).all())
    ([0, 2, 1, 1], True)
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    turns = np.flatnonzero(np.diff(flat))
    return np.diff([0, *turns, mask.size]).tolist()


def mask_of_runs(runs: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The same back; ``size`` is ``(height, width)``.

    Raises:
        ValueError: the runs do not fill the size.
    """
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(tuple(size), order="F")
