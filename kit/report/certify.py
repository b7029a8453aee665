"""The command ``certify``: a certificate for the answers of an evaluated model, from its
evaluation, and how it holds on the part that was held out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.errors import UserError
from kit.files import read_json, require_folder
from kit.report.certificate import Counts, Rule, certify, count, upper_bound
from kit.report.certificate_file import MODE, SETTING, Certificate, Seen, percent
from kit.report.certificate_page import write_page
from kit.report.config import CertifyConfig
from kit.report.report import rows_of
from kit.report.statistics import cluster_of

NEEDED = {"flips", "boxes", "modality"}


@dataclass(frozen=True)
class Answers:
    """Of N answers: the lines, and (N,) each the scores (NaN: never given), whether they are bad
    (0 or 1), and their images (clusters) as numbers."""

    rows: Sequence[Mapping]
    scores: np.ndarray
    bad: np.ndarray
    clusters: np.ndarray

    @classmethod
    def of(cls, *parts: Sequence[Mapping], need: float) -> Answers:
        """Of the lines of evaluations of different images."""
        rows = [row for part in parts for row in part]
        scores = np.array([Seen.of_row(row).score(need) for row in rows])
        wrong = np.array([row["scores"]["exact"] < 1 for row in rows], dtype=bool)
        names = [f"{n} {cluster_of(row)}" for n, part in enumerate(parts) for row in part]
        clusters = np.unique(names, return_inverse=True)[1]
        return cls(rows, scores, (wrong | np.isnan(scores)).astype(np.float64), clusters)

    def part(self, chosen: np.ndarray) -> Answers:
        """Those that are ``chosen``, (N,) bool."""
        rows = list(itertools.compress(self.rows, chosen))
        return Answers(rows, self.scores[chosen], self.bad[chosen], self.clusters[chosen])

    def rule(self, config: CertifyConfig, batch: float | None) -> Rule:
        """What these set as the calibration split; ``batch`` as for :func:`certify`."""
        return certify(
            self.scores, self.bad, self.clusters, alpha=config.alpha, delta=config.delta,
            batch=batch,
        )  # fmt: skip

    def counts(self, rule: Rule) -> Counts:
        return count(rule, self.scores, self.bad, self.clusters)


def certify_run(config: CertifyConfig) -> int:
    """Write ``certificate.json`` and ``certificate.html``, and say what it holds; returns the exit
    code.

    Raises:
        UserError: an evaluation is not there, or has no counterfactuals; the two that are given
            are of different models or share images.
    """
    output = Path(config.output)
    require_folder(output)
    own, setting = _read(config.evaluation)
    if config.calibration:
        others, its_setting = _read(config.calibration)
        if its_setting != setting:
            what = f"not of the model of {config.evaluation}, or asked otherwise"
            fix = "calibrate on an evaluation of the same model with the same options"
            raise UserError(what, where=config.calibration, fix=fix)
        answers = Answers.of(others, own, need=config.need)
        in_calibration = np.arange(len(answers.rows)) < len(others)
        if shared := _contents(others) & _contents(own):
            what = f"{len(shared)} images are in {config.evaluation} too"
            fix = "calibrate on other images, or leave calibration out to split one evaluation"
            raise UserError(what, where=config.calibration, fix=fix)
    else:
        answers = Answers.of(own, need=config.need)
        draw = np.random.default_rng(config.seed)
        in_calibration = split(answers.clusters, config.calibration_share, draw)
    certificate, held_out = _certificate(config, answers, in_calibration, setting)
    share = in_calibration.mean() if config.calibration else config.calibration_share
    again = resplit(config, answers, share) if held_out.rows else None
    certificate.write(output / "certificate.json")
    write_page(output / "certificate.html", certificate, held_out.rows, again, config.examples)
    _tell(certificate, again, output)
    return 0


def split(clusters: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Which answers, (N,) bool, are for calibration: a ``share`` of the images, at least
    one, drawn."""
    images = np.unique(clusters)
    chosen = draw.permutation(images)[: max(1, round(share * len(images)))]
    return np.isin(clusters, chosen)


@dataclass(frozen=True)
class Resplits:
    """Of so many other splits of the same answers: in how many anything was certified, in how many
    of these the share of bad answers among those given of the rest was above alpha, and the mean
    share that was given of the rest."""

    n: int
    certified: int
    violations: int
    coverage: float


def resplit(config: CertifyConfig, answers: Answers, share: float) -> Resplits:
    """Calibrate on other splits, each for its rest (or the population), and look at that."""
    batch = None if config.batch == 0 else (1 - share) / share
    certified, violations, coverage = 0, 0, 0.0
    for number in range(config.resplits):
        draw = np.random.default_rng([config.seed, number])
        chosen = split(answers.clusters, share, draw)
        found = answers.part(~chosen).counts(answers.part(chosen).rule(config, batch))
        certified += found.given > 0
        violations += found.given > 0 and found.risk > config.alpha
        coverage += found.coverage / config.resplits
    return Resplits(config.resplits, certified, violations, coverage)


def _certificate(
    config: CertifyConfig, answers: Answers, in_calibration: np.ndarray, setting: Mapping | None
) -> tuple[Certificate, Answers]:
    calibration, held_out = answers.part(in_calibration), answers.part(~in_calibration)
    n_images = len(np.unique(calibration.clusters))
    batch = n_images if config.batch is None else config.batch
    rule = calibration.rule(config, batch / n_images or None)

    def told(keep: Callable[[Mapping], bool]) -> dict:
        found = {}
        for name, part in (("calibration", calibration), ("held_out", held_out)):
            counts = part.part(np.array([keep(row) for row in part.rows], dtype=bool)).counts(rule)
            bound = upper_bound(counts, config.delta)
            found[name] = counts.to_json() | {"upper": bound} if part.rows else None
        return found

    modalities = sorted({row["modality"] for row in answers.rows})
    return Certificate(
        alpha=config.alpha,
        delta=config.delta,
        need=config.need,
        threshold=rule.threshold,
        why=rule.why,
        batch=batch or None,
        setting=setting,
        **told(lambda row: True),
        modalities={
            name or "not named": told(lambda row, name=name: row["modality"] == name)
            for name in modalities
        },
    ), held_out


def _read(folder: str) -> tuple[list[dict], Mapping | None]:
    """The lines of the mode that claims boxes, and the setting (None: of an older version)."""
    rows = [row for row in rows_of(Path(folder)) if row["mode"] == MODE]
    if not rows:
        fix = f"evaluate again with --prompting_mode {MODE}"
        raise UserError("no answer was asked for its boxes", where=folder, fix=fix)
    if any(not (row.keys() >= NEEDED and _is_probed(row)) for row in rows):
        fix = "evaluate again with --counterfactual true"
        raise UserError("what answers rest on was not measured", where=folder, fix=fix)
    setting = read_json(Path(folder) / SETTING)
    return rows, setting | {"mode": MODE} if setting else None


def _contents(rows: Sequence[Mapping]) -> set[str]:
    return {row.get("image_sha256") or row["image"] for row in rows}


def _is_probed(row: Mapping) -> bool:
    return "drop_roi" in row["flips"].get("claimed", {"drop_roi": 0})


def _tell(certificate: Certificate, again: Resplits | None, output: Path) -> None:
    if certificate.threshold is None:
        print(f"nothing is certified: {certificate.why}")
    else:
        print(certificate.promise)
        print(f"certified from a probability of {certificate.threshold:.4f} on")
    lines = {"all": vars(certificate), **certificate.modalities}
    for name, parts in lines.items():
        for part in ("calibration", "held_out"):
            if parts[part]:
                print(f"  {name}, {part.replace('_', ' ')}: {in_words(parts[part])}")
    if again and again.n:
        print(
            f"{again.n} other splits: {again.certified} certify anything; of these "
            f"{again.violations} give more than {percent(certificate.alpha)} bad answers of the "
            f"rest ({again.violations / again.n:.1%} of all splits); {again.coverage:.1%} are given"
        )
    print(f"open {output / 'certificate.html'} in a browser", flush=True)


def in_words(counts: Mapping) -> str:
    """
    >>> in_words({"given": 4, "asked": 50, "images": 9, "coverage": 0.08, "risk": 0.25, "bad": 1,
    ...           "upper": 0.751})
    '4 of 50 answers given (8.0%), over 9 images; 1 bad (25.0%, at most 75.1%)'
    """
    asked = f"{counts['given']} of {counts['asked']} answers given ({counts['coverage']:.1%})"
    told = f"{asked}, over {counts['images']} images"
    if counts["risk"] is None:
        return told
    return f"{told}; {counts['bad']} bad ({counts['risk']:.1%}, at most {counts['upper']:.1%})"
