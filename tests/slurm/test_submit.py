"""submit.py on a real SLURM: whole pipelines, sweeps, shards, and requests that are refused."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import (
    ROOT,
    adapter_of,
    flags_of,
    lasting,
    metrics_of,
    most_apart,
    python_path,
    settings_of,
)
from ranks import launcher, run
from slurm_client import (
    CLUSTER_FILE,
    Image,
    ask,
    logs_of,
    program,
    show,
    submit,
    wait_for,
    write_yaml,
)

from slurm import cluster as cluster_of_slurm
from slurm.records import Record

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

ANSWERS = {"max_new_tokens": 60, "max_records": 12, "per_device_eval_batch_size": 6}


def pipeline_file(folder, prepared) -> dict:
    """SFT and GRPO on two nodes, all else as small as it can be."""
    launch = {"accelerate_config": "accelerate_configs/cpu_zero2.yaml", "resources": {"nodes": 2}}
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
                "stage": "evaluate", "shards": 2,
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


def on_a_workstation(content: dict, folder) -> None:
    """The same stages, unsharded, each started as on a machine without SLURM."""
    for name, entry in content["stages"].items():
        stage = entry.get("stage", name)
        config = entry["config"]
        texts = json.loads(json.dumps(config).replace("{run}", str(folder)))
        file = "cpu_zero2" if stage.startswith("train") else None
        evaluations = texts.pop("evaluations", None)
        more = ["--evaluations", *evaluations] if evaluations else []
        done = run([*launcher(file), f"launch/{stage}.py", *flags_of(texts), *more])
        assert done.returncode == 0, done.stderr


def test_the_whole_pipeline_ends_in_the_numbers_of_a_workstation(client, prepared, tmp_path):
    content = pipeline_file(tmp_path, prepared)
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    command = ("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE)
    assert "report: job" in client.submit(*command)
    client.finish()
    folder = tmp_path / "run"
    states = {name: row["state"] for name, row in client.status(folder).items()}
    assert set(states.values()) == {"COMPLETED"}, states
    twin = tmp_path / "workstation"
    on_a_workstation(content, twin)
    for name in ("train.json", "test.json"):
        assert (folder / name).read_text() == (twin / name).read_text()
    for name in ("sft", "grpo"):
        assert most_apart(adapter_of(folder / name), adapter_of(twin / name)) == 0
        assert lasting(folder / name) == lasting(twin / name)
    assert (folder / "grpo.jsonl").read_text() == (twin / "grpo.jsonl").read_text()
    for name in ("base", "sft", "grpo"):
        path = f"evaluate_{name}"
        assert metrics_of(folder / path) == metrics_of(twin / path)
        assert (folder / path / "predictions.jsonl").read_text() == (
            twin / path / "predictions.jsonl"
        ).read_text()
    assert (folder / "report" / "report.txt").read_text() == (
        twin / "report" / "report.txt"
    ).read_text()
    shown = client.submit(*command)
    assert shown.count("done and unchanged") == len(states) - 2, "shards count once an array"
    assert "job" not in shown
    assert not client.queue()


def test_cancelled_in_the_middle_changed_and_submitted_again(client, prepared, tmp_path):
    """Cancelled, what waits for it never starts; submitted again, it goes on from what was saved
    and what was done is left; changed, it is made anew and the old result kept."""
    content = pipeline_file(tmp_path, prepared)
    stages = {name: content["stages"][name] for name in ("prepare_train", "sft", "cf_proxy")}
    stages["sft"] = {
        "stage": "train_sft",
        "config": stages["sft"]["config"] | {"max_steps": 24},
    }  # one process
    content["stages"] = stages
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    command = ("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE)
    folder = tmp_path / "run"
    client.submit(*command)
    wait_for(lambda: list((folder / "sft").glob("checkpoint-*")), "a checkpoint", every=0.05)
    assert "still under way" in client.submit(*command, ok=False)
    job_id = Record(folder / "slurm" / "sft").request["job_id"]
    subprocess.run(["scancel", job_id], check=True)
    client.finish()
    status = client.status(folder)
    assert status["prepare_train"]["state"] == "COMPLETED"
    assert status["sft"]["state"] == "CANCELLED"
    for name in ("cf_proxy_shards/0", "cf_proxy_shards/1", "cf_proxy"):
        assert status[name]["state"] == "CANCELLED", status[name]
        assert status[name]["why"] == "it never started"
    saved = max(int(p.name.split("-")[1]) for p in (folder / "sft").glob("checkpoint-*"))
    made = (folder / "train.json").stat().st_mtime_ns
    assert "logs:" in client.submit("status", folder)

    assert "prepare_train: done and unchanged" in client.submit(*command)
    client.finish()
    assert {row["state"] for row in client.status(folder).values()} == {"COMPLETED"}
    assert (folder / "train.json").stat().st_mtime_ns == made
    starts = [a for a in Record(folder / "slurm" / "sft").attempts() if a["event"] == "start"]
    assert starts[-1]["done"] == saved > 0, "it goes on from what was saved"

    before = adapter_of(folder / "sft")
    del stages["cf_proxy"]
    stages["sft"]["config"] |= {"seed": 7, "max_steps": 2}
    write_yaml(file, content)
    shown = client.submit(*command)
    assert "prepare_train: done and unchanged" in shown
    assert "moved to sft.old-1" in shown
    client.finish()
    assert most_apart(adapter_of(folder / "sft.old-1"), before) == 0
    assert most_apart(adapter_of(folder / "sft"), before) > 0
    assert (folder / "train.json").stat().st_mtime_ns == made


def test_what_was_submitted_is_what_runs(client, prepared, trained, tmp_path):
    """A copy of code and configuration: an edit while it waits in the queue changes nothing. Under
    ZeRO-3, in the numbers of a workstation."""
    folder, twin = tmp_path / "grpo", tmp_path / "workstation"
    settings = settings_of("grpo", prepared, trained, folder, max_steps=2)
    settings |= {"reward_funcs": ["slurm_reward:reward"]}
    config = write_yaml(tmp_path / "grpo.yaml", settings)
    launch = tmp_path / "launch.yaml"
    deepspeed = tmp_path / "deepspeed.json"
    deepspeed.write_text((ROOT / "ds_configs" / "zero3.json").read_text())
    launch.write_text(
        (ROOT / "accelerate_configs" / "cpu_zero3.yaml")
        .read_text()
        .replace("ds_configs/zero3.json", str(deepspeed))
    )
    assert str(deepspeed) in launch.read_text()
    path = {"PYTHONPATH": python_path()}
    blocker = subprocess.Popen(
        ["srun", "--partition=urgent", "--nodes=2", "--mem=100", "sleep", "600"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: "RUNNING" in str(client.queue()), "the nodes to be busy")
    more = ("--nodes", 2, "--accelerate_config", launch)
    client.stage("train_grpo", {"cfg": config}, *more, **path)
    for file in (config, launch, deepspeed):
        file.write_text("not a configuration: [")
    blocker.terminate()
    subprocess.run(["scancel", "--name=sleep"], check=True)
    client.finish()
    record = Record(folder / "slurm" / "train_grpo")
    assert client.status(folder)["train_grpo"]["state"] == "COMPLETED", logs_of(record.folder)
    code = record.request["code"]
    assert folder.as_posix() in code
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["kit"].startswith(code)
    flags = flags_of(settings | {"output_dir": twin})
    done = run([*launcher("cpu_zero3"), "launch/train_grpo.py", *flags])
    assert done.returncode == 0, done.stderr
    assert most_apart(adapter_of(folder), adapter_of(twin)) == 0
    assert most_apart(adapter_of(folder), adapter_of(trained["sft"])) > 0
    assert lasting(folder) == lasting(twin)


def test_a_sweep_of_four_of_which_one_fails(client, prepared, tmp_path):
    """At most two at once; three results with mean and spread, and one clear failure."""
    settings = settings_of("sft", prepared, {}, tmp_path, max_steps=2, save_steps=0)
    del settings["output_dir"]
    content = {
        "run": str(tmp_path / "sweep"),
        "stage": "train_sft",
        "at_once": 2,
        "config": settings,
        "grid": {"learning_rate": ["1e-3", "1e-4"], "seed": [1, 2]},
        "metrics": ["loss", "token_accuracy"],
    }
    file = write_yaml(tmp_path / "sweep.yaml", content)
    command = ("sweep", "--cfg", file, "--cluster", CLUSTER_FILE)
    victim = tmp_path / "sweep" / "learning_rate=1e-4_seed=2"
    victim.mkdir(parents=True)
    (victim / "stop").touch()  # a request that was left over is refused
    client.submit(*command)
    runs = Record(tmp_path / "sweep" / "slurm" / "runs" / "0").request["job_id"].split("_")[0]
    assert "ArrayTaskThrottle=2 " in ask("scontrol", "--oneliner", "show", "job", runs) + " "
    client.finish()
    runs = list(client.status(tmp_path / "sweep").values())
    (failure,) = (run for run in runs if run["state"] != "COMPLETED")
    assert failure["point"] == {"learning_rate": "1e-4", "seed": "2"}
    why = "exit code 2, a request to stop is left over"
    assert (failure["state"], failure["why"]) == ("FAILED", why)
    shown = client.submit("status", tmp_path / "sweep")
    assert re.search(rf"seed=2 +{failure['job_id']} +FAILED \({why}\)", shown)
    table = [re.split("  +", line) for line in shown.splitlines()[-3:]]
    assert table[0] == ["", "n", "loss", "token_accuracy"]
    assert [row[:2] for row in table[1:]] == [
        ["learning_rate 1e-3", "2"],
        ["learning_rate 1e-4", "1"],
    ]
    losses = [run["metrics"]["loss"] for run in runs if run["point"]["learning_rate"] == "1e-3"]
    sd = abs(losses[0] - losses[1]) / 2**0.5
    assert sd > 0
    assert table[1][2] == f"{sum(losses) / 2:.4g} +- {sd:.3g}"
    assert "+-" not in table[2][2]
    (victim / "stop").unlink()
    shown = client.submit(*command)
    assert "runs: job" in shown
    client.finish()
    states = [run["state"] for run in client.status(tmp_path / "sweep").values()]
    assert states == ["COMPLETED"] * 4


def test_shards_run_as_many_at_once_as_is_said(client, prepared, tmp_path):
    """One, where there are two nodes. In place of Python, what says when it runs."""
    log = tmp_path / "log"
    python = program(
        tmp_path / "python", f"echo start >> {log}", "sleep 0.3", f"echo end >> {log}"
    ) / "python"  # fmt: skip
    settings = {"base_model": "tiny", "data": prepared["test"], "output": tmp_path / "evaluation"}
    flags = ("--shards", 4, "--at_once", 1, "--python", python)
    client.stage("evaluate", settings, *flags)
    first = Record(tmp_path / "evaluation" / "slurm" / "evaluate_shards" / "0").request["job_id"]
    assert "ArrayTaskThrottle=1 " in show(first.split("_")[0]) + " "
    client.finish()
    assert log.read_text().split() == ["start", "end"] * 5


@pytest.mark.parametrize("name", ["100%done", "run%j", "a\\b", "a\nb"])
def test_a_run_folder_that_slurm_would_name_otherwise(name, prepared, tmp_path):
    settings = settings_of("sft", prepared, {}, tmp_path / name)
    done = submit("stage", "train_sft", *flags_of(settings), "--dry_run")
    assert (done.returncode, "SLURM puts something else" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("hosts", "heard"), [("login.site\n", False), ("login\nn1\n", True)])
def test_a_run_folder_that_nodes_may_not_see(hosts, heard, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cluster_of_slurm, "ask", lambda *command: hosts)
    monkeypatch.setattr("socket.gethostname", lambda: "login.site")
    cluster_of_slurm.warn_if_not_shared(tmp_path / "not" / "made")
    assert ("jobs on n1 end at once" in capsys.readouterr().err) == heard


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--partition", "gpu,nowhere"], "invalid partition specified: nowhere"),
        (["--nodes", 3], "SLURM refuses: allocation failure"),
        (["--gpus_per_node", "a100:1"], "configuration is not available"),
        (["--time", "2-00:00:00"], "2-00:00:00 is more than gpu allows, 1-00:00:00"),
        (["--partition", "cpu,gpu", "--time", "25:00:00"], "more than cpu, gpu allows"),
        (["--nodelist", "n9"], "SLURM refuses"),
        (["--time", "soon"], "no duration"),
        (["--nodez", 2], "did you mean 'nodes'"),
        (["--max_stepz", 2], "did you mean 'max_steps'"),
        (["--accelerate_config", "none.yaml"], "no such config file"),
        (["--sbatch", "licences=x"], "unrecognized option '--licences=x'"),
        (["--srun", "container-image=x"], "unrecognized option '--container-image=x'"),
        (["--after", 999999], "job 999999 is not known to SLURM"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_submitted(
    flags, message, client, prepared, tmp_path
):
    settings = settings_of("sft", prepared, {}, tmp_path / "sft")
    shown = client.stage("train_sft", settings, *flags, ok=False)
    assert message in shown
    assert "fix:" in shown
    assert not client.queue()
    assert not (tmp_path / "sft").exists()


@pytest.mark.parametrize("slurm", [True, False], ids=["login node", "laptop"])
def test_a_dry_run_shows_everything_and_does_nothing(
    slurm, client, prepared, tmp_path, monkeypatch
):
    content = pipeline_file(tmp_path, prepared)
    file = write_yaml(tmp_path / "pipeline.yaml", content)
    if not slurm:
        monkeypatch.setattr("shutil.which", lambda program: None)
    shown = client.submit("pipeline", "--cfg", file, "--cluster", CLUSTER_FILE, "--dry_run")
    assert ("not checked, as there is no SLURM" in shown) == (not slurm)
    for words in (
        "#SBATCH --nodes=2", "#SBATCH --job-name=run.sft\n", "#SBATCH --array=0-1%2",
        "#SBATCH --dependency=", "<sft>",
        "cpu_zero2.yaml", "medvqa train_grpo", "num_generations: 4", "srun ",
    ):  # fmt: skip
        assert words in shown, words
    assert not (tmp_path / "run").exists()
    assert not client.queue()


def test_a_run_that_was_not_submitted_from_here_is_left_alone(client, prepared, trained, tmp_path):
    shutil.copytree(trained["sft"], tmp_path / "sft")
    settings = settings_of("sft", prepared, {}, tmp_path / "sft", max_steps=1)
    shown = client.stage("train_sft", settings, ok=False)
    assert "holds a run that was not submitted from here" in shown
    assert not client.queue()


def test_without_slurm_it_says_what_to_do(prepared, tmp_path):
    """The script itself, as a user starts it."""
    settings = settings_of("sft", prepared, {}, tmp_path / "sft")
    done = subprocess.run(
        [sys.executable, "slurm/submit.py", "stage", "train_sft", *flags_of(settings)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PATH": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "run this on a login node" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_nothing(tmp_path):
    done = submit("status", tmp_path)
    assert done.returncode == 2
    assert "nothing was submitted" in done.stderr


def test_options_variables_and_a_container_arrive_and_it_waits_for_another(
    client, prepared, tmp_path
):
    """One job that is all of these. And its state when SLURM has forgotten it: what was written
    down counts."""
    output = tmp_path / "train.json"
    settings = {
        "dataset": "SLAKE", "slake_root": prepared["train"].parent / "SLAKE", "output": output,
    }  # fmt: skip
    image = Image(tmp_path)
    outer = ask("sbatch", "--parsable", "--hold", "--mem=100", "-o", "/dev/null", "--wrap", "true")
    outer = outer.strip()
    passed = ("comment=two words", "mail-user=a@b.org", "mail-type=FAIL", "nice=7", "exclusive")
    shown = client.stage(
        "prepare_data", settings, "--after", outer, "--sbatch", *passed, *image.flags,
        "HF_HOME=/a b/$HOME", "NOTE='\"",
    )  # fmt: skip
    run_folder = tmp_path / "train.json.run"
    record = Record(run_folder / "slurm" / "prepare_data")
    job_id = record.request["job_id"]
    assert f"prepare_data: job {job_id}, after {outer}" in shown
    assert f"afterok:{outer}(unfulfilled)" in show(job_id)
    subprocess.run(["scontrol", "release", outer], check=True)
    client.finish()
    job = show(job_id)
    for arrived in (
        "Comment=two words", "MailUser=a@b.org", "MailType=FAIL", "OverSubscribe=NO", "Nice=7",
        "JobName=train.json.run.prepare_data", "JobState=COMPLETED",
    ):  # fmt: skip
        assert arrived in job, job
    assert re.search(r"EndTime=(\S+)", show(outer))[1] <= re.search(r"StartTime=(\S+)", job)[1]
    seen = image.seen.read_bytes().split(b"\0")
    assert {b"HF_HOME=/a b/$HOME", b"NOTE='\""} <= set(seen)
    binds = f"--bind {run_folder} --bind {ROOT} --pwd {ROOT}"
    assert image.calls.read_text().startswith(f"exec --nv {binds} phantom.sif bash -c trap")

    def status() -> dict:
        return client.status(run_folder)["prepare_data"]

    record.write_request(**record.request | {"job_id": "999999"})
    assert status()["state"] == "COMPLETED"
    (record.folder / "done.json").unlink()
    assert (status()["state"], status()["why"]) == (
        "UNKNOWN", "SLURM has forgotten it, and it never started",
    )  # fmt: skip
    record.append_event("start", job_id="999999", restarts=0, done=0, nodes=["n1"])
    assert "ended without a word" in status()["why"]
    record.append_event("end", job_id="999999", code=1)
    assert (status()["state"], status()["why"]) == ("FAILED", "exit code 1")
    assert ask("squeue", "--noheader") == ""
