"""Checkpoints, resuming, the log, stopping, files, ZeRO, deterministic algorithms."""

from breaks.kind import Break

CHECKPOINT = "kit/run/checkpoint.py"
STATE = "kit/run/state.py"
STOP = "kit/run/stop.py"
ZERO = "kit/run/zero.py"
SETTINGS = "kit/run/deepspeed_settings.py"
METRICS = "kit/run/metrics.py"

BREAKS = (
    Break(
        "full_determinism is a word",
        "kit/run/process.py",
        "    fix_algorithms(config.full_determinism)\n    launch",
        "    launch",
        ("tests/run/test_determinism.py::test_nothing_raises_on_a_gpu",),
    ),
    Break(
        "the sums of the manifest are not compared",
        CHECKPOINT,
        "sha256_of(path) != expected_sum",
        "not path.stat().st_size",
        ("tests/run/test_checkpoint.py::test_damage_is_found_and_the_one_before_is_taken",),
    ),
    Break(
        "the old checkpoint is deleted before the new one stands",
        CHECKPOINT,
        "os.rename(folder, old)",
        "shutil.rmtree(folder)",
        (
            "tests/run/test_checkpoint.py::test_killed_while_it_is_replaced_a_folder_can_be_put_back",
        ),
    ),
    Break(
        "files are not on the disk when the folder gets its name",
        CHECKPOINT,
        "                _sync(path)\n            yield",
        "            yield",
        ("tests/run/test_checkpoint.py::test_everything_is_on_the_disk_before_it_gets_its_name",),
    ),
    Break(
        "final weights are moved first",
        CHECKPOINT,
        'key=lambda p: p.suffix == ".safetensors"',
        'key=lambda p: p.suffix != ".safetensors"',
        ("tests/run/test_checkpoint.py::test_weights_stand_beside_all_that_belongs_to_them",),
    ),
    Break(
        "the newest checkpoints are deleted",
        CHECKPOINT,
        "for folder in found if",
        "for folder in found[::-1] if",
        ("tests/run/test_checkpoint.py::test_publish_replaces_and_prune_keeps_the_newest",),
    ),
    Break(
        "damaged checkpoints count among those that are kept",
        CHECKPOINT,
        "        else:\n            good += 1",
        "        good += 1",
        ("tests/run/test_checkpoint.py::test_a_good_one_goes_only_when_newer_good_ones_stand",),
    ),
    Break(
        "leftovers of another run rank above what the run has just saved",
        CHECKPOINT,
        "if not saved or step_of(p) <= step_of(saved)]",
        "if p]",
        ("tests/run/test_checkpoint.py::test_a_good_one_goes_only_when_newer_good_ones_stand",),
    ),
    Break(
        "checkpoint 9 is newer than 10",
        CHECKPOINT,
        "return sorted(found, key=step_of, reverse=True)",
        "return sorted(found, reverse=True)",
        ("tests/run/test_checkpoint.py::test_newest_valid_is_chosen",),
    ),
    Break(
        "images of their old size and name are taken for unchanged",
        "kit/run/sources.py",
        "entry.split()[::3]",
        "entry.split()[:1]",
        ("tests/run/test_sources.py::test_what_has_changed_is_refused_by_name",),
    ),
    Break(
        "a copied data set is refused for its times",
        "kit/run/sources.py",
        "entry.split()[::3]",
        "entry.split()",
        ("tests/run/test_sources.py::test_times_and_spaces_are_no_change",),
    ),
    Break(
        "every rank goes on with the random state of the first",
        STATE,
        'torch.set_rng_state(random_states[f"{rank}.cpu"])',
        'torch.set_rng_state(random_states["0.cpu"])',
        ("tests/run/test_state.py::test_every_rank_gets_its_own_random_state_back",),
    ),
    Break(
        "random states are not restored",
        STATE,
        '    torch.set_rng_state(random_states[f"{rank}.cpu"])\n',
        "",
        (
            "tests/run/test_state.py::test_the_next_updates_are_those_of_the_run_that_was_not_cut_off",
        ),
    ),
    Break(
        "the schedule begins anew",
        STATE,
        '    scheduler.load_state_dict(facts["scheduler"])\n',
        "",
        (
            "tests/run/test_state.py::test_the_next_updates_are_those_of_the_run_that_was_not_cut_off",
        ),
    ),
    Break(
        "the first update after a resume has the first learning rate",
        STATE,
        'group["lr"] = rate',
        'group["lr"] = group["lr"]',
        (
            "tests/run/test_state.py::test_the_next_updates_are_those_of_the_run_that_was_not_cut_off",
        ),
    ),
    Break(
        "of the progress only the step is restored",
        STATE,
        'return Progress(**facts["progress"])',
        'return Progress(step=facts["progress"]["step"])',
        (
            "tests/run/test_state.py::test_the_next_updates_are_those_of_the_run_that_was_not_cut_off",
        ),
    ),
    Break(
        "Adam's bias correction begins anew",
        ZERO,
        '{"step": states[f"{name}:step"].clone()}',
        '{"step": torch.zeros(())}',
        (
            "tests/run/test_state.py::test_the_next_updates_are_those_of_the_run_that_was_not_cut_off",
        ),
    ),
    Break(
        "another number of processes is not noticed",
        STATE,
        'before, now = facts["config"] | facts["launch"], _fixed(config) | launch',
        'before, now = facts["config"] | facts["launch"], _fixed(config)',
        ("tests/run/test_faults.py::test_another_launch_is_refused_but_for_the_weights",),
    ),
    Break(
        "a run goes on to its end although the best weights are gone",
        STATE,
        "if problem := checkpoint.problem_with(folder):",
        "if (problem := checkpoint.problem_with(folder)) and step < 0:",
        (
            "tests/run/test_state.py"
            "::test_best_weights_that_are_gone_are_missed_before_the_rest_is_trained",
        ),
    ),
    Break(
        "the worst weights are kept as the best",
        STATE,
        "loss >= self.best_loss",
        "loss <= self.best_loss",
        ("tests/run/test_state.py::test_the_best_weights_are_those_of_the_lowest_loss",),
    ),
    Break(
        "the log loses the step of the checkpoint",
        "kit/run/runlog.py",
        "logged > step",
        "logged >= step",
        ("tests/run/test_runlog.py::test_a_resumed_run_forgets_what_came_after_its_checkpoint",),
    ),
    Break(
        "a full disk leaves half a line in the log",
        "kit/files.py",
        "os.truncate(path, before)",
        "os.truncate(path, path.stat().st_size)",
        ("tests/run/test_runlog.py::test_a_full_disk_leaves_whole_lines",),
    ),
    Break(
        "what other programs take for the end of a line is written as it is",
        "kit/files.py",
        "(0x85, 0x2028, 0x2029, *range",
        "(0, *range",
        ("tests/test_files.py::test_what_is_written_can_be_read",),
    ),
    Break(
        "a line is added to the half line of a process that was killed",
        "kit/files.py",
        'lines if stream.read(1) in (b"", b"\\n") else b"\\n" + lines',
        "lines",
        ("tests/test_files.py::test_a_log_whose_process_was_killed_as_it_wrote",),
    ),
    Break(
        "mean loss of steps instead of tokens",
        METRICS,
        'sum(m[name] * m["tokens"] for m in steps) / tokens',
        "sum(m[name] for m in steps) / len(steps)",
        ("tests/run/test_metrics.py::test_steps_weigh_by_their_tokens",),
    ),
    Break(
        "means of ranks are means of means",
        METRICS,
        "means = {name: total / count for name, (count, total, _) in merged.items() if count}",
        "means = {name: self._sums[name][1] / count for name, (count, _, _) in "
        "merged.items() if count}",
        ("tests/run/test_metrics.py::test_a_rank_with_more_values_weighs_more",),
    ),
    Break(
        "a stop file does not outweigh a signal",
        STOP,
        "EXIT_REQUEUE if agains and not by_files else EXIT_STOPPED",
        "EXIT_REQUEUE if agains else EXIT_STOPPED",
        ("tests/run/test_stop_request.py::test_a_file_outweighs_the_signal_of_another_rank",),
    ),
    Break(
        "each rank stops for itself",
        STOP,
        "return asked > 0",
        "return self.asked",
        ("tests/run/test_stop_request.py::test_ranks_that_heard_different_things_say_the_same",),
    ),
    Break(
        "the stop file is left where it was",
        STOP,
        "            self.file.unlink(missing_ok=True)",
        "            self.file.exists()",
        ("tests/run/test_stop_request.py::test_the_main_process_takes_the_file_away",),
    ),
    Break(
        "the wish to be requeued is not heard",
        STOP,
        "again = signal.SIGUSR2 in self._heard",
        "again = signal.SIGTERM in self._heard",
        ("tests/run/test_stop_request.py::test_ranks_that_heard_different_things_say_the_same",),
    ),
    Break(
        "DeepSpeed counts the batch of one process",
        SETTINGS,
        '("train_batch_size", per_step * processes,',
        '("train_batch_size", per_step,',
        ("tests/run/test_zero.py::test_what_is_left_open_is_filled",),
    ),
    Break(
        "a DeepSpeed optimizer is overruled without a word",
        SETTINGS,
        'if kind in ours and numbers and all(each == "auto" for each in numbers.values()):',
        "if kind in ours:",
        ("tests/run/test_zero.py::test_contradictions_name_both_keys",),
    ),
    Break(
        "a failed write leaves its temporary file",
        "kit/files.py",
        "                os.unlink(temporary)",
        "                os.stat(temporary)",
        ("tests/test_files.py::test_nothing_is_left_of_what_was_broken_off",),
    ),
    Break(
        "a used-up quota is no full disk",
        "kit/files.py",
        "DISK_FULL = (errno.ENOSPC, errno.EDQUOT)",
        "DISK_FULL = (errno.ENOSPC,)",
        ("tests/test_files.py::test_refusals_of_the_operating_system",),
    ),
    Break(
        "a lock whose time lies ahead is waited for until then",
        "kit/run/extensions.py",
        "idle = time.monotonic() - since",
        "idle = time.time() - changed",
        (
            "tests/run/test_extensions.py::test_a_lock_of_nobody_here_is_named_at_once_and_not_waited_for_long",
        ),
    ),
    Break(
        "a folder of a process that has ended counts as held where there are no locks",
        "kit/run/folder_lock.py",
        'return started_at(owner["pid"]) != owner["started"]',
        "return False",
        ("tests/run/test_folder_lock.py::test_where_there_are_no_locks_the_file_tells",),
    ),
    Break(
        "a tracker's full disk is a traceback",
        "kit/run/runlog.py",
        "            self.accelerator.log(metrics, step=step)",
        "            pass\n        self.accelerator.log(metrics, step=step)",
        (
            "tests/run/test_runlog.py"
            "::test_a_full_disk_under_a_tracker_is_named_after_the_kit_has_written_its_own",
        ),
    ),
)
