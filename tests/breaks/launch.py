"""Command lines, plans of memory and launch, SLURM, shared models."""

from breaks.kind import Break

COMMAND = "kit/command.py"
YAML = "kit/yaml_files.py"
MEMORY = "kit/plan/memory.py"
LAUNCHES = "kit/run/launches.py"
PLANNED = "tests/plan/test_launch_plans.py::test_the_plan_of_the_preflight_is_that_of_the_run"
JOBS = "slurm/jobs.py"
EXPORT = "kit/share/export.py"

BREAKS = (
    Break(
        "an unknown key of a file is passed over",
        COMMAND,
        'raise ConfigError(f"unknown key {key!r}", where=where, fix=fix)',
        "continue",
        ("tests/test_command.py::test_mistakes_in_a_file_name_the_file",),
    ),
    Break(
        "a question in letters that the locale lacks ends the run",
        COMMAND,
        'errors="backslashreplace"',
        'errors="strict"',
        ("tests/test_command.py::test_letters_that_the_locale_lacks_end_no_run",),
    ),
    Break(
        "the file overrules the flags",
        COMMAND,
        "[*from_file, *flags]",
        "[*flags, *from_file]",
        ("tests/test_command.py::test_defaults_then_file_then_flags",),
    ),
    Break(
        "a key that stands twice is taken once",
        YAML,
        "if isinstance(key, yaml.ScalarNode) and key.value in seen:",
        "if key in seen:",
        ("tests/test_command.py::test_mistakes_in_a_file_name_the_file",),
    ),
    Break(
        "DDP keeps its gradients once",
        MEMORY,
        "(2 if spread > 1 else 1)",
        "1",
        ("tests/plan/test_memory.py::test_zero_spreads_what_its_stage_says",),
    ),
    Break(
        "no room is planned for the features of deeper layers",
        MEMORY,
        "width *= 1 + len(",
        "width *= 1 + 0 * len(",
        ("tests/model/test_vision.py::test_what_is_kept_is_bounded",),
    ),
    Break(
        "the cache holds keys and no values",
        MEMORY,
        "states = 2 * shape.num",
        "states = shape.num",
        ("tests/plan/test_memory.py::test_sampling_within_a_tenth",),
    ),
    Break(
        "a rollout's merged weights take no memory",
        MEMORY,
        "if sampling and config.merges:",
        "if sampling and not config.merges:",
        ("tests/plan/test_memory.py::test_sampling_within_a_tenth",),
    ),
    Break(
        "only the prompts of a micro-batch are planned to be sampled together",
        "kit/plan/preflight.py",
        "for tree in trees] * stage.micro_batches_per_step",
        "for tree in trees]",
        ("tests/plan/test_preflight.py::test_a_rollout_is_of_all_prompts_of_a_step",),
    ),
    Break(
        "the attention of a packed language model is planned in 16 bits",
        MEMORY,
        'and "proj" in name',
        'and "mlp" in name',
        ("tests/plan/test_preflight.py::test_a_table_of_what_fits",),
    ),
    Break(
        "an example image is a quarter of what max_pixels allows",
        "kit/plan/preflight.py",
        'size["longest_edge"] ** 0.5)',
        'size["longest_edge"] ** 0.5) // 2',
        ("tests/plan/test_preflight.py::test_a_folder_of_each_family_is_planned",),
    ),
    Break(
        "ZeRO leaves the optimizer whole",
        MEMORY,
        "states = 12 * trained // spread",
        "states = 12 * trained",
        ("tests/plan/test_memory.py::test_zero_spreads_what_its_stage_says",),
    ),
    Break(
        "the reference of GRPO takes no memory",
        MEMORY,
        "if isinstance(config, GrpoConfig) and config.beta:",
        "if isinstance(config, GrpoConfig) and not config.beta:",
        ("tests/plan/test_memory.py::test_the_reference_of_full_grpo_is_a_second_model",),
    ),
    Break(
        "an offloaded optimizer takes the weights with it",
        LAUNCHES,
        'places["offload_param"] and stage == 3',
        'places["offload_optimizer"] and stage == 3',
        (
            "tests/plan/test_launches.py::test_the_optimizer_may_lie_in_main_memory_without_the_weights",
        ),
    ),
    Break(
        "the number of processes that was asked for is not used",
        "kit/plan/preflight.py",
        "processes=num_processes or (file.processes if file else 1),",
        "processes=file.processes if file else 1,",
        ("tests/plan/test_launches.py::test_plans_are_those_that_the_files_are_named_after",),
    ),
    Break(
        "bfloat16 of the accelerate configuration is not seen",
        LAUNCHES,
        'if asked == "bf16" or in_deepspeed is True:',
        "if in_deepspeed is True:",
        (PLANNED,),
    ),
    Break(
        "what a DeepSpeed file leaves out is 1",
        LAUNCHES,
        'settings = {"gradient_accumulation_steps": "auto"} | read_deepspeed_file(told[FILE])',
        "settings = read_deepspeed_file(told[FILE])",
        (PLANNED,),
    ),
    Break(
        "emulated bfloat16 is taken for the GPU's own",
        "kit/run/process.py",
        "torch.cuda.is_bf16_supported(including_emulation=False)",
        "torch.cuda.is_bf16_supported()",
        ("tests/plan/test_launches.py::test_emulated_bfloat16_is_not_taken_for_the_gpu_s_own",),
    ),
    Break(
        "a plan without a file of its own counts as none",
        "kit/plan/launches.py",
        "known = PLANS if plan_name(chosen) in PLANS else PLANS | {plan_name(chosen): chosen}",
        "known = PLANS",
        (
            "tests/plan/test_launches.py"
            "::test_a_plan_without_a_file_of_its_own_is_compared_as_it_is",
        ),
    ),
    Break(
        "twelve hours of a file are its seconds, and no partition is False",
        YAML,
        "_TextLoader if as_text else _StrictLoader",
        "_StrictLoader",
        (
            "tests/slurm/test_plan.py::test_values_of_a_cluster_file_mean_what_they_say",
            "tests/test_command.py::test_values_of_a_file",
        ),
    ),
    Break(
        "a cluster file is not typed",
        "slurm/resources.py",
        "return merged(content, parts[kind])",
        'return read_yaml(self.path, as_text=True).get("gpu", {})',
        ("tests/slurm/test_plan.py::test_values_of_a_cluster_file_that_mean_nothing",),
    ),
    Break(
        "a job that no partition lets run so long waits for ever",
        "slurm/cluster.py",
        'if "infinite" not in allowed and',
        "if not allowed and",
        (
            "tests/slurm/test_submit.py::test_what_cannot_be_had_is_refused_before_anything_is_submitted",
        ),
    ),
    Break(
        "a job that failed is requeued",
        JOBS,
        "if code == EXIT_REQUEUE:",
        "if code:",
        ("tests/slurm/test_jobs.py::test_only_who_asks_for_it_is_requeued",),
    ),
    Break(
        "every rank asks for the requeue",
        JOBS,
        "            if main:\n                record.ask",
        "            if True:\n                record.ask",
        ("tests/slurm/test_jobs.py::test_only_who_asks_for_it_is_requeued",),
    ),
    Break(
        "a cancelled job is requeued",
        "slurm/cluster.py",
        "[[ $now != *JobState=RUNNING* ]] && exit 0",
        "true",
        (
            "tests/slurm/test_jobs.py"
            "::test_a_job_that_asks_is_requeued_unless_it_is_being_cancelled",
        ),
    ),
    Break(
        "with one element of an array all of it is requeued",
        "slurm/cluster.py",
        "${SLURM_ARRAY_TASK_ID+_$SLURM_ARRAY_TASK_ID}",
        "",
        ("tests/slurm/test_jobs.py::test_one_element_of_an_array_is_requeued",),
    ),
    Break(
        "a requeued run begins anew",
        JOBS,
        'config, resume_from_checkpoint="latest", resume_weights_only=False',
        "config, resume_weights_only=False",
        ("tests/slurm/test_jobs.py::test_a_requeued_run_goes_on_from_its_last_checkpoint",),
    ),
    Break(
        "a job that goes on counts as one that does not",
        "slurm/records.py",
        'if attempt["done"] != done:',
        'if attempt["done"] > done:',
        ("tests/slurm/test_jobs.py::test_one_that_gets_further_is_started_as_often_as_it_takes",),
    ),
    Break(
        "a job that never makes its first step is started for ever",
        JOBS,
        "if unit and idle >= MAX_STARTS_WITHOUT_PROGRESS:",
        "if done and unit and idle >= MAX_STARTS_WITHOUT_PROGRESS:",
        ("tests/slurm/test_jobs.py::test_one_that_never_gets_further_is_given_up",),
    ),
    Break(
        "results that were changed since count as done",
        "slurm/records.py",
        'return all(Path(p).is_file() and sha256_of(p) == x for p, x in done["made"].items())',
        'return all(Path(p).exists() for p in done["made"])',
        ("tests/slurm/test_jobs.py::test_work_is_done_while_what_it_made_stands_as_it_left_it",),
    ),
    Break(
        "a stage runs though the one before has failed",
        "slurm/submission.py",
        'after=f"afterok:',
        'after=f"afterany:',
        ("tests/slurm/test_jobs.py::test_a_job_waits_for_the_success_of_those_before_it",),
    ),
    Break(
        "an option that is passed on overrules the kit",
        "slurm/resources.py",
        "if fixed != entry:",
        "if False:",
        ("tests/slurm/test_plan.py::test_what_contradicts_the_kit_is_told_with_both",),
    ),
    Break(
        "a variable's value is read by the shell",
        "slurm/cluster.py",
        'f"export {name}={shlex.quote(value)}"',
        "f'export {name}=\"{value}\"'",
        (
            "tests/slurm/test_plan.py"
            "::test_options_and_variables_of_a_cluster_file_reach_the_sbatch_file",
        ),
    ),
    Break(
        "Python in a container dies of the signal that asks it to save",
        "slurm/cluster.py",
        "[*listening, *container, *listening, *python]",
        "[*listening, *container, *python]",
        ("tests/slurm/test_plan.py::test_the_command_line_in_a_container",),
    ),
    Break(
        "a job waits for one that has failed",
        "slurm/cluster.py",
        'if job is None or not (job.alive or job.state == "COMPLETED"):',
        "if job is None:",
        ("tests/slurm/test_jobs.py::test_a_job_waits_for_those_of_others_that_can_still_end_well",),
    ),
    Break(
        "other data under the same name change nothing",
        "slurm/plan.py",
        "return [sha256_of(path)]",
        "return [path.name]",
        ("tests/slurm/test_plan.py::test_a_file_that_is_read_counts_by_its_content",),
    ),
    Break(
        "the exported model forgets the image size of training",
        EXPORT,
        "load_processor(subject.base, config.adapter, say=print)",
        "load_processor(subject.base, say=print)",
        ("tests/share/test_export.py::test_an_adapter_answers_at_its_own_image_size",),
    ),
    Break(
        "an adapter is evaluated at the image size of its base",
        "kit/evaluate/answering.py",
        "        name,\n        config.adapter,\n        min_pixels",
        "        name,\n        min_pixels",
        ("tests/share/test_export.py::test_an_adapter_answers_at_its_own_image_size",),
    ),
    Break(
        "GRPO goes on at the image size of the base",
        "kit/grpo/grpo.py",
        "config.base_model, config.sft_ckpt,\n        min_pixels",
        "config.base_model,\n        min_pixels",
        ("tests/grpo/test_grpo.py::test_it_goes_on_at_the_image_size_of_sft",),
    ),
    Break(
        "an adapted output head is merged into the embedding too",
        EXPORT,
        "used[id(layer.weight)] > 1:",
        "used[id(layer.weight)] > 2:",
        (
            "tests/share/test_export.py"
            "::test_weights_that_the_base_uses_twice_are_changed_where_they_are_adapted",
        ),
    ),
    Break(
        "adapter and base are added in the stored type",
        EXPORT,
        "load_adapter(load_base(base), adapter)",
        "load_adapter(load_base(base, dtype=dtype), adapter)",
        ("tests/share/test_export.py::test_it_is_stored_in_bf16_by_default_and_in_shards",),
    ),
    Break(
        "a public repository is written to",
        EXPORT,
        "if private and not api.model_info(repository).private:",
        "if False:",
        ("tests/share/test_export.py::test_a_push_that_fails_leaves_the_folder",),
    ),
    Break(
        "training on test questions is not told",
        "kit/share/card.py",
        'if any(split == "test" for data',
        'if all(split == "test" for data',
        ("tests/share/test_export.py::test_training_on_test_questions_is_told",),
    ),
    Break(
        "every base is under its makers' license",
        "kit/share/provenance.py",
        'BASE_LICENSES.get(hub or base, "other")',
        'BASE_LICENSES.get(hub or base, "apache-2.0")',
        ("tests/share/test_export.py::test_no_path_of_this_machine_is_told",),
    ),
    Break(
        "a benchmark times two that do not compute the same",
        "kit/demo/bench/benchmark.py",
        "if not max(error.values()) <= SAME:",
        "if False:",
        ("tests/demo/test_benchmark.py::test_two_that_differ_are_not_timed",),
    ),
    Break(
        "a benchmark's rounds all show one image, whose features are kept",
        "kit/demo/bench/cases.py",
        "pixels = rng.integers(",
        "pixels = np.random.default_rng(0).integers(",
        ("tests/demo/test_benchmark.py::test_no_round_sees_the_images_of_another",),
    ),
    Break(
        "a public function does not say what it returns",
        "kit/model/resources.py",
        "def own_cores() -> int:",
        "def own_cores():",
        ("tests/test_house.py::test_what_is_public_says_its_types",),
    ),
    Break(
        "a version is called tested that setup.py does not allow",
        ".ci/constraints.txt",
        "\ntransformers==5.24.0",
        "\ntransformers==5.25.0",
        ("tests/test_internals.py::test_the_versions_that_were_tested_are_allowed",),
    ),
)
