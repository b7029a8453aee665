"""Masks, positions, log-probabilities, sampling, adapters."""

from breaks.kind import Break

SHARING = "kit/model/sharing.py"
SAMPLER = "kit/model/sampler.py"
ATTENTION = "kit/model/attention.py"
DECODING = "kit/model/decoding.py"
HEAD = "kit/model/head.py"
ADAPTERS = "kit/model/adapters.py"

BREAKS = (
    Break(
        "adapters of older names do not fit",
        ADAPTERS,
        'r"^model\.layers\.": "model.language_model.layers."',
        'r"^model\.layers\.": "model.layers."',
        ("tests/model/test_load.py::test_adapters_of_other_shapes_load_as_they_were_trained",),
    ),
    Break(
        "the reference changes the base a second time",
        ADAPTERS,
        "if str(made).startswith(_CHANGING_THE_BASE):",
        "if made in _CHANGING_THE_BASE[:1]:",
        ("tests/model/test_load.py::test_an_adapter_that_changes_its_base_is_no_reference",),
    ),
    Break(
        "words that were added are never said",
        "kit/model/processor.py",
        "if token.special or CONTROL_TOKEN.fullmatch(token.content)",
        "if token.content",
        ("tests/model/test_load.py::test_words_that_were_added_can_be_said_and_need_their_rows",),
    ),
    Break(
        "the processor's own chat template is not looked for",
        "kit/model/load.py",
        "for template in filter(None, templates):",
        "for template in filter(None, templates[:1]):",
        ("tests/model/test_load.py::test_the_chat_template_is_found_where_it_is",),
    ),
    Break(
        "an adapter names its base as it was called in another working folder",
        "kit/model/load.py",
        "str(source.absolute())",
        "name",
        ("tests/model/test_load.py::test_an_adapter_names_its_base_for_every_working_folder",),
    ),
    Break(
        "the card of a run gives the hub a path for a base",
        "kit/train/finish.py",
        "{} if is_local else",
        "{} if not adapter else",
        ("tests/train/test_sft_parts.py::test_the_card_names_no_base_that_the_hub_would_refuse",),
    ),
    Break(
        "branches see those before them",
        ATTENTION,
        "((key_B1S == 0) | (key_B1S == query_BS1))",
        "(key_B1S <= query_BS1)",
        ("tests/model/test_sharing.py::test_the_tree_and_its_whole_matrix_attend_alike",),
    ),
    Break(
        "branches see what stands behind a shorter trunk",
        ATTENTION,
        "trunk_NT = torch.arange(max(trunks)) < trunk_N[:, None]",
        "trunk_NT = torch.arange(max(trunks)) < trunk_N[:, None] + 1",
        ("tests/model/test_sharing.py::test_logprobs_and_lora_gradients_equal_separate_rows",),
    ),
    Break(
        "image features outlive the weights of the tower",
        "kit/model/vision.py",
        "if weights != self._weights:",
        "if not self._weights:",
        ("tests/model/test_vision.py::test_nothing_is_stale",),
    ),
    Break(
        "a head in float32 is rounded by autocast",
        HEAD,
        "torch.autocast(device, enabled=False) if known",
        "torch.autocast(device) if known",
        ("tests/model/test_logprobs.py::test_a_head_in_float32_is_that_of_float64",),
    ),
    Break(
        "gradients pass a frozen tower",
        "kit/model/vision.py",
        "torch.set_grad_enabled(trained and torch.is_grad_enabled())",
        "torch.set_grad_enabled(torch.is_grad_enabled())",
        ("tests/model/test_vision.py::test_no_gradient_passes_a_frozen_tower",),
    ),
    Break(
        "completions are told by their place among the rows that are left",
        SAMPLER,
        "done[rows.numbers[row]] = ",
        "done[row] = ",
        ("tests/model/test_sampler.py::test_rows_that_end_make_room_for_others",),
    ),
    Break(
        "padding is seen while prompts are read",
        SAMPLER,
        "real_PT = real_PT.to(device)",
        "real_PT = torch.ones_like(real_PT).to(device)",
        ("tests/model/test_sampler.py::test_greedy_equals_transformers_generate",),
    ),
    Break(
        "what follows an image counts its tokens",
        SHARING,
        "start += max(axes)",
        "start += length",
        ("tests/model/test_sharing.py::test_logprobs_and_lora_gradients_equal_separate_rows",),
    ),
    Break(
        "height and width of an image exchanged",
        SHARING,
        "(time, height // merge_size, width // merge_size)",
        "(time, width // merge_size, height // merge_size)",
        ("tests/model/test_sharing.py::test_logprobs_and_lora_gradients_equal_separate_rows",),
    ),
    Break(
        "positions of branches count on",
        SHARING,
        "torch.arange(end - at) + after",
        "torch.arange(at, end)",
        ("tests/model/test_sharing.py::test_logprobs_and_lora_gradients_equal_separate_rows",),
    ),
    Break(
        "the first token of a branch follows the branch before",
        SHARING,
        "before[places == 0] = len(tree.trunk) - 1",
        "before[places == 0] = at - 1",
        ("tests/grpo/test_rollout.py::test_a_shared_prompt_equals_repeated_prompts",),
    ),
    Break(
        "log-probabilities multiplied by the temperature",
        HEAD,
        "else logits_CV / temperature",
        "else logits_CV * temperature",
        ("tests/model/test_logprobs.py",),
    ),
    Break(
        "entropy without its normaliser",
        HEAD,
        "entropy_C = total_C - (logits",
        "entropy_C = -(logits",
        ("tests/model/test_logprobs.py",),
    ),
    Break(
        "image tokens are kept out of sampled texts only",
        DECODING,
        "scores_RV.index_fill_(1, self.never, -torch.inf)\n        largest_R1,"
        " greedy_R1 = scores_RV.max(dim=1, keepdim=True)",
        "largest_R1, greedy_R1 = scores_RV.max(dim=1, keepdim=True)\n"
        "        scores_RV.index_fill_(1, self.never, -torch.inf)",
        ("tests/model/test_sampler.py::test_special_tokens_are_never_greedily_chosen",),
    ),
    Break(
        "of the special tokens only the image's is kept out",
        "kit/model/processor.py",
        "return sorted(special - {self.end_of_turn_id})",
        "return [self.image_token_id]",
        (
            "tests/model/test_sampler.py::test_of_the_special_tokens_the_end_of_the_turn_alone_may_be_chosen",
        ),
    ),
    Break(
        "tokens are drawn from what top-k and top-p have cut off too",
        DECODING,
        "chances_RV = likeliest(",
        "likeliest(",
        ("tests/model/test_sampler.py::test_the_likeliest_of_one_is_the_greedy_choice",),
    ),
    Break(
        "log-probabilities of samples leave the temperature out",
        DECODING,
        "total_R = torch.logaddexp(chances_RV.sum(dim=1).log() + largest_R1[:, 0], never_R)",
        "total_R = logits_RV.float().logsumexp(dim=1)",
        ("tests/model/test_sampler.py::test_sampled_logprobs_are_the_trainers",),
    ),
    Break(
        "the words that are never sampled have no share of the whole",
        DECODING,
        "torch.logaddexp(chances_RV.sum(dim=1).log() + largest_R1[:, 0], never_R)",
        "chances_RV.sum(dim=1).log() + largest_R1[:, 0]",
        ("tests/model/test_sampler.py::test_special_tokens_are_never_sampled",),
    ),
    Break(
        "a decoded token's keys are not rotated as the others are",
        "kit/model/decoder.py",
        "both.roll(half, -1)",
        "both",
        ("tests/model/test_decoder.py",),
    ),
    Break(
        "rows that go on take the noise of those that ended",
        DECODING,
        "getattr(self, name)[index] for name",
        "getattr(self, name)[index if name != 'noise' else slice(len(rows))] for name",
        ("tests/model/test_sampler.py::test_rows_that_go_on_keep_their_own_noise",),
    ),
    Break(
        "a text that ends with its last token counts as cut off",
        SAMPLER,
        "Completion(ids, values, ids[-1] != end_id)",
        "Completion(ids, values, length == rows.tokens.shape[1])",
        ("tests/model/test_sampler.py::test_an_end_with_the_last_token_is_an_end",),
    ),
    Break(
        "the training mode is not restored",
        SAMPLER,
        "model.train(was_training)",
        "model.train()",
        ("tests/model/test_sampler.py::test_training_mode_is_restored",),
    ),
    Break(
        "the end of the turn is not taught",
        "kit/model/processor.py",
        "return [*self.encode(answer), self.end_of_turn_id]",
        "return self.encode(answer)",
        ("tests/train/test_data.py::test_supervised_tokens_are_exactly_the_assistants",),
    ),
    Break(
        "the policy is its own reference",
        ADAPTERS,
        "model.set_adapter(REFERENCE)",
        "model.set_adapter(POLICY)",
        ("tests/model/test_adapters.py::test_policy_and_reference_take_turns",),
    ),
    Break(
        "the reference stays switched on",
        ADAPTERS,
        "    finally:\n        model.set_adapter(POLICY)",
        "    finally:",
        ("tests/model/test_adapters.py::test_policy_and_reference_take_turns",),
    ),
    Break(
        "the adapter's dropout stays on in GRPO",
        ADAPTERS,
        "module.p, found = 0.0, True",
        "found = True",
        ("tests/model/test_adapters.py::test_dropout_that_is_off_changes_no_output",),
    ),
    Break(
        "the vision tower is adapted when it is to be frozen",
        ADAPTERS,
        "return language if freeze_vision_tower else",
        "return language if not freeze_vision_tower else",
        ("tests/model/test_load.py::test_lora_reaches_all_linear_layers_it_should",),
    ),
)
