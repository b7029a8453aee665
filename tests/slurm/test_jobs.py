"""What one rank of a job does, without a cluster: when it goes on, and when it is requeued."""

import os
import re
import subprocess
from types import SimpleNamespace

import pytest
from slurm_client import program

from kit.command import to_yaml
from kit.errors import UserError
from kit.run.checkpoint import publish
from kit.run.stop import EXIT_REQUEUE, EXIT_STOPPED
from kit.train.config import SftConfig
from slurm import cluster, submission
from slurm.jobs import MAX_STARTS_WITHOUT_PROGRESS, StageJob
from slurm.plan import Job
from slurm.records import Record
from slurm.resources import Resources
from slurm.stages import Stage


@pytest.fixture
def record(tmp_path):
    """A training run that was submitted as job 7."""
    config = SftConfig(base_model="tiny", data="x.json", output_dir=str(tmp_path / "sft"))
    made = Record(tmp_path / "record")
    made.write_request(
        stage="train_sft", fingerprint="f", job_id="7", order=0, code="", logs=str(tmp_path)
    )
    made.config_file.write_text(to_yaml(config))
    return made


def job_of(rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(global_rank=rank, job_id="7", hostnames=["n1"])


@pytest.mark.parametrize(
    ("code", "rank", "left_with", "requeued"),
    [
        (EXIT_REQUEUE, 0, 0, ["7"]),
        (EXIT_REQUEUE, 1, 0, []),  # once is enough
        (EXIT_STOPPED, 0, EXIT_STOPPED, []),
        (1, 0, 1, []),
        (2, 1, 2, []),
        (0, 0, 0, []),
    ],
)
def test_only_who_asks_for_it_is_requeued(code, rank, left_with, requeued, record, monkeypatch):
    asked, done = [], []
    monkeypatch.setattr(Record, "ask_requeue", lambda self, job_id: asked.append(job_id))
    monkeypatch.setattr(StageJob, "run_stage", lambda self, record, job: code)
    monkeypatch.setattr(Record, "write_done", lambda self: done.append(True))
    assert StageJob(str(record.folder)).attempt(job_of(rank)) == left_with
    assert asked == requeued
    assert bool(done) == (code == 0)
    assert [a["code"] for a in record.attempts()] == [code] * (rank == 0)


def test_attempts_are_told_apart_after_a_kill_in_the_middle_of_a_line(record):
    record.append_event("start", job_id="7", why="a\u2028b")
    with (record.folder / "attempts.jsonl").open("a") as log:
        log.write('{"event": "end", "ti')
    record.append_event("start", job_id="8")
    assert [(a["event"], a["job_id"]) for a in record.attempts()] == [
        ("start", "7"),
        ("start", "8"),
    ]


@pytest.fixture
def ended(record, tmp_path, monkeypatch):
    """What the batch script of job 7, or of an element of array 7, does when its command has ended
    with a code, with a stand-in for SLURM's command that finds it in a state."""
    monkeypatch.setattr(cluster, "SECONDS_BETWEEN_TRIES", (0, 0))
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def run(code: int, state: str = "RUNNING", refuses: int = 0, since=True) -> SimpleNamespace:
        bin_ = program(
            tmp_path / "bin" / "scontrol",
            f'echo "$@" >> {tmp_path}/asked',
            f'[[ "$*" = *show* ]] && echo JobId=7 JobState={state} && exit 0',
            f"echo disabled >&2; exit {refuses}",
        )
        monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
        executor = cluster.executor_for(tmp_path, tmp_path / "slurm" / "code", "x", Resources())
        setup, _, rest = re.split("# command|# teardown", cluster.header(executor, 1))
        if since:  # it has asked while its command ran
            setup = setup.replace("rm -f", "test -e")
        script = f"{setup}\n(exit {code})\n{rest}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        asked = tmp_path / "asked"
        told = asked.read_text() if asked.exists() else ""
        requeued = re.findall(r"^requeue (\S+)", told, re.MULTILINE)
        return SimpleNamespace(code=done.returncode, requeued=requeued, said=done.stderr)

    return run


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED", "FAILED"])
def test_a_job_that_asks_is_requeued_unless_it_is_being_cancelled(state, record, ended):
    record.ask_requeue("7")
    end = ended(0, state)
    assert (end.code, end.requeued) == (0, ["7"] if state == "RUNNING" else [])
    assert ended(0).requeued == end.requeued, "it asked once"


def test_one_element_of_an_array_is_requeued(record, ended, monkeypatch):
    """Not all of it, whose number the last element bears too."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    record.ask_requeue("7_3")
    assert ended(0).requeued == ["7_3"]


def test_what_an_earlier_start_asked_that_was_killed_counts_no_more(record, ended):
    record.ask_requeue("7")
    end = ended(1, since=False)
    assert (end.code, end.requeued) == (1, [])


@pytest.mark.parametrize("code", [0, 1, 98])
def test_a_job_that_does_not_ask_ends_as_it_ended(code, ended):
    end = ended(code)
    assert (end.code, end.requeued, end.said) == (code, [], "")


def test_a_refusal_is_told_after_some_tries(record, ended):
    record.ask_requeue("7")
    end = ended(0, refuses=1)
    assert (end.code, end.requeued) == (1, ["7", "7"])
    assert "error: saved, but SLURM does not requeue job 7: disabled" in end.said
    assert "fix:   submit the same command again" in end.said


@pytest.fixture
def started(record, monkeypatch):
    """Start the job again; the configurations that the stage was run with."""
    seen = []
    monkeypatch.setattr(Stage, "run", lambda self, config: seen.append(config) or 0)

    def start():
        StageJob(str(record.folder)).run_stage(record, job_of())
        return seen

    return start


def saved(record: Record, step: int) -> None:
    folder = record.stage.output_of(record.config) / f"checkpoint-{step}"
    publish(folder, lambda target: (target / "a").touch())


def test_a_requeued_run_goes_on_from_its_last_checkpoint(record, started):
    started()
    saved(record, 4)
    first, again = started()
    assert first.resume_from_checkpoint is None
    assert again.resume_from_checkpoint == "latest"


def test_a_run_that_has_finished_is_left_alone(record, started):
    saved(record, 4)
    output = record.stage.output_of(record.config)
    (output / "summary.json").write_text('{"finished": true}')
    assert started() == []


def test_half_a_checkpoint_is_no_progress(record):
    saved(record, 4)
    saved(record, 9)
    (record.stage.output_of(record.config) / "checkpoint-9" / "a").unlink()
    assert record.stage.progress(record.config)[0] == 4


@pytest.mark.parametrize("done", [0, 6])
def test_one_that_never_gets_further_is_given_up(done, record, started):
    if done:
        saved(record, done)
    for _ in range(MAX_STARTS_WITHOUT_PROGRESS):
        started()
    with pytest.raises(UserError, match=f"without getting beyond {done} steps"):
        started()


def test_one_that_gets_further_is_started_as_often_as_it_takes(record, started):
    for step in range(1, 3 * MAX_STARTS_WITHOUT_PROGRESS):
        saved(record, step)
        started()
    assert len(started()) == 3 * MAX_STARTS_WITHOUT_PROGRESS


# ------------------------------------------------------------------------ what is done
def test_work_is_done_while_what_it_made_stands_as_it_left_it(record):
    output = record.stage.output_of(record.config)
    output.mkdir()
    for name in ("summary.json", "adapter_model.safetensors"):
        (output / name).write_text("made")
    record.write_done()
    assert record.is_done("f")
    assert not record.is_done("another configuration, launch or data")
    weights = output / "adapter_model.safetensors"
    weights.write_text("else")
    assert not record.is_done("f")
    weights.write_text("made")
    assert record.is_done("f")
    weights.unlink()
    assert not record.is_done("f")


def test_a_job_waits_for_the_success_of_those_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "executor_for", lambda *_, after, **__: after)
    job = Job("grpo", (), Resources(), after=("sft", "done before"))
    plan = submission.Submission(tmp_path, [job])
    assert plan.executor_of(job, {"sft": ["12_0", "12_1"]}, []) == "afterok:12"
    assert plan.executor_of(job, {"sft": ["12_0", "12_1"]}, ["7", "8_1"]) == "afterok:7:8_1:12"
    assert plan.executor_of(job, {}, []) is None


# ------------------------------------------------------------------------ jobs of others
@pytest.mark.parametrize(
    ("shown", "waits"),
    [
        ("JobId=7 JobState=PENDING Reason=Priority", ["7"]),
        ("JobId=7 JobState=COMPLETED", []),
        ("JobId=8 JobState=COMPLETED\nJobId=7 JobState=RUNNING\nJobId=9 JobState=FAILED", ["7"]),
        ("JobId=8 JobState=COMPLETED\nJobId=9 JobState=FAILED", "job 7 has ended as FAILED"),
        ("JobId=7 JobState=CANCELLED", "job 7 has ended as CANCELLED"),
        (None, "job 7 is not known to SLURM"),
    ],
    ids=["waits", "ended", "array", "array failed", "cancelled", "unknown"],
)
def test_a_job_waits_for_those_of_others_that_can_still_end_well(shown, waits, monkeypatch):
    def ask(*command):
        if shown is None:
            raise UserError("slurm_load_jobs error: Invalid job id specified")
        return shown

    monkeypatch.setattr(cluster, "ask", ask)
    if isinstance(waits, list):
        assert cluster.awaited(["7"]) == waits
    else:
        with pytest.raises(UserError, match=waits):
            cluster.awaited(["7"])
