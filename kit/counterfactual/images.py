"""Images and what they are without some of their parts, opened and prepared once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from kit.counterfactual.controls import Content
from kit.counterfactual.inpaint import change_within, inpaint, mean_change
from kit.counterfactual.regions import Boxes, mask_of
from kit.data.canvas import Canvas
from kit.data.images import open_image
from kit.data.types import Shown, paths_of
from kit.files import atomic_write
from kit.model.processor import PreparedImage, Processor
from kit.model.resources import Kept, own_cores

CACHE_BYTES = 2**29  # of whole images, and as many of images without a part: 100 each of 448 px

_SMALL = 2**10  # more than a number or a few boxes take, with the key

Request = tuple[Shown, Boxes]  # what a question shows, and what of its canvas is taken away


class ImageCache:
    """Images as the model takes them. What was used last is kept, up to twice ``CACHE_BYTES`` in
    all, by its path: an image must not change on disk meanwhile. Nothing that is given follows
    from what happens to be kept.

    Args:
        method: how parts are taken away, one of ``kit.counterfactual.inpaint.METHODS``.
        folder: where images without a part are kept as PNG, or None.
    """

    def __init__(self, processor: Processor, method: str = "telea", folder: Path | None = None):
        self.processor, self.method, self.folder = processor, method, folder
        self._originals, self._variants = Kept(CACHE_BYTES), Kept(CACHE_BYTES)

    def canvas(self, shown: Shown) -> Canvas:
        """Where the images lie, in pixels of which all boxes here are."""
        return Canvas.of_pixels([self._pixels(path) for path in paths_of(shown)])

    def size(self, shown: Shown) -> tuple[int, int]:
        """``(width, height)`` of the canvas in pixels."""
        return self.canvas(shown).size

    def prepared(self, shown: Shown, without: Boxes = ()) -> PreparedImage:
        """The images, or the images without the boxes."""
        return self.prepared_all([(shown, without)])[0]

    def prepared_all(self, requests: Sequence[Request]) -> list[PreparedImage]:
        """Each as :meth:`prepared` gives it, made at once."""
        return next(self.prepared_ahead([requests]))

    def prepared_ahead(self, batches: Sequence[Sequence[Request]]) -> Iterator[list[PreparedImage]]:
        """Batch by batch what :meth:`prepared_all` gives; while one is used the next is made.

        OpenCV, PIL and numpy leave Python's lock to others while they work, so that threads are
        enough, one a core of this process.
        """
        pool = ThreadPoolExecutor(own_cores())
        try:
            started = [self._start(pool, batch) for batch in batches[:1]]
            for number, batch in enumerate(batches, 1):
                started += [self._start(pool, after) for after in batches[number : number + 1]]
                making = started.pop(0)
                for part, made in making.items():
                    if isinstance(made, Future):
                        making[part] = self._keep(part, made.result())
                whole = {
                    request: PreparedImage.together(
                        [making[part] for part in self._parts(*request)]
                    )
                    for request in dict.fromkeys(batch)
                }
                yield [whole[request] for request in batch]
        finally:
            pool.shutdown(cancel_futures=True)

    def controls(
        self,
        shown: Shown,
        region: Boxes,
        *,
        draws: int,
        seed: int,
        avoid: Boxes = (),
    ) -> tuple[Boxes, ...]:
        """Up to ``draws`` other regions that match one in all but their place, as
        ``kit.counterfactual.controls`` has it; none where nothing matches. What is of one image
        is moved within that image.

        They follow from the image, the region, ``seed`` and what to ``avoid`` alone, so that the
        same claim meets the same controls whenever and wherever it is judged.
        """
        return self.controls_all([(shown, region, avoid)], draws=draws, seed=seed)[0]

    def controls_all(
        self,
        requests: Sequence[tuple[Shown, Boxes, Boxes]],
        *,
        draws: int,
        seed: int,
        by: type[Content] = Content,
    ) -> list[tuple[Boxes, ...]]:
        """Each (shown, region, avoid) as :meth:`controls` has it, found at once; ``by``
        ``kit.counterfactual.masks.MaskContent`` where regions are masks."""
        asked = []
        for number, (shown, region, avoid) in enumerate(requests):
            near = self.canvas(shown).by_image(avoid)
            for image, (path, boxes) in enumerate(self._parts(shown, region)):
                if boxes:
                    asked.append((number, image, (path, boxes, near[image])))
        found = self._controls([request for *_, request in asked], draws, seed, by)
        moved: dict[int, list[tuple[Boxes, ...]]] = {}
        for (number, image, _), controls in zip(asked, found, strict=True):
            canvas = self.canvas(requests[number][0])
            placed = (tuple(canvas.place(b, image + 1) for b in boxes) for boxes in controls)
            moved.setdefault(number, []).append(tuple(placed))
        # the parts of a region on several images are moved together
        return [
            tuple(sum(parts, ()) for parts in zip(*moved.get(number, []), strict=False))
            for number in range(len(requests))
        ]

    def _controls(
        self,
        requests: Sequence[tuple[str, Boxes, Boxes]],
        draws: int,
        seed: int,
        by: type[Content],
    ) -> list[tuple[Boxes, ...]]:
        """Those of single images."""
        keys = [(*request, draws, seed, by) for request in requests]
        found = {key: self._originals.get(key) for key in keys}
        missing = [key for key, controls in found.items() if controls is None]
        contents = [self._content(path, by) for path, *_ in missing]
        with ThreadPoolExecutor(own_cores()) as pool:
            for key, controls in zip(missing, pool.map(_matching, contents, missing), strict=True):
                found[key] = self._originals.put(key, controls, _SMALL)
        return [found[key] for key in keys]

    def change(self, shown: Shown, region: Boxes) -> float:
        """How far the removal of a region changes a pixel of it on average, in 0..255."""
        parts = [part for part in self._parts(shown, region) if part[1]]
        changes = [self._change(path, boxes) for path, boxes in parts]
        if len(parts) == 1:
            return changes[0]
        pixels = [mask_of(boxes, self.size(path)).sum() for path, boxes in parts]
        return float(np.average(changes, weights=pixels))

    def _change(self, path: str, boxes: Boxes) -> float:
        change = self._originals.get(("change", path, boxes))
        if change is None:
            change = mean_change(self._pixels(path), boxes, self.method)
        return self._originals.put(("change", path, boxes), change, _SMALL)

    def _parts(self, shown: Shown, boxes: Boxes) -> list[tuple[str, Boxes]]:
        """Each image by itself, with the boxes that lie on it in its own pixels."""
        return list(zip(paths_of(shown), self.canvas(shown).by_image(boxes), strict=True))

    def _start(
        self, pool: ThreadPoolExecutor, batch: Sequence[Request]
    ) -> dict[tuple[str, Boxes], object]:
        """What is kept of a batch, image by image, and the rest on its way."""
        found: dict[tuple[str, Boxes], object] = {}
        parts = [part for request in batch for part in self._parts(*request)]
        for path, without in dict.fromkeys(parts):
            kept = (self._variants if without else self._originals).get((path, without))
            if kept is None:
                kept = pool.submit(self._make, path, self._pixels(path), without)
            found[path, without] = kept
        return found

    def _make(
        self, path: str, pixels: np.ndarray, without: Boxes
    ) -> tuple[PreparedImage, float | None]:
        """The image without the boxes, and how far a pixel of them is changed. Changes nothing of
        the cache: it is run by several threads."""
        change = None
        if without:
            whole, pixels = pixels, inpaint(pixels, without, self.method)
            change = change_within(without, whole, pixels)
            if self.folder is not None:
                self._write(path, without, pixels)
        return self.processor.prepare_image(Image.fromarray(pixels)), change

    def _keep(
        self, request: tuple[str, Boxes], made: tuple[PreparedImage, float | None]
    ) -> PreparedImage:
        image, change = made
        if change is not None:
            self._originals.put(("change", *request), change, _SMALL)
        kept = self._originals if change is None else self._variants
        return kept.put(request, image, image.pixel_values.nbytes)

    def _content(self, path: str, by: type[Content]) -> Content:
        content = self._originals.get((by, path))
        if content is None:
            content = by(self._pixels(path), self.method)
        return self._originals.put((by, path), content, content.n_bytes)

    def _pixels(self, path: str) -> np.ndarray:
        pixels = self._originals.get(("pixels", path))
        if pixels is None:
            pixels = self._open(path)
        return self._originals.put(("pixels", path), pixels, pixels.nbytes)

    def _open(self, path: str) -> np.ndarray:
        """By the one thread that asks: reading a file sets what warnings are shown, for all."""
        return np.asarray(open_image(path))

    def _write(self, path: str, without: Boxes, pixels: np.ndarray) -> None:
        name = Path(path)
        digest = hashlib.sha256(f"{path}{without}{self.method}".encode()).hexdigest()[:12]
        with atomic_write(self.folder / f"{name.parent.name}_{name.stem}_{digest}.png", "wb") as f:
            Image.fromarray(pixels).save(f, format="PNG")


def _matching(
    content: Content, asked: tuple[str, Boxes, Boxes, int, int, type[Content]]
) -> tuple[Boxes, ...]:
    _, region, avoid, draws, seed, _ = asked
    digest = hashlib.sha256(repr((seed, region)).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    return content.controls(region, draws=draws, rng=rng, avoid=avoid)
