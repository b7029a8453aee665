"""A picture of a few answers: the image with gold and claimed boxes, and what the model said."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kit.data.canvas import Canvas
from kit.data.images import open_image
from kit.data.records import SftRecord, read_sft_records
from kit.files import atomic_write, iter_json_lines

GOLD, CLAIMED, INK, PAPER, GREY = "#2e9e5b", "#e4572e", "#1a1a1a", "#ffffff", "#6b6b6b"
SIDE, TEXT_WIDTH, MARGIN = 320, 430, 16


def draw_examples(
    predictions: str | Path, data: str | Path, output: str | Path, count: int = 4
) -> None:
    """Draw ``count`` answers from ``predictions.jsonl``, of different images and kinds of question
    as far as there are, as a PNG: first those that claim boxes where there are gold ones, none
    without any box. ``data`` is the file that was evaluated."""
    records = {(r.image, r.qid, r.question): r for r in read_sft_records(data, "skip")[0]}
    rows = [row for _, row in iter_json_lines(predictions)]
    boxed_rows = [row for row in rows if row["boxes"] or "grounding" in row]
    boxed_rows.sort(key=lambda row: (not row["boxes"], "grounding" not in row))
    chosen = _choose(boxed_rows, count)
    if not chosen:
        return
    panels = [_panel(row, records[row["image"], row["qid"], row["question"]]) for row in chosen]
    legend = [("green: gold box", GOLD), ("orange: box that the model claims", CLAIMED)]
    draw_sheet(panels, legend, output)


def draw_sheet(
    panels: Sequence[Image.Image],
    legend: Sequence[tuple[str, str]],
    output: str | Path,
    columns: int = 2,
) -> None:
    """Panels of the first one's size side by side, with a legend of (text, colour), as a PNG."""
    columns = min(columns, len(panels))
    width, height = panels[0].size
    lines = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * width, lines * height + 36), PAPER)
    for number, panel in enumerate(panels):
        sheet.paste(panel, ((number % columns) * width, (number // columns) * height))
    draw, font, x = ImageDraw.Draw(sheet), ImageFont.load_default(15), MARGIN
    for text, colour in legend:
        draw.text((x, lines * height + 8), text, fill=colour, font=font)
        x += round(draw.textlength(text, font=font)) + 2 * MARGIN
    with atomic_write(output, "wb") as stream:
        sheet.save(stream, format="PNG", optimize=True)


def boxed(image: Image.Image, boxes: Sequence[tuple[Sequence[float], str]]) -> Image.Image:
    """A square panel of an image with (box in its pixels, colour) drawn on it."""
    panel = Image.new("RGB", (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN), PAPER)
    panel.paste(marked(image, boxes, SIDE), (MARGIN, MARGIN))
    return panel


def marked(
    image: Image.Image, boxes: Sequence[tuple[Sequence[float], str]], side: int
) -> Image.Image:
    """An image whose longer side is ``side``, with (box in the image's pixels, colour) on it."""
    scale = side / max(image.size)
    shown = image.resize([max(1, round(length * scale)) for length in image.size])
    draw = ImageDraw.Draw(shown)
    for box, colour in boxes:
        draw.rectangle([v * scale for v in box], outline=colour, width=max(2, side // 107))
    return shown


def _choose(rows: Sequence[dict], count: int) -> list[dict]:
    """The first row of each new image and content type, then of each new image, then others."""
    chosen: list[dict] = []
    for fresh in (("image", "content_type", "modality"), ("image", "content_type"), ("image",), ()):
        for row in rows:
            seen = all(all(row[k] != other[k] for other in chosen) for k in fresh)
            if seen and len(chosen) < count and row not in chosen:
                chosen.append(row)
    return chosen


def _panel(row: dict, record: SftRecord) -> Image.Image:
    pixels = [np.asarray(open_image(path)) for path in record.images]
    canvas = Canvas.of_pixels(pixels)
    boxes = [(box, GOLD) for box in canvas.gold(record.regions)]
    boxes += [(canvas.claimed(box), CLAIMED) for box in row["boxes"]]
    panel = Image.new("RGB", (SIDE + TEXT_WIDTH + 3 * MARGIN, SIDE + 2 * MARGIN), PAPER)
    panel.paste(boxed(Image.fromarray(canvas.joined(pixels)), boxes), (0, 0))
    right = row["scores"]["exact"]
    paragraphs = [
        (row["question"], INK, 19),
        (f"answer: {row['answer']} ({'right' if right else 'wrong'})", CLAIMED, 19),
        (f"gold: {row['gold']}", GOLD, 19),
        *((line, INK, 15) for line in _changes(row)),
        (row["caption"], GREY, 15),
        *((f"- {step}", GREY, 15) for step in row["reasoning"]),
    ]
    if "grounding" in row:
        paragraphs.append((f"IoU {row['grounding']['iou']:.2f}", GREY, 15))
    write_text(ImageDraw.Draw(panel), (SIDE + 2 * MARGIN, MARGIN), paragraphs)
    return panel


def _changes(row: dict) -> Iterator[str]:
    """What is said without the evidence and the claimed boxes, and without controls of these."""
    words = {"gold": "the evidence", "claimed": "its own boxes"}
    for source, found in row.get("flips", {}).items():
        if source in words:
            change = "changed" if found["roi"] else "the same"
            control = f"controls: {found['random']:.0%} changed"
            yield f"without {words[source]}: {found['answer']} ({change}; {control})"


def write_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    paragraphs: Sequence[tuple[str, str, int]],
    width: int = TEXT_WIDTH,
) -> int:
    """Write (text, colour, size) one below the other; the height at which they end."""
    x, y = at
    for text, colour, size in paragraphs:
        font = ImageFont.load_default(size)
        for line in textwrap.wrap(text, width=int(width / (size * 0.52))) or [""]:
            draw.text((x, y), line, fill=colour, font=font)
            y += round(size * 1.3)
        y += 4
    return y
