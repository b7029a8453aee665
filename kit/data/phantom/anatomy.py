"""Four made-up bodies: CT of the abdomen, CT of the lung, MRI of the brain, X-ray of the chest.

Every organ's place, size, grey level and, for some, presence is drawn at random. Labels are on
the patient's side as in SLAKE: the left kidney is on the right of the image.
"""

from __future__ import annotations

import math
from collections.abc import Set

import cv2
import numpy as np

from kit.data.phantom.drawing import ellipse, mirrored, scaled, smooth, wobble
from kit.data.phantom.scene import Organ, Scene, draw_spine, draw_trunk, open_scene

KINDS = ("CT abdomen", "CT lung", "MRI brain", "X-ray chest")


def draw_body(kind: str, rng: np.random.Generator, without: Set[str] = frozenset()) -> Scene:
    """Draw the body of a kind, without lesions and without the organs that are named."""
    draw = {
        "CT abdomen": _draw_ct_abdomen,
        "CT lung": _draw_ct_lung,
        "MRI brain": _draw_mri_brain,
        "X-ray chest": _draw_xray_chest,
    }
    return draw[kind](rng, without)


def _draw_ct_abdomen(rng: np.random.Generator, without: Set[str]) -> Scene:
    scene = open_scene(
        "CT abdomen", rng, size=(212, 184), radii=(0.37, 0.36), level=2, without=without
    )
    draw_trunk(scene, fat=62, muscle=112)
    scene.tissue(ellipse(0, -0.03, 0.8, 0.78), 58, texture=5)
    draw_spine(scene, 0.38)
    with scene.part():
        scene.tissue(ellipse(rng.uniform(-0.02, 0.06), 0.16, 0.055, 0.065), 200)
    for _ in range(14):
        x, y = rng.uniform(-0.25, 0.45), rng.uniform(-0.62, 0.05)
        loop = ellipse(x, y, rng.uniform(0.06, 0.1), 0.07, rng.uniform(0, 3))
        with scene.part():
            scene.tissue(loop, 104, texture=6)
    gray = rng.uniform(128, 146)
    liver = [(-0.78, -0.1), (-0.6, -0.55), (-0.2, -0.66), (0.14, -0.5), (-0.05, -0.28)]
    liver += [(-0.16, 0.02), (-0.26, 0.12), (-0.48, 0.16), (-0.66, 0.34), (-0.79, 0.2)]
    big_liver = scene.chance(0.5)
    size = rng.uniform(1.0, 1.08) if big_liver else rng.uniform(0.55, 0.62)
    scene.organ("Liver", smooth(scaled(wobble(liver, 0.04, rng), size, (-0.75, -0.1))), gray)
    if scene.chance(0.6):
        spleen = [(0.79, -0.25), (0.82, 0.1), (0.66, 0.42), (0.46, 0.5), (0.5, 0.2), (0.56, -0.1)]
        size = rng.uniform(0.8, 0.95) if big_liver else rng.uniform(1.5, 1.6)
        outline = scaled(wobble(spleen, 0.03, rng), size, (0.79, 0.12))
        scene.organ("Spleen", smooth(np.minimum(outline, 0.9)), gray - rng.uniform(0, 15))
    if scene.chance(0.5):
        with scene.thing("Stomach"):
            scene.organ("Stomach", ellipse(0.38, -0.38, 0.26, 0.2, rng.uniform(-0.4, 0.4)), 100)
            scene.tissue(ellipse(0.37, -0.46, 0.17, 0.08), 12)
    bright = scene.chance(0.5)
    left_bigger = scene.chance(0.5)
    for label, side in (("Left Kidney", 1), ("Right Kidney", -1)):
        if scene.chance(0.65):
            size = 1.18 if left_bigger == (side > 0) else 0.84
            with scene.thing(label):
                _draw_kidney(scene, label, side, size * rng.uniform(0.96, 1.04), bright)
    return scene


def _draw_kidney(scene: Scene, label: str, side: int, size: float, bright: bool) -> None:
    rng = scene.rng
    bean = [(0.24, 0.3), (0.27, 0.12), (0.42, 0.08), (0.55, 0.2), (0.56, 0.42), (0.42, 0.54)]
    bean += [(0.28, 0.5), (0.34, 0.38)]
    outline = scaled(wobble(bean, 0.02, rng), size, (0.33, 0.3))
    sinus = scaled(ellipse(0.34, 0.33, 0.06, 0.08), size, (0.33, 0.3))
    if side < 0:
        outline, sinus = mirrored(outline), mirrored(sinus)
    rim = smooth(scaled(outline, 1.14, (side * 0.4, 0.3)))
    scene.tissue(rim, 58)
    scene.hide(rim, label=label)
    level = rng.uniform(205, 225) if bright else rng.uniform(118, 135)
    scene.organ(label, smooth(outline), level, tone="White" if bright else "Gray")
    scene.tissue(sinus, 85, soft=0.8)


def _draw_ct_lung(rng: np.random.Generator, without: Set[str]) -> Scene:
    scene = open_scene(
        "CT lung", rng, size=(212, 180), radii=(0.38, 0.35), level=2, without=without
    )
    draw_trunk(scene, fat=70, muscle=128)
    with_heart = scene.chance(0.55)
    draw_spine(scene, 0.5)
    with scene.part():
        scene.tissue(ellipse(rng.uniform(0.1, 0.16), 0.36, 0.07, 0.085), 185)
    missing = rng.choice(["Left Lung", "Right Lung", "none"], p=[0.25, 0.25, 0.5])
    left_bigger = scene.chance(0.5)
    lung = [(0.2, -0.5), (0.42, -0.68), (0.66, -0.44), (0.77, -0.02), (0.7, 0.4), (0.46, 0.62)]
    lung += [(0.26, 0.52), (0.2, 0.2), (0.16, -0.1)]
    for label, side in (("Left Lung", 1), ("Right Lung", -1)):
        if label == missing:
            continue
        size = rng.uniform(1.0, 1.06) if left_bigger == (side > 0) else rng.uniform(0.74, 0.8)
        outline = scaled(wobble(lung, 0.035, rng), size, (0.5, 0.05))
        outline = outline if side > 0 else mirrored(outline)
        with scene.thing(label):
            organ = scene.organ(label, smooth(outline), rng.uniform(18, 34), texture=3)
            _draw_vessels(scene, organ, 22)
    if with_heart:
        x = rng.uniform(0.06, 0.16)
        level = rng.uniform(160, 185)
        heart = wobble(ellipse(x, -0.17, 0.34, 0.36, rng.uniform(-0.4, 0.2), 12), 0.02, rng)
        scene.organ("Heart", smooth(heart, 2), level, texture=6)
    else:
        scene.tissue(ellipse(0.02, -0.3, 0.16, 0.2), 150, texture=8)
        scene.tissue(ellipse(0.1, -0.28, 0.09, 0.11), 185)
        scene.organ("Trachea", ellipse(-0.02, -0.02, 0.075, 0.085), 8, texture=0)
    return scene


def _draw_vessels(scene: Scene, organ: Organ, count: int) -> None:
    """Small bright dots and twigs, much smaller than any lesion."""
    rng = scene.rng
    rows, columns = np.nonzero(organ.cover > 0.99)
    for index in rng.integers(0, len(rows), count):
        x, y = float(columns[index]), float(rows[index])
        step = rng.uniform(-4, 4, 2)
        twig = scene.canvas.stroke(np.array([[x, y], [x + step[0], y + step[1]]]), 1)
        scene.canvas.blend(twig * organ.cover, 105, 0.7)


def _draw_mri_brain(rng: np.random.Generator, without: Set[str]) -> Scene:
    scene = open_scene(
        "MRI brain", rng, size=(184, 200), radii=(0.36, 0.385), level=1, without=without
    )
    canvas = scene.canvas
    t2 = scene.chance(0.5)
    scene.facts["weighting"] = "T2" if t2 else "T1"
    fluid = rng.uniform(215, 240) if t2 else rng.uniform(20, 34)
    scene.tissue(ellipse(0, 0, 1, 1), 190, texture=14)
    scene.tissue(ellipse(0, 0, 0.94, 0.945), 22)
    scene.tissue(ellipse(0, 0, 0.88, 0.89), fluid * 0.55 + 20)
    gray = rng.uniform(132, 150) if t2 else rng.uniform(88, 104)
    edge = 0.845 + 0.03 * np.sin(np.linspace(0, 2 * math.pi, 60) * rng.integers(13, 18))
    brain = scene.organ("Brain", ellipse(0, 0, 1, 1, 0, 60) * edge[:, None], gray, texture=4)
    white = gray + (-18 if t2 else 24)
    folds = np.sin(canvas.clouds(12) * 3.4) > 0.25
    for side in (-1, 1):
        core = canvas.cover(scene.frame.to_pixels(ellipse(side * 0.36, 0.0, 0.31, 0.62)))
        with scene.part():
            canvas.blend(cv2.GaussianBlur(core, (0, 0), 5), white, 0.9)
    cortex = 1 - canvas.cover(scene.frame.to_pixels(ellipse(0, 0, 0.68, 0.7)))
    furrows = cv2.GaussianBlur(folds.astype(np.float32), (0, 0), 1.2) * cortex * brain.cover
    with scene.part():
        canvas.blend(furrows, fluid * 0.4 + gray * 0.6, 0.55)
    for y1, y2 in ((-0.86, -0.36), (0.4, 0.86)):
        with scene.part():
            scene.line([(0, y1), (0, y2)], fluid * 0.7 + 20, 1, strength=0.8)
    horn = [(0.05, -0.34), (0.2, -0.4), (0.16, -0.16), (0.13, 0.04), (0.28, 0.3), (0.22, 0.42)]
    horn += [(0.1, 0.16), (0.04, -0.06)]
    size = rng.uniform(1.0, 1.2)
    for label, side in (("Left Ventricle", 1), ("Right Ventricle", -1)):
        if scene.chance(0.7):
            outline = scaled(wobble(horn, 0.015, rng), size, (0.1, 0))
            outline = outline if side > 0 else mirrored(outline)
            tone = "White" if t2 else "Black"
            scene.organ(label, smooth(outline), fluid, texture=0, tone=tone)
    if scene.chance(0.6):
        for label, side in (("Left Eye", 1), ("Right Eye", -1)):
            if scene.chance(0.75):
                with scene.thing(label):
                    scene.tissue(ellipse(side * 0.44, -0.735, 0.19, 0.15), gray * 0.8)
                    scene.organ(label, ellipse(side * 0.44, -0.76, 0.145, 0.125), fluid, texture=0)
    return scene


def _draw_xray_chest(rng: np.random.Generator, without: Set[str]) -> Scene:
    scene = open_scene(
        "X-ray chest", rng, size=(192, 204), radii=(0.5, 0.48), level=10, without=without
    )
    haze = rng.uniform(150, 172)
    trunk = [(-0.2, -1.1), (0.2, -1.1), (0.24, -0.86), (0.95, -0.72), (1.1, -0.3), (0.97, 0.2)]
    trunk += [(0.98, 1.2), (-0.98, 1.2), (-0.97, 0.2), (-1.1, -0.3), (-0.95, -0.72), (-0.24, -0.86)]
    scene.tissue(smooth(trunk), haze - 20, texture=6, soft=3)
    scene.tissue(ellipse(0, 0.95, 0.8, 0.42), haze + 28, soft=8)
    scene.tissue(smooth([(-0.11, -1.1), (0.11, -1.1), (0.14, 1), (-0.14, 1)], 1), haze + 22, soft=3)
    scene.tissue(ellipse(0, -0.8, 0.05, 0.22), haze - 25, soft=1.5)
    missing = rng.choice(["Left Lung", "Right Lung", "none"], p=[0.25, 0.25, 0.5])
    left_bigger = scene.chance(0.5)
    lung = [(0.2, -0.62), (0.4, -0.8), (0.6, -0.6), (0.74, -0.1), (0.78, 0.46), (0.5, 0.44)]
    lung += [(0.22, 0.52), (0.17, 0.1), (0.16, -0.3)]
    for label, side in (("Left Lung", 1), ("Right Lung", -1)):
        outline = wobble(lung, 0.03, rng)
        outline[:, 1] *= rng.uniform(1.0, 1.08) if left_bigger == (side > 0) else 0.78
        outline = smooth(outline if side > 0 else mirrored(outline))
        if label == missing:
            scene.tissue(outline, haze + 12, texture=8, soft=4)
        else:
            scene.organ(label, outline, rng.uniform(48, 64), soft=1.5)
            if label in scene.without:
                with scene.aside():
                    scene.tissue(outline, haze + 12, texture=8, soft=4)
    lungs = [organ.cover for organ in scene.organs if organ.label not in scene.without]
    _draw_rib_cage(scene, sum(lungs), haze)
    enlarged = scene.chance(0.5)
    scene.facts["heart enlarged"] = "Yes" if enlarged else "No"
    width = rng.uniform(0.43, 0.48) if enlarged else rng.uniform(0.22, 0.26)
    heart = ellipse(0.12 if enlarged else 0.1, 0.3, width, 0.34, rng.uniform(0.15, 0.4), 14)
    scene.organ("Heart", smooth(wobble(heart, 0.015, rng), 2), haze + 38, texture=3, soft=1.2)
    _draw_marker(scene)
    return scene


def _draw_rib_cage(scene: Scene, lungs: np.ndarray | int, haze: float) -> None:
    """Ribs and clavicles, brightest over the lungs."""
    start = -0.72 + scene.rng.uniform(0, 0.1)
    along = np.linspace(0, 1, 14)
    for y in np.arange(start, 0.5, 0.155):
        for side in (-1, 1):
            x = side * (0.12 + 0.68 * along)
            rib = np.stack([x, y + 0.2 * along**2 - 0.08 * np.sin(math.pi * along)], axis=1)
            cover = scene.canvas.stroke(scene.frame.to_pixels(rib), 4)
            soft = cv2.GaussianBlur(cover, (0, 0), 1.2) * (0.25 + 0.75 * lungs)
            with scene.part():
                scene.canvas.pixels += 30 * soft
    for side in (-1, 1):
        bone = [(side * 0.1, -0.6), (side * 0.4, -0.7), (side * 0.85, -0.8)]
        with scene.part():
            scene.line(bone, haze + 40, 5, soft=1.2, strength=0.6)


def _draw_marker(scene: Scene) -> None:
    """The R or L that radiographers lay on the film, on the patient's side."""
    letters = {
        "R": [(0, 10), (0, 0), (5, 0), (6, 2), (5, 5), (0, 5), (2, 5), (6, 10)],
        "L": [(0, 0), (0, 10), (6, 10)],
    }
    letter, x = ("R", 8) if scene.chance(0.5) else ("L", scene.canvas.width - 15)
    strokes = np.array(letters[letter], dtype=float) + np.array([x, 8])
    scene.canvas.blend(scene.canvas.stroke(strokes, 1), 235)
