"""What a model's boxes count: told of models that speak each convention, and of none that guess."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from kit.counterfactual.images import ImageCache
from kit.data.boxes import CONVENTIONS
from kit.evaluate import box_check
from kit.evaluate.answering import Predictor
from kit.evaluate.box_check import check_boxes, draw_spot, sizes
from kit.evaluate.box_conventions import Spot, first_box, judge
from kit.evaluate.config import BoxCheckConfig
from kit.model.sampler import Completion

SEEDS = range(20)
BOUNDS = {"as the kit trains": (3136, 401_408), "both ways": (200_704, 401_408)}
FORMS = (
    '{{"caption": "c", "reasoning": [], "boxes": [[{0}, {1}, {2}, {3}]], "answer": "here"}}',
    '```json\n[\n\t{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "bright spot"}}\n]\n```',
    "the bright spot({0},{1}),({2},{3})",
    "It is at [[{0}, {1}], [{2}, {3}]].",
)


def written(box, convention: str, image: Spot, form: int) -> str:
    """A box in pixels as a model that speaks a convention writes it."""
    sides = {
        "grid_1000": (1000, 1000),
        "pixels": image.size,
        "resized_pixels": image.resized,
        "unit": (1, 1),
    }[convention]
    shares = np.array(box) / (image.size * 2) * (sides * 2)
    numbers = shares.round(3 if convention == "unit" else 0).tolist()
    return FORMS[form].format(*(n if convention == "unit" else int(n) for n in numbers))


def drawn(seed: int, count: int = 24, bounds=BOUNDS["as the kit trains"]) -> list[Spot]:
    """What the command draws, without the pixels."""
    rng = np.random.default_rng(seed)
    found = []
    for width, height in sizes(count, *bounds, rng):
        down, across = smart_resize(height, width, 28, *bounds)
        half = rng.uniform(0.08, 0.18, 2)
        middle = rng.uniform(half, 1 - half)
        box = np.hstack([middle - half, middle + half]) * ((width, height) * 2)
        found.append(Spot((width, height), (across, down), tuple(box)))
    return found


def answers(shown, convention: str, seed: int, noise: float = 0.04) -> list[str]:
    """Of a model that sees: noisy, one in eight without a box and one in eight elsewhere."""
    rng = np.random.default_rng(1000 + seed)
    texts = []
    for number, image in enumerate(shown):
        box = np.array(image.box) + rng.normal(0, noise, 4) * (image.size * 2)
        if number % 8 == 3:
            texts.append("I see no spot.")
            continue
        if number % 8 == 5:
            box = np.array([0.1, 0.1, 0.3, 0.3]) * (image.size * 2)
        x1, y1, x2, y2 = np.clip(box, 0, image.size * 2)
        box = (min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1)
        texts.append(written(box, convention, image, number % len(FORMS)))
    return texts


def told(shown, texts) -> str | None:
    return judge(shown, [first_box(text) for text in texts]).convention


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_convention_is_named_of_a_model_that_sees(convention, bounds):
    named = []
    for seed in SEEDS:
        shown = drawn(seed, bounds=bounds)
        named.append(told(shown, answers(shown, convention, seed)))
    assert named == [convention] * len(SEEDS)


GUESSES = {
    "anywhere on the grid": lambda rng, image: rng.integers(0, 1001, 4),
    "anywhere in the image": lambda rng, image: rng.random(4) * (image.size * 2),
    "anywhere in the resized image": lambda rng, image: rng.random(4) * (image.resized * 2),
    "shares": lambda rng, image: rng.random(4).round(3),
    "always the middle of the grid": lambda rng, image: np.array([250, 250, 750, 750]),
    "always the middle of the image": lambda rng, image: (
        np.array([0.25, 0.25, 0.75, 0.75]) * (image.size * 2)
    ),
    "always the whole image": lambda rng, image: np.array([0, 0, *image.resized]),
    "small boxes near the middle": lambda rng, image: (
        np.array([450, 450, 550, 550]) + rng.normal(0, 60, 4)
    ),
}


@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
def test_none_is_named_of_a_model_that_guesses(guess):
    named = 0
    for seed in SEEDS:
        shown, rng = drawn(seed), np.random.default_rng(500 + seed)
        boxes = [np.sort(guess(rng, image).reshape(2, 2), axis=0).ravel() for image in shown]
        named += judge(shown, [tuple(map(float, b)) for b in boxes]).convention is not None
    assert named <= 1


def test_too_few_boxes_tell_nothing():
    shown = drawn(0)
    texts = answers(shown, "grid_1000", 0, noise=0.0)
    assert told(shown, texts) == "grid_1000"
    few = [text if number < 9 else "" for number, text in enumerate(texts)]
    found = judge(shown, [first_box(text) for text in few])
    assert (found.convention, found.readable) == (None, 8)
    assert found.reason == "only 8 answers have a box, and it takes 10"
    assert judge(shown, [None] * len(shown)).reason == "no answer has a box"


def test_images_that_are_not_resized_do_not_tell_two_conventions_apart():
    shown = [Spot(image.resized, image.resized, image.box) for image in drawn(0)]
    shown = [Spot(i.size, i.size, tuple(np.array(i.box) * 0.3)) for i in shown]
    found = judge(shown, [image.box for image in shown])
    assert found.convention is None
    assert found.reason == "pixels fits best, but not surely better than resized_pixels"
    assert found.fits["pixels"].iou == 1.0
    assert found.fits["pixels"].by_chance < 0.3


def test_sizes_set_the_conventions_apart():
    for bounds in BOUNDS.values():
        shown = drawn(3, 60, bounds)
        factors = [image.size[0] / image.resized[0] for image in shown]
        assert all(factor > 1.3 or factor < 0.75 for factor in factors)
        assert any(factor < 1 for factor in factors) == (bounds[0] > 100_000)
        assert all(side % 28 for image in shown for side in image.size)
        assert len({image.size for image in shown}) == 60
        shapes = [image.size[0] / image.size[1] for image in shown]
        assert min(shapes) < 0.6 and max(shapes) > 1.7  # noqa: PT018


def test_the_box_is_that_of_the_only_bright_spot():
    rng = np.random.default_rng(7)
    for width, height in ((301, 211), (97, 333)):
        pixels, (x1, y1, x2, y2) = draw_spot(width, height, rng)
        assert pixels.shape == (height, width)
        bright = np.argwhere(pixels > 170)
        assert len(bright)
        (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
        assert np.abs(np.array([left, top, right, bottom]) - (x1, y1, x2, y2)).max() <= 2
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


class Seeing(Predictor):
    """Finds the spot in the files that were drawn, and writes it in a convention."""

    convention: str
    folder: Path
    plain_only = False

    def complete(self, prompts):
        paths = {self.image_cache.prepared(str(p)).key: p for p in self.folder.glob("*.png")}
        done = []
        for number, prompt in enumerate(prompts):
            path = paths[prompt.trunk.image_keys[0]]
            bright = np.argwhere(np.asarray(Image.open(path)) > 170)
            (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
            image = Spot(self.image_cache.size(str(path)), self.resized(str(path)), ())
            asked = self.processor.decode(prompt.trunk.input_ids.tolist())
            text = written((left, top, right, bottom), self.convention, image, number % len(FORMS))
            if self.plain_only and "JSON object" in asked:
                text = '{"answer": "no idea"}'
            done.append([Completion(tuple(self.processor.encode(text)), (), False)])
        return done


@pytest.fixture
def seeing(monkeypatch, processor, tmp_path):
    """The command with a model that sees."""

    def prepare(convention: str, **options):
        predictor = Seeing(None, ImageCache(processor), max_new_tokens=8, batch_size=4)
        values = {"convention": convention, "folder": tmp_path / "out" / "images", **options}
        for name, value in values.items():
            object.__setattr__(predictor, name, value)
        monkeypatch.setattr(
            box_check, "loaded_predictor", lambda *_: contextlib.nullcontext(predictor)
        )
        code = check_boxes(
            BoxCheckConfig(base_model="tiny", output=str(tmp_path / "out"), images=12)
        )
        assert code == 0
        return json.loads((tmp_path / "out" / "boxes.json").read_text())

    return prepare


@pytest.mark.slow
def test_the_command_says_what_to_evaluate_with(seeing, tmp_path, capsys):
    found = seeing("resized_pixels")
    assert found["convention"] == "resized_pixels"
    assert "--answer_boxes resized_pixels" in found["advice"]
    assert found["advice"] in capsys.readouterr().out
    for asked in found["asked"].values():
        assert asked["readable"] == asked["asked"] == 12
        assert asked["fits"]["resized_pixels"]["iou"] > 0.9
        assert asked["fits"]["resized_pixels"]["low"] > asked["fits"]["pixels"]["high"]
    picture = Image.open(tmp_path / "out" / "boxes.png")
    assert len(picture.getcolors(10_000_000)) > 50
    assert len(found["images"]) == 12


@pytest.mark.slow
def test_a_model_that_knows_the_grid_needs_nothing(seeing):
    found = seeing("grid_1000")
    assert found["convention"] == "grid_1000"
    assert "--answer_boxes grid_1000" in found["advice"]


@pytest.mark.slow
def test_what_is_told_by_a_plain_question_alone_is_said_so(seeing):
    found = seeing("pixels", plain_only=True)
    assert found["convention"] is None
    assert found["asked"]["plain"]["convention"] == "pixels"
    assert "no answer has a box" in found["advice"]
    assert "--answer_boxes pixels" in found["advice"]


@pytest.mark.slow
def test_the_command_runs_on_a_trained_adapter(trained, tmp_path, capsys):
    """Of so few steps that nothing can be told, which it says."""
    config = BoxCheckConfig(
        adapter=str(trained["sft"]), output=str(tmp_path), images=10, max_new_tokens=40
    )
    assert check_boxes(config) == 0
    found = json.loads((tmp_path / "boxes.json").read_text())
    assert found["convention"] is None
    assert {len(image["answers"]) for image in found["images"]} == {3}
    assert all(text for image in found["images"] for text in image["answers"].values())
    assert (tmp_path / "boxes.png").is_file()
    assert f"max_pixels 50176 of {trained['sft']}" in capsys.readouterr().out
