"""The embedded base model from scratch: a model that speaks but sees badly.

First it learns to see phantoms, and to answer. Then it is trained on records most of which come
with the image of another phantom, so that it knows the words and the form of an answer but no
longer says what it sees. Fine-tuning has to teach it that again.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import torch
from transformers import Qwen2VLForConditionalGeneration

from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.data.records import SftRecord, read_sft_records, write_records
from kit.demo.config import PretrainConfig
from kit.demo.sight import teach_sight
from kit.model.folders import base_folder
from kit.model.tiny import tiny_config, tiny_processor, train_tokenizer
from kit.prompting.messages import INSTRUCTIONS
from kit.train.config import SftConfig
from kit.train.sft import train


def pretrain(config: PretrainConfig) -> int:
    """Draw, train, and write the base model in float16."""
    work = Path(config.work_dir)
    records = training_records(config, work)
    write_records(work / "train.json", records)
    start_folder = work / "start"
    tokenizer = train_tokenizer(texts_of(records))
    processor = tiny_processor(tokenizer)
    if not (start_folder / "model.safetensors").exists():
        torch.manual_seed(config.seed)
        model = Qwen2VLForConditionalGeneration(tiny_config(tokenizer))
        teach_sight(
            model,
            processor,
            pictures=config.sight_pictures,
            steps=config.sight_steps,
            seed=config.seed,
        )
        processor.save(start_folder)
        model.save_pretrained(start_folder)
    code = train(
        SftConfig(
            base_model=str(start_folder),
            data=str(work / "train.json"),
            output_dir=str(work / "run"),
            finetuning="full",
            freeze_vision_tower=True,
            per_device_train_batch_size=config.batch_size,
            questions_per_image=4,
            direct_answers=True,
            group_by_length=False,
            prompting_mode="both",
            max_steps=config.steps,
            learning_rate=config.lr,
            adam_beta2=0.98,
            weight_decay=0.01,
            warmup_ratio=0.02,
            logging_steps=25,
            save_steps=250,
            seed=config.seed,
            resume_from_checkpoint="latest" if any((work / "run").glob("checkpoint-*")) else None,
            report_to=["none"],
        )
    )
    if code == 0:
        trained = Qwen2VLForConditionalGeneration.from_pretrained(work / "run", dtype=torch.float16)
        output = config.output or base_folder()
        trained.save_pretrained(output)
        processor.save(output)
    return code


def training_records(config: PretrainConfig, work: Path) -> list[SftRecord]:
    """Phantoms, most with exchanged images."""
    write_slake_phantoms(work / "phantoms", images={"train": config.phantoms}, seed=config.seed)
    output = work / "phantoms.json"
    prepare(
        PrepareConfig(
            output=str(output),
            dataset="SLAKE",
            split="train",
            leaks="keep",
            slake_root=str(work / "phantoms"),
        )
    )
    records, _ = read_sft_records(output)
    return exchange_images(records, config.exchanged, config.seed)


def exchange_images(records: list[SftRecord], share: float, seed: int) -> list[SftRecord]:
    """Give the records of a share of the images another image of them, chosen blindly."""
    rng = random.Random(seed)
    images = list(dict.fromkeys(record.image for record in records))
    exchanged = rng.sample(images, round(share * len(images)))
    others = rng.sample(exchanged, len(exchanged))
    other = dict(zip(exchanged, others, strict=True))
    return [
        dataclasses.replace(
            record, image=other.get(record.image, record.image), regions=(), image_size=None
        )
        for record in records
    ]


def texts_of(records: list[SftRecord]) -> list[str]:
    """All that the model reads and writes, for the tokenizer."""
    texts = [
        *INSTRUCTIONS.values(),
        "system\nYou are a helpful assistant.",
        "user\n",
        "assistant\n",
    ]
    for record in records:
        output = json.loads(record.output)
        short = json.dumps({k: output[k] for k in ("reasoning", "answer")}, ensure_ascii=False)
        texts += [record.question, record.output, short]
    return texts
