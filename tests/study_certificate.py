"""How often a certificate holds: 1,000 splits, by image, of evaluations, and 1,000 drawings of
populations whose risk is known.

    python tests/study_certificate.py runs/eval_grpo runs/eval_validate [--need N] [--splits N]

Each rule (the naive one takes the loosest threshold that held on the calibration half) is given by
how often it certifies, how often more than alpha of the answers given of the other half are bad,
and the mean share of answers given. The evaluations are taken together as one; below
each rule stands what its one threshold gives of each modality.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "report"))
import test_certificate as drawing

from kit.report.certificate import Rule, certify, count
from kit.report.certificate_file import MODE
from kit.report.certify import Answers, split
from kit.report.report import rows_of

RULES = {"naive": None, "population": None, "batch": 1.0}
ALPHAS = (0.05, 0.1, 0.2)


def naive(scores, bad, alpha: float) -> Rule:
    order = np.argsort(-scores)
    order = order[~np.isnan(scores[order])]
    risk = np.cumsum(bad[order]) / np.arange(1, len(order) + 1)
    holds = np.flatnonzero(risk <= alpha)
    return Rule(float(scores[order][holds[-1]]) if len(holds) else None)


def rule_of(name: str, part: list[np.ndarray], alpha: float) -> Rule:
    if name == "naive":
        return naive(*part[:2], alpha)
    return certify(*part, alpha=alpha, delta=0.05, batch=RULES[name])


def told(name: str, found: list, alpha: float) -> str:
    n = len(found)
    given = [one for one in found if one.given]
    over = sum(one.bad > alpha * one.given for one in given)
    coverage = sum(one.coverage for one in found) / n
    return (
        f"  alpha {alpha:<5} {name:<11} certifies {len(given) / n:6.1%}  over {over / n:6.1%}  "
        f"given {coverage:6.2%}  bad among {sum(c.bad for c in given)} of "
        f"{sum(c.given for c in given)}"
    )


def of_runs(folders: list[str], need: float, splits: int) -> None:
    rows = [row for f in folders for row in rows_of(Path(f)) if row["mode"] == MODE]
    answers = Answers.of(rows, need=need)
    values = [answers.scores, answers.bad, answers.clusters]
    there = ~np.isnan(answers.scores)
    print(f"{len(rows)} answers, {len(set(answers.clusters))} images; {there.sum()} need their "
          f"boxes, {int(answers.bad[there].sum())} of these are wrong")  # fmt: skip
    modalities = sorted({row["modality"] for row in rows})
    of = {m: np.array([row["modality"] == m for row in rows]) for m in modalities}
    for alpha in ALPHAS:
        for name in RULES:
            found, by_modality = [], {m: [] for m in modalities}
            for number in range(splits):
                chosen = split(answers.clusters, 0.5, np.random.default_rng([0, number]))
                rule = rule_of(name, [v[chosen] for v in values], alpha)
                found.append(count(rule, *(v[~chosen] for v in values)))
                for m, own in of.items():
                    by_modality[m].append(count(rule, *(v[~chosen & own] for v in values)))
            print(told(name, found, alpha))
            for m, own in by_modality.items():
                print(told(f"  {m}", own, alpha))


def of_populations(n_images: int, splits: int) -> None:
    for kind in ("single", "alike", "clustered"):
        print(f"population {kind!r}, {n_images} images to calibrate on and as many that follow")
        for name in RULES:
            draw, found = np.random.default_rng(0), []
            for _ in range(splits):
                values = drawing.drawn(kind, 2 * n_images, draw)
                chosen = values[2] < n_images
                rule = rule_of(name, [v[chosen] for v in values], 0.1)
                found.append(count(rule, *(v[~chosen] for v in values)))
            print(told(name, found, 0.1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--need", type=float, default=0.05)
    parser.add_argument("--splits", type=int, default=1000)
    given = parser.parse_args()
    if given.runs:
        of_runs(given.runs, given.need, given.splits)
    for size in (30, 150, 600):
        of_populations(size, given.splits)
