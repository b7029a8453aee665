"""How sure a model is of an answer, by several measures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kit.counterfactual.probe import answer_probabilities
from kit.evaluate.answering import DECIMALS, Answer, Predictor
from kit.model.sampler import Sampling, generate, question_prompt, seeded_noise
from kit.prompting.answers import same_answer
from kit.prompting.messages import REQUIRED_KEYS
from kit.scoring.consistency import Consistency


def measure_confidences(
    predictor: Predictor,
    answers: Sequence[Answer],
    *,
    consistency: Consistency | None,
    num_samples: int,
    temperature: float,
    seed: int,
) -> list[dict[str, float]]:
    """For each answer, by the name of the measure:

    - ``answer_probability``, in 0..1: of this answer given at once, without reasoning (geometric
      mean over its tokens; ``kit.counterfactual.probe``);
    - ``consistency``, a cosine in -1..1: of caption and question, in the mode that has captions;
      -1 for a caption that says nothing (``kit.scoring.consistency``);
    - ``self_consistency``, in 0..1, with ``num_samples`` above 0: the share of so many sampled
      answers that are this one (Wang et al. 2023, arXiv 2203.11171).
    """
    found: list[dict[str, float]] = [{} for _ in answers]
    chances = answer_probabilities(
        predictor.model,
        predictor.processor,
        [
            (predictor.image_cache.prepared(a.record.shown), a.record.question, a.parsed.answer)
            for a in answers
        ],
        batch_size=predictor.batch_size,
    )
    for one, chance in zip(found, chances, strict=True):
        one["answer_probability"] = round(chance, DECIMALS)
    if consistency is not None:
        captioned = [i for i, a in enumerate(answers) if "caption" in REQUIRED_KEYS[a.mode]]
        scores = consistency.scores(
            [answers[i].parsed.caption for i in captioned],
            [answers[i].record.question for i in captioned],
            [answers[i].record.choices for i in captioned],
        )
        for i, score in zip(captioned, scores, strict=True):
            found[i]["consistency"] = round(2 * score - 1, DECIMALS)
    if num_samples:
        sampling = Sampling(predictor.max_new_tokens, temperature)
        for i, share in enumerate(_agreement(predictor, answers, sampling, num_samples, seed)):
            found[i]["self_consistency"] = share
    return found


def _agreement(
    predictor: Predictor, answers: Sequence[Answer], sampling: Sampling, num_samples: int, seed: int
) -> list[float]:
    prompts = [
        question_prompt(
            predictor.processor,
            predictor.image_cache.prepared(a.record.shown),
            [a.record.question] * num_samples,
            a.mode,
        )
        for a in answers
    ]
    names = [
        (seed, a.record.dataset, a.record.qid, a.record.question, a.mode, number)
        for a, number in itertools.product(answers, range(num_samples))
    ]
    drawn = generate(
        predictor.model,
        prompts,
        sampling,
        end_id=predictor.processor.end_of_turn_id,
        unsampled_ids=predictor.processor.unsampled_ids,
        noise=seeded_noise(names, sampling.max_new_tokens),
        max_rows=predictor.batch_size,
    )
    return [
        sum(
            same_answer(predictor.parse(c, a.mode).answer, a.parsed.answer, a.record.choices)
            for c in group
        )
        / num_samples
        for a, group in zip(answers, drawn, strict=True)
    ]
