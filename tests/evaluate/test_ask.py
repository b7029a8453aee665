"""One question to a model: the answer that evaluate gives, what becomes of it without its boxes,
and mistakes told at once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import rows
from PIL import Image, ImageColor

from kit import cli
from kit.counterfactual.inpaint import inpaint
from kit.data.canvas import Canvas
from kit.data.records import read_sft_records
from kit.errors import ConfigError, UserError
from kit.evaluate.ask import mode_of, record_of, text_of
from kit.evaluate.ask_config import AskConfig
from kit.evaluate.ask_figure import CELL, CONTROL, draw_replies, shown_images
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.evaluate.figure import CLAIMED, MARGIN, SIDE
from kit.evaluate.replies import Reply, Without
from kit.evaluate.setting import setting_of
from kit.prompting.answers import parse_answer
from kit.report.certificate_file import Certificate, Seen

ASKED = {"max_new_tokens": 100, "random_draws": 1, "seed": 3}


@pytest.fixture
def asked(capsys, tmp_path):
    """Asks as on the command line, and gives what is printed of each image."""

    def ask(*arguments: object, **flags: object) -> list[dict]:
        given = [f"--{name}={value}" for name, value in (ASKED | flags).items()]
        capsys.readouterr()
        assert cli.execute("ask", *map(str, arguments), "--format=json", *given) == 0
        (tmp_path / "printed").write_text(capsys.readouterr().out)
        return rows(tmp_path, "printed")

    return ask


# ------------------------------------------------------------------- the same as evaluate
@pytest.mark.parametrize("model", ["base", "adapter"])
def test_the_answer_is_that_of_evaluate(model, asked, prepared, trained_small, tmp_path):
    """Also at the image size that an adapter was trained with, and without its boxes."""
    named = {"base_model": "tiny"} if model == "base" else {"adapter": str(trained_small)}
    evaluate(
        EvaluateConfig(
            data=str(prepared["few"]), max_records=4 if model == "base" else 2,
            output=str(tmp_path), counterfactual=True,
            consistency=False, prompting_mode="caption_reason_answer", **ASKED, **named,
        )
    )  # fmt: skip
    evaluated = rows(tmp_path, "predictions.jsonl")
    by_image = {row["image"]: [one for one in evaluated if one["image"] == row["image"]]
                for row in evaluated}  # fmt: skip
    setting = json.loads((tmp_path / "setting.json").read_text())
    certificate = Certificate(
        alpha=0.1, delta=0.05, need=1e-4, threshold=0.5, why="", batch=None, calibration={},
        setting=setting | {"mode": "caption_reason_answer"}, held_out=None, modalities={},
    )  # fmt: skip
    certificate.write(tmp_path / "certificate.json")
    named |= {"certificate": str(tmp_path / "certificate.json")}
    pairs = []
    for image, own in by_image.items():
        (line,) = asked("--image", image, "--question", *(row["question"] for row in own), **named)
        assert (line["image"], line["image_size"]) == (image, own[0]["image_size"])
        pairs += zip(own, line["answers"], strict=True)
    compared = 0
    for row, found in pairs:
        assert (found["text"], found["answer"]) == (row["text"], row["answer"])
        assert found["probability"] == pytest.approx(
            row["confidences"]["answer_probability"], abs=2e-6
        )
        assert len(found["boxes"]) <= len(row["boxes"])
        if not (row["evidence"] and row["boxes"]):  # of which evaluate's controls keep away
            why = certificate.withheld(Seen.of_row(row))
            assert found["certificate"] == (f"withheld: {why}" if why else "certified")
        flip = row["flips"].get("claimed")
        if not flip:
            continue
        without = found["without_boxes"]
        assert found["boxes"] == flip["region"]
        assert (without["answer"], without["changed"]) == (flip["answer"], bool(flip["roi"]))
        assert without["drop"] == pytest.approx(flip["drop_roi"], abs=2e-6)
        if not row["evidence"]:  # of which evaluate's controls keep away
            assert [one["boxes"] for one in found["without_controls"]] == flip["random_regions"]
        compared += 1
    assert compared > 0 or model == "adapter"


def test_a_certificate_of_something_else_is_refused(asked, prepared, trained_small, tmp_path):
    image = read_sft_records(prepared["few"])[0][0].image
    tiny = AskConfig(image=[image], question=["Why?"], base_model="tiny", **ASKED)
    certificate = Certificate(
        alpha=0.1, delta=0.05, need=0.1, threshold=0.5, why="", batch=None, calibration={},
        setting=setting_of(tiny) | {"mode": "caption_reason_answer"}, held_out=None, modalities={},
    )  # fmt: skip
    certificate.write(tmp_path / "c.json")
    words = ("--image", image, "--question", "Why?", "--certificate", tmp_path / "c.json")
    wrong = {
        r"inpainting \(there telea, here ns\)": {"base_model": "tiny", "inpainting": "ns"},
        r"mode \(there caption": {"base_model": "tiny", "prompting_mode": "think_answer"},
        "needs the counterfactuals": {"base_model": "tiny", "counterfactual": False},
        r"adapter \(there none, here adapter_model": {"adapter": trained_small},
    }
    for says, flags in wrong.items():
        with pytest.raises(ConfigError, match=says):
            asked(*words, **flags)


@pytest.mark.slow
def test_a_folder_gives_a_line_an_image_and_their_pictures(asked, prepared, tmp_path):
    records = read_sft_records(prepared["test"])[0]
    images = sorted({record.image for record in records})[:2]
    (tmp_path / "slices").mkdir()
    for name, path in zip("ba", images, strict=True):
        (tmp_path / "slices" / f"{name}.PNG").write_bytes(Path(path).read_bytes())
    (tmp_path / "slices" / "notes.txt").write_text("no image")
    words = ("--question", next(record.question for record in records if record.regions))
    found = asked(
        "--image", tmp_path / "slices", *words, base_model="tiny", output=tmp_path / "drawn"
    )
    assert [Path(line["image"]).name for line in found] == ["a.PNG", "b.PNG"]
    (alone,) = asked("--image", images[0], *words, base_model="tiny", output=tmp_path / "b.png")
    (one,), (other,) = found[1]["answers"], alone["answers"]
    assert other["boxes"]
    assert all(one[name] == other[name] for name in ("text", "boxes", "finding"))
    assert one["probability"] == pytest.approx(other["probability"], abs=2e-6)
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {"a.PNG.png", "b.PNG.png"}
    assert (tmp_path / "drawn/b.PNG.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_several_images_of_one_question(asked, prepared):
    images = sorted({record.image for record in read_sft_records(prepared["test"])[0]})[:2]
    (line,) = asked("--image", *images, "--question", "Where is the lung?", base_model="tiny")
    assert line["image"] == images
    assert line["image_size"] == [list(Image.open(path).size) for path in images]
    for one in line["answers"]:
        assert all(box[0] in (1, 2) and len(box) == 5 for box in one["boxes"])


def test_what_is_printed_is_answers_alone(capsys, prepared):
    image = read_sft_records(prepared["few"])[0][0].image
    flags = ("--base_model=tiny", "--max_new_tokens=4", "--counterfactual=false")
    assert cli.execute("ask", image, "--question", "Why?", *flags) == 0
    said = capsys.readouterr()
    assert said.out.startswith("image  ")
    assert "cut off: set a larger max_new_tokens" in said.out
    assert "computes on" in said.err


def test_the_mode_is_that_of_the_adapter_s_training(tmp_path):
    image = {"image": ["x.png"], "question": ["?"], "adapter": str(tmp_path)}
    assert mode_of(AskConfig(**image)) == "caption_reason_answer"
    (tmp_path / "config.yaml").write_text("prompting_mode: think_answer\n")
    assert mode_of(AskConfig(**image)) == "think_answer"
    (tmp_path / "config.yaml").write_text("prompting_mode: both\n")
    assert mode_of(AskConfig(**image)) == "caption_reason_answer"
    told = AskConfig(**image, prompting_mode="think_answer")
    assert mode_of(told) == "think_answer"


# ------------------------------------------------------------- what is said of the outcome
REGION = ((10, 20, 40, 60),)
ELSEWHERE = ((60, 20, 90, 60),)


@pytest.fixture
def image(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return str(tmp_path / "x.png")


def reply(image: str, removed: str | None = "No", controls=("Yes",), region=REGION) -> Reply:
    said = {"caption": "A chest.", "reasoning": ["It is."], "boxes": [], "answer": "Yes"}
    parsed = parse_answer(json.dumps(said), required=tuple(said))
    without = [Without(ELSEWHERE, c, c != "Yes", 0.8) for c in controls]
    gone = Without(region, removed, removed != "Yes", 0.25) if removed else None
    return Reply(
        record_of(image, "Is there a lung?"), "caption_reason_answer", parsed, False,
        Canvas(((100, 80),)), 0.9, region, gone, tuple(without),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "changes without its boxes and not without the matched region, as one that rests"),
        (
            {"controls": ("Yes", "Yes")},
            "goes from 0.90 to 0.25 without them, and to 0.80 without a matched region",
        ),
        ({"controls": ("Yes", "No")}, "but also without 1 of 2 matched regions"),
        ({"removed": "Yes"}, "stays without its boxes, as one that does not rest on them would"),
        ({"controls": ()}, "No other region of the image matches them"),
        ({"removed": None, "region": (), "controls": ()}, "claims no boxes"),
    ],
)
def test_the_outcome_in_words(found, words, image):
    one = reply(image, **found)
    assert words in one.finding()
    assert one.to_json()["finding"] == one.finding()
    assert " ".join(words.split()[:4]) in " ".join(text_of([one]).split())


def test_drops_and_boxes_are_told_in_pixels(image):
    told = reply(image, controls=("Yes", "No")).to_json()
    assert told["boxes"] == [[10, 20, 40, 60]]
    assert told["without_boxes"]["drop"] == 0.65
    assert [one["drop"] for one in told["without_controls"]] == [0.1, 0.1]
    assert [one["changed"] for one in told["without_controls"]] == [False, True]


def test_the_picture_shows_what_the_model_was_shown(image, tmp_path):
    one = reply(image)
    whole, without, control = shown_images(one, "mean")
    pixels = np.asarray(Image.open(image))
    assert (np.asarray(whole[1]) == pixels).all()
    assert (np.asarray(without[1]) == inpaint(pixels, REGION, "mean")).all()
    assert (np.asarray(control[1]) == inpaint(pixels, ELSEWHERE, "mean")).all()
    draw_replies([one], tmp_path / "o.png", "mean")
    drawn = Image.open(tmp_path / "o.png").convert("RGB")
    for cell, colour, box in ((0, CLAIMED, REGION), (1, CLAIMED, REGION), (2, CONTROL, ELSEWHERE)):
        left = cell * CELL + MARGIN
        shown = np.asarray(drawn.crop((left, MARGIN, left + SIDE, MARGIN + SIDE)))
        ys, xs = np.nonzero((shown == ImageColor.getrgb(colour)).all(axis=2))
        extent = [v * 100 / SIDE for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
        assert extent == pytest.approx(box[0], abs=0.5)


# ------------------------------------------------------------------------------- mistakes
def spoilt(folder: Path) -> dict[str, str]:
    """Files that are no images, and folders that are no models."""
    files = {name: folder / name for name in ("none", "text.png", "cut.jpg", "huge.png", "x.png")}
    files["text.png"].write_text("hello")
    Image.effect_noise((200, 200), 60).save(files["cut.jpg"])
    files["cut.jpg"].write_bytes(files["cut.jpg"].read_bytes()[:4000])
    with Image.new("1", (1, 1)) as small:
        small.save(files["huge.png"])
    head = bytearray(files["huge.png"].read_bytes())
    head[16:24] = (20_000).to_bytes(4, "big") + (15_000).to_bytes(4, "big")
    head[29:33] = __import__("zlib").crc32(bytes(head[12:29])).to_bytes(4, "big")
    files["huge.png"].write_bytes(head)
    Image.new("L", (40, 40)).save(files["x.png"])
    (folder / "empty").mkdir()
    return {name: str(path) for name, path in files.items()} | {"empty": str(folder / "empty")}


MISTAKES = {
    "no such file": ({"image": "none"}, "no such image file"),
    "no image": ({"image": "text.png"}, "not an image of a known format"),
    "cut off": ({"image": "cut.jpg"}, "the file is truncated"),
    "300 megapixels": ({"image": "huge.png"}, "300000000 pixels, more than 50 megapixels"),
    "an empty folder": ({"image": "empty"}, "there is no image in this folder"),
    "10,000 characters": ({"question": "a" * 10_000}, "has 10000 characters, more than 4000"),
    "no question": ({"question": "  "}, "the question is empty"),
    "a control token": ({"question": "<|im_end|>"}, "control token"),
    "no model": ({"base_model": "/no/such/model"}, "no such model folder"),
    "no adapter": ({"adapter": "empty"}, "holds no adapter_config.json"),
    "no PNG": ({"output": "x.jpg"}, "the picture is a PNG file"),
    "no port": ({"port": "0"}, "port must be in 1..65535"),
}


def with_mistake(wrong: dict[str, str], files: dict[str, str]) -> list[str]:
    flags = {"base_model": "tiny", "image": "x.png", "question": "Why?"} | wrong
    return [f"--{name}={files.get(value, value)}" for name, value in flags.items()]


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_say_what_and_where_and_what_to_do(name, tmp_path):
    wrong, words = MISTAKES[name]
    with pytest.raises(UserError, match=words) as caught:
        cli.execute("ask", *with_mistake(wrong, spoilt(tmp_path)))
    assert caught.value.where
    assert caught.value.fix


def test_a_broken_image_of_a_folder_is_named(tmp_path):
    files = spoilt(tmp_path)
    with pytest.raises(UserError) as caught:
        cli.execute("ask", *with_mistake({"image": str(tmp_path)}, files))
    assert "3 of the 4 images cannot be read" in str(caught.value)
    assert all(files[name] in str(caught.value) for name in ("text.png", "cut.jpg", "huge.png"))


def test_mistakes_are_told_before_torch_is_loaded(tmp_path):
    files = spoilt(tmp_path)
    code = f"""
import sys
from kit import cli
from kit.errors import UserError
for flags in {[with_mistake(wrong, files) for wrong, _ in MISTAKES.values()]!r}:
    try: cli.execute("ask", *flags)
    except UserError: continue
    sys.exit("none was told")
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
