"""Greedy answers to the questions of images, as this kit's evaluation asks for them and as a loop
of transformers' ``generate`` does: every row with its image and question, padded on the left."""

from __future__ import annotations

import torch
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.data.images import open_image
from kit.demo.bench import peer
from kit.demo.bench.cases import ALPHA, MODE, Case, R
from kit.demo.bench.machine import now
from kit.evaluate.answering import A_BATCH, Predictor, answer, plan
from kit.model.adapters import add_lora
from kit.model.load import load_base, load_processor
from kit.model.merged import is_float32, sampling_weights

ROWS = A_BATCH  # answers that either decodes together


def adapted(model: nn.Module) -> nn.Module:
    """With the adapter of both sides, which changes something."""
    model = add_lora(model, r=R, alpha=ALPHA, dropout=0.0, freeze_vision_tower=True)
    generator = torch.Generator().manual_seed(2)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.copy_(noise)
    return model.eval()


class Ours:
    """The kit's own functions in the order of ``kit.evaluate.evaluation``."""

    def __init__(self, case: Case):
        self.case = case
        self.processor = load_processor(case.base)
        self.processor.__dict__["end_of_turn_id"] = -1  # no answer ends
        self.model = adapted(load_base(case.base, dtype=case.dtype, device=case.device))
        if not case.half:
            self.model = self.model.merge_and_unload()

    def answers(self, number: int) -> list[list[int]]:
        """Tokens of the answers to the questions of a round."""
        records = self.case.records(number)
        cache = ImageCache(self.processor)
        predictor = Predictor(self.model, cache, self.case.shape.length, ROWS)
        found = {}
        with sampling_weights(self.model, merge=is_float32(self.model)):
            for batch in plan(records, (MODE,), ROWS):
                for index, _, completion in answer(predictor, records, batch):
                    found[index] = list(completion.token_ids)
        return [found[index] for index in range(len(records))]

    def step(self, number: int) -> dict[str, float]:
        """Seconds of a round, reading and preparing its images included."""
        started = now(self.case.device)
        self.answers(number)
        return {"answers": now(self.case.device) - started}


class Theirs:
    """``generate``, so many rows at once, of a plain model with the adapter merged into it."""

    def __init__(self, case: Case, rows: int):
        self.case, self.rows = case, rows
        self.model = adapted(case.plain_model()).merge_and_unload()
        self.model.generation_config.eos_token_id = None  # no answer ends
        self.processor = peer.plain_processor(case.base)
        self.ours = load_processor(case.base)  # for the same prompts
        self.ours.__dict__["end_of_turn_id"] = -1

    @torch.inference_mode()
    def answers(self, number: int) -> list[list[int]]:
        records, found = self.case.records(number), []
        for start in range(0, len(records), self.rows):
            part = records[start : start + self.rows]
            inputs = self.processor(
                text=[self.ours.prompt_text(r.question, MODE) for r in part],
                images=[open_image(record.image) for record in part],
                padding=True,
                padding_side="left",
                return_tensors="pt",
            ).to(self.case.device)
            ids = self.model.generate(
                **inputs,
                max_new_tokens=self.case.shape.length,
                do_sample=False,
                suppress_tokens=self.ours.unsampled_ids,
            )
            found += ids[:, inputs["input_ids"].shape[1] :].tolist()
        return found

    def run(self, steps: int, turn: peer.Turn) -> None:
        """So many rounds; after each, ``turn`` is called with its seconds."""
        for number in range(steps):
            started = now(self.case.device)
            self.answers(number)
            turn({"answers": now(self.case.device) - started})

    def differences(self, ours: Ours) -> dict[str, float]:
        """How many tokens of the first round differ."""
        pairs = zip(self.answers(0), ours.answers(0), strict=True)
        return {"tokens_differing": sum(a != b for x in pairs for a, b in zip(*x, strict=True))}
