"""Lesions in the phantoms: where they fit, how they look, what they are called."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from kit.data.phantom.drawing import Canvas, blob, ellipse
from kit.data.phantom.scene import Organ, Scene

QUADRANTS = ("Upper Left", "Upper Right", "Lower Left", "Lower Right")
TONES = {"White": 236.0, "Gray": 136.0, "Black": 22.0}

_HOSTS = {
    "CT abdomen": ("Liver", "Spleen", "Left Kidney", "Right Kidney"),
    "CT lung": ("Left Lung", "Right Lung"),
    "MRI brain": ("Brain",),
    "X-ray chest": ("Left Lung", "Right Lung"),
}
_TRIES = 12
_FAINT_SHARE, _FAINT = 0.4, (0.3, 0.45)


@dataclass(frozen=True)
class Lesion:
    """A drawn lesion: its name, the organ it lies in, how it looks and what it covers.

    ``shape`` is Circular, Oval, Irregular, Ring or Crescent; ``tone`` White, Gray, Black, or ""
    for a ring and for a faint lesion, which differs little from its organ; ``quadrant`` one of
    :data:`QUADRANTS` of the image, or "" when it lies across.
    """

    label: str
    host: str
    shape: str
    tone: str
    quadrant: str
    cover: np.ndarray

    @property
    def area(self) -> float:
        """Pixels covered."""
        return float(self.cover.sum())


def add_lesions(scene: Scene, count: int) -> list[Lesion]:
    """Draw ``count`` lesions, apart from each other; fewer where no more find room."""
    lesions: list[Lesion] = []
    for _ in range(_TRIES):
        if len(lesions) == count:
            break
        chest = scene.kind in ("CT lung", "X-ray chest")
        effusion = chest and scene.chance(0.12)
        with scene.thing(lesion_name(len(lesions))):
            lesion = _add_effusion(scene, lesions) if effusion else _add_spot(scene, lesions)
        if lesion is not None:
            lesions.append(lesion)
    return lesions


def lesion_name(index: int) -> str:
    """The name as a thing of the lesion with this place among those of a phantom.

    >>> lesion_name(0)
    'lesion 1'
    """
    return f"lesion {index + 1}"


def _hosts(scene: Scene) -> list[Organ]:
    return [o for o in scene.organs if o.label in _HOSTS[scene.kind]]


def _free(host: Organ, lesions: list[Lesion]) -> np.ndarray:
    """Pixels where the organ can be seen and no lesion lies near."""
    free = host.cover > 0.9
    for lesion in lesions:
        free &= cv2.dilate(lesion.cover, np.ones((9, 9), np.uint8)) < 0.1
    return free


def _add_spot(scene: Scene, lesions: list[Lesion]) -> Lesion | None:
    """A lesion of a random look in a random quadrant, in an organ that has room for it there."""
    rng, canvas = scene.rng, scene.canvas
    side = min(canvas.width, canvas.height)
    hosts = _hosts(scene)
    rooms = {
        host.label: cv2.distanceTransform(
            np.pad(_free(host, lesions), 1).astype(np.uint8), cv2.DIST_L2, 5
        )[1:-1, 1:-1]
        for host in hosts
    }
    bright = {host.label for host in hosts if host.tone == "White"}
    for quadrant in rng.permutation(QUADRANTS):
        for _ in range(_TRIES):
            look = _draw_look(scene.kind, rng)
            radius = look.radius * side
            window = _quadrant_window(canvas, quadrant, radius)
            fits = {
                label: places
                for label, room in rooms.items()
                if not (label in bright and look.tone in ("White", ""))
                and np.count_nonzero(places := room * window > radius * look.inner + 0.5) > 8
            }
            if fits:
                host = sorted(fits)[rng.integers(len(fits))]
                places = np.argwhere(fits[host])
                y, x = (float(v) for v in places[rng.integers(len(places))])
                cover = _paint(canvas, look, (x, y), radius)
                name = _name(scene.kind, look, host)
                tone = look.tone if look.strength == 1 else ""
                return Lesion(name, host, look.shape, tone, str(quadrant), cover)
    return None


def _quadrant_window(canvas: Canvas, quadrant: str, radius: float) -> np.ndarray:
    """1 where a lesion's middle lies clearly in a quadrant of the image, else 0."""
    window = np.zeros((canvas.height, canvas.width), np.float32)
    margin = int(radius * 0.7) + 1
    rows = slice(0, max(0, canvas.height // 2 - margin))
    if quadrant.startswith("Lower"):
        rows = slice(canvas.height // 2 + margin, None)
    columns = slice(0, max(0, canvas.width // 2 - margin))
    if quadrant.endswith("Right"):
        columns = slice(canvas.width // 2 + margin, None)
    window[rows, columns] = 1
    return window


@dataclass(frozen=True)
class _Look:
    """``radius`` of the long axis as a part of the image's side; ``inner``: how much of it must
    lie inside the organ; ``strength``: how far it goes from the organ's level to its own."""

    shape: str
    tone: str
    radius: float
    inner: float
    strength: float = 1.0


def _draw_look(kind: str, rng: np.random.Generator) -> _Look:
    """Real lesions are often faint: to take such a one out changes an image less than to take out
    any edge."""
    look = _draw_form(kind, rng)
    return replace(look, strength=rng.uniform(*_FAINT)) if rng.random() < _FAINT_SHARE else look


def _draw_form(kind: str, rng: np.random.Generator) -> _Look:
    chest = kind in ("CT lung", "X-ray chest")
    shape = rng.choice(["Circular", "Oval", "Irregular", "Ring"], p=[0.32, 0.24, 0.22, 0.22])
    dark = "Gray" if chest else "Black"
    tone = dark if rng.random() < (0.64 if chest else 0.5) else "White"
    if shape == "Ring":
        return _Look("Ring", "", rng.uniform(0.062, 0.085), 0.9)
    if shape == "Oval":
        return _Look("Oval", tone, rng.uniform(0.078, 0.095), 0.62)
    if shape == "Irregular":
        tone = {"CT abdomen": "Black", "MRI brain": "White"}.get(kind, "Gray")
        return _Look("Irregular", tone, rng.uniform(0.075, 0.095), 0.75)
    large = rng.random() < 0.4
    radius = rng.uniform(0.082, 0.1) if large else rng.uniform(0.046, 0.056)
    return _Look("Circular", tone, radius, 1.0 if chest else 0.95)


def _paint(canvas: Canvas, look: _Look, middle: tuple[float, float], radius: float) -> np.ndarray:
    """Draw a lesion; ``radius`` in pixels. Returns what it covers."""
    rng = canvas.rng
    if look.shape == "Oval":
        outline = ellipse(*middle, radius, radius * 0.47, rng.uniform(0, math.pi))
    elif look.shape == "Irregular":
        outline = blob(*middle, radius, rng, 0.42)
    else:
        outline = ellipse(*middle, radius, radius * rng.uniform(0.94, 1.0))
    cover = canvas.cover(outline)
    before = canvas.pixels.copy()
    if look.shape == "Ring":
        canvas.fill(outline, TONES["White"])
        canvas.fill(ellipse(*middle, radius * 0.62, radius * 0.6), TONES["Black"] + 10)
    else:
        canvas.fill(outline, TONES[look.tone] + rng.uniform(-8, 8), texture=4)
    canvas.pixels = before + look.strength * (canvas.pixels - before)
    return cover


def _add_effusion(scene: Scene, lesions: list[Lesion]) -> Lesion | None:
    """Fluid in the lowest part of a lung, with its meniscus."""
    rng, canvas = scene.rng, scene.canvas
    hosts = _hosts(scene)
    host = hosts[rng.integers(len(hosts))]
    rows = np.nonzero((host.cover > 0.5).any(axis=1))[0]
    columns = np.nonzero((host.cover > 0.5).any(axis=0))[0]
    x, y = np.meshgrid(np.arange(canvas.width), np.arange(canvas.height))
    across = (x - columns.mean()) / max(1.0, len(columns) / 2)
    level = rows[-1] - len(rows) * (rng.uniform(0.2, 0.26) + 0.12 * across**2)
    cover = host.cover * np.clip(y - level, 0, 1).astype(np.float32)
    if any((lesion.cover * cover).any() for lesion in lesions):
        return None
    faint = rng.random() < _FAINT_SHARE
    canvas.blend(cover, 225, rng.uniform(*_FAINT) if faint else 1.0)
    return Lesion("Effusion", host.label, "Crescent", "" if faint else "White", "", cover)


def _name(kind: str, look: _Look, host: str) -> str:
    """What a lesion of this look is called in this organ."""
    if kind == "CT abdomen":
        cancer = f"{host.rsplit(maxsplit=1)[-1]} Cancer"
        if look.shape in ("Ring", "Irregular"):
            return cancer if look.shape == "Ring" else "Abscess"
        return "Calcification" if look.tone == "White" else "Cyst"
    if kind == "MRI brain":
        if look.shape in ("Ring", "Irregular"):
            return "Brain Metastasis" if look.shape == "Ring" else "Brain Edema"
        return "Brain Tumor" if look.tone == "White" else "Brain Infarct"
    if look.shape in ("Ring", "Irregular"):
        return "Cavity" if look.shape == "Ring" else "Infiltrate"
    return "Mass" if look.radius > 0.07 else "Nodule"
