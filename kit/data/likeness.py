"""Images that nearly equal each other: slices of one scan, copies scaled or saved again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from kit.data.images import open_image
from kit.data.types import SftRecord
from kit.errors import ImageError

NEAR_DUPLICATE_CORRELATION = 0.99  # of 32x32 thumbnails
THUMBNAIL = 32


def thumbnail(image: Image.Image) -> np.ndarray:
    """``[1024]`` float32: the 32x32 greyscale of an image, centred and of unit length, so that
    the dot product of two is their correlation (all zeros for an image of one colour)."""
    small = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32).ravel()
    values = values - values.mean()
    length = np.linalg.norm(values)
    return values / length if length > 0 else values


def thumbnails_of(records: Sequence[SftRecord]) -> dict[Path, np.ndarray]:
    """``[1024]`` thumbnails of the records' images (:func:`thumbnail`), but of those
    that cannot be decoded."""

    def small(path: str) -> np.ndarray | None:
        try:
            return thumbnail(open_image(path))
        except ImageError:
            return None

    paths = list(dict.fromkeys(path for record in records for path in record.images))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(paths, pool.map(small, paths), strict=True))
    return {Path(path): pixels for path, pixels in found.items() if pixels is not None}


def near_duplicates(
    train: Mapping[Path, np.ndarray], test: Mapping[Path, np.ndarray]
) -> dict[Path, Path]:
    """Training images whose thumbnail correlates above ``NEAR_DUPLICATE_CORRELATION`` with that
    of another file in the test split, each with the nearest such file."""
    if not train or not test:
        return {}
    train_paths, test_paths = list(train), list(test)
    correlation = (
        np.stack([train[p] for p in train_paths]) @ np.stack([test[p] for p in test_paths]).T
    )
    columns = {path: index for index, path in enumerate(test_paths)}
    for row, path in enumerate(train_paths):
        if path in columns:
            correlation[row, columns[path]] = -1
    best = correlation.argmax(axis=1)
    return {
        path: test_paths[best[row]]
        for row, path in enumerate(train_paths)
        if correlation[row, best[row]] > NEAR_DUPLICATE_CORRELATION
    }


def volumes(thumbnails: Mapping[Path, np.ndarray]) -> dict[Path, str]:
    """The volume of each image: images whose thumbnails correlate above
    ``NEAR_DUPLICATE_CORRELATION`` are slices of one, and so are those that a chain of such joins.

    A volume has the name of its first image in the order of paths (``folder/file``), so that an
    image that is like no other is a volume of its own, and no order of the images matters.
    """
    paths = sorted(thumbnails)
    names: dict[Path, str] = {}
    if not paths:
        return names
    small = np.stack([thumbnails[path] for path in paths])
    left = np.ones(len(paths), dtype=bool)
    taken: set[str] = set()
    for first, path in enumerate(paths):
        if not left[first]:
            continue
        short = f"{path.parent.name}/{path.name}"
        name = str(path) if short in taken else short
        taken.add(name)
        left[first] = False
        waiting = [first]
        while waiting:
            index = waiting.pop()
            names[paths[index]] = name
            near = left & (small @ small[index] > NEAR_DUPLICATE_CORRELATION)
            left &= ~near
            waiting.extend(np.flatnonzero(near))
    return {path: names[path] for path in thumbnails}


def volumes_of(
    records: Sequence[SftRecord], thumbnails: Mapping[Path, np.ndarray] | None = None
) -> dict[str, str]:
    """The volume of each image: neighbouring slices of one scan are not independent, and count as
    one (:func:`volumes`), within their dataset, and so do images that a question shows together.
    ``thumbnails``: where they are known already; an image without one is a volume of its own."""
    small = thumbnails_of(records) if thumbnails is None else thumbnails
    by_dataset: dict[str, set[str]] = {}
    for record in records:
        by_dataset.setdefault(record.dataset, set()).update(record.images)
    found = {}
    for dataset, images in by_dataset.items():
        paths = [Path(image) for image in sorted(images)]
        names = {path: str(path) for path in paths}
        names |= volumes({path: small[path] for path in paths if path in small})
        shown = [record.images for record in records if record.dataset == dataset]
        joined = joined_names(
            {names[Path(image)] for image in one} for one in shown if len(one) > 1
        )
        found |= {str(p): f"{dataset}/{joined.get(names[p], names[p])}" for p in paths}
    return found


def joined_names(together: Iterable[set[str]]) -> dict[str, str]:
    """The first name of all that are joined with each, by whichever chain of sets.

    >>> joined_names([{"b", "c"}, {"e", "d"}, {"c", "a"}])
    {'b': 'a', 'c': 'a', 'd': 'd', 'e': 'd', 'a': 'a'}
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = name = parent[above]
        return name

    for names in together:
        first = min(map(root, sorted(names)))
        for name in names:
            parent[root(name)] = first
    return {name: root(name) for name in parent}


def held_out(thumbnails: Mapping[Path, np.ndarray], share: float) -> set[Path]:
    """The images of about that share (0..1) that are set apart for validation.

    A hash of the name of its volume's first file decides, so that an image stays where it is
    whatever the order, the folder and the other images, and all slices of a volume stay together.
    """
    first: dict[str, str] = {}
    found = volumes(thumbnails)
    for path, volume in found.items():
        first[volume] = min(path.name, first.get(volume, path.name))
    chosen = {volume for volume, name in first.items() if fraction(name) < share}
    return {path for path, volume in found.items() if volume in chosen}


def fraction(name: str) -> float:
    """A number in 0..1 that only the name decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
