"""Each family through each way of training under each launch: the same step as in one process.

Of the whole table a part, in which each family meets each way and each launch, and each way each
launch; ``FAMILIES=all`` takes all of it.
"""

import itertools
import os

import pytest
from helpers import adapter_of, distance, flags_of, rows
from ranks import launcher, run

from kit.model.families import FAMILIES

LAUNCHES = {"DDP, 2": "cpu", "ZeRO-2, 2": "cpu_zero2", "ZeRO-3, 2": "cpu_zero3"}
WAYS = {
    f"{stage}, {weights}": (stage, changes)
    for stage in ("sft", "grpo")
    for weights, changes in {"lora": {}, "qlora": {"quantization": "nf4"}}.items()
}
PLACES = itertools.product(range(len(WAYS)), range(len(LAUNCHES)), range(len(FAMILIES)))
WHOLE = os.environ.get("FAMILIES") == "all"
CELLS = [
    (list(FAMILIES)[family], list(WAYS)[way], list(LAUNCHES)[launch])
    for way, launch, family in PLACES
    if WHOLE or (way + launch) % len(FAMILIES) == family
]
COMMON = {
    "max_steps": 1, "learning_rate": 1e-4, "warmup_ratio": 0.0, "save_steps": 0, "lora_r": 4,
    "freeze_vision_tower": False, "report_to": "none", "logging_steps": 1, "seed": 5,
}  # fmt: skip
OF_STAGE = {
    "sft": {},
    "grpo": {
        "num_generations": 4, "max_completion_length": 120, "beta": 0.1, "min_reward_std": 0.0,
        "counterfactual": "online", "inpainting": "mean",
        "objectives": "perception=0.5,differential=2,preference=1",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("family", "way", "launch"), CELLS, ids=lambda value: value)
def test_a_step_is_the_same_everywhere(
    family, way, launch, taught_family, prepared, undisturbed, tmp_path
):
    """Loss, gradient norm and what Adam makes of the gradient; in GRPO the completions, the boxes
    that they claim are tried out, and what is said on changed images."""
    stage, changes = WAYS[way]
    settings = COMMON | OF_STAGE[stage] | changes | {"data": prepared["few"]}
    settings["base_model"] = taught_family(family)
    one = undisturbed(stage, settings | {"per_device_train_batch_size": 4})
    settings |= {"per_device_train_batch_size": 2, "output_dir": tmp_path}
    done = run([*launcher(LAUNCHES[launch]), f"launch/train_{stage}.py", *flags_of(settings)])
    assert done.returncode == 0, done.stderr
    apart = distance(adapter_of(one), adapter_of(tmp_path))
    mine, theirs = rows(tmp_path)[0], rows(one)[0]
    print(f"\n| {family} | {way} | {launch} | {theirs['loss']:.6f} | {mine['loss']:.6f} ", end="")
    print(f"| {mine['grad_norm']:.4f} | {apart:.1e} |")
    assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3) != 0
    assert apart < 1e-5
    if stage == "grpo":
        assert "rewards/counterfactual/mean" in mine
        for name in ("perception", "differential"):
            value = theirs[f"objectives/{name}"]
            assert mine[f"objectives/{name}"] == pytest.approx(value, rel=1e-3, abs=1e-6) != 0
        texts = [[r["text"] for r in rows(f, "completions.jsonl")] for f in (one, tmp_path)]
        assert texts[0] == texts[1]
