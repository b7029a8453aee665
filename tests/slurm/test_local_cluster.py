"""A SLURM on this machine: started by one command, stopped by one, nothing left."""

import os
import subprocess
import sys
from pathlib import Path

import local_cluster
import pytest
from helpers import ROOT
from local_cluster import HOSTS, LocalCluster, missing

pytestmark = pytest.mark.xdist_group("slurm")
needs_slurm = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def command(what: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "tests/local_cluster", what, "--folder", str(folder), "--nodes", "3"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@needs_slurm
@pytest.mark.slow
def test_one_command_starts_it_and_one_stops_it(tmp_path, monkeypatch):
    hosts = HOSTS.read_text()
    started = command("start", tmp_path / "slurm")
    try:
        assert started.returncode == 0, started.stderr
        assert "3 nodes are up" in started.stdout
        name, _, value = started.stdout.strip().splitlines()[-1].split()[1].partition("=")
        monkeypatch.setenv(name, value)
        done = subprocess.run(
            ["srun", "-N3", "-n3", "--gpus-per-node=1", "--mem=100", "printenv", "SLURM_NODELIST"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.split() == ["n[1-3]"] * 3, done.stderr
        again = command("start", tmp_path / "slurm")
        assert again.returncode == 2
        assert "a cluster is running there" in again.stderr
    finally:
        assert command("stop", tmp_path / "slurm").returncode == 0
    assert HOSTS.read_text() == hosts
    assert not LocalCluster(folder=tmp_path / "slurm")._pids()
    assert command("stop", tmp_path / "slurm").returncode == 0, "stopping twice does no harm"


def test_without_the_packages_it_says_how_to_install_them(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install -y slurm-wlm munge" in missing()


def test_not_as_root(monkeypatch):
    monkeypatch.setattr(local_cluster.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in missing()
