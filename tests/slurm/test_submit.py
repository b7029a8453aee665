"""submit.py on a real SLURM: whole pipelines, sweeps, shards, and requests that are refused."""

import json
import subprocess

import pytest
import yaml
from desk import CLUSTER_FILE, ask, logs_of, wait_for, write_yaml
from helpers import (
    ROOT,
    adapter_of,
    flags_of,
    lasting,
    launcher,
    metrics_of,
    most_apart,
    run,
    settings_of,
)

from slurm.records import Record

pytestmark = pytest.mark.slow

ANSWERS = {"max_new_tokens": 60, "max_records": 12, "per_device_eval_batch_size": 6}


def pipeline_file(folder, prepared, zero: int) -> dict:
    """SFT and GRPO on two nodes, all else as small as it can be."""
    launch = {"accelerate_config": f"accelerate_configs/cpu_zero{zero}.yaml",
              "resources": {"nodes": 2}}  # fmt: skip
    phantoms = {"dataset": "SLAKE", "slake_root": str(prepared["train"].parent / "SLAKE")}
    common = {"base_model": "tiny", "learning_rate": 1e-3, "logging_steps": 1, "lora_r": 4,
              "report_to": ["none"]}  # fmt: skip
    evaluation = {"data": "{run}/test.json", "train_data": "{run}/train.json"} | ANSWERS
    return {
        "run": str(folder / "run"),
        "stages": {
            "prepare_train": {
                "stage": "prepare_data", "config": phantoms | {"output": "{run}/train.json"},
            },
            "prepare_test": {
                "stage": "prepare_data",
                "config": phantoms | {"split": "test", "output": "{run}/test.json"},
            },
            "sft": launch | {
                "stage": "train_sft",
                "config": common | {
                    "data": "{run}/train.json", "output_dir": "{run}/sft", "max_steps": 6,
                    "per_device_train_batch_size": 4, "save_steps": 3,
                },
            },
            "cf_proxy": {
                "shards": 2,
                "config": {
                    "adapter": "{run}/sft", "data": "{run}/train.json",
                    "output": "{run}/grpo.jsonl",
                } | ANSWERS,
            },
            "grpo": launch | {
                "stage": "train_grpo",
                "config": common | {
                    "sft_ckpt": "{run}/sft", "data": "{run}/grpo.jsonl",
                    "output_dir": "{run}/grpo", "max_steps": 4, "num_generations": 4,
                    "max_completion_length": 40, "counterfactual": "online", "save_steps": 2,
                },
            },
            "evaluate_base": {
                "stage": "evaluate",
                "config": evaluation | {"base_model": "tiny", "output": "{run}/evaluate_base"},
            },
            "evaluate_sft": {
                "stage": "evaluate",
                "config": evaluation | {"adapter": "{run}/sft", "output": "{run}/evaluate_sft"},
            },
            "evaluate_grpo": {
                "stage": "evaluate", "shards": 3,
                "config": evaluation | {"adapter": "{run}/grpo", "output": "{run}/evaluate_grpo"},
            },
            "report": {
                "config": {
                    "evaluations": [f"{n}={{run}}/evaluate_{n}" for n in ("base", "sft", "grpo")],
                    "output": "{run}/report",
                },
            },
        },
    }  # fmt: skip


def on_a_workstation(content: dict, folder, zero: int) -> None:
    """The same stages, unsharded, each started as on a machine without SLURM."""
    for name, entry in content["stages"].items():
        stage = entry.get("stage", name)
        config = entry["config"]
        texts = json.loads(json.dumps(config).replace("{run}", str(folder)))
        file = f"cpu_zero{zero}" if stage.startswith("train") else None
        evaluations = texts.pop("evaluations", None)
        more = ["--evaluations", *evaluations] if evaluations else []
        done = run([*launcher(file), f"launch/{stage}.py", *flags_of(texts), *more])
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("zero", [2, 3])
def test_the_whole_pipeline_ends_in_the_numbers_of_a_workstation(zero, desk, prepared, tmp_path):
    content = pipeline_file(tmp_path, prepared, zero)
    models = ["base", "sft", "grpo"]
    if zero == 3:  # what comes before and after training is the same
        models = ["grpo"]
        for name in ("evaluate_base", "evaluate_sft"):
            del content["stages"][name]
        content["stages"]["report"]["config"]["evaluations"] = ["grpo={run}/evaluate_grpo"]
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    command = ("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE)
    assert "report: job" in desk.submit(*command)
    desk.finish()
    folder = tmp_path / "run"
    states = {name: row["state"] for name, row in desk.status(folder).items()}
    assert set(states.values()) == {"COMPLETED"}, states
    twin = tmp_path / "workstation"
    on_a_workstation(content, twin, zero)
    for name in ("train.json", "test.json"):
        assert (folder / name).read_text() == (twin / name).read_text()
    for name in ("sft", "grpo"):
        assert most_apart(adapter_of(folder / name), adapter_of(twin / name)) == 0
        assert lasting(folder / name) == lasting(twin / name)
    assert (folder / "grpo.jsonl").read_text() == (twin / "grpo.jsonl").read_text()
    for name in models:
        place = f"evaluate_{name}"
        assert metrics_of(folder / place) == metrics_of(twin / place)
        assert (folder / place / "predictions.jsonl").read_text() == (
            twin / place / "predictions.jsonl"
        ).read_text()
    assert (folder / "report" / "report.txt").read_text() == (
        twin / "report" / "report.txt"
    ).read_text()
    said = desk.submit(*command)
    assert said.count("done and unchanged") == len(states) - 3, "shards count once an array"
    assert "job" not in said
    assert not desk.queue()


def test_cancelled_in_the_middle_and_submitted_again(desk, prepared, tmp_path):
    content = pipeline_file(tmp_path, prepared, 2)
    content["stages"]["sft"]["config"]["max_steps"] = 40
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    command = ("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE)
    folder = tmp_path / "run"
    desk.submit(*command)
    wait_for((folder / "sft" / "metrics.jsonl").exists, "SFT to run")
    assert "still under way" in desk.submit(*command, ok=False)
    job_id = Record(folder / "slurm" / "sft").request["job_id"]
    subprocess.run(["scancel", job_id], check=True)
    desk.finish()
    status = desk.status(folder)
    assert status["prepare_train"]["state"] == "COMPLETED"
    assert status["sft"]["state"] == "CANCELLED"
    for name in ("cf_proxy", "grpo", "evaluate_sft", "report"):
        assert status[name]["state"] == "CANCELLED", status[name]
        assert status[name]["why"] == "it never started"
    saved = max(int(p.name.split("-")[1]) for p in (folder / "sft").glob("checkpoint-*"))
    made = (folder / "train.json").stat().st_mtime_ns
    table = desk.submit("status", folder)
    assert "logs:" in table
    said = desk.submit(*command)
    assert "prepare_train: done and unchanged" in said
    assert "evaluate_base: done" in said or status["evaluate_base"]["state"] == "CANCELLED"
    desk.finish()
    assert {row["state"] for row in desk.status(folder).values()} == {"COMPLETED"}
    assert (folder / "train.json").stat().st_mtime_ns == made
    starts = [a for a in Record(folder / "slurm" / "sft").attempts() if a["event"] == "start"]
    assert starts[-1]["done"] == saved > 0, "it goes on from what was saved"


def test_what_was_submitted_is_what_runs(desk, prepared, tmp_path):
    """A copy of code and configuration: an edit while it waits in the queue changes nothing."""
    settings = settings_of("sft", prepared, {}, tmp_path / "sft", max_steps=2)
    config = tmp_path / "sft.yaml"
    launch = tmp_path / "launch.yaml"
    deepspeed = tmp_path / "deepspeed.json"
    config.write_text(yaml.safe_dump(settings))
    deepspeed.write_text((ROOT / "ds_configs" / "zero2.json").read_text())
    launch.write_text(
        (ROOT / "accelerate_configs" / "cpu_zero2.yaml")
        .read_text()
        .replace("ds_configs/zero2.json", str(deepspeed))
    )
    blocker = subprocess.Popen(
        ["srun", "--partition=urgent", "--nodes=2", "--mem=100", "sleep", "600"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: "RUNNING" in str(desk.queue()), "the nodes to be busy")
    desk.stage("train_sft", {"cfg": config}, "--nodes", 2, "--accelerate_config", launch)
    for file in (config, launch, deepspeed):
        file.write_text("not a configuration: [")
    blocker.terminate()
    subprocess.run(["scancel", "--name=sleep"], check=True)
    desk.finish()
    record = Record(tmp_path / "sft" / "slurm" / "train_sft")
    assert desk.status(tmp_path / "sft")["train_sft"]["state"] == "COMPLETED", logs_of(
        record.folder
    )
    code = record.request["code"]
    assert (tmp_path / "sft").as_posix() in code
    environment = json.loads((tmp_path / "sft" / "environment.json").read_text())
    assert environment["kit"].startswith(code)


def test_a_sweep_of_six_of_which_one_fails(desk, prepared, tmp_path):
    """At most two at once; five results with mean and spread, and one clear failure."""
    settings = settings_of("sft", prepared, {}, tmp_path, max_steps=2, save_steps=0)
    del settings["output_dir"]
    broken = tmp_path / "broken.json"
    broken.write_text("{}\n")
    content = {
        "run": str(tmp_path / "sweep"),
        "stage": "train_sft",
        "at_once": 2,
        "config": settings,
        "grid": {"learning_rate": [1e-3, 1e-4], "seed": [1, 2, 3]},
        "metrics": ["loss", "token_accuracy"],
    }
    file = write_yaml(tmp_path / "sweep.yaml", content)
    command = ("sweep", "--cfg", file, "--cluster", CLUSTER_FILE)
    victim = tmp_path / "sweep" / "learning_rate=0.0001_seed=2"
    victim.mkdir(parents=True)
    (victim / "stop").touch()  # a request that was left over is refused
    desk.submit(*command)
    most = 0

    def over() -> bool:
        nonlocal most
        lines = desk.queue()
        most = max(most, sum("RUNNING" in x and "runs" in x for x in lines))
        return not lines

    wait_for(over, "the end of the sweep")
    assert most == 2
    table = json.loads((tmp_path / "sweep" / "table" / "table.json").read_text())
    assert len(table["runs"]) == 5
    (failure,) = table["failures"]
    assert failure["point"] == {"learning_rate": 1e-4, "seed": 2}
    why = "exit code 2, a request to stop is left over"
    assert (failure["state"], failure["why"]) == ("FAILED", why)
    groups = {g["point"]["learning_rate"]: g["metrics"]["loss"] for g in table["groups"]}
    assert [groups[rate]["n"] for rate in ("0.001", "0.0001")] == [3, 2]
    losses = [r["metrics"]["loss"] for r in table["runs"] if r["point"]["learning_rate"] == 1e-3]
    assert groups["0.001"]["mean"] == pytest.approx(sum(losses) / 3)
    assert groups["0.001"]["sd"] > 0
    text = (tmp_path / "sweep" / "table" / "table.txt").read_text()
    assert f"learning_rate 0.0001, seed 2: FAILED ({why})" in text
    assert "+-" in text
    (victim / "stop").unlink()
    said = desk.submit(*command)
    assert "runs: job" in said
    desk.finish()
    table = json.loads((tmp_path / "sweep" / "table" / "table.json").read_text())
    assert (len(table["runs"]), table["failures"]) == (6, [])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--partition", "nowhere"], "there is no partition 'nowhere'"),
        (["--nodes", 3], "has 2 nodes with 1 GPUs, 1 cores, 6 GB, not 3"),
        (["--gpus_per_node", 2], "has 0 nodes with 2 GPUs"),
        (["--mem_gb", 900], "has 0 nodes"),
        (["--cpus_per_task", 2], "has 0 nodes"),
        (["--time", "2-00:00:00"], "more than partition gpu allows"),
        (["--nodelist", "n9"], "SLURM refuses"),
        (["--time", "soon"], "no duration"),
        (["--nodez", 2], "did you mean 'nodes'"),
        (["--max_stepz", 2], "did you mean 'max_steps'"),
        (["--accelerate_config", "none.yaml"], "no such config file"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_submitted(
    flags, message, desk, prepared, tmp_path
):
    settings = settings_of("sft", prepared, {}, tmp_path / "sft")
    said = desk.stage("train_sft", settings, *flags, ok=False)
    assert message in said
    assert "fix:" in said
    assert "Traceback" not in said
    assert not desk.queue()
    assert not (tmp_path / "sft").exists()


def test_a_dry_run_shows_everything_and_does_nothing(desk, prepared, tmp_path):
    content = pipeline_file(tmp_path, prepared, 3)
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    said = desk.submit("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE, "--dry_run")
    for words in (
        "#SBATCH --nodes=2", "#SBATCH --array=0-1%2", "#SBATCH --dependency=", "<sft>",
        "cpu_zero3.yaml", "launch/train_grpo.py", "num_generations: 4", "srun ",
    ):  # fmt: skip
        assert words in said, words
    assert not (tmp_path / "run").exists()
    assert not desk.queue()


def test_a_run_that_was_not_submitted_from_here_is_left_alone(desk, prepared, tmp_path):
    settings = settings_of("sft", prepared, {}, tmp_path / "sft", max_steps=1)
    done = run([*launcher(None), "launch/train_sft.py", *flags_of(settings)])
    assert done.returncode == 0
    said = desk.stage("train_sft", settings, ok=False)
    assert "holds a run that was not submitted from here" in said
    assert not desk.queue()


def test_a_changed_stage_is_made_anew_and_the_old_result_kept(desk, prepared, tmp_path):
    content = pipeline_file(tmp_path, prepared, 2)
    content["stages"] = {k: content["stages"][k] for k in ("prepare_train", "sft")}
    content["stages"]["sft"]["config"]["max_steps"] = 2
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    command = ("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE)
    desk.submit(*command)
    desk.finish()
    before = adapter_of(tmp_path / "run" / "sft")
    content["stages"]["sft"]["config"]["seed"] = 7
    write_yaml(file, content)
    said = desk.submit(*command)
    assert "moved to sft.old-1" in said
    desk.finish()
    assert most_apart(adapter_of(tmp_path / "run" / "sft.old-1"), before) == 0
    assert most_apart(adapter_of(tmp_path / "run" / "sft"), before) > 0


def test_without_slurm_it_says_what_to_do(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    settings = settings_of("sft", prepared, {}, tmp_path / "sft")
    done = run(
        [*launcher(None), "slurm/submit.py", "stage", "train_sft", *flags_of(settings)],
        PATH="/nowhere",
    )
    assert done.returncode == 2
    assert "run this on a login node" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_nothing(tmp_path):
    done = run([*launcher(None), "slurm/submit.py", "status", str(tmp_path)])
    assert done.returncode == 2
    assert "nothing was submitted" in done.stderr


def test_status_when_slurm_has_forgotten(desk, prepared, tmp_path):
    """What was written down counts."""
    settings = settings_of("sft", prepared, {}, tmp_path / "sft", max_steps=1)
    desk.stage("train_sft", settings)
    desk.finish()
    record = Record(tmp_path / "sft" / "slurm" / "train_sft")
    request = record.request
    record.write_request(**request | {"job_id": "999999"})
    assert desk.status(tmp_path / "sft")["train_sft"]["state"] == "COMPLETED"
    (record.folder / "done.json").unlink()
    status = desk.status(tmp_path / "sft")["train_sft"]
    assert (status["state"], status["why"]) == (
        "UNKNOWN", "SLURM has forgotten it, and it never started",
    )  # fmt: skip
    record.note("start", job_id="999999", restarts=0, done=0, nodes=["n1"])
    assert "ended without a word" in desk.status(tmp_path / "sft")["train_sft"]["why"]
    record.note("end", job_id="999999", code=1)
    status = desk.status(tmp_path / "sft")["train_sft"]
    assert (status["state"], status["why"]) == ("FAILED", "exit code 1")
    assert ask("squeue", "--noheader") == ""
