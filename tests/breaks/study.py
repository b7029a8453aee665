"""Studies: what is run, and how sure its figures are."""

from breaks.kind import Break

CROSSED = "kit/study/crossed.py"
COVERAGE = "tests/study/test_crossed.py::test_five_seeds_of_sixty_images_hold_as_often_as_they_say"

BREAKS = (
    Break(
        "seeds count as if they made no difference",
        CROSSED,
        "variance = max(of_images + of_seeds - of_both, of_images, of_seeds)",
        "variance = of_images",
        (COVERAGE,),
    ),
    Break(
        "systems are compared with the reference of another seed",
        "kit/study/results.py",
        "_apart(by_seed[s], reference[s], metric, number)",
        "_apart(by_seed[s], reference[seeds[-1]], metric, number)",
        (
            "tests/study/test_results.py::"
            "test_numbers_are_those_of_the_answers_and_differences_paired_by_seed",
        ),
    ),
    Break(
        "a study goes on under other keys",
        "kit/study/records.py",
        "if key not in FREE_KEYS and before != value:",
        "if key not in FREE_KEYS and before is None:",
        (
            "tests/study/test_study.py::"
            "test_a_file_that_was_changed_for_what_is_done_is_refused",
        ),
    ),
    Break(
        "what was cut off starts anew",
        "kit/study/study.py",
        'return command + (["--resume_from_checkpoint", "latest"] if again else [])',
        "return command",
        ("tests/study/test_study.py::test_asked_to_stop_it_goes_on_run_by_run",),
    ),
)  # fmt: skip
