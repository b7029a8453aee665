"""Send stages to SLURM.

    python slurm/submit.py stage NAME [the stage's flags] [--nodes 2 --accelerate_config ...]
    python slurm/submit.py pipeline [--cfg slurm/pipeline.yaml]
    python slurm/submit.py sweep --cfg slurm/sweep.yaml
    python slurm/submit.py status RUN
    python slurm/submit.py cancel RUN

The first three take --dry_run (print everything, submit nothing) and --cluster FILE.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit.command import flags_help, parse, parse_known, run
from kit.errors import ConfigError
from slurm.plan import in_order, job_of, read_pipeline, resources_of
from slurm.resources import Resources
from slurm.stages import STAGES, stage_named
from slurm.status import cancel, status_of, table_of
from slurm.submission import submit_all
from slurm.sweep import read_sweep

CLUSTER = Path(__file__).with_name("cluster.yaml")
PIPELINE = Path(__file__).with_name("pipeline.yaml")
READERS = {"pipeline": read_pipeline, "sweep": read_sweep}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ConfigError(message, where="command line", fix="python slurm/submit.py --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv``: in place of the command line. Returns the exit code."""
    parser = _Parser(
        prog="python slurm/submit.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dry_run", action="store_true", help="print all, submit nothing")
    common.add_argument("--cluster", default=str(CLUSTER), help="the cluster's names and defaults")
    common.add_argument(
        "--run_dir", help="run folder; the stage's output or the file's if left out"
    )
    stage = commands.add_parser("stage", parents=[common], add_help=False, allow_abbrev=False)
    stage.add_argument("name", nargs="?")
    stage.add_argument("--accelerate_config", help="a file of accelerate_configs/")
    stage.add_argument("--shards", type=int, default=1, help="jobs that share an evaluation")
    for name in READERS:
        file = commands.add_parser(name, parents=[common], allow_abbrev=False)
        file.add_argument("--cfg", required=name == "sweep", default=str(PIPELINE))
    for name in ("status", "cancel"):
        one = commands.add_parser(name, allow_abbrev=False)
        one.add_argument("run", type=Path)
        one.add_argument("--json", action="store_true", help="for programs")
    options, rest = parser.parse_known_args(argv)
    if options.command == "stage":
        return submit_stage(options, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command in READERS:
        read = READERS[options.command]
        folder, jobs = read(options.cfg, options.cluster, options.run_dir)
        return submit_all(folder, jobs, dry_run=options.dry_run)
    if options.command == "cancel":
        ended = cancel(options.run)
        print(f"cancelled {', '.join(ended)}" if ended else "nothing of it waits or runs")
        return 0
    statuses = status_of(options.run)
    rows = [dataclasses.asdict(s) for s in statuses]
    print(json.dumps(rows, indent=2) if options.json else table_of(statuses))
    return 0


def submit_stage(options: argparse.Namespace, rest: list[str]) -> int:
    """One stage, with the flags that its script takes and those of the cluster mixed."""
    if options.name is None or options.name in ("--help", "-h"):
        print(__doc__)
        print(f"Stages: {', '.join(STAGES)}")
        return 0
    stage = stage_named(options.name, "command line")
    launch = Path(options.accelerate_config) if options.accelerate_config else None
    defaults = resources_of(stage, options.cluster, launch, {})
    if "--help" in rest or "-h" in rest:
        print("Besides the flags of the stage, below, those of the job:\n")
        print(flags_help(Resources))
    resources, rest = parse_known(Resources, rest, defaults)
    config = parse(stage.config_class, rest, also=Resources)
    jobs = job_of(
        options.name, options.name, config, resources, launch, options.shards, options.cluster
    )
    output = stage.output_of(config)
    folder = options.run_dir or (output if stage.made[0] != "{}" else f"{output}.run")
    return submit_all(Path(folder), in_order(jobs, "command line"), dry_run=options.dry_run)


if __name__ == "__main__":
    run(main)
