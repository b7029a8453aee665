"""A SLURM cluster: what a job may ask of it, whether it can be had, how it is submitted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.helpers import clean_env

from kit.errors import UserError
from slurm.resources import Resources, minutes_of

SIGNAL = "USR2"  # what kit.run.stop.StopRequest hears
OTHERS = ("reservation", "begin")  # that submitit does not name
submitit.JobEnvironment.USR_SIG = SIGNAL  # whatever SUBMITIT_PREEMPT_SIGNAL says


# ------------------------------------------------------------------------ submitting
def executor_for(
    folder: Path,
    code: Path,
    name: str,
    resources: Resources,
    *,
    after: str | None = None,
    at_once: int | None = None,
) -> submitit.SlurmExecutor:
    """submitit's executor for a job that runs ``code`` and logs to ``folder``.

    ``after``: its dependency, as ``afterok:12:13``.
    """
    # a task that is signalled before Python can listen would die of it
    listening = shlex.join(["bash", "-c", f"trap '' {SIGNAL}; exec \"$@\"", "--"])
    python = f"{listening} {shlex.quote(sys.executable)}"
    executor = submitit.SlurmExecutor(folder=folder, python=python)
    parameters = {
        "job_name": name,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.per_node,
        "cpus_per_task": resources.cpus_per_task,
        "gpus_per_node": resources.gpus_per_node or None,
        "mem": f"{resources.mem_gb}GB" if resources.mem_gb else None,
        "signal_delay_s": resources.signal_delay_s,
        "dependency": after,
        "array_parallelism": at_once,
        "setup": [
            *resources.setup,
            # the working directory may hold the kit too, and a user's reward functions
            f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}:$PYTHONPATH:$PWD",
            "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}",
        ],
        # srun no longer takes the cores from sbatch; a rank that dies takes the others with it
        "srun_args": [
            f"--cpus-per-task={resources.cpus_per_task}",
            "--kill-on-bad-exit=1",
            "--open-mode=append",
        ],
        "additional_parameters": {"requeue": True}
        | ({"kill-on-invalid-dep": "yes"} if after else {})
        | {key: getattr(resources, key) for key in OTHERS if getattr(resources, key)},
    }
    for key in ("partition", "account", "qos", "constraint", "nodelist", "exclude"):
        parameters[key] = getattr(resources, key)
    executor.update_parameters(
        **{key: value for key, value in parameters.items() if value is not None}
    )
    return executor


def submit(executor: submitit.SlurmExecutor, functions: Sequence[object]) -> list[str]:
    """Submit one job, or several as an array; returns the id of each.

    Raises:
        UserError: SLURM refuses.
    """
    kept = {k: v for k, v in os.environ.items() if k == "SLURM_CONF"}
    try:
        with clean_env():
            os.environ.update(kept)  # the one that is not a job's
            if len(functions) == 1:
                return [executor.submit(functions[0]).job_id]
            with executor.batch():
                jobs = [executor.submit(function) for function in functions]
            return [job.job_id for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(
            f"SLURM refuses the job: {_last_line(str(error))}",
            where=executor.folder,
            fix="change what is asked for in cluster.yaml or by flags",
        ) from error


def header(executor: submitit.SlurmExecutor, count: int) -> str:
    """The sbatch file of a job, or of an array of ``count``."""
    if count > 1:
        executor.parameters["map_count"] = count
    return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")


# ------------------------------------------------------------------------ asking SLURM
def ask(*command: str) -> str:
    """What a SLURM command prints.

    Raises:
        UserError: it is not installed here, or fails.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"there is no {command[0]} on this machine",
            where="SLURM",
            fix="run this on a login node; to try it without a cluster: "
            "python slurm/local_cluster start",
        )
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        what = _last_line(done.stderr or done.stdout)
        raise UserError(what, where=" ".join(command), fix="see whether SLURM answers: sinfo")
    return done.stdout


def require(resources: Resources, name: str) -> None:
    """Refuse, before anything is submitted, what the partition can never give.

    Raises:
        UserError: no such partition, more time, nodes, GPUs, cores or memory than it has, or
            what else SLURM itself says against it.
    """
    partitions = [
        dict(re.findall(r"(\w+)=(\S*)", line))
        for line in ask("scontrol", "--oneliner", "show", "partition").splitlines()
    ]
    known = [p["PartitionName"] for p in partitions]
    default = next((p["PartitionName"] for p in partitions if p.get("Default") == "YES"), None)
    chosen = resources.partition or default
    if chosen is None or chosen not in known:
        what = f"{name}: there is no partition {chosen!r}" if chosen else f"{name}: no default"
        fix = f"one of {', '.join(known)}: --partition, or slurm/cluster.yaml"
        raise UserError(what, where="partition", fix=fix)
    limit = next(p for p in partitions if p["PartitionName"] == chosen)["MaxTime"]
    if limit != "UNLIMITED" and resources.minutes > minutes_of(limit):
        raise UserError(
            f"{name}: {resources.time} is more than partition {chosen} allows, {limit}",
            where="time",
            fix=f"ask for {limit} at most: a run that is cut off goes on by itself",
        )
    nodes = _nodes(chosen)
    fitting = [node for node in nodes if node.holds(resources)]
    if len(fitting) < resources.nodes:
        shown = sorted({str(node) for node in nodes})
        raise UserError(
            f"{name}: partition {chosen} has {len(fitting)} nodes with {_wanted(resources)}, not "
            f"{resources.nodes}",
            where="nodes, gpus_per_node, tasks_per_node, cpus_per_task, mem_gb",
            fix=f"its nodes have {'; '.join(shown)}",
        )
    with tempfile.TemporaryDirectory() as folder:
        executor = executor_for(Path(folder), Path(folder), name, resources)
        script = Path(folder) / "test.sh"
        script.write_text(header(executor, 1))
        tested = subprocess.run(
            ["sbatch", "--test-only", str(script)], capture_output=True, text=True
        )
    if tested.returncode:
        what = f"{name}: SLURM refuses: {_last_line(tested.stderr)}"
        fix = "change what is asked for in slurm/cluster.yaml or by flags"
        raise UserError(what, where=f"partition {chosen}", fix=fix)


@dataclass(frozen=True)
class _Node:
    cpus: int
    memory_mb: int
    gpus: int

    def holds(self, resources: Resources) -> bool:
        return (
            self.cpus >= resources.per_node * resources.cpus_per_task
            and self.gpus >= resources.gpus_per_node
            and self.memory_mb >= (resources.mem_gb or 0) * 1024
        )

    def __str__(self) -> str:
        return f"{self.gpus} GPUs, {self.cpus} cores, {self.memory_mb // 1024} GB"


def _nodes(partition: str) -> list[_Node]:
    form = "%N|%c|%m|%G"
    lines = ask("sinfo", "--noheader", "--Node", f"--partition={partition}", f"--format={form}")
    found = []
    for line in lines.splitlines():
        _, cpus, memory, gres = line.split("|")
        # gpu:4, gpu:a100:4(S:0-1), beside others
        gpus = sum(int(n) for n in re.findall(r"gpu:(?:[^,:(]+:)?(\d+)", gres))
        found.append(_Node(int(cpus.rstrip("+")), int(memory.rstrip("+")), gpus))
    return found


def _wanted(resources: Resources) -> str:
    words = [f"{resources.gpus_per_node} GPUs"] if resources.gpus_per_node else []
    words.append(f"{resources.per_node * resources.cpus_per_task} cores")
    if resources.mem_gb:
        words.append(f"{resources.mem_gb} GB")
    return ", ".join(words)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: error: ", "", lines[-1]) if lines else "it does not say why"


@dataclass(frozen=True)
class JobState:
    """What SLURM says of a job: its state, why it waits, and how often it was started again."""

    state: str
    reason: str = ""
    restarts: int = 0

    ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY",
             "BOOT_FAIL", "DEADLINE", "PREEMPTED")  # fmt: skip

    @property
    def alive(self) -> bool:
        return self.state not in self.ENDED


def job_state(job_id: str) -> JobState | None:
    """The state of a job, or None if SLURM has forgotten it (without accounting it does so five
    minutes after the end)."""
    try:
        text = ask("scontrol", "--oneliner", "show", "job", job_id)
    except UserError as error:
        if "Invalid job id" not in error.what:
            raise
        return _accounted(job_id)
    facts = dict(re.findall(r"(\w+)=(\S*)", text.splitlines()[0]))
    reason = facts.get("Reason", "None")
    return JobState(
        facts["JobState"],
        "" if reason == "None" else reason,
        int(facts.get("Restarts", 0)),
    )


def _accounted(job_id: str) -> JobState | None:
    command = ["sacct", "-n", "-P", "-X", "--duplicates", "-o", "State", "-j", job_id]
    try:
        lines = ask(*command).splitlines()
    except UserError:  # no accounting here
        return None
    return JobState(lines[-1].split()[0], restarts=len(lines) - 1) if lines else None
