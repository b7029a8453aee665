"""Scores, statistics, risk and coverage."""

from breaks.kind import Break

STATISTICS = "kit/report/statistics.py"
RISK = "kit/report/risk_coverage.py"
GROUNDING = "kit/scoring/grounding.py"
METRICS = "kit/report/metrics.py"

BREAKS = (
    Break(
        "questions are drawn instead of images",
        STATISTICS,
        "    number = _numbers(groups)\n    sums = np.bincount(number, weights",
        "    number = np.arange(len(groups))\n    sums = np.bincount(number, weights",
        ("tests/report/test_statistics.py::test_groups_of_uneven_size_against_a_plain_loop",),
    ),
    Break(
        "pairs are drawn by question",
        STATISTICS,
        "    number = _numbers(groups)\n    sums, counts",
        "    number = np.arange(len(groups))\n    sums, counts",
        ("tests/report/test_statistics.py::test_the_order_of_records_changes_no_bound",),
    ),
    Break(
        "p-value of one side",
        STATISTICS,
        "max(2 * tail, 1 / len(draws))",
        "max(tail, 1 / len(draws))",
        (
            "tests/report/test_statistics.py::test_the_p_value_against_all_resamples_of_a_few_groups",
        ),
    ),
    Break(
        "intervals of 90 percent",
        STATISTICS,
        "[(1 - confidence) / 2, (1 + confidence) / 2]",
        "[1 - confidence, confidence]",
        ("tests/report/test_statistics.py::test_groups_of_uneven_size_against_a_plain_loop",),
    ),
    Break(
        "difference of the first from the second",
        STATISTICS,
        "apart = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)",
        "apart = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)",
        (
            "tests/report/test_statistics.py::test_a_paired_difference_of_single_members_against_scipy",
        ),
    ),
    Break(
        "the least sure answers come first",
        RISK,
        'np.argsort(-confidence, kind="stable")\n    falling',
        'np.argsort(confidence, kind="stable")\n    falling',
        (
            "tests/report/test_risk_coverage.py::test_distinct_confidences_against_the_naive_definition",
        ),
    ),
    Break(
        "equally sure answers are in the order of the file",
        RISK,
        "falling = np.flatnonzero(np.diff(confidence[order]) != 0) + 1",
        "falling = np.arange(1, len(order))",
        (
            "tests/report/test_risk_coverage.py::test_equal_confidences_against_the_mean_over_all_orders",
        ),
    ),
    Break(
        "every bin weighs the same in the calibration error",
        RISK,
        "sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)",
        "sum(abs(b.accuracy - b.confidence) for b in bins) / len(bins)",
        (
            "tests/report/test_risk_coverage.py::test_resampled_calibration_error_against_repeated_records_of_the_same_bins",
        ),
    ),
    Break(
        "answers just as sure as the threshold are left out",
        RISK,
        "dtype=np.float64) >= threshold",
        "dtype=np.float64) > threshold",
        ("tests/report/test_risk_coverage.py::test_at_threshold_against_a_plain_loop",),
    ),
    Break(
        "boxes are compared with all that lies between them",
        GROUNDING,
        "total = areas[one | other].sum()",
        "total = areas.sum()",
        ("tests/scoring/test_grounding.py::test_union_iou_counts_pixels",),
    ),
    Break(
        "half is no hit",
        GROUNDING,
        "float(whole >= HIT)",
        "float(whole > HIT)",
        ("tests/scoring/test_grounding.py::test_half_is_a_hit",),
    ),
    Break(
        "flip rates are over all answers",
        METRICS,
        'if flips := row.get("flips", {}).get(source):\n            values |= {',
        'if flips := row.get("flips", {}).get(source, {"roi": 0.0, "random": 0.0}):\n'
        "            values |= {",
        (
            "tests/report/test_metrics.py::test_each_metric_is_the_mean_over_the_rows_that_it_applies_to",
        ),
    ),
    Break(
        "modes are mixed in the metrics",
        METRICS,
        'part = [row for row in rows if row["mode"] == mode]',
        "part = list(rows)",
        ("tests/report/test_metrics.py::test_modes_are_kept_apart",),
    ),
    Break(
        "questions are paired by their place",
        "kit/report/comparison.py",
        '(row["mode"], *(row[name] for name in ("dataset", "image", "qid", "question")))',
        '(row["mode"],)',
        (
            "tests/report/test_comparison.py::test_questions_are_paired_by_what_they_are_not_by_their_place",
        ),
    ),
    Break(
        "a chance difference is a victory",
        "kit/report/verdict.py",
        "if found and found[1] <= 0]",
        "if found and found[2] <= 0]",
        ("tests/report/test_verdict.py::test_one_that_is_ahead_by_chance_is_not_called_best",),
    ),
    Break(
        "token recall counts each right word once",
        "kit/scoring/llava_med.py",
        "hits = sum(count for word, count in said.items() if word in wanted)",
        "hits = sum(1 for word in said if word in wanted)",
        ("tests/scoring/test_conventions.py::test_llava_med_agrees_with_a_plain_rewriting",),
    ),
)
