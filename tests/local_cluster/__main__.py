"""A SLURM on this machine: python tests/local_cluster start, and stop."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kit.command import run
from local_cluster import FOLDER, LocalCluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/local_cluster", description=__doc__)
    parser.add_argument("what", choices=["start", "stop"])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="its state and logs")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of one core and one GPU")
    options = parser.parse_args()
    cluster = LocalCluster(folder=options.folder, nodes=options.nodes)
    if options.what == "stop":
        cluster.stop()
        return
    cluster.start()
    print(f"{cluster.nodes} nodes are up. In each shell that is to use them:\n")
    print(f"    export SLURM_CONF={cluster.configuration}")


if __name__ == "__main__":
    run(main)
