"""The images of one question, side by side on one plane of pixels.

A question may show several images: two views, two points in time. Where boxes are measured, drawn
or taken away, the images lie on a canvas, and a box names its image by where it is. The model sees
each image as a picture of its own, and in its answer a box names its image by number. With one
image the canvas is that image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.boxes import grid_to_pixels
from kit.data.types import Region

GAP = 8  # black columns between two images

Size = tuple[int, int]  # (width, height) in pixels
PixelBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Canvas:
    """Where images of these sizes lie, from left to right."""

    sizes: tuple[Size, ...]

    @classmethod
    def of_row(cls, row: Mapping) -> Canvas:
        """That of a line of ``predictions.jsonl``."""
        return cls(tuple(map(tuple, row.get("image_sizes") or [row["image_size"]])))

    @classmethod
    def of_pixels(cls, images: Sequence[np.ndarray]) -> Canvas:
        """That of ``(height, width, 3)`` images."""
        return cls(tuple((image.shape[1], image.shape[0]) for image in images))

    @property
    def size(self) -> Size:
        """``(width, height)`` of the whole.

        >>> Canvas(((100, 50),)).size, Canvas(((100, 50), (40, 60))).size
        ((100, 50), (148, 60))
        """
        gaps = GAP * (len(self.sizes) - 1)
        return sum(width for width, _ in self.sizes) + gaps, max(h for _, h in self.sizes)

    @property
    def starts(self) -> list[int]:
        """The left edge of each image."""
        widths = [width + GAP for width, _ in self.sizes]
        return [sum(widths[:number]) for number in range(len(widths))]

    def place(self, box: Sequence[float], image: int = 1) -> PixelBox:
        """A box in pixels of an image (counted from 1) in pixels of the canvas.

        >>> Canvas(((100, 50), (40, 60))).place((1, 2, 3, 4), image=2)
        (109, 2, 111, 4)
        """
        x1, y1, x2, y2 = box
        start = self.starts[image - 1]
        return x1 + start, y1, x2 + start, y2

    def gold(self, regions: Sequence[Region]) -> list[PixelBox]:
        """The labelled boxes of a record."""
        return [self.place(region.box_xyxy_pixels, region.image) for region in regions]

    def claimed(self, box: Sequence[int]) -> PixelBox:
        """A box as an answer has it: ``(x1, y1, x2, y2)`` on the grid where there is one image,
        ``(image, x1, y1, x2, y2)`` where there are several.

        >>> Canvas(((100, 50),)).claimed((0, 0, 500, 1000))
        (0.0, 0.0, 50.0, 50.0)
        >>> Canvas(((100, 50), (40, 60))).claimed((2, 0, 0, 500, 1000))
        (108.0, 0.0, 128.0, 60.0)
        """
        *number, x1, y1, x2, y2 = box
        image = int(number[0]) if number else 1
        return self.place(grid_to_pixels([x1, y1, x2, y2], self.sizes[image - 1]), image)

    def by_image(self, boxes: Sequence[Sequence[float]]) -> list[tuple]:
        """The boxes on each image, in its own pixels.

        >>> Canvas(((100, 50), (40, 60))).by_image([(109, 2, 111, 4)])
        [(), ((1, 2, 3, 4),)]
        """
        found: list[list] = [[] for _ in self.sizes]
        for x1, y1, x2, y2 in boxes:
            image = max(n for n, start in enumerate(self.starts) if not n or start <= x1)
            start = self.starts[image]
            found[image].append((x1 - start, y1, x2 - start, y2))
        return [tuple(own) for own in found]

    def joined(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """``(height, width, 3)`` uint8 each, as one; the single one as it is."""
        if len(images) == 1:
            return images[0]
        width, height = self.size
        whole = np.zeros((height, width, 3), np.uint8)
        for start, image in zip(self.starts, images, strict=True):
            whole[: image.shape[0], start : start + image.shape[1]] = image
        return whole
