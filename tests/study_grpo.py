"""Does GRPO learn, and does its counterfactual reward make answers rest on their evidence?

    python tests/study_grpo.py --work runs/study

Fine-tunes the embedded model on phantoms, then runs GRPO on others twice from there with the same
seeds, with the counterfactual reward (weight 0.2, online) and without (weight 0). On phantoms that
neither was trained on it compares mean total rewards (the full one, measured for all three models
alike) and the gaps between flips of answers, each with a 95% interval over images. Prints a
table and writes ``study.json``. Not a test: it takes an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.demo.quickstart import shipped
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import write_json
from kit.grpo.grpo import train as train_grpo
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import MODE, Task, roll_out
from kit.model.adapters import load_adapter
from kit.model.load import load_base, load_processor
from kit.model.sampler import Sampling
from kit.report.statistics import mean_interval
from kit.train.config import GrpoConfig, SftConfig
from kit.train.sft import train as train_sft

LEAST_DROP = 0.05  # in the probability of the gold answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="runs/study", help="folder for everything")
    parser.add_argument("--steps", type=int, default=120, help="steps of GRPO")
    parser.add_argument("--lr", type=float, default=5e-4, help="of GRPO")
    parser.add_argument("--batch_size", type=int, default=16, help="prompts a step of GRPO")
    parser.add_argument("--beta", type=float, default=0.02, help="of GRPO")
    parser.add_argument(
        "--questions", choices=["all", "evidence"], default="all",
        help="all: train on those whose answer measurably rests on its evidence and as many "
        "others, test on all; evidence: train on the first alone, test on those that have any",
    )  # fmt: skip
    parser.add_argument("--sft_epochs", type=float, default=1, help="few leave room to improve")
    parser.add_argument("--train_images", type=int, default=600, help="of GRPO")
    parser.add_argument("--test_images", type=int, default=120)
    parser.add_argument("--samples", type=int, default=4, help="completions a held-out prompt")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    work = Path(settings.work)
    train_data, test_data = prepare_phantoms(work, settings)
    sft = work / "sft"
    if not (sft / "adapter_model.safetensors").exists():
        flags = {"data": train_data, "output_dir": sft, "num_train_epochs": settings.sft_epochs}
        train_sft(shipped(SftConfig, "sft_tiny.yaml", flags))
    prompts = work / "grpo.jsonl"
    if not prompts.exists():
        choose_prompts(work, sft, prompts, settings.questions)
    models = {"sft": sft}
    for name, weights in (("with", "0.2,0.4,0.2,0.2"), ("without", "0.2,0.4,0.2,0")):
        models[name] = work / f"grpo_{name}"
        if not (models[name] / "adapter_model.safetensors").exists():
            flags = {
                "sft_ckpt": sft, "data": prompts,
                "output_dir": models[name], "max_steps": settings.steps, "lr": settings.lr,
                "batch_size": settings.batch_size, "beta": settings.beta,
                "weights": weights, "seed": settings.seed, "log_completions": False,
            }  # fmt: skip
            train_grpo(shipped(GrpoConfig, "grpo_tiny.yaml", flags))
    found = {
        name: measure(folder, test_data, work / f"evaluate_{name}", settings)
        for name, folder in models.items()
    }
    study = {"settings": vars(settings), "comparisons": compare(found)}
    study["metrics"] = {name: one["metrics"] for name, one in found.items()}
    write_json(work / "study.json", study)
    for row in study["comparisons"]:
        print(f"{row['what']}: {row['mean']:+.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]")


def prepare_phantoms(work: Path, settings) -> tuple[Path, Path]:
    """Training and test records, on images that are disjoint."""
    if not (work / "SLAKE").exists():
        images = {"train": 240, "validate": settings.train_images, "test": settings.test_images}
        write_slake_phantoms(work / "SLAKE", images=images, seed=settings.seed)
    for split in ("train", "validate", "test"):
        prepare(
            PrepareConfig(
                output=str(work / f"{split}.json"), dataset="SLAKE", split=split,
                slake_root=str(work / "SLAKE"),
            )
        )  # fmt: skip
    test = work / "test.json"
    if settings.questions == "evidence":
        lines = test.read_text(encoding="utf-8").splitlines(keepends=True)
        test = work / "test_evidence.json"
        kept = [line for line in lines if json.loads(line)["regions"]]
        test.write_text("".join(kept), encoding="utf-8")
    return work / "train.json", test


def choose_prompts(work: Path, sft: Path, output: Path, questions: str) -> None:
    """Of the GRPO images, the questions whose answer measurably rests on its evidence, as
    cf_proxy finds them, and of the others none or as many."""
    proxy = work / "proxy.jsonl"
    cf_proxy(
        CfProxyConfig(
            data=str(work / "validate.json"), output=str(proxy), adapter=str(sft),
            per_device_eval_batch_size=48, max_new_tokens=160,
        )
    )  # fmt: skip
    lines = proxy.read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    rests = [rests_on_evidence(json.loads(line)) for line in lines]
    chosen = [line for line, yes in zip(lines, rests, strict=True) if yes]
    others = [line for line, yes in zip(lines, rests, strict=True) if not yes]
    if questions == "all":
        chosen += others[: len(chosen)]
    output.write_text("".join(chosen), encoding="utf-8")


def rests_on_evidence(row: dict) -> bool:
    if row["delta_cf_roi"] is None or row["delta_cf_rand"] is None:
        return False
    return row["delta_cf_roi"] - max(0.0, row["delta_cf_rand"]) > LEAST_DROP


@torch.no_grad()
def measure(adapter: Path, data: Path, output: Path, settings) -> dict:
    """Rewards of sampled completions by record, and the evaluation with its flips."""
    evaluate(
        EvaluateConfig(
            adapter=str(adapter), data=str(data), output=str(output), counterfactual=True,
            prompting_mode=MODE, per_device_eval_batch_size=48, max_new_tokens=160,
        )
    )  # fmt: skip
    metrics = json.loads((output / "metrics.json").read_text())
    rows = [json.loads(line) for line in (output / "predictions.jsonl").open()]
    records, _ = read_grpo_records(data)
    processor = load_processor("tiny")
    model = load_adapter(load_base("tiny"), adapter).eval()
    judge = Rewards(GrpoConfig(base_model="tiny", data="-", counterfactual="online"), "cpu")
    sampling = Sampling(max_new_tokens=160, temperature=1.0)
    rewards = []
    for start in range(0, len(records), 16):
        tasks = [Task(start + i, r) for i, r in enumerate(records[start : start + 16])]
        image_cache = ImageCache(processor)
        groups = roll_out(
            model, image_cache, tasks, sampling, num_generations=settings.samples, seed=99
        )
        for group in judge(model, image_cache, groups):
            rewards.append(sum(reward.total for reward in group) / len(group))
    return {
        "metrics": metrics,
        "rewards": rewards,
        "rows": rows,
        "images": [r.image for r in records],
    }


def compare(found: dict[str, dict]) -> list[dict]:
    """Paired differences with their intervals."""
    images = found["sft"]["images"]
    result = []
    for name in ("with", "without"):
        pairs = zip(found[name]["rewards"], found["sft"]["rewards"], strict=True)
        what = f"total reward, GRPO {name} counterfactual reward - SFT"
        result.append(difference(what, [a - b for a, b in pairs], images))
    for source in ("gold", "claimed"):
        for one, other in (("with", "without"), ("with", "sft"), ("without", "sft")):
            values, groups = [], []
            for mine, theirs in zip(found[one]["rows"], found[other]["rows"], strict=True):
                gaps = [row["flips"].get(source) for row in (mine, theirs)]
                if all(gaps):
                    values.append(
                        gaps[0]["roi"] - gaps[0]["random"] - gaps[1]["roi"] + gaps[1]["random"]
                    )
                    groups.append(mine["image"])
            what = f"flip gap of {source} boxes, {one} - {other}"
            result.append(difference(what, values, groups))
    return result


def difference(what: str, values: list[float], images: list[str]) -> dict:
    low, high = mean_interval(values, images, (-1.0, 1.0))
    mean = sum(values) / len(values)
    return {"what": what, "mean": mean, "low": low, "high": high, "n": len(values)}


if __name__ == "__main__":
    main()
