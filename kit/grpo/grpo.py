"""Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300), from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import GrpoRecord, read_grpo_records
from kit.grpo.advantages import (
    batch_advantages,
    group_advantages,
    has_no_spread,
    normalised_parts,
)
from kit.grpo.config import GrpoConfig
from kit.grpo.held_out import evaluate
from kit.grpo.microbatches import micro_batches, with_fixed_logprobs
from kit.grpo.objectives import changed_trunks, record_absent, require_evidence
from kit.grpo.policy import build_policy
from kit.grpo.report import (
    completion_rows,
    parts_of,
    print_completions,
    record_lengths,
    record_rewards,
    totals,
)
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import MODE, Group, Task, roll_out, sampling_of
from kit.grpo.stalls import how_to_read, watch
from kit.grpo.updates import suspects, update, updates_of
from kit.grpo.views import changed
from kit.model.folders import named_base, require_adapter
from kit.model.lengths import require_room
from kit.model.load import load_processor
from kit.model.logprobs import LogprobModel
from kit.run import failures, process, state, zero
from kit.run.metrics import Meters, mean_metrics, pooled_std
from kit.run.stop import StopRequest
from kit.scoring.faithfulness import Reward
from kit.train import finish
from kit.train.data import EpochOrder, RecordStream, read_records
from kit.train.optim import adamw
from kit.train.schedule import Schedule

RESAMPLED_AT_MOST = 3  # times, with dynamic_sampling


def train(config: GrpoConfig) -> int:
    """Run GRPO as configured; returns the exit code (that of ``StopRequest`` if asked to stop).

    A step takes ``per_device_train_batch_size * steps_per_generation`` prompts a process,
    completes each ``num_generations`` times and makes ``num_iterations`` passes over them, an
    update each ``gradient_accumulation_steps`` micro-batches. Writes the run folder of SFT and
    ``completions.jsonl``, a line a completion.
    """
    accelerator = process.start(config)
    with StopRequest(Path(config.output_dir)) as stop, failures.explained_memory(config):
        code = run(config, accelerator, stop)
    process.end(accelerator)
    return code


def run(config: GrpoConfig, accelerator: Accelerator, stop: StopRequest) -> int:
    """The run itself, top to bottom."""
    # ------------------------------------------------------------------ data and models
    if config.sft_ckpt:
        require_adapter(config.sft_ckpt)
    config = replace(config, base_model=config.base_model or named_base(config.sft_ckpt))
    start = state.starting_point(config, accelerator)
    records, eval_records, dropped = read_records(config, read_grpo_records)
    data = {"data": records, "eval_data": eval_records}
    made_of = state.sources_of(config, start, accelerator, data)
    require_evidence(records, config)
    eval_records = eval_records[: config.max_eval_records]
    processor = load_processor(
        config.base_model, config.sft_ckpt,
        min_pixels=config.min_pixels, max_pixels=config.max_pixels, say=accelerator.print,
    )  # fmt: skip
    policy, reference = build_policy(config, accelerator)
    require_room([*records, *eval_records], processor, [MODE], policy, config.max_completion_length)
    reward_fn = Rewards(config, accelerator.device, accelerator.autocast)
    wrapped, optimizer = accelerator.prepare(LogprobModel(policy), adamw(policy, config))

    # ------------------------------------------------------------------ plan of the steps
    own_prompts = config.per_device_train_batch_size * config.micro_batches_per_step
    batch = own_prompts * accelerator.num_processes
    schedule = Schedule(
        config, accelerator, policy, optimizer,
        start=start, n_records=len(records), batch=batch, name="grpo", made_of=made_of,
    )  # fmt: skip
    progress, log = schedule.progress, schedule.log
    places = tuple(str(i) for i in range(len(records)))
    stream = RecordStream(EpochOrder(places, config.seed))
    spare = RecordStream(EpochOrder(places, ~config.seed))  # an order that no seed gives
    image_cache = ImageCache(processor, config.inpainting)
    accelerator.print(finish.describe(policy, records, dropped, batch, schedule.total_steps))
    accelerator.print(how_to_read(list(reward_fn.weights), config.beta))

    # ------------------------------------------------------------------ the loop
    while not schedule.at_end:
        meters = Meters()
        tasks = own_tasks(records, stream, progress.step, own_prompts, accelerator)
        with zero.gathered(accelerator, wrapped):
            groups, rewards = collect(
                policy, image_cache, tasks, partial(other_task, records, spare), reward_fn,
                config, accelerator, meters,
            )  # fmt: skip
            advantages_PG = advantages_of(rewards, reward_fn.weights, config, accelerator)
            with meters.timed("update"), accelerator.autocast():
                others = changed_trunks(groups, image_cache, config)
                batches = micro_batches(
                    groups, advantages_PG, processor, config, accelerator, others
                )
                batches = with_fixed_logprobs(policy, reference, batches, config, accelerator)
        with meters.timed("update"):
            for parts, own in updates_of(batches, groups, config):
                applied, finite = update(accelerator, wrapped, optimizer, parts, config, meters)
                schedule.count_skipped(applied, suspects(own, finite))
        schedule.advance()

        record_rewards(meters, rewards, reward_fn.weights, config.min_reward_std)
        record_lengths(meters, groups)
        record_absent(meters, others, config)
        tokens = sum(len(group.tree()) for group in groups)
        meters.record_speed("tokens_per_second", tokens)
        progress.tokens += int(process.total(accelerator, tokens)[0])
        rows = log.completions(completion_rows(progress.step, groups, rewards, advantages_PG))
        progress.since_log.append(meters.reduce(accelerator, spreads=reward_fn.spreads))
        if said := watch(progress, progress.since_log[-1], config.stall_steps):
            accelerator.print(said)
        if (
            schedule.log_metrics(mean_metrics, stalls=len(progress.stalls))
            and config.log_completions
            and log.active
        ):
            print_completions(rows, config.num_completions_to_print)
        if eval_records and schedule.is_due(config.eval_steps):
            with zero.gathered(accelerator, wrapped):
                scores = evaluate(policy, image_cache, eval_records, reward_fn, config, accelerator)
            log.log(progress.step, scores)
        if (code := schedule.save_or_leave(stop)) is not None:
            return code

    # ------------------------------------------------------------------ what is left behind
    finish.save_final(config, accelerator, policy, processor, progress, records)
    samples = progress.step * batch * config.num_generations
    log.finish(**progress.facts(), finished=True, samples=samples)
    return 0


def own_tasks(
    records: list[GrpoRecord], stream: RecordStream, step: int, size: int, accelerator: Accelerator
) -> list[Task]:
    """This process's share of the prompts of a step."""
    start = (step * accelerator.num_processes + accelerator.process_index) * size
    indices = stream[start : start + size]
    return [Task(start + offset, records[index]) for offset, index in enumerate(indices)]


def other_task(records: list[GrpoRecord], others: RecordStream, task: Task, attempt: int) -> Task:
    """What is asked in the place of a prompt without spread; ``attempt`` counts from 1."""
    number = task.prompt_index * RESAMPLED_AT_MOST + attempt - 1
    (index,) = others[number : number + 1]
    return Task(task.prompt_index, records[index])


def collect(
    model: nn.Module,
    image_cache: ImageCache,
    tasks: list[Task],
    other: Callable[[Task, int], Task],
    reward_fn: Rewards,
    config: GrpoConfig,
    accelerator: Accelerator,
    meters: Meters,
) -> tuple[list[Group], list[list[Reward]]]:
    """Groups of completions and their rewards; with ``dynamic_sampling`` an ``other`` prompt takes
    the place of each without spread (DAPO, arXiv 2503.14476)."""
    sampling = sampling_of(config)
    groups: list[Group | None] = [None] * len(tasks)
    rewards: list[list[Reward]] = [[] for _ in tasks]
    unsettled = list(range(len(tasks)))
    for attempt in range(1 + RESAMPLED_AT_MOST * config.dynamic_sampling):
        with meters.timed("rollout"), accelerator.autocast():
            asked = [other(tasks[i], attempt) if attempt else tasks[i] for i in unsettled]
            new = roll_out(
                model,
                image_cache,
                changed(asked, image_cache, config) if reward_fn.views else asked,
                sampling,
                num_generations=config.num_generations,
                seed=config.seed,
                attempt=attempt,
                merge=config.merges,
            )
        with meters.timed("reward"):
            new_rewards = reward_fn(model, image_cache, new)
        for index, group, own in zip(unsettled, new, new_rewards, strict=True):
            groups[index], rewards[index] = group, own
        flat = has_no_spread(totals(rewards), config.min_reward_std).tolist()
        unsettled = [index for index in unsettled if flat[index]]
        if not unsettled:
            break
    return groups, rewards


def advantages_of(
    rewards: list[list[Reward]],
    weights: dict[str, float],
    config: GrpoConfig,
    accelerator: Accelerator,
) -> Tensor:
    """Advantages (P, G) float64 of rewarded groups."""
    if config.multi_objective_aggregation == "normalize_then_sum":
        numbers = torch.tensor(list(weights.values()), dtype=torch.float64)
        scores_PG = normalised_parts(
            parts_of(rewards, list(weights)), numbers, min_std=config.min_reward_std
        )
        known = scores_PG[~scores_PG.isnan()]
        count, summed, squares = process.total(
            accelerator, known.numel(), float(known.sum()), float((known**2).sum())
        )
        return batch_advantages(
            scores_PG,
            batch_mean=summed / max(1, count),
            batch_std=pooled_std(count, summed, squares),
        )
    rewards_PG = totals(rewards)
    flat = rewards_PG.flatten().tolist()
    sums = process.total(accelerator, len(flat), sum(flat), sum(v * v for v in flat))
    return group_advantages(
        rewards_PG,
        scale=config.scale_rewards,
        batch_std=pooled_std(*sums),
        min_std=config.min_reward_std,
    )
