"""What may be given: the bound on drawn populations and on resplits of one, what breaks it, what is
never certified, and what the command writes."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kit.errors import ConfigError, UserError
from kit.files import write_jsonl
from kit.report.certificate import Rule, certify, count, p_values, passing_probability
from kit.report.certificate_file import MODE, Certificate, Seen
from kit.report.certify import certify_run
from kit.report.config import CertifyConfig

ALPHA, DELTA = 0.1, 0.05
TRIALS = 250
CHANCE = 2.6 * (DELTA * (1 - DELTA) / TRIALS) ** 0.5  # of the trials


def drawn(kind: str, n_images: int, draw: np.random.Generator):
    """Scores, bad (0 or 1) and images of a population's answers, by what is known of it."""
    if kind == "single":  # one answer an image, just as bad as must not be, whatever its score
        clusters, score = np.arange(n_images), draw.random(n_images)
        return score, (draw.random(n_images) < ALPHA + 0.001).astype(float), clusters
    if kind == "alike":  # up to six answers of an image, all of one fate
        clusters = np.repeat(np.arange(n_images), draw.integers(0, 7, n_images))
        score, fate = draw.random(n_images), draw.random(n_images)
        return score[clusters], (fate < 0.2 * (1 - score))[clusters].astype(float), clusters
    clusters = np.repeat(np.arange(n_images), draw.poisson(1.2, n_images))  # images differ
    score, of_image = draw.random(len(clusters)), draw.normal(0, 1.5, n_images)[clusters]
    chance = 1 / (1 + np.exp(3.6 - 2.2 * (1 - score) - of_image))
    return score, (draw.random(len(clusters)) < chance).astype(float), clusters


def naive(scores, bad, clusters, **_) -> Rule:
    """The loosest threshold that held on the calibration split, as it is often done."""
    order = np.argsort(-scores)
    holds = np.flatnonzero(np.cumsum(bad[order]) / np.arange(1, len(order) + 1) <= ALPHA)
    return Rule(float(scores[order][holds[-1]]) if len(holds) else None)


def unclustered(scores, bad, clusters, **options) -> Rule:
    return certify(scores, bad, range(len(scores)), **options)


def violations(make, answers, splits, batch) -> tuple[float, float]:
    """In what share of the splits more than ALPHA of those given of the rest are bad, and in what
    share anything is given."""
    over = given = 0
    for (scores, bad, clusters), chosen in zip(answers, splits, strict=True):
        part = [values[chosen] for values in (scores, bad, clusters)]
        rule = make(*part, alpha=ALPHA, delta=DELTA, batch=batch)
        found = count(rule, *(values[~chosen] for values in (scores, bad, clusters)))
        given += found.given > 0
        over += found.given > 0 and found.bad > ALPHA * found.given
    return over / len(splits), given / len(splits)


@pytest.mark.parametrize("batch", [None, 1.0])
@pytest.mark.parametrize("kind", ["single", "alike", "clustered"])
def test_the_bound_holds_where_a_naive_one_does_not(kind, batch):
    """Populations of known risk, half of the images to calibrate on."""
    draw = np.random.default_rng(0)
    answers = [drawn(kind, 300, draw) for _ in range(TRIALS)]
    splits = [clusters < 150 for _, _, clusters in answers]
    over, given = violations(certify, answers, splits, batch)
    assert over <= DELTA + CHANCE
    assert kind != "alike" or given > (0.06 if batch else 0.2)  # not by silence
    assert violations(naive, answers, splits, batch)[0] > (0.2 if kind == "alike" else 0.3)


def test_a_threshold_certifies_a_bad_population_as_rarely_as_it_says():
    """Over all levels together: trying ten uncorrected would be wrong more often."""
    draw = np.random.default_rng(1)
    rules = [
        certify(*drawn("single", 150, draw), alpha=ALPHA, delta=DELTA, batch=None)
        for _ in range(TRIALS)
    ]
    wrong = sum(rule.threshold is not None for rule in rules) / TRIALS
    assert 0.01 < wrong <= DELTA + CHANCE


@pytest.mark.slow
def test_a_batch_holds_in_resplits_of_every_pool():
    """What the calibration half has too few of, the other has too many of: a bound on the
    population is not enough for that, and a naive one far from it."""
    draw = np.random.default_rng(2)
    over = {(certify, 1.0): [], (certify, None): [], (naive, 1.0): []}
    for n_bad in (12, 16, 20, 24):
        bad = np.arange(240) < n_bad
        answers = [(draw.random(240), bad.astype(float), np.arange(240)) for _ in range(TRIALS)]
        splits = [draw.permutation(240) < 120 for _ in range(TRIALS)]
        for (make, batch), found in over.items():
            found.append(violations(make, answers, splits, batch))
    batch, population, not_corrected = (max(o for o, _ in found) for found in over.values())
    assert batch <= DELTA
    assert batch < population
    assert not_corrected > 0.4
    assert over[certify, 1.0][0][1] > 0.2  # given, where few are bad


def test_answers_of_one_image_are_one():
    """Thirty images of six answers each that share their fate are no 180 images."""
    draw = np.random.default_rng(3)
    fates = [draw.random(30) < ALPHA + 0.001 for _ in range(TRIALS)]
    clusters = np.repeat(np.arange(30), 6)
    wrong = {certify: 0, unclustered: 0}
    for fate, make in itertools.product(fates, wrong):
        rule = make(
            np.ones(180), fate[clusters].astype(float), clusters,
            alpha=ALPHA, delta=DELTA, batch=None,
        )  # fmt: skip
        wrong[make] += rule.threshold is not None
    assert wrong[certify] / TRIALS <= DELTA + CHANCE
    assert wrong[unclustered] / TRIALS > 0.12


@pytest.mark.parametrize("n", [10, 41])
def test_the_p_value_of_a_batch_is_that_of_the_worst_pool(n):
    """Of all pools: hypergeometric, over as many answers again, for batches of that very size."""
    from kit.report import certificate

    for bad in range(4):
        chance = max(
            sum(
                stats.hypergeom.pmf(k, 2 * n, pool, n)
                for k in range(bad + 1)
                if pool - k > ALPHA * n
            )
            for pool in range(2 * n)
        )
        size, urn = np.array([float(n)]), (np.array([bad + 1.0]), np.array([float(n - bad)]))
        (found,) = certificate._polya_tail(size, *urn, ALPHA)
        assert found == pytest.approx(chance)
        population = p_values([bad], [n], ALPHA, None)[0]
        assert population == pytest.approx(stats.binom.cdf(bad, n, ALPHA))
        assert p_values([bad], [n], ALPHA, 1000.0)[0] == pytest.approx(population, abs=0.01)


def test_a_walk_passes_as_often_as_counting_all_of_them_says():
    sizes, limits, share = (2, 5, 9), (-1, 0, 2), 0.3
    chance = sum(
        share ** sum(walk) * (1 - share) ** (9 - sum(walk))
        for walk in itertools.product((0, 1), repeat=9)
        if any(sum(walk[:s]) <= limit for s, limit in zip(sizes, limits, strict=True))
    )
    assert passing_probability(sizes, limits, share) == pytest.approx(chance)


@pytest.mark.parametrize(
    ("n", "share", "says"),
    [(20, 0.0, "29 are needed"), (0, 0.0, "no calib"), (400, 0.5, "too many")],
)
def test_nothing_is_certified_and_why(n, share, says):
    bad = (np.arange(n) < share * n).astype(float)
    score = np.random.default_rng(0).random(n)
    rule = certify(score, bad, range(n), alpha=ALPHA, delta=DELTA, batch=None)
    assert rule.threshold is None
    assert says in rule.why


# -------------------------------------------------------------------------------- the command
def line(number: int, **changes) -> dict:
    """An answer that is right, sure, and needs its box."""
    flip = {"roi": 1.0, "random": 0.0, "drop_roi": 0.6, "drop_random": 0.1, "region": [],
            "random_regions": [[]], "answer": "No", "random_answers": ["Yes"]}  # fmt: skip
    row = {
        "mode": MODE, "dataset": "d", "image": f"{number}.png", "image_size": [10, 10],
        "qid": str(number), "question": f"Is it {number}?", "gold": "Yes", "answer": "Yes",
        "caption": "", "reasoning": [], "evidence": [], "boxes": [[0, 0, 500, 500]], "text": "",
        "problem": None, "answer_type": "CLOSED", "content_type": "", "truncated": False,
        "modality": ("CT", "MRI")[number % 2], "scores": {"exact": 1.0}, "valid_json": True,
        "confidences": {"answer_probability": 0.9 + number % 90 / 1000}, "inpainting": "telea",
        "flips": {"claimed": flip}, "unmatched": [],
    }  # fmt: skip
    return row | changes


SETTING = {"base_model": "x", "adapter": None}


def run_of(folder, rows, setting=SETTING) -> str:
    write_jsonl(folder / "predictions.jsonl", rows)
    if setting:
        (folder / "setting.json").write_text(json.dumps(setting))
    return str(folder)


def test_what_the_command_writes(tmp_path, capsys):
    never = {
        "claims no boxes": {"boxes": [], "flips": {}},
        "no region of the image matches": {"flips": {}, "unmatched": ["claimed"]},
        "does not need its boxes": {
            "flips": {"claimed": line(0)["flips"]["claimed"] | {"drop_random": 0.58}}
        },
    }
    rows = [line(n) for n in range(200)]
    rows += [line(n, **change) for n, change in enumerate(never.values())]
    rows += [line(n, mode="think_answer") for n in range(5)]
    run = run_of(tmp_path / "run", rows)
    config = CertifyConfig(evaluation=run, output=str(tmp_path / "out"), resplits=20)
    assert certify_run(config) == 0
    certificate = Certificate.read(tmp_path / "out/certificate.json")
    parts = [certificate.calibration, certificate.held_out]
    assert sum(part["asked"] for part in parts) == 203
    assert [part["images"] for part in parts] == [100, 100]
    assert sum(part["given"] for part in parts) == sum(part["candidates"] for part in parts) == 200
    assert certificate.batch == 100
    assert sum(m["held_out"]["given"] for m in certificate.modalities.values()) == 100
    assert certificate.withheld(Seen.of_row(line(0))) == ""
    for n, (says, change) in enumerate(never.items()):
        assert says in certificate.withheld(Seen.of_row(line(n, **change)))
    assert "below" in certificate.withheld(Seen(0.5, True, 0.5))
    said = capsys.readouterr().out
    assert "20 other splits: 20 certify anything; of these 0" in said
    assert certificate.promise in said
    page = (tmp_path / "out/certificate.html").read_text()
    assert certificate.promise in page
    assert "withheld: claims no boxes" in page
    certificate.require(SETTING | {"mode": MODE}, where="c")
    with pytest.raises(ConfigError, match=r"base_model \(there x, here y"):
        certificate.require(SETTING | {"base_model": "y", "mode": MODE}, where="c")


@pytest.mark.parametrize("n_images", [1, 2, 3])
def test_a_few_images_certify_nothing_and_are_no_error(n_images, tmp_path, capsys):
    rows = [line(n) for n in range(n_images)]
    run = run_of(tmp_path / "run", rows)
    for share in (0.1, 0.9):
        out = str(tmp_path / f"out{share}")
        config = CertifyConfig(
            evaluation=run, output=out, resplits=2, calibration_share=share, alpha=0.1
        )
        assert certify_run(config) == 0
        assert "nothing is certified" in capsys.readouterr().out
        assert Certificate.read(Path(out) / "certificate.json").calibration["asked"] >= 1


def test_one_evaluation_calibrates_for_another(tmp_path):
    own = run_of(tmp_path / "own", [line(n) for n in range(80)])
    other = run_of(tmp_path / "other", [line(n) for n in range(80, 200)])
    config = {"evaluation": own, "calibration": other, "output": str(tmp_path / "out"), "batch": 0}
    assert certify_run(CertifyConfig(**config, resplits=5)) == 0
    found = Certificate.read(tmp_path / "out/certificate.json")
    assert (found.calibration["images"], found.held_out["images"]) == (120, 80)
    assert found.batch is None
    config["calibration"] = run_of(tmp_path / "same", [line(n) for n in range(79, 200)])
    with pytest.raises(UserError, match="1 images are in"):
        certify_run(CertifyConfig(**config))
    summed = [
        [line(n, image=f"{n}.png", image_sha256=f"{name}{n}") for n in range(80)] for name in "xy"
    ]  # of the same names, and of the same content by other names
    config["evaluation"] = run_of(tmp_path / "x", summed[0])
    config["calibration"] = run_of(tmp_path / "y", summed[1])
    assert certify_run(CertifyConfig(**config, resplits=5)) == 0
    found = Certificate.read(tmp_path / "out/certificate.json")
    assert (found.calibration["images"], found.held_out["images"]) == (80, 80)
    copies = [row | {"image": f"copy/{row['image']}"} for row in summed[0]]
    config["calibration"] = run_of(tmp_path / "copies", copies)
    with pytest.raises(UserError, match="80 images are in"):
        certify_run(CertifyConfig(**config))
    config["evaluation"] = own
    config["calibration"] = run_of(tmp_path / "model", [line(300)], SETTING | {"adapter": "z"})
    with pytest.raises(UserError, match="not of the model"):
        certify_run(CertifyConfig(**config))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([line(0, mode="think_answer")], "no answer was asked for its boxes"),
        ([{k: v for k, v in line(0).items() if k != "flips"}], "not measured"),
        ([line(0, flips={"claimed": {"roi": 1.0, "random": 0.0}})], "not measured"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused(rows, says, tmp_path):
    config = CertifyConfig(evaluation=run_of(tmp_path / "run", rows), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match=says):
        certify_run(config)


def test_a_certificate_of_no_known_model_is_not_used(tmp_path):
    """Of an evaluation of before, or of nothing."""
    run = run_of(tmp_path / "run", [line(n) for n in range(9)], setting=None)
    certify_run(CertifyConfig(evaluation=run, output=str(tmp_path / "out"), calibration_share=1.0))
    found = Certificate.read(tmp_path / "out/certificate.json")
    assert found.held_out is None
    assert "nothing is certified" in found.withheld(Seen.of_row(line(0)))
    with pytest.raises(ConfigError, match="does not say of which model"):
        found.require(SETTING, where="c")
    (tmp_path / "other.json").write_text("{}")
    for path in ("other.json", "none.json"):
        with pytest.raises(UserError, match="certificate"):
            Certificate.read(tmp_path / path)
