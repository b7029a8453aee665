"""All stages on the embedded phantoms and the embedded model, end to end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kit.command import Config, parse
from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.demo.config import QuickstartConfig
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.evaluate.figure import draw_examples
from kit.files import write_json
from kit.grpo.config import GrpoConfig
from kit.grpo.grpo import train as train_grpo
from kit.report.report import ReportConfig, report
from kit.shipped import CONFIGS, ROOT
from kit.train.config import SftConfig
from kit.train.sft import train as train_sft


@dataclass
class Stages:
    """Runs stages one after the other, says which, and keeps their seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str, words: str) -> Iterator[None]:
        print(f"\n== {len(self.seconds) + 1}. {name}: {words}", flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        print(f"   {self.seconds[name]:.0f} s", flush=True)


def shipped(config_class: type[Config], name: str, flags: dict[str, object]) -> Config:
    """A config file that the kit ships, with flags over it, as the command line reads them."""
    flags = {"cfg": ROOT / CONFIGS / name, **flags}
    return parse(config_class, [f"--{key}={value}" for key, value in flags.items()])


def quickstart(config: QuickstartConfig) -> int:
    """Run all stages; writes ``summary.json`` with the metrics of each model and the seconds of
    each stage. Returns the exit code, or exits with that of a stage that was asked to stop."""
    folder = Path(config.output_dir)
    data = folder / "data"
    stages = Stages()
    metrics: dict[str, dict[str, float]] = {}

    with stages.stage("phantoms", "draw CT, MRI and X-ray phantoms in the layout of SLAKE"):
        images = {"train": config.train_images, "validate": 20, "test": config.test_images}
        write_slake_phantoms(data / "SLAKE", images=images, seed=config.seed)

    with stages.stage("prepare_data", "records with caption, reasoning, boxes and answer"):
        for split in images:
            prepare(
                PrepareConfig(
                    output=str(data / f"{split}.json"),
                    dataset="SLAKE",
                    split=split,
                    slake_root=str(data / "SLAKE"),
                )
            )

    def evaluation(name: str, **model) -> None:
        with stages.stage(f"evaluate_{name}", f"answers of the {name} model to unseen images"):
            code = evaluate(
                EvaluateConfig(
                    data=str(data / "test.json"),
                    train_data=str(data / "train.json"),
                    output=str(folder / f"evaluate_{name}"),
                    max_new_tokens=160,
                    prompting_mode="caption_reason_answer",
                    counterfactual=True,
                    random_draws=1,
                    seed=config.seed,
                    **model,
                )
            )
        _leave_if_stopped(code)
        written = folder / f"evaluate_{name}" / "metrics.json"
        metrics[name] = json.loads(written.read_text(encoding="utf-8"))

    evaluation("base", base_model="tiny")

    with stages.stage("train_sft", "LoRA on the embedded model"):
        flags = {
            "data": data / "train.json",
            "eval_data": data / "validate.json",
            "output_dir": folder / "sft",
            "num_train_epochs": config.sft_epochs,
            "seed": config.seed,
        }
        code = train_sft(shipped(SftConfig, "sft_tiny.yaml", flags))
    _leave_if_stopped(code)
    evaluation("sft", adapter=str(folder / "sft"))

    with stages.stage("cf_proxy", "what the answers rest on, measured by inpainting"):
        code = cf_proxy(
            CfProxyConfig(
                data=str(data / "train.json"),
                output=str(data / "grpo.jsonl"),
                adapter=str(folder / "sft"),
                max_records=config.grpo_records,
                max_new_tokens=160,
                seed=config.seed,
            )
        )

    _leave_if_stopped(code)
    with stages.stage("train_grpo", "reinforcement by the four-part reward, boxes put to the test"):
        flags = {
            "sft_ckpt": folder / "sft",
            "data": data / "grpo.jsonl",
            "output_dir": folder / "grpo",
            "max_steps": config.grpo_steps,
            "seed": config.seed,
        }
        code = train_grpo(shipped(GrpoConfig, "grpo_tiny.yaml", flags))
    _leave_if_stopped(code)
    evaluation("grpo", adapter=str(folder / "grpo"))

    draw_examples(
        folder / "evaluate_grpo" / "predictions.jsonl", data / "test.json", folder / "examples.png"
    )
    summary = {"metrics": metrics, "seconds": stages.seconds}
    write_json(folder / "summary.json", summary)
    print()
    report(
        ReportConfig(
            evaluations=[f"{name}={folder / f'evaluate_{name}'}" for name in metrics],
            output=str(folder / "report"),
            seed=config.seed,
        )
    )
    total = sum(stages.seconds.values())
    print(f"\n{total:.0f} s in all. Made: {folder}/ (summary.json, examples.png, a folder a stage)")
    return 0


def _leave_if_stopped(code: int) -> None:
    if code:
        raise SystemExit(code)
