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
        "_apart(by_seed[s], reference[shared[-1]], metric, number)",
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
        "answers of a model that is gone stand for any other keys",
        "kit/study/records.py",
        "        made_from.update(ahead)\n",
        "        made_from.update(ahead)\n        break\n",
        (
            "tests/study/test_study.py::"
            "test_what_is_advised_to_be_removed_makes_room_for_other_keys",
        ),
    ),
    Break(
        "data that one run names are the next one's too",
        "kit/study/plan.py",
        "name = repr((command, free, sorted(own), sorted(named)))",
        "name = repr((command, free, sorted(own)))",
        ("tests/study/test_plan.py::test_a_key_of_one_run_is_no_key_of_another",),
    ),
    Break(
        "many seeds make few images sure",
        CROSSED,
        "max(min(n_seeds, n_images) - 1.0, variance**2 / parts)",
        "max(n_seeds - 1.0, variance**2 / parts)",
        ("tests/study/test_crossed.py::test_few_images_are_no_surer_for_many_seeds",),
    ),
    Break(
        "another evaluation is the one that was named before looking",
        "kit/study/results.py",
        "if found and found[0].evaluation == next(iter(study.evaluations)):",
        "if found:",
        (
            "tests/study/test_results.py::"
            "test_the_first_evaluation_of_the_file_is_the_main_one_and_no_other",
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
