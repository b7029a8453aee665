"""Plans: what waits for what, what a job asks for, and what makes a result another one."""

import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from launch_files import FILES, REFUSED, write
from slurm_client import CLUSTER_FILE

from kit.cli import COMMANDS
from kit.errors import ConfigError
from kit.evaluate.config import EvaluateConfig
from kit.train.config import SftConfig
from slurm import cluster as cluster_of_slurm
from slurm import submit
from slurm.plan import PipelineEntry, fingerprints, in_order, jobs_of, read_pipeline
from slurm.resources import Cluster, Resources, minutes_of
from slurm.stages import STAGES
from slurm.sweep import points, read_sweep

SLURM = ROOT / "slurm"
ZERO2, ZERO3 = (ROOT / "accelerate_configs" / f"{name}.yaml" for name in ("cpu_zero2", "cpu_zero3"))


pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def pipeline(tmp_path, change=lambda content: None) -> dict:
    """The jobs of the local pipeline by name, after a change to its file."""
    content = yaml.safe_load((CLUSTER_FILE.with_name("pipeline.yaml")).read_text())
    change(content)
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    _, jobs = read_pipeline(path, Cluster(CLUSTER_FILE), str(tmp_path / "run"))
    return {job.name: job for job in jobs}


# ------------------------------------------------------------------------ shipped files
@pytest.mark.parametrize("name", STAGES)
def test_each_stage_names_a_function_that_takes_its_configuration(name):
    run, stage = COMMANDS[name].entry_point, STAGES[name]
    (parameter,) = inspect.signature(run).parameters.values()
    assert typing.get_type_hints(run)[parameter.name] is stage.config_class
    assert {stage.output} <= {f.name for f in dataclasses.fields(stage.config_class)}


@pytest.mark.parametrize("folder", [SLURM, CLUSTER_FILE.parent], ids=["slurm", "local"])
def test_shipped_pipelines(folder):
    _, jobs = read_pipeline(folder / "pipeline.yaml", Cluster(folder / "cluster.yaml"), None)
    names = [job.name for job in jobs]
    after = {job.name: set(job.after) for job in jobs}
    assert after["sft"] == {"prepare_train"}
    assert after["cf_proxy_shards"] == {"prepare_train", "sft"}
    assert after["grpo"] == {"cf_proxy", "sft"}
    assert {"sft", "prepare_test"} <= after["evaluate_sft"]
    assert after["report"] == {"evaluate_base", "evaluate_sft", "evaluate_grpo"}
    assert all(names.index(name) < names.index(job.name) for job in jobs for name in job.after)
    for job in jobs:
        light = job.works[0].stage.kind == "cpu" or (
            job.shards_of is None and job.after and f"{job.name}_shards" in job.after
        )
        assert (job.resources.gpus == 0) == bool(light), job.name


def test_shipped_sweep():
    folder, (runs,) = read_sweep(SLURM / "sweep.yaml", Cluster(SLURM / "cluster.yaml"), None)
    assert len(runs.works) == 2 * 2 * 2 * 3
    assert runs.at_once == 4
    outputs = {work.output for work in runs.works}
    assert len(outputs) == len(runs.works)
    assert all(re.fullmatch(r"[\w.=-]+", path.name) for path in outputs)
    assert all(path.parent == folder for path in outputs)


# ------------------------------------------------------------------------ order
def test_stages_run_in_the_order_of_their_data_however_they_are_written(tmp_path):
    def reverse(content):
        content["stages"] = dict(reversed(content["stages"].items()))

    straight, reversed_ = pipeline(tmp_path), pipeline(tmp_path, reverse)
    assert {n: set(j.after) for n, j in straight.items()} == {
        n: set(j.after) for n, j in reversed_.items()
    }
    names = list(reversed_)
    assert all(names.index(a) < names.index(n) for n, j in reversed_.items() for a in j.after)


def test_stages_that_wait_for_each_other(tmp_path):
    def circle(content):
        content["stages"]["sft"]["config"]["data"] = "{run}/data/grpo.jsonl"

    with pytest.raises(ConfigError, match="wait for each other"):
        pipeline(tmp_path, circle)


def test_two_stages_that_write_the_same(tmp_path):
    def twice(content):
        content["stages"]["evaluate_sft"]["config"]["output"] = "{run}/evaluate_base"

    with pytest.raises(ConfigError, match="both write"):
        pipeline(tmp_path, twice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(stage=1), "unknown key 'stage'"),
        (lambda c: c["stages"]["sft"].update(acelerate_config="x"), "did you mean|unknown key"),
        (lambda c: c["stages"]["sft"].update(stage="train"), "there is no stage 'train'"),
        (lambda c: c["stages"]["sft"]["config"].update(lr=1), "unknown key 'lr'"),
        (lambda c: c["stages"]["sft"]["config"].update(lora_r="many"), "lora_r"),
        (lambda c: c["stages"]["sft"].update(resources={"gpu": 1}), "unknown key 'gpu'"),
        (lambda c: c["stages"]["sft"].update(shards=2), "cannot be split"),
        (lambda c: c["stages"].update(sft=3), "must be a mapping"),
        (lambda c: c["stages"].clear(), "no stages"),
        (lambda c: c["stages"]["sft"].update(accelerate_config="none.yaml"), "no such config"),
        (
            lambda c: c["stages"]["sft"].update(
                accelerate_config="accelerate_configs/single_gpu.yaml"
            ),
            "2 processes under a configuration for one",
        ),
        (lambda c: c["stages"]["sft"].update(resources={"time": "soon"}), "no duration"),
        (lambda c: c["stages"]["sft"].update(resources={"nodes": 0}), "nodes must be at least 1"),
        (lambda c: c["stages"]["sft"].update(resources={"nodes": 2.0}), "nodes.*'2.0'"),
        (lambda c: c["stages"]["sft"].update(resources=4), "must be a mapping"),
        (lambda c: c["stages"]["sft"].update(config=["a"]), "must be a mapping"),
        (lambda c: c["stages"]["cf_proxy"].update(shards=0), "shards must be at least 1"),
        (lambda c: c["stages"]["cf_proxy"].update(shards="two"), "shards.*'two'"),
        (lambda c: c["stages"]["cf_proxy"].update(at_once=0), "at_once must be at least 1"),
        (lambda c: c["stages"]["sft"].update(at_once=2), "at_once 2 of one job"),
        (lambda c: c.update(stages=["sft"]), "must be a mapping"),
        (lambda c: c["stages"].update({"../sft": c["stages"].pop("sft")}), "cannot name a stage"),
        (lambda c: c["stages"].update({"50%": c["stages"].pop("sft")}), "cannot name a stage"),
        (
            lambda c: c["stages"]["sft"].update(resources={"signal_delay_s": 9999}),
            "the signal to save",
        ),
    ],
)
def test_mistakes_in_a_pipeline_file(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        pipeline(tmp_path, change)


LAUNCHES = {
    name: (accelerate, deepspeed, said)
    for name, (accelerate, deepspeed, stage, said) in FILES.items()
    if isinstance(said, str) and not stage
} | {name: (accelerate, None, said) for name, accelerate, said in REFUSED}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_that_a_run_would_refuse_is_not_queued(name, tmp_path):
    """Nor one under which the numbers of the stage are others."""
    accelerate, deepspeed, said = LAUNCHES[name]
    launch = str(write(tmp_path / "launch", accelerate, deepspeed))

    def under(content):
        content["stages"]["sft"]["accelerate_config"] = launch
        numbers = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2}
        content["stages"]["sft"]["config"] |= numbers

    with pytest.raises(ConfigError, match=re.escape(said)):
        pipeline(tmp_path, under)


# ------------------------------------------------------------------------ resources
@given(
    days=st.integers(0, 9), hours=st.integers(0, 23), minutes=st.integers(0, 59),
    seconds=st.integers(0, 59),
)  # fmt: skip
def test_durations(days, hours, minutes, seconds):
    exact = days * 1440 + hours * 60 + minutes + (seconds > 0)
    assert minutes_of(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == exact
    assert minutes_of(f"{hours}:{minutes:02}:{seconds:02}") == exact - days * 1440
    assert minutes_of(f"{minutes}:{seconds:02}") == minutes + (seconds > 0)


def gpu_job(text: str, tmp_path) -> Resources:
    """What a training run asks for under a cluster.yaml whose part ``gpu`` says this."""
    path = tmp_path / "cluster.yaml"
    path.write_text(f"setup: [module load cuda]\ncpu: {{partition: c}}\ngpu:\n  {text}\n")
    return Cluster(path).resources("gpu")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("time: 12:00:00", "minutes", 720),  # 43200 to YAML 1.1
        ("time: 1-12", "minutes", 36 * 60),
        ("time: 0100", "minutes", 100),  # 64
        ("time: 12:30", "minutes", 13),  # 750; minutes and seconds to SLURM
        ("begin: 16:00", "begin", "16:00"),  # 960
        ("begin: 2030-01-20T12:34:00", "begin", "2030-01-20T12:34:00"),  # a date
        ("account: 0123", "account", "0123"),  # 83
        ("account: 12_3", "account", "12_3"),  # 123
        ("account: 1.10", "account", "1.10"),  # 1.1
        ("partition: NO", "partition", "NO"),  # False
        ("partition: a,b", "partition", "a,b"),
        ("partition:", "partition", None),
        ('nodes: "4"', "nodes", 4),
        ("gpus_per_node: a100:4", "gpus", 4),
        ("gpus_per_node: a100:4", "per_node", 4),
        ('gpus_per_node: "2"', "tasks", 2),
        ("setup: source ~/venv/bin/activate", "setup", ["source ~/venv/bin/activate"]),
        ("setup: []", "setup", []),  # over what is said for all
        ("<<: {qos: long}", "qos", "long"),
    ],
)
def test_values_of_a_cluster_file_mean_what_they_say(text, key, value, tmp_path):
    assert getattr(gpu_job(text, tmp_path), key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mem_gb: 128GB", "mem_gb.*'128GB'"),
        ("mem_gb: 1.5", "mem_gb.*'1.5'"),
        ("nodes: 2.0", "nodes: invalid int value: '2.0'"),
        ("nodes: 1-4", "nodes.*'1-4'"),
        ("nodes: yes", "nodes.*'yes'"),
        ("nodes: .inf", "nodes.*'.inf'"),
        ("nodes: [1, 2]", "takes one value, not a list"),
        ("nodes: -1", "at least 1, not -1"),
        ("gpus_per_node: -1", "gpus_per_node must be"),
        ("gpus_per_node: a100", "gpus_per_node must be"),
        ("gpus_per_node: {a100: 4}", "takes no mapping"),
        ("partition: [a, b]", "takes one value, not a list"),
        ("signal_delay_s: 5:00", "signal_delay_s.*'5:00'"),
        ("time: 1_0", "no duration"),
        ("time: 1:00:00:00", "no duration"),
        ("time: unlimited", "no duration"),
        ("setup: [export A: b]", "quotation marks"),
        ("setup: [~]", "quotation marks"),
        ("qos: a\n  qos: b", "stands twice"),
        ("\tqos: a", "cannot read"),
        ("[a]", "must be a mapping"),
        ("parition: a", "did you mean 'partition'"),
    ],
)
def test_values_of_a_cluster_file_that_mean_nothing(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        gpu_job(text, tmp_path)
    assert caught.value.fix


def test_resources_of_a_job_flags_over_cluster_over_accelerate(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("account: us\ncpu: {partition: c}\ngpu: {gpus_per_node: 4, nodes: 3}\n")
    machines = ROOT / "accelerate_configs" / "multi_node_zero3.yaml"
    cluster = Cluster(path)
    assert cluster.read("cpu") == {"account": "us", "partition": "c"}
    assert cluster.resources("gpu", machines).nodes == 3
    assert cluster.resources("gpu", machines, {"nodes": 5}).nodes == 5
    assert Cluster(path, {"nodes": 7}).resources("gpu", machines, {"nodes": 5}).nodes == 7
    path.write_text("gpu: {gpus_per_node: 4}\n")
    two = cluster.resources("gpu", machines)
    assert (two.nodes, two.per_node, two.tasks) == (2, 4, 8)
    path.write_text("gpu: {}\n")
    config = SftConfig(base_model="tiny", data="a", output_dir="b")
    entry = PipelineEntry("train_sft", accelerate_config=str(ZERO2))
    (job,) = jobs_of("sft", entry, config, cluster, "here")
    assert job.resources.tasks == 2, "without GPUs, as many as the accelerate config says"


# ------------------------------------------------------------------------ what is passed through
PASSED = """
account: us
sbatch: {mail-type: [END, FAIL], mail-user: a@b.org, exclusive: true, comment: two words}
srun: {mpi: pmix}
env: {HF_HOME: "/a b/$HOME", NCCL_DEBUG: INFO, QUIET: no}
cpu: {partition: c}
gpu:
  gpus_per_node: a100:4
  sbatch: {exclusive: false, licenses: "x:2", gres: nvme:1}
  env: {NCCL_DEBUG: WARN, NOTE: "it's"}
"""


def header_of(resources: Resources, tmp_path) -> str:
    """The sbatch file of a job that asks for these."""
    code = tmp_path / "run" / "slurm" / "code"
    logs = tmp_path / "run" / "slurm" / "sft" / "logs"
    return cluster_of_slurm.header(cluster_of_slurm.executor_for(logs, code, "x", resources), 1)


def options_of(header: str) -> set[str]:
    return set(re.findall(r"^#SBATCH (--.*)$", header, re.MULTILINE))


def test_options_and_variables_of_a_cluster_file_reach_the_sbatch_file(tmp_path):
    """Those of a part, a stage and flags go over those for all, each by its name."""
    path = tmp_path / "cluster.yaml"
    path.write_text(PASSED)
    flags = {"env": ["NOTE=$(touch x) \"'"], "sbatch": ["comment=mine"]}
    entry = PipelineEntry("train_sft", resources={"srun": ["--cpu-bind=cores"]})
    own = entry.own("pipeline.yaml")
    header = header_of(Cluster(path, flags).resources("gpu", None, own), tmp_path)
    assert options_of(header) > {
        "--mail-type=END,FAIL", "--mail-user=a@b.org", "--licenses=x:2", "--gres=nvme:1",
        "--comment=mine", "--gpus-per-node=a100:4", "--ntasks-per-node=4", "--requeue",
        "--account=us",
    }  # fmt: skip
    assert "--exclusive" not in header
    assert "--mpi=pmix --cpu-bind=cores bash" in header
    script = header.partition("# command")[0] + "printenv -0 HF_HOME NCCL_DEBUG QUIET NOTE"
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout.split("\0") == ["/a b/$HOME", "WARN", "no", "$(touch x) \"'", ""]
    assert not (tmp_path / "x").exists()
    assert "--exclusive" in options_of(header_of(Cluster(path).resources("cpu"), tmp_path))


def test_gpus_of_a_type_and_as_gres(tmp_path):
    gres = Resources(sbatch=["gres=gpu:h100:8,nvme:1", "gres-flags=enforce-binding"])
    assert (gres.gpus, gres.tasks) == (8, 8)
    assert "--gres=gpu:h100:8,nvme:1" in options_of(header_of(gres, tmp_path))
    assert "gpus-per-node" not in header_of(gres, tmp_path)
    mig = Resources(gpus_per_node="3g.20gb:2")
    assert mig.gpus == 2
    assert "--gpus-per-node=3g.20gb:2" in options_of(header_of(mig, tmp_path))


def test_merging_is_paid_by_the_same_account_and_asks_for_no_gpu(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("cpu: {partition: c}\ngpu: {partition: g}\n")
    flags = {
        "account": "us", "partition": "g", "nodes": 2, "env": ["A=1"],
        "sbatch": ["gres=gpu:a100:1", "mail-type=END"],
    }  # fmt: skip
    config = EvaluateConfig(base_model="tiny", data="a", output="b")
    entry = PipelineEntry("evaluate", shards=8, at_once=2)
    shards, merge = jobs_of("evaluate", entry, config, Cluster(path, flags), "here")
    assert (len(shards.works), shards.at_once, shards.resources.gpus) == (8, 2, 1)
    light = merge.resources
    assert (light.account, light.partition, light.nodes, light.gpus) == ("us", "c", 1, 0)
    assert (light.env, light.sbatch) == (["A=1"], ["mail-type=END"])


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("sbatch: {partition: other}", "sbatch partition=other contradicts partition: g"),
        ("sbatch: {time: 5}", "sbatch time=5 contradicts time: 01:00:00"),
        ("sbatch: {ntasks: 3}", "sbatch ntasks=3 contradicts tasks_per_node: 0"),
        ("sbatch: {gpus: 3}", "sbatch gpus=3 contradicts gpus_per_node: 2"),
        ("sbatch: {gres: 'gpu:3'}", "sbatch gres=gpu:3 contradicts gpus_per_node: 2"),
        ("sbatch: {mem: 0}\n  mem_gb: 4", "sbatch mem=0 contradicts mem_gb: 4"),
        ("sbatch: {signal: B:TERM}", "sbatch signal=B:TERM contradicts signal_delay_s: 120"),
        ("sbatch: {dependency: singleton}", "sbatch dependency=singleton contradicts after: "),
        ("sbatch: {no-requeue: true}", "sbatch no-requeue contradicts requeue, which the kit sets"),
        ("sbatch: {open-mode: truncate}", "open-mode=truncate contradicts open-mode=append"),
        ("sbatch: [array=1-3]", "array=1-3 contradicts array=0-SHARDS"),
        ("srun: {kill-on-bad-exit: 0}", "kill-on-bad-exit=0 contradicts kill-on-bad-exit=1"),
        ("srun: {export: NONE}", "srun export=NONE contradicts export=ALL, which the kit sets"),
        ("srun: [nodes=1]", "srun nodes=1 contradicts nodes: 1"),
        ("env: {WORLD_SIZE: 3}", "WORLD_SIZE=3 contradicts WORLD_SIZE as the job sets it"),
        ("sbatch: {A: us}", "'A=us' is no option of sbatch"),
        ("srun: [-n 2]", "'-n 2' is no option of srun"),
        ("sbatch: {comment: \"a\\nb\"}", "is no option of sbatch"),
        ("sbatch: {exclusive: }", "exclusive has no value"),
        ("env: {A-B: 1}", "'A-B=1' sets no variable"),
        ("env: [A]", "'A' sets no variable"),
        ("env: {A: }", "A has no value"),
        ("after: [soon]", "'soon' is no job"),
    ],
)  # fmt: skip
def test_what_contradicts_the_kit_is_told_with_both(text, both, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(both)) as caught:
        gpu_job(f'{text}\n  partition: g\n  gpus_per_node: 2\n  time: "01:00:00"', tmp_path)
    assert caught.value.fix


def test_what_the_kit_says_too_contradicts_nothing(tmp_path):
    job = gpu_job(
        "sbatch: {requeue: true, mem: 0, export: NONE}\n  srun: {kill-on-bad-exit: 1}", tmp_path
    )
    assert options_of(header_of(job, tmp_path)) >= {"--requeue", "--mem=0"}


@pytest.mark.parametrize(
    ("keys", "started"),
    [
        (
            {"container": "/images/m 1.sif", "bind": ["/scratch"]},
            "apptainer exec --nv --bind RUN --bind HERE --bind /scratch --pwd HERE "
            "'/images/m 1.sif' bash -c TRAP -- python",
        ),
        (
            {"container": "m.sif", "container_exec": "singularity exec", "python": "python3"},
            "singularity exec --bind RUN --bind HERE --pwd HERE m.sif bash -c TRAP -- python3",
        ),
        ({"python": "/opt/env/bin/python"}, "/opt/env/bin/python"),
        ({}, sys.executable),
    ],
    ids=["apptainer", "singularity", "python", "plain"],
)  # fmt: skip
def test_the_command_line_in_a_container(keys, started, tmp_path, monkeypatch):
    """As it would run, the signal that asks to save being ignored until Python listens, on either
    side."""
    here = tmp_path / "my project"
    here.mkdir()
    monkeypatch.chdir(here)
    lines = header_of(Resources(**keys), tmp_path).splitlines()
    (line,) = (x for x in lines if x.startswith("srun "))
    words = shlex.split(line)
    trap = "trap '' USR2; exec \"$@\""
    expected = [
        {"RUN": str(tmp_path / "run"), "HERE": str(here), "TRAP": trap}.get(word, word)
        for word in shlex.split(started)
    ]
    assert words[words.index("bash") :] == [
        "bash", "-c", trap, "--", *expected, "-u", "-m", "submitit.core._submit",
        str(tmp_path / "run" / "slurm" / "sft" / "logs"),
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["srun", "sbatch"])
def test_the_options_of_pyxis(key, tmp_path):
    """Are srun's, as a batch script in an image would find no srun there."""
    image = "nvcr.io#nvidia/pytorch:25.01-py3"
    keys = {key: [f"container-image={image}", "container-mounts=/scratch:/scratch"]}
    header = header_of(Resources(**keys), tmp_path)
    assert not [x for x in options_of(header) if x.startswith("--container")]
    (line,) = (x for x in header.splitlines() if x.startswith("srun "))
    words = shlex.split(line)
    assert words[words.index("--export=ALL") + 1 : words.index("bash")] == [
        f"--container-image={image}", "--container-mounts=/scratch:/scratch",
        f"--container-workdir={ROOT}",
    ]  # fmt: skip
    assert words[words.index("--") + 1] == "python"


# ------------------------------------------------------------------------ fingerprints
def prints(tmp_path, change=lambda content: None) -> dict[str, str]:
    return fingerprints(list(pipeline(tmp_path, change).values()))


def differing(a: dict, b: dict) -> set[str]:
    return {name.split("/")[0] for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


def test_a_change_makes_anew_what_depends_on_it_and_nothing_else(tmp_path):
    before = prints(tmp_path)
    assert prints(tmp_path) == before

    def slower(content):
        content["stages"]["grpo"]["config"]["learning_rate"] = 1e-6

    grpo = {"grpo", "evaluate_grpo_shards", "evaluate_grpo", "report"}
    assert differing(before, prints(tmp_path, slower)) == grpo

    def spread(content):
        content["stages"]["grpo"]["accelerate_config"] = str(ZERO3)

    assert differing(before, prints(tmp_path, spread)) == grpo

    def one_node(content):
        content["stages"]["grpo"]["resources"] = {"nodes": 1}

    assert differing(before, prints(tmp_path, one_node)) == grpo


def test_what_changes_no_number_makes_nothing_anew(tmp_path):
    before = prints(tmp_path)

    def elsewhere(content):
        for entry in content["stages"].values():
            entry.setdefault("resources", {})["time"] = "00:45:00"
        content["stages"]["evaluate_sft"]["shards"] = 2  # its shards are new, the result is not

    assert differing(before, prints(tmp_path, elsewhere)) == {"evaluate_sft_shards"}


def test_what_is_read_counts_by_its_content(tmp_path):
    data = tmp_path / "phantoms"
    data.mkdir()
    (data / "train.json").write_text("[]")

    def other_root(content):
        content["stages"]["prepare_test"]["config"]["slake_root"] = str(data)

    before = prints(tmp_path, other_root)
    assert prints(tmp_path, other_root) == before
    (data / "train.json").write_text("[1]")
    changed = differing(before, prints(tmp_path, other_root))
    assert "prepare_test" in changed
    assert not changed & {"prepare_train", "sft", "cf_proxy", "grpo"}


def test_a_file_that_is_read_counts_by_its_content(tmp_path):
    """Not by its name, size or age."""
    held_out = tmp_path / "held_out.json"
    held_out.write_text("[0]")
    age = held_out.stat().st_mtime_ns

    def own(content):
        content["stages"]["sft"]["config"]["eval_data"] = str(held_out)

    before = prints(tmp_path, own)
    held_out.write_text("[1]")
    os.utime(held_out, ns=(age, age))
    assert "sft" in differing(before, prints(tmp_path, own))


def test_deepspeed_settings_count_by_their_content(tmp_path):
    settings = tmp_path / "deepspeed.json"
    settings.write_text((ROOT / "ds_configs" / "zero2.json").read_text())
    launch = tmp_path / "accelerate.yaml"
    launch.write_text(ZERO2.read_text().replace("ds_configs/zero2.json", str(settings)))

    def own(content):
        content["stages"]["sft"]["accelerate_config"] = str(launch)

    before = prints(tmp_path, own)
    settings.write_text(settings.read_text().replace("50000000", "40000000"))
    assert "sft" in differing(before, prints(tmp_path, own))


# ------------------------------------------------------------------------ sweeps
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: 3", "must be a mapping"),
        ("grid: {seed: [1]}\nat_once: 0", "at_once must be at least 1"),
        ("grid: {seed: [1]}\nat_once: 2.0", "at_once.*'2.0'"),
        ("grid: {seed: [1]}\nshards: 2", "unknown key 'shards'"),
        ("grid: {seed: [1, 01]}\nconfig: {data: [a]}", "takes one value"),
        ("grid: {seed: [1, 1]}\nconfig: {data: a}", "two runs are named seed=1"),
        ("grid: {data: [a/b, a-b]}", "two runs are named data=a-b"),
    ],
)
def test_mistakes_in_a_sweep_file(text, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"stage: train_sft\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        read_sweep(path, Cluster(CLUSTER_FILE), str(tmp_path))


@pytest.mark.parametrize("grid", [{}, {"seed": 3}, {"seed": []}])
def test_no_grid(grid):
    with pytest.raises(ConfigError, match="grid"):
        points(grid, "sweep.yaml")


def test_a_sweep_of_what_does_not_train(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("stage: evaluate\ngrid: {seed: [1]}\n")
    with pytest.raises(ConfigError, match="only training can be swept"):
        read_sweep(path, Cluster(CLUSTER_FILE), None)


def test_runs_of_a_sweep_wait_for_nothing_of_each_other(tmp_path):
    path = tmp_path / "sweep.yaml"
    content = {"stage": "train_sft", "config": {"data": "a.json"}, "grid": {"seed": [1, 2]}}
    path.write_text(yaml.safe_dump(content))
    _, jobs = read_sweep(path, Cluster(CLUSTER_FILE), str(tmp_path / "run"))
    assert [job.after for job in in_order(jobs[:1], path)] == [()]
    assert Path(jobs[0].works[1].config.output_dir).name == "seed=2"


# ------------------------------------------------------------------------ slurm/README.md
README = (SLURM / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("site", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_the_sites_of_the_readme_are_cluster_files(site, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(site)
    _, jobs = read_pipeline(SLURM / "pipeline.yaml", Cluster(path), str(tmp_path / "run"))
    sft = next(job for job in jobs if job.name == "sft")
    assert (sft.resources.gpus > 1, sft.resources.gpus) == (True, sft.resources.per_node)
    header_of(sft.resources, tmp_path)


def test_the_readme_names_every_key():
    named = set(re.findall(r"`(\w+)`", README))
    assert {f.name for f in dataclasses.fields(Resources)} <= named
    assert len(re.findall(r"```yaml", README)) == 3


@pytest.mark.slow
def test_the_commands_of_the_readme_are_read(tmp_path, monkeypatch, capsys):
    """Each by its own parser, with --dry_run; there is no SLURM here."""
    monkeypatch.setattr("shutil.which", lambda program: None)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", "")
    read = 0
    for line in blocks.splitlines():
        words = shlex.split(line.partition(" #")[0])
        if words[:2] == ["medvqa", "slurm"] and words[2] not in ("status", "cancel"):
            assert submit.main([*words[2:], "--dry_run", "--run_dir", str(tmp_path / "run")]) == 0
            read += 1
    assert read >= 6
    assert "#SBATCH --gpus-per-node=a100:4" in capsys.readouterr().out
