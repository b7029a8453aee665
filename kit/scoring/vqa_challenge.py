"""The VQA challenge's string match with one gold answer (Antol et al. 2015, arXiv 1505.00468;
GT-Vision-Lab/VQA, ``PythonEvaluationTools/vqaEvaluation/vqaEval.py``).

Line ends and tabs become spaces, then both answers go through the rules that LLaVA-Med took over
(:func:`kit.scoring.llava_med.normalise_words`), and must be equal. The challenge itself has ten
gold answers a question and counts how many agree; medical sets have one. For English only.
"""

from __future__ import annotations

from kit.scoring.llava_med import normalise_words


def vqa_hit(prediction: str, gold: str) -> float:
    """1.0 or 0.0.

    >>> vqa_hit("The left lung.", "left lung"), vqa_hit("two", "2"), vqa_hit("lungs", "lung")
    (1.0, 1.0, 0.0)
    """
    said, wanted = (
        normalise_words(text.replace("\n", " ").replace("\t", " ").strip())
        for text in (prediction, gold)
    )
    return float(said == wanted)
