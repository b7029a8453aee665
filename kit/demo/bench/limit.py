"""How near an update comes to what the machine can compute."""

from __future__ import annotations

from statistics import median

from kit.demo.bench import grpo, machine, sft
from kit.demo.bench.cases import Case
from kit.plan.flops import update_flops
from kit.plan.memory import build_on_meta

TIMED = {"grpo": "update", "sft": "step"}  # what takes the time of an update


def share_of_matmul(case: Case, ours: grpo.Ours | sft.Ours, steps: list[dict[str, float]]) -> dict:
    """FLOP/s of this kit's last updates over those of a large matrix product on the same device,
    of the same type; of SFT, whose steps read images too, over the whole step.

    Only matrix products count, and only those that the update needs: nothing that is computed a
    second time for lack of memory, and no tower whose features are there: from the rollout, or
    from an earlier epoch.
    """
    model = build_on_meta(ours.config)
    batches = [batch.to("cpu") for batch in ours.batches]
    counts = [sum(update_flops(model, batch) for batch in batches) for _ in range(2)]
    flops = counts[1] if case.shape.job == "grpo" or case.shape.seen else counts[0]
    limit = machine.matmul_rate(case.device, case.dtype)
    what = TIMED[case.shape.job]
    share = flops / median(step[what] for step in steps) / limit
    print(f"{case.shape.name}: {what} at {share:.0%} of a large matmul's {limit:.3g} FLOP/s")
    return {
        "what": f"{what}, of a large matmul", "shape": case.shape.name, "device": case.device,
        "dtype": str(case.dtype).removeprefix("torch."), "ours": share, "unit": "share",
        "flops": flops, "flops_per_second_of_matmul": limit,
    }  # fmt: skip
