"""The two sides of the benchmark: a step of GRPO as this kit makes it, and as TRL does."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

MODE = "caption_reason_answer"
PATCHES = 28  # pixels a side of a token
R, ALPHA, BETA, LEARNING_RATE = 16, 32, 0.04, 1e-5


@dataclass(frozen=True)
class Shape:
    """``tokens`` of an image, and how many words the ``question`` has."""

    name: str
    prompts: int = 2
    generations: int = 8
    tokens: int = 256
    length: int = 64
    question: int = 8
    vocabulary: int = 806


def question_of(shape: Shape) -> str:
    return " ".join(["Where is the nodule?", *["there"] * (shape.question - 4)])


def images_of(shape: Shape) -> list[Image.Image]:
    """A different one for each prompt."""
    side = PATCHES * round(shape.tokens**0.5)
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        for _ in range(shape.prompts)
    ]


class Ours:
    """The kit's own functions in the order of ``kit.grpo.grpo.run``."""

    def __init__(self, base: Path, shape: Shape):
        from accelerate import Accelerator

        from kit.grpo.config import GrpoConfig
        from kit.grpo.policy import build_policy
        from kit.model.load import load_processor
        from kit.model.logprobs import LogprobModel
        from kit.train.optim import adamw

        self.shape = shape
        self.config = GrpoConfig(
            base_model=str(base), data="-", output_dir="-", lora_r=R, lora_alpha=ALPHA, beta=BETA,
            per_device_train_batch_size=shape.prompts, num_generations=shape.generations,
            max_completion_length=shape.length, learning_rate=LEARNING_RATE,
        )  # fmt: skip
        self.accelerator = Accelerator(cpu=True)
        self.processor = load_processor(str(base))
        self.processor.__dict__["end_of_turn_id"] = -1  # no completion ends
        self.policy, self.reference = build_policy(self.config, self.accelerator)
        self.wrapped, self.optimizer = self.accelerator.prepare(
            LogprobModel(self.policy), adamw(self.policy, self.config)
        )
        images = images_of(shape)
        self.folder = Path(tempfile.mkdtemp())
        for number, image in enumerate(images):
            image.save(self.folder / f"{number}.png")

    def step(self, number: int) -> dict[str, float]:
        """Seconds of each part."""
        from kit.counterfactual.images import ImageCache
        from kit.data.grpo_records import GrpoRecord
        from kit.grpo import grpo
        from kit.grpo.microbatches import micro_batches, with_fixed_logprobs
        from kit.grpo.rollout import Task, roll_out
        from kit.model.sampler import Sampling
        from kit.run.metrics import Meters

        shape, started = self.shape, time.perf_counter()
        cache = ImageCache(self.processor)
        tasks = [
            Task(
                number * shape.prompts + place,
                GrpoRecord(str(self.folder / f"{place}.png"), question_of(shape), "-"),
            )
            for place in range(shape.prompts)
        ]
        groups = roll_out(
            self.policy, cache, tasks, Sampling(shape.length, temperature=1.0),
            num_generations=shape.generations, seed=0, merge=True,
        )  # fmt: skip
        rolled_out = time.perf_counter()
        advantages = torch.randn(shape.prompts, shape.generations, dtype=torch.float64)
        batches = micro_batches(groups, advantages, self.processor, self.config, self.accelerator)
        batches = with_fixed_logprobs(self.policy, self.reference, batches, self.config)
        grpo.update(self.accelerator, self.wrapped, self.optimizer, batches, self.config, Meters())
        ended = time.perf_counter()
        return {
            "rollout": rolled_out - started,
            "reference and update": ended - rolled_out,
            "step": ended - started,
        }


class Theirs:
    """TRL's trainer, with completions of a forced length."""

    def __init__(self, base: Path, shape: Shape):
        from datasets import Dataset
        from peft import LoraConfig
        from trl import GRPOConfig, GRPOTrainer

        from kit.model.adapters import lora_targets
        from kit.prompting.messages import build_messages

        self.shape, self.turn = shape, None
        self.folder = tempfile.mkdtemp()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        self.processor = plain_processor(base)
        prompt = build_messages(question_of(shape), MODE)
        data = Dataset.from_list(
            [{"prompt": prompt, "image": image} for image in images_of(shape)] * 64
        )
        arguments = GRPOConfig(
            output_dir=self.folder, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
            per_device_train_batch_size=shape.prompts * shape.generations, beta=BETA,
            num_generations=shape.generations, max_completion_length=shape.length,
            learning_rate=LEARNING_RATE, generation_kwargs={"min_new_tokens": shape.length},
            gradient_checkpointing=False, max_steps=100, logging_steps=1000, disable_tqdm=True,
        )  # fmt: skip
        self.trainer = GRPOTrainer(
            model=Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32),
            reward_funcs=lambda completions, **_: np.random.default_rng(0)
            .normal(size=len(completions))
            .tolist(),
            args=arguments,
            train_dataset=data,
            processing_class=self.processor,
            peft_config=LoraConfig(
                r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=lora_targets(True),
                task_type="CAUSAL_LM",
            ),
        )  # fmt: skip

    def train(self, steps: int, turn: Callable[[dict[str, float]], None]) -> None:
        """So many steps; after each, ``turn`` is called with its seconds."""
        from transformers import TrainerCallback

        trainer, seconds = self.trainer, {"rollout": 0.0, "started": 0.0}
        real = trainer._generate_single_turn

        def timed(*args, **kwargs):
            started = time.perf_counter()
            result = real(*args, **kwargs)
            seconds["rollout"] += time.perf_counter() - started
            return result

        class Turns(TrainerCallback):
            def on_step_begin(self, *_, **__):
                seconds["rollout"], seconds["started"] = 0.0, time.perf_counter()

            def on_step_end(self, *_, **__):
                step = time.perf_counter() - seconds["started"]
                rollout = seconds["rollout"]
                turn({"rollout": rollout, "reference and update": step - rollout, "step": step})

        trainer._generate_single_turn = timed
        trainer.args.max_steps = steps
        trainer.add_callback(Turns())
        trainer.train()

    def differences(self, ours: Ours) -> dict[str, float]:
        """How far the two are apart on the same completions and adapter: the largest difference of
        log-probabilities, and of gradients over their length."""
        from kit.model.logprobs import token_logprobs
        from kit.model.sharing import Branch, Tree, pack

        shape, processor = self.shape, ours.processor
        for name, parameter in self.trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        ours.policy.load_state_dict(self.trainer.model.state_dict(), strict=False)
        generator = torch.Generator().manual_seed(1)
        completions = torch.randint(
            300, (shape.prompts * shape.generations, shape.length), generator=generator
        )
        question = processor.encode_question(question_of(shape), MODE)
        trunks = [
            processor.encode_trunk(processor.prepare_image(image), MODE)
            for image in images_of(shape)
        ]
        trunks = [
            dataclasses.replace(t, input_ids=torch.cat([t.input_ids, torch.tensor(question)]))
            for t in trunks
        ]
        groups = completions.unflatten(0, (shape.prompts, shape.generations))
        trees = [
            Tree(trunk, tuple(Branch.of([], ids.tolist()) for ids in group))
            for trunk, group in zip(trunks, groups, strict=True)
        ]
        weights = torch.randn(completions.numel(), generator=generator)
        own = token_logprobs(ours.policy, pack(trees, merge_size=2)).logprobs
        repeated = [trunk for trunk in trunks for _ in range(shape.generations)]
        prompts = torch.stack([trunk.input_ids for trunk in repeated])
        ids = torch.cat([prompts, completions], dim=1)
        theirs, _, _ = self.trainer._get_per_token_logps_and_entropies(
            self.trainer.model,
            ids,
            torch.ones_like(ids),
            shape.length,
            pixel_values=torch.cat([t.pixel_values for t in repeated]),
            image_grid_thw=torch.cat([t.image_grid_thw for t in repeated]),
            num_images=[1] * len(ids),
            mm_token_type_ids=(ids == processor.image_token_id).int(),
        )
        found = [
            _gradients(model, logprobs.flatten() @ weights)
            for model, logprobs in ((ours.policy, own), (self.trainer.model, theirs))
        ]
        apart = sum((a - b).square().sum() for a, b in zip(*found, strict=True)).sqrt()
        length = sum(gradient.square().sum() for gradient in found[1]).sqrt()
        return {
            "logprob_error": float((own - theirs.flatten()).abs().max().detach()),
            "gradient_error": float(apart / length),
        }


def _gradients(model: torch.nn.Module, value: Tensor) -> list[Tensor]:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained.sort(key=lambda pair: pair[0])
    return list(torch.autograd.grad(value, [parameter for _, parameter in trained]))


def plain_processor(base: Path):
    """Transformers' processor without the part for videos, which needs torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class PlainProcessor(Qwen2VLProcessor):
        attributes = ("image_processor", "tokenizer")

        def __init__(self, image_processor=None, tokenizer=None, **kwargs):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, **kwargs)

    tokenizer = AutoTokenizer.from_pretrained(base)
    return PlainProcessor(
        AutoImageProcessor.from_pretrained(base), tokenizer, chat_template=tokenizer.chat_template
    )
