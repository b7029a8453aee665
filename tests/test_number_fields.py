"""Every number of every stage's configuration: what is just refused, and what is just taken."""

import dataclasses
from typing import get_args, get_origin, get_type_hints

import pytest

from kit.command import parse
from kit.demo.config import QuickstartConfig
from kit.errors import ConfigError
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.grpo.config import GrpoConfig
from kit.plan.config import PreflightConfig
from kit.report.config import CertifyConfig, CurvesConfig, ReportConfig
from kit.study.config import ChooseConfig, StudyConfig
from kit.train.config import SftConfig

COUNT = ("0", "1")  # at least one
OR_NONE = ("-1", "0")
POSITIVE = ("0.0", "1e-30")
NOT_NEGATIVE = ("-1e-9", "0.0")
BELOW_ONE = ("1.0", "0.0")
WITHIN_ONE = ("1.0", "0.999")
SEED = ("4294967296", "4294967295")

# Of each field: the nearest value that is refused and the nearest that is taken.
TRAINING = {
    "lora_r": COUNT, "lora_alpha": COUNT, "min_pixels": COUNT, "max_pixels": COUNT,
    "per_device_train_batch_size": COUNT, "gradient_accumulation_steps": COUNT,
    "logging_steps": COUNT, "save_total_limit": COUNT, "max_skipped_steps": COUNT,
    "warmup_steps": OR_NONE, "dataloader_num_workers": OR_NONE, "save_steps": OR_NONE,
    "eval_steps": OR_NONE, "learning_rate": POSITIVE, "num_train_epochs": POSITIVE,
    "weight_decay": NOT_NEGATIVE, "max_grad_norm": NOT_NEGATIVE, "lora_dropout": BELOW_ONE,
    "adam_beta1": BELOW_ONE, "adam_beta2": BELOW_ONE, "warmup_ratio": ("1.001", "1.0"),
    "max_steps": ("0", "-1"), "seed": SEED,
}  # fmt: skip
INFERENCE = {
    "per_device_eval_batch_size": COUNT, "max_new_tokens": COUNT, "max_records": COUNT,
    "random_draws": COUNT, "min_pixels": COUNT, "max_pixels": COUNT, "num_shards": COUNT,
    "shard_index": ("1", "0"), "seed": OR_NONE,
}  # fmt: skip
BOUNDARIES = {
    SftConfig: TRAINING | {"questions_per_image": COUNT, "max_length": COUNT},
    GrpoConfig: TRAINING | {
        "max_eval_records": COUNT, "max_completion_length": COUNT, "num_iterations": COUNT,
        "random_draws": COUNT, "num_completions_to_print": COUNT, "num_generations_eval": COUNT,
        "num_generations": ("1", "2"), "delta": ("1.2", "1.21"),
        "temperature": POSITIVE, "top_p": ("1.001", "1.0"), "top_k": OR_NONE,
        "top_entropy_quantile": ("1.001", "1.0"),
        "beta": NOT_NEGATIVE, "epsilon": NOT_NEGATIVE, "epsilon_high": NOT_NEGATIVE,
        "min_reward_std": NOT_NEGATIVE, "importance_sampling_cap": NOT_NEGATIVE,
        "importance_sampling_min": ("2.0", "1.9"), "steps_per_generation": COUNT,
        "stall_steps": ("59", "60"), "changed_images": ("1.001", "1.0"),
    },
    EvaluateConfig: INFERENCE | {"num_samples": OR_NONE, "temperature": POSITIVE},
    CfProxyConfig: INFERENCE,
    ReportConfig: {"cases_per_kind": OR_NONE, "seed": OR_NONE},
    CurvesConfig: {"interval": POSITIVE},
    CertifyConfig: {
        "alpha": WITHIN_ONE, "delta": WITHIN_ONE, "need": WITHIN_ONE, "batch": OR_NONE,
        "calibration_share": ("1.001", "1.0"), "resplits": OR_NONE, "examples": OR_NONE,
        "seed": OR_NONE,
    },
    StudyConfig: {"parallel": COUNT},
    ChooseConfig: {"others": NOT_NEGATIVE, "least_drop": BELOW_ONE, "seed": OR_NONE},
    PreflightConfig: {"num_processes": COUNT, "gpu_memory_gb": POSITIVE},
    QuickstartConfig: {
        "train_images": COUNT, "test_images": COUNT, "sft_epochs": POSITIVE,
        "grpo_records": COUNT, "grpo_steps": COUNT, "seed": OR_NONE,
    },
}  # fmt: skip
FLAGS = {
    SftConfig: ["--data=d"], GrpoConfig: ["--data=d", "--base_model=tiny"],
    EvaluateConfig: ["--data=d", "--output=o", "--base_model=tiny"],
    CfProxyConfig: ["--data=d", "--output=o", "--base_model=tiny"],
    StudyConfig: ["--study=s"], ChooseConfig: ["--data=d", "--output=o"],
    ReportConfig: ["--evaluations", "a=b", "--output=o"], CurvesConfig: ["--runs", "r"],
    CertifyConfig: ["--evaluation=e", "--output=o"],
    PreflightConfig: ["--config=sft"], QuickstartConfig: ["--output_dir=nowhere"],
}  # fmt: skip


def number_fields(config_class) -> dict[str, type]:
    types = get_type_hints(config_class)
    found = {}
    for field in dataclasses.fields(config_class):
        kinds = {types[field.name], *get_args(types[field.name])} & {int, float}
        if kinds and get_origin(types[field.name]) is not list:
            (found[field.name],) = kinds
    return found


def refusal(config_class, name: str, value: str) -> str:
    """What the parser says; empty where the value is taken."""
    try:
        parse(config_class, [*FLAGS[config_class], f"--{name}={value}"])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("config_class", BOUNDARIES)
def test_every_number_has_its_boundary(config_class):
    """A number that a stage gains has none yet."""
    assert number_fields(config_class).keys() == BOUNDARIES[config_class].keys()


@pytest.mark.parametrize("config_class", BOUNDARIES)
def test_numbers_are_refused_beyond_their_boundary_and_taken_up_to_it(config_class):
    wrong = []
    for name, (refused, taken) in BOUNDARIES[config_class].items():
        said = refusal(config_class, name, refused)
        if not all(words in said for words in (name, "fix:")):
            wrong.append((name, refused, said))
        said = refusal(config_class, name, taken)
        if said:
            wrong.append((name, taken, said))
    assert not wrong


@pytest.mark.parametrize("config_class", BOUNDARIES)
def test_what_is_no_such_number_is_refused(config_class):
    """Words, fractions of a count, numbers that are not finite, and far too small ones."""
    wrong = []
    for name, kind in number_fields(config_class).items():
        for value in ("", "many", "1e-4x", *(("1.5",) if kind is int else ("nan", "inf")), "-70"):
            said = refusal(config_class, name, value)
            if name not in said or "fix:" not in said:
                wrong.append((name, value, said))
    assert not wrong
