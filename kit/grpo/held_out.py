"""What the policy earns on held-out prompts during training."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import GrpoRecord
from kit.grpo.config import GrpoConfig
from kit.grpo.report import record_lengths, record_rewards
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import Task, roll_out, sampling_of
from kit.model.sampler import Sampling
from kit.run.metrics import Meters

EVALUATION = -1  # in place of an attempt: draws that no training step makes


def evaluate(
    model: nn.Module,
    image_cache: ImageCache,
    records: list[GrpoRecord],
    reward_fn: Rewards,
    config: GrpoConfig,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Rewards of held-out prompts, under ``eval/``: of one greedy completion each, or of
    ``num_generations_eval`` sampled ones, whose means are then mean@k, and ``answer/best@k`` how
    well the best of them answers."""
    meters = Meters()
    count = config.num_generations_eval
    sampling = sampling_of(config) if count > 1 else Sampling(config.max_completion_length)
    own = range(accelerator.process_index, len(records), accelerator.num_processes)
    size = max(1, config.per_device_train_batch_size * config.num_generations // count)
    for start in range(0, len(own), size):
        tasks = [Task(index, records[index]) for index in own[start : start + size]]
        with accelerator.autocast():
            groups = roll_out(
                model, image_cache, tasks, sampling, num_generations=count, seed=config.seed,
                attempt=EVALUATION, merge=config.merges,
            )  # fmt: skip
        rewards = reward_fn(model, image_cache, groups)
        record_rewards(meters, rewards, reward_fn.weights)
        record_lengths(meters, groups)
        if count > 1:
            best = [max(reward.parts["answer"] for reward in group) for group in rewards]
            meters.add("answer/best@k", best)
    return {f"eval/{name}": value for name, value in meters.reduce(accelerator).items()}
