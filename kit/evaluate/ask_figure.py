"""A picture of answers to one image: the image with the claimed boxes, the image without them and
without each control, and what was said of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kit.counterfactual.inpaint import inpaint
from kit.counterfactual.regions import Boxes
from kit.data.canvas import Canvas
from kit.data.images import open_image
from kit.evaluate.figure import (
    CLAIMED,
    GREY,
    INK,
    MARGIN,
    PAPER,
    SIDE,
    boxed,
    draw_sheet,
    write_text,
)
from kit.evaluate.replies import Reply

CONTROL = "#2b6cb0"
CELL = SIDE + 2 * MARGIN
UNDER = 74  # below a square, for what was said of it


def shown_images(
    reply: Reply, method: str
) -> list[tuple[str, Image.Image, list[tuple[Sequence[int], str]], str]]:
    """What the model was shown, as (name, image, boxes to draw with their colours, answer): the
    whole image first, then without its boxes, then without each control."""
    pixels = [np.asarray(open_image(path)) for path in reply.record.images]
    canvas = reply.canvas
    whole = Image.fromarray(canvas.joined(pixels))
    marks = [(box, CLAIMED) for box in reply.region]
    found = [("the image", whole, marks, reply.answer)]
    for name, one in reply.images_without():
        colour = CLAIMED if one is reply.removed else CONTROL
        image = Image.fromarray(_without(canvas, pixels, one.boxes, method))
        found.append((name, image, [(box, colour) for box in one.boxes], one.answer))
    return found


def draw_replies(replies: Sequence[Reply], output: str | Path, method: str) -> None:
    """Draw all that was said of an image, as a PNG."""
    panels = [_panel(reply, method) for reply in replies]
    width, height = (max(panel.size[axis] for panel in panels) for axis in (0, 1))
    legend = [("orange: boxes that the model claims", CLAIMED)]
    if any(reply.controls for reply in replies):
        legend.append(("blue: controls that match them", CONTROL))
    draw_sheet([_grown(panel, (width, height)) for panel in panels], legend, output, columns=1)


def _without(canvas: Canvas, pixels: Sequence[np.ndarray], boxes: Boxes, method: str) -> np.ndarray:
    by_image = canvas.by_image(boxes)
    return canvas.joined(
        [
            inpaint(image, own, method) if own else image
            for image, own in zip(pixels, by_image, strict=True)
        ]
    )


def _panel(reply: Reply, method: str) -> Image.Image:
    shown = shown_images(reply, method)
    width = CELL * max(2, len(shown))
    panel = Image.new("RGB", (width, CELL + UNDER + 700), PAPER)
    draw = ImageDraw.Draw(panel)
    for number, (name, image, marks, said) in enumerate(shown):
        panel.paste(boxed(image, marks), (number * CELL, 0))
        under = [(name, GREY, 15), (_shortened(said), CLAIMED if number == 0 else INK, 19)]
        write_text(draw, (number * CELL + MARGIN, CELL - 8), under, SIDE)
    paragraphs = [
        (reply.record.question, INK, 19),
        (f"answer: {reply.answer} (probability {reply.probability:.2f})", CLAIMED, 19),
        (reply.parsed.caption, GREY, 15),
        *((f"- {step}", GREY, 15) for step in reply.parsed.reasoning),
        (reply.finding(), INK, 15),
    ]
    written = [paragraph for paragraph in paragraphs if paragraph[0]]
    end = write_text(draw, (MARGIN, CELL + UNDER), written, width - 2 * MARGIN)
    return panel.crop((0, 0, width, end + MARGIN))


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _grown(panel: Image.Image, size: tuple[int, int]) -> Image.Image:
    whole = Image.new("RGB", size, PAPER)
    whole.paste(panel, (0, 0))
    return whole
