"""What a job asks of SLURM."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from kit.command import option, parse_part
from kit.errors import ConfigError
from kit.yaml_files import read_yaml


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
    setup: list[str] = option(
        help="shell commands ahead of the job, as module load or source", default_factory=list
    )

    def __post_init__(self):
        if not re.fullmatch(r"([A-Za-z][\w.-]*:)?\d+", str(self.gpus_per_node)):
            what = f"gpus_per_node must be a number, or type:number, not {self.gpus_per_node}"
            raise ConfigError(what, where="gpus_per_node", fix="write 4, or a100:4")
        for name, least in (
            ("nodes", 1), ("tasks_per_node", 0), ("cpus_per_task", 1),
            ("signal_delay_s", 1), ("mem_gb", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                what = f"{name} must be at least {least}, not {value}"
                raise ConfigError(what, where=name, fix="fix the value")
        if self.minutes * 60 <= self.signal_delay_s:
            raise ConfigError(
                f"the signal to save comes {self.signal_delay_s} s ahead of a time limit of "
                f"{self.minutes} minutes",
                where=f"time: {self.time}, signal_delay_s: {self.signal_delay_s}",
                fix="ask for more time, or a shorter delay",
            )

    @property
    def minutes(self) -> int:
        """The limit in minutes.

        >>> Resources(time="1-02:00:00").minutes, Resources(time="90").minutes
        (1560, 90)
        """
        return minutes_of(self.time)

    @property
    def gpus(self) -> int:
        """GPUs of a node.

        >>> Resources(gpus_per_node="a100:4").gpus
        4
        """
        return int(str(self.gpus_per_node).rpartition(":")[2])

    @property
    def tasks(self) -> int:
        """Processes in all."""
        return self.nodes * self.per_node

    @property
    def per_node(self) -> int:
        return self.tasks_per_node or self.gpus or 1


@dataclass(frozen=True)
class ClusterFile(Resources):
    """The keys of a cluster.yaml: those for all jobs, and those for some."""

    cpu: dict = field(default_factory=dict)
    gpu: dict = field(default_factory=dict)


def read_cluster(path: str | Path, kind: str) -> dict:
    """What a cluster.yaml says for ``cpu`` or ``gpu`` jobs.

    Raises:
        ConfigError: an unknown key, or a value of another type.
    """
    content = parse_part(ClusterFile, read_yaml(path, as_text=True), path)
    parts = {
        part: parse_part(Resources, content.pop(part, {}), f"{path}, {part}")
        for part in ("cpu", "gpu")
    }
    return content | parts[kind]


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
    days, *rest = match.groups()
    numbers = [int(x) for x in rest if x is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # minutes[:seconds]
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
