"""What the model is taught to say follows from the record."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.data.boxes import grid_to_pixels
from kit.data.evidence import LESION_WORDS, ORGANS, is_lesion
from kit.data.questions import RawQuestion
from kit.data.records import Region, parse_sft_record, to_json
from kit.data.slake import read_slake
from kit.data.targets import INSTRUCTION, caption, place_in_image, reasoning, to_sft_record

RAW = RawQuestion(
    dataset="SLAKE", qid="1", split="train", question="Where is the liver?", answer="Left",
    answer_type="OPEN", image=Path("/data/imgs/a.jpg"), image_size=(100, 100), where="f[0]",
    content_type="Position", modality="CT", location="Abdomen",
    regions=(Region("Liver", (5.0, 40.0, 30.0, 60.0)), Region("Nodule", (80.0, 80.0, 90.0, 90.0))),
    evidence=(Region("Liver", (5.0, 40.0, 30.0, 60.0)),),
)  # fmt: skip


def test_instruction_is_short_and_names_every_key():
    assert len(INSTRUCTION.split()) <= 60
    assert all(f'"{key}"' in INSTRUCTION for key in ("caption", "reasoning", "boxes", "answer"))


def test_record_as_a_whole(tmp_path):
    record = to_sft_record(RAW, "/data")
    assert record.image == "imgs/a.jpg"
    assert to_sft_record(RAW, "/elsewhere").image == "/data/imgs/a.jpg"
    target = json.loads(record.output)
    assert list(target) == ["caption", "reasoning", "boxes", "answer"]
    assert target == {
        "caption": "CT of the abdomen showing the liver and a nodule.",
        "reasoning": [
            "The question asks about the position of the liver.",
            "The liver is on the left of the image.",
            "So the answer is Left.",
        ],
        "boxes": [[50, 400, 300, 600]],
        "answer": "Left",
    }
    assert record.regions == RAW.evidence


CAPTIONS = {
    ("CT", "Lung", ("Nodule", "Left Lung", "Right Lung")): (
        "CT of the chest showing the left lung, the right lung and a nodule."
    ),
    ("X-Ray", "Chest_heart", ("Effusion", "Cardiomegaly")): (
        "X-ray of the chest showing an effusion and cardiomegaly."
    ),
    ("MRI", "Brain_Tissue", ("Brain Edema", "Brain Edema")): (
        "MRI of the brain showing brain edema."
    ),
    ("", "HEAD", ()): "A radiology image of the head.",
    ("", "", ()): "A radiology image.",
    ("CT", "Brain_Face", ()): "CT of the head.",
}


@pytest.mark.parametrize("case", CAPTIONS)
def test_captions(case):
    assert caption(*case) == CAPTIONS[case]


LABELS = st.sampled_from([*(o.title() for o in ORGANS), *(w.title() for w in LESION_WORDS)])


@given(st.lists(LABELS, max_size=20))
def test_captions_name_at_most_six_labels_organs_before_lesions_and_no_other(labels):
    shown = caption("CT", "Neck", labels).removeprefix("CT of the neck").removesuffix(".")
    names = re.split(r", | and ", shown.removeprefix(" showing ")) if shown else []
    assert len(names) == min(6, len(set(labels)))
    bare = [re.sub(r"^(the|a|an) ", "", name).title() for name in names]
    assert set(bare) <= set(labels)
    kinds = [is_lesion(name) for name in bare]
    assert kinds == sorted(kinds)
    lesions = {label for label in labels if is_lesion(label)}
    assert sum(kinds) == min(6, len(lesions)), "an organ pushed a lesion out"


@given(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.01, 0.1))
def test_places_agree_with_the_middle_of_the_box(x, y, side):
    place = place_in_image((x * 300, y * 600, (x + side) * 300, (y + side) * 600), (300, 600))
    across, down = x + side / 2, y + side / 2
    near_edge = min(abs(v - t) for v in (across, down) for t in (1 / 3, 2 / 3)) < 1e-6
    if near_edge:
        return
    assert ("left" in place) == (across < 1 / 3)
    assert ("right" in place) == (across > 2 / 3)
    assert ("upper" in place or "top" in place) == (down < 1 / 3)
    assert ("lower" in place or "bottom" in place) == (down > 2 / 3)


STEPS = {
    "evidence": ({}, "The liver is on the left of the image.", "So the answer is Left."),
    "absent organ": (
        {"question": "Does the picture contain heart?", "answer": "No", "content_type": "Organ"},
        "No heart is marked in the image.",
        "So the answer is no.",
    ),
    "present but unmarked organ does not follow": (
        {"question": "Does the picture contain heart?", "answer": "Yes", "content_type": "Organ"},
        "No heart is marked in the image.",
        "The answer is yes.",
    ),
    "modality": (
        {"question": "Is this a CT?", "answer": "Yes", "content_type": "Modality"},
        "The image is a CT.",
        "So the answer is yes.",
    ),
    "nothing is known": (
        {"question": "Is it large?", "answer": "No", "content_type": "SIZE", "regions": ()},
        "No region is marked for it.",
        "The answer is no.",
    ),
    "chinese keeps its answer": (
        {"question": "图片中包含心脏吗?", "answer": "不包含", "content_type": "Organ"},
        "No heart is marked in the image.",
        "So the answer is 不包含.",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_reasoning_follows_from_the_record(name):
    changes, finding, conclusion = STEPS[name]
    evidence = () if changes else RAW.evidence
    steps = reasoning(dataclasses.replace(RAW, **{"evidence": evidence} | changes))
    assert steps[1:] == [finding, conclusion]


KIDNEYS = (Region("Left Kidney", (60, 40, 80, 60)), Region("Right Kidney", (20, 40, 30, 60)))
CYST = (Region("Cyst", (5.0, 5.0, 15.0, 15.0)),)
FOLLOWS = [
    # whether the answer follows, and: question, answer, content type, evidence
    (True, "Where is the liver?", "Left", "Position", RAW.evidence),
    (False, "Where is the liver?", "Right", "Position", RAW.evidence),
    (False, "What color is the liver?", "Black", "Color", RAW.evidence),
    (False, "Is the liver healthy?", "No", "Abnormality", RAW.evidence),
    (False, "Is the liver healthy?", "Yes", "Abnormality", RAW.evidence),
    (True, "Does the picture contain liver?", "Yes", "Organ", RAW.evidence),
    (False, "Does the picture show a healthy liver?", "Yes", "Organ", RAW.evidence),
    (False, "Does the picture contain liver?", "No", "Organ", RAW.evidence),
    (False, "Is there a lesion in the liver?", "Yes", "Abnormality", RAW.evidence),
    (False, "What is the largest organ in the picture?", "Liver", "Size", RAW.evidence),
    (False, "Which organ contains the lesion?", "Liver", "Abnormality", RAW.evidence),
    (True, "How many kidneys are there in this image?", "2", "Quantity", KIDNEYS),
    (True, "How many kidneys are there in this image?", "Two", "COUNT", KIDNEYS),
    (False, "How many kidneys are there in this image?", "1", "Quantity", KIDNEYS),
    (False, "Where are the kidneys?", "Left", "Position", KIDNEYS),
    (True, "Is there a cyst in this image?", "Yes", "Abnormality", CYST),
    (True, "Are there abnormalities in this image?", "Yes", "Abnormality", CYST),
    (True, "What disease is shown in the picture?", "Cyst", "Abnormality", CYST),
    (True, "What is the lesion in the upper left of the image?", "Cyst", "Abnormality", CYST),
    (False, "What is the cause of the disease?", "Cyst", "KG", CYST),
    (True, "Does the picture contain heart?", "No", "Organ", ()),
    (True, "How many hearts are there in this image?", "0", "Quantity", ()),
    (False, "Is the heart enlarged?", "No", "Abnormality", ()),
    (False, "How does the heart look?", "Normal", "Abnormality", ()),
    (False, "What is shown in the heart?", "Nodule", "Abnormality", ()),
    (True, "How was this image taken?", "CT", "Modality", ()),
    (True, "Is this an MRI?", "No", "Modality", ()),
    (False, "What is the mr weighting in this image?", "T2", "Modality", ()),
    (False, "Is this a CT?", "No", "Modality", ()),
    (True, "Which part of the body is shown?", "Abdomen", "Position", ()),
    (False, "Which part of the body is shown?", "Chest", "Position", ()),
]


@pytest.mark.parametrize("case", FOLLOWS, ids=lambda case: f"{case[1]} {case[2]}")
def test_so_is_said_where_the_step_before_holds_the_answer(case):
    follows, question, answer, content_type, evidence = case
    raw = dataclasses.replace(
        RAW, question=question, answer=answer, content_type=content_type, evidence=evidence
    )
    *_, finding, conclusion = reasoning(raw)
    assert conclusion.startswith("So the answer is" if follows else "The answer is"), finding


@pytest.mark.parametrize("split", ["train", "validate", "test"])
def test_on_real_records_so_is_never_said_of_what_the_step_does_not_hold(realdata, split):
    """By the words of the finding alone."""
    for raw in read_slake(realdata / "SLAKE", split)[0]:
        if not isinstance(raw, RawQuestion):
            continue
        *_, finding, conclusion = reasoning(raw)
        if conclusion.startswith("So") and raw.answer not in ("0", "None"):
            held = re.findall(r"\w+", finding.lower().replace("infiltrate", "infiltration"))
            answer = re.findall(r"\w+", raw.answer.lower())
            if answer == ["no"]:
                assert held[0] == "no" or raw.content_type == "Modality", (raw, finding)
            elif answer != ["yes"]:
                assert {*answer} <= {*held}, (raw, finding)


def test_quantity_is_of_the_organ():
    raw = dataclasses.replace(RAW, question="How many kidneys are there?", content_type="Quantity")
    assert reasoning(raw)[0] == "The question asks about the number of kidneys."


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("split", ["train", "validate", "test"])
def test_every_real_target_is_faithful_to_its_record(realdata, split, language):
    rows, _ = read_slake(realdata / "SLAKE", split, language)
    for raw in (row for row in rows if isinstance(row, RawQuestion)):
        record = to_sft_record(raw, realdata)
        parse_sft_record(json.loads(json.dumps(to_json(record))), where="w", folder=realdata)
        target = json.loads(record.output)
        assert target["answer"] == raw.answer
        assert len(target["reasoning"]) == 3
        allowed = {r.label.lower() for r in raw.regions}
        marked = target["caption"].partition(" showing ")[2].removesuffix(".")
        names = [re.sub(r"^(the|a|an) ", "", n) for n in re.split(r", | and ", marked) if n]
        assert set(names) <= allowed
        sides = (record.image_size[0] / 1000, record.image_size[1] / 1000) * 2
        for box in target["boxes"]:
            pixels = grid_to_pixels(box, record.image_size)
            assert any(
                all(
                    abs(a - b) <= s
                    for a, b, s in zip(pixels, r.box_xyxy_pixels, sides, strict=True)
                )
                for r in raw.evidence
            )
