"""A step of GRPO over group sizes and prompt lengths, beside what unique tokens alone predict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from kit.demo.bench import grpo
from kit.demo.bench.cases import Case, Shape
from kit.files import atomic_write
from kit.model.load import load_processor
from kit.report.figures import COLOURS

GENERATIONS, TOKENS = (2, 8, 32), (64, 256, 1024)
WIDTH, HEIGHT, LEFT, TOP, GAP = 340, 260, 60, 50, 90  # of a panel and around it, in pixels
Point = tuple[float, float]


def points(shape: Shape) -> list[Shape]:
    """The shapes of a sweep: one prompt a step, whose image has so many tokens."""
    small = shape.name != "sweep"
    return [
        dataclasses.replace(
            shape, name=f"P {tokens}, G {each}", job="grpo", images=1, each=each, tokens=tokens
        )
        for tokens in ((16, 64) if small else TOKENS)
        for each in ((2, 3) if small else GENERATIONS)
    ]


def model_of_cost(case: Case) -> dict[str, float]:
    """Tokens of a step, each counted where it is first needed (the prompt once and its
    completions), or in whole rows; and their ratio."""
    shape = case.shape
    processor = load_processor(case.base)
    prompt = len(grpo.whole_prompt(processor, case.paths[0][0], case))
    unique = prompt + shape.each * shape.length
    whole = shape.each * (prompt + shape.length)
    return {"unique_tokens": unique, "whole_tokens": whole, "model_ratio": whole / unique}


def draw(rows: Sequence[dict], output: Path) -> None:
    """Two panels as SVG: seconds of a step, and how many times TRL's ours is, both over G."""
    steps = [row for row in rows if row["what"] == "step" and "model_ratio" in row]
    sizes = sorted({row["sizes"]["each"] for row in steps})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * (WIDTH + GAP) + 10}" '
        f'height="{TOP + HEIGHT + 90}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    seconds = [row[who] for row in steps for who in ("ours", "peer")]
    ratios = [row[name] for row in steps for name in ("ratio", "model_ratio")]
    left = Panel(LEFT, sizes, _decades(seconds), "seconds a step")
    right = Panel(LEFT + WIDTH + GAP, sizes, _decades([1, *ratios]), "times as fast as TRL")
    parts += left.axes() + right.axes()
    for number, tokens in enumerate(sorted({row["sizes"]["tokens"] for row in steps})):
        own = [row for row in steps if row["sizes"]["tokens"] == tokens]
        colour = COLOURS[number]
        for panel, name, dash in (
            (left, "ours", ""), (left, "peer", "6 4"),
            (right, "ratio", ""), (right, "model_ratio", "2 3"),
        ):  # fmt: skip
            parts += panel.line([(row["sizes"]["each"], row[name]) for row in own], colour, dash)
        y = TOP + HEIGHT + 50
        x = LEFT + number * 170
        parts += [f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" stroke="{colour}" {_STROKE}/>']
        parts += [_text(x + 30, y + 4, f"image of {tokens} tokens", "start")]
    y = TOP + HEIGHT + 74
    parts += [
        _text(LEFT, y, "left: this kit solid, TRL dashed", "start"),
        _text(right.x, y, "right: measured solid, by unique tokens alone dotted", "start"),
        "</svg>",
    ]
    with atomic_write(output, "w") as stream:
        stream.write("\n".join(parts) + "\n")


_STROKE = 'fill="none" stroke-width="2"'


@dataclasses.dataclass(frozen=True)
class Panel:
    """A plot with logarithmic axes: from ``x`` on, over group ``sizes``, between the first and last
    of ``ticks``."""

    x: float
    sizes: Sequence[float]
    ticks: Sequence[float]
    title: str

    def at(self, point: Point) -> Point:
        """In pixels."""
        return (
            self.x + WIDTH * _share(point[0], self.sizes),
            TOP + HEIGHT * (1 - _share(point[1], self.ticks)),
        )

    def axes(self) -> list[str]:
        parts = [_text(self.x, TOP - 18, self.title, "start")]
        for tick in self.ticks:
            _, y = self.at((self.sizes[0], tick))
            parts.append(
                f'<line x1="{self.x}" x2="{self.x + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="#dddddd"/>'
            )
            parts.append(_text(self.x - 8, y + 4, f"{tick:g}", "end"))
        for size in self.sizes:
            x, _ = self.at((size, self.ticks[0]))
            parts.append(_text(x, TOP + HEIGHT + 18, f"{size:g}", "middle"))
        middle = self.x + WIDTH / 2
        return [*parts, _text(middle, TOP + HEIGHT + 34, "completions a prompt, G", "middle")]

    def line(self, curve: Sequence[Point], colour: str, dash: str) -> list[str]:
        places = [self.at(point) for point in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts = [
            f'<polyline points="{path}" stroke="{colour}" {_STROKE} stroke-dasharray="{dash}"/>'
        ]
        return parts + [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places
        ]


def _decades(values: Sequence[float]) -> list[float]:
    """Ticks at 1, 2 and 5 times powers of ten, around the values.

    >>> _decades([0.3, 3])
    [0.2, 0.5, 1.0, 2.0, 5.0]
    """
    ticks = [round(k * 10.0**n, 9) for n in range(-4, 6) for k in (1, 2, 5)]
    low = max(tick for tick in ticks if tick <= min(values))
    high = min(tick for tick in ticks if tick >= max(values))
    return [tick for tick in ticks if low <= tick <= high]


def _share(value: float, ends: Sequence[float]) -> float:
    """How far between the first and the last a value lies, by its logarithm."""
    low, high = math.log(ends[0]), math.log(ends[-1])
    return (math.log(value) - low) / ((high - low) or 1)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
