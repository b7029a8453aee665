"""Masks, positions, log-probabilities, sampling, adapters."""

from breaks.kind import Break

SHARING = "kit/model/sharing.py"
SAMPLER = "kit/model/sampler.py"
LOGPROBS = "kit/model/logprobs.py"
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
        "branches see those before them",
        SHARING,
        "((key_B1S == 0) | (key_B1S == query_BS1))",
        "(key_B1S <= query_BS1)",
        ("tests/model/test_sharing.py::test_logprobs_and_lora_gradients_equal_separate_rows",),
    ),
    Break(
        "padding is seen while prompts are read",
        SAMPLER,
        "attention_mask=trunk_mask_PT.to(device)",
        "attention_mask=torch.ones_like(trunk_mask_PT).to(device)",
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
        LOGPROBS,
        "torch.float32)) / temperature",
        "torch.float32)) * temperature",
        ("tests/model/test_logprobs.py",),
    ),
    Break(
        "entropy without its normaliser",
        LOGPROBS,
        "entropy_K = total_K - (logits",
        "entropy_K = -(logits",
        ("tests/model/test_logprobs.py",),
    ),
    Break(
        "image tokens are kept out of sampled texts only",
        SAMPLER,
        "if self.suppress is not None:\n            scores",
        "if self.suppress is not None and not self.greedy:\n            scores",
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
        SAMPLER,
        "self.cut(None, scores_RV).softmax",
        "scores_RV.softmax",
        ("tests/model/test_sampler.py::test_the_likeliest_of_one_is_the_greedy_choice",),
    ),
    Break(
        "log-probabilities of samples leave the temperature out",
        SAMPLER,
        "logprobs_RV = scores_RV.log_softmax(dim=-1)",
        "logprobs_RV = logits_RV.float().log_softmax(dim=-1)",
        ("tests/model/test_sampler.py::test_sampled_logprobs_are_the_trainers",),
    ),
    Break(
        "rows that go on take the noise of those that ended",
        SAMPLER,
        "noise[row_of_R, step]",
        "noise[: len(row_of_R), step]",
        ("tests/model/test_sampler.py::test_rows_that_go_on_keep_their_own_noise",),
    ),
    Break(
        "a text that ends with its last token counts as cut off",
        SAMPLER,
        "tuple(values), ids[-1] != end_id)",
        "tuple(values), len(ids) == max_new_tokens)",
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
