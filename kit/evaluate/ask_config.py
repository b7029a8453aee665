"""Typed configuration of asking a model about an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kit.command import option, require
from kit.errors import ConfigError
from kit.evaluate.config import ProbedConfig

LONGEST_QUESTION = 4000  # characters; a vignette with its choices has a third of that


@dataclass
class AskConfig(ProbedConfig):
    """Ask a model about an image: its answer with boxes, how probable it is, and what is answered
    when the boxes are taken out of the image."""

    image: list[str] = option(
        default_factory=list,
        help="an image, several that one question is about, or a folder, of each of its images",
    )
    question: list[str] = option(default_factory=list, help="one question or several")
    format: Literal["text", "json"] | None = option(
        None, help="what is printed; json: a line an image; left out: text, of a folder json"
    )
    output: str = option(
        "",
        help="a PNG of the image with the boxes, the image without them, and the answers; for a "
        "folder of images the folder of such pictures",
    )
    prompting_mode: Literal["think_answer", "caption_reason_answer"] | None = option(
        None,
        help="how the model is asked; left out: as the adapter was taught, else "
        "caption_reason_answer, whose answers claim boxes",
    )
    counterfactual: bool = option(
        True,
        help="ask again without the boxes, and without controls that differ from them in place "
        "alone (random_draws)",
    )
    certificate: str = option(
        "",
        help="certificate.json of this model (certify): say of each answer whether it is certified",
    )
    serve: bool = option(
        False, help="ask on a page in the browser, of this machine alone (extra demo)"
    )
    port: int = option(7860, help="of that page")

    needs_output: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        require(1 <= self.port <= 65535, "port", "must be in 1..65535", self.port)
        if self.certificate and (self.serve or not self.counterfactual):
            what = "a certificate needs the counterfactuals, on the terminal"
            fix = "leave out --serve and --counterfactual, or the certificate"
            raise ConfigError(what, where="certificate", fix=fix)
        if self.serve:
            return
        for name in ("image", "question"):
            if not getattr(self, name):
                fix = f"set --{name}, or ask on a page: --serve true"
                raise ConfigError(f"{name} is not given", where=name, fix=fix)
