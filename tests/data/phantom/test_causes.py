"""What decides a phantom's questions: that it is all that changes where it was never drawn, and
that it says what is true there."""

import json
import re

import numpy as np
import pytest

from kit.data.evidence import is_lesion
from kit.data.phantom.causes import ALIKE, Cause, mask_of_runs, read_causes, run_lengths
from kit.data.phantom.dataset import draw_phantom, draw_without, write_slake_phantoms
from kit.data.phantom.layout import are_phantoms
from kit.data.phantom.wordings import WORDINGS
from kit.data.slake import read_slake
from kit.errors import DataError

SEED = 3
NUMBERS = range(32)
NAMED = re.compile(
    r"(?:Does the picture contain|Is there|Is) (.+?)(?: present)?(?: in this image)?\?$"
)
PLACED_NOWHERE = {"modality", "weighting", "body part", "plane"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("slake")
    write_slake_phantoms(root, images={"train": len(NUMBERS)}, seed=SEED)
    return root


@pytest.fixture(scope="module")
def known(folder):
    """Of each phantom: its number, its pixels, and what decides its questions."""
    return [
        (n, draw_without(n, (), seed=SEED), read_causes(folder / f"imgs/xmlab{n}/source.jpg"))
        for n in NUMBERS
    ]


def changes(number: int, things, whole: np.ndarray) -> np.ndarray:
    """How far each pixel differs without some things, in grey levels."""
    return np.abs(draw_without(number, things, seed=SEED).astype(int) - whole)


def test_without_its_things_a_phantom_is_the_same_everywhere_else(known):
    for number, whole, causes in known:
        for cause in {each for each in causes.of.values() if each.things}:
            change, mask = changes(number, cause.things, whole), causes.mask(cause.things)
            assert change[mask].mean() > 3, (number, cause)
            beyond = change[~mask] > 2
            # a lung that is missing on a film is white, with a soft edge
            assert beyond.sum() <= (100 if causes.of and "Lung" in "".join(cause.things) else 0)
            assert mask.mean() < 0.5


@pytest.mark.slow
def test_the_others_change_as_much_and_nothing_of_the_cause(known):
    ratios, alone = [], []
    for number, whole, causes in known:
        for cause in {each for each in causes.of.values() if each.other}:
            own, other = (changes(number, t, whole) for t in (cause.things, cause.other))
            ratios.append(other.sum() / own.sum())
            assert not {*cause.things} & {*cause.other}
            if cause.things[0].startswith("lesion"):
                alone.append(((own > 3) & (other > 3)).sum() / (own > 3).sum())
    assert len(alone) > 20
    assert max(alone) < 0.05
    assert 0.9 < np.median(ratios) < 1.1
    assert np.mean([1 / ALIKE <= ratio <= ALIKE for ratio in ratios]) > 0.8


def test_each_kind_of_question_is_decided_where_its_answer_is(known):
    kinds = {kind: set() for kind in WORDINGS}
    for number, _, causes in known:
        picture, questions = draw_phantom(number, seed=SEED)
        labels = [label for label, _ in picture.boxes]
        assert [*causes.of] == [(q.question, q.answer) for q in questions]
        for question in questions:
            cause = causes.of[question.question, question.answer]
            assert cause.kind == question.kind
            kinds[question.kind].add(bool(cause.things))
            lesions = [name for name in cause.things if name.startswith("lesion")]
            organs = [name for name in cause.things if name not in lesions]
            assert {*organs} <= {*labels}
            if question.answer in ("No", "0") and question.kind != "heart size":
                assert cause == Cause(question.kind)
            if question.kind == "lesion count":
                assert str(len(lesions)) == question.answer
                assert not organs
            if question.kind == "organ count":
                assert str(len(organs)) == question.answer
            if "lesion" in question.kind or question.kind == "disease":
                assert not organs
            if cause.things:
                counts = {"lesion count": "0", "organ count": "0"}
                yes = "No" if question.answer == "Yes" and question.kind != "heart size" else ""
                assert cause.without == counts.get(question.kind, yes)
    for kind, placed in kinds.items():
        if placed:
            assert (True not in placed) == (kind in PLACED_NOWHERE), kind
    assert sum(map(bool, kinds.values())) > 18


def test_a_mask_is_the_same_after_being_written():
    rng = np.random.default_rng()
    for size in ((1, 1), (7, 5), (40, 60)):
        for mask in (rng.random(size) < 0.5, np.zeros(size, bool), np.ones(size, bool)):
            assert np.array_equal(mask_of_runs(run_lengths(mask), size), mask)


def test_the_reader_of_slake_does_not_know_of_causes(folder, realdata):
    before, _ = read_slake(folder, "train")
    assert read_causes(next((realdata / "SLAKE/imgs").glob("*/source.jpg"))) is None
    path = folder / "imgs/xmlab0/causes.json"
    text = path.read_text()
    path.unlink()
    assert read_slake(folder, "train")[0] == before
    path.write_text(text)


@pytest.mark.parametrize("change", [
    {"things": {"Liver": [3]}}, {"drawn": {}}, {"questions": [{"question": "?"}]}, {"things": {}},
    {"size": [2]}, {"things": []},
])  # fmt: skip
def test_a_broken_file_is_named(folder, tmp_path, change):
    value = json.loads((folder / "imgs/xmlab1/causes.json").read_text())
    (tmp_path / "causes.json").write_text(json.dumps(value | change))
    with pytest.raises(DataError, match="not as it was written") as caught:
        read_causes(tmp_path / "source.jpg")
    assert "causes.json" in str(caught.value)


@pytest.mark.slow
def test_twins_come_after_the_others_and_answer_what_is_true_of_them(folder, tmp_path):
    """By the boxes of what is there: presence, counts. Each differs from its phantom in an answer,
    and most share others with it."""
    images = {"train": len(NUMBERS), "test": 1}
    write_slake_phantoms(tmp_path, images=images, seed=SEED, twins={"train"})
    before, _ = read_slake(folder, "train")
    rows, _ = read_slake(tmp_path, "train")
    assert [(r.qid, r.question, r.answer) for r in rows[: len(before)]] == [
        (r.qid, r.question, r.answer) for r in before
    ]
    assert len(read_slake(tmp_path, "test")[0]) < 10
    true = {(row.image.parent.name, row.question): row.answer for row in before}
    pairs: dict[str, list[bool]] = {}
    for row in rows[len(before) :]:
        own = f"xmlab{int(row.image.parent.name.removeprefix('xmlab')) % 1_000_000}"
        pairs.setdefault(row.image.parent.name, []).append(row.answer == true[own, row.question])
        labels = [region.label.lower() for region in row.regions]
        lesions = sum(map(is_lesion, labels))
        named = NAMED.match(row.question) if row.content_type in ("Organ", "Abnormality") else None
        if named and not named[1].startswith("a lesion"):
            assert row.answer == ("Yes" if named[1] in labels else "No")
        if row.question.startswith(("Is there a lesion in this", "Does this image show any")):
            assert row.answer == ("Yes" if lesions else "No")
        if row.content_type == "Quantity":
            name = row.question.split()[2]
            own = [label for label in labels if label.endswith(f" {name.rstrip('s')}")]
            assert row.answer == str(lesions if name == "lesions" else len(own))
    assert len(pairs) > 20
    assert not [name for name, same in pairs.items() if all(same)]
    assert np.mean([any(same) for same in pairs.values()]) > 0.9
    assert are_phantoms([(row.qid, str(row.image)) for row in rows])
