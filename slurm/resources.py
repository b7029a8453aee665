"""What a job asks of SLURM, and the cluster.yaml that says it for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit.command import option, parse_part, require
from kit.errors import ConfigError
from kit.run.launch_files import read_launch_file
from kit.yaml_files import read_yaml

BY_NAME = ("sbatch", "srun", "env")  # name=value each; those of several places go together
EVERYWHERE = ("account", "sbatch", "srun", "env", "setup",
              "container", "container_exec", "bind", "python")  # fmt: skip
SAME = ("partition", "account", "qos", "constraint", "nodelist", "exclude", "reservation", "begin",
        "nodes", "gpus-per-node", "cpus-per-task", "time")  # fmt: skip
KEYS = {name: name.replace("-", "_") for name in SAME} | {  # options that have a key of their own
    "gpus": "gpus_per_node", "gpus-per-task": "gpus_per_node", "ntasks": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node", "ntasks-per-gpu": "tasks_per_node",
    "cpus-per-gpu": "cpus_per_task", "mem": "mem_gb", "signal": "signal_delay_s",
    "dependency": "after",
}  # fmt: skip
FIXED = {  # options that the kit sets in each job
    "requeue": "requeue", "no-requeue": "requeue", "open-mode": "open-mode=append",
    "kill-on-bad-exit": "kill-on-bad-exit=1", "kill-on-invalid-dep": "kill-on-invalid-dep=yes",
    "job-name": "job-name=RUN.STAGE", "array": "array=0-SHARDS%AT_ONCE", "chdir": "chdir of here",
    "output": "output to its logs", "error": "error to its logs", "unbuffered": "unbuffered",
    "srun export": "export=ALL", "parsable": "what it reads of the answer",
    "quiet": "what it reads of the answer", "wait": "what it reads of the answer",
}  # fmt: skip
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Resources:
    """What one job asks of SLURM; any of it is a key of cluster.yaml and a flag."""

    partition: str | None = option(
        None, help="one, or several as a,b; left out: the cluster's default"
    )
    account: str | None = option(None, help="who pays")
    qos: str | None = option(None, help="quality of service")
    constraint: str | None = option(None, help="features that the nodes must have")
    nodelist: str | None = option(None, help="only these nodes")
    exclude: str | None = option(None, help="not these nodes")
    reservation: str | None = option(None, help="a reservation to run in")
    begin: str | None = option(None, help="not before this time, as now+2hours")
    nodes: int = option(1, help="nodes of a job")
    gpus_per_node: str = option("0", help="GPUs of each, with their type if it matters: a100:4")
    tasks_per_node: int = option(
        0, help="processes of a node; 0: one a GPU, without GPUs as the accelerate config says"
    )
    cpus_per_task: int = option(1, help="cores a process")
    mem_gb: int | None = option(None, help="memory of a node; left out: the cluster's default")
    time: str = option("04:00:00", help="limit, as [days-]hours:minutes:seconds or minutes")
    signal_delay_s: int = option(
        120,
        help="seconds ahead of the limit at which a run gets the signal to save; more than a step",
    )
    after: list[str] = option(help="jobs that must have ended well before", default_factory=list)
    sbatch: list[str] = option(
        help="any other option of sbatch, as mail-type=END exclusive", default_factory=list
    )
    srun: list[str] = option(help="any other option of srun, as mpi=pmix", default_factory=list)
    env: list[str] = option(help="variables of the job, as NCCL_DEBUG=INFO", default_factory=list)
    setup: list[str] = option(
        help="shell commands ahead of the job, as module load or source", default_factory=list
    )
    container: str | None = option(None, help="image that the job runs in")
    container_exec: str = option("apptainer exec --nv", help="what starts a command in an image")
    bind: list[str] = option(
        help="folders that the image sees beside the run's and this one", default_factory=list
    )
    python: str | None = option(
        None, help="interpreter of the job; left out: this one, in a container its python"
    )

    def __post_init__(self):
        if not re.fullmatch(r"([\w.-]+:)?\d+", str(self.gpus_per_node)):
            what = f"gpus_per_node must be a number, or type:number, not {self.gpus_per_node}"
            raise ConfigError(what, where="gpus_per_node", fix="write 4, or a100:4")
        for name, least in (
            ("nodes", 1), ("tasks_per_node", 0), ("cpus_per_task", 1),
            ("signal_delay_s", 1), ("mem_gb", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or value >= least, name, f"must be at least {least}", value)
        if self.minutes * 60 <= self.signal_delay_s:
            what = (
                f"the signal to save comes {self.signal_delay_s} s ahead of {self.minutes} minutes"
            )
            where = f"time: {self.time}, signal_delay_s: {self.signal_delay_s}"
            raise ConfigError(what, where=where, fix="ask for more time, or a shorter delay")
        for job_id in self.after:
            if not re.fullmatch(r"\d+(_\d+)?", job_id):
                fix = "write numbers, as squeue shows them"
                raise ConfigError(f"{job_id!r} is no job", where="after", fix=fix)
        for key in ("sbatch", "srun"):
            for entry in getattr(self, key):
                self._require_free(key, entry)
        for entry in self.env:
            name, given, _ = entry.partition("=")
            if not given or not re.fullmatch(r"[A-Za-z_]\w*", name):
                fix = "write NAME=VALUE, in a file NAME: VALUE"
                raise ConfigError(f"{entry!r} sets no variable", where="env", fix=fix)
            if name in RANKS or name.startswith(("SLURM_", "SUBMITIT_")):
                what, fix = f"{entry} contradicts {name} as the job sets it", "leave it out"
                raise ConfigError(what, where="env", fix=fix)

    def _require_free(self, key: str, entry: str) -> None:
        """
        Raises:
            ConfigError: an option of sbatch or srun says what the job says already.
        """
        name = entry.partition("=")[0]
        if not re.fullmatch(r"[a-z][\w-]+", name) or "\n" in entry:
            fix = "write its long name, and its value behind =: mail-type=END"
            raise ConfigError(f"{entry!r} is no option of {key}", where=key, fix=fix)
        own = KEYS.get(name)
        if (asked := _gpus_in([entry])) and self.gpus != sum(asked):
            own = "gpus_per_node"  # both ask for GPUs
        if own and (own != "mem_gb" or self.mem_gb):
            what = f"{key} {entry} contradicts {own}: {getattr(self, own)}"
            raise ConfigError(what, where=key, fix=f"say it by {own} alone")
        fixed = FIXED.get(f"{key} {name}", FIXED.get(name, entry))
        if fixed != entry:
            what = f"{key} {entry} contradicts {fixed}, which the kit sets"
            raise ConfigError(what, where=key, fix=f"leave {name} out")

    @property
    def minutes(self) -> int:
        """The limit in minutes.

        >>> Resources(time="1-02:00:00").minutes, Resources(time="90").minutes
        (1560, 90)
        """
        return minutes_of(self.time)

    @property
    def gpus(self) -> int:
        """GPUs of a node, by their own key or as gres.

        >>> Resources(gpus_per_node="a100:4").gpus, Resources(sbatch=["gres=gpu:v100:2"]).gpus
        (4, 2)
        """
        own = int(str(self.gpus_per_node).rpartition(":")[2])
        return own + sum(_gpus_in(self.sbatch))

    @property
    def tasks(self) -> int:
        """Processes in all."""
        return self.nodes * self.per_node

    @property
    def per_node(self) -> int:
        return self.tasks_per_node or self.gpus or 1

    @property
    def in_container(self) -> bool:
        """By apptainer and its like, or by pyxis, which adds options to srun."""
        options = (*self.sbatch, *self.srun)
        return bool(self.container) or any(x.startswith("container-image=") for x in options)


def _gpus_in(options: Iterable[str]) -> list[int]:
    """
    >>> _gpus_in(["gres=gpu:a100:4,nvme:1", "exclusive", "gres=gpu"])
    [4, 1]
    """
    asked = [part for x in options if x.startswith("gres=") for part in x[5:].split(",")]
    gpus = re.compile(r"(?:gres/)?gpu(?::[\w.-]*[A-Za-z][\w.-]*)?(?::(\d+))?")
    return [int(match[1] or 1) for match in map(gpus.fullmatch, asked) if match]


# ------------------------------------------------------------------------ cluster.yaml
@dataclass(frozen=True)
class ClusterFile(Resources):
    """The keys of a cluster.yaml: those for all jobs, and those for some."""

    cpu: dict = field(default_factory=dict)
    gpu: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """A cluster.yaml, and the ``flags`` that go over it and over what a stage says."""

    path: Path
    flags: Mapping = field(default_factory=dict)

    def resources(
        self, kind: str, launch: Path | None = None, own: Mapping | None = None
    ) -> Resources:
        """What a ``cpu`` or ``gpu`` job asks for: flags, over its ``own`` keys, over the file, over
        what its accelerate configuration says.

        Raises:
            ConfigError: an unknown key, or a value of another type or without meaning.
        """
        file = read_launch_file(launch) if launch else None
        machines = {"nodes": file.machines} if file else {}
        made = Resources(**merged(machines, self.read(kind), own or {}, self.flags))
        if file and not made.tasks_per_node and not made.gpus:
            made = replace(made, tasks_per_node=file.processes // file.machines)
        return made

    def light(self, own: Mapping) -> Resources:
        """What a job that merges asks for, without model and GPU: a ``cpu`` job with those of its
        ``own`` keys, and of the flags, that every job needs."""
        asked = merged(own, self.flags)
        asked["sbatch"] = [x for x in asked.get("sbatch", []) if not _gpus_in([x])]
        kept = {key: asked[key] for key in EVERYWHERE if key in asked}
        return Resources(**merged(self.read("cpu"), kept))

    def read(self, kind: str) -> dict:
        """What the file says for ``cpu`` or ``gpu`` jobs."""
        content = read_part(ClusterFile, read_yaml(self.path, as_text=True), self.path)
        parts = {
            part: read_part(Resources, content.pop(part, {}), f"{self.path}, {part}")
            for part in ("cpu", "gpu")
        }
        return merged(content, parts[kind])


def read_part(config_class: type, content: object, where: object) -> dict:
    """As :func:`kit.command.parse_part`; ``sbatch``, ``srun`` and ``env`` may be mappings."""
    if isinstance(content, dict):
        given = {key: content[key] for key in BY_NAME if isinstance(content.get(key), (dict, list))}
        content = content | {key: _listed(key, inner, where) for key, inner in given.items()}
    return parse_part(config_class, content, where)


def _listed(key: str, content: dict | list, where: object) -> list:
    """A mapping as name=value each, an option without a value, which is true, as its name."""
    if isinstance(content, list):
        return [x.removeprefix("--") if isinstance(x, str) else x for x in content]
    found = []
    for name, value in content.items():
        if value is None or isinstance(value, dict):
            fix = f"{name}: '' for nothing" if key == "env" else f"{name}: true, if it takes none"
            raise ConfigError(f"{name} has no value", where=f"{where}, {key}", fix=fix)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        switch = text.lower() if key != "env" else ""
        found.append(f"{name}" if switch == "true" else f"{name}={text}")
    return found


def merged(*parts: Mapping) -> dict:
    """Each over those before it; options and variables by their names, of which false takes one
    away.

    >>> merged({"env": ["A=1", "B=2"], "qos": "x"}, {"env": ["A=3"]})
    {'env': ['A=3', 'B=2'], 'qos': 'x'}
    >>> merged({"sbatch": ["exclusive"]}, {"sbatch": ["exclusive=false"]})
    {'sbatch': []}
    """
    found: dict = {}
    for part in parts:
        for key, value in part.items():
            if key in BY_NAME:
                by_name = {x.partition("=")[0]: x for x in [*found.get(key, []), *value]}
                value = [x for x in by_name.values() if key == "env" or not x.endswith("=false")]
            found[key] = value
    return found


def minutes_of(time: str) -> int:
    """Minutes of a duration as SLURM writes it, rounded up.

    >>> [minutes_of(t) for t in ("90", "30:30", "2:00:00", "1-0", "1-12:30")]
    [90, 31, 120, 1440, 2190]

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time).strip())
    if not match:
        fix = "write [days-]hours:minutes:seconds, or minutes"
        raise ConfigError(f"{time!r} is no duration", where="time", fix=fix)
    days, *numbers = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:  # minutes[:seconds]
        numbers = [0, *numbers]
    hours, minutes, seconds, *_ = numbers
    return days * 1440 + hours * 60 + minutes + (seconds > 0)
