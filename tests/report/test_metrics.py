"""From prediction rows to metrics: means over the rows that count, strata, and known models."""

import random
from collections import defaultdict

import numpy as np
import pytest

from kit.report.metrics import strata_of, summarise, summarise_mode, values_of
from kit.report.statistics import mean_interval
from kit.scoring.accuracy import KEYS, score_answer

ANSWERS = ["yes", "no", "Normal", "Lung", "Lung, Heart", "left lung", "", "10", "not seen."]
ENDS = ("/low", "/high", "/n")


def random_rows(count: int, seed: int) -> list[dict]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        row = {
            "answer_type": draw.choice(["OPEN", "CLOSED"]),
            "modality": draw.choice(["CT", "MRI", ""]),
            "location": draw.choice(["Lung", "Brain_Face"]),
            "content_type": draw.choice(["Organ", "PRES, ABN", "PRES", ""]),
            "dataset": draw.choice(["SLAKE", "VQA_RAD"]),
            "image": draw.choice("abcdefghij"),
        }
        answers = draw.choice(ANSWERS), draw.choice(ANSWERS)
        row["scores"] = score_answer(*answers, answer_type=row["answer_type"])
        rows.append(row)
    return rows


def means(rows) -> dict[str, float]:
    return {k: v for k, v in summarise_mode(rows).items() if not k.endswith(ENDS)}


def test_total_is_the_accuracy_over_both_types():
    rows = random_rows(500, seed=1)
    scores = [row["scores"] for row in rows]
    hits = sum(s["medevalkit/closed"] or s["medevalkit/open_exact"] or 0 for s in scores)
    assert means(rows)["medevalkit/total"] == pytest.approx(hits / 500)


def test_each_metric_is_the_mean_over_the_rows_that_it_applies_to():
    rows = random_rows(700, seed=2)
    columns = defaultdict(list)
    parted = ("llava_med/open_recall", "llava_med/closed_accuracy", "medevalkit/total")
    for row in rows:
        values = row["scores"]
        for key in KEYS[1:]:
            if values[key] is not None:
                columns["relaxed/all" if key == "relaxed" else key].append(values[key])
                if key in parted:
                    columns[f"{key}/dataset/{row['dataset']}"].append(values[key])
        exact = values["exact"]
        columns["exact/all"].append(exact)
        for key in ("exact", "relaxed"):
            columns[f"{key}/{row['answer_type'].lower()}"].append(values[key])
        columns[f"exact/location/{row['location']}"].append(exact)
        columns[f"exact/dataset/{row['dataset']}"].append(exact)
        if row["modality"]:
            columns[f"exact/modality/{row['modality']}"].append(exact)
        for part in row["content_type"].split(", "):
            if part:
                columns[f"exact/content/{part}"].append(exact)
    metrics = summarise_mode(rows)
    assert means(rows).keys() == columns.keys()
    for name, values in columns.items():
        assert metrics[name] == pytest.approx(sum(values) / len(values), abs=1e-12), name
        assert metrics[f"{name}/n"] == len(values)
        if f"{name}/low" in metrics:
            assert metrics[f"{name}/low"] <= metrics[name] + 1e-12
            assert metrics[f"{name}/high"] >= metrics[name] - 1e-12


def scored(image: int, question: int, exact: float) -> dict:
    return {
        "answer_type": "OPEN", "image": f"image {image}", "qid": question, "boxes": [],
        "scores": {"exact": exact}, "confidences": {"answer_probability": 0.2 + 0.6 * exact},
        "grounding": {"iou": 0.4, "acc@0.5": 0.0, "box_iou": 0.4, "pointing": 1.0},
        "floor": {"answer": "", "exact": 0.0},
    }  # fmt: skip


def images_alike(count: int, seed: int) -> list[dict]:
    """Five questions an image, of which nearly all are right or nearly all wrong."""
    rng = np.random.default_rng(seed)
    easy = np.repeat(rng.integers(0, 2, count), 5)
    right = np.where(rng.random(5 * count) < 0.9, easy, 1 - easy)
    return [scored(n // 5, n, float(exact)) for n, exact in enumerate(right)]


def width_of(metrics: dict, name: str) -> float:
    return metrics[f"{name}/high"] - metrics[f"{name}/low"]


def test_every_metric_has_bounds_around_it_and_the_number_of_rows_that_it_is_over():
    rows = images_alike(30, seed=1)
    for row in rows[:40]:
        del row["grounding"]
    metrics = summarise_mode(rows)
    names = {name for name in metrics if not name.endswith(ENDS)}
    assert {"exact/all", "exact/open", "iou/mean", "aurc", "ece", "above_floor"} <= names
    assert metrics.keys() == {f"{name}{end}" for name in names for end in ("", *ENDS)}
    for name in names:
        low, high = metrics[f"{name}/low"], metrics[f"{name}/high"]
        assert low - 1e-12 <= metrics[name] <= high + 1e-12, name
        assert metrics[f"{name}/n"] == (110 if name.startswith(("iou", "pointing")) else 150), name


def test_bounds_are_over_images_and_not_over_questions():
    """Wilson's of as many answers as the spread of the images is worth: half the width of that
    would be of questions taken as independent."""
    rows = images_alike(40, seed=2)
    metrics = summarise_mode(rows)
    exact = np.array([row["scores"]["exact"] for row in rows])
    images = [row["image"] for row in rows]
    assert (metrics["exact/all/low"], metrics["exact/all/high"]) == mean_interval(exact, images)
    low, high = mean_interval(exact, range(200))
    assert width_of(metrics, "exact/all") > 1.8 * (high - low)


def test_slices_of_one_volume_are_one_cluster():
    rows = images_alike(40, seed=2)
    volumes = [row | {"volume": str(row["qid"] // 20)} for row in rows]  # of four images each
    exact = [row["scores"]["exact"] for row in rows]
    metrics = summarise_mode(volumes)
    bounds = (metrics["exact/all/low"], metrics["exact/all/high"])
    assert bounds == mean_interval(exact, [row["volume"] for row in volumes])
    assert width_of(metrics, "aurc") > 1.2 * width_of(summarise_mode(rows), "aurc")
    few = summarise_mode(volumes[:180])  # nine volumes
    assert not [name for name in few if name.endswith(("/low", "/high"))]
    assert few["exact/all/n"] == 180


def test_what_is_the_same_for_every_row_is_not_certain():
    metrics = summarise_mode(images_alike(30, seed=3))
    low, high = metrics["iou/mean/low"], metrics["iou/mean/high"]
    assert 0.33 < low < 0.37 < 0.4 < 0.45 < high < 0.5


def test_bounds_narrow_with_more_images_and_not_with_more_questions_about_them():
    rows = images_alike(40, seed=4)
    again = [row | {"qid": -row["qid"]} for row in rows]  # of the same images
    others = [
        row | {"image": f"{row['image']} of {n}"} for n in range(4) for row in rows
    ]  # of four times as many
    narrow, same, wide = (summarise_mode(part) for part in (others, rows + again, rows))
    for name in ("exact/all", "aurc", "ece"):
        assert width_of(same, name) == pytest.approx(width_of(wide, name), rel=0.05), name
    for name in ("exact/all", "above_floor"):
        assert width_of(narrow, name) / width_of(wide, name) == pytest.approx(0.5, abs=0.06), name


def test_metrics_that_apply_to_nothing_are_absent():
    row = {"answer_type": "OPEN", "image": "a"}
    row["scores"] = score_answer("lung", "lung", answer_type="OPEN")
    metrics = summarise_mode([row])
    assert "exact/closed" not in metrics
    assert "llava_med/closed_accuracy" not in metrics
    assert metrics["exact/all"] == metrics["exact/open"] == 1
    assert summarise_mode([]) == summarise([]) == {}


@pytest.mark.parametrize(
    ("labels", "modality", "kind"),
    [
        (["Liver"], "CT", "organ"),
        (["Liver", "Liver Cancer"], "CT", "lesion"),
        (["Mass"], "X-Ray", "xray_lesion"),
        (["Left Lung"], "X-Ray", "organ"),
    ],
)
def test_lesions_on_x_rays_stand_apart(labels, modality, kind):
    evidence = [{"label": label, "box": [0, 0, 9, 9]} for label in labels]
    row = {"answer_type": "OPEN", "modality": modality, "evidence": evidence}
    assert f"evidence/{kind}" in strata_of(row)


# ------------------------------------------------------------------ models whose case is known
def looked_at(number: int, **changes) -> dict:
    """A right answer that is another one as soon as the image is."""
    gone = {"roi": 1.0, "random": 0.0, "drop_roi": 0.5, "drop_random": 0.0}
    other = {"answer": "?", "changed": 1.0, "exact": 0.0}
    return {
        "mode": "think_answer", "answer_type": "OPEN", "image": str(number // 2),
        "scores": {"exact": 1.0},
        "flips": {"gold": gone, "claimed": gone, "both": gone},
        "ablations": dict.fromkeys(("blank", "shuffled", "question_only"), other),
        "confidences": {"answer_probability": 0.9},
    } | changes  # fmt: skip


def test_a_model_that_looks_only_at_the_evidence_has_a_gap_of_one():
    metrics = summarise_mode([looked_at(n) for n in range(12)])
    for prefix in ("", "claimed_", "both_"):
        assert metrics[f"{prefix}flip_gap"] == 1
        assert metrics[f"{prefix}drop_gap"] == 0.5
    assert metrics["image_sensitivity"] == metrics["vrs"] == 1
    assert metrics["hvrr"] == 0
    assert metrics["accuracy_survival/blank"] == metrics["exact/blank"] == 0
    assert metrics["flip_gap/n"] == 12


def test_a_model_that_ignores_the_image_has_no_sensitivity_and_keeps_its_accuracy():
    still = {"answer": "yes", "changed": 0.0, "exact": 1.0}
    unmoved = {"roi": 0.0, "random": 0.0, "drop_roi": 0.0, "drop_random": 0.0}
    rows = [
        looked_at(
            n,
            ablations=dict.fromkeys(("blank", "shuffled", "question_only"), still),
            flips={"gold": unmoved},
        )
        for n in range(12)
    ]
    metrics = summarise_mode(rows)
    assert metrics["image_sensitivity"] == metrics["flip_gap"] == metrics["drop_gap"] == 0
    assert metrics["vrs"] == 0
    assert metrics["accuracy_survival/question_only"] == 1
    assert "claimed_flip_gap" not in metrics


def test_an_oracle_s_confidence_has_no_excess_area():
    exact = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    rows = [
        looked_at(n, scores={"exact": e}, confidences={"answer_probability": 0.1 + 0.8 * e})
        for n, e in enumerate(exact)
    ]
    metrics = summarise_mode(rows)
    assert metrics["excess_aurc"] == 0
    assert metrics["aurc"] > 0
    assert metrics["ece"] == pytest.approx(0.1)


def test_survival_is_the_share_of_right_answers_that_stay_right():
    """Right on the first five with the image and on the last five without: none survived, though
    as many are right."""
    rows = [
        looked_at(
            n,
            scores={"exact": float(n < 5)},
            ablations={"blank": {"answer": "", "changed": 1.0, "exact": float(n >= 5)}},
        )
        for n in range(10)
    ]
    metrics = summarise_mode(rows)
    assert (metrics["exact/all"], metrics["exact/blank"]) == (0.5, 0.5)
    assert (metrics["accuracy_survival/blank"], metrics["accuracy_survival/blank/n"]) == (0, 5)
    rows[0]["ablations"]["blank"]["exact"] = 1.0
    assert summarise_mode(rows)["accuracy_survival/blank"] == 1 / 5


@pytest.mark.parametrize(
    ("mode", "said", "claims"),
    [
        ("caption_reason_answer", {"caption": "A CT scan."}, 1),
        ("caption_reason_answer", {"caption": " ", "boxes": []}, 0),
        ("caption_reason_answer", {"caption": "", "boxes": [[0, 0, 9, 9]]}, 1),
        ("caption_reason_answer", {"caption": "Why?", "confidences": {"consistency": -1.0}}, 0),
        ("caption_reason_answer", {"caption": "", "reasoning": ["The lung is dark."]}, 0),
        ("think_answer", {"caption": "", "reasoning": ["The lung is dark."]}, 1),
        ("think_answer", {"caption": "", "reasoning": [" "]}, 0),
    ],
)
def test_a_claim_to_see_is_hallucinated_where_another_image_changes_nothing(mode, said, claims):
    still = {"answer": "yes", "changed": 0.0, "exact": 1.0}
    rows = [
        looked_at(0, mode=mode, ablations={"shuffled": still}, **said),
        looked_at(1, mode=mode, **said),  # whose answer changes
    ]
    metrics = summarise_mode(rows)
    assert (metrics["hvrr"], metrics["hvrr/n"]) == (claims / 2, 2)
    assert metrics["vrs"] == 0.5
    assert "hvrr" not in summarise_mode([looked_at(0, ablations={"blank": still})])


def test_thresholds_of_consistency_against_a_plain_count():
    draw = np.random.default_rng(6)
    rows = [
        looked_at(
            n,
            scores={"exact": float(draw.integers(2))},
            confidences={"consistency": float(draw.uniform(-0.2, 0.9))},
        )
        for n in range(80)
    ]
    metrics = summarise_mode(rows)
    for threshold in (0.3, 0.4, 0.5, 0.6):
        kept = [r["scores"]["exact"] for r in rows if r["confidences"]["consistency"] >= threshold]
        assert metrics[f"consistency@{threshold}/coverage"] == pytest.approx(len(kept) / 80)
        assert metrics[f"consistency@{threshold}/accuracy"] == pytest.approx(np.mean(kept))
    assert "ece/consistency" not in metrics  # a cosine is no probability
    assert "aurc/consistency" in metrics


def test_modes_are_kept_apart():
    rows = [looked_at(0), looked_at(0, mode="caption_reason_answer", scores={"exact": 0.0})]
    metrics = summarise(rows)
    assert metrics["think_answer/exact/all"] == 1
    assert metrics["caption_reason_answer/exact/all"] == 0
    assert values_of(rows[0])["exact/open"] == 1


def test_flip_rates_are_over_the_answers_that_have_a_region():
    found = [
        {"gold": {"roi": 1.0, "random": 0.5, "drop_roi": 0.4, "drop_random": 0.1}},
        {"gold": {"roi": 0.0, "random": 0.0, "drop_roi": 0.2, "drop_random": 0.3},
         "claimed": {"roi": 1.0, "random": 0.25, "drop_roi": 0.5, "drop_random": 0.2}},
        {},
    ]  # fmt: skip
    metrics = summarise_mode([looked_at(n, flips=flips) for n, flips in enumerate(found)])
    expected = {
        "roi_flip_rate": 0.5, "random_flip_rate": 0.25, "flip_gap": 0.25, "flip_gap/n": 2,
        "roi_drop": 0.3, "random_drop": 0.2, "drop_gap": 0.1,
        "claimed_roi_flip_rate": 1.0, "claimed_random_flip_rate": 0.25, "claimed_flip_gap": 0.75,
        "claimed_drop_gap": 0.3, "claimed_flip_gap/n": 1,
    }  # fmt: skip
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name
    assert "both_flip_gap" not in metrics


def test_sensitivity_is_the_mean_of_blank_and_shuffled():
    def other(changed: float) -> dict:
        return {"answer": "", "changed": changed, "exact": 1 - changed}

    rows = [
        looked_at(
            n, ablations={"blank": other(1.0), "shuffled": other(0.0), "question_only": other(1.0)}
        )
        for n in range(4)
    ]
    metrics = summarise_mode(rows)
    assert metrics["image_sensitivity"] == 0.5
    assert (metrics["changed/blank"], metrics["changed/shuffled"]) == (1, 0)
    assert (metrics["exact/shuffled"], metrics["accuracy_survival/shuffled"]) == (1, 1)


def test_gaps_stand_apart_by_how_much_their_own_region_s_removal_changes():
    def removed(roi: float, change: float) -> dict:
        return {
            "roi": roi, "random": 0.0, "drop_roi": roi, "drop_random": 0.5, "region_change": change,
            "control_change": 2 * change,
        }  # fmt: skip

    rows = [
        looked_at(n, flips={"gold": removed(1.0, gold), "claimed": removed(0.0, 9.9)})
        for n, gold in enumerate((9.9, 10.0, 40.0, 40.1, 60.0))
    ]
    metrics = summarise_mode(rows)
    for stratum, n in (("faint", 1), ("middle", 2), ("strong", 2)):
        for name, value in (("flip_gap", 1.0), ("drop_gap", 0.5)):
            assert metrics[f"{name}/change/{stratum}"] == value
            assert metrics[f"{name}/change/{stratum}/n"] == n
    assert metrics["claimed_flip_gap/change/faint/n"] == 5
    assert "claimed_flip_gap/change/strong" not in metrics
    assert metrics["region_change"] == pytest.approx(32.0)
    assert metrics["claimed_control_change"] == pytest.approx(19.8)


def test_what_had_no_match_is_counted_among_what_has_such_a_region():
    flips = looked_at(0)["flips"]["gold"]
    rows = [
        looked_at(0, flips={"gold": flips}, unmatched=["claimed"]),
        looked_at(1, flips={"gold": flips}, unmatched=[]),
        looked_at(2, flips={}, unmatched=["gold"]),
        looked_at(3, flips={}, unmatched=[]),  # no region at all
    ]
    metrics = summarise_mode(rows)
    assert (metrics["unmatched_rate"], metrics["unmatched_rate/n"]) == (1 / 3, 3)
    assert (metrics["claimed_unmatched_rate"], metrics["claimed_unmatched_rate/n"]) == (1, 1)
    assert "both_unmatched_rate" not in metrics
    assert "unmatched_rate" not in summarise_mode([looked_at(0)])  # rows that do not say


def test_relaxed_scores_and_laterality_stand_beside_exact_match():
    rows = [
        looked_at(n, answer_type=kind, scores={"exact": 0.0, "relaxed": r, "laterality_error": e})
        for n, (kind, r, e) in enumerate([("OPEN", 1.0, None), ("CLOSED", 0.0, 1.0)])
    ]
    metrics = summarise_mode(rows)
    assert (metrics["relaxed/all"], metrics["relaxed/open"], metrics["relaxed/closed"]) == (
        0.5,
        1,
        0,
    )
    assert (metrics["laterality_error"], metrics["laterality_error/n"]) == (1, 1)
    assert metrics["exact/all"] == 0


def test_a_floor_is_what_the_model_is_measured_against():
    rows = [
        looked_at(n, scores={"exact": e}, floor={"answer": "", "exact": f})
        for n, (e, f) in enumerate([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)])
    ]
    metrics = summarise_mode(rows)
    assert metrics["above_floor"] == 0.25
    assert (metrics["exact/guessable/yes"], metrics["exact/guessable/no"]) == (0.5, 1)
