"""Regions, controls, inpainting, the probe, flips, ablations, shards."""

from breaks.kind import Break

REGIONS = "kit/counterfactual/regions.py"
CONTROLS = "kit/counterfactual/controls.py"
ENTAILMENT = "kit/data/entailment.py"
INPAINT = "kit/counterfactual/inpaint.py"
IMAGES = "kit/counterfactual/images.py"
PROBE = "kit/counterfactual/probe.py"
FLIPS = "kit/evaluate/flips.py"
REPLIES = "kit/evaluate/replies.py"
PARTS = "kit/evaluate/parts.py"
ANSWERING = "kit/evaluate/answering.py"
CONVENTIONS = "kit/evaluate/box_conventions.py"

BREAKS = (
    Break(
        "without its evidence nothing can be said of an image",
        ENTAILMENT,
        '        return "No" if said[0].isupper() else "no"',
        '        return ""',
        (
            "tests/evaluate/test_cf_pairs.py::test_pairs_differ_from_their_record_in_one_place",
            "tests/grpo/test_views.py::test_what_is_true_without_the_evidence_is_paid_like_abstaining",
        ),
    ),
    Break(
        "records without an id write over each other's images",
        "kit/evaluate/cf_pairs.py",
        "{Path(record.image).stem}_{number}",
        "{Path(record.image).stem}_{record.qid}",
        ("tests/evaluate/test_cf_pairs.py::test_records_without_an_id_have_pictures_of_their_own",),
    ),
    Break(
        "a thing that is left out takes random numbers of its own",
        "kit/data/phantom/scene.py",
        "        self.canvas.pixels = before\n        elif",
        "        self.canvas.pixels = before\n            self.rng.random()\n        elif",
        (
            "tests/data/phantom/test_causes.py::test_without_its_things_a_phantom_is_the_same_everywhere_else",
        ),
    ),
    Break(
        "an answer can lose more than the image gave it",
        "kit/report/causal.py",
        "np.clip(losses, 0.0, gives)",
        "np.clip(losses, 0.0, 1.0)",
        ("kit/report/causal.py::kit.report.causal.shares_of_causes",),
    ),
    Break(
        "a phantom is drawn again by another version as if by the same",
        "kit/evaluate/causal.py",
        "whole == Path(image).read_bytes()",
        "True",
        ("tests/evaluate/test_causal.py::test_what_cannot_be_drawn_again_is_painted_over",),
    ),
    Break(
        "controls of a cause may change much more than it",
        "kit/data/phantom/causes.py",
        "if total + free[names] <= _FULL * whole",
        "if True",
        (
            "tests/data/phantom/test_causes.py::test_the_others_change_as_much_and_nothing_of_the_cause",
        ),
    ),
    Break(
        "one blank image stands in for several",
        "kit/evaluate/ablations.py",
        '[prepare(Image.new("RGB", size, GREY)) for size in sizes]',
        '[prepare(Image.new("RGB", size, GREY)) for size in sizes[:1]]',
        ("tests/test_several_images.py::test_what_stands_in_for_several_images_are_as_many",),
    ),
    Break(
        "a question leaks by its first image alone",
        "kit/data/audit.py",
        "for path in row.images:\n            by_image",
        "for path in row.images[:1]:\n            by_image",
        ("tests/test_several_images.py::test_a_question_leaks_by_any_of_its_images",),
    ),
    Break(
        "changes of several images count alike whatever their size",
        "kit/counterfactual/images.py",
        "np.average(changes, weights=pixels)",
        "np.average(changes)",
        ("tests/test_several_images.py::test_what_is_taken_away_is_taken_from_its_own_image",),
    ),
    Break(
        "a completion about several images may name none of them",
        "kit/grpo/rollout.py",
        "frames=(ON_GRID,) * n_images",
        "frames=(ON_GRID,)",
        ("tests/test_several_images.py::test_a_completion_names_the_image_of_its_boxes",),
    ),
    Break(
        "what could be two choices is the first",
        "kit/prompting/choices.py",
        "if len(found) == 1:",
        "if found:",
        ("tests/prompting/test_choices.py::test_what_could_be_two_choices_names_none",),
    ),
    Break(
        "a box of a second image is one of the first",
        "kit/data/canvas.py",
        "image = int(number[0]) if number else 1",
        "image = 1",
        (
            "tests/test_several_images.py::test_the_right_box_on_the_wrong_image_is_worth_nothing",
            "tests/test_several_images.py::test_a_model_that_watches_one_image_flips_with_that_one",
        ),
    ),
    Break(
        "what is taken away is taken from the first of several images",
        "kit/data/canvas.py",
        "found[image].append((x1 - start, y1, x2 - start, y2))",
        "found[0].append((x1 - start, y1, x2 - start, y2))",
        (
            "tests/test_several_images.py::test_what_is_taken_away_is_taken_from_its_own_image",
            "tests/test_several_images.py::test_a_model_that_watches_one_image_flips_with_that_one",
        ),
    ),
    Break(
        "what the kit trained is taken to count as its family does",
        "kit/model/families.py",
        'getattr(config, "answer_boxes", None) or ',
        "",
        (
            "tests/evaluate/test_zero_shot.py::test_models_count_as_their_family_does_until_the_kit_trained_them",
        ),
    ),
    Break(
        "pixels of the resized image are taken for those of the image",
        ANSWERING,
        "(self.image_cache.size(path), self.resized(path))",
        "(self.image_cache.size(path), self.image_cache.size(path))",
        ("tests/evaluate/test_zero_shot.py",),
    ),
    Break(
        "boxes that fit any image speak for a convention",
        CONVENTIONS,
        "overlaps[:, 0] - overlaps[:, 1]",
        "overlaps[:, 0]",
        ("tests/evaluate/test_box_check.py::test_none_is_named_of_a_model_that_guesses",),
    ),
    Break(
        "the convention that fits best is named however close the others are",
        CONVENTIONS,
        "return low > 0",
        "return values.mean() > 0",
        ("tests/evaluate/test_box_check.py",),
    ),
    Break(
        "controls may touch the evidence",
        CONTROLS,
        "a2 - x1 + left + 1)",
        "a2 - x1 + left)",
        (
            "tests/counterfactual/test_controls.py::test_controls_have_the_same_area_inside_the_image_and_touch_nothing",
        ),
    ),
    Break(
        "boxes that overlap are moved one by one",
        CONTROLS,
        "near = [g for g in groups if any(_overlap(box, other) for other in g)]",
        "near = []",
        (
            "tests/counterfactual/test_controls.py::test_controls_have_the_same_area_inside_the_image_and_touch_nothing",
        ),
    ),
    Break(
        "regions lose what lies on half a pixel",
        REGIONS,
        "min(width, math.ceil(x2))",
        "min(width, math.floor(x2))",
        (
            "tests/counterfactual/test_regions.py::test_boxes_are_grown_to_whole_pixels_inside_the_image",
        ),
    ),
    Break(
        "claimed boxes come before gold ones",
        REGIONS,
        'if region := gold_region(gold, canvas):\n        return region, "gold"\n'
        "    if region := claimed_region(claimed, canvas):\n"
        '        return region, "claimed"',
        'if region := claimed_region(claimed, canvas):\n        return region, "claimed"\n'
        "    if region := gold_region(gold, canvas):\n"
        '        return region, "gold"',
        ("tests/counterfactual/test_regions.py::test_gold_boxes_come_before_claimed_ones",),
    ),
    Break(
        "controls do not depend on the seed",
        IMAGES,
        "repr((seed, region))",
        "repr(region)",
        ("tests/counterfactual/test_controls.py::test_the_same_claim_meets_the_same_controls",),
    ),
    Break(
        "controls may lie in air",
        CONTROLS,
        "for held in (body, black):",
        "for held in ():",
        ("tests/counterfactual/test_controls.py::test_air_is_no_control_of_tissue",),
    ),
    Break(
        "controls change less than the evidence on the whole",
        CONTROLS,
        "if abs(total) > len(chosen) * math.log(MEAN_TOLERANCE):",
        "if False:",
        ("tests/counterfactual/test_controls.py::test_controls_are_as_tolerances_say",),
    ),
    Break(
        "controls of a claim may touch the gold boxes",
        FLIPS,
        "(record.shown, r, gold)) for",
        "(record.shown, r, ())) for",
        ("tests/evaluate/test_flips.py::test_regions_of_an_answer",),
    ),
    Break(
        "what has no control is not told",
        FLIPS,
        "unmatched = [source for source in found if source not in flips]",
        "unmatched = []",
        ("tests/evaluate/test_flips.py::test_what_has_no_control_is_left_out_and_told",),
    ),
    Break(
        "images are exchanged for those of another kind",
        "kit/evaluate/ablations.py",
        "lambda r: (len(r.images), r.dataset, r.modality, r.location),",
        "lambda r: (len(r.images), r.dataset),",
        (
            "tests/evaluate/test_ablations.py::test_images_are_exchanged_for_their_like_where_there_is_one",
        ),
    ),
    Break(
        "an answer follows from boxes of anything",
        ENTAILMENT,
        "and not _QUALITY.search(question)",
        "",
        ("tests/data/test_targets.py::test_so_is_said_where_the_step_before_holds_the_answer",),
    ),
    Break(
        "Nodule begins with no",
        ENTAILMENT,
        "(no|not|none|zero|0)\\b",
        "(no|not|none|zero|0)",
        ("tests/data/test_targets.py::test_so_is_said_where_the_step_before_holds_the_answer",),
    ),
    Break(
        "the whole image is blurred",
        INPAINT,
        "result[rows, columns][hole] = _fill(pixels, boxes, mask, method)[rows, columns][hole]",
        "result[:] = _fill(pixels, boxes, mask, method)",
        ("tests/counterfactual/test_inpaint.py::test_outside_the_boxes_nothing_changes",),
    ),
    Break(
        "the mean of what is taken away",
        INPAINT,
        "rest = pixels[~mask] if",
        "rest = pixels[mask] if",
        ("tests/counterfactual/test_inpaint.py::test_the_bright_thing_is_gone",),
    ),
    Break(
        "large images keep a rim of what is taken away",
        INPAINT,
        "interpolation=cv2.INTER_AREA) > 0",
        "interpolation=cv2.INTER_AREA) > 0.9",
        ("tests/counterfactual/test_inpaint.py::test_nothing_of_a_part_of_a_large_image_is_left",),
    ),
    Break(
        "the border of a wide blur is mirrored without its last pixel",
        INPAINT,
        "borderType=cv2.BORDER_REFLECT)",
        "borderType=cv2.BORDER_REFLECT_101)",
        ("tests/counterfactual/test_inpaint.py::test_a_wide_blur_is_that_of_the_whole_image",),
    ),
    Break(
        "what is kept is never given up",
        "kit/model/resources.py",
        "while self.n_bytes > self.limit:",
        "while False:",
        (
            "tests/counterfactual/test_images.py::test_images_are_the_same_however_they_are_made",
            "tests/model/test_vision.py::test_what_is_kept_is_bounded",
        ),
    ),
    Break(
        "an image is kept without what was taken away",
        IMAGES,
        "return kept.put(request, image, image.pixel_values.nbytes)",
        "return kept.put((request[0], ()), image, image.pixel_values.nbytes)",
        ("tests/counterfactual/test_images.py::test_what_is_kept_is_made_once",),
    ),
    Break(
        "an image without a part passes for the image",
        IMAGES,
        "if without:\n            whole, pixels = pixels, inpaint(pixels, without, self.method)",
        "if without:\n            whole, pixels = pixels, pixels",
        (
            "tests/evaluate/test_flips.py::test_what_is_removed_is_the_region_and_its_control_and_nothing_else",
        ),
    ),
    Break(
        "long answers are less likely than short ones",
        PROBE,
        "return sums_N / torch.bincount(batch.branch_index, minlength=batch.n_branches)",
        "return sums_N",
        ("tests/counterfactual/test_probe.py::test_equals_one_image_at_a_time",),
    ),
    Break(
        "the drop of a probability has the other sign",
        PROBE,
        "return self.original - self.without_evidence",
        "return self.without_evidence - self.original",
        ("kit/counterfactual/probe.py",),
    ),
    Break(
        "another spelling is a flip",
        FLIPS,
        '"roi": float(not same_answer(without, before, choices))',
        '"roi": float(without != before)',
        ("tests/evaluate/test_flips.py::test_evaluation_reports_what_was_counted_by_hand",),
    ),
    Break(
        "one random flip is as good as all",
        FLIPS,
        "sum(not same_answer(one, before, choices) for one in others)",
        "len(others) * any(not same_answer(one, before, choices) for one in others)",
        (
            "tests/evaluate/test_flips.py::test_what_is_removed_is_the_region_and_its_control_and_nothing_else",
        ),
    ),
    Break(
        "an image may be exchanged for itself",
        "kit/evaluate/ablations.py",
        "[*ring[1:], ring[0]]",
        "ring[::-1]",
        (
            "tests/evaluate/test_ablations.py::test_no_image_is_exchanged_for_itself_however_many_there_are",
        ),
    ),
    Break(
        "the answer without an image is asked with a blank one",
        "kit/evaluate/ablations.py",
        '"question_only": None}',
        '"question_only": blank(predictor, record.image)}',
        ("tests/evaluate/test_ablations.py::test_answers_by_what_was_shown",),
    ),
    Break(
        "slices of one scan count as many",
        "kit/data/likeness.py",
        "names |= volumes({path: small[path] for path in paths if path in small})",
        "names |= {}",
        ("tests/evaluate/test_evaluation.py::test_slices_of_one_scan_are_one_volume",),
    ),
    Break(
        "images that a question shows together count as two",
        "kit/data/likeness.py",
        "joined.get(names[p], names[p])",
        "names[p]",
        ("tests/evaluate/test_evaluation.py::test_slices_of_one_scan_are_one_volume",),
    ),
    Break(
        "the floor is that of the record before",
        "kit/evaluate/evaluation.py",
        "references.floor[index] if references.floor else None",
        "references.floor[index - 1] if references.floor else None",
        ("tests/evaluate/test_evaluation.py::test_floor_asks_no_model",),
    ),
    Break(
        "the gold answer is probed with the boxes that were claimed",
        "kit/evaluate/cf_proxy.py",
        "evidence_region(record.regions, parsed.boxes, canvas)",
        "evidence_region([], parsed.boxes, canvas)",
        (
            "tests/evaluate/test_cf_proxy.py::test_every_record_comes_out_in_order_with_what_was_measured",
        ),
    ),
    Break(
        "finished batches are asked again",
        PARTS,
        "numbers = [n for n in shared if n in self.missing]",
        "numbers = list(shared)",
        ("tests/evaluate/test_parts.py::test_only_batches_that_are_missing_are_asked",),
    ),
    Break(
        "shards answer what others answer too",
        PARTS,
        "range(config.shard_index, len(batches), config.num_shards)",
        "range(0, len(batches), config.num_shards)",
        ("tests/evaluate/test_parts.py::test_shards_merge_to_the_unsharded_run",),
    ),
    Break(
        "shards of other weights are merged",
        "kit/run/sources.py",
        '("base_model", "adapter", "sft_ckpt")',
        '("base_model", "sft_ckpt")',
        ("tests/evaluate/test_parts.py::test_shards_of_other_weights_are_not_merged",),
    ),
    Break(
        "agreement of samples is that with each other's text",
        "kit/evaluate/confidence.py",
        "same_answer(predictor.parse(c, a.mode).answer, a.parsed.answer, a.record.choices)",
        "predictor.parse(c, a.mode).text == a.parsed.text",
        (
            "tests/evaluate/test_confidence.py::test_self_consistency_is_the_share_of_samples_that_agree",
        ),
    ),
    Break(
        "boxes are told on the grid instead of in pixels",
        REPLIES,
        "by_image = self.canvas.by_image(self.region if boxes is None else boxes)",
        "by_image = [self.parsed.boxes]",
        ("tests/evaluate/test_ask.py::test_drops_and_boxes_are_told_in_pixels",),
    ),
    Break(
        "an answer that any removal changes is told to rest on its boxes",
        REPLIES,
        "elif not changed:",
        "elif changed < n:",
        ("tests/evaluate/test_ask.py::test_the_outcome_in_words",),
    ),
    Break(
        "what is told of the model stands among the answers",
        REPLIES,
        "contextlib.redirect_stdout(sys.stderr)",
        "contextlib.nullcontext()",
        ("tests/evaluate/test_ask.py::test_what_is_printed_is_answers_alone",),
    ),
    Break(
        "an adapter is asked in a mode that it was not taught",
        "kit/evaluate/ask.py",
        'taught if taught == "think_answer" else TAUGHT',
        "TAUGHT",
        ("tests/evaluate/test_ask.py::test_the_mode_is_that_of_the_adapter_s_training",),
    ),
    Break(
        "cases are drawn that nothing can be compared with, before those that can",
        "kit/evaluate/figure.py",
        '    boxed_rows.sort(key=lambda row: (not row["boxes"], "grounding" not in row))\n',
        "",
        (
            "tests/evaluate/test_figure.py::test_boxes_of_one_kind_are_drawn_too_but_those_that_can_be_compared_come_first",
        ),
    ),
)
