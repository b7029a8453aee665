"""A real SLURM on this machine for the tests of slurm/."""

import os
import subprocess

import pytest
from local_cluster import LocalCluster, missing
from slurm_client import SlurmClient, wait_for


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Two nodes; started for the tests and stopped after them."""
    problem = missing()
    if problem:
        pytest.skip(problem)
    port = 20000 + os.getpid() % 3000 * 4  # several may be tested at once
    made = LocalCluster(
        folder=tmp_path_factory.mktemp("slurm"), port=port, grace=60, node_timeout=10, kill_wait=10
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.configuration))
        with made:
            yield made


@pytest.fixture
def client(cluster):
    """What a user has: submit.py and SLURM's commands. Whatever still runs after a test ends."""
    made = SlurmClient()
    yield made
    subprocess.run(["scancel", "--user=root"], check=True)
    wait_for(lambda: not made.queue(), "an empty queue", 60)
