"""The same training under every launch: one process, DDP, ZeRO-1, 2 and 3."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, adapter_of, flags_of, most_apart, on_cpu, rows
from peft import PeftModel, get_peft_model_state_dict
from ranks import launcher, run
from safetensors.torch import load_file

from kit.command import parse
from kit.errors import ConfigError
from kit.model.load import load_base
from kit.run.deepspeed_settings import fill_auto
from kit.run.zero import optimizer_states
from kit.train.config import SftConfig

LAUNCHES = {
    "one process": (None, 4),
    "DDP, 2": ("cpu", 2),
    "ZeRO-1, 2": ("cpu_zero1", 2),
    "ZeRO-2, 2": ("cpu_zero2", 2),
    "ZeRO-3, 2": ("cpu_zero3", 2),
}
COMMON = {
    "max_steps": 5, "learning_rate": 1e-4, "warmup_ratio": 0.0, "save_steps": 0,
    "report_to": "none", "logging_steps": 1, "seed": 5,
}  # fmt: skip


def command(stage: str, trained, prepared, folder, **changes) -> list[str]:
    if stage == "sft":
        own = {
            "base_model": "tiny", "data": prepared["train"], "freeze_vision_tower": False,
            "lora_r": 4,
        }  # fmt: skip
    else:
        own = {
            "sft_ckpt": trained["sft"], "data": trained["data"], "num_generations": 4,
            "max_completion_length": 24, "beta": 0.1, "counterfactual": "online",
            "inpainting": "mean", "log_completions": False,
        }  # fmt: skip
    settings = COMMON | own | {"output_dir": folder} | changes
    return [f"launch/train_{stage}.py", *flags_of(settings)]


SMALL = ["--per_device_train_batch_size=8", "--gradient_accumulation_steps=1"]


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            {"train_micro_batch_size_per_gpu": 4},
            {},
            "train_micro_batch_size_per_gpu 4, the kit",
        ),
        ({"gradient_accumulation_steps": 2}, {}, "gradient_accumulation_steps 2, the kit gradient"),
        ({"train_batch_size": 64}, {}, "train_batch_size 64"),
        ({"gradient_clipping": 1.0}, {"max_grad_norm": 0.5}, "gradient_clipping 1.0, the kit max"),
        ({"bf16": {"enabled": True}}, {}, "bf16.enabled True, the kit trains in float32"),
        ({"fp16": {"enabled": True}}, {}, "float16 is not supported"),
        ({"optimizer": {"type": "Adam"}}, {}, "its own optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, {}, "its own scheduler"),
    ],
)
def test_contradictions_name_both_keys(settings, changes, message):
    flags = [f"--{name}={value}" for name, value in changes.items()]
    config = parse(
        SftConfig, ["--cfg", str(ROOT / "launch/configs/sft.yaml"), "--data=-", *SMALL, *flags]
    )
    with pytest.raises(ConfigError, match=message) as caught:
        fill_auto(settings, config, processes=2, bf16=False, file="ds_configs/mine.json")
    assert "ds_configs/mine.json" in str(caught.value)
    if "the kit" in message:
        assert "launch/configs/sft.yaml" in str(caught.value)


def test_what_is_left_open_is_filled():
    config = SftConfig(base_model="tiny", data="-", max_grad_norm=0.5)
    settings = {"gradient_clipping": "auto", "train_micro_batch_size_per_gpu": 8}
    fill_auto(settings, config, processes=2, bf16=False, file="-")
    assert settings == {
        "gradient_clipping": 0.5, "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1, "train_batch_size": 16,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_same_training_everywhere(stage, trained, prepared, tmp_path):
    """Parameters after five steps, and loss and gradient norm of each (Adam alone would hide a
    gradient of another scale). Under ZeRO-3 with everything spread, which of the embedded model is
    else small enough to be kept whole. Prints the table."""
    found, logged = {}, {}
    spread = on_cpu(tmp_path, "zero3", stage3_param_persistence_threshold=0)
    for name, (config, size) in (LAUNCHES | {"ZeRO-3, 2": (spread, 2)}).items():
        folder = tmp_path / name.replace(", ", "_")
        sizes = {"per_device_train_batch_size": size}
        done = run([*launcher(config), *command(stage, trained, prepared, folder, **sizes)])
        assert done.returncode == 0, done.stderr
        found[name] = adapter_of(folder)
        logged[name] = [(row["loss"], row["grad_norm"]) for row in rows(folder)]
    one = flat(found["one process"])
    print(f"\n{stage}, 5 steps, float32: distance to one process / length of the parameters; most")
    for name in LAUNCHES:
        distance = (flat(found[name]) - one).norm() / one.norm()
        most = most_apart(found[name], found["one process"])
        print(f"  {name:12} {distance:.1e}  {most:.1e}")
    for name in LAUNCHES:
        assert (flat(found[name]) - one).norm() < 1e-5 * one.norm(), name
        for mine, theirs in zip(logged[name], logged["one process"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5), name


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """(parameters,) float64."""
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "name", "family"),
    [
        ("sft", "zero1", None), ("sft", "zero2_offload", "qwen2_5_vl"),
        ("sft", "zero3_offload", "qwen3_vl"), ("grpo", "zero3", "qwen2_5_vl"),
    ],
)  # fmt: skip
def test_resume_is_the_same_run(stage, name, family, trained, prepared, taught_family, tmp_path):
    """To the last bit: weights, moments, schedule and random generators; with algorithms that would
    be deterministic on a GPU too. GRPO under ZeRO-2 is killed in tests/run/test_faults.py."""
    config = on_cpu(tmp_path, name) if "offload" in name else f"cpu_{name}"
    changes = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-3}
    changes |= {"save_steps": 2, "save_total_limit": 3, "full_determinism": True}
    if family:
        changes |= {"base_model": taught_family(family), "sft_ckpt": None}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run([*launcher(config), *command(stage, trained, prepared, whole, **changes)])
    assert done.returncode == 0, done.stderr
    shutil.copytree(whole / "checkpoint-2", parts / "checkpoint-2")
    changes["resume_from_checkpoint"] = "latest"
    done = run([*launcher(config), *command(stage, trained, prepared, parts, **changes)])
    assert done.returncode == 0, done.stderr
    manifests = [(f / "checkpoint-4" / "manifest.json").read_text() for f in (whole, parts)]
    assert manifests[0] == manifests[1]
    assert most_apart(adapter_of(whole), adapter_of(parts)) == 0


COMPLETIONS = "completions.jsonl"
WAYS = {  # and QLoRA: tests/run/test_families.py
    "full": {"finetuning": "full"},
    "bf16": {"bf16": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_every_way_of_training_under_zero(stage, way, trained, prepared, taught_family, tmp_path):
    """Against one process, after three steps. In bfloat16 DeepSpeed passes the adapter itself in
    8 bits, where one process keeps it in float32; Adam turns the rounding of small gradients into
    whole steps. The yardstick is how far bfloat16 itself leads one process away from float32. In
    GRPO a sampled token that falls otherwise changes its completion, the rewards of its group and
    so the step: there at least nine of ten completions must be the same."""
    launches = {name: LAUNCHES[name] for name in ("one process", "ZeRO-2, 2", "ZeRO-3, 2")}
    if way == "bf16":
        launches["one process, float32"] = (None, 4)
    file = "adapter_model.safetensors"
    changes = WAYS[way] | {"max_steps": 3}
    if stage == "grpo":
        changes["cast_lm_head_to_fp32"] = True
    if way == "full":
        file = "model.safetensors"
        changes |= {"base_model": taught_family("qwen3_vl"), "sft_ckpt": None}
    found = {}
    for name, (config, size) in launches.items():
        folder = tmp_path / name.replace(", ", "_")
        changes["per_device_train_batch_size"] = size
        if way == "bf16":
            changes["bf16"] = "float32" not in name
        done = run([*launcher(config), *command(stage, trained, prepared, folder, **changes)])
        assert done.returncode == 0, done.stderr
        found[name] = flat(load_file(folder / file))
    one = found["one process"]
    print(f"\n{stage}, {way}, 3 steps: distance to one process / length of the parameters")
    apart = {name: float((weights - one).norm() / one.norm()) for name, weights in found.items()}
    for name, distance in apart.items():
        print(f"  {name:20} {distance:.1e}")
    if way == "bf16" and stage == "grpo":
        texts = {
            name: [row["text"] for row in rows(tmp_path / name.replace(", ", "_"), COMPLETIONS)]
            for name in launches
        }
        for name, found_texts in texts.items():
            pairs = zip(found_texts, texts["one process"], strict=True)
            same = sum(a == b for a, b in pairs) / len(found_texts)
            print(f"  {name:20} {same:.0%} of the completions the same")
            assert same >= 0.9 or "float32" in name
        return
    bound = 2 * apart.pop("one process, float32") if way == "bf16" else 1e-5
    assert max(apart.values()) < bound


@pytest.mark.slow
def test_adapters_go_anywhere(prepared, trained, tmp_path):
    """From ZeRO-3 with everything spread: whole, read by plain PEFT, and what GRPO starts from
    under another stage and in one process."""
    spread = on_cpu(tmp_path, "zero3", stage3_param_persistence_threshold=0)
    sft = tmp_path / "sft"
    changes = {"per_device_train_batch_size": 2, "learning_rate": 1e-3}
    done = run([*launcher(spread), *command("sft", trained, prepared, sft, **changes)])
    assert done.returncode == 0, done.stderr
    weights = adapter_of(sft)
    assert all(value.numel() and value.abs().max() > 0 for value in weights.values())
    plain = PeftModel.from_pretrained(load_base("tiny"), sft)
    loaded = get_peft_model_state_dict(plain, save_embedding_layers=False)
    assert loaded.keys() == weights.keys()
    assert most_apart(loaded, weights) == 0
    found = []
    for name, config in (("one", None), ("zero2", "cpu_zero2"), ("zero3", spread)):
        folder = tmp_path / name
        size = {"per_device_train_batch_size": 4 if config is None else 2, "max_steps": 2}
        moved = {"sft": sft, "data": trained["data"]}
        done = run([*launcher(config), *command("grpo", moved, prepared, folder, **size)])
        assert done.returncode == 0, done.stderr
        found.append(flat(adapter_of(folder)))
        assert not torch.equal(found[-1], flat(weights))
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-5 * found[0].norm()


@pytest.mark.slow
def test_ranks_whose_completions_differ_in_length_wait_for_each_other(trained, prepared, tmp_path):
    """Under ZeRO-3 with everything spread, each prompt of a rank answered to its end, and those
    without spread sampled again; as one process does it."""
    spread = on_cpu(tmp_path, "zero3", stage3_param_persistence_threshold=0)
    changes = {"max_completion_length": 160, "dynamic_sampling": True, "max_steps": 3}
    texts, steps = [], []
    for name, config, size in (("one", None, 2), ("two", spread, 1)):
        changes["per_device_train_batch_size"] = size
        folder = tmp_path / name
        done = run([*launcher(config), *command("grpo", trained, prepared, folder, **changes)])
        assert done.returncode == 0, done.stderr
        texts.append([row["text"] for row in rows(folder, COMPLETIONS)])
        steps = rows(folder, COMPLETIONS)
    assert texts[0] == texts[1]
    longest = [
        [max(r["tokens"] for r in steps if r["step"] == step and r["prompt_index"] % 2 == rank)
         for rank in (0, 1)]
        for step in (1, 2, 3)
    ]  # fmt: skip
    assert any(first != second for first, second in longest), longest


def test_an_optimizer_that_counts_its_steps_in_whole_numbers_can_be_saved():
    """As DeepSpeed's own for main memory does, which a file may ask for."""
    model = torch.nn.Linear(2, 2, bias=False)
    inner = torch.optim.AdamW(model.parameters())
    moments = {key: torch.ones(2, 2) for key in ("exp_avg", "exp_avg_sq")}
    inner.state[model.weight] = {"step": 3} | moments
    states = optimizer_states(model, SimpleNamespace(optimizer=inner))
    assert states["weight:step"] == torch.tensor(3.0)
    assert states["weight:step"].dtype == torch.float32
