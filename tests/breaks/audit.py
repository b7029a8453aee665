"""Somebody else's predictions: joined to the wrong record, claims that always hold, a judge
asked twice."""

from breaks.kind import Break

JOINING = "kit/audit/joining.py"
TESTS = "tests/audit/test_"

BREAKS = (
    Break(
        "an id that some record happens to have is taken for the record's",
        JOINING,
        'sound = joined.answered - joined.counts["other_gold"]',
        "sound = joined.answered",
        (f"{TESTS}shapes.py::test_ids_that_are_places_by_chance_are_no_ids",),
    ),
    Break(
        "the first prediction that loosely fits is the record's",
        JOINING,
        "if not fitting or any(best[number] > rank for number in fitting):",
        "if not fitting:",
        (f"{TESTS}joining.py",),
    ),
    Break(
        "a missing prediction is left out",
        "kit/audit/audit.py",
        'keep_missing = config.missing == "wrong"',
        "keep_missing = False",
        (f"{TESTS}shapes.py::test_what_does_not_fit_is_counted",),
    ),
    Break(
        "a claim is reproduced whenever its interval holds it",
        "kit/audit/claims.py",
        "if low >= least - margin and high <= most + margin:",
        "if low <= most and high >= least:",
        (f"{TESTS}claims.py::test_the_verdict_goes_by_rounding_and_interval",),
    ),
    Break(
        "what was not judged counts as wrong",
        "kit/audit/judge.py",
        "found = judged.verdicts.get(item) if item[2] else 0.0",
        "found = judged.verdicts.get(item, 0.0)",
        (f"{TESTS}judge.py::test_what_is_not_judged_is_told_and_counts_nowhere",),
    ),
    Break(
        "images of the training file go by their path",
        "kit/audit/leaks.py",
        "first, *more = (Path(sums[path]) for path in record.images)",
        "first, *more = map(Path, record.images)",
        (f"{TESTS}audit.py::test_leaks_are_found_by_content_and_left_out",),
    ),
)
