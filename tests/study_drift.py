"""How far the sampler is from the trainer in log-probabilities, by precision and what is merged.

    python tests/study_drift.py --base tiny --prompts 4

Answers phantoms with an adapter as large as a trained one (``lora_B`` of a standard deviation of
0.02), scores the same tokens as an update does, and prints a table: mean and largest difference,
the mean importance weight, and the share of tokens whose weight a cap of 2 cuts. ``--base 7m`` is
the model of ``launch/benchmark.py``; with ``--vocabulary 151936`` its head is as long as the 2B
model's. Runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from faults.kill import make_data
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.demo.bench.benchmark import write_base
from kit.grpo.config import GrpoConfig
from kit.grpo.losses import importance_weights
from kit.grpo.microbatches import micro_batches, with_fixed_logprobs
from kit.grpo.policy import build_policy
from kit.grpo.rollout import Task, roll_out
from kit.model.load import load_processor
from kit.model.sampler import Sampling
from kit.run import process

CAP = GrpoConfig.importance_sampling_cap
# name: bf16, quantization, merged, head in float32
WAYS = {
    "float32": (False, "none", False, False),
    "float32, merged": (False, "none", True, False),
    "bf16": (True, "none", False, False),
    "bf16, merged": (True, "none", True, False),
    "bf16, float32 head": (True, "none", False, True),
    "bf16, merged, float32 head": (True, "none", True, True),
    "nf4 in float32": (False, "nf4", False, False),
    "nf4 in float32, merged": (False, "nf4", True, False),
    "nf4 in bf16": (True, "nf4", False, False),
    "nf4 in bf16, merged": (True, "nf4", True, False),
}


def drift(base: str, data: Path, way: str, prompts: int) -> dict[str, float]:
    bf16, quantization, merge, wide_head = WAYS[way]
    AcceleratorState._reset_state(reset_partial_state=True)
    config = GrpoConfig(
        base_model=base, data=str(data), output_dir="-", beta=0.0, num_iterations=2, bf16=bf16,
        quantization=quantization, cast_lm_head_to_fp32=wide_head, num_generations=8,
        per_device_train_batch_size=prompts, max_completion_length=64,
    )  # fmt: skip
    accelerator = process.join(mixed_precision="bf16" if bf16 else "no")
    processor = load_processor(base)
    policy, _ = build_policy(config, accelerator)
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    tasks = [Task(n, record) for n, record in enumerate(read_grpo_records(data)[0][:prompts])]
    with accelerator.autocast():
        groups = roll_out(
            policy, ImageCache(processor), tasks, Sampling(64, temperature=1.0),
            num_generations=8, seed=0, merge=merge,
        )  # fmt: skip
        parts = micro_batches(groups, torch.ones(prompts, 8), processor, config, accelerator)
        (part,) = with_fixed_logprobs(policy, None, parts, config, accelerator)
    apart_K = (part.sampled - part.old).abs()
    weights_K = importance_weights(part.old, part.sampled, float("inf"))
    return {
        "tokens": len(apart_K),
        "mean": float(apart_K.mean()),
        "largest": float(apart_K.max()),
        "weight": float(weights_K.mean()),
        "cut": float((weights_K > CAP).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny", help="tiny, 7m, or a folder")
    parser.add_argument("--vocabulary", type=int, default=806, help="of 7m")
    parser.add_argument("--prompts", type=int, default=4)
    told = parser.parse_args()
    print(f"| {told.base} | tokens | mean | largest | mean weight | over {CAP:g} |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data, _, _ = make_data(Path(folder) / "phantoms")
        base = told.base
        if base == "7m":
            base = str(Path(folder) / "base")
            write_base(Path(base), told.vocabulary)
        for way in WAYS:
            found = drift(base, data, way, told.prompts)
            numbers = "{tokens} | {mean:.1e} | {largest:.1e} | {weight:.5f} | {cut:.2%}"
            print(f"| {way} | {numbers.format(**found)} |", flush=True)
            gc.collect()
    PartialState._reset_state()


if __name__ == "__main__":
    main()
