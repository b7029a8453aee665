"""A step of SFT as this kit makes it, and as TRL's SFTTrainer does."""

from __future__ import annotations

from kit.data.images import open_image
from kit.demo.bench import peer
from kit.demo.bench.cases import ALPHA, LEARNING_RATE, MODE, Case, R
from kit.demo.bench.machine import now
from kit.model.load import load_processor
from kit.model.logprobs import LogprobModel, token_logprobs
from kit.model.processor import END_OF_TURN
from kit.model.sharing import PackedBatch
from kit.train.config import SftConfig
from kit.train.data import pack_records
from kit.train.optim import adamw
from kit.train.policy import build_model
from kit.train.sft import sft_loss, update


class Ours:
    """The kit's own functions in the order of ``kit.train.sft.run``."""

    def __init__(self, case: Case):
        self.case = case
        self.config = SftConfig(
            base_model=case.base, data="-", output_dir="-", lora_r=R, lora_alpha=ALPHA,
            per_device_train_batch_size=case.shape.images * case.shape.each,
            learning_rate=LEARNING_RATE, bf16=case.half,
            gradient_checkpointing=case.shape.checkpointing,
        )  # fmt: skip
        self.accelerator = case.accelerator()
        self.processor = load_processor(case.base)
        self.policy = build_model(self.config, self.accelerator)
        self.wrapped, self.optimizer = self.accelerator.prepare(
            LogprobModel(self.policy), adamw(self.policy, self.config)
        )
        self.batches: list[PackedBatch] = []  # of the last update

    def batch(self, number: int) -> PackedBatch:
        return pack_records(
            self.case.records(number),
            self.processor,
            modes=(MODE,),
            merge_size=self.processor.image_processor.merge_size,
            max_length=self.config.max_length,
        )

    def step(self, number: int) -> dict[str, float]:
        """Seconds of a step, reading and preparing its images included."""
        started = now(self.case.device)
        self.batches = [self.batch(number)]
        update(self.accelerator, self.wrapped, self.optimizer, self.batches, self.config)
        return {"step": now(self.case.device) - started}


class Theirs:
    """TRL's trainer, whose rows each hold an image and a question, supervised on the answer."""

    def __init__(self, case: Case):
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        self.case = case
        processor = load_processor(case.base)
        rows = []
        for number in range(case.rounds):
            for record in case.records(number):
                # as text: of a chat, TRL would also supervise the line break after the turn
                prompt = processor.prompt_text(record.question, MODE)
                row = {"prompt": prompt, "completion": record.output + END_OF_TURN}
                rows.append(row | {"images": [open_image(record.image)]})
        config = SFTConfig(
            **peer.arguments(case), max_length=None, completion_only_loss=True,
            per_device_train_batch_size=case.shape.images * case.shape.each,
            train_sampling_strategy="sequential",
        )  # fmt: skip
        self.trainer = SFTTrainer(
            model=case.plain_model(),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=peer.plain_processor(case.base),
            peft_config=peer.lora(),
        )

    def run(self, steps: int, turn: peer.Turn) -> None:
        """So many steps; after each, ``turn`` is called with its seconds."""
        peer.run(self.trainer, steps, peer.Turns(self.case.device, turn))

    def differences(self, ours: Ours) -> dict[str, float]:
        """How far the losses of one batch are apart, over the loss, and their gradients, over their
        length. Both are means over the same supervised tokens."""
        trainer = self.trainer
        peer.same_adapters(ours.policy, trainer.model)
        batch = ours.batch(0).to(self.case.device)
        own = sft_loss(token_logprobs(ours.policy, batch).logprobs, len(batch.target_ids))
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        supervised = inputs["labels"][inputs["labels"] != -100]
        theirs = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=len(supervised))
        return {
            "tokens_differing": int((supervised != batch.target_ids).sum()),
            "loss_error": float(((own - theirs).abs() / theirs).detach()),
            "gradient_error": peer.gradient_error((ours.policy, own), (trainer.model, theirs)),
        }
