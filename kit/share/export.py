"""A trained adapter as a model to share: merged into its base, with a model card.

transformers alone loads the folder, and so does the kit, as ``--base_model``. The card says what
the training and evaluation folders say, and no more: what is not known is said to be unknown.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from kit.errors import UserError
from kit.files import require_folder
from kit.model.adapters import load_adapter
from kit.model.families import teaches_grid
from kit.model.load import load_base, load_processor
from kit.run.checkpoint import publish
from kit.share.card import model_card
from kit.share.config import ExportConfig
from kit.share.provenance import Subject, read_subject

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
MANIFEST = "manifest.json"  # of the folder here; a card that is edited on the hub would belie it


def export(config: ExportConfig) -> int:
    """Merge, describe, write, and push if that is asked for; returns the exit code.

    Raises:
        UserError: the adapter, its base, an evaluation or a data file cannot be used, or the
            output is not empty, all before a model is loaded; the disk is full (nothing is left);
            or the hub refused (the folder stays).
    """
    output = Path(config.output)
    if output.is_dir() and any(output.iterdir()):
        fix = f"remove it, or choose another: --output {config.output}2"
        raise UserError("the output folder is not empty", where=output, fix=fix)
    require_folder(output)
    subject, card = describe(config)
    if subject.license == "other":
        print("the card says 'license: other', as the base's is not known: set --license")
    print(f"merging {config.adapter} into {subject.base}", flush=True)
    processor = load_processor(subject.base, config.adapter, say=print)
    model = merge(subject.base, config.adapter, DTYPES[config.dtype])

    def write(folder: Path) -> None:
        model.save_pretrained(folder, max_shard_size=config.max_shard_size)
        processor.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")

    publish(output, write)
    print(f"the model and its card (README.md) are in {output}", flush=True)
    if config.push_to_hub:
        push(output, config.push_to_hub, private=config.private)
    return 0


def describe(config: ExportConfig) -> tuple[Subject, str]:
    """What is exported, and its model card; loads no model.

    Raises:
        UserError: something that it is made of is not there or cannot be read.
    """
    subject = read_subject(
        config.adapter,
        base_model=config.base_model,
        base_name=config.base_name,
        license=config.license,
        evaluations=config.folders,
        data=config.data,
        layout=config.layout,
    )
    title = (config.push_to_hub or str(Path(config.output).resolve())).split("/")[-1]
    return subject, model_card(subject, title, config.dtype)


def merge(base: str, adapter: str | Path, dtype: torch.dtype) -> nn.Module:
    """The base, unquantized, plus the adapter's product of matrices; added in float32 and then
    rounded to ``dtype``.

    Raises:
        UserError: either cannot be loaded, or the sum is not finite.
    """
    adapted = load_adapter(load_base(base), adapter)
    _untie(adapted)
    try:
        model = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        fix = "take an earlier checkpoint of the run"
        raise UserError(f"cannot merge: {error}", where=adapter, fix=fix) from error
    model = model.to(dtype).eval()
    teaches_grid(model.config)
    for config in (model.config.text_config, model.config.vision_config):
        config.dtype = dtype  # saving sets that of the whole alone
    return model


def _untie(model: PeftModel) -> None:
    """Give an adapted layer weights of its own where the base uses them in another too, as
    Qwen2-VL-2B its embedding as output head; else merging into one would change both."""
    used = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else None
        if layer is not None and used[id(layer.weight)] > 1:
            layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
            model.config.tie_word_embeddings = False


def push(folder: Path, repository: str, *, private: bool) -> None:
    """Upload an exported folder to the hub.

    Raises:
        UserError: no network, token or permission, the hub refused, or the repository is public
            and should not be.
    """
    by_hand = f"hf upload {repository} {folder} . --exclude {MANIFEST}" + " --private" * private
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            what = "the repository is there already, and public; nothing was uploaded"
            fix = f"make it private there, or choose another; then: {by_hand}"
            raise UserError(what, where=repository, fix=fix)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload the merged model",
            ignore_patterns=[MANIFEST],
        )
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        fix = f"{folder} stays; check network and token (hf auth login), then: {by_hand}"
        raise UserError(f"cannot push: {reason}", where=repository, fix=fix) from error
    print(f"pushed to https://huggingface.co/{repository}", flush=True)
