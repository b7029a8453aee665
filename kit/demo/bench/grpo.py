"""A step of GRPO as this kit makes it, and as TRL does; without rewards, which are drawn."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import GrpoRecord
from kit.data.images import open_image
from kit.demo.bench import peer
from kit.demo.bench.cases import ALPHA, BETA, LEARNING_RATE, MODE, Case, R
from kit.demo.bench.machine import now
from kit.grpo.config import GrpoConfig
from kit.grpo.microbatches import micro_batches, with_fixed_logprobs
from kit.grpo.policy import build_policy
from kit.grpo.rollout import Task, roll_out
from kit.grpo.updates import update
from kit.model.load import load_processor
from kit.model.logprobs import LogprobModel, token_logprobs
from kit.model.processor import Processor
from kit.model.sampler import Sampling, question_prompt
from kit.model.sharing import Branch, PackedBatch, Tree, Trunk, pack
from kit.prompting.messages import build_messages
from kit.run.metrics import Meters
from kit.train.optim import adamw

MOST_ROWS = 16  # of TRL's passes with gradients; more of them a step are accumulated


class Ours:
    """The kit's own functions in the order of ``kit.grpo.grpo.run``."""

    def __init__(self, case: Case):
        shape, self.case = case.shape, case
        self.config = GrpoConfig(
            base_model=case.base, data="-", output_dir="-", lora_r=R, lora_alpha=ALPHA, beta=BETA,
            per_device_train_batch_size=shape.images, num_generations=shape.each,
            max_completion_length=shape.length, learning_rate=LEARNING_RATE, bf16=case.half,
        )  # fmt: skip
        self.accelerator = case.accelerator()
        self.processor = load_processor(case.base)
        self.processor.__dict__["end_of_turn_id"] = -1  # no completion ends
        self.policy, self.reference = build_policy(self.config, self.accelerator)
        self.wrapped, self.optimizer = self.accelerator.prepare(
            LogprobModel(self.policy), adamw(self.policy, self.config)
        )
        self.batches: list[PackedBatch] = []  # of the last update

    def step(self, number: int) -> dict[str, float]:
        """Seconds of each part."""
        shape, device, times = self.case.shape, self.case.device, [now(self.case.device)]
        cache = ImageCache(self.processor)
        tasks = [
            Task(number * shape.images + place, GrpoRecord(path, self.case.question, "-"))
            for place, path in enumerate(self.case.paths[number % self.case.rounds])
        ]
        groups = roll_out(
            self.policy, cache, tasks, Sampling(shape.length, temperature=1.0),
            num_generations=shape.each, seed=0, merge=True,
        )  # fmt: skip
        times.append(now(device))
        advantages = torch.randn(shape.images, shape.each, dtype=torch.float64)
        batches = micro_batches(groups, advantages, self.processor, self.config, self.accelerator)
        batches = with_fixed_logprobs(
            self.policy, self.reference, batches, self.config, self.accelerator
        )
        times.append(now(device))
        update(self.accelerator, self.wrapped, self.optimizer, batches, self.config, Meters())
        times.append(now(device))
        self.batches = [part.batch for part in batches]
        return _parts(*(after - before for before, after in itertools.pairwise(times)))

    def trunks(self) -> list[Trunk]:
        """The prompts of the first round."""
        return [whole_prompt(self.processor, path, self.case) for path in self.case.paths[0]]


def whole_prompt(processor: Processor, path: str, case: Case) -> Trunk:
    """An image with the question after it."""
    image = processor.prepare_image(open_image(path))
    prompt = question_prompt(processor, image, [case.question], MODE)
    question = torch.tensor(prompt.continuations[0])
    return dataclasses.replace(
        prompt.trunk, input_ids=torch.cat([prompt.trunk.input_ids, question])
    )


def _parts(rollout: float, reference: float, update: float) -> dict[str, float]:
    both = reference + update
    return {
        "rollout": rollout, "reference": reference, "update": update,
        "reference and update": both, "step": rollout + both,
    }  # fmt: skip


class Theirs:
    """TRL's trainer, with completions of a forced length."""

    def __init__(self, case: Case):
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        shape, self.case = case.shape, case
        prompt = build_messages(case.question, MODE)
        rows = [
            {"prompt": prompt, "image": open_image(path)} for paths in case.paths for path in paths
        ]
        n_rows = shape.images * shape.each
        parts = -(-n_rows // MOST_ROWS)
        while n_rows % parts:
            parts += 1
        config = GRPOConfig(
            **peer.arguments(case), beta=BETA, per_device_train_batch_size=n_rows // parts,
            gradient_accumulation_steps=parts, num_generations=shape.each,
            max_completion_length=shape.length,
            generation_kwargs={"min_new_tokens": shape.length},
        )  # fmt: skip
        self.trainer = GRPOTrainer(
            model=case.plain_model(),
            reward_funcs=lambda completions, **_: (
                np.random.default_rng(0).normal(size=len(completions)).tolist()
            ),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=peer.plain_processor(case.base),
            peft_config=peer.lora(),
        )

    def run(self, steps: int, turn: peer.Turn) -> None:
        """So many steps; after each, ``turn`` is called with its seconds."""

        def told(seconds: dict[str, float]) -> None:
            scored, rollout = seconds["scored"], seconds["rollout"]
            turn(_parts(rollout, scored - rollout, seconds["step"] - scored))

        turns = peer.Turns(self.case.device, told)
        turns.timed(self.trainer, "_generate_single_turn", "rollout")
        turns.timed(self.trainer, "_generate_and_score_completions", "scored")
        peer.run(self.trainer, steps, turns)

    def differences(self, ours: Ours) -> dict[str, float]:
        """How far the two are apart on the same completions and adapter: the largest difference of
        log-probabilities, and of gradients over their length."""
        shape, model = self.case.shape, self.trainer.model
        peer.same_adapters(ours.policy, model)
        generator = torch.Generator().manual_seed(1)
        completions = torch.randint(
            300, (shape.images, shape.each, shape.length), generator=generator
        )
        weights = torch.randn(completions.numel(), generator=generator).to(self.case.device)
        trunks = ours.trunks()
        trees = [
            Tree(trunk, tuple(Branch.of([], ids.tolist()) for ids in group))
            for trunk, group in zip(trunks, completions, strict=True)
        ]
        batch = pack(trees, merge_size=ours.processor.image_processor.merge_size)
        own = token_logprobs(ours.policy, batch.to(self.case.device)).logprobs
        repeated = [trunk for trunk in trunks for _ in range(shape.each)]
        prompts = torch.stack([trunk.input_ids for trunk in repeated])
        ids = torch.cat([prompts, completions.flatten(0, 1)], dim=1).to(self.case.device)
        theirs, _, _ = self.trainer._get_per_token_logps_and_entropies(
            model,
            ids,
            torch.ones_like(ids),
            shape.length,
            pixel_values=torch.cat([t.pixel_values for t in repeated]).to(ids.device),
            image_grid_thw=torch.cat([t.image_grid_thw for t in repeated]).to(ids.device),
            num_images=[1] * len(ids),
            mm_token_type_ids=(ids == ours.processor.image_token_id).int(),
        )
        theirs = theirs.flatten()
        return {
            "logprob_error": float((own - theirs).abs().max().detach()),
            "gradient_error": peer.gradient_error(
                (ours.policy, own @ weights), (model, theirs @ weights)
            ),
        }
