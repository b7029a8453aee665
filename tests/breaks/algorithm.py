"""Losses, advantages, micro-batches, rewards."""

from breaks.kind import Break

LOSSES = "kit/grpo/losses.py"
EQUAL = "tests/grpo/test_losses.py::test_loss_and_gradient_equal_the_reference"
WEIGHTS = "tests/grpo/test_losses.py::test_every_token_weighs_what_its_loss_type_says"
ADVANTAGES = "kit/grpo/advantages.py"
MICROBATCHES = "kit/grpo/microbatches.py"
FAITHFULNESS = "kit/scoring/faithfulness.py"
REWARDS = "kit/grpo/rewards.py"
COUNTERFACTUAL = "kit/grpo/terms/counterfactual.py"
FUNCTIONS = "kit/grpo/functions.py"
STALLS = "kit/grpo/stalls.py"

BREAKS = (
    Break(
        "wrong answers are taught to rest on the evidence too",
        MICROBATCHES,
        "if parsed.valid_json and exact_match(parsed.answer, record.gold, record.choices) == 1:",
        "if parsed.valid_json:",
        ("tests/grpo/test_objectives.py::test_the_tokens_of_right_answers_are_found",),
    ),
    Break(
        "an objective is lowered",
        "kit/grpo/updates.py",
        "total = loss.loss - extra",
        "total = loss.loss + extra",
        (
            "tests/grpo/test_objectives.py::test_an_update_raises_its_objective",
            "tests/grpo/test_objectives.py::test_an_update_does_not_depend_on_the_split",
        ),
    ),
    Break(
        "the divergence of the whole image from the changed one, by samples of the other",
        "kit/grpo/terms/perception.py",
        "(changed_K - whole_K).clamp(-20, 20)",
        "(whole_K - changed_K).clamp(-20, 20)",
        (
            "tests/grpo/test_objectives.py"
            "::test_their_mean_is_the_divergence_and_their_gradient_what_is_said",
        ),
    ),
    Break(
        "an objective grows without end",
        "kit/grpo/terms/perception.py",
        "return (torch.exp(difference_K) - difference_K - 1).clamp(max=MOST)",
        "return torch.exp(difference_K) - difference_K - 1",
        ("tests/grpo/test_objectives.py::test_there_is_nothing_to_gain_beyond_the_bound",),
    ),
    Break(
        "what has no changed image counts as if nothing were known of it there",
        "kit/grpo/objectives.py",
        ".masked_fill(~there_K, 0.0)",
        "",
        ("tests/grpo/test_objectives.py::test_a_prompt_without_evidence_adds_nothing",),
    ),
    Break(
        "every update of a generation counts as if it were the whole step",
        MICROBATCHES,
        "updates = config.micro_batches_per_step // config.gradient_accumulation_steps",
        "updates = 1",
        ("tests/grpo/test_losses.py::test_the_updates_of_a_generation_equal_trl",),
    ),
    Break(
        "passes over a generation are made update by update",
        "kit/grpo/updates.py",
        "return once * config.num_iterations",
        "return [part for part in once for _ in range(config.num_iterations)]",
        ("tests/grpo/test_losses.py::test_the_updates_of_a_generation_equal_trl",),
    ),
    Break(
        "the correction of a completion is the mean over its tokens",
        LOSSES,
        "log_ratio_K = sums_N[owner_K]",
        "log_ratio_K = (sums_N / torch.bincount(owner_K, minlength=len(sums_N)))[owner_K]",
        ("tests/grpo/test_losses.py::test_corrections_of_the_sampler_equal_trl",),
    ),
    Break(
        "what another model sampled counts as the policy's own",
        LOSSES,
        "losses_K = losses_K * correction_K",
        "pass",
        (
            "tests/grpo/test_losses.py::test_samples_of_another_model_count_as_the_policys_own",
            "tests/grpo/test_microbatches.py::test_an_update_counts_tokens_as_the_policy_would_have_said_them",
        ),
    ),
    Break(
        "ratio of the old policy to the new",
        LOSSES,
        "ratios(logprobs_K - old_K, owner_K)",
        "ratios(old_K - logprobs_K, owner_K)",
        ("tests/grpo/test_losses.py::test_loss_and_gradient_equal_the_reference",),
    ),
    Break(
        "upper clip bound is the lower one's",
        LOSSES,
        "(1 - epsilon, 1 + epsilon_high)",
        "(1 - epsilon, 1 + epsilon)",
        ("tests/grpo/test_losses.py::test_loss_and_gradient_equal_the_reference",),
    ),
    Break(
        "the larger of the two objectives",
        LOSSES,
        "-torch.min(bounded_K * advantages_K",
        "-torch.max(bounded_K * advantages_K",
        ("tests/grpo/test_losses.py::test_loss_and_gradient_equal_the_reference",),
    ),
    Break(
        "KL from the reference instead of to it",
        LOSSES,
        "log_ratio_K = reference_K - logprobs_K",
        "log_ratio_K = logprobs_K - reference_K",
        ("tests/grpo/test_losses.py::test_loss_and_gradient_equal_the_reference",),
    ),
    Break(
        "the ratio of a completion is the product over its tokens",
        "kit/grpo/losses.py",
        "(sums_N / counts_N.clamp(min=1))[owner_K]",
        "sums_N[owner_K]",
        ("tests/grpo/test_losses.py::test_sequence_ratios_and_two_sided_clipping_equal_trl",),
    ),
    Break(
        "cispo's weight has a gradient",
        "kit/grpo/losses.py",
        "-ratio_K.detach().clamp(max=highest)",
        "-ratio_K.clamp(max=highest)",
        ("tests/grpo/test_losses.py::test_sequence_ratios_and_two_sided_clipping_equal_trl",),
    ),
    Break(
        "the KL penalty is of high-entropy tokens alone",
        "kit/grpo/losses.py",
        "        kl_K = torch.exp(log_ratio_K) - log_ratio_K - 1\n",
        "        kl_K = torch.exp(log_ratio_K) - log_ratio_K - 1\n"
        "        kl_K = kl_K if kept_K is None else kl_K * kept_K\n",
        ("tests/grpo/test_losses.py::test_sequence_ratios_and_two_sided_clipping_equal_trl",),
    ),
    Break(
        "parts of a reward are normalised over the batch alone",
        "kit/grpo/advantages.py",
        "(centred_PGR / (std_PR + EPSILON))",
        "centred_PGR",
        ("tests/grpo/test_advantages.py::test_parts_that_are_normalised_first_equal_trl",),
    ),
    Break(
        "tokens above the clip count as clipped whatever their advantage",
        LOSSES,
        "(ratio_K > highest) & (advantages_K > 0)",
        "ratio_K > highest",
        ("tests/grpo/test_losses.py::test_a_token_is_clipped_where_that_takes_its_gradient_away",),
    ),
    Break(
        "grpo: mean over the completions of the micro-batch",
        LOSSES,
        "1 / (lengths_N * n_completions)",
        "1 / (lengths_N * len(counted_N))",
        ("tests/grpo/test_losses.py::test_weights_do_not_depend_on_how_the_step_is_split",),
    ),
    Break(
        "dr_grpo: over the longest completion there is",
        LOSSES,
        "1 / (n_completions * max_completion_length)",
        "1 / (n_completions * int(lengths_N.max()))",
        ("tests/grpo/test_losses.py::test_loss_and_gradient_equal_the_reference",),
    ),
    Break(
        "dapo: over the tokens of the micro-batch",
        LOSSES,
        "1 / max(1, n_tokens)",
        "1 / len(owner_K)",
        ("tests/grpo/test_losses.py::test_weights_do_not_depend_on_how_the_step_is_split",),
    ),
    Break(
        "completions that do not count weigh as the others",
        LOSSES,
        "(each_N * counted_N)[owner_K]",
        "each_N[owner_K]",
        ("tests/grpo/test_losses.py::test_uncounted_completions_have_no_part_in_it",),
    ),
    Break(
        "tokens of completions that do not count are counted",
        MICROBATCHES,
        "int((lengths_PG * counted_PG).sum())",
        "int(lengths_PG.sum())",
        ("tests/grpo/test_grpo.py::test_what_is_left_out_weighs_nothing",),
    ),
    Break(
        "reference and old policy are scored at temperature 1",
        MICROBATCHES,
        "token_logprobs(by, part.batch, temperature=config.temperature, entropy=entropy)",
        "token_logprobs(by, part.batch, entropy=entropy)",
        (
            "tests/grpo/test_microbatches.py::test_policy_and_reference_are_scored_as_the_samples_were",
        ),
    ),
    Break(
        "groups of equal rewards are always left out",
        MICROBATCHES,
        "return has_advantage or not config.mask_zero_advantage_groups",
        "return has_advantage",
        ("tests/grpo/test_grpo.py::test_what_is_left_out_weighs_nothing",),
    ),
    Break(
        "every update is measured against itself",
        "kit/grpo/updates.py",
        "scored.logprobs.detach() if part.old is None else part.old",
        "scored.logprobs.detach()",
        (
            "tests/grpo/test_microbatches.py::test_an_update_is_measured_against_the_policy_that_sampled",
        ),
    ),
    Break(
        "rewards of each rank are scaled by its own spread",
        "kit/grpo/grpo.py",
        "batch_std=pooled_std(*sums)",
        "batch_std=float(rewards_PG.std())",
        ("tests/grpo/test_advantages.py::test_all_ranks_scale_by_the_spread_of_the_whole_step",),
    ),
    Break(
        "rewards less the mean of all groups",
        ADVANTAGES,
        "rewards_PG.mean(dim=1, keepdim=True)",
        "rewards_PG.mean()",
        ("tests/grpo/test_advantages.py::test_equal_numpy",),
    ),
    Break(
        "standard deviation over n",
        ADVANTAGES,
        "rewards_PG.std(dim=1)",
        "rewards_PG.std(dim=1, correction=0)",
        ("tests/grpo/test_advantages.py::test_equal_numpy",),
    ),
    Break(
        "a group of equal rewards is one of exactly equal ones",
        ADVANTAGES,
        "rewards_PG.amin(dim=1) < 1e-6",
        "rewards_PG.amin(dim=1) == 0",
        ("tests/grpo/test_advantages.py::test_rewards_that_differ_by_rounding_are_equal",),
    ),
    Break(
        "spread of all ranks over n",
        "kit/run/metrics.py",
        "/ (count - 1)) ** 0.5",
        "/ count) ** 0.5",
        ("tests/grpo/test_advantages.py::test_sums_of_ranks_give_the_spread_of_all",),
    ),
    Break(
        "sampling a group again draws the same",
        "kit/grpo/rollout.py",
        "(seed, t.prompt_index, attempt, number)",
        "(seed, t.prompt_index, number)",
        ("tests/grpo/test_grpo.py::test_zero_spread_groups_are_told_skipped_and_sampled_again",),
    ),
    Break(
        "a record that comes again is completed as before",
        "kit/grpo/rollout.py",
        "(seed, t.prompt_index, attempt, number)",
        "(seed, t.record.qid, attempt, number)",
        ("tests/grpo/test_rollout.py::test_a_record_that_comes_again_is_sampled_anew",),
    ),
    Break(
        "absent parts of the reward count as nothing",
        FAITHFULNESS,
        "return total * sum(abs(weights[name]) for name in parts) / weight",
        "return total",
        ("tests/scoring/test_faithfulness.py::test_the_documented_example",),
    ),
    Break(
        "weights of format and answer exchanged",
        "kit/grpo/terms/__init__.py",
        'DOCUMENTED = ("format", "answer", ',
        'DOCUMENTED = ("answer", "format", ',
        ("tests/scoring/test_faithfulness.py::test_weights_are_read_and_refused",),
    ),
    Break(
        "large regions cost nothing",
        FAITHFULNESS,
        "max(0.0, gap)) * max(0.0, 1 - share / LARGEST_SHARE)",
        "max(0.0, gap))",
        ("tests/grpo/test_rewards.py::test_a_tighter_box_earns_more_than_a_loose_one",),
    ),
    Break(
        "random regions should matter more than the evidence",
        FAITHFULNESS,
        "gap = max(0.0, delta_cf_roi) - max(0.0, delta_cf_rand)",
        "gap = max(0.0, delta_cf_rand) - max(0.0, delta_cf_roi)",
        ("tests/scoring/test_faithfulness.py::test_the_documented_example",),
    ),
    Break(
        "what was not measured counts as no effect",
        FAITHFULNESS,
        "        return None\n    gap",
        "        return 0.0\n    gap",
        ("tests/scoring/test_faithfulness.py::test_counterfactual_scores_are_in_range_or_absent",),
    ),
    Break(
        "yes and no are graded by their letters",
        FAITHFULNESS,
        'if scoring == "exact" or exact or choices or gold.strip().lower() in ("yes", "no"):',
        'if scoring == "exact" or exact:',
        ("tests/scoring/test_faithfulness.py::test_saying_yes_and_no_is_no_grade_of_either",),
    ),
    Break(
        "a completion without boxes keeps the record's score",
        COUNTERFACTUAL,
        "union_iou(claim, record.cf_boxes) if claim else 0.0",
        "union_iou(claim, record.cf_boxes) if claim else 1.0",
        ("tests/grpo/test_rewards.py::test_offline_scores_follow_the_boxes_that_were_measured",),
    ),
    Break(
        "weights of the user's reward functions are not read",
        REWARDS,
        "others = config.reward_weights or [1.0] * len(self.functions.names)",
        "others = [1.0] * len(self.functions.names)",
        ("tests/grpo/test_rewards.py::test_functions_of_the_users_own_are_added",),
    ),
    Break(
        "a weight below nothing takes from the weights",
        FAITHFULNESS,
        "weight = sum(abs(weights[name]) for name in there)",
        "weight = sum(weights[name] for name in there)",
        ("tests/grpo/test_rewards.py::test_a_weight_below_nothing_is_a_penalty",),
    ),
    Break(
        "what a reward function makes of its lists, the next one gets",
        FUNCTIONS,
        "arguments_of(groups))",
        "self.__dict__.setdefault('known', arguments_of(groups)))",
        ("tests/grpo/test_rewards.py::test_all_that_can_be_called_is",),
    ),
    Break(
        "the rewards of a set are taken in any order",
        FUNCTIONS,
        "(str, bytes, bytearray, Mapping, Set)",
        "(str, bytes, bytearray)",
        ("tests/grpo/test_rewards.py::test_a_function_that_fails_names_itself_and_the_record",),
    ),
    Break(
        "a folder's own modules go before those that are installed",
        FUNCTIONS,
        "sys.path.append(os.getcwd())",
        "sys.path.insert(0, os.getcwd())",
        (
            "tests/grpo/test_rewards.py::"
            "test_a_module_where_the_command_is_run_is_found_and_takes_no_other_s_place",
        ),
    ),
    Break(
        "the counterfactual is asked of the gold answer",
        COUNTERFACTUAL,
        "Case(record.shown, record.question, parsed.answer, claim, ())",
        "Case(record.shown, record.question, record.gold, claim, ())",
        ("tests/grpo/test_rewards.py::test_the_probe_is_asked_of_what_the_completion_itself_says",),
    ),
    Break(
        "a wrong answer is paid for leaning on its boxes",
        COUNTERFACTUAL,
        "return is_right(parsed, record)",
        "return True",
        ("tests/grpo/test_rewards.py::test_a_wrong_answer_is_not_paid_for_leaning_on_its_boxes",),
    ),
    Break(
        "a claim that nothing matches earns nothing",
        COUNTERFACTUAL,
        "            scores.append(None)\n",
        "            scores.append(0.0)\n",
        ("tests/grpo/test_rewards.py::test_what_cannot_be_measured_is_absent_and_not_nothing",),
    ),
    Break(
        "what cannot be measured is paid as the rest of the answer",
        FAITHFULNESS,
        "filled = {n: means[n] if value is None else value for n, value in parts.items()}",
        "filled = parts",
        ("tests/scoring/test_faithfulness.py::test_seeking_what_cannot_be_measured_is_not_paid",),
    ),
    Break(
        "the KL penalty pulls from the reference",
        LOSSES,
        "kl_K = kl_K * ratio_K",
        "kl_K = kl_K * ratio_K.detach()",
        (
            "tests/grpo/test_losses.py"
            "::test_the_gradient_of_the_penalty_is_that_of_the_exact_divergence",
        ),
    ),
    Break(
        "a difference of any size is a spread",
        ADVANTAGES,
        "return equal_P | (group_std(rewards_PG) < min_std)",
        "return equal_P",
        ("tests/grpo/test_advantages.py::test_what_only_captions_tell_apart_has_no_advantage",),
    ),
    Break(
        "what has no spread by min_reward_std is not sampled again",
        "kit/grpo/grpo.py",
        "has_no_spread(totals(rewards), config.min_reward_std)",
        "has_no_spread(totals(rewards))",
        ("tests/grpo/test_grpo.py::test_zero_spread_groups_are_told_skipped_and_sampled_again",),
    ),
    Break(
        "the reward is computed in the precision of the model",
        "kit/grpo/grpo.py",
        "with zero.gathered(accelerator, wrapped):\n            groups",
        "with zero.gathered(accelerator, wrapped), accelerator.autocast():\n            groups",
        (
            "tests/grpo/test_grpo.py"
            "::test_rewards_are_scored_as_in_evaluation_whatever_the_precision",
        ),
    ),
    Break(
        "of two reward functions of one name the later one counts",
        "kit/grpo/functions.py",
        "name = path if short in (*REWARDS, *names) else short",
        "name = short",
        ("tests/grpo/test_rewards.py::test_functions_of_one_name_all_count_and_replace_nothing",),
    ),
    Break(
        "saying the question again is a caption",
        "kit/scoring/consistency.py",
        "return not said or (again and len(said - asked) < _FEWEST_NEW_WORDS)",
        "return not said",
        ("tests/scoring/test_consistency.py::test_an_idle_caption_scores_nothing",),
    ),
    Break(
        "gradients of ranks are divided once more",
        "kit/grpo/updates.py",
        "undo_means = config.gradient_accumulation_steps * accelerator.num_processes",
        "undo_means = config.gradient_accumulation_steps",
        (
            "tests/grpo/test_microbatches.py"
            "::test_what_ddp_divides_by_its_ranks_is_multiplied_before",
        ),
    ),
    Break(
        "an answer reward that may rise as much stands still",
        STALLS,
        "        and answer.rise + POSSIBLE * answer.error < form.rise / 2\n",
        "",
        ("tests/grpo/test_stalls.py::test_whole_runs_of_noise_hardly_ever_say_it",),
    ),
    Break(
        "what stands still is said at every step",
        STALLS,
        "progress.stalls and progress.step - progress.stalls[-1][1] <= steps",
        "progress.stalls and progress.step == progress.stalls[-1][1]",
        ("tests/grpo/test_stalls.py::test_each_spell_is_told_once_and_a_resumed_run_goes_on",),
    ),
)
