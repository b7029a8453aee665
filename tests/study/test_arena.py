"""What the arena's systems have answered: it is of the arena as it is shipped, can be drawn, and
is what is said of it."""

import functools
import json
import re
import tarfile
from pathlib import Path

import pytest
from helpers import ROOT

from kit.study.config import StudyConfig
from kit.study.plan import plan
from kit.study.records import Record
from kit.study.study import study
from kit.study.study_file import read_study

pytestmark = pytest.mark.slow  # the page is of 187,000 answers

ANSWERS = ROOT / "tests" / "study" / "arena_answers.tar.xz"
PAGES = ("README.md", "kit/study/README.md", "kit/grpo/README.md")


@pytest.fixture(scope="module", autouse=True)
def answers(tmp_path_factory):
    """The folder of the answers, in which all tests stand."""
    folder = tmp_path_factory.mktemp("arena")
    with tarfile.open(ANSWERS) as archive:
        archive.extractall(folder, filter="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def tables(text: str) -> list[tuple[str, dict[str, dict[str, str]]]]:
    """The tables of a page: what stands above their first column, and their rows by column."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        (first, *names), _, *rows = (
            [cell.strip(" `*") for cell in line.strip("|").split("|")]
            for line in block.splitlines()
        )
        found.append((first, {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}))
    return found


@functools.cache
def drawn(reference: str) -> dict[str, dict[str, dict[str, str]]]:
    """The tables of the page beside a system, by what a README has above their first column:
    ``arena`` or ``above NAME``, and of all evaluations but the first ``, EVALUATION``."""
    config = StudyConfig(study="arena", page_only=True, reference=reference, page=reference)
    assert study(config) == 0
    page = Path(reference, "study.md").read_text("utf-8")
    _, *views = re.split(r"^## ", page, flags=re.MULTILINE)
    ends = [f", {view.split(',')[0]}" if number else "" for number, view in enumerate(views)]
    return {
        (title or "arena") + end: rows
        for end, view in zip(ends, views, strict=True)
        for title, rows in tables(view)
    }


def test_the_page_of_the_answers_that_come_with_it():
    assert drawn("sft")
    views = json.loads(Path("sft/study.json").read_text())["views"]
    arena = read_study("arena")
    for run in plan(arena):
        assert not Record(arena.folder, run).changed(), run.name
    for view in views:
        name, there = f"evaluate_{view['evaluation']}", view["metrics"]
        answered = {path.parts[3] for path in Path("runs/arena").glob(f"seed*/*/{name}")}
        assert answered == there.keys(), "each is still a system of the file"
        for system, metrics in there.items():
            own = [
                json.loads(path.read_text())["caption_reason_answer/exact/all"]
                for path in Path("runs/arena").glob(f"seed*/{system}/{name}/metrics.json")
            ]
            assert abs(metrics["exact/all"]["mean"] - sum(own) / len(own)) < 1e-12


def test_what_is_said_of_the_arena_is_what_its_page_says():
    told = [
        (page, *table)
        for page in PAGES
        for table in tables((ROOT / page).read_text("utf-8"))
        if re.match("arena|above ", table[0])
    ]
    assert {page for page, *_ in told} == {*PAGES}
    for page, title, rows in told:
        (reference,) = re.findall(r"above ([\w.+-]+)", title) or ["sft"]
        for system, cells in rows.items():
            for column, cell in cells.items():
                expected = drawn(reference)[title][system][column]
                assert cell == expected, (page, title, system, column)
