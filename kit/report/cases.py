"""Which answers are worth looking at, and the pictures that show why."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kit.counterfactual.inpaint import inpaint
from kit.data.canvas import Canvas
from kit.data.images import open_image
from kit.data.types import Shown, paths_of
from kit.errors import ImageError
from kit.prompting.answers import same_answer

SIDE = 320  # longest side of a picture, in pixels
QUALITY = 80
IN_PLACE = {"blank": "blank image", "shuffled": "another image", "question_only": "no image"}


def _flip(row: Mapping, part: str) -> float | None:
    flips = row.get("flips", {})
    found = flips.get("gold") or flips.get("claimed")
    return found and found[part]


def _differs(answer: str, row: Mapping) -> bool:
    return not same_answer(answer, row["answer"], row.get("choices", ()))


def _right(row: Mapping) -> bool:
    return row["scores"]["exact"] == 1


def _ignores_image(row: Mapping) -> bool:
    ablations = row.get("ablations", {})
    return bool(ablations) and not any(a["changed"] for a in ablations.values())


@dataclass(frozen=True)
class Kind:
    """A kind of case: its words, what it means, which rows are of it, and which come first."""

    name: str
    words: str
    meaning: str
    holds: Callable[[Mapping], bool]
    first: Callable[[Mapping], float]


def _sure(row: Mapping) -> float:
    return row.get("confidences", {}).get("answer_probability", 0.0)


KINDS = (
    Kind(
        "confident_error",
        "confident error",
        "wrong, and most sure of it",
        lambda row: not _right(row),
        _sure,
    ),
    Kind(
        "miss",
        "missed the evidence",
        "the claimed boxes cover less than a tenth of where the evidence is",
        lambda row: "grounding" in row and row["grounding"]["iou"] < 0.1,
        _sure,
    ),
    Kind(
        "unmoved",
        "unmoved without evidence",
        "right, but the evidence (without gold boxes: its own) was taken out and the answer stayed",
        lambda row: _flip(row, "roi") == 0 and _right(row),
        _sure,
    ),
    Kind(
        "random_flip",
        "flips at random",
        "a control was taken out and the answer changed: it should not have",
        lambda row: bool(_flip(row, "random")),
        lambda row: _flip(row, "random"),
    ),
    Kind(
        "faithful",
        "faithful",
        "right, changed without the evidence and did not change without its controls",
        lambda row: _right(row) and _flip(row, "roi") == 1 and _flip(row, "random") == 0,
        lambda row: row.get("grounding", {}).get("iou", 0.0),
    ),
    Kind(
        "blind",
        "ignores the image",
        "the same answer to a blank image, to another one and to none",
        _ignores_image,
        _sure,
    ),
    Kind(
        "right",
        "right, and found",
        "right, and the claimed boxes fit the evidence (IoU at least 0.5)",
        lambda row: _right(row) and row.get("grounding", {}).get("acc@0.5") == 1,
        lambda row: row["grounding"]["iou"],
    ),
)


def choose(rows: Sequence[Mapping], each: int) -> list[tuple[Mapping, list[str]]]:
    """Up to ``each`` rows of each kind, of different images as far as there are, and the kinds of
    each; a row that is of several kinds comes once."""
    chosen: dict[int, Mapping] = {}
    for kind in KINDS:
        fitting = sorted(filter(kind.holds, rows), key=kind.first, reverse=True)
        seen: set[str] = set()
        fresh = [r for r in fitting if not (r["image"] in seen or seen.add(r["image"]))]
        again = [r for r in fitting if not any(r is other for other in fresh)]
        for row in [*fresh, *again][:each]:
            chosen[id(row)] = row
    return [(row, [k.name for k in KINDS if k.holds(row)]) for row in chosen.values()]


class Pictures:
    """The pictures of a page as data URIs, each once. One whose file is not there is None."""

    def __init__(self, method: str):
        self.method = method
        self.uris: dict[str, str] = {}
        self._names: dict[tuple, str] = {}  # paths stay out of the page

    def name(self, shown: Shown, without: Iterable[Sequence[int]] = ()) -> str | None:
        """The key in ``uris`` of an image, or of the image without boxes; of several images, of
        their canvas."""
        boxes = tuple(tuple(box) for box in without)
        if (shown, boxes) not in self._names:
            try:
                images = [_pixels(path) for path in paths_of(shown)]
            except ImageError:
                return None
            canvas = Canvas.of_pixels(images)
            parts = zip(images, canvas.by_image(boxes), strict=True)
            whole = canvas.joined([inpaint(i, own, self.method) if own else i for i, own in parts])
            name = f"p{len(self.uris)}"
            self.uris[name] = picture_uri(Image.fromarray(whole))
            self._names[shown, boxes] = name
        return self._names[shown, boxes]


@functools.lru_cache(maxsize=8)
def _pixels(path: str) -> np.ndarray:
    return np.asarray(open_image(path))


def picture_uri(image: Image.Image) -> str:
    """A small copy of an image, at most ``SIDE`` pixels long, as a data URI. Changes the image."""
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def gallery(models: Mapping[str, Sequence[Mapping]], pictures: Pictures, each: int) -> list[dict]:
    """The cards of the gallery, as plain values for the page."""
    cards = []
    for model, rows in models.items():
        for mode in dict.fromkeys(row["mode"] for row in rows):
            own = [row for row in rows if row["mode"] == mode]
            cards += [card(model, row, kinds, pictures) for row, kinds in choose(own, each)]
    return cards


def card(model: str, row: Mapping, kinds: Sequence[str], pictures: Pictures) -> dict:
    """One answer: its texts, scores and views."""
    keys = ("mode", "dataset", "qid", "question", "gold", "answer", "caption", "reasoning")
    return {key: row[key] for key in keys} | {
        "model": model,
        "kinds": list(kinds),
        "right": _right(row),
        "sure": row.get("confidences", {}).get("answer_probability"),
        "has": {"gold": bool(row["evidence"]), "claimed": bool(row["boxes"])},
        "problem": row["problem"],
        "text": row["text"] if row["problem"] else "",
        "image": ", ".join(Path(path).name for path in paths_of(_shown(row))),
        "answer_type": row["answer_type"],
        "modality": row["modality"],
        "content_type": row["content_type"],
        "scores": list(_scores(row)),
        "views": list(_views(row, pictures)),
    }


def _scores(row: Mapping):
    confidences = row.get("confidences", {})
    words = {
        "answer_probability": "answer probability",
        "consistency": "caption-question cosine",
        "self_consistency": "self-consistency",
    }
    for name, value in confidences.items():
        yield words.get(name, name), value
    if "grounding" in row:
        yield "IoU", row["grounding"]["iou"]
    for source, found in row.get("flips", {}).items():
        if source != "both" and "drop_roi" in found:
            which = "evidence" if source == "gold" else "own boxes"
            yield f"drop without {which}", found["drop_roi"]
            yield f"... without random ({which})", found["drop_random"]


def _views(row: Mapping, pictures: Pictures):
    """The image with all boxes, without the evidence, without the claimed boxes, without a random
    region, and what stood in its place; each with the answer to it."""
    shown = _shown(row)
    yield _view("image", pictures.name(shown), row["answer"], None, _boxes(row))
    flips = row.get("flips", {})
    for source, words in (("gold", "without evidence"), ("claimed", "without own boxes")):
        if source in flips:
            found = flips[source]
            name = pictures.name(shown, found["region"])
            marks = in_percent(found["region"], Canvas.of_row(row).size, "removed")
            yield _view(words, name, found["answer"], found["roi"] == 1, marks)
    source = "gold" if "gold" in flips else "claimed"
    if source in flips:
        found = flips[source]
        said = found["random_answers"]
        # one that changed the answer, if there is one
        place = next((i for i, one in enumerate(said) if _differs(one, row)), 0)
        region = found["random_regions"][place]
        marks = in_percent(region, Canvas.of_row(row).size, "random")
        name = pictures.name(shown, region)
        yield _view("without a random region", name, said[place], _differs(said[place], row), marks)
    ablations = row.get("ablations", {})
    for key, words in IN_PLACE.items():
        if key in ablations:
            found = ablations[key]
            other = found.get("image", "")
            name = pictures.name(other if isinstance(other, str) else tuple(other)) if other else ""
            yield _view(words, name, found["answer"], found["changed"] == 1, [], first=False)


def _view(
    label: str,
    picture: str | None,
    answer: str,
    changed: bool | None,
    boxes: list,
    first: bool = True,
) -> dict:
    """``first``: it is shown at once."""
    return {
        "label": label, "picture": picture, "answer": answer, "changed": changed, "boxes": boxes,
        "first": first,
    }  # fmt: skip


def _shown(row: Mapping) -> Shown:
    """``SftRecord.shown`` of a line."""
    more = row.get("more_images")
    return (row["image"], *more) if more else row["image"]


def _boxes(row: Mapping) -> list[dict]:
    if not row["image_size"]:
        return []
    canvas = Canvas.of_row(row)
    gold = [region["box"] for region in row["evidence"]]
    labels = [region["label"] for region in row["evidence"]]
    return [
        *in_percent(gold, canvas.size, "gold", labels),
        *in_percent(map(canvas.claimed, row["boxes"]), canvas.size, "claimed"),
    ]


def in_percent(
    boxes: Iterable[Sequence[float]],
    size: tuple[int, int],
    kind: str,
    labels: Sequence[str] = (),
) -> list[dict]:
    """Boxes in pixels of a ``(width, height)`` picture as the page draws them over it."""
    width, height = size
    return [
        {
            "kind": kind,
            "label": labels[i] if labels else "",
            "x": round(100 * x1 / width, 2),
            "y": round(100 * y1 / height, 2),
            "w": round(100 * (x2 - x1) / width, 2),
            "h": round(100 * (y2 - y1) / height, 2),
        }
        for i, (x1, y1, x2, y2) in enumerate(boxes)
    ]
