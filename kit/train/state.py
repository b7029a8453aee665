"""The state of a run: what a checkpoint holds and how a run goes on from it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from kit.errors import ConfigError, UserError
from kit.files import require_folder, write_json
from kit.train import checkpoint
from kit.train.config import TrainingConfig
from kit.train.runlog import RunLog
from kit.train.runtime import EXIT_STOPPED, StopRequest

# What may differ between the run that saved and the run that resumes.
FREE_KEYS = {
    "output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit", "logging_steps",
    "log_completions", "num_completions_to_print", "max_eval_records",
    "eval_steps", "report_to", "dataloader_num_workers", "load_best_model_at_end", "eval_data",
}  # fmt: skip


@dataclass
class Progress:
    """How far a run is.

    ``best_loss`` is the lowest eval_loss so far, seen at ``best_step``; ``since_log`` the metrics
    of the steps since the last logged one, so that the next logged means are the same after a
    resume.
    """

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    since_log: list[dict[str, float]] = field(default_factory=list)

    def keep_best(
        self, loss: float, accelerator: Accelerator, model: nn.Module, folder: Path
    ) -> None:
        """Keep the trained weights in ``best/`` if this is the lowest loss so far."""
        if self.best_loss is not None and loss >= self.best_loss:
            return
        self.best_loss, self.best_step = loss, self.step

        def write(target: Path) -> None:
            save_file(trained_weights(model), target / "trained.safetensors")
            write_json(target / "best.json", self.facts())

        if accelerator.is_main_process:
            checkpoint.publish(folder / "best", write)

    def load_best(self, model: nn.Module, folder: Path) -> None:
        """Put the weights of the best evaluation back."""
        problem = checkpoint.problem_with(folder / "best")
        if problem:
            raise UserError(f"the best weights are damaged: {problem}", where=folder / "best")
        load_trained(model, folder / "best" / "trained.safetensors")

    def facts(self) -> dict:
        """What a summary tells."""
        facts = dataclasses.asdict(self)
        del facts["since_log"]
        return facts


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters that are trained, by name."""
    return {
        name: parameter.detach().cpu().clone().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trained(model: nn.Module, path: Path) -> None:
    """Load exactly the trained parameters.

    Raises:
        UserError: the file holds others.
    """
    saved = load_file(path)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in trained.items()}:
        fix = "resume with the configuration that the run was started with"
        raise UserError("the checkpoint holds other trained weights", where=path, fix=fix)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])


def save(config, accelerator, model, optimizer, scheduler, progress: Progress) -> Path:
    """Publish checkpoint-N of the run, and delete the oldest over the limit."""
    folder = Path(config.output_dir) / f"checkpoint-{progress.step}"
    random_states = _gather_random_states(accelerator)

    def write(target: Path) -> None:
        save_file(trained_weights(model), target / "trained.safetensors")
        torch.save(
            {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()},
            target / "optimizer.pt",
        )
        torch.save(random_states, target / "random.pt")
        facts = {
            "progress": dataclasses.asdict(progress),
            "num_processes": accelerator.num_processes,
        }
        facts["config"] = _fixed(config)
        write_json(target / "state.json", facts)

    if accelerator.is_main_process:
        checkpoint.publish(folder, write)
        checkpoint.prune(folder.parent, config.save_total_limit)
    accelerator.wait_for_everyone()
    return folder


def starting_point(config: TrainingConfig, accelerator: Accelerator) -> Path | None:
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
    if not config.resume_from_checkpoint:
        if checkpoint.checkpoints(folder):
            raise ConfigError(
                "the run folder holds checkpoints of an earlier run",
                where=folder,
                fix="resume with --resume_from_checkpoint latest, or choose another --output_dir",
            )
        if (folder / "summary.json").exists():
            fix = "choose another --output_dir, or remove it"
            raise ConfigError("the run folder holds an earlier run", where=folder, fix=fix)
        return None
    chosen, skipped = checkpoint.choose(folder, config.resume_from_checkpoint)
    for line in skipped:
        accelerator.print(f"warning: {line}")
    _refuse_changes(_facts(chosen), config, accelerator.num_processes, chosen)
    return chosen


def resume(folder: Path, accelerator: Accelerator, model, optimizer, scheduler) -> Progress:
    """Load a checkpoint into model, optimizer, scheduler and random generators.

    Raises:
        UserError: it holds other weights than those that are trained.
    """
    load_trained(model, folder / "trained.safetensors")
    states = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    optimizer.load_state_dict(states["optimizer"])
    scheduler.load_state_dict(states["scheduler"])
    random_states = torch.load(folder / "random.pt", map_location="cpu", weights_only=True)
    own = random_states[accelerator.process_index]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], accelerator.device)
    accelerator.print(f"resumed from {folder}")
    return Progress(**_facts(folder)["progress"])


def require_steps_left(progress: Progress, total_steps: int) -> None:
    """Raise ConfigError if the checkpoint is at the end of the run already."""
    if progress.step >= total_steps:
        raise ConfigError(
            f"the checkpoint is at step {progress.step} of {total_steps}",
            where="max_steps",
            fix="nothing is left to do",
        )


def leave(accelerator: Accelerator, log: RunLog, progress: Progress, stop: StopRequest) -> int:
    """End a run that was asked to stop and has saved; returns its exit code."""
    accelerator.print(
        f"stopped at step {progress.step}; resume with the same command and "
        "--resume_from_checkpoint latest"
    )
    log.finish(**progress.facts(), finished=False)
    stop.answered(accelerator)
    return EXIT_STOPPED


def _facts(folder: Path) -> dict:
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def _refuse_changes(facts: dict, config, num_processes: int, folder: Path) -> None:
    now = _fixed(config)
    changed = [
        f"{key}: {facts['config'].get(key)!r} -> {now[key]!r}"
        for key in now
        if facts["config"].get(key) != now[key]
    ]
    if facts["num_processes"] != num_processes:
        changed.append(f"number of processes: {facts['num_processes']} -> {num_processes}")
    if changed:
        raise UserError(
            "the run was started differently: " + "; ".join(changed),
            where=folder,
            fix="resume with the same configuration, or start anew in another --output_dir",
        )


def _fixed(config) -> dict:
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    return {key: value for key, value in plain.items() if key not in FREE_KEYS}


def _gather_random_states(accelerator: Accelerator) -> list[dict[str, torch.Tensor]]:
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    if accelerator.num_processes == 1:
        return [own]
    gathered = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, own)
    return gathered
