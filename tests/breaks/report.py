"""Scores, statistics, risk and coverage."""

from breaks.kind import Break

STATISTICS = "kit/report/statistics.py"
RISK = "kit/report/risk_coverage.py"
GROUNDING = "kit/scoring/grounding.py"
METRICS = "kit/report/metrics.py"
LOOK = "kit/report/look.py"
FINDINGS = "kit/report/findings.py"
CERTIFICATE = "kit/report/certificate.py"
CERTIFICATE_FILE = "kit/report/certificate_file.py"

BREAKS = (
    Break(
        "questions are taken as independent",
        STATISTICS,
        "sums = np.bincount(number, weights=apart)\n    n, n_clusters",
        "sums = apart\n    n, n_clusters",
        (
            "tests/report/test_statistics.py::test_uneven_clusters_against_the_robust_error_of_statsmodels",
        ),
    ),
    Break(
        "models are swapped by question",
        STATISTICS,
        "    number = _numbers(clusters)\n    sums = np.bincount",
        "    number = np.arange(len(clusters))\n    sums = np.bincount",
        ("tests/report/test_statistics.py::test_the_p_value_of_few_clusters_counts_every_swap",),
    ),
    Break(
        "an interval of a handful of images",
        STATISTICS,
        "FEWEST = 10",
        "FEWEST = 5",
        ("tests/report/test_statistics.py::test_no_interval_of_fewer_than_ten_images",),
    ),
    Break(
        "what never varied is certain",
        STATISTICS,
        "unseen = t * t / (n_clusters + t * t)",
        "unseen = 0.0",
        ("tests/report/test_statistics.py::test_what_never_varied_is_no_certainty",),
    ),
    Break(
        "an area is as sure as the jackknife says",
        STATISTICS,
        "size = min(size, n_clusters if math.isinf(most) else most)",
        "most = size",
        (
            "tests/report/test_statistics.py::test_intervals_of_areas_and_calibration_hold_the_truth_as_often_as_they_say",
        ),
    ),
    Break(
        "difference of the first from the second",
        STATISTICS,
        "apart = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)",
        "apart = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)",
        ("tests/report/test_comparison.py::test_only_common_questions_count",),
    ),
    Break(
        "p-values smaller than the draws can show",
        STATISTICS,
        "return (far + 1) / (draws + 1)",
        "return far / draws",
        ("tests/report/test_statistics.py::test_no_p_value_is_smaller_than_the_draws_can_show",),
    ),
    Break(
        "both families have the whole of 5%",
        "kit/report/families.py",
        "min(1.0, len(FAMILIES) * p_value)",
        "min(1.0, p_value)",
        (
            "tests/report/test_comparison.py::test_what_was_named_before_looking_is_one_family_and_the_rest_another",
        ),
    ),
    Break(
        "colours go by p-values that are not corrected",
        "kit/report/comparison.py",
        "self.p_adjusted > FALSE_ALARMS",
        "self.difference.p_value > FALSE_ALARMS",
        (
            "tests/report/test_page_tables.py::test_colour_goes_by_the_corrected_p_value_and_not_by_the_interval",
        ),
    ),
    Break(
        "answers that were wrong survive",
        METRICS,
        '        if exact:\n            values[f"accuracy_survival',
        '        if True:\n            values[f"accuracy_survival',
        (
            "tests/report/test_metrics.py::test_survival_is_the_share_of_right_answers_that_stay_right",
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
        'flips = row.get("flips", {}).get(source)',
        'flips = row.get("flips", {}).get(source, {"roi": 0.0, "random": 0.0})',
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
        '(row["mode"], row["dataset"], image, row["qid"], row["question"])',
        '(row["mode"],)',
        (
            "tests/report/test_comparison.py::test_questions_are_paired_by_what_they_are_not_by_their_place",
        ),
    ),
    Break(
        "images are the same by their path alone",
        "kit/report/comparison.py",
        'image = row.get("image_sha256") or contents.get(path, path)',
        "image = path",
        ("tests/report/test_comparison.py::test_images_are_the_same_by_what_they_hold",),
    ),
    Break(
        "a chance difference is a victory",
        "kit/report/verdict.py",
        "if one and one.better is None]",
        "if one and one.better not in (best, None)]",
        ("tests/report/test_verdict.py::test_one_that_is_ahead_by_chance_is_not_called_best",),
    ),
    Break(
        "token recall counts each right word once",
        "kit/scoring/llava_med.py",
        "hits = sum(count for word, count in said.items() if word in wanted)",
        "hits = sum(1 for word in said if word in wanted)",
        ("tests/scoring/test_conventions.py::test_llava_med_agrees_with_a_plain_rewriting",),
    ),
    Break(
        "a sample of whatever comes",
        LOOK,
        "key=lambda number: (strata[number], draw.random())",
        "key=lambda number: draw.random()",
        ("tests/report/test_look.py::test_a_sample_has_the_shares_of_the_whole",),
    ),
    Break(
        "boxes of the second image are measured by the first",
        FINDINGS,
        "size = sizes[record.images[region.image - 1]]",
        "size = sizes[record.image]",
        ("tests/report/test_look.py::test_nothing_is_said_of_a_good_file",),
    ),
    Break(
        "every answer to a question that came before is a copy",
        FINDINGS,
        'found["repeated" if same else "contradicting"]',
        'found["repeated"]',
        ("tests/report/test_look.py::test_what_several_records_say_together",),
    ),
    Break(
        "answers of one image count as if of different ones",
        CERTIFICATE,
        "return float(len(number) ** 2 / (of_image @ of_image))",
        "return float(len(number))",
        ("tests/report/test_certificate.py::test_answers_of_one_image_are_one",),
    ),
    Break(
        "ten thresholds are tried as if one were",
        CERTIFICATE,
        "    level = corrected_level(own, alpha, delta)",
        "    level = delta",
        (
            "tests/report/test_certificate.py::test_a_threshold_certifies_a_bad_population_as_rarely_as_it_says",
        ),
    ),
    Break(
        "a batch is promised what holds of a population",
        CERTIFICATE,
        "    if batch is None:\n        return special",
        "    if True:\n        return special",
        ("tests/report/test_certificate.py::test_a_batch_holds_in_resplits_of_every_pool",),
    ),
    Break(
        "boxes are needed, whatever their controls do",
        CERTIFICATE_FILE,
        'drop = found["drop_roi"] - found["drop_random"] if found else None',
        'drop = found["drop_roi"] if found else None',
        ("tests/report/test_certificate.py::test_what_the_command_writes",),
    ),
)
