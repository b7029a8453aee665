"""A SLURM cluster: what a job may ask of it, whether it can be had, how it is submitted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.helpers import clean_env

from kit.errors import UserError
from slurm.resources import Resources, minutes_of

SECONDS_BETWEEN_TRIES = (0, 2, 10, 30)  # of a requeue
SIGNAL = "USR2"  # what kit.run.stop.StopRequest hears
NAMED = ("partition", "account", "qos", "constraint", "nodelist", "exclude", "reservation", "begin")
SEE = "see sinfo -o '%P %l %D %c %m %G'"  # partitions: time limit, nodes, cores, MB, GPUs
ON_ONE_MACHINE = ("ext2/ext3", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlayfs", "f2fs")
submitit.JobEnvironment.USR_SIG = SIGNAL  # whatever SUBMITIT_PREEMPT_SIGNAL says
submitit.SlurmExecutor.affinity = lambda executor: 2  # it shows a job where there is no SLURM too


# ------------------------------------------------------------------------ submitting
def executor_for(
    folder: Path,
    code: Path,
    job_name: str,
    resources: Resources,
    *,
    after: str | None = None,
    at_once: int | None = None,
) -> submitit.SlurmExecutor:
    """submitit's executor for a job that runs ``code``, in a run folder, and logs to ``folder``.

    ``after``: its dependency, as ``afterok:12:13``. ``at_once``: elements of an array.
    """
    python = command_of(resources, code.parents[1])
    executor = submitit.SlurmExecutor(folder=folder, python=python)
    variables = (entry.partition("=") for entry in resources.env)
    options = (entry.partition("=") for entry in resources.sbatch)
    parameters = {
        "job_name": job_name,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.per_node,
        "cpus_per_task": resources.cpus_per_task,
        "gpus_per_node": None if resources.gpus_per_node == "0" else resources.gpus_per_node,
        "mem": f"{resources.mem_gb}GB" if resources.mem_gb else None,
        "signal_delay_s": resources.signal_delay_s,
        "dependency": after,
        "array_parallelism": at_once,
        "setup": [
            "MEDVQA_JOB=${SLURM_ARRAY_JOB_ID-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID+_$SLURM_ARRAY_TASK_ID}",
            f"rm -f {_asked(folder)}",  # by one that was killed then
            *resources.setup,
            *(f"export {name}={shlex.quote(value)}" for name, _, value in variables),
            # the working directory may hold the kit too, and a user's reward functions
            f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}:$PYTHONPATH:$PWD",
            "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}",
        ],
        "teardown": requeueing(folder),
        "srun_args": srun_options(resources),
        "additional_parameters": {"requeue": True}
        | ({"kill-on-invalid-dep": "yes"} if after else {})
        | {key: getattr(resources, key) for key in NAMED if getattr(resources, key)}
        | {name: value or True for name, _, value in options if not name.startswith("container-")},
    }
    executor.update_parameters(
        **{key: value for key, value in parameters.items() if value is not None}
    )
    return executor


def command_of(resources: Resources, run: Path) -> str:
    """The command line that starts Python in a job, in its container if it has one."""
    # a task that is signalled before Python can listen would die of it
    listening = ["bash", "-c", f"trap '' {SIGNAL}; exec \"$@\"", "--"]
    python = [resources.python or ("python" if resources.in_container else sys.executable)]
    if not resources.container:
        return shlex.join(listening + python)
    here = os.getcwd()
    binds = [word for path in (run, here, *resources.bind) for word in ("--bind", str(path))]
    container = [*shlex.split(resources.container_exec), *binds, "--pwd", here, resources.container]
    return shlex.join([*listening, *container, *listening, *python])  # it may unlearn the first


def srun_options(resources: Resources) -> list[str]:
    """What srun is told beside the job's size and the places of its logs."""
    options = [*resources.srun, *(x for x in resources.sbatch if x.startswith("container-"))]
    if resources.in_container and not resources.container:  # pyxis, which starts in the image's own
        options.append(f"container-workdir={os.getcwd()}")
    return [
        f"--cpus-per-task={resources.cpus_per_task}",  # no longer taken from sbatch
        "--kill-on-bad-exit=1",  # a rank that dies takes the others with it
        "--open-mode=append",
        "--export=ALL",  # where sbatch was told export=NONE
        *(f"--{entry}" for entry in options),
    ]


def requeueing(folder: Path) -> list[str]:
    """Lines behind the command of a job: have SLURM start it again if it has asked for that by a
    file in ``folder`` (``Record.ask_requeue``), unless it is being cancelled."""
    waits = " ".join(map(str, SECONDS_BETWEEN_TRIES))
    return [
        "code=$?",
        f"rm {_asked(folder)} 2>/dev/null || exit $code",
        f"for seconds in {waits}; do",
        "    sleep $seconds",
        "    now=$(scontrol show job $MEDVQA_JOB) && [[ $now != *JobState=RUNNING* ]] && exit 0",
        "    said=$(scontrol requeue $MEDVQA_JOB 2>&1) && exit 0",
        "done",
        'echo "error: saved, but SLURM does not requeue job $MEDVQA_JOB: $said" >&2',
        "echo '  fix:   submit the same command again: it goes on from where this ended' >&2",
        "exit 1",
    ]


def _asked(folder: Path) -> str:
    return f"{shlex.quote(str(folder))}/requeue-$MEDVQA_JOB"


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
def is_here() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None


def ask(*command: str) -> str:
    """What a SLURM command prints.

    Raises:
        UserError: it is not installed here, or fails.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"there is no {command[0]} on this machine",
            where="SLURM",
            fix="run this on a login node, or with --dry_run; slurm/README.md says how to try it "
            "without a cluster",
        )
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        what = _last_line(done.stderr or done.stdout)
        raise UserError(what, where=" ".join(command), fix="see whether SLURM answers: sinfo")
    return done.stdout


def require(script: str, resources: Resources, name: str) -> None:
    """Refuse, before anything is submitted, the sbatch file of a job that could never start.

    SLURM says what its nodes cannot give, but of the time limit only where ``EnforcePartLimits``
    is set: elsewhere the job would wait for ever.

    Raises:
        UserError: it says so, or no partition of those named allows that much time.
    """
    lines = ask("sinfo", "--all", "--noheader", "--format=%P %l").splitlines()
    steps = ["srun", *srun_options(resources), "--version"]  # its plugins may know more options
    for command in (["sbatch", "--test-only"], steps):
        tested = subprocess.run(command, input=script, capture_output=True, text=True)
        if tested.returncode:
            said = "; ".join(map(_last_line, tested.stderr.splitlines()))
            fix = f"{SEE}; change what is asked for in cluster.yaml or by flags"
            raise UserError(f"{name}: SLURM refuses: {said}", where=shlex.join(command), fix=fix)
    limits = dict(line.split() for line in lines)
    default = [partition for partition in limits if partition.endswith("*")]
    chosen = resources.partition.split(",") if resources.partition else default
    allowed = [limits.get(p, limits.get(f"{p}*", "infinite")) for p in chosen]
    if "infinite" not in allowed and resources.minutes > max(map(minutes_of, allowed), default=0):
        raise UserError(
            f"{name}: {resources.time} is more than {', '.join(chosen)} allows, "
            f"{', '.join(allowed)}",
            where="time",
            fix="ask for that at most: a run that is cut off goes on by itself",
        )


def warn_if_not_shared(run: Path) -> None:
    """Say so if a run folder is on a disk of this machine, and there are nodes on others: where
    they do not see it, SLURM can write no log and ends each job at once."""
    there = next(path for path in (run, *run.parents) if path.exists())
    found = subprocess.run(["stat", "-f", "-c", "%T", there], capture_output=True, text=True)
    hosts = {host.split(".")[0] for host in ask("sinfo", "--all", "-hN", "-o", "%n").split()}
    others = hosts - {socket.gethostname().split(".")[0]}
    if found.stdout.strip() in ON_ONE_MACHINE and others:
        print(
            f"warning: {run} is on a disk of this machine ({found.stdout.strip()}): jobs on "
            f"{', '.join(sorted(others)[:3])} end at once, without a log, unless they see it; "
            "--run_dir and the outputs belong on a shared one",
            file=sys.stderr,
        )


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
    states = []
    for line in text.splitlines():  # the elements of an array
        facts = dict(reversed(re.findall(r"(\w+)=(\S*)", line)))  # a comment may hold others
        reason = facts.get("Reason", "None")
        restarts = int(facts.get("Restarts", 0))
        states.append(JobState(facts["JobState"], "" if reason == "None" else reason, restarts))
    return max(states, key=lambda job: (job.alive, job.state != "COMPLETED"))


def awaited(job_ids: Sequence[str]) -> list[str]:
    """Those of other jobs that have not ended well yet.

    Raises:
        UserError: SLURM does not know one, or it has ended otherwise: nothing would ever start.
    """
    states = {job_id: job_state(job_id) for job_id in job_ids}
    for job_id, job in states.items():
        if job is None or not (job.alive or job.state == "COMPLETED"):
            said = f"has ended as {job.state}" if job else "is not known to SLURM"
            fix = "see squeue for those that wait or run"
            raise UserError(f"job {job_id} {said}: nothing can wait for it", where="after", fix=fix)
    return [job_id for job_id, job in states.items() if job.alive]


def _accounted(job_id: str) -> JobState | None:
    command = ["sacct", "-n", "-P", "-X", "--duplicates", "-o", "State", "-j", job_id]
    try:
        lines = ask(*command).splitlines()
    except UserError:  # no accounting here
        return None
    return JobState(lines[-1].split()[0], restarts=len(lines) - 1) if lines else None
