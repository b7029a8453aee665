"""Supervised fine-tuning: its data, steps and loop."""

from breaks.kind import Break

SFT = "kit/train/sft.py"
DATA = "kit/train/data.py"
OPTIM = "kit/train/optim.py"

BREAKS = (
    Break(
        "a name of transformers that is going away",
        "kit/train/policy.py",
        'getattr(model, "activation_checkpointing_enable", older)',
        "older",
        ("tests/run/test_determinism.py::test_nothing_raises_on_a_gpu",),
    ),
    Break(
        "a run that is stopped at its last step leaves no adapter",
        "kit/train/schedule.py",
        "if stopping and not self.at_end:",
        "if stopping:",
        ("tests/train/test_schedule.py::test_a_run_that_is_stopped_at_its_last_step_has_ended",),
    ),
    Break(
        "a step is told with the learning rate of the next",
        "kit/train/schedule.py",
        "        self.learning_rate = self.lr_scheduler.get_last_lr()[0]\n"
        "        self.lr_scheduler.step()\n",
        "        self.lr_scheduler.step()\n"
        "        self.learning_rate = self.lr_scheduler.get_last_lr()[0]\n",
        (
            "tests/train/test_schedule.py"
            "::test_each_step_is_told_with_the_learning_rate_that_it_had",
        ),
    ),
    Break(
        "a few steps have no warm-up",
        "kit/train/schedule.py",
        "math.ceil(config.warmup_ratio * self.total_steps)",
        "int(config.warmup_ratio * self.total_steps)",
        (
            "tests/train/test_schedule.py"
            "::test_a_share_of_the_steps_warms_up_and_is_not_rounded_to_none",
        ),
    ),
    Break(
        "every epoch has the same order",
        DATA,
        'random.Random(f"{self.seed}:{number}")',
        "random.Random(self.seed)",
        ("tests/train/test_data.py::test_every_epoch_holds_every_record_once",),
    ),
    Break(
        "after an accumulated step the wrong records follow",
        SFT,
        "range(first_step * accumulation, total_steps * accumulation)",
        "range(first_step, total_steps * accumulation)",
        ("tests/train/test_sft_parts.py::test_a_resumed_run_goes_on_with_the_next_micro_batch",),
    ),
    Break(
        "a step waits for the process that its longest records fell to",
        "kit/train/balance.py",
        "min(found, key=lambda slots: max(map(load, slots)))",
        "found[-1]",
        ("tests/train/test_data.py::test_no_rank_waits_long_for_the_slowest",),
    ),
    Break(
        "a process has nothing to compute",
        "kit/train/balance.py",
        "if len(slots) < n_slots:",
        "if len(slots) < n_slots - 1:",
        ("tests/train/test_data.py::test_micro_batches_are_dealt_by_their_tokens",),
    ),
    Break(
        "ranks train on the same records",
        DATA,
        "return self._dealt(step)[part][self.rank]",
        "return self._dealt(step)[part][0]",
        ("tests/train/test_data.py::test_ranks_share_the_records_of_a_step",),
    ),
    Break(
        "the loss is a mean over the micro-batch",
        SFT,
        "return -logprobs.float().sum() / normaliser",
        "return -logprobs.float().mean()",
        ("kit/train/sft.py",),
    ),
    Break(
        "gradients of accumulated batches are divided once more",
        SFT,
        "undo_means = config.gradient_accumulation_steps * accelerator.num_processes",
        "undo_means = accelerator.num_processes",
        ("tests/train/test_sft_parts.py::test_an_update_does_not_depend_on_how_it_is_accumulated",),
    ),
    Break(
        "with dropout questions share their image's pass",
        SFT,
        "share=config.lora_dropout == 0",
        "share=True",
        (
            "tests/train/test_sft_parts.py::test_questions_share_their_image_s_pass_unless_dropout_is_drawn_in_it",
        ),
    ),
    Break(
        "after the first evaluation dropout is off",
        SFT,
        "    model.train()\n    loss, hits",
        "    loss, hits",
        ("tests/train/test_sft_parts.py::test_evaluation_leaves_training_as_it_was",),
    ),
    Break(
        "updates that are not finite are made",
        OPTIM,
        "finite = math.isfinite(norm)",
        "finite = True",
        ("tests/train/test_optim.py::test_what_is_not_finite_moves_nothing",),
    ),
    Break(
        "no clipping clips everything away",
        OPTIM,
        'max_norm or float("inf")',
        "max_norm",
        ("tests/train/test_optim.py::test_a_gradient_is_clipped_to_its_norm_and_0_leaves_it",),
    ),
    Break(
        "vectors are decayed like matrices",
        OPTIM,
        '"weight_decay": 0.0}',
        '"weight_decay": weight_decay}',
        ("tests/train/test_optim.py::test_matrices_alone_are_decayed",),
    ),
)
