"""What the systems of shipped studies have answered: it is of the files as they are shipped, can be
drawn, and is what is said of it."""

import functools
import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from kit.shipped import STUDIES, find
from kit.study.config import StudyConfig
from kit.study.plan import plan
from kit.study.records import Record
from kit.study.study import study
from kit.study.study_file import read_study

pytestmark = pytest.mark.slow  # the pages are of 221,000 answers

ANSWERS = {
    path.name.removesuffix("_answers.tar.xz"): path
    for path in Path(__file__).parent.glob("*_answers.tar.xz")
}
PAGES = ("README.md", "kit/study/README.md", "kit/grpo/README.md")
# Above a table's first column; "NAME above OTHER's SYSTEM": beside a system of another study.
TITLE = rf"({'|'.join(ANSWERS)})(?: above (?:(\w+)'s )?([\w.+-]+))?(?:, (\w+))?"


@pytest.fixture(scope="module", autouse=True)
def answers(tmp_path_factory):
    """The folder of the answers, in which all tests stand."""
    folder = tmp_path_factory.mktemp("answers")
    for path in ANSWERS.values():
        with tarfile.open(path) as archive:
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


def with_system(name: str, other: str, system: str) -> str:
    """The file of a study that has a system of another study beside its own, and the evaluations
    of all; both ask the same, with the same seeds."""
    beside, output = f"{other}_{system}", Path("runs", f"{name}_and_{other}")
    for path in [*Path("runs", name).glob("seed*/*/evaluate_*"),
                 *Path("runs", other).glob(f"seed*/{system}/evaluate_*")]:  # fmt: skip
        if path.is_dir():
            _, study_of_it, seed, system_of_it, evaluation = path.parts
            own = system_of_it if study_of_it == name else beside
            (output / seed / own).mkdir(parents=True, exist_ok=True)
            (output / seed / own / evaluation).symlink_to(path.resolve())
    content = yaml.safe_load(find(name, STUDIES).read_text(encoding="utf-8"))
    content["systems"][beside] = {"train_grpo": False, "train_sft": {"max_steps": 1}}
    file = output / "study.yaml"
    file.write_text(yaml.safe_dump(content | {"output": str(output)}, sort_keys=False))
    return str(file)


@functools.cache
def drawn(name: str, other: str, reference: str) -> dict[str, dict[str, dict[str, str]]]:
    """The tables of a study's page beside a system, its own or that of another study, by what a
    README has above their first column: ``NAME`` or ``NAME above REFERENCE``, and of all
    evaluations but the first ``, EVALUATION``."""
    folder, path = Path(f"{name}_{other}_{reference}"), name
    if other:
        path = with_system(name, other, reference)
        reference = f"{other}_{reference}"
    config = StudyConfig(study=path, page_only=True, reference=reference, page=str(folder))
    assert study(config) == 0
    _, *views = re.split(r"^## ", (folder / "study.md").read_text("utf-8"), flags=re.MULTILINE)
    ends = [f", {view.split(',')[0]}" if number else "" for number, view in enumerate(views)]
    return {
        f"{name} {title}".strip() + end: rows
        for end, view in zip(ends, views, strict=True)
        for title, rows in tables(view)
    }


@pytest.mark.parametrize("name", ANSWERS)
def test_the_page_of_the_answers_that_come_with_it(name):
    assert drawn(name, "", "sft")
    views = json.loads(Path(f"{name}__sft", "study.json").read_text())["views"]
    shipped = read_study(name)
    for run in plan(shipped):
        assert not Record(shipped.folder, run).changed(), run.name
    for view in views:
        evaluation, there = f"evaluate_{view['evaluation']}", view["metrics"]
        answered = {path.parts[3] for path in Path(shipped.folder).glob(f"seed*/*/{evaluation}")}
        assert answered == there.keys(), "each is still a system of the file"
        for system, metrics in there.items():
            own = [
                json.loads(path.read_text())["caption_reason_answer/exact/all"]
                for path in Path(shipped.folder).glob(f"seed*/{system}/{evaluation}/metrics.json")
            ]
            assert abs(metrics["exact/all"]["mean"] - sum(own) / len(own)) < 1e-12


def test_what_is_said_of_a_study_is_what_its_page_says():
    told = [
        (page, re.fullmatch(TITLE, title), title, rows)
        for page in PAGES
        for title, rows in tables((ROOT / page).read_text("utf-8"))
        if "above " in title or title.startswith(tuple(ANSWERS))
    ]
    assert {page for page, *_ in told} == {*PAGES}
    assert not [(page, title) for page, found, title, _ in told if not found], "of no study"
    assert {found[1] for _, found, *_ in told} == {*ANSWERS}, "each is told of"
    for page, found, title, rows in told:
        for system, cells in rows.items():
            for column, cell in cells.items():
                name, other, reference, _ = found.groups()
                there = drawn(name, other or "", reference or "sft")
                key = title.replace("'s ", "_") if other else title
                assert cell == there[key][system][column], (page, title, system, column)
