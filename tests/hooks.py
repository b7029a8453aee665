"""What a rank does before its script, for ``ranks.Ranks``: watched, and made to fail on purpose."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def is_rank(number: int) -> bool:
    return os.environ.get("RANK", "0") == str(number)


def before_call(module: str, name: str, number: int, act: Callable[[], None]) -> None:
    """Have ``act`` called before this call of a function, the first is 1."""
    place = importlib.import_module(module)
    real, calls = getattr(place, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            act()
        return real(*args, **kwargs)

    setattr(place, name, counted)


def fall_asleep(rank: int) -> None:
    if is_rank(rank):
        time.sleep(1000)


def ask_to_stop(module: str, name: str, rank: int) -> None:
    """SIGTERM to a rank in the second call of a function."""
    if is_rank(rank):
        before_call(module, name, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))


def refuse_gradients_of_the_tower() -> None:
    """Fail where a gradient passes a block of the vision tower."""
    from kit.train import sft

    build = sft.build_model

    def refuse(*_) -> None:
        raise AssertionError("a gradient passes the frozen vision tower")

    def built(config, accelerator):
        model = build(config, accelerator)
        for block in model.get_base_model().model.visual.blocks:
            block.register_full_backward_hook(refuse)
        return model

    sft.build_model = built


def poison(rank: int) -> None:
    """A rank's second loss is not finite. No gradient passes the frozen vision tower."""
    from kit.train import sft

    refuse_gradients_of_the_tower()

    real, calls = sft.sft_loss, [0]

    def loss(*args):
        calls[0] += 1
        bad = calls[0] == 2 and is_rank(rank)
        return real(*args) * (float("nan") if bad else 1.0)

    sft.sft_loss = loss


# ---------------------------------------------------------------------- killed while it saves

SAVING = {
    "write": ("safetensors.torch", "save_file"),  # tensors of a checkpoint are on their way
    "fsync": ("os", "fsync"),
    "rename": ("os", "rename"),
    "replace": ("os", "replace"),
    "delete": ("os", "unlink"),  # shutil.rmtree's, between the files of a folder
}


def die_at(kind: str, number: int) -> None:
    """The call, counted over those on checkpoints, that rank 0 does not return from."""
    if not is_rank(0):
        return
    module_name, name = SAVING[kind]
    module = importlib.import_module(module_name)
    real, calls = getattr(module, name), [0]

    def counted(*args, **kwargs):
        where = str(args[1] if kind == "write" else args[0])
        ours = kind == "fsync" or "checkpoint-" in where or ".final.tmp" in where
        calls[0] += ours
        if ours and calls[0] == number:
            if kind == "write":  # half of it is on the disk
                real(*args, **kwargs)
                os.truncate(args[1], os.path.getsize(args[1]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(module, name, counted)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


def damage_at(number: int, name: str) -> None:
    """A file of this checkpoint that rank 0 publishes is damaged as soon as it stands, and the
    rank is killed when it has deleted what it then takes for outdated."""
    if not is_rank(0):
        return
    from kit.run import checkpoint

    publish, prune, calls = checkpoint.publish, checkpoint.prune, [0]

    def damaging(folder, write):
        publish(folder, write)
        calls[0] += folder.name.startswith("checkpoint-")
        if calls[0] == number:
            flip_a_bit(folder / name)

    def dying(*arguments):
        prune(*arguments)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.publish, checkpoint.prune = damaging, dying


# ---------------------------------------------------------------------- memory


def bytes_of(tensors) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def most_allocated(profiler: profile) -> int:
    """Bytes at the worst moment, from what torch's allocator gives out and takes back."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measure_memory(file: Path) -> None:
    """Write what the second step of rank 0 really takes, and what the plan says that it takes."""
    from kit.plan.memory import activation_bytes, build_on_meta, estimate
    from kit.run.launches import Plan
    from kit.train import sft

    real, calls = sft.update, [0]

    def update(accelerator, model, optimizer, batches, config):
        calls[0] += 1
        if calls[0] != 2:
            return real(accelerator, model, optimizer, batches, config)
        kept = bytes_of(o for o in gc.get_objects() if isinstance(o, torch.Tensor))
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = real(accelerator, model, optimizer, batches, config)
        on_meta = build_on_meta(config)
        activations, logits = activation_bytes(on_meta, batches[0].to("cpu"), bf16=False)
        plan = Plan(accelerator.deepspeed_plugin.zero_stage, 2)
        told = estimate(on_meta, config, plan, bf16=False, activations=activations, logits=logits)
        if is_rank(0):
            found = {"real": kept + most_allocated(profiler), "told": told.total}
            file.write_text(json.dumps(found))
        return result

    sft.update = update
