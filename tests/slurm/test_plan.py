"""Plans: what waits for what, what a job asks for, and what makes a result another one."""

import inspect
import os
import re
import typing
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from launch_files import FILES, REFUSED, write
from slurm_client import CLUSTER_FILE

from kit.errors import ConfigError
from kit.train.config import SftConfig
from slurm.plan import fingerprints, in_order, job_of, read_pipeline, resources_of
from slurm.resources import Resources, minutes_of, read_cluster
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
    content = yaml.safe_load((SLURM / "local_cluster" / "pipeline.yaml").read_text())
    change(content)
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    _, jobs = read_pipeline(path, CLUSTER_FILE, str(tmp_path / "run"))
    return {job.name: job for job in jobs}


# ------------------------------------------------------------------------ shipped files
@pytest.mark.parametrize("name", STAGES)
def test_each_stage_names_a_function_that_takes_its_configuration(name):
    stage = STAGES[name]
    (parameter,) = inspect.signature(stage.entry_point).parameters.values()
    assert typing.get_type_hints(stage.entry_point)[parameter.name] is stage.config_class


@pytest.mark.parametrize("folder", [SLURM, SLURM / "local_cluster"], ids=["slurm", "local"])
def test_shipped_pipelines(folder):
    _, jobs = read_pipeline(folder / "pipeline.yaml", folder / "cluster.yaml", None)
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
    folder, (runs, table) = read_sweep(SLURM / "sweep.yaml", SLURM / "cluster.yaml", None)
    assert len(runs.works) == 2 * 2 * 2 * 3
    assert runs.at_once == 4
    outputs = {work.output for work in runs.works}
    assert len(outputs) == len(runs.works)
    assert all(re.fullmatch(r"[\w.=-]+", path.name) for path in outputs)
    assert all(path.parent == folder for path in outputs)
    assert (table.after, table.after_any) == (("runs",), True)


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
    return Resources(**resources_of(STAGES["train_sft"], path, None, {}))


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
    stage = STAGES["train_sft"]
    machines = ROOT / "accelerate_configs" / "multi_node_zero3.yaml"
    assert read_cluster(path, "cpu") == {"account": "us", "partition": "c"}
    assert resources_of(stage, path, machines, {})["nodes"] == 3
    assert resources_of(stage, path, machines, {"nodes": 5})["nodes"] == 5
    path.write_text("gpu: {gpus_per_node: 4}\n")
    two = Resources(**resources_of(stage, path, machines, {}))
    assert (two.nodes, two.per_node, two.tasks) == (2, 4, 8)
    path.write_text("gpu: {}\n")
    chosen = resources_of(stage, path, ZERO2, {})
    config = SftConfig(base_model="tiny", data="a", output_dir="b")
    (job,) = job_of(
        "sft",
        "train_sft",
        config,
        Resources(**chosen),
        ZERO2,
        1,
        path,
    )
    assert job.resources.tasks == 2, "without GPUs, as many as the accelerate config says"


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
        read_sweep(path, CLUSTER_FILE, str(tmp_path))


@pytest.mark.parametrize("grid", [{}, {"seed": 3}, {"seed": []}])
def test_no_grid(grid):
    with pytest.raises(ConfigError, match="grid"):
        points(grid, "sweep.yaml")


def test_a_sweep_of_what_does_not_train(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("stage: evaluate\ngrid: {seed: [1]}\n")
    with pytest.raises(ConfigError, match="only training can be swept"):
        read_sweep(path, CLUSTER_FILE, None)


def test_runs_of_a_sweep_wait_for_nothing_of_each_other(tmp_path):
    path = tmp_path / "sweep.yaml"
    content = {"stage": "train_sft", "config": {"data": "a.json"}, "grid": {"seed": [1, 2]}}
    path.write_text(yaml.safe_dump(content))
    _, jobs = read_sweep(path, CLUSTER_FILE, str(tmp_path / "run"))
    assert [job.after for job in in_order(jobs[:1], path)] == [()]
    assert Path(jobs[0].works[1].config.output_dir).name == "seed=2"
