"""A study on SLURM: the runs that one machine would do one after the other, as jobs."""

import json

import pytest
from slurm_client import CLUSTER_FILE, logs_of, write_yaml

from kit.errors import ConfigError
from kit.study import study as runner
from kit.study.config import StudyConfig
from kit.study.plan import plan
from kit.study.study_file import read_study
from slurm.plan import fingerprints
from slurm.records import Record
from slurm.resources import Cluster
from slurm.study import read_study_jobs

pytestmark = pytest.mark.xdist_group("slurm")


def small(folder, prepared, **changes) -> dict:
    """One seed, and one system beside its start."""
    train = {"save_steps": 0, "report_to": "none", "per_device_train_batch_size": 2}
    return {
        "output": str(folder / "out"),
        "seeds": [0],
        "data": {"train": str(prepared["train"]), "test": str(prepared["few"])},
        "train_sft": train | {"cfg": "sft_tiny", "max_steps": 2, "lora_r": 4},
        "train_grpo": train | {
            "cfg": "grpo_tiny", "max_steps": 1, "num_generations": 2, "max_completion_length": 16,
            "counterfactual": "off",
        },
        "evaluate": {
            "prompting_mode": "caption_reason_answer", "max_records": 4, "max_new_tokens": 60,
        },
        "systems": {"plain": {"weights": "format=0.2,answer=0.8"}},
    } | changes  # fmt: skip


def jobs_of(path) -> dict:
    _, jobs = read_study_jobs(path, Cluster(CLUSTER_FILE), None)
    return {job.name: job for job in jobs}


def test_a_job_waits_for_what_its_run_reads_and_the_page_for_all(tmp_path, prepared):
    resources = {"train_grpo": {"time": "00:07:00"}}
    content = small(tmp_path, prepared, seeds=[0, 1], choose_prompts={}, resources=resources)
    path = write_yaml(tmp_path / "small.yaml", content)
    runs, jobs = plan(read_study(path)), jobs_of(path)
    assert len(jobs) == len(runs) + 1
    for run in runs:
        job = jobs[run.name.replace("/", ".")]
        assert set(job.after) == {name.replace("/", ".") for name in run.after}
        assert job.works[0].config == run.config
        assert (job.resources.time == "00:07:00") == (run.command == "train_grpo")
    asked = {run.name.replace("/", ".") for run in runs if run.evaluation}
    assert set(jobs["page"].after) == asked
    before = fingerprints([*jobs.values()])
    content["systems"]["plain"]["beta"] = 0.5
    after = fingerprints([*jobs_of(write_yaml(path, content)).values()])
    changed = {name for name in before if before[name] != after[name]}
    of_plain = {
        f"seed{s}.plain.{stage}" for s in (0, 1) for stage in ("train_grpo", "evaluate_test")
    }
    assert changed == {*of_plain, "page"}, "a system that changes makes its own runs anew"


def test_resources_of_what_is_not_run(tmp_path, prepared):
    content = small(tmp_path, prepared, resources={"train_gpro": {"time": "00:07:00"}})
    with pytest.raises(ConfigError, match="no run is a train_gpro"):
        jobs_of(write_yaml(tmp_path / "small.yaml", content))


@pytest.mark.slow
def test_a_study_runs_to_its_page_and_is_known_on_the_login_node(client, prepared, tmp_path):
    other = {"train_grpo": False, "train_sft": {"lora_r": 2}}
    content = small(tmp_path, prepared, systems={"narrow": other})  # side by side on two nodes
    path = write_yaml(tmp_path / "small.yaml", content)
    command = ("study", "--cfg", path, "--cluster", CLUSTER_FILE)
    assert "page: job" in client.submit(*command)
    client.finish()
    states = {name: row["state"] for name, row in client.status(tmp_path / "out").items()}
    for name, state in states.items():
        folder = Record(tmp_path / "out" / "slurm" / name).folder
        assert state == "COMPLETED", (name, logs_of(folder))
    assert len(states) == 5
    found = json.loads((tmp_path / "out/page/study.json").read_text())
    assert (found["done"], found["runs"]) == (4, 4)
    assert {d["system"] for d in found["views"][0]["differences"]} == {"narrow"}
    assert found["hours_in_all"] >= 0
    assert "page: done and unchanged" in client.submit(*command)
    assert runner.study(StudyConfig(study=str(path), dry_run=True)) == 0
    assert runner.study(StudyConfig(study=str(path))) == 0, "nothing is run again"
