"""An audit in a few lines, for a terminal and for the top of its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from kit.audit.claims import CANNOT_BE_TOLD
from kit.audit.conventions import METRICS, SHORT, words_of
from kit.report.table import Row, aligned


def audit_in_words(found: Mapping) -> str:
    """The terminal's text of ``audit.json``."""
    lines = [*_table(found), ""]
    lines += [*in_short(found), *of_files(found)]
    return "\n".join(lines) + "\n"


def _table(found: Mapping) -> list[str]:
    systems, guesses = found["systems"], found["guesses"]
    table = [["", *systems, *guesses, "n"]]
    for name in ("exact/all", "exact/open", "exact/closed", *SHORT[1:]):
        row, own = METRICS[name], [one["metrics"] for one in systems.values()]
        if n := n_of(name, own):
            cells = [with_bounds(row, metrics) for metrics in own]
            cells += [row.text(metrics.get(name)) for metrics in guesses.values()]
            table.append([words_of(name), *cells, n])
    return aligned(table)


def n_of(metric: str, systems: Sequence[Mapping[str, float]]) -> str:
    """Over how many records a metric of systems is; empty where none has it.

    >>> n_of("m", [{"m/n": 9}, {"m/n": 7}, {}]), n_of("m", [{"m/n": 9}]), n_of("m", [{}])
    ('7-9', '9', '')
    """
    counts = sorted({int(own[f"{metric}/n"]) for own in systems if f"{metric}/n" in own})
    return "-".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""


def with_bounds(row: Row, metrics: Mapping[str, float]) -> str:
    """A value and its interval, of metrics without a mode."""
    return f"{row.text(metrics.get(row.name))} {bounds(row, metrics)}".rstrip()


def bounds(row: Row, metrics: Mapping[str, float]) -> str:
    """The interval of a metric as it is shown; empty without one."""
    ends = [metrics.get(f"{row.name}/{end}") for end in ("low", "high")]
    if None in ends:
        return ""
    low, high = (row.text(end).removesuffix("%") for end in ends)
    return f"[{low}, {high}]"


def of_files(found: Mapping) -> Iterator[str]:
    """How each file's predictions found their records."""
    records = found["test"]["records"]
    for name, one in found["systems"].items():
        answered = records - one["missing"]
        line = f"{name}: {one['rows']} predictions, joined by {one['joined_by']}; {answered} of "
        line += f"{records} records have one"
        if one["missing"]:
            as_what = {
                "wrong": "a missing one counts as wrong",
                "left_out": "the others are left out",
            }
            line += f" ({as_what[found['missing_counts_as']]})"
        parts = [
            (one["broken_rows"], "could not be read"),
            (one["unmatched"], "belong to no record"),
            (one["duplicates"], "came after another of the same record and are not used"),
            (one["conflicting"], "of these say something else"),
            (one["empty"], "are empty"),
            (one["other_gold"], "were made for another gold answer"),
        ]
        line += "".join(f"; {count} {words}" for count, words in parts if count)
        yield f"{line}. Read as: {'; '.join(one['read_as'])}."


def of_claims(found: Mapping) -> Iterator[str]:
    """The verdict on each claim."""
    for one in found["claims"]:
        yield f"{one['system']}, claimed {claimed(one)}: {claim_verdict(one)}"


def claimed(one: Mapping) -> str:
    """
    >>> claimed({"metric": "exact/all", "claimed": 0.85, "rounded_to": 0.01})
    'exact match (this kit) 85%'
    """
    return f"{words_of(one['metric'])} {100 * one['claimed']:.{_digits(one)}f}%"


def claim_verdict(one: Mapping) -> str:
    """The verdict in words, with what was measured and who else has that figure."""
    told = f" (n={one['n']})" if one["verdict"] == CANNOT_BE_TOLD else ""
    text = f"{one['verdict']}{told}"
    if one["measured"] is not None:
        ends = {f"m/{end}": one[end] for end in ("low", "high") if one[end] is not None}
        measured = f"{100 * one['measured']:.{max(1, _digits(one))}f}% {bounds(Row('m', ''), ends)}"
        text += f"; measured {measured.rstrip()}, n={one['n']}"
    text += f"; {one['why']}."
    if one["others"]:
        names = [_named(name) for name in one["others"]]
        text += f" What rounds to the claim: {'; '.join(names)}."
    return text


def _digits(one: Mapping) -> int:
    """After the point of a claimed percentage."""
    return max(0, round(-math.log10(one["rounded_to"])) - 2)


def in_short(found: Mapping) -> Iterator[str]:
    """What else a reader should know."""
    yield from _of_conventions(found)
    yield from of_claims(found)
    yield from _of_comparisons(found)
    yield from _of_guesses(found)
    yield from _of_leaks(found)
    yield from _of_judge(found)


def _of_conventions(found: Mapping) -> Iterator[str]:
    """What is right by the kit's rule, and how far the conventions are apart on these answers."""
    names = ("relaxed/all", "vqa_challenge/accuracy", "medevalkit/total")
    for name, one in found["systems"].items():
        own = one["metrics"]
        if "exact/all" not in own:
            continue
        few = "" if "exact/all/low" in own else " (fewer than ten independent images: no interval)"
        line = f"{name}: {with_bounds(METRICS['exact/all'], own)} exact match on "
        line += f"{int(own['exact/all/n'])} records{few}"
        others = [f"{_percent(own[n])} by {words_of(n)}" for n in names if n in own]
        yield (
            f"{line}; the same answers are right in {', '.join(others)}." if others else f"{line}."
        )


def _of_comparisons(found: Mapping) -> Iterator[str]:
    for one in found["comparisons"]:
        if one["metric"] != "exact/all":
            continue
        ends = "" if one["low"] is None else f" [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
        chance = "" if one["better"] else ", which may be chance"
        yield (
            f"{one['b']} against {one['a']}: {100 * one['difference']:+.1f} points{ends} exact "
            f"match on {one['n']} records that both have{chance}; corrected "
            f"{_p(one['p_adjusted'])}."
        )


def _of_guesses(found: Mapping) -> Iterator[str]:
    (first, own), *others = found["guesses"].items()
    told = "".join(f" and the {guess} in {_percent(o['exact/all'])}" for guess, o in others)
    right = f"{_percent(own['exact/all'])}{told}"
    yield f"Without any image, the {first} is right in {right} (exact match)."
    for name, one in found["systems"].items():
        parts = one["subsets"]
        if "guessable" in parts and parts["not_guessable"]["n"] and parts["guessable"]["n"]:
            yes, no = (parts[p]["exact/all"] for p in ("guessable", "not_guessable"))
            yield (
                f"{name} is right in {100 * yes:.1f}% of the {parts['guessable']['n']} questions "
                f"that the guess gets right and in {100 * no:.1f}% of the other "
                f"{parts['not_guessable']['n']}."
            )


def _of_leaks(found: Mapping) -> Iterator[str]:
    leaks = found["leaks"]
    if leaks is None:
        return
    told = leaks["test_records"]
    test = found["test"]
    yield (
        f"The training file asks {told['repeats_test_question']} of the {test['records']} test "
        f"questions on the same image and rewords {told['rewords_test_question']} more; "
        f"{leaks['images_shared']} of {test['images']} test images are in it "
        f"({leaks['records_of_shared_images']} records) and {leaks['images_nearly_the_same']} more "
        "are nearly the same as one of its."
    )
    for name, one in found["systems"].items():
        part = one["subsets"]["without_leaks"]
        if part["n"] and part["n"] < found["test"]["records"]:
            yield (
                f"{name} on the {part['n']} records that are not leaked: "
                f"{with_bounds(METRICS['exact/all'], part)} exact match."
            )


def _of_judge(found: Mapping) -> Iterator[str]:
    judge = found["judge"]
    if judge is None:
        return
    lost = sum(judge["not_judged"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in judge["not_judged"].items())
    yield (
        f"Judge {judge['model']}: {judge['asked']} asked, {judge['from_cache']} from its cache"
        + (f", {lost} not judged ({reasons})" if lost else "")
        + "."
    )
    for name, own in judge["systems"].items():
        if "agreement" not in own:
            yield f"Of {name} nothing was judged."
            continue
        yield (
            f"{name}, judged: {_share(own, 'judge/all')} right. On the {own['agreement/n']} "
            f"answers with a verdict exact match says {_share(own, 'exact')}; the two agree on "
            f"{_share(own, 'agreement')}, kappa {_kappa(own)}."
        )


def _share(own: Mapping, name: str) -> str:
    return with_bounds(Row(name, ""), own)


def _kappa(own: Mapping) -> str:
    if own.get("kappa") is None:
        return "undefined (one of the two always says the same)"
    return with_bounds(Row("kappa", "", ""), own)


def _named(name: str) -> str:
    stem, _, rest = name.partition(" ")
    return f"{words_of(stem)} {rest}".rstrip()


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _p(value: float | None) -> str:
    if value is None:
        return "p unknown"
    return "p <= 0.001" if value <= 0.001 else f"p = {value:.2g}"
