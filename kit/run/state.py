"""The state of a run: what a checkpoint holds and how a run goes on from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kit.errors import ConfigError, UserError
from kit.files import require_folder, write_json
from kit.run import checkpoint, sources, zero
from kit.run.config import RunConfig
from kit.run.runlog import RunLog
from kit.run.stop import StopRequest

# What may differ between the run that saved and the run that resumes.
FREE_KEYS = {
    "output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit", "logging_steps",
    "log_completions", "num_completions_to_print", "max_eval_records", "num_generations_eval",
    "eval_steps", "report_to", "dataloader_num_workers", "dataloader_pin_memory", "stall_steps",
    "load_best_model_at_end", "eval_data", "max_skipped_steps", "resume_weights_only",
}  # fmt: skip


@dataclass
class Progress:
    """How far a run is.

    ``best_loss`` is the lowest eval_loss so far, seen at ``best_step``; ``since_log`` the metrics
    of the steps since the last logged one, so that the next logged means are the same after a
    resume; ``skipped`` the updates that were not made (``kit.run.failures``), ``skipped_in_row``
    those since the last that was; ``stalls`` the first and last step of the spells that
    ``kit.grpo.stalls`` tells of, by the ``recent_rewards`` of format and answer.
    """

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    since_log: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    skipped_in_row: int = 0
    stalls: list[list[int]] = field(default_factory=list)
    recent_rewards: list[list[float]] = field(default_factory=list)

    def keep_best(
        self, loss: float, accelerator: Accelerator, model: nn.Module, folder: Path
    ) -> None:
        """Keep the trained weights in ``best/`` if this is the lowest loss so far."""
        if self.best_loss is not None and loss >= self.best_loss:
            return
        self.best_loss, self.best_step = loss, self.step
        weights = zero.trained_weights(model, keep=accelerator.is_main_process)

        def write(target: Path) -> None:
            save_file(weights, target / "trained.safetensors")
            write_json(target / "best.json", self.facts())

        if accelerator.is_main_process:
            checkpoint.publish(folder / "best", write)

    def facts(self) -> dict:
        """What a summary tells."""
        within = {"since_log", "skipped_in_row", "recent_rewards"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in within}


def best_weights(folder: Path) -> dict[str, Tensor]:
    """The trained weights at the best evaluation of a run.

    Raises:
        UserError: they are damaged.
    """
    if problem := checkpoint.problem_with(folder / "best"):
        raise UserError(f"the best weights are damaged: {problem}", where=folder / "best")
    return _tensors(folder / "best" / "trained.safetensors")


def save(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    progress: Progress,
    made_of: dict | None = None,
) -> Path:
    """Publish checkpoint-N of the run, ``made_of`` what ``sources`` say, and delete the oldest
    over the limit.

    Its tensors are whole, in safetensors, whatever ZeRO stage they were spread by.
    """
    folder = Path(config.output_dir) / f"checkpoint-{progress.step}"
    weights = zero.trained_weights(model, keep=accelerator.is_main_process)
    states = zero.optimizer_states(model, optimizer, keep=accelerator.is_main_process)
    random_states = _gather_random_states(accelerator)
    facts = {
        "progress": dataclasses.asdict(progress),
        "scheduler": scheduler.state_dict(),
        "launch": _launch(accelerator),
        "config": _fixed(config),
        "sources": made_of or {},
    }

    def write(target: Path) -> None:
        save_file(weights, target / "trained.safetensors")
        save_file(states, target / "optimizer.safetensors")
        save_file(random_states, target / "random.safetensors")
        write_json(target / "state.json", facts)

    if accelerator.is_main_process:
        checkpoint.publish(folder, write)
        for line in checkpoint.prune(folder.parent, config.save_total_limit, folder):
            accelerator.print(f"warning: {line}")
    accelerator.wait_for_everyone()
    return folder


def starting_point(config: RunConfig, accelerator: Accelerator) -> Path | None:
    """The checkpoint that the run goes on from, or None to start from the beginning.

    Looks at the run folder only, so that nothing has to be loaded to find a mistake.

    Raises:
        UserError: the run folder cannot be one, or holds an earlier run or a file ``stop``; no
            checkpoint is valid; it was saved under another configuration or number of processes.
    """
    folder = Path(config.output_dir)
    require_folder(folder)
    if (folder / "stop").exists():
        fix = "remove it to start"
        raise ConfigError("a request to stop is left over", where=folder / "stop", fix=fix)
    if not config.resume_from_checkpoint or config.resume_weights_only:
        if checkpoint.checkpoints(folder):
            what = "the run folder holds checkpoints of an earlier run"
            fix = "resume with --resume_from_checkpoint latest, or choose another --output_dir"
            raise ConfigError(what, where=folder, fix=fix)
        if (folder / "summary.json").exists():
            fix = "choose another --output_dir, or remove it"
            raise ConfigError("the run folder holds an earlier run", where=folder, fix=fix)
    if not config.resume_from_checkpoint:
        return None
    for aside in folder.glob(".*.old"):
        checkpoint.recover(folder / aside.name[1:-4])
    chosen, skipped = checkpoint.choose(folder, config.resume_from_checkpoint)
    for line in skipped:
        accelerator.print(f"warning: {line}")
    if not config.resume_weights_only:
        _refuse_changes(_facts(chosen), config, _launch(accelerator), chosen)
        _require_best(_facts(chosen), config)
    return chosen


def sources_of(
    config: RunConfig,
    start: Path | None,
    accelerator: Accelerator,
    data: Mapping[str, Sequence[sources.Record]],
) -> dict:
    """What the run is made of (``kit.run.sources``).

    Raises:
        UserError: the checkpoint that it goes on from was made of something else.
    """
    before = _facts(start)["sources"] if start and not config.resume_weights_only else None
    if before == {}:
        accelerator.print(f"warning: {start.name} does not say of which data and images it is")
    fix, say = _fix(start), accelerator.print
    return sources.unchanged(config, data, before, where=start, fix=fix, say=say)


def resume(
    config: RunConfig,
    folder: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> Progress:
    """Load a checkpoint into model, optimizer, scheduler and random generators; with
    ``resume_weights_only`` into the model alone.

    Raises:
        UserError: it holds other weights than those that are trained.
    """
    weights = _tensors(folder / "trained.safetensors")
    states = _tensors(folder / "optimizer.safetensors")
    if {name: value.shape for name, value in weights.items()} != zero.trained_shapes(model):
        fix = "resume with the configuration that the run was started with"
        raise UserError("the checkpoint holds other trained weights", where=folder, fix=fix)
    if config.resume_weights_only:
        nothing = {name: torch.zeros_like(value) for name, value in states.items()}
        zero.load_whole(model, optimizer, weights, nothing)
        accelerator.print(f"start from the weights of {folder}")
        return Progress()
    facts = _facts(folder)
    zero.load_whole(model, optimizer, weights, states)
    scheduler.load_state_dict(facts["scheduler"])
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    random_states = _tensors(folder / "random.safetensors")
    rank = accelerator.process_index
    torch.set_rng_state(random_states[f"{rank}.cpu"])
    if f"{rank}.cuda" in random_states:
        torch.cuda.set_rng_state(random_states[f"{rank}.cuda"], accelerator.device)
    accelerator.print(f"resumed from {folder}")
    return Progress(**facts["progress"])


def leave(accelerator: Accelerator, log: RunLog, progress: Progress, stop: StopRequest) -> int:
    """End a run that was asked to stop and has saved; returns its exit code."""
    accelerator.print(
        f"stopped at step {progress.step}; resume with the same command and "
        "--resume_from_checkpoint latest"
    )
    log.finish(**progress.facts(), finished=False)
    stop.answered(accelerator)
    return stop.exit_code


def _tensors(path: Path) -> dict[str, Tensor]:
    """What a file of a checkpoint holds. No code in it is run: it is safetensors or an error."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        what = f"cannot read the checkpoint: {error}"
        raise UserError(what, where=path, fix="use another, or latest") from error


def _facts(folder: Path) -> dict:
    path = folder / "state.json"
    try:
        facts = {"sources": {}} | json.loads(path.read_text(encoding="utf-8"))
        names = ("progress", "scheduler", "launch", "config", "sources")
        return {name: dict(facts[name]) for name in names}
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"cannot read the checkpoint: {type(error).__name__}: {error}"
        raise UserError(what, where=path, fix="use another, or latest") from error


def _launch(accelerator: Accelerator) -> dict:
    """How the run was launched, as far as its numbers depend on it."""
    return {
        "num_processes": accelerator.num_processes,
        "zero_stage": zero.stage(accelerator),
        "mixed_precision": accelerator.mixed_precision,
    }


def _refuse_changes(facts: dict, config: RunConfig, launch: dict, folder: Path) -> None:
    before, now = facts["config"] | facts["launch"], _fixed(config) | launch
    changed = [
        f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]
    ]
    if changed:
        what = "the run was started differently: " + "; ".join(changed)
        raise UserError(what, where=folder, fix=_fix(folder))


def _fix(folder: Path | None) -> str:
    return (
        "resume with the same configuration, number of processes and data, or start anew from "
        f"its weights: --resume_from_checkpoint {folder} --resume_weights_only true and "
        "another --output_dir"
    )


def _require_best(facts: dict, config: RunConfig) -> None:
    """Refuse what would be known when everything is trained: that the best weights are gone."""
    step, folder = facts["progress"].get("best_step"), Path(config.output_dir) / "best"
    if step is None or not getattr(config, "load_best_model_at_end", False):
        return
    if problem := checkpoint.problem_with(folder):
        what = f"the best weights so far, of step {step}, cannot be loaded at the end: {problem}"
        fix = "put the folder back, or resume with --load_best_model_at_end false"
        raise UserError(what, where=folder, fix=fix)


def _fixed(config) -> dict:
    plain = dataclasses.asdict(config)
    return json.loads(json.dumps({k: v for k, v in plain.items() if k not in FREE_KEYS}))


def _gather_random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """The state of the random generators of every rank, ``<rank>.cpu`` and ``<rank>.cuda``."""
    rank = accelerator.process_index
    states = {f"{rank}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"{rank}.cuda"] = torch.cuda.get_rng_state(accelerator.device)
    gathered = gather_object([states])
    return {name: value for part in gathered for name, value in part.items()}
