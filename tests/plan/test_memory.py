"""What the preflight says a step takes, against what torch allocates for it."""

import json
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from helpers import flags_of
from hooks import bytes_of, measure_memory, most_allocated
from ranks import launcher, run
from torch.profiler import ProfilerActivity, profile

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.data.records import read_sft_records
from kit.grpo.config import GrpoConfig
from kit.grpo.rollout import Task, roll_out
from kit.model.decoding import Chooser
from kit.model.families import FAMILIES
from kit.model.load import load_processor
from kit.model.logprobs import LogprobModel
from kit.model.sampler import Sampling
from kit.plan.launches import Plan
from kit.plan.memory import activation_bytes, build_on_meta, estimate, sampling_bytes
from kit.train.config import SftConfig
from kit.train.data import pack_records
from kit.train.optim import parameter_groups
from kit.train.policy import build_model, make_trainable

CASES = {
    "lora": {},
    "lora, few records": {"per_device_train_batch_size": 2},
    "lora, tower too": {"freeze_vision_tower": False},
    "qlora": {"quantization": "nf4"},
    "full": {"finetuning": "full"},
    "checkpointing": {"gradient_checkpointing": True, "per_device_train_batch_size": 16},
    "windows, tower too": {"base_model": "qwen2_5_vl", "freeze_vision_tower": False},
    "deepstack": {"base_model": "qwen3_vl"},
    "deepstack, full": {"base_model": "qwen3_vl", "finetuning": "full"},
}


def allocated(model: torch.nn.Module, batch, entropy: bool) -> int:
    """At the worst moment of the second step: what is there before, and what torch's allocator
    gives out and takes back in it."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.0), lr=1e-4)
    wrapped = LogprobModel(model)

    def step() -> None:
        wrapped(batch, entropy=entropy).logprobs.sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    states = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    kept = [*model.parameters(), *states]
    for parameter in model.parameters():
        if hasattr(parameter, "quant_state"):
            inner = parameter.quant_state
            kept += [inner.absmax, inner.state2.absmax]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return bytes_of(kept) + most_allocated(profiler)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("entropy", [False, True], ids=["sft", "grpo"])
def test_within_a_tenth_of_what_is_allocated(changes, entropy, prepared, base_of_family):
    base = changes.get("base_model", "tiny")
    base = base_of_family(base) if base in FAMILIES else base
    config = SftConfig(**{"data": "-", "output_dir": "-"} | changes | {"base_model": base})
    processor = load_processor(base)
    records = read_sft_records(prepared["train"])[0][: config.per_device_train_batch_size]
    batch = pack_records(
        records, processor, modes=("caption_reason_answer",), merge_size=2, max_length=4096
    )
    real = allocated(build_model(config, Accelerator(cpu=True)), batch, entropy)
    model = build_on_meta(config)
    activations, logits = activation_bytes(model, batch, bf16=False, entropy=entropy)
    found = estimate(model, config, Plan(), bf16=False, activations=activations, logits=logits)
    say("update", found.total, real)
    assert found.total == pytest.approx(real, rel=0.1)
    assert found.logits >= batch.target_ids.numel() * 804 * 4 or changes.get(
        "gradient_checkpointing"
    )


def test_zero_spreads_what_its_stage_says():
    """Over 4 processes, of a model in bfloat16."""
    config = SftConfig(base_model="tiny", data="-", output_dir="-", finetuning="full")
    model = build_on_meta(config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    found = {
        stage: estimate(model, config, Plan(stage, 4), bf16=True, activations=0, logits=0)
        for stage in (0, 1, 2, 3)
    }
    assert found[0].weights == 4 * trained + 2 * frozen
    assert found[0].optimizer == 8 * trained
    assert found[0].gradients == 8 * trained, "DDP's buckets are a second copy"
    alone = estimate(model, config, Plan(), bf16=True, activations=0, logits=0)
    assert alone.gradients == 4 * trained
    assert [found[s].optimizer for s in (1, 2, 3)] == [12 * trained // 4] * 3
    assert found[1].gradients - found[2].gradients == pytest.approx(2 * trained * 3 / 4, abs=4)
    small = sum(p.numel() for p in model.parameters() if p.numel() <= 100_000)
    assert found[3].weights == 2 * (trained + frozen) // 4 + 2 * small, "those stay whole"
    offloaded = Plan(3, 4, offload_optimizer=True, offload_weights=True)
    least = estimate(model, config, offloaded, bf16=True, activations=0, logits=0)
    assert least.weights == least.optimizer == 0


def test_the_reference_of_full_grpo_is_a_second_model():
    config = GrpoConfig(base_model="tiny", data="-", output_dir="-", finetuning="full", beta=0.1)
    model = build_on_meta(config)
    size = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = estimate(model, config, Plan(), bf16=False, activations=0, logits=0)
    assert found.weights == 4 * trained + 4 * (size - trained) + 4 * size
    config.beta = 0.0
    assert estimate(model, config, Plan(), bf16=False, activations=0, logits=0).weights == 4 * size


def say(part: str, told: int, real: int) -> None:
    print(
        f"{part:28} preflight {told / 2**20:8.1f} MiB, {real / 2**20:8.1f}: {told / real - 1:+.1%}"
    )


class AQuarterEnds(Chooser):
    """Of the rows at this token, and no row at another: the worst moment of a rollout, when those
    that go on are copied."""

    at, end_id, calls = 0, 0, 0

    def __call__(self, logits_RV, uniform_R):
        token_R, logprob_R = super().__call__(logits_RV, uniform_R)
        token_R[token_R == self.end_id] = 0
        self.calls += 1
        if self.calls == self.at:
            token_R[: len(token_R) // 4] = self.end_id
        return token_R, logprob_R


@pytest.mark.parametrize("merge", [True, False])
def test_sampling_within_a_tenth(merge, prepared, processor, fresh_model, monkeypatch):
    generations, length = 24, 20
    monkeypatch.setattr("kit.model.sampler.Chooser", AQuarterEnds)
    monkeypatch.setattr(AQuarterEnds, "at", length - 8)
    monkeypatch.setattr(AQuarterEnds, "end_id", processor.end_of_turn_id)
    config = GrpoConfig(
        base_model="tiny", data="-", output_dir="-", num_generations=generations,
        max_completion_length=length, merge_adapter=merge,
    )  # fmt: skip
    model, images = make_trainable(fresh_model, config), ImageCache(processor)
    records = read_grpo_records(prepared["train"])[0][:4]
    tasks = [Task(place, record) for place, record in enumerate(records)]
    for record in records:
        images.prepared(record.image)  # those wait on the CPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        groups = roll_out(
            model, images, tasks, Sampling(length, temperature=1.0),
            num_generations=generations, seed=1, merge=config.merges,
        )  # fmt: skip
    assert sum(c.truncated for group in groups for c in group.completions) == 3 * generations
    on_meta = build_on_meta(config)
    rows = sampling_bytes(on_meta, [len(group.trunk) for group in groups], config, bf16=False)
    told = estimate(
        on_meta, config, Plan(), bf16=False, activations=0, logits=0, sampling=rows
    ).sampling
    real = most_allocated(profiler)
    say("sampling", told, real)
    assert (told > rows) == merge, "the copies"
    assert told == pytest.approx(real, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "finetuning"),
    [("cpu_zero1", "full"), ("cpu_zero2", "full"), ("cpu_zero3", "full"), ("cpu_zero3", "lora")],
)
def test_within_a_tenth_under_zero(launch, finetuning, prepared, tmp_path):
    """On one of two ranks, in its second step. Of what LoRA trains little is spread before ZeRO-3
    spreads what it does not."""
    file = tmp_path / "memory.json"
    settings = {
        "base_model": "tiny", "data": prepared["train"], "output_dir": tmp_path / "run",
        "finetuning": finetuning, "max_steps": 2, "report_to": "none", "save_steps": 0,
    }  # fmt: skip
    command = [*launcher(launch), "launch/train_sft.py", *flags_of(settings)]
    done = run(command, hook=partial(measure_memory, file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    print(launch, finetuning, found, found["told"] / found["real"])
    assert found["told"] == pytest.approx(found["real"], rel=0.1)
