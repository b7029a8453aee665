"""What the READMEs say to type can be typed: every command, flag and file; and the blocks of the
main one run, in the order in which they stand there."""

import csv
import dataclasses
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import adapter_of, metrics_of, most_apart, rows
from PIL import Image
from worked_out import lines_of, require_worked_out

from kit import cli
from kit.cli import COMMANDS
from kit.data import prepare
from kit.data.phantom.dataset import write_slake_phantoms, write_vqa_rad_phantoms
from kit.errors import UserError
from kit.shipped import CONFIGS, find
from slurm import submit
from slurm.resources import Resources

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *ROOT.glob("[a-z]*/README.md"), *ROOT.glob("kit/*/README.md")]
}
FOREIGN = {
    "pip", "pytest", "apt-get", "export", "$EDITOR", "hf", "git", "cd", "cp", "source", "python3",
    "mkdir", "apptainer", "singularity",
}  # fmt: skip
LAUNCH_FLAGS = {"--config_file", "--accelerate_config", "--num_processes"}
OF_SLURM = {  # its own command's, sbatch's, srun's and singularity's
    "--dry_run", "--shards", "--cluster", "--run_dir", "--json", "--gres", "--mpi", "--nv",
}  # fmt: skip

# What makes a block small enough to run here, given after its own flags.
SMALLER = {
    "quickstart": "--train_images 16 --test_images 4 --sft_epochs 0.5 --grpo_records 16 "
    "--grpo_steps 2",
    "ask": "--max_new_tokens 96",
    "train_sft": "--base_model tiny --max_steps 2",
    "evaluate": "--max_records 6 --max_new_tokens 96",
    "cf_proxy": "--max_records 8 --max_new_tokens 96",
    "train_grpo": "--max_steps 1 --num_generations 2 --max_completion_length 48 "
    "--gradient_accumulation_steps 1",
}


def blocks(page: str) -> list[str]:
    """The blocks of shell, fenced or indented."""
    found = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return found + re.findall(r"(?:^    (?:medvqa|hf) .*\n)+", page, re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of each command."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.partition(" #")[0].split("&&")]
    return [words for part in parts if (words := shlex.split(part))]


OURS = [
    words
    for page in PAGES.values()
    for block in blocks(page)
    for words in commands(block)
    if words[0] not in FOREIGN
]
SEED = """\
python launch/prepare_data.py --output data/train.json --dataset both --split train
accelerate launch launch/train_sft.py --cfg launch/configs/sft.yaml --data data/train.json
accelerate launch launch/cf_proxy.py --sft_ckpt checkpoints/qwen2vl_sft --data data/train.json \
  --output data/grpo_data.jsonl
accelerate launch launch/train_grpo.py --base_model Qwen/Qwen2-VL-2B-Instruct \
  --sft_ckpt checkpoints/qwen2vl_sft --data_jsonl data/grpo_data.jsonl \
  --out_dir checkpoints/qwen2vl_grpo --steps 1000 --batch_size 2 --lr 1e-6 \
  --weights "0.2,0.4,0.2,0.2"
accelerate launch launch/evaluate.py --adapter checkpoints/qwen2vl_grpo \
  --data data/vqa_rad_test.json --output runs/eval_vqa_rad
"""  # which the kit's first users know, and which keep working


@pytest.fixture
def typed(monkeypatch):
    """Reads a command as far as its own parser does; returns what would have been started."""
    monkeypatch.chdir(ROOT)
    for name in ("submit_all", "cancel", "status_of", "table_of"):
        monkeypatch.setattr(submit, name, lambda *_, **__: [])
    monkeypatch.setattr(cli.Command, "run", lambda _, config: type(config).__name__)
    monkeypatch.setattr("kit.run.inputs.require_inputs", lambda *_: None)
    started = []
    monkeypatch.setattr(cli, "_launch", lambda launch, *_: started.append(launch))

    def read(words: list[str]) -> object:
        if words[:2] == ["accelerate", "launch"]:
            words = words[2:]
            while words[0] in LAUNCH_FLAGS:
                assert words[1].isdigit() or Path(words[1]).is_file(), words[1]
                words = words[2:]
            words = words[2:] if words[0] == "-m" else ["python", *words]
        if words[0] == "python":
            assert Path(words[1]).is_file(), words[1]
            words = [Path(words[1]).stem, *words[2:]]
        if words[0] in ("medvqa", "kit.cli"):
            words = words[1:]
        for flag, value in pairwise(words):
            assert flag != "--config" or find(value, CONFIGS).is_file(), value  # read by preflight
        return cli.execute(*words)

    return read


def test_every_command_is_read_by_its_own_parser(typed):
    assert len(OURS) >= 25
    for words in [*OURS, *commands(SEED)]:
        if words[0] in ("medvqa", "python", "accelerate") and not words[1].startswith("tests/"):
            assert typed(words) is not None, words


def test_a_command_that_is_misspelt_is_not_read(typed):
    """So that the test above means something."""
    for words in OURS:
        if words[0] in ("medvqa", "accelerate") and words[1] not in ("configs", "completion"):
            with pytest.raises(UserError, match="no_such_flag"):
                typed([*words, "--no_such_flag", "1"])


def test_every_flag_that_the_text_names_exists():
    known = {*LAUNCH_FLAGS, "--help", "--cfg", *OF_SLURM}
    for config_class in (*(c.config_class for c in COMMANDS.values()), Resources):
        for field in dataclasses.fields(config_class):
            known |= {f"--{field.name}", *field.metadata.get("aliases", ())}
    for name, page in PAGES.items():
        text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
        for code in re.findall(r"`([^`]+)`", text):
            if code.split()[0] in FOREIGN or code.startswith("python tests/"):
                continue
            for flag in re.findall(r"(?<![\w-])--[a-z]\w*", code):
                assert flag in known, (name, code)


def test_every_file_that_is_named_is_there():
    rooms = (
        r"(?<![\w/])(?:kit|launch|tests|slurm|accelerate_configs|ds_configs|data|\.github|\.ci)/"
    )
    for name, page in PAGES.items():
        named = {found.rstrip("./") for found in re.findall(rf"{rooms}[\w/.*]+", page)}
        made = {n for n in named if n.startswith("data/") and not n.endswith((".md", ".py"))}
        missing = [n for n in named - made if not list(ROOT.glob(n))]
        assert not missing, name
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page):
            assert ((ROOT / name).parent / link).exists(), (name, link)


def test_every_config_that_is_shipped_is_named():
    """And every DeepSpeed file is what an accelerate config points to."""
    for folder in ("launch/configs", "accelerate_configs"):
        shipped = {path.name for path in (ROOT / folder).iterdir()}
        assert len(shipped) >= 7
        assert not [name for name in shipped if f"{Path(name).stem}`" not in README], folder
    pointing = "".join(p.read_text() for p in (ROOT / "accelerate_configs").iterdir())
    for path in (ROOT / "ds_configs").iterdir():
        assert f"ds_configs/{path.name}" in pointing, path


@pytest.fixture
def hub(monkeypatch) -> None:
    """A stand-in for the mirrors: phantoms in the layout of what would be fetched."""

    def fetch(dataset: str, root: Path) -> None:
        if dataset == "SLAKE":
            write_slake_phantoms(root, images={"train": 8, "validate": 1, "test": 2}, seed=3)
        else:
            write_vqa_rad_phantoms(root, images=6, test_images=3, seed=3)

    monkeypatch.setattr(prepare, "download", fetch)


def lay_out_own(folder: Path) -> None:
    """``my.csv`` as somebody may have it: of the images that the quickstart drew."""
    with (folder / "my.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "question", "answer"])
        for row in rows(folder / "runs/quickstart/data", "train.json"):
            table.writerow([f"runs/quickstart/data/{row['image']}", row["question"], row["answer"]])


def lay_out_theirs(folder: Path) -> None:
    """``their_predictions.csv``: the answers of our SFT model in another's shape."""
    with (folder / "their_predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["question_id", "prediction"])
        for row in rows(folder / "runs/eval_sft", "predictions.jsonl"):
            if row["mode"] == "caption_reason_answer":
                table.writerow([row["qid"], row["answer"]])


def require_quickstart(folder: Path, printed: str) -> None:
    """What it leaves and prints is what was computed."""
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["seconds"]) == [
        "phantoms", "prepare_data", "evaluate_base", "train_sft", "evaluate_sft", "cf_proxy",
        "train_grpo", "evaluate_grpo",
    ]  # fmt: skip
    metrics = {name: metrics_of(folder / f"evaluate_{name}") for name in ("base", "sft", "grpo")}
    assert summary["metrics"] == metrics
    test, train = (folder / "data" / f"{split}.json" for split in ("test", "train"))
    for name in metrics:
        require_worked_out(folder / f"evaluate_{name}", test, train, ("caption_reason_answer",))
    trained = {row["image"] for row in lines_of(train)}
    assert not trained & {row["image"] for row in lines_of(test)}
    assert len(trained) == 16
    assert len(lines_of(folder / "data/grpo.jsonl")) == 16
    assert rows(folder / "grpo")[-1]["step"] == 2
    assert most_apart(adapter_of(folder / "sft"), adapter_of(folder / "grpo")) > 0
    assert Image.open(folder / "examples.png").width > 100
    assert (folder / "report" / "report.html").exists()
    compared = [line.split() for line in printed.splitlines() if line.count("%") == 3]
    shown = [f"{100 * m['caption_reason_answer/exact/all']:.1f}%" for m in metrics.values()]
    assert ["exact", "match", *shown] in compared
    assert str(folder.name) in printed


@pytest.mark.slow
def test_the_blocks_run_as_they_stand_one_after_the_other(tmp_path, monkeypatch, hub, capsys):
    """On phantoms, with the embedded model in place of the hub's, and small."""
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in blocks(README):
        if "slurm" in block or "--accelerate_config" in block:
            continue  # tests/slurm; tests/run/test_launchers.py
        for words in commands(block):
            if words[0] != "medvqa":
                continue
            name, flags = words[1], [*words[2:], *shlex.split(SMALLER.get(words[1], ""))]
            if "Qwen/Qwen2-VL-2B-Instruct" in flags:
                flags += ["--base_model", "tiny"]
            assert cli.execute(name, *flags) in (0, None), words
            ran.append(name)
            if name == "quickstart":
                require_quickstart(tmp_path / "runs/quickstart", capsys.readouterr().out)
                lay_out_own(tmp_path)
            elif "runs/eval_sft" in flags:
                lay_out_theirs(tmp_path)
    assert {*SMALLER, "prepare_data", "report", "export", "look", "audit"} <= {*ran}

    compared = {
        name: metrics_of(tmp_path / f"runs/eval_{name}") for name in ("base", "sft", "grpo")
    }
    mode = "caption_reason_answer"
    for name, metrics in compared.items():
        for metric in ("exact/all", "floor/question_only", "exact/blank", "roi_flip_rate"):
            assert f"{mode}/{metric}" in metrics, (name, metric)
    page = (tmp_path / "runs/report/report.txt").read_text(encoding="utf-8")
    shown = [f"{100 * m[f'{mode}/exact/all']:.1f}%" for m in compared.values()]
    assert ["exact", "match", *shown] in [line.split() for line in page.splitlines()]
    for stage, metric in (("sft", "loss"), ("grpo", "rewards/answer/mean")):
        folder = tmp_path / f"checkpoints/qwen2vl_{stage}"
        assert adapter_of(folder)
        assert metric in rows(folder)[-1], stage
    assert (tmp_path / "checkpoints/merged/config.json").is_file()
    assert Image.open(tmp_path / "answer.png").width > 100
