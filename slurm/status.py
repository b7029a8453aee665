"""How far the jobs of a run folder are, from what SLURM knows and what they wrote down."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kit.errors import UserError
from kit.files import log_rows
from slurm.cluster import JobState, job_state
from slurm.records import Record, records_of
from slurm.sweep import table_of_runs

COMMAND = "medvqa slurm"
SHOWN_METRICS = ("loss", "reward", "kl", "eval_loss", "eval_reward")


@dataclass(frozen=True)
class Status:
    """One piece of work. ``eta_s``: seconds until its end at the pace of the current attempt;
    ``point``: of a run of a sweep, where in the grid it stands."""

    name: str
    stage: str
    job_id: str
    state: str
    why: str
    done: int
    total: int | None
    unit: str
    eta_s: float | None
    requeues: int
    metrics: dict[str, float]
    logs: str
    point: dict[str, str]


def status_of(run: Path) -> list[Status]:
    """
    Raises:
        UserError: nothing was submitted for this run folder.
    """
    records = records_of(run)
    if not records:
        what = "nothing was submitted for this run folder"
        raise UserError(what, where=run, fix="check its path")
    return [_status(name, record) for name, record in records.items()]


def _status(name: str, record: Record) -> Status:
    request, config = record.request, record.config
    shown = request.get("shown", {})
    attempts = [a for a in record.attempts() if a["job_id"] == request["job_id"]]
    starts = [a for a in attempts if a["event"] == "start"]
    known = job_state(request["job_id"]) if request["job_id"] else None
    state, why = state_of(record, attempts, known)
    done, total, unit = record.stage.progress(config)
    metrics: dict[str, float] = {}
    if record.stage.trains:
        wanted = shown.get("metrics", SHOWN_METRICS)
        for row in log_rows(record.stage.output_of(config) / "metrics.jsonl")[0]:
            done = max(done, int(row.get("step", 0)))
            metrics |= {key: row[key] for key in wanted if key in row}
    if state == "COMPLETED" and total:
        done = total
    eta = None
    if state == "RUNNING" and starts and total and done > starts[-1]["done"]:
        seconds = max(0.0, time.time() - starts[-1]["time"])  # its node's clock may be ahead
        eta = seconds / (done - starts[-1]["done"]) * (total - done)
    requeues = known.restarts if known else max((a["restarts"] for a in starts), default=0)
    logs = os.path.join(request["logs"], f"{request['job_id']}_0_log.err")
    return Status(
        name, request["stage"], request["job_id"], state, why, done, total, unit, eta, requeues,
        metrics, logs, shown.get("point", {}),
    )  # fmt: skip


def state_of(record: Record, attempts: Sequence[dict], known: JobState | None) -> tuple[str, str]:
    """The state of a piece of work, by SLURM's name, and what else there is to say.

    What it wrote down counts where SLURM has forgotten it.
    """
    if record.has_ended_well():
        return "COMPLETED", ""
    if not record.request["job_id"]:
        return "NOT SUBMITTED", "SLURM refused it"
    last = attempts[-1] if attempts else {}
    failed = last.get("event") == "end" and last["code"] != 0
    if failed and not (known and (known.alive or known.state == "CANCELLED")):
        return "FAILED", f"exit code {last['code']}{last_error(record)}"
    if known and (known.alive or known.state != "COMPLETED"):
        why = known.reason
        if known.state == "PENDING" and known.restarts:
            why = f"requeued; {why}" if why else "requeued"
        if not known.alive and not attempts:
            why = "it never started"
            if known.state == "FAILED":  # SLURM could not open its log
                why += f": do the nodes see {record.request['logs']}?"
        return known.state, why
    if not attempts:
        return "UNKNOWN", "SLURM has forgotten it, and it never started"
    return "FAILED", "it ended without a word: cancelled or killed"


def last_error(record: Record) -> str:
    """What rank 0 said last of an error, ahead of where and how to fix it."""
    path = Path(record.request["logs"]) / f"{record.request['job_id']}_0_log.err"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    errors = re.findall(r"^(?:error: |(?=\w+(?:\.\w+)*(?:Error|Exception): ))(.*)$", text, re.M)
    return f", {errors[-1].rstrip()}" if errors else ""


def alive_in(run: Path) -> list[str]:
    """The ids of the jobs of a run folder that wait or run."""
    ids = [record.request["job_id"] for record in records_of(run).values()]
    states = {job_id: job_state(job_id) for job_id in ids if job_id}
    return [job_id for job_id, state in states.items() if state and state.alive]


def cancel(run: Path) -> list[str]:
    """Cancel what waits or runs of a run folder; returns the job ids."""
    alive = alive_in(run)
    if alive:
        subprocess.run(["scancel", *alive], check=True)
    return alive


def table_of(statuses: Sequence[Status]) -> str:
    """For people: a line a piece of work, where the logs of those that failed are, and of a sweep
    what the runs that have ended well came to."""
    rows = [["stage", "job", "state", "done", "left", "requeues", "last metrics"]]
    for s in statuses:
        name = " ".join([s.name, *(f"{key}={value}" for key, value in s.point.items())])
        state = f"{s.state} ({s.why})" if s.why else s.state
        progress = f"{s.done}/{s.total} {s.unit}" if s.total else ""
        left = "" if s.eta_s is None else str(timedelta(seconds=round(s.eta_s)))
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in s.metrics.items())
        rows.append([name, s.job_id, state, progress, left, str(s.requeues), numbers])
    lines = columns(rows)
    failed = [s for s in statuses if s.state not in ("COMPLETED", "PENDING", "RUNNING")]
    if failed:
        lines += ["", "logs:", *(f"  {s.name}: {s.logs}" for s in failed)]
    ended = [(s.point, s.metrics) for s in statuses if s.point and s.state == "COMPLETED"]
    if ended:
        lines += ["", *columns(table_of_runs(ended))]
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, each column as wide as it must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
