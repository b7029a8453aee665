"""What a file of accelerate will make of a run, and the plans that the preflight compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kit.plan.accelerate_internals import environment_of
from kit.run.config import RunConfig
from kit.run.launches import Launch, Plan, Support, plan_launch

PLANS = {
    "none or DDP": Plan(0),
    "zero1": Plan(1),
    "zero2": Plan(2),
    "zero2_offload": Plan(2, offload_optimizer=True),
    "zero3": Plan(3),
    "zero3_offload": Plan(3, offload_optimizer=True, offload_weights=True),
}


def plan_of_file(
    path: str | None,
    config: RunConfig,
    *,
    processes: int,
    bf16: Support,
    hidden_size: Callable[[], int],
) -> Launch:
    """What a run of ``config`` will do that ``accelerate launch --config_file path`` starts, or
    plain Python; see ``plan_launch``.

    Raises:
        ConfigError: accelerate refuses the file, or they contradict each other.
    """
    told = environment_of(path, processes=processes) | {"WORLD_SIZE": str(processes)}
    return plan_launch(told, config, bf16=bf16, hidden_size=hidden_size)


def plan_name(plan: Plan) -> str:
    """Its name among ``PLANS``, or one of its own.

    >>> plan_name(Plan(3, processes=8)), plan_name(Plan(3, offload_optimizer=True))
    ('zero3', 'zero3, optimizer offload')
    """
    bare = Plan(plan.stage, 1, plan.offload_optimizer, plan.offload_weights)
    named = next((name for name, known in PLANS.items() if known == bare), None)
    if named:
        return named
    kept = ["optimizer"] * plan.offload_optimizer + ["weights"] * plan.offload_weights
    return f"zero{plan.stage}, {' and '.join(kept)} offload"


def plans_beside(chosen: Plan) -> dict[str, Plan]:
    """``PLANS`` and the chosen one by name, for as many processes and with as large buffers as
    it has."""
    known = PLANS if plan_name(chosen) in PLANS else PLANS | {plan_name(chosen): chosen}
    return {
        name: replace(
            plan,
            processes=chosen.processes, bucket=chosen.bucket, persistence=chosen.persistence,
        )
        for name, plan in known.items()
    }  # fmt: skip
