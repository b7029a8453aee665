"""Does GRPO learn, and what of its reward makes it learn?

    python tests/study_grpo.py --work runs/study --seeds 0 1 2 --variants before after

Fine-tunes the embedded model on phantoms, then runs GRPO on others from there: once for each seed
and variant. ``after`` is the reward as it is shipped; ``before`` counts every difference as a
spread, pays the counterfactual part for wrong answers too and takes the KL penalty's gradient the
other way; ``without`` has no counterfactual part. All models, SFT too, are then measured alike on
phantoms that none was trained on: reward of sampled completions and its parts, greedy exact match,
and gaps between flips of answers, with intervals over images (over the seeds together;
each seed beside). Writes ``study.json`` and ``study.md``. What is done is kept: the same command
goes on. Not a test: a seed of a variant takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.demo.quickstart import shipped
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import atomic_write, iter_json_lines, write_json, write_jsonl
from kit.grpo.config import GrpoConfig
from kit.grpo.grpo import train as train_grpo
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import MODE, Task, roll_out
from kit.grpo.terms import DOCUMENTED as COMPONENTS
from kit.grpo.terms import parse_weights
from kit.model.adapters import load_adapter
from kit.model.load import load_base, load_processor
from kit.model.sampler import Sampling
from kit.report.statistics import mean_interval
from kit.run import checkpoint
from kit.scoring.faithfulness import group_rewards
from kit.train.config import SftConfig
from kit.train.sft import train as train_sft

LEAST_DROP = 0.05  # in the probability of the gold answer
SPREAD = 0.02  # the shipped min_reward_std, by which the groups of every variant are counted
VARIANTS: dict[str, dict[str, object]] = {
    "before": {
        "min_reward_std": 0, "use_bias_correction_kl": "false", "counterfactual_answers": "given",
    },
    "after": {},
    "without": {"weights": "0.2,0.4,0.2,0"},
}  # fmt: skip
MEASURES = (
    "total", "exact", *COMPONENTS, "counterfactual of any answer", "flip gap, gold boxes",
    "flip gap, claimed boxes",
)  # fmt: skip
Row = dict[str, object]  # of one held-out record: its image, and a number or None by measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="runs/study", help="folder for everything")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of GRPO")
    parser.add_argument(
        "--variants", nargs="+", choices=[*VARIANTS], default=["before", "after"], help="of GRPO"
    )
    parser.add_argument("--steps", type=int, default=120, help="of GRPO")
    parser.add_argument("--lr", type=float, default=5e-4, help="of GRPO")
    parser.add_argument("--batch_size", type=int, default=16, help="prompts a step of GRPO")
    parser.add_argument("--beta", type=float, default=0.02, help="of GRPO")
    parser.add_argument(
        "--questions", choices=["all", "evidence"], default="all",
        help="all: train on those whose answer measurably rests on its evidence and as many "
        "others, test on all; evidence: train on the first alone, test on those that have any",
    )  # fmt: skip
    parser.add_argument("--sft_epochs", type=float, default=1, help="few leave room to improve")
    parser.add_argument("--sft_images", type=int, default=240)
    parser.add_argument("--train_images", type=int, default=600, help="of GRPO")
    parser.add_argument("--test_images", type=int, default=120)
    parser.add_argument("--samples", type=int, default=4, help="completions a held-out prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms and of SFT")
    settings = parser.parse_args()
    work = Path(settings.work)
    test_data = prepare_phantoms(work, settings)
    sft, prompts = work / "sft", work / "grpo.jsonl"
    if not (sft / "adapter_model.safetensors").exists():
        flags = {"data": work / "train.json", "output_dir": sft, "seed": settings.seed}
        flags["num_train_epochs"] = settings.sft_epochs
        train_sft(shipped(SftConfig, "sft_tiny.yaml", flags))
    if not prompts.exists():
        choose_prompts(work, sft, prompts, settings.questions)
    found = {"sft": {0: measure(sft, test_data, settings)}}
    spreads = {}
    for name in settings.variants:
        found[name], spreads[name] = {}, {}
        for seed in settings.seeds:
            folder = work / f"grpo_{name}_{seed}"
            if not (folder / "adapter_model.safetensors").exists():
                flags = {
                    "sft_ckpt": sft, "data": prompts, "output_dir": folder, "seed": seed,
                    "max_steps": settings.steps, "lr": settings.lr, "beta": settings.beta,
                    "batch_size": settings.batch_size, "log_completions": "false",
                    **VARIANTS[name],
                }  # fmt: skip
                if checkpoint.checkpoints(folder):
                    flags["resume_from_checkpoint"] = "latest"
                train_grpo(shipped(GrpoConfig, "grpo_tiny.yaml", flags))
            found[name][seed] = measure(folder, test_data, settings)
            spreads[name][seed] = without_spread(folder)
    study = {
        "settings": vars(settings),
        "groups_without_spread": spreads,
        "models": {name: summary(by_seed) for name, by_seed in found.items()},
        "differences": differences(found),
    }
    write_json(work / "study.json", study)
    text = as_markdown(study)
    with atomic_write(work / "study.md") as stream:
        stream.write(text)
    print(text)


def prepare_phantoms(work: Path, settings) -> Path:
    """The data of all stages, on images that are disjoint; the test records."""
    if not (work / "SLAKE").exists():
        images = {"train": settings.sft_images, "validate": settings.train_images}
        images["test"] = settings.test_images
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
        kept = [row for _, row in iter_json_lines(test) if row["regions"]]
        test = work / "test_evidence.json"
        write_jsonl(test, kept)
    return test


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
    rows = [row for _, row in iter_json_lines(proxy)]
    random.Random(0).shuffle(rows)
    chosen = [row for row in rows if rests_on_evidence(row)]
    others = [row for row in rows if not rests_on_evidence(row)]
    if questions == "all":
        chosen += others[: len(chosen)]
    write_jsonl(output, chosen or others)


def rests_on_evidence(row: dict) -> bool:
    if row["delta_cf_roi"] is None or row["delta_cf_rand"] is None:
        return False
    return row["delta_cf_roi"] - max(0.0, row["delta_cf_rand"]) > LEAST_DROP


def without_spread(run: Path) -> dict[str, float]:
    """The share of a run's groups without spread: by its own rule, as the run logged it, and by
    the shipped one, worked out from the rewards."""
    metrics = [row for _, row in iter_json_lines(run / "metrics.jsonl")]
    logged = [m["frac_reward_zero_std"] for m in metrics if "frac_reward_zero_std" in m]
    groups: dict[tuple[int, int], list[float]] = {}
    for _, row in iter_json_lines(run / "completions.jsonl"):
        groups.setdefault((row["step"], row["prompt_index"]), []).append(row["reward"])
    flat = [np.std(rewards, ddof=1) < SPREAD for rewards in groups.values()]
    return {"own rule": float(np.mean(logged)), f"std below {SPREAD}": float(np.mean(flat))}


def measure(adapter: Path, data: Path, settings) -> list[Row]:
    """What a model gets on each held-out record, all models by the same rules."""
    kept = adapter / "measured.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    output = adapter / "evaluate"
    evaluate(
        EvaluateConfig(
            adapter=str(adapter), data=str(data), output=str(output), counterfactual=True,
            prompting_mode=MODE, per_device_eval_batch_size=48, max_new_tokens=160,
        )
    )  # fmt: skip
    greedy = [row for _, row in iter_json_lines(output / "predictions.jsonl")]
    rows = [
        {"image": done["image"], "exact": done["scores"]["exact"], **sampled, **flip_gaps(done)}
        for done, sampled in zip(greedy, sampled_rewards(adapter, data, settings), strict=True)
    ]
    write_json(kept, rows)
    return rows


def flip_gaps(row: dict) -> dict[str, float | None]:
    """How much more often an answer flips without boxes than without matches of them."""
    found = {source: row["flips"].get(source) for source in ("gold", "claimed")}
    return {
        f"flip gap, {source} boxes": flips["roi"] - flips["random"] if flips else None
        for source, flips in found.items()
    }


@torch.no_grad()
def sampled_rewards(adapter: Path, data: Path, settings) -> Iterator[dict[str, float | None]]:
    """Of each record the mean total reward of sampled completions, and of its parts. Every answer
    is probed, so that the counterfactual part can be told of right answers and of all."""
    records, _ = read_grpo_records(data)
    processor = load_processor("tiny", adapter)
    model = load_adapter(load_base("tiny"), adapter).eval()
    judge = Rewards(
        GrpoConfig(
            base_model="tiny", data="-", counterfactual="online", counterfactual_answers="given"
        ),
        "cpu",
    )
    sampling = Sampling(max_new_tokens=160, temperature=1.0)
    for start in range(0, len(records), 16):
        tasks = [Task(start + i, r) for i, r in enumerate(records[start : start + 16])]
        image_cache = ImageCache(processor)
        groups = roll_out(
            model, image_cache, tasks, sampling, num_generations=settings.samples, seed=99
        )
        for group in judge(model, image_cache, groups):
            given = [reward.parts["counterfactual"] for reward in group]
            parts = [
                reward.parts | ({} if reward.parts["answer"] == 1 else {"counterfactual": 0.0})
                for reward in group
            ]
            rewards = group_rewards(parts, parse_weights("0.2,0.4,0.2,0.2"))
            found = {name: mean_of([p[name] for p in parts]) for name in COMPONENTS}
            found["counterfactual of any answer"] = mean_of(given)
            yield found | {"total": mean_of([reward.total for reward in rewards])}


def mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summary(by_seed: dict[int, list[Row]]) -> dict[str, dict]:
    """The mean of each measure over records and seeds, its interval over images, each seed's."""
    result = {}
    for name in MEASURES:
        pairs = [(row[name], row["image"]) for rows in by_seed.values() for row in rows]
        result[name] = interval([pair for pair in pairs if pair[0] is not None])
        seeds = {str(seed): mean_of([r[name] for r in rows]) for seed, rows in by_seed.items()}
        result[name]["seeds"] = seeds
    return result


def differences(found: dict[str, dict[int, list[Row]]]) -> list[dict]:
    """Paired by record, between all models; of two variants seed by seed."""
    names = list(found)
    result = []
    for place, other in enumerate(names):
        for one in names[place + 1 :]:
            for name in MEASURES:
                pairs = []
                for seed, rows in found[one].items():
                    against = found[other].get(seed, next(iter(found[other].values())))
                    for mine, theirs in zip(rows, against, strict=True):
                        if mine[name] is not None and theirs[name] is not None:
                            pairs.append((mine[name] - theirs[name], mine["image"]))
                result.append({"what": f"{name}, {one} - {other}", **interval(pairs)})
    return result


def interval(pairs: Sequence[tuple[float, str]]) -> dict[str, float | int | None]:
    """The mean of (value, image) pairs and its interval over images."""
    if not pairs:
        return {"mean": None, "low": None, "high": None, "n": 0}
    values, images = zip(*pairs, strict=True)
    low, high = mean_interval(values, images, (-1.0, 1.0)) or (None, None)
    return {"mean": sum(values) / len(values), "low": low, "high": high, "n": len(values)}


def as_markdown(study: dict) -> str:
    """The tables of ``study.md``."""

    def told(found: dict, form: str = ".3f") -> str:
        if found["mean"] is None or found["low"] is None:
            return "-" if found["mean"] is None else f"{found['mean']:{form}}"
        return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"

    models = study["models"]
    lines = [f"| on unseen phantoms | {' | '.join(models)} |", "|---" * (1 + len(models)) + "|"]
    for name in MEASURES:
        cells = []
        for found in models.values():
            seeds = [f"{value:.3f}" for value in found[name]["seeds"].values() if value is not None]
            cells.append(told(found[name]) + (f" ({', '.join(seeds)})" if len(seeds) > 1 else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| groups without spread in training | seed | share |", "|---|---|---|"]
    for name, by_seed in study["groups_without_spread"].items():
        for seed, shares in by_seed.items():
            told_shares = ", ".join(f"{share:.1%} ({rule})" for rule, share in shares.items())
            lines.append(f"| {name} | {seed} | {told_shares} |")
    lines += ["", "| difference, paired by record | mean [95% interval over images] |", "|---|---|"]
    lines += [f"| {row['what']} | {told(row, '+.4f')} |" for row in study["differences"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
