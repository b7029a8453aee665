"""What is known of a model that is to be shared: its base, the runs that trained it, its
evaluations, and the data it was trained on. Loads no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.data import slake, vqa_rad
from kit.data.columns import Layout
from kit.data.grpo_records import GrpoRecord, read_grpo_records
from kit.data.phantom.layout import are_phantoms
from kit.data.records import PLAIN
from kit.data.report import report_path
from kit.errors import UserError
from kit.files import iter_json_lines, read_json
from kit.model.folders import TINY, named_base, read_model_json, require_adapter, resolve_base
from kit.model.load import base_config
from kit.prompting.messages import MODES
from kit.yaml_files import read_yaml

BASE_LICENSES = {
    "Qwen/Qwen2-VL-2B": "apache-2.0", "Qwen/Qwen2-VL-2B-Instruct": "apache-2.0",
    "Qwen/Qwen2-VL-7B": "apache-2.0", "Qwen/Qwen2-VL-7B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-VL-7B-Instruct": "apache-2.0", "Qwen/Qwen3-VL-2B-Instruct": "apache-2.0",
    "Qwen/Qwen3-VL-4B-Instruct": "apache-2.0", "Qwen/Qwen3-VL-8B-Instruct": "apache-2.0",
    TINY: "apache-2.0",
}  # fmt: skip
TINY_WORDS = "Qwen2-VL of 1.7 million parameters, the one that medvqa-kit carries"
PHANTOMS = "phantoms"


@dataclass(frozen=True)
class Origin:
    """What a card says of a dataset: its title, its name on the hub (empty: it has none) and a
    sentence on source and license."""

    title: str
    hub: str
    words: str


ORIGINS = {
    slake.DATASET: Origin(
        "SLAKE",
        "BoKelvin/SLAKE",
        "CT, MRI and X-ray images with boxes and questions: Liu et al. 2021, *SLAKE: a "
        "semantically-labeled knowledge-enhanced dataset for medical visual question answering* "
        "(arXiv 2102.09542), https://www.med-vqa.com/slake/. License: CC BY 4.0, which asks for "
        "this attribution. The images are of patients, de-identified by their publishers.",
    ),
    vqa_rad.DATASET: Origin(
        "VQA-RAD",
        "flaviagiammarino/vqa-rad",
        "radiology images from MedPix with questions by clinicians: Lau et al. 2018, *A dataset of "
        "clinically generated visual questions and answers about radiology images* "
        "(doi 10.1038/sdata.2018.251), https://osf.io/89kps/. License: CC0 1.0. The images are of "
        "patients, de-identified by their publishers.",
    ),
    PHANTOMS: Origin(
        "drawn phantoms",
        "",
        "scans of nobody, drawn by medvqa-kit in the layout of SLAKE to try the pipeline out. "
        "License: that of the kit. What is learnt or measured on them says nothing about real "
        "images.",
    ),
}


RUN_KEYS = {
    "quantization", "learning_rate", "lr_scheduler_type", "seed", "per_device_train_batch_size",
    "gradient_accumulation_steps",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A training run, by what its folder holds: its configuration, what it ran with, and its
    summary (empty where missing)."""

    config: dict
    environment: dict
    summary: dict

    @property
    def is_grpo(self) -> bool:
        return "num_generations" in self.config

    @property
    def mode(self) -> str:
        """The form of answer that was taught; GRPO has but one."""
        return MODES[0] if self.config.get("prompting_mode") == MODES[0] else MODES[1]


@dataclass(frozen=True)
class Evaluation:
    """Flat metrics of an evaluation, and how many questions of each dataset it asked.

    ``drawn``: what is called SLAKE there are phantoms.
    """

    name: str
    metrics: Mapping[str, float]
    datasets: Mapping[str, int]
    drawn: bool

    def shown(self, dataset: str) -> str:
        """The key of a dataset in :data:`ORIGINS`, or its own name."""
        return PHANTOMS if self.drawn and dataset == slake.DATASET else dataset


@dataclass(frozen=True)
class TrainingData:
    """A data file: its records by (dataset, split), and prepare_data's report on it (or {})."""

    name: str
    parts: Mapping[tuple[str, str], Sequence[GrpoRecord]]
    report: dict

    @property
    def records(self) -> list[GrpoRecord]:
        return [record for part in self.parts.values() for record in part]


@dataclass(frozen=True)
class Subject:
    """What is exported. ``base`` is what loads it, ``base_words`` its name for others,
    ``base_hub`` that on the hub, if any, ``model_type`` its family; ``runs`` are in the order of
    training."""

    base: str
    base_words: str
    base_hub: str | None
    model_type: str
    license: str
    adapter_config: dict
    runs: Sequence[Run]
    evaluations: Sequence[Evaluation]
    data: Sequence[TrainingData]

    @property
    def trained_on(self) -> list[str]:
        """The datasets of the training data, each once."""
        return [*dict.fromkeys(name for data in self.data for name, _ in data.parts)]

    @property
    def of_phantoms(self) -> bool:
        """Whether anything was learnt from or measured on drawn phantoms."""
        return PHANTOMS in self.trained_on or any(one.drawn for one in self.evaluations)


def read_subject(
    adapter: str,
    *,
    base_model: str,
    base_name: str,
    license: str,
    evaluations: Mapping[str, Path],
    data: Sequence[str],
    layout: Layout = PLAIN,
) -> Subject:
    """Everything that the card is made of, without loading a model.

    Raises:
        UserError: some of it is not there or cannot be read.
    """
    adapter = Path(adapter)
    if (adapter / "config.json").is_file() and not (adapter / "adapter_config.json").is_file():
        fix = "there is nothing to merge: load or upload it as it is"
        raise UserError("a whole model already, not an adapter", where=adapter, fix=fix)
    require_adapter(adapter)
    base = base_model or named_base(adapter)
    is_local = isinstance(resolve_base(base), Path)
    hub = base_name or (None if is_local else base)
    folder = Path(base).expanduser().resolve().name  # not its path, which is nobody's business
    return Subject(
        base=base,
        base_words=hub or (TINY_WORDS if base == TINY else folder),
        base_hub=hub,
        model_type=base_config(base).model_type,
        license=license or BASE_LICENSES.get(hub or base, "other"),
        adapter_config=read_model_json(adapter / "adapter_config.json", "an adapter_config.json"),
        runs=read_runs(adapter),
        evaluations=[read_evaluation(*entry) for entry in evaluations.items()],
        data=[read_training_data(path, layout) for path in data],
    )


def read_runs(adapter: Path) -> list[Run]:
    """The run that left the adapter and, as far as they are still there, those before it."""
    runs: list[Run] = []
    folder: Path | None = adapter
    seen: set[Path] = set()
    while folder and folder.resolve() not in seen and (folder / "config.yaml").is_file():
        seen.add(folder.resolve())
        config = read_yaml(folder / "config.yaml", flag="--adapter")
        if not config.keys() >= RUN_KEYS:  # not the kit's
            break
        others = (read_json(folder / f"{name}.json") for name in ("environment", "summary"))
        runs.insert(0, Run(config, *others))
        folder = Path(config["sft_ckpt"]) if config.get("sft_ckpt") else None
    return runs


def read_evaluation(name: str, folder: Path) -> Evaluation:
    """
    Raises:
        UserError: no ``metrics.json`` of evaluate there.
    """
    metrics = read_json(folder / "metrics.json")
    numbers = all(isinstance(value, (int, float)) for value in metrics.values())
    if not numbers or not any(key.startswith(MODES) for key in metrics):
        what = f"no metrics.json of evaluate to read for {name!r}"
        fix = "give the folder that evaluate wrote: launch/evaluate.py --output"
        raise UserError(what, where=folder, fix=fix)
    datasets: dict[str, int] = {}
    for key, value in metrics.items():
        if found := re.fullmatch(rf"(?:{'|'.join(MODES)})/exact/dataset/(.+)/n", key):
            datasets[found[1]] = max(int(value), datasets.get(found[1], 0))
    asked = []
    if (folder / "predictions.jsonl").is_file():
        lines = (line for _, line in iter_json_lines(folder / "predictions.jsonl"))
        rows = [row for row in lines if isinstance(row, dict) and row.keys() >= {"qid", "image"}]
        asked = [(r["qid"], r["image"]) for r in rows if r.get("dataset") == slake.DATASET]
    return Evaluation(name, metrics, datasets, are_phantoms(asked))


def read_training_data(path: str, layout: Layout) -> TrainingData:
    """
    Raises:
        DataError: no such file, or broken lines in it.
    """
    records, _ = read_grpo_records(path, layout=layout, prefer=("train",))
    called_slake = [(r.qid, r.image) for r in records if r.dataset == slake.DATASET]
    drawn = are_phantoms(called_slake)
    parts: dict[tuple[str, str], list[GrpoRecord]] = {}
    for record in records:
        name = PHANTOMS if drawn and record.dataset == slake.DATASET else record.dataset
        parts.setdefault((name or "unnamed", record.split or "unknown"), []).append(record)
    return TrainingData(Path(path).name, parts, read_json(report_path(path)))
