"""Anybody's predictions, checked without a model: ``audit.html`` for people and ``audit.json`` for
programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from kit import __version__
from kit.audit.claims import Verdict, judge_claim
from kit.audit.config import AuditConfig
from kit.audit.conventions import METRICS, of_conventions
from kit.audit.endpoint import Endpoint
from kit.audit.joining import Joined, Records, join
from kit.audit.judge import (
    PROMPT_VERSION,
    SYSTEM,
    USER,
    Ask,
    Judged,
    item_of,
    judge_items,
    judged_figures,
)
from kit.audit.leaks import Leaks, leaks_of
from kit.audit.page import write_page
from kit.audit.prediction_files import Predictions, read_predictions
from kit.audit.scored import System, Test, figures, most_frequent_answers, subsets
from kit.audit.wording import wording_of
from kit.audit.words import audit_in_words
from kit.data.audit import question_only_floor
from kit.data.likeness import thumbnails_of, volumes_of
from kit.data.records import read_sft_records
from kit.data.types import SftRecord
from kit.errors import ConfigError
from kit.files import require_folder, write_json
from kit.report.comparison import compare

CACHE = "judge_cache.jsonl"
MOST_MODES = 8  # that the rows of one file may be of


def audit(config: AuditConfig) -> int:
    """Check predictions as configured; returns the exit code.

    Raises:
        UserError: a file cannot be read, nothing in it belongs to the test, or the judge cannot be
            reached.
    """
    require_folder(config.output)
    given = _given(config)
    bad = "skip" if config.skip_bad else "report"
    records, dropped = read_sft_records(
        config.data, bad, layout=config.layout, prefer=("test", "validate")
    )
    told = [row for one in given.values() for row in one.rows]
    wording = wording_of(config.data, config.layout, records, told)
    parts = _joined(given, Records(records, wording), config.join)
    judged = _judged(config, records, parts) if config.judge else None
    train = None
    if config.train_data:
        layout = replace(config.layout, split=None)
        train, _ = read_sft_records(config.train_data, bad, layout=layout, prefer=("train",))
    small = thumbnails_of([*records, *(train or ())])
    floor = question_only_floor(train, records) if train else None
    test = Test(records, volumes_of(records, small), floor)
    keep_missing = config.missing == "wrong"
    systems = [
        System(name, one, joined, test.rows(joined.said, keep_missing))
        for name, (one, joined) in parts.items()
    ]
    leaks = leaks_of(train, records, small) if train else None
    found = {
        "kit": __version__,
        "missing_counts_as": config.missing,
        "test": _of_test(config, test, len(dropped), small),
        "systems": {one.name: _of_system(one, leaks) for one in systems},
        "guesses": _of_guesses(test, train),
        "leaks": leaks.to_json(records) if leaks else None,
        "judge": _of_judge(config, judged, systems) if judged else None,
    }
    found["claims"] = [_as_json(one) for one in _verdicts(config, found)]
    found["comparisons"] = _compared(systems, config.seed)
    output = Path(config.output)
    write_json(output / "audit.json", found)
    write_page(output / "audit.html", found)
    print(audit_in_words(found), end="")
    print(f"open {output / 'audit.html'} in a browser", flush=True)
    return 0


def _given(config: AuditConfig) -> dict[str, Predictions]:
    """What each file holds.

    Raises:
        DataError: one cannot be read.
        ConfigError: no file has a column that was told.
    """
    given = {
        name: read_predictions(
            path, config.columns_told, as_written=config.as_written, skip_bad=config.skip_bad
        )
        for name, path in config.files.items()
    }
    there = {column for one in given.values() for column in one.names}
    for field, column in config.columns_told.items():
        if column and column not in there:
            fix = f"the columns are {', '.join(sorted(there))}"
            raise ConfigError(f"no file has the column {column!r}", where=field, fix=fix)
    return given


def _joined(
    given: Mapping[str, Predictions], test: Records, how: str
) -> dict[str, tuple[Predictions, Joined]]:
    """The predictions of each system by their records; each mode of a file is a system."""
    found = {}
    for name, predictions in given.items():
        modes = list(dict.fromkeys(row.mode for row in predictions.rows))
        if not 1 < len(modes) <= MOST_MODES:
            found[name] = predictions, join(predictions, predictions.rows, test, how)
            continue
        for mode in modes:
            rows = [row for row in predictions.rows if row.mode == mode]
            found[f"{name}/{mode}"] = predictions, join(predictions, rows, test, how)
    return found


def _of_test(
    config: AuditConfig, test: Test, dropped: int, thumbnails: Mapping[Path, object]
) -> dict:
    records = test.records
    images = {record.image for record in records}
    datasets: dict[str, int] = {}
    for record in records:
        datasets[record.dataset] = datasets.get(record.dataset, 0) + 1
    return {
        "data": config.data,
        "train_data": config.train_data,
        "records": len(records),
        "dropped": dropped,
        "datasets": datasets,
        "images": len(images),
        "images_not_read": sum(Path(image) not in thumbnails for image in images),
        "clusters": len({test.volumes[image] for image in images}),
    }


def _of_system(system: System, leaks: Leaks | None) -> dict:
    joined = system.joined
    return {
        "file": str(system.predictions.path),
        "read_as": system.predictions.notes + joined.notes,
        "broken_rows": len(system.predictions.broken),
        "joined_by": joined.by,
        **joined.counts,
        "unmatched_rows": joined.unmatched,
        "metrics": figures(system.rows),
        "subsets": subsets(system.rows, leaks),
    }


def _of_guesses(test: Test, train: Sequence[SftRecord] | None) -> dict:
    """The figures of guessers that see no image."""
    known, where = (train, "training") if train else (test.records, "test")
    guesses = {f"most frequent {where} answer": most_frequent_answers(known, test.records)}
    if test.floor is not None:
        guesses = {"question-only guess": list(test.floor), **guesses}
    return {name: of_conventions(figures(test.rows(said))) for name, said in guesses.items()}


def _compared(systems: Sequence[System], seed: int) -> list[dict]:
    """Every pair of systems on the records that both have, as the report compares models."""
    found = []
    for one in compare({system.name: system.rows for system in systems}, seed):
        if one.metric in METRICS:
            flat = one.to_json() | {"better": one.better}
            del flat["mode"]
            found.append(flat)
    return found


def _verdicts(config: AuditConfig, found: Mapping) -> list[Verdict]:
    judged = (found["judge"] or {}).get("systems", {})
    return [
        judge_claim(
            claim,
            name,
            one["metrics"] | judged.get(name, {}),
            one["subsets"]["answered"],
            config.claim_margin,
        )
        for claim in config.claims
        for name, one in found["systems"].items()
        if claim.system in ("", name, name.rpartition("/")[0])
    ]


def _as_json(verdict: Verdict) -> dict:
    flat = asdict(verdict)
    claim = flat.pop("claim")
    return {
        "system": flat.pop("system"),
        "claim": claim["written"],
        "metric": claim["metric"],
        "claimed": claim["value"],
        "rounded_to": 2 * claim["half"],
        **flat,
    }


def _judged(
    config: AuditConfig,
    records: Sequence[SftRecord],
    parts: Mapping[str, tuple[Predictions, Joined]],
) -> Judged:
    """What the judge says of every answer that is one."""
    ask: Ask
    parallel = config.judge_parallel
    if config.judge_is_endpoint:
        ask = Endpoint(
            config.judge, config.judge_name, config.judge_key_variable, config.judge_timeout
        )
    else:
        from kit.audit.local_judge import LocalJudge

        ask, parallel = LocalJudge(config.judge), 1
    items = [
        item_of(record.question, record.choices, record.answer, given.answer)
        for _, joined in parts.values()
        for record, given in zip(records, joined.answers, strict=True)
        if given is not None and given.answer.strip()
    ]
    return judge_items(items, ask, config.judge_name, Path(config.output) / CACHE, parallel)


def _of_judge(config: AuditConfig, judged: Judged, systems: Sequence[System]) -> dict:
    """What the judge says of each system, and how it was asked."""
    return {
        "judge": config.judge,
        "model": config.judge_name,
        "temperature": 0,
        "prompt_version": PROMPT_VERSION,
        "prompt": {"system": SYSTEM, "user": USER},
        "asked": judged.asked,
        "from_cache": judged.cached,
        "not_judged": dict(judged.unjudged),
        "systems": {one.name: judged_figures(one.rows, judged) for one in systems},
    }
