"""Claimed figures, as people write them, and whether they are borne out."""

import pytest

from kit.audit.claims import NAMES, judge_claim, parse_claim
from kit.audit.conventions import METRICS
from kit.errors import ConfigError

FIGURES = {
    "exact/all": 0.72, "exact/all/low": 0.66, "exact/all/high": 0.77, "exact/all/n": 400,
    "relaxed/all": 0.78, "relaxed/all/low": 0.72, "relaxed/all/high": 0.83, "relaxed/all/n": 400,
    "exact/open": 0.5, "exact/open/n": 12,
    "medevalkit/total": 0.701, "medevalkit/total/low": 0.7, "medevalkit/total/high": 0.702,
    "medevalkit/total/n": 90000,
}  # fmt: skip


def test_every_convention_can_be_claimed():
    assert set(NAMES) == set(METRICS)
    for name in NAMES:
        assert parse_claim(f"{name}=0.5").metric == name


@pytest.mark.parametrize(
    ("written", "metric", "value", "half"),
    [
        ("exact/all=0.85", "exact/all", 0.85, 0.005),
        ("exact = 85%", "exact/all", 0.85, 0.005),
        ("exact=85.0", "exact/all", 0.85, 0.0005),
        ("a:open recall 61.52", "llava_med/open_recall", 0.6152, 0.00005),
        ("Closed accuracy=84.19%", "llava_med/closed_accuracy", 0.8419, 0.00005),
        ("BLEU1=0.123", "medevalkit/bleu1", 0.123, 0.0005),
        ("rougeL=0.4", "medevalkit/rougeL", 0.4, 0.005),
        ("exact/all=1", "exact/all", 1.0, 0.005),
        ("exact/modality/CT=0.5", "exact/modality/CT", 0.5, 0.005),
    ],
)
def test_a_claim_as_people_write_it(written, metric, value, half):
    claim = parse_claim(written)
    assert claim.metric == metric
    assert (claim.value, claim.half) == pytest.approx((value, half))
    assert claim.system == ("a" if written.startswith("a:") else "")


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("accuracy=0.8", "by whose rule"),
        ("exct/all=0.8", "did you mean 'exact/all'"),
        ("exact/all", "write name=figure"),
        ("exact/all=high", "write name=figure"),
        ("exact/all=150%", "share or a percentage"),
    ],
)
def test_a_claim_that_says_nothing(written, fix):
    with pytest.raises(ConfigError) as raised:
        parse_claim(written)
    assert fix in raised.value.fix


@pytest.mark.parametrize(
    ("written", "verdict", "others"),
    [
        ("exact/all=0.72", "reproduced", ()),
        ("exact/all=72.0", "reproduced", ()),
        ("exact/all=0.725", "cannot be told", ()),  # 72.45 to 72.55, and 72.0 is not
        ("exact/all=0.78", "not reproduced", ("relaxed/all",)),  # 77.5 to 78.5, beyond 77
        ("exact/all=0.77", "cannot be told", ()),
        ("exact/all=0.664", "cannot be told", ()),
        ("exact/all=0.65", "not reproduced", ("exact/all (answered only)",)),
        ("exact/open=0.5", "cannot be told", ()),  # equal, but there is no interval
        ("medevalkit/total=0.706", "reproduced", ()),  # within one point of it for sure
        ("medevalkit/total=0.72", "not reproduced", ("exact/all",)),
        ("exact/choice=0.5", "cannot be told", ("exact/open",)),
    ],
)
def test_the_verdict_goes_by_rounding_and_interval(written, verdict, others):
    answered = {"exact/all": 0.65} if "0.65" in written else {"exact/all": 0.72}
    found = judge_claim(parse_claim(written), "a", FIGURES, FIGURES | answered, margin=0.01)
    assert (found.verdict, found.others) == (verdict, others)


def test_an_audit_tells_which_convention_a_figure_was_of(asked, audited, tmp_path):
    """A figure of the relaxed convention, claimed as exact."""
    rows = [
        f"{r.qid}\t{r.answer + 's' if i % 3 else 'nothing'}" for i, r in enumerate(asked.records)
    ]
    file = tmp_path / "p.tsv"
    file.write_text("\n".join(["id\tprediction", *rows]) + "\n")
    first = audited(file)["systems"]["p"]["metrics"]
    assert first["relaxed/all"] > first["exact/all"] + 0.05
    claimed = f"{100 * first['relaxed/all']:.2f}"
    found = audited(file, claim=[f"exact/all={claimed}", f"p:relaxed={claimed}"])
    exact, relaxed = found["claims"]
    assert exact["verdict"] != "reproduced"
    assert "relaxed/all" in exact["others"]
    assert relaxed["verdict"] == "reproduced"
    assert relaxed["measured"] == first["relaxed/all"]
    assert "relaxed match (this kit)" in found["text"]
