"""Parsing, boxes, evidence, targets, leaks."""

from breaks.kind import Break

ANSWERS = "kit/prompting/answers.py"
NORMAL = "kit/prompting/normal.py"
PUBLISHED_SETS = "kit/data/published_sets.py"
WRITTEN = "kit/prompting/written_json.py"
BOXES = "kit/data/boxes.py"
EVIDENCE = "kit/data/evidence.py"
TARGETS = "kit/data/targets.py"
AUDIT = "kit/data/audit.py"
PREPARE = "kit/data/prepare.py"

BREAKS = (
    Break(
        "a letter goes before another choice of that text",
        "kit/data/choices.py",
        "if by_text and by_key and by_text != by_key:",
        "if False:",
        ("tests/data/test_own.py::test_others_are_refused_with_file_line_field_and_what_to_do",),
    ),
    Break(
        "the validate share takes from the test share",
        "kit/data/prepare_own.py",
        "above += share or 0",
        "above += 0",
        (
            "tests/data/test_prepare_own.py::test_shares_part_images_by_content_and_keep_slices_together",
        ),
    ),
    Break(
        "a box may be upside down",
        "kit/data/boxes.py",
        "return box[0] < box[2] and box[1] < box[3]",
        "return box[0] < box[2]",
        (
            "tests/prompting/test_answers.py::test_boxes_of_another_convention_are_judged_by_it_and_come_on_the_grid",
        ),
    ),
    Break(
        "a pickle runs what it likes",
        PUBLISHED_SETS,
        "_PlainPickle(stream).load()",
        "pickle.load(stream)",
        ("tests/data/test_published_sets.py::test_a_pickle_that_would_run_something_is_refused",),
    ),
    Break(
        "a box of the whole image is evidence",
        PUBLISHED_SETS,
        "_WHOLE = 0.97",
        "_WHOLE = 1.97",
        ("tests/data/test_published_sets.py::test_boxes_are_those_of_the_published_files",),
    ),
    Break(
        "a mark before the first line breaks it",
        "kit/text.py",
        "yield line.lstrip(codecs.BOM_UTF8)",
        "yield line",
        ("tests/test_text.py::test_no_sound_record_is_lost",),
    ),
    Break(
        "what is no character in UTF-16 is replaced",
        "kit/text.py",
        'encoding, "broken", newline=""',
        'encoding, "replace", newline=""',
        ("tests/test_text.py::test_what_is_no_character_breaks_its_line_alone",),
    ),
    Break(
        "a path of Windows may leave its folder",
        "kit/data/fields.py",
        "if not path.is_relative_to(folder):",
        "if not path.is_relative_to(folder) and name == image:",
        ("tests/data/test_records.py::test_each_broken_line_is_named",),
    ),
    Break(
        "an image lies on its side as it is stored",
        "kit/data/images.py",
        "rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb",
        "rgb",
        ("tests/data/test_images.py::test_an_image_stands_as_its_orientation_says",),
    ),
    Break(
        "the size of an image that lies on its side is as stored",
        "kit/data/images.py",
        "_LYING = (5, 6, 7, 8)",
        "_LYING = ()",
        ("tests/data/test_images.py::test_an_image_stands_as_its_orientation_says",),
    ),
    Break(
        "a mask in a TIFF is another image",
        "kit/data/images.py",
        "_kind_of(image, frame) & (_REDUCED | _MASK)",
        "_kind_of(image, frame) & _REDUCED",
        ("tests/data/test_images.py::test_an_image_with_previews_of_itself_is_the_image",),
    ),
    Break(
        "16-bit radiographs with white 0 are negatives",
        "kit/data/images.py",
        "return 255 - scaled if zero_is_white else scaled",
        "return scaled",
        ("tests/data/test_images.py::test_what_pil_would_cut_wrap_or_turn_is_what_it_is",),
    ),
    Break(
        "repeated keys are valid JSON",
        WRITTEN,
        'return value, "a repeated key" if repeated else None',
        "return value, None",
        ("tests/prompting/test_answers.py::test_invalid_texts_and_what_is_recovered",),
    ),
    Break(
        "points within numbers part them",
        NORMAL,
        r'r"|[^\w.]|\.(?!\d)"',
        r'r"|[^\w]"',
        ("tests/prompting/test_answers.py::test_normalise",),
    ),
    Break(
        "normal says no",
        NORMAL,
        'said = {"yes", "no"} & set(normal_words(_DENIED.sub(" ", folded(text))).split())',
        'said = {word for word in ("yes", "no") if word in normalise(text)}',
        ("tests/prompting/test_answers.py::test_yes_no",),
    ),
    Break(
        "an object that is broken off after its answer counts for nothing",
        WRITTEN,
        "late = _last_broken(body[end:])",
        "late = None",
        ("tests/prompting/test_answers.py::test_the_final_object_counts",),
    ),
    Break(
        "objects at the end of a long text are not reached",
        WRITTEN,
        "failures >= MOST_ATTEMPTS and index < len(starts) - MOST_ATTEMPTS",
        "failures >= MOST_ATTEMPTS",
        ("tests/prompting/test_answers.py::test_the_final_object_counts",),
    ),
    Break(
        "a minus sign is punctuation",
        NORMAL,
        r"(?P<sign>[+-])(?=\.?\d)",
        r"(?P<sign>[+])(?=\.?\d)",
        ("tests/prompting/test_same_answer.py::test_pairs",),
    ),
    Break(
        "two that begin with yes are the same wherever they place it",
        NORMAL,
        "(named[0] == named[1] or not all(named))",
        "True",
        ("tests/prompting/test_same_answer.py::test_pairs",),
    ),
    Break(
        "an answer of the other side is not told from another",
        "kit/scoring/exact.py",
        "relaxed_answer(prediction, mirrored))",
        "relaxed_answer(prediction, gold))",
        ("tests/scoring/test_accuracy.py::test_answers_that_are_right_but_for_left_and_right",),
    ),
    Break(
        "boxes may not reach the right edge",
        BOXES,
        "not 0 <= v <= side",
        "not 0 <= v < side",
        ("tests/prompting/test_answers.py",),
    ),
    Break(
        "the word hand is parted at its and",
        NORMAL,
        r'r"[,;、&\t\r\n]|\band\b|',
        r'r"[,;、&\t\r\n]|and|',
        ("tests/prompting/test_answers.py::test_words_that_hold_an_and_are_not_parted",),
    ),
    Break(
        "an object without an answer is one as a whole",
        ANSWERS,
        'return body if outside == body else ""',
        "return body",
        (
            "tests/prompting/test_answers.py::test_what_is_recovered_of_a_truncated_object_is_what_was_said",
        ),
    ),
    Break(
        "grid of the other axis",
        BOXES,
        "zip(box, (width, height, width, height), strict=True)",
        "zip(box, (height, width, height, width), strict=True)",
        ("tests/data/test_boxes.py::test_round_trip_is_within_one_grid_step",),
    ),
    Break(
        "width and height taken for the far corner",
        BOXES,
        "return x, y, x + width, y + height",
        "return x, y, width, height",
        ("kit/data/boxes.py",),
    ),
    Break(
        "thin boxes become empty",
        BOXES,
        "        x2 = x1 + 1",
        "        x2 = x1",
        ("tests/data/test_boxes.py::test_grid_boxes_are_integers_inside_and_not_empty",),
    ),
    Break(
        "liver cancer names the liver",
        EVIDENCE,
        " if not any(m.within(other) for other in everything)]",
        "]",
        ("tests/data/test_slake.py::test_evidence",),
    ),
    Break(
        "the left lung is evidence of the right",
        EVIDENCE,
        "[qualifiers for qualifiers in found if qualifiers & kinds[label]]",
        "list(found)",
        ("tests/data/test_slake.py::test_evidence",),
    ),
    Break(
        "upper and left exchanged in words",
        TARGETS,
        "return names[down][across]",
        "return names[across][down]",
        ("tests/data/test_targets.py::test_record_as_a_whole",),
    ),
    Break(
        "all boxes of the image are taught",
        TARGETS,
        "boxes(raw.evidence, raw.sizes)",
        "boxes(raw.regions, raw.sizes)",
        ("tests/data/test_targets.py::test_record_as_a_whole",),
    ),
    Break(
        "rows without a group share one",
        AUDIT,
        "if row.group and row.group == other.group:",
        "if row.group == other.group:",
        ("tests/data/test_audit.py::test_rewordings_are_told_from_other_questions",),
    ),
    Break(
        "rewordings that the training row names are overlooked",
        AUDIT,
        "    if normalize_question(other.question) in {normalize_question(t) for t in "
        "row.rewordings}:\n        return True\n",
        "",
        ("tests/data/test_audit.py::test_kinds_of_leaks",),
    ),
    Break(
        "a test image in another language is no leak",
        AUDIT,
        "return row.language != other.language",
        "return False",
        ("tests/data/test_audit.py::test_kinds_of_leaks",),
    ),
    Break(
        "questions about left and right are rewordings of each other",
        AUDIT,
        "    if directions_in(first.casefold()) != directions_in(second.casefold()):\n"
        "        return 0.0\n",
        "",
        ("tests/data/test_audit.py::test_rewordings_are_told_from_other_questions",),
    ),
    Break(
        "which images are held out hangs on their order",
        "kit/data/likeness.py",
        "first[volume] = min(path.name, first.get(volume, path.name))",
        "first[volume] = path.name",
        ("tests/data/test_audit.py::test_held_out_images_stay_held_out",),
    ),
    Break(
        "test rows in a language that is not prepared count",
        PREPARE,
        '_read_split(config, dataset, "test", config.lang)',
        '_read_split(config, dataset, "test", "both")',
        ("tests/data/test_prepare.py::test_real_sample",),
    ),
    Break(
        "questions on images of the test split are kept",
        PREPARE,
        "if config.image_disjoint else set()",
        "if not config.image_disjoint else set()",
        ("tests/data/test_prepare.py::test_images_of_the_test_split_are_left_out_when_asked",),
    ),
    Break(
        "rows with other answers are duplicates",
        PREPARE,
        "row.question.casefold(), row.answer.casefold()",
        "row.question.casefold()",
        (
            "tests/data/test_prepare.py::test_rows_are_duplicates_that_say_the_same_in_every_letter_but_its_case",
        ),
    ),
    Break(
        "the floor knows the exact wording only",
        AUDIT,
        "normalize_question(without_choices(record.question, record.choices))",
        "without_choices(record.question, record.choices)",
        (
            "tests/data/test_audit.py::test_floor_prefers_the_very_question_then_the_type_then_everything",
        ),
    ),
    Break(
        "what was mended is not counted",
        PREPARE,
        "    return rows, fixed\n\n\ndef _read_split",
        "    return rows, Counter()\n\n\ndef _read_split",
        ("tests/data/test_prepare.py::test_known_traps_are_counted_without_stopping",),
    ),
    Break(
        "a letter that contradicts its text is an article",
        "kit/prompting/choices.py",
        "return place if place is not None and same(lettered[1], choices[place]) else None",
        "return place",
        ("tests/prompting/test_choices.py::test_a_letter_within_a_text_is_no_hit",),
    ),
    Break(
        "a guesser names what is not to be chosen",
        AUDIT,
        "if not record.choices:\n                return most[key]",
        "if True:\n                return most[key]",
        ("tests/prompting/test_choices.py::test_the_floor_guesses_among_the_choices",),
    ),
    Break(
        "slices of one volume are parted by share",
        "kit/data/prepare_own.py",
        "likeness.fraction(sums[name])",
        "likeness.fraction(sha256_of(path))",
        (
            "tests/data/test_prepare_own.py::test_shares_part_images_by_content_and_keep_slices_together",
        ),
    ),
    Break(
        "a copy of a test image under another name is another image",
        "kit/data/prepare_own.py",
        "first.get(sha256_of(p), p)",
        "p",
        (
            "tests/data/test_prepare_own.py::test_a_test_file_of_its_own_is_what_training_rows_may_not_give_away",
        ),
    ),
    Break(
        "a CSV is parted by commas alone",
        "kit/data/csv_rows.py",
        "return max(DELIMITERS, key=columns)",
        'return ","',
        ("tests/data/test_own.py::test_files_as_people_have_them_are_read",),
    ),
)
