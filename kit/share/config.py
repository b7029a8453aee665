"""Typed configuration of export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from kit.command import option
from kit.data.columns import TableOptions
from kit.errors import ConfigError
from kit.report.config import ReportConfig

SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")


@dataclass
class ExportConfig(TableOptions):
    """Merge an adapter into its base: one model that transformers loads, with a model card."""

    adapter: str = option("", help="folder of a trained adapter", aliases=["--sft_ckpt"])
    base_model: str = option(
        "",
        help="hub name, local folder or 'tiny'; left out: the adapter's own",
        aliases=["--model_name_or_path"],
    )
    base_name: str = option(
        "", help="name of the base on the hub, for the card, where the base is a local folder"
    )
    output: str = option("", help="folder to write, empty or new")
    evaluations: list[str] = option(
        help="name=folder of each, the folder being what evaluate wrote; the last is this model's",
        default_factory=list,
    )
    data: list[str] = option(
        help="records that it was trained on, for the card's data statement", default_factory=list
    )
    dtype: Literal["bf16", "fp32"] = option(
        "bf16", help="of the stored weights; the merge itself is in float32"
    )
    max_shard_size: str = option("5GB", help="largest file of weights")
    license: str = option(
        "",
        help="of the weights, as the hub spells it; left out: the base's where the kit knows it, "
        "else 'other'",
    )
    push_to_hub: str | None = option(
        None, help="repository (name/model) to upload the folder to; needs a network and a token"
    )
    private: bool = option(True, help="that repository is for its owners alone")

    def __post_init__(self):
        for name in ("adapter", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        if not SIZE.fullmatch(self.max_shard_size):
            what = f"{self.max_shard_size!r} is no size"
            raise ConfigError(what, where="max_shard_size", fix="write it as in 5GB or 500MB")
        for name in ("base_name", "push_to_hub"):
            _check_hub_name(name, getattr(self, name))
        _ = self.folders  # ReportConfig checks them

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each evaluation by its name."""
        return ReportConfig(self.evaluations, self.output).folders if self.evaluations else {}


def _check_hub_name(key: str, name: str | None) -> None:
    if not name:
        return
    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError(f"{name!r} is not of the form owner/model")
    except HFValidationError as error:
        what = f"no name on the hub: {str(error).splitlines()[0]}"
        raise ConfigError(what, where=key, fix="write owner/model") from error
