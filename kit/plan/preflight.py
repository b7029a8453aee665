"""What the chosen configurations will do, and whether it fits, before an hour of queueing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from kit.command import parse
from kit.data.grpo_records import read_grpo_records
from kit.data.images import open_image
from kit.data.records import read_sft_records
from kit.data.types import Shown, paths_of
from kit.grpo.config import GrpoConfig
from kit.grpo.objectives import views_of
from kit.model.folders import named_base
from kit.model.lengths import prompt_lengths
from kit.model.load import load_processor
from kit.model.processor import PreparedImage, Processor
from kit.model.sharing import Branch, Tree, pack
from kit.plan.accelerate_internals import default_file
from kit.plan.config import PreflightConfig
from kit.plan.launches import plan_name, plan_of_file, plans_beside
from kit.plan.memory import (
    MemoryEstimate,
    activation_bytes,
    build_on_meta,
    estimate,
    feature_bytes,
    sampling_bytes,
)
from kit.prompting.messages import modes_of, target_text
from kit.run import process
from kit.run.launch_files import read_launch_file
from kit.run.launches import Launch, Plan
from kit.train.config import SftConfig, TrainingConfig

GIB = 2**30
USABLE = 0.9  # of a GPU's memory: the rest is the CUDA context and what lies unused between tensors
QUESTION, ANSWER = 20, 160  # tokens, where no data is given


def preflight(config: PreflightConfig) -> int:
    """Print the report; returns 1 if the chosen configuration does not fit, else 0.

    Raises:
        ConfigError: the configurations contradict each other.
    """
    stage = read_stage(config)
    launch = read_launch(stage, config.accelerate_config, config.num_processes)
    room = device_memory(config.gpu_memory_gb)
    console = Console(width=None if Console().is_terminal else 130)
    for line in describe_devices():
        console.print(line)
    processor = load_processor(
        stage.base_model,
        getattr(stage, "sft_ckpt", None),
        min_pixels=stage.min_pixels,
        max_pixels=stage.max_pixels,
        say=console.print,
    )
    trees = example_trees(stage, processor, config.data)
    for line in describe_run(stage, launch, trees):
        console.print(line)
    n_images = count_images(stage, config.data)
    estimates = table_of_estimates(
        stage, processor, trees, launch.plan, launch.bf16, n_images=n_images
    )
    console.print(as_table(estimates, launch, stage, room))
    best = next((key for key, found in estimates.items() if found.total < room), None)
    if best is None:
        console.print("nothing fits: lower per_device_train_batch_size or max_pixels")
    else:
        console.print(f"recommended: {best[0]}, quantization {best[1]}: the simplest that fits")
    if config.accelerate_config is None:
        if (own := default_file()) is not None:
            console.print(
                f"accelerate launch takes {own} where it is given no --config_file: "
                "plan that with --accelerate_config"
            )
        return 0
    chosen = estimates[plan_name(launch.plan), stage.quantization]
    fits = chosen.total < room
    verdict = "fits" if fits else "does NOT fit"
    console.print(
        f"{Path(config.accelerate_config).stem} with quantization {stage.quantization} {verdict}: "
        f"{chosen.total / GIB:.2f} of {room / GIB:.2f} GiB"
    )
    return 0 if fits else 1


def read_stage(config: PreflightConfig) -> TrainingConfig:
    """The stage's own configuration, as its command would read it."""
    flags = ["--cfg", config.config, "--data", config.data or "-"]
    base = config.base_model
    if config.sft_ckpt:
        flags += ["--sft_ckpt", config.sft_ckpt]
        base = base or named_base(config.sft_ckpt)
    elif config.stage == "grpo":  # its command takes the adapter's
        base = base or TrainingConfig.base_model
    if base:
        flags += ["--base_model", base]
    return config.over(parse({"sft": SftConfig, "grpo": GrpoConfig}[config.stage], flags))


def read_launch(stage: TrainingConfig, path: str | None, num_processes: int | None) -> Launch:
    """What the run will do when it is started by ``accelerate launch --config_file path``, on a
    GPU with bfloat16 where there is none here.

    Raises:
        ConfigError: the configurations contradict each other.
    """
    file = read_launch_file(path) if path else None
    support = process.bf16_support()
    if not torch.cuda.is_available():
        support = "none" if file and file.content.get("use_cpu") else "native"
    return plan_of_file(
        path, stage,
        processes=num_processes or (file.processes if file else 1),
        bf16=support,
        hidden_size=lambda: process.width_of_base(stage),
    )  # fmt: skip


def device_memory(given: float | None) -> float:
    """Bytes of a GPU that tensors may take."""
    if given is not None:
        return given * GIB * USABLE
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory * USABLE
    return 24 * GIB * USABLE


def describe_devices() -> list[str]:
    if not torch.cuda.is_available():
        return ["no GPU here: compared with one of 24 GiB, or of --gpu_memory_gb"]
    lines = []
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        kind = {"native": "bfloat16", "emulated": "bfloat16 emulated", "none": "no bfloat16"}
        lines.append(
            f"GPU {number}: {found.name}, {found.total_memory / GIB:.1f} GiB, "
            f"{kind[process.bf16_support()]}"
        )
    return lines


def example_trees(stage: TrainingConfig, processor: Processor, data: str | None) -> list[Tree]:
    """A micro-batch of the longest records of the data, or of an example of images as large as
    ``max_pixels`` allows. Completions of GRPO are as long as may be."""
    mode, size = "caption_reason_answer", stage.per_device_train_batch_size
    if isinstance(stage, GrpoConfig):
        records = records_of(stage, data) if data else None
        completion = Branch.of([], [0] * stage.max_completion_length)
        trunks = [
            replace(trunk, input_ids=torch.cat([trunk.input_ids, torch.tensor(question)]))
            for trunk, question in _prompts(processor, records, size, mode)
        ]
        return [Tree(trunk, (completion,) * stage.num_generations) for trunk in trunks]
    trees = []
    for each in modes_of(stage.prompting_mode):
        together = stage.questions_per_image if stage.lora_dropout == 0 else 1
        if data is None:
            groups = -(-size // together)
            trunk, question = next(iter(_prompts(processor, None, 1, each)))
            branch = Branch.of(question, [0] * ANSWER)
            counts = [size // groups + (place < size % groups) for place in range(groups)]
            trees += [Tree(trunk, (branch,) * count) for count in counts]
            continue
        for record in _longest(records_of(stage, data), processor, each, size):
            trunk = _trunk(processor, record.shown, each)
            answer = processor.encode_answer(target_text(record, each))
            branch = Branch.of(processor.encode_question(record.question, each), answer)
            trees.append(Tree(trunk, (branch,)))
    return trees


def records_of(stage: TrainingConfig, data: str) -> list:
    """What the stage would train on."""
    read = read_grpo_records if isinstance(stage, GrpoConfig) else read_sft_records
    return read(data, layout=stage.layout, prefer=("train",))[0]


def _prompts(processor: Processor, records: Sequence | None, size: int, mode: str):
    if records is None:
        side = int(processor.image_processor.size["longest_edge"] ** 0.5)
        image = Image.new("RGB", (side, side))
        trunk = processor.encode_trunk(processor.prepare_image(image), mode)
        return [(trunk, [0] * QUESTION)] * size
    return [
        (_trunk(processor, r.shown, mode), processor.encode_question(r.question, mode))
        for r in _longest(records, processor, mode, size)
    ]


def _trunk(processor: Processor, shown: Shown, mode: str):
    images = [processor.prepare_image(open_image(path)) for path in paths_of(shown)]
    return processor.encode_trunk(PreparedImage.together(images), mode)


def _longest(records: Sequence, processor: Processor, mode: str, size: int) -> list:
    lengths = prompt_lengths(records, processor, mode)
    answers = [len(getattr(record, "output", "")) for record in records]
    ranked = sorted(zip(lengths, answers, range(len(records)), strict=True), reverse=True)
    return [records[place] for _, _, place in ranked[:size]]


def describe_run(stage: TrainingConfig, launch: Launch, trees: Sequence[Tree]) -> list[str]:
    """The batch of a step, and the tokens of a micro-batch."""
    image_tokens, what = _image_tokens(trees[0]), "records"
    if isinstance(stage, GrpoConfig):
        what = f"prompts, {launch.batch * stage.num_generations} completions"
    return [
        f"a step: {launch.micro_batch} x {launch.accumulation} accumulated x "
        f"{launch.plan.processes} processes = {launch.batch} {what}",
        f"a micro-batch: {len(trees)} rows of up to {max(map(len, trees))} tokens, "
        f"{image_tokens} of them of an image, in {launch.precision}",
    ]


def _image_tokens(tree: Tree) -> int:
    return int((tree.trunk.input_ids == tree.trunk.image_token_id).sum())


def count_images(stage: TrainingConfig, data: str | None) -> int | None:
    """How many images a run sees, or None: more than their features are kept of, as where each
    step makes new ones."""
    if data is None or (isinstance(stage, GrpoConfig) and stage.makes_images):
        return None
    return len({path for record in records_of(stage, data) for path in record.images})


def table_of_estimates(
    stage: TrainingConfig,
    processor: Processor,
    trees: Sequence[Tree],
    chosen: Plan,
    bf16: bool,
    *,
    n_images: int | None = None,
) -> dict[tuple[str, str], MemoryEstimate]:
    """By plan and quantization, the simplest first; for as many processes and with as large
    buffers as ``chosen``. ``n_images``: of ``count_images``."""
    model = build_on_meta(stage)
    is_grpo = isinstance(stage, GrpoConfig)
    rows = [*trees] * (1 + len(views_of(stage)) if is_grpo else 1)  # with each changed image
    batch = pack(rows, merge_size=processor.image_processor.merge_size)
    activations, logits = activation_bytes(model, batch, bf16=bf16, entropy=is_grpo)
    image_tokens = max(_image_tokens(tree) for tree in trees)
    features = feature_bytes(model, image_tokens, n_images, bf16=bf16)
    sampling = 0
    if is_grpo:  # all prompts of a step together
        prompts = [len(tree.trunk) for tree in trees] * stage.micro_batches_per_step
        sampling = sampling_bytes(model, prompts, stage, bf16=bf16)
    estimates = {}
    for name, plan in plans_beside(chosen).items():
        for quantization in ("none", "nf4") if stage.finetuning == "lora" else ("none",):
            estimates[name, quantization] = estimate(
                model,
                replace(stage, quantization=quantization),
                plan,
                bf16=bf16,
                activations=activations,
                logits=logits,
                features=features,
                sampling=sampling,
            )
    return estimates


def as_table(
    estimates: dict[tuple[str, str], MemoryEstimate],
    launch: Launch,
    stage: TrainingConfig,
    room: float,
) -> Table:
    """GiB on each GPU."""
    table = Table(title=f"GiB on each of {launch.plan.processes} GPUs", title_justify="left")
    for name in ("launch", "quantization"):
        table.add_column(name)
    columns = ["weights", "gradients", "optimizer", "activations", "logits", "features"]
    columns += ["sampling"] * isinstance(stage, GrpoConfig) + ["total"]
    for name in (*columns, "fits"):
        table.add_column(name, justify="right")
    for (name, quantization), found in estimates.items():
        mine = name == plan_name(launch.plan) and quantization == stage.quantization
        table.add_row(
            name, quantization,
            *(f"{getattr(found, column) / GIB:.2f}" for column in columns),
            "yes" if found.total < room else "no",
            style="bold" if mine else None,
        )  # fmt: skip
    return table
