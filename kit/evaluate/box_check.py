"""What the numbers of a model's boxes count, found out by asking it where a bright spot is.

Qwen2-VL and Qwen3-VL write thousandths of the image's sides,
Qwen2.5-VL pixels of the image as it was resized for it, others pixels of the image or shares of its
sides, and which it is depends on how a model is asked and on what it was trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from kit.data.boxes import CONVENTIONS
from kit.data.images import open_image
from kit.data.phantom.drawing import Canvas, blob, bounding_box, ellipse
from kit.data.records import SftRecord
from kit.evaluate.answering import Predictor, Request, answer, loaded_predictor
from kit.evaluate.box_conventions import Finding, Fit, Spot, first_box, judge
from kit.evaluate.config import BoxCheckConfig
from kit.evaluate.figure import boxed, draw_sheet
from kit.files import atomic_write, require_folder, write_json
from kit.model.folders import named_base, require_adapter
from kit.model.load import load_processor
from kit.prompting.messages import MODES, PLAIN
from kit.run.process import fix_algorithms, join

QUESTION = "Where is the bright spot? Give its box."
# As Qwen's documentation of grounding words it (cookbooks of Qwen2.5-VL and Qwen3-VL).
PLAIN_QUESTION = "Locate the bright spot, output its bbox coordinates using JSON format."
WAYS = dict.fromkeys(reversed(MODES), QUESTION) | {PLAIN: PLAIN_QUESTION}
LARGEST = 401_408  # pixels after resizing, where neither the model's training nor a flag says less
SMALLEST_SIDE = 128  # of a drawn image
COLOURS = {
    "grid_1000": "#e4572e", "pixels": "#2b6cb0", "resized_pixels": "#8e44ad", "unit": "#b8860b",
}  # fmt: skip
PANELS = 12


def check_boxes(config: BoxCheckConfig) -> int:
    """Ask a model where the bright spot of drawn images is, in the kit's ways and plainly, and
    tell which convention of boxes explains its answers; returns the exit code.

    Writes ``boxes.json``, ``boxes.png`` and the images into the output folder.
    """
    fix_algorithms(config.full_determinism)
    accelerator = join()
    output = Path(config.output)
    require_folder(output / "images")
    if config.adapter:
        require_adapter(config.adapter)
    smallest, largest = bounds_of(config)
    if largest == LARGEST:
        config = dataclasses.replace(config, max_pixels=largest)
    spots = draw_spots(config, (smallest, largest), output / "images")
    records = [record_of(path, question) for question in WAYS.values() for path, _ in spots]
    loaded = loaded_predictor(config, accelerator, records, [*WAYS])
    with loaded as predictor:
        shown = [
            Spot(predictor.image_cache.size(path), predictor.resized(path), box)
            for path, box in spots
        ]
        texts = ask(predictor, records, len(spots))
    boxes = {way: [first_box(text) for text in said] for way, said in texts.items()}
    found = {way: judge(shown, read) for way, read in boxes.items()}
    if accelerator.is_main_process:
        convention, advice = advise(found)
        write_json(
            output / "boxes.json",
            {
                "base_model": config.base_model,
                "adapter": config.adapter,
                "min_pixels": smallest,
                "max_pixels": largest,
                "convention": convention,
                "advice": advice,
                "asked": {
                    way: {"question": WAYS[way], **dataclasses.asdict(one)}
                    for way, one in found.items()
                },
                "images": [
                    {
                        "image": path,
                        **dataclasses.asdict(image),
                        "answers": {way: texts[way][i] for way in WAYS},
                        "boxes": {way: boxes[way][i] for way in WAYS},
                    }
                    for i, ((path, _), image) in enumerate(zip(spots, shown, strict=True))
                ],
            },
        )
        draw_readings(output / "boxes.png", spots, shown, boxes)
        Console().print(table_of(found))
        print(advice)
        print(f"boxes.json, boxes.png and the images are in {output}", flush=True)
    accelerator.wait_for_everyone()
    return 0


def bounds_of(config: BoxCheckConfig) -> tuple[int, int]:
    """The bounds of an image's area after resizing, as the model was trained with where the
    configuration does not say, but not above ``LARGEST``."""
    name = config.base_model or named_base(config.adapter)
    processor = load_processor(
        name, config.adapter, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    size = dict(processor.image_processor.size)
    largest = size["longest_edge"] if config.max_pixels else min(size["longest_edge"], LARGEST)
    return min(size["shortest_edge"], largest), largest


def sizes(
    count: int, smallest: int, largest: int, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """``(width, height)`` of images of which each is resized by a factor that is far from 1, so
    that the conventions differ, to bounds of their area: larger ones, and where there is room
    every third a smaller one; none of a shape like another's, and no side a multiple of a patch's.
    """
    for number in range(count):
        factor = rng.uniform(1.5, 2.8)  # of each side
        area = largest * factor**2
        if number % 3 == 2 and (small := smallest / factor**2) > 2 * SMALLEST_SIDE**2:
            area = small
        across = math.exp(rng.uniform(-0.8, 0.8))  # up to 2.2 times as wide as high, and back
        width, height = round(math.sqrt(area * across)), round(math.sqrt(area / across))
        yield width // 2 * 2 + 1, height // 2 * 2 + 1


def draw_spots(
    config: BoxCheckConfig, bounds: tuple[int, int], folder: Path
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Draw the images: the path of each and the box of its one bright spot, in pixels."""
    rng = np.random.default_rng(config.seed)
    drawn = []
    every = list(sizes(config.images, *bounds, rng))
    for number, (width, height) in enumerate(every):
        pixels, box = draw_spot(width, height, rng)
        path = folder / f"{number:03d}.png"
        with atomic_write(path, "wb") as stream:
            Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
        drawn.append((str(path), box))
    return drawn


def draw_spot(
    width: int, height: int, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A grey body on black with one bright spot anywhere in the image, ``(height, width)`` uint8,
    and the spot's box in pixels. The spot is 16 to 36 per cent as wide and as high as the image."""
    canvas = Canvas(width, height, level=12.0, rng=rng)
    body = ellipse(width / 2, height / 2, 0.49 * width, 0.49 * height)
    canvas.fill(body, 84.0, texture=6.0, soft=2.0)
    half = rng.uniform(0.08, 0.18, 2)
    x, y = (rng.uniform(h + 0.01, 0.99 - h) for h in half)
    outline = blob(0.0, 0.0, 1.0, rng, 0.15) * half * (width, height) + (x * width, y * height)
    cover = canvas.cover(outline)
    canvas.blend(cover, 240.0)
    left, top, across, down = bounding_box(cover)
    pixels = canvas.finish(blur=0.8, noise=3.0, gain=1.0, offset=0.0)
    return pixels, (left, top, left + across, top + down)


def record_of(path: str, question: str) -> SftRecord:
    return SftRecord("", path, question, "")


def ask(predictor: Predictor, records: Sequence[SftRecord], n_images: int) -> dict[str, list[str]]:
    """What the model writes, by the way of asking, an answer an image. ``records`` are the images
    with the question of each way, in order."""
    texts = {}
    for number, way in enumerate(WAYS):
        own = range(number * n_images, (number + 1) * n_images)
        batch = [Request(records[i].image, way, (i,)) for i in own]
        texts[way] = [
            predictor.processor.decode(list(completion.token_ids))
            for _, _, completion in answer(predictor, records, batch)
        ]
    return texts


def advise(found: dict[str, Finding]) -> tuple[str | None, str]:
    """The convention to evaluate with, as the kit asks for boxes, and what to do."""
    asked, plain = found[MODES[-1]].convention, found[PLAIN].convention
    flag = "--answer_boxes {} (evaluate and cf_proxy)"
    if asked == "grid_1000":
        return asked, "it writes boxes on the 0..1000 grid, the kit's own: --answer_boxes grid_1000"
    if asked:
        return asked, f"it writes boxes that count {asked}: evaluate with {flag.format(asked)}"
    told = f"cannot be told in the kit's own prompt: {found[MODES[-1]].reason}"
    if plain:
        return None, (
            f"{told}. Asked plainly it writes {plain}: try {flag.format(plain)}, or teach it the "
            "0..1000 grid with launch/train_sft.py"
        )
    return None, (
        f"{told}. Its boxes are not to be relied on as they are; launch/train_sft.py teaches "
        "them on the 0..1000 grid"
    )


def table_of(found: dict[str, Finding]) -> Table:
    """The mean IoU by convention and way of asking, with 95% intervals."""
    table = Table("mean IoU", *found)
    for name in CONVENTIONS:
        table.add_row(name, *(_cell(one.fits.get(name)) for one in found.values()))
    table.add_section()
    table.add_row("with a box", *(f"{one.readable} of {one.asked}" for one in found.values()))
    table.add_row("verdict", *(one.convention or "cannot be told" for one in found.values()))
    return table


def _cell(fit: Fit | None) -> str:
    if fit is None:
        return "-"
    bounds = "" if fit.low is None else f" ({fit.low:.2f} to {fit.high:.2f})"
    return f"{fit.iou:.2f}{bounds}"


def draw_readings(
    path: Path,
    spots: Sequence[tuple[str, tuple]],
    shown: Sequence[Spot],
    boxes: dict[str, list[tuple | None]],
) -> None:
    """The first images with the spot's box and, in each convention, the box that the model wrote
    in the kit's prompt, or else asked plainly."""
    panels = []
    for i in range(min(PANELS, len(spots))):
        box = boxes[MODES[-1]][i] or boxes[PLAIN][i]
        read = [(shown[i].read(box, name), COLOURS[name]) for name in CONVENTIONS] if box else []
        panels.append(boxed(open_image(spots[i][0]), [(shown[i].box, "#2e9e5b"), *read]))
    legend = [("green: the spot", "#2e9e5b"), *((f"read as {n}", c) for n, c in COLOURS.items())]
    draw_sheet(panels, legend, path, columns=4)
