"""Launch files as people have them, and a script that says what a run makes of each.

``FILES``: by name, what the accelerate file says, what its DeepSpeed file says if it has one, and
what the stage's configuration says beside ``SFT``; then what comes of it, or what it is refused
for. The files are of accelerate's questionnaire, of the examples of transformers, TRL and
DeepSpeed, and of people who edited these.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SFT = {
    "base_model": "tiny", "data": "-", "report_to": "none", "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4, "max_grad_norm": 1.0, "lr_scheduler_type": "cosine",
}  # fmt: skip

BARE = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2}
GPUS = BARE | {"distributed_type": "MULTI_GPU", "use_cpu": True}
ZERO = BARE | {"distributed_type": "DEEPSPEED", "use_cpu": True}
ASKED = {  # what accelerate's questionnaire writes beside
    "debug": False, "downcast_bf16": "no", "enable_cpu_affinity": False, "machine_rank": 0,
    "main_training_function": "main", "rdzv_backend": "static", "same_network": True,
    "tpu_env": [], "tpu_use_cluster": False, "tpu_use_sudo": False,
}  # fmt: skip
AUTO = {
    "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto", "gradient_clipping": "auto", "bf16": {"enabled": "auto"},
}  # fmt: skip
BUCKETS = {
    "overlap_comm": False, "contiguous_gradients": True, "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto",
}  # fmt: skip
OPTIMIZER = {
    "type": "AdamW",
    "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
}
WARMUP = {
    "type": "WarmupLR",
    "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"},
}
CPU = {"device": "cpu", "pin_memory": True}
HALF = {"fp16": {"enabled": "auto", "loss_scale": 0}}


def zero(stage: int, **more) -> dict:
    return {"zero_optimization": {"stage": stage, "overlap_comm": False} | more}


def inside(**deepspeed) -> dict:
    """An accelerate file that states everything itself."""
    return ZERO | ASKED | {"deepspeed_config": deepspeed}


# name: (accelerate, DeepSpeed or None, of the stage, what comes of it or why it is refused)
# what comes of it: (ZeRO stage, optimizer in main memory, weights too, batch of a step, bfloat16)
FILES: dict[str, tuple[dict, dict | None, dict, tuple | str]] = {
    # ---- accelerate alone
    "ddp": (GPUS, None, {}, (0, False, False, 16, False)),
    "ddp of the questionnaire": (
        GPUS | ASKED | {"mixed_precision": "no"}, None, {}, (0, False, False, 16, False)
    ),
    "ddp in bf16": (GPUS | {"mixed_precision": "bf16"}, None, {}, (0, False, False, 16, True)),
    "ddp, empty sections": (
        GPUS | {"deepspeed_config": {}, "fsdp_config": {}, "gpu_ids": "all"},
        None, {}, (0, False, False, 16, False),
    ),
    "bf16 against the stage": (
        GPUS | {"mixed_precision": "bf16"}, None, {"bf16": False}, "mixed precision 'bf16', the kit"
    ),
    "float16": (GPUS | {"mixed_precision": "fp16"}, None, {}, "'fp16' is not supported"),
    # ---- a stage stated in the accelerate file
    "stage 1 inside": (inside(zero_stage=1), None, {}, (1, False, False, 16, False)),
    "stage 2 inside": (
        inside(zero_stage=2, gradient_accumulation_steps=4, gradient_clipping=1.0,
               offload_optimizer_device="none", offload_param_device="none",
               zero3_init_flag=False),
        None, {}, (2, False, False, 16, False),
    ),
    "no stage inside": (inside(zero3_init_flag=False), None, {}, (2, False, False, 16, False)),
    "stage 3 inside": (
        inside(zero_stage=3, zero3_init_flag=True, zero3_save_16bit_model=True,
               deepspeed_multinode_launcher="standard", offload_optimizer_device="none",
               offload_param_device="none"),
        None, {}, (3, False, False, 16, False),
    ),
    "stage 2, offload inside": (
        inside(zero_stage=2, offload_optimizer_device="cpu"), None, {}, (2, True, False, 16, False)
    ),
    "stage 3, all offload inside": (
        inside(zero_stage=3, offload_optimizer_device="cpu", offload_param_device="cpu"),
        None, {}, (3, True, True, 16, False),
    ),
    "stage 3, optimizer offload inside": (
        inside(zero_stage=3, offload_optimizer_device="cpu"), None, {}, (3, True, False, 16, False)
    ),
    "stage 2, weights offload inside": (
        inside(zero_stage=2, offload_param_device="cpu"), None, {}, (2, False, False, 16, False)
    ),
    "accumulation auto inside": (
        inside(zero_stage=2, gradient_accumulation_steps="auto", gradient_clipping="auto"),
        None, {}, (2, False, False, 16, False),
    ),
    "accumulation 1 inside": (
        inside(zero_stage=2, gradient_accumulation_steps=1), None, {},
        "gradient_accumulation_steps 1, the kit gradient_accumulation_steps 4",
    ),
    "clipping inside": (
        inside(zero_stage=2, gradient_clipping=0.3), None, {}, "gradient_clipping 0.3, the kit"
    ),
    "bf16 inside": (
        inside(zero_stage=2) | {"mixed_precision": "bf16"}, None, {}, (2, False, False, 16, True)
    ),
    "stage as text": (inside(zero_stage="3"), None, {}, (3, False, False, 16, False)),
    # ---- a DeepSpeed file
    "all auto": (ZERO, AUTO | zero(2), {}, (2, False, False, 16, False)),
    "auto buckets": (ZERO, AUTO | zero(3, **BUCKETS), {}, (3, False, False, 16, False)),
    "auto buckets of 2": (
        ZERO, AUTO | zero(2, allgather_bucket_size="auto", reduce_bucket_size="auto"), {},
        (2, False, False, 16, False),
    ),
    "buckets as floats": (
        ZERO, AUTO | zero(2, allgather_bucket_size=2e8, reduce_bucket_size=2e8), {},
        (2, False, False, 16, False),
    ),
    "nothing but a stage": (ZERO, zero(1), {}, (1, False, False, 16, False)),
    "numbers that agree": (
        ZERO,
        zero(2) | {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4,
                   "train_batch_size": 16, "gradient_clipping": 1.0},
        {}, (2, False, False, 16, False),
    ),
    "a whole batch of another number": (
        ZERO, zero(2) | {"train_batch_size": 32}, {}, "train_batch_size 32"
    ),
    "bf16 in the DeepSpeed file": (
        ZERO, AUTO | zero(2) | {"bf16": {"enabled": True}}, {}, (2, False, False, 16, True)
    ),
    "bf16 against the stage in the DeepSpeed file": (
        ZERO, AUTO | zero(2) | {"bf16": {"enabled": True}}, {"bf16": False}, "bf16.enabled True"
    ),
    "no bf16 in the DeepSpeed file": (
        ZERO, AUTO | zero(2) | {"bf16": {"enabled": False}}, {}, (2, False, False, 16, False)
    ),
    "of transformers, stage 2": (
        ZERO,
        AUTO | HALF | {"optimizer": OPTIMIZER, "wall_clock_breakdown": False,
                       "steps_per_print": 2000}
        | zero(2, offload_optimizer=CPU, allgather_partitions=True, reduce_scatter=True,
               allgather_bucket_size=2e8, reduce_bucket_size=2e8, contiguous_gradients=True),
        {}, (2, True, False, 16, False),
    ),
    "of transformers, stage 3": (
        ZERO,
        AUTO | HALF | {"optimizer": OPTIMIZER, "scheduler": WARMUP}
        | zero(3, offload_optimizer=CPU, offload_param=CPU, sub_group_size=1e9,
               stage3_max_live_parameters=1e9, stage3_max_reuse_distance=1e9,
               stage3_gather_16bit_weights_on_model_save="auto", **{
                   k: v for k, v in BUCKETS.items() if k != "overlap_comm"}),
        {"lr_scheduler_type": "constant_with_warmup"}, (3, True, True, 16, False),
    ),
    "another schedule": (
        ZERO, AUTO | {"scheduler": WARMUP} | zero(2), {}, "WarmupLR is constant_with_warmup"
    ),
    "an optimizer with numbers": (
        ZERO, AUTO | {"optimizer": {"type": "AdamW", "params": {"lr": 3e-5}}} | zero(2), {},
        "its own optimizer",
    ),
    "stage 3, optimizer offload": (
        ZERO, AUTO | zero(3, offload_optimizer=CPU), {}, (3, True, False, 16, False)
    ),
    "stage 1, offload": (
        ZERO, AUTO | zero(1, offload_optimizer=CPU), {}, (1, True, False, 16, False)
    ),
    "offload to none": (
        ZERO, AUTO | zero(3, offload_optimizer={"device": "none"}, offload_param={"device": None}),
        {}, (3, False, False, 16, False),
    ),
    "weights offload of stage 2": (
        ZERO, AUTO | zero(2, offload_param=CPU), {}, (2, False, False, 16, False)
    ),
    "stage auto": (ZERO, AUTO | zero("auto"), {}, (2, False, False, 16, False)),
    "no ZeRO": (ZERO, AUTO, {}, "specify the ZeRO optimization"),
    "stage 0": (ZERO, AUTO | zero(0), {}, "stage 0"),
    "stage 5": (ZERO, AUTO | zero(5), {}, "stage 5"),
    "stage in both": (
        ZERO | {"deepspeed_config": {"zero_stage": 3}}, AUTO | zero(2), {}, "will be ignored"
    ),
    "precision in both": (
        ZERO | {"mixed_precision": "bf16"}, AUTO | zero(2), {}, "will be ignored"
    ),
    "an auto that nobody fills": (
        ZERO, AUTO | zero(2) | {"communication_data_type": "auto"}, {}, "communication_data_type"
    ),
}  # fmt: skip

# refused before anything is started: name, accelerate file, what is said
REFUSED = (
    ("FSDP", BARE | {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, "FSDP"),
    ("Megatron", BARE | {"distributed_type": "MEGATRON_LM"}, "MEGATRON_LM"),
    ("TPU", BARE | {"distributed_type": "XLA", "downcast_bf16": "no"}, "XLA"),
    ("TPU as it was called", BARE | {"distributed_type": "TPU"}, "TPU"),
    ("CPUs by MPI", BARE | {"distributed_type": "MULTI_CPU", "use_cpu": True}, "MULTI_CPU"),
    ("NPU", BARE | {"distributed_type": "MULTI_NPU"}, "MULTI_NPU"),
    ("no type", BARE, "distributed_type"),
    ("SageMaker", {"compute_environment": "AMAZON_SAGEMAKER", "distributed_type": "NO"}, "AMAZON"),
    ("fewer processes than machines", GPUS | {"num_processes": 1, "num_machines": 2}, "evenly"),
    ("three on two machines", GPUS | {"num_processes": 3, "num_machines": 2}, "evenly"),
    ("two without a launcher", BARE | {"distributed_type": "NO"}, "one process"),
    ("no number", {"distributed_type": "MULTI_GPU"}, "num_processes"),
    ("a number in words", GPUS | {"num_processes": "all"}, "num_processes"),
    ("a parallelism of 2", GPUS | {"parallelism_config": {"tp_size": 2}}, "parallelism_config"),
    ("precision auto", GPUS | {"mixed_precision": "auto"}, "auto"),
    ("an unknown key", GPUS | {"num_procs": 2}, "num_procs"),
    ("no DeepSpeed file", ZERO | {"deepspeed_config": {"deepspeed_config_file": "x.json"}}, "x.js"),
)


def write(folder: Path, accelerate: dict, deepspeed: dict | None) -> Path:
    """The files in a folder; returns accelerate's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "launch.yaml"
    if deepspeed is not None:
        (folder / "ds.json").write_text(json.dumps(deepspeed))
        named = {"deepspeed_config_file": str(folder / "ds.json"), "zero3_init_flag": False}
        accelerate = accelerate | {
            "deepspeed_config": named | accelerate.get("deepspeed_config", {})
        }
    path.write_text(json.dumps(accelerate))  # JSON is YAML
    return path


def main(folder: str, output: str) -> None:
    """In each rank: for each of ``FILES``, the run's own beginning and DeepSpeed's own engine for
    a model of one layer; rank 0 writes what it got."""
    import os

    import torch
    from accelerate.state import AcceleratorState, GradientState

    from kit.command import parse
    from kit.plan.accelerate_internals import environment_of
    from kit.run import process, zero
    from kit.train.config import SftConfig

    found = {}
    before = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    for number, (name, (_, _, stage, _)) in enumerate(FILES.items()):
        os.environ.clear()
        os.environ.update(before)
        try:
            told = environment_of(f"{folder}/{number}/launch.yaml", processes=2)
            os.environ.update(told)
            flags = [f"--{k}={v}" for k, v in (SFT | stage | {"output_dir": output}).items()]
            config = parse(SftConfig, flags)
            accelerator = process.start(config)
            model = torch.nn.Linear(8, 8)
            optimizer = torch.optim.AdamW(model.parameters())
            model, _ = accelerator.prepare(model, optimizer)
            row, buckets = [0, False, False, accelerator.num_processes * 8], []
            if zero.is_used(accelerator):
                row = [
                    model.zero_optimization_stage(),
                    str(
                        model.zero_offload_optimizer() and model.zero_offload_optimizer().device
                    ).endswith("cpu"),
                    str(model.zero_offload_param() and model.zero_offload_param().device).endswith(
                        "cpu"
                    )
                    and model.zero_optimization_stage() == 3,
                    model.train_batch_size(),
                ]
                buckets = [
                    model.zero_reduce_bucket_size(),
                    model.zero_param_persistence_threshold(),
                ]
                assert model.gradient_clipping() == config.max_grad_norm
                assert model.bfloat16_enabled() == (accelerator.mixed_precision == "bf16")
            half = accelerator.mixed_precision == "bf16"
            found[name] = [*row, half, accelerator.num_processes, *buckets]
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        AcceleratorState._reset_state()
        GradientState._reset_state()
    if os.environ.get("RANK") == "0":
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
