"""What the arena's systems have answered: it is of the arena as it is shipped, and can be drawn."""

import json
import tarfile
from pathlib import Path

from helpers import ROOT

from kit.study.config import StudyConfig
from kit.study.plan import plan
from kit.study.records import Record
from kit.study.study import study
from kit.study.study_file import read_study

ANSWERS = ROOT / "tests" / "study" / "arena_answers.tar.xz"


def test_the_page_of_the_answers_that_come_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ANSWERS) as archive:
        archive.extractall(filter="data")
    assert study(StudyConfig(study="arena", page_only=True)) == 0
    views = json.loads(Path("runs/arena/page/study.json").read_text())["views"]
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
