"""A real SLURM on one machine: munged, slurmctld and a slurmd for each pretended node.

For trying the kit's SLURM commands without a cluster, and for its tests. Needs root and Debian's
packages. Every node has one core and one GPU that is counted but not there; partitions ``gpu``,
``cpu`` and ``urgent``, which preempts the other two. A SLURM that the machine may already have is
not touched: everything, the configuration too, lives in one folder, and ``SLURM_CONF`` says where.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kit.errors import UserError

PACKAGES = ("slurm-wlm", "munge")
INSTALL = f"apt-get update && apt-get install -y {' '.join(PACKAGES)}"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
TEMPLATE = Path(__file__).with_name("slurm.conf")
HOSTS = Path("/etc/hosts")
FOLDER = Path("/tmp/medvqa-local-cluster")
DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order in which they end
PATIENCE = 60.0  # seconds until the nodes are there; they take about one


def missing() -> str | None:
    """Why a cluster cannot be started here, with what to do about it, or None."""
    if not all(shutil.which(program) for program in PROGRAMS):
        return f"SLURM is not installed: {INSTALL}"
    if os.geteuid() != 0:
        return "starting a cluster needs root: sudo"
    return None


@dataclass(frozen=True)
class LocalCluster:
    """A cluster of ``nodes`` nodes n1, n2... in ``folder``.

    ``grace``: seconds that a preempted job has to save; ``requeue_delay``: seconds until a
    requeued job may start again; ``node_timeout``: seconds until a silent node counts as down;
    ``kill_wait``: seconds from SIGTERM to SIGKILL for a job that is ended.
    """

    folder: Path = FOLDER
    nodes: int = 2
    port: int = 17000
    grace: int = 120
    requeue_delay: int = 5
    node_timeout: int = 15
    kill_wait: int = 30

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def start(self) -> None:
        """Start all daemons and wait for the nodes; sets ``SLURM_CONF`` for this process.

        Raises:
            UserError: SLURM is not installed, not root, one is running in ``folder`` already, or
                the nodes do not come up.
        """
        problem = missing()
        if problem:
            what, fix = problem.split(": ", 1)
            raise UserError(what, where="this machine", fix=fix)
        if self._pids():
            fix = "stop it first: python tests/local_cluster stop"
            raise UserError("a cluster is running there", where=self.folder, fix=fix)
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "state").mkdir(parents=True)
        self._configure()
        self._name_nodes()
        os.environ["SLURM_CONF"] = str(self.configuration)
        try:
            self._start_munge()
            _run("slurmctld")
            for name in self.names:
                self.start_node(name)
            self._await_nodes()
        except UserError:
            self.stop()
            raise

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        spool = self.folder / f"spool.{name}"
        spool.mkdir(exist_ok=True)
        _run("slurmd", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill the daemon of a node, as when its machine stops answering."""
        pid = int((self.folder / f"slurmd.{name}.pid").read_text())
        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End jobs and daemons; the folder stays, for its logs."""
        if self._pids():
            os.environ["SLURM_CONF"] = str(self.configuration)
            with contextlib.suppress(UserError):
                _run("scancel", "--user=root")
                _wait(lambda: not _run("squeue", "--noheader").strip(), 15.0)
        for daemon in DAEMONS:
            self._end(daemon)
        self._name_nodes(remove=True)

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def _configure(self) -> None:
        host = socket.gethostname()
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + number}"
            for number, name in enumerate(self.names, start=1)
        ]
        settings = vars(self) | {"host": host, "lines": "\n".join(lines)}
        text = TEMPLATE.read_text(encoding="utf-8").format(**settings)
        self.configuration.write_text(text, encoding="utf-8")
        gres = f"NodeName=n[1-{self.nodes}] Name=gpu Count=1 File=/dev/null\n"
        (self.folder / "gres.conf").write_text(gres, encoding="utf-8")

    def _name_nodes(self, remove: bool = False) -> None:
        """Let the nodes' names be found, as those of a cluster are."""
        mark = f"# local cluster in {self.folder}"
        text = re.sub(rf"^.*{re.escape(mark)}\n", "", HOSTS.read_text("utf-8"), flags=re.MULTILINE)
        if not remove:
            text += f"127.0.0.1 {' '.join(self.names)} {mark}\n"
        HOSTS.write_text(text, encoding="utf-8")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = [f"--{kind}-file={self.folder}/munged.{kind}" for kind in ("pid", "log", "seed")]
        socket_ = f"--socket={self.folder}/munge.socket"
        _run("munged", "--force", f"--key-file={key}", socket_, *files)

    def _await_nodes(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(UserError):
                states = _run("sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%T")
                return states.split() == ["idle"] * self.nodes
            return False

        if not _wait(ready, PATIENCE):
            fix = f"read {self.folder}/slurmctld.log and slurmd.*.log"
            raise UserError("the nodes do not come up", where=self.folder, fix=fix)

    def _end(self, daemon: str) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._pids(daemon):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if _wait(lambda: not self._pids(daemon), 10.0):
                return

    def _pids(self, *daemons: str) -> list[int]:
        """The daemons that run, or those of some names."""
        found = []
        for file in self.folder.glob("*.pid"):
            with contextlib.suppress(ValueError, OSError):
                pid = int(file.read_text())
                command = Path(f"/proc/{pid}/comm").read_text().strip()
                if command in (daemons or DAEMONS):
                    found.append(pid)
        return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"{command[0]} failed: {(done.stderr or done.stdout).strip()}",
            where=" ".join(command),
            fix="read the logs in the cluster's folder",
        )
    return done.stdout


def _wait(until, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            return True
        time.sleep(0.2)
    return until()
