"""In place of the processes of a study in tests of the runner: each leaves at once what its command
leaves, and ends when it has been looked at a few times."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from kit.data.phantom.layout import QUESTIONS_AT_MOST
from kit.study import study
from kit.study.config import StudyConfig

IMAGES, QUESTIONS = 24, 3
# how often a system is right beyond its start, and finds its evidence
BETTER = {"good": (0.15, 0.4), "plain": (0.0, 0.0), "bad": (-0.3, 0.0)}


class Processes:
    """``begun``: the outputs of what was started, in order, each with its further flags;
    ``at_once``: how many ran at most. A run whose output holds ``fails`` fails; one that holds
    ``hangs`` goes on until it is asked to stop, whereupon ``when_it_hangs`` is called."""

    def __init__(self):
        self.begun: list[tuple[str, ...]] = []
        self.running: set[str] = set()
        self.at_once = 0
        self.fails = self.hangs = "nothing"
        self.when_it_hangs = lambda: None

    def __call__(self, command: list[str], *, stdout, **_: object) -> "Process":
        config = yaml.safe_load(Path(command[command.index("--cfg") + 1]).read_text())
        output = str(config.get("output_dir") or config["output"])
        self.begun.append((output.removeprefix("out/"), *command[command.index("--cfg") + 2 :]))
        self.running.add(output)
        self.at_once = max(self.at_once, len(self.running))
        return Process(self, command[3], Path(output), config, stdout)


class Process:
    def __init__(self, all_of_them: Processes, command: str, output: Path, config: dict, log):
        self.all, self.output, self.looks, self.code = all_of_them, output, 0, None
        self.hangs = self.all.hangs in str(output)
        if self.all.fails in str(output):
            log.write(b"it goes\nwrong\n")
            self.code = 3
        elif command.startswith("train"):
            (output / "checkpoint-1").mkdir(parents=True, exist_ok=True)
            if not self.hangs:
                shutil.rmtree(output / "checkpoint-1")
                write(output / "summary.json", {"finished": True, "seconds": 60.0})
        elif command == "evaluate":
            evaluate(output, Path(config["adapter"]))
        elif command == "phantoms":
            output.mkdir(parents=True)
        else:
            write(output, {})
            write(Path(f"{output}.report.json"), {})

    def poll(self) -> int | None:
        self.looks += 1
        if self.hangs and self.looks == 2:
            self.all.when_it_hangs()
        if self.code is None and not self.hangs and self.looks > 3:
            self.code = 0
        if self.code is not None:
            self.all.running.discard(str(self.output))
        return self.code

    def send_signal(self, number: int) -> None:
        self.code = 99


def write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value))


def evaluate(output: Path, adapter: Path) -> None:
    """Answers of a system of a seed: images are easy or hard, seeds begin at another level, and
    every system keeps what its seed began with."""
    system, seed = adapter.parent.name, int(adapter.parents[1].name.removeprefix("seed"))
    more, found = BETTER.get(system, (0.0, 0.0))
    start = np.random.default_rng([1, seed])
    level = 0.3 + 0.1 * seed
    luck = start.uniform(size=(IMAGES, QUESTIONS))  # the same for all systems of the seed
    hard = np.random.default_rng(2).uniform(-0.2, 0.2, IMAGES)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "predictions.jsonl").open("w") as stream:
        for image in range(IMAGES):
            for question in range(QUESTIONS):
                drawn = luck[image, question]
                exact = float(drawn < level + hard[image] + more)
                row = {
                    "mode": "caption_reason_answer", "dataset": "SLAKE",
                    "image": f"xmlab{image}/source.jpg",
                    "qid": str(image * QUESTIONS_AT_MOST + question),
                    "question": "?", "answer_type": "OPEN",
                    "scores": {"exact": exact}, "evidence": [], "inpainting": "telea",
                    "boxes": [[0, 0, 9, 9]],
                    "confidences": {"answer_probability": round(0.2 + 0.6 * drawn, 4)},
                    "flips": {"gold": {"roi": float(drawn < 0.2 + found), "random": 0.0}},
                    "grounding": {"iou": 0.4, "acc@0.5": 0.0, "box_iou": 0.4, "pointing": 1.0},
                }  # fmt: skip
                stream.write(json.dumps(row))
                stream.write("\n")
    (output / "metrics.json").write_text("{}")


STUDY = {
    "output": "out",
    "seeds": [0, 1],
    "phantoms": {"train": 8, "prompts": 4, "test": 6},
    "train_sft": {"cfg": "sft_tiny"},
    "train_grpo": {"cfg": "grpo_tiny", "max_steps": 2},
    "evaluate": {"prompting_mode": "caption_reason_answer", "counterfactual": True},
    "systems": {"plain": {"weights": "0.2,0.8,0,0"}, "good": {"beta": 0.1}},
}


def write_study(**changes: object) -> Path:
    """The study file with changes, in the working folder."""
    path = Path("small.yaml")
    kept = {key: value for key, value in (STUDY | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def stand_in(patch: pytest.MonkeyPatch) -> Processes:
    """Stand-ins for what the runner starts."""
    made = Processes()
    patch.setattr(study, "Popen", made)
    patch.setattr(study, "LOOKS_EVERY", 0.0)
    patch.setattr("os.fsync", lambda _: None)
    return made


def evaluated_study(folder: Path) -> Path:
    """The folder of a study of three systems and five seeds that was run, page and all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stand_in(patch)
        systems = {"plain": {}, "good": {"beta": 0.1}, "bad": {"beta": 0.2}}
        path = write_study(systems=systems, seeds=[0, 1, 2, 3, 4])
        assert study.study(StudyConfig(study=str(path))) == 0
    return folder
