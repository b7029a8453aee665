"""The runner: what is done is not done again, what was cut off goes on, and one that fails stops no
other."""

import json
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from helpers import ROOT

from kit.errors import UserError
from kit.run.folder_lock import FolderLock
from kit.study import study as runner
from kit.study.config import StudyConfig
from kit.study.page import write_page
from kit.study.study_file import read_study

ALL = 16
DATA = ["data/SLAKE", "data/train.json", "data/prompts.json", "data/test.json"]


def begun(seed: int, *systems: str) -> list[str]:
    return [
        f"seed{seed}/{system}/{stage}"
        for system in systems
        for stage in ("train_sft" if system == "sft" else "train_grpo", "evaluate_test")
    ]


def test_all_is_run_once_in_the_order_of_the_seeds_and_never_again(stubbed):
    first = stubbed()
    assert first == [*DATA, *begun(0, "sft", "plain", "good"), *begun(1, "sft", "plain", "good")]
    assert stubbed() == []


def test_a_system_or_a_seed_more_is_all_that_is_run(stubbed):
    stubbed()
    systems = {"plain": {"weights": "0.2,0.8,0,0"}, "bad": {}, "good": {"beta": 0.1}}
    assert stubbed(changes={"systems": systems}) == [*begun(0, "bad"), *begun(1, "bad")]
    more = {"systems": systems, "seeds": [0, 1, 2]}
    assert stubbed(changes=more) == begun(2, "sft", "plain", "bad", "good")
    also = more | {"evaluations": {"test": {}, "ns": {"inpainting": "ns"}}}
    assert {name.split("/")[-1] for name in stubbed(changes=also)} == {"evaluate_ns"}


def test_a_subset_is_run_and_the_rest_later(stubbed):
    assert stubbed(only=["good"], seeds=[1]) == [*DATA, *begun(1, "sft", "good")]
    assert stubbed(seeds=[1]) == begun(1, "plain")
    assert stubbed() == begun(0, "sft", "plain", "good")


def test_an_evaluation_that_is_there_needs_no_model(stubbed):
    """So that the weights may be deleted, and only what has to be is trained again."""
    stubbed()
    for folder in Path("out").glob("seed*/*/train_*"):
        if folder.is_dir():
            shutil.rmtree(folder)
    assert stubbed() == []
    shutil.rmtree("out/seed1/good/evaluate_test")
    assert stubbed() == ["seed1/sft/train_sft", *begun(1, "good")]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"systems": {"plain": {"weights": "0.3,0.7,0,0"}}}, "weights was '0.2,0.8,0,0'"),
        ({"train_grpo": {"cfg": "grpo_tiny", "max_steps": 3}}, "max_steps was 2 and is 3"),
        ({"phantoms": {"train": 9, "prompts": 4, "test": 6}}, "train was 8 and is 9"),
        ({"evaluate": {}}, "prompting_mode was 'caption_reason_answer' and is 'both'"),
    ],
)
def test_a_file_that_was_changed_for_what_is_done_is_refused(changes, key, stubbed):
    stubbed()
    with pytest.raises(UserError) as caught:
        stubbed(changes=changes)
    assert key in str(caught.value)
    assert "small.yaml" in str(caught.value)
    assert stubbed() == []


def test_what_changes_no_number_may_change_and_what_never_got_further_too(stubbed, processes):
    stubbed()
    kept = {"cfg": "grpo_tiny", "max_steps": 2, "save_steps": 50, "logging_steps": 2}
    assert stubbed(changes={"train_grpo": kept}) == []
    systems = {"plain": {"weights": "0.2,0.8,0,0"}, "late": {"reward_funcs": "no:such"}}
    processes.fails = "late/train"
    assert len(stubbed(1, {"systems": systems})) == 2
    processes.fails = "nothing"
    systems["late"] = {"beta": 0.2}
    assert stubbed(changes={"systems": systems}) == [*begun(0, "late"), *begun(1, "late")]


def test_a_key_that_the_kit_gains_counts_as_it_was_by_default(stubbed):
    stubbed()
    for path in Path("out").glob("seed*/*/train_grpo.run.json"):
        facts = json.loads(path.read_text())
        del facts["config"]["delta"], facts["config"]["counterfactual_answers"]
        path.write_text(json.dumps(facts))
    assert stubbed() == []
    with pytest.raises(UserError, match="counterfactual_answers was None and is 'given'"):
        stubbed(changes={"systems": {"good": {"beta": 0.1, "counterfactual_answers": "given"}}})


def test_what_was_made_from_another_start_is_refused(stubbed):
    """Of which nothing is left but what came of it."""
    stubbed()
    start = Path("out/seed0/sft/train_sft.run.json")
    facts = json.loads(start.read_text())
    start.write_text(json.dumps(facts | {"identity": "another"}))
    with pytest.raises(UserError, match="seed0/sft/evaluate_test was made from another") as caught:
        stubbed()
    assert "out/seed0/sft/evaluate_test{,.log,.yaml,.run.json}" in caught.value.fix
    for path in Path("out/seed0/sft").glob("train_sft*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="of which nothing is left"):
        stubbed()


def test_what_is_advised_to_be_removed_makes_room_for_other_keys(stubbed):
    """And takes all with it that was made from that, and nothing else."""
    evaluations = {"test": {}, "test_ns": {"inpainting": "ns"}}
    stubbed(changes={"evaluations": evaluations})
    other = {"systems": {"plain": {"weights": "0.3,0.7,0,0"}, "good": {"beta": 0.1}}}
    other |= {"evaluations": evaluations}
    for seed in (0, 1):
        with pytest.raises(UserError, match="weights was") as caught:
            stubbed(changes=other)
        shutil.rmtree(f"out/seed{seed}/plain/train_grpo")
        with pytest.raises(UserError, match="weights was"):
            stubbed(changes=other)  # of a model that is gone its answers are there
        command = caught.value.fix[caught.value.fix.index("rm -r") :].replace("rm -r", "rm -rf")
        subprocess.run(["bash", "-c", command], check=True)
    again = [f"seed{s}/plain/{n}" for s in (0, 1) for n in ("train_grpo", *(
        f"evaluate_{name}" for name in evaluations))]  # fmt: skip
    assert stubbed(changes=other) == again


def test_data_of_ones_own_whose_content_is_another_are_refused(stubbed):
    mine = Path("mine.json")
    mine.write_text("[]")
    own = {"data": {"mine": "mine.json"}, "evaluate": {"data": "mine"}}
    stubbed(changes=own, seeds=[0])
    mine.write_text("[1]")
    with pytest.raises(UserError, match=r"mine\.json has another content"):
        stubbed(changes=own)
    mine.write_text("[]")
    stubbed(changes=own)
    mine.unlink()
    assert stubbed(changes=own) == [], "the page can be drawn without it"


def test_one_that_fails_stops_no_other_and_is_told_at_the_end(stubbed, processes, capsys):
    processes.fails = "seed0/plain/train"
    ran = stubbed(1, parallel=2)
    assert "seed0/plain/evaluate_test" not in ran
    assert len(ran) == ALL - 1
    told = capsys.readouterr().out
    assert "seed0/plain/train_grpo failed with code 3" in told
    assert "    it goes\n    wrong" in told
    assert "1 runs failed, 1 that need them were not run" in told
    processes.fails = "nothing"
    assert stubbed() == begun(0, "plain")


@pytest.mark.parametrize("parallel", [1, 3])
def test_runs_at_once_are_as_many_as_is_said(parallel, stubbed, processes):
    stubbed(parallel=parallel)
    assert processes.at_once == parallel
    names = [name for name, *_ in processes.begun]
    for system in ("plain", "good"):
        trained, asked = begun(1, system)
        assert names.index("seed1/sft/train_sft") < names.index(trained) < names.index(asked)


def test_what_has_a_model_runs_under_the_launch_that_the_file_names(stubbed, processes):
    proxied = {"choose_prompts": {"least_drop": 0.1}, "cf_proxy": {}, "seeds": [0]}
    stubbed(changes={"accelerate_config": "cpu", **proxied})
    launched = {name.split("/")[-1] for name, *flags in processes.begun if flags}
    assert launched == {"train_sft", "cf_proxy.jsonl", "train_grpo", "evaluate_test"}
    flags = {tuple(flags) for _, *flags in processes.begun if flags}
    assert flags == {("--accelerate_config", str(ROOT / "accelerate_configs/cpu.yaml"))}


def test_asked_to_stop_it_goes_on_run_by_run(stubbed, processes, capsys):
    """What runs is asked to save, nothing else is started, and what has saved is resumed."""
    processes.hangs = "seed0/good/train"
    processes.when_it_hangs = lambda: signal.raise_signal(signal.SIGTERM)
    first = stubbed(130)
    assert first[-1] == "seed0/good/train_grpo"
    facts = json.loads(Path("out/seed0/good/train_grpo.run.json").read_text())
    assert facts["code"] == 99, "it was asked to save, and did"
    assert "stopped; the same command goes on" in capsys.readouterr().out
    processes.hangs = "nothing"
    rest = stubbed()
    assert processes.begun[0] == (
        "seed0/good/train_grpo", "--resume_from_checkpoint", "latest",
    )  # fmt: skip
    assert len(first) + len(rest) == ALL + 1
    assert not any(more for _, *more in processes.begun[1:])


def test_another_study_of_the_same_folder_is_refused(written, monkeypatch):
    Path("out").mkdir()
    monkeypatch.setattr(runner, "FolderLock", partial(FolderLock, patience=0.1))
    with (
        FolderLock("out"),
        pytest.raises(UserError, match="another process is writing here"),
    ):
        runner.study(StudyConfig(study=str(written())))


def test_a_dry_run_says_what_would_be_run_and_runs_nothing(stubbed, capsys):
    stubbed(seeds=[0])
    capsys.readouterr()
    assert stubbed(dry_run=True) == []
    told = capsys.readouterr().out.strip().split("\n")
    assert sum(line.startswith("done") for line in told) == 10
    assert sum(line.startswith("not begun") for line in told) == 6


def test_hours_are_those_of_all_attempts(stubbed):
    """Of one that was killed with everything else too, up to when it last said something."""
    stubbed()
    path = Path("out/seed0/good/train_grpo.run.json")
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"seconds": 7200.0}))
    other = Path("out/seed0/plain/train_grpo.run.json")
    log = other.with_name("train_grpo.log").stat().st_mtime
    other.write_text(json.dumps(facts | {"code": None, "seconds": 0.0, "started": log - 3600}))
    write_page(read_study("small.yaml"), Path("page"))
    found = json.loads(Path("page/study.json").read_text())["hours"]
    assert found["good"] == pytest.approx(2, abs=0.01)
    assert found["plain"] == pytest.approx(1, abs=0.01)
