"""What a measured answer depends on beside the question: of which model it is, and asked how. A
certificate holds for that and nothing else (``kit.report.certificate_file``)."""

from __future__ import annotations

from pathlib import Path

from kit.evaluate.config import ProbedConfig
from kit.files import sha256_of
from kit.model.folders import named_base, resolve_base

HOW = (
    "max_new_tokens", "quantization", "bf16", "min_pixels", "max_pixels", "answer_boxes",
    "inpainting", "random_draws",
)  # fmt: skip


def setting_of(config: ProbedConfig) -> dict:
    """The base model and the adapter, by the sums of their weights (a base of a hub by its name),
    and how they are asked, as plain JSON."""
    base = resolve_base(config.base_model or named_base(config.adapter))
    return {
        "base_model": _sums(base) if isinstance(base, Path) else base,
        "adapter": _sums(Path(config.adapter)) if config.adapter else None,
    } | {name: getattr(config, name) for name in HOW}


def _sums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
