"""Images and what they are without some of their parts, each opened and prepared once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from kit.counterfactual.controls import Content, mean_change
from kit.counterfactual.inpaint import inpaint
from kit.counterfactual.regions import Boxes
from kit.data.images import open_image
from kit.files import atomic_write
from kit.model.processor import PreparedImage, Processor


class ImageCache:
    """The images of one batch, as the model takes them.

    Args:
        method: how parts are taken away, one of ``kit.counterfactual.inpaint.METHODS``.
        folder: where images without a part are kept as PNG, or None.
    """

    def __init__(self, processor: Processor, method: str = "telea", folder: Path | None = None):
        self.processor, self.method, self.folder = processor, method, folder
        self._pixels: dict[str, np.ndarray] = {}
        self._contents: dict[str, Content] = {}
        self._controls: dict[tuple, tuple[Boxes, ...]] = {}
        self._changes: dict[tuple[str, Boxes], float] = {}
        self._prepared: dict[tuple[str, Boxes], PreparedImage] = {}

    def size(self, path: str) -> tuple[int, int]:
        """``(width, height)`` in pixels."""
        height, width = self._open(path).shape[:2]
        return width, height

    def prepared(self, path: str, without: Boxes = ()) -> PreparedImage:
        """The image, or the image without the boxes. Equal requests give the same object."""
        if (path, without) not in self._prepared:
            pixels = self._open(path)
            if without:
                pixels = inpaint(pixels, without, self.method)
                if self.folder is not None:
                    self._keep(path, without, pixels)
            self._prepared[path, without] = self.processor.prepare_image(Image.fromarray(pixels))
        return self._prepared[path, without]

    def controls(
        self,
        path: str,
        region: Boxes,
        *,
        draws: int,
        seed: int,
        avoid: Boxes = (),
    ) -> tuple[Boxes, ...]:
        """Up to ``draws`` other regions of the image that match one in all but their place, as
        ``kit.counterfactual.controls`` has it; none where nothing matches.

        They follow from the image, the region, ``seed`` and what to ``avoid`` alone, so that the
        same claim meets the same controls whenever and wherever it is judged.
        """
        asked = (path, region, draws, seed, avoid)
        if asked not in self._controls:
            if path not in self._contents:
                self._contents[path] = Content(self._open(path), self.method)
            digest = hashlib.sha256(repr((seed, region)).encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
            self._controls[asked] = self._contents[path].controls(
                region, draws=draws, rng=rng, avoid=avoid
            )
        return self._controls[asked]

    def change(self, path: str, region: Boxes) -> float:
        """How far the removal of a region changes a pixel of it on average, in 0..255."""
        if (path, region) not in self._changes:
            self._changes[path, region] = mean_change(self._open(path), region, self.method)
        return self._changes[path, region]

    def _open(self, path: str) -> np.ndarray:
        if path not in self._pixels:
            self._pixels[path] = np.asarray(open_image(path))
        return self._pixels[path]

    def _keep(self, path: str, without: Boxes, pixels: np.ndarray) -> None:
        name = Path(path)
        digest = hashlib.sha256(f"{path}{without}{self.method}".encode()).hexdigest()[:12]
        with atomic_write(self.folder / f"{name.parent.name}_{name.stem}_{digest}.png", "wb") as f:
            Image.fromarray(pixels).save(f, format="PNG")
