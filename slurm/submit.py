"""Send stages to SLURM; medvqa slurm is python slurm/submit.py.

    medvqa slurm stage NAME [the stage's flags] [--nodes 2 --accelerate_config ... --shards 8]
    medvqa slurm pipeline [--cfg slurm/pipeline.yaml]
    medvqa slurm sweep --cfg slurm/sweep.yaml
    medvqa slurm study --cfg arena_2b
    medvqa slurm status RUN
    medvqa slurm cancel RUN

The first four take --dry_run (print everything, submit nothing), --cluster FILE and every key of
that file as a flag: --after 123, --env NAME=VALUE, --sbatch mail-type=END. More: slurm/README.md.
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
from kit.shipped import SLURM, find
from slurm.plan import PipelineEntry, in_order, jobs_of, read_pipeline
from slurm.resources import Cluster, Resources
from slurm.stages import STAGES, stage_named
from slurm.status import COMMAND, cancel, status_of, table_of
from slurm.study import read_study_jobs
from slurm.submission import submit_all
from slurm.sweep import read_sweep

READERS = {"pipeline": read_pipeline, "sweep": read_sweep, "study": read_study_jobs}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ConfigError(message, where="command line", fix=f"{COMMAND} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv``: in place of the command line. Returns the exit code."""
    parser = _Parser(
        prog=COMMAND,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dry_run", action="store_true", help="print all, submit nothing")
    common.add_argument(
        "--cluster", default="slurm/cluster.yaml", help="the cluster's names and defaults"
    )
    common.add_argument(
        "--run_dir", help="run folder; the stage's output or the file's if left out"
    )
    stage = commands.add_parser("stage", parents=[common], add_help=False, allow_abbrev=False)
    stage.add_argument("name", nargs="?")
    stage.add_argument("--accelerate_config", help="a file of accelerate_configs/")
    stage.add_argument("--shards", type=int, default=1, help="jobs that share an evaluation")
    stage.add_argument("--at_once", type=int, help="of shards, how many at a time")
    for name in READERS:
        file = commands.add_parser(name, parents=[common], allow_abbrev=False)
        file.add_argument("--cfg", required=name != "pipeline", default="slurm/pipeline.yaml")
    for name in ("status", "cancel"):
        one = commands.add_parser(name, allow_abbrev=False)
        one.add_argument("run", type=Path)
        one.add_argument("--json", action="store_true", help="for programs")
    options, rest = parser.parse_known_args(argv)
    if options.command == "stage":
        return submit_stage(options, rest)
    if options.command in READERS:
        flags, rest = parse_known(Resources, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command in READERS:
        cluster = Cluster(find(options.cluster, SLURM), flags)
        folder, jobs = READERS[options.command](find(options.cfg, SLURM), cluster, options.run_dir)
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
    """One stage, with the flags that its command takes and those of the cluster mixed."""
    if options.name is None or options.name in ("--help", "-h"):
        print(__doc__)
        print(f"Stages: {', '.join(STAGES)}")
        return 0
    stage = stage_named(options.name, "command line")
    if "--help" in rest or "-h" in rest:
        print("Besides the flags of the stage, below, those of the job:\n")
        print(flags_help(Resources))
    flags, rest = parse_known(Resources, rest)
    config = parse(stage.config_class, rest, also=Resources)
    shared = {key: getattr(options, key) for key in ("accelerate_config", "at_once", "shards")}
    entry = PipelineEntry(stage.name, **shared)
    cluster = Cluster(find(options.cluster, SLURM), flags)
    jobs = jobs_of(stage.name, entry, config, cluster, "command line")
    output = stage.output_of(config)
    folder = options.run_dir or (output if stage.made[0] != "{}" else f"{output}.run")
    return submit_all(Path(folder), in_order(jobs, "command line"), dry_run=options.dry_run)


if __name__ == "__main__":
    run(main)
