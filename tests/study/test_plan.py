"""From a study file to its runs: what each is configured by, and what it waits for."""

from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from kit.errors import ConfigError
from kit.grpo.config import GrpoConfig
from kit.study.plan import Run, plan
from kit.study.study_file import read_study
from kit.train.config import SftConfig

SHIPPED = sorted((ROOT / "launch" / "studies").glob("*.yaml"))


def runs_of(path: Path, **subset) -> dict[str, Run]:
    return {run.name: run for run in plan(read_study(path), **subset)}


def test_every_seed_has_one_start_and_every_system_starts_from_it(written):
    runs = runs_of(written())
    names = list(runs)
    assert names[:4] == ["data/SLAKE", "data/train", "data/prompts", "data/test"]
    for seed in (0, 1):
        start = runs[f"seed{seed}/sft/train_sft"]
        assert start.config.data == "out/data/train.json"
        for system in ("plain", "good"):
            trained = runs[f"seed{seed}/{system}/train_grpo"]
            assert trained.config.sft_ckpt == start.config.output_dir
            assert trained.config.data == "out/data/prompts.json"
            assert trained.config.seed == start.config.seed == seed
            assert set(trained.after) == {start.name, "data/prompts"}
            asked = runs[f"seed{seed}/{system}/evaluate_test"]
            assert asked.config.adapter == trained.config.output_dir
            assert asked.config.data == "out/data/test.json"
            assert set(asked.after) == {trained.name, "data/test"}
            assert (asked.config.counterfactual, asked.config.seed) == (True, 0)
    assert len(runs) == 4 + 2 * (2 + 2 + 2)
    assert all(names.index(a) < names.index(run.name) for run in runs.values() for a in run.after)
    last = max(n for n, name in enumerate(names) if name.startswith("seed0"))
    assert last < names.index("seed1/sft/train_sft"), "whole seeds first"


def test_keys_of_a_system_go_over_those_that_all_share(written):
    runs = runs_of(written())
    plain, good = (runs[f"seed0/{name}/train_grpo"].config for name in ("plain", "good"))
    assert (plain.weights, plain.beta) == ("0.2,0.8,0,0", 0.02)  # grpo_tiny's
    assert (good.weights, good.beta) == (GrpoConfig.weights, 0.1)
    assert plain.max_steps == good.max_steps == 2
    assert plain.num_generations == 8


def test_a_system_may_have_its_own_start_or_be_no_more_than_that(written):
    systems = {
        "longer": {"train_grpo": False, "train_sft": {"num_train_epochs": 9}},
        "on_it": {"beta": 0.1, "train_sft": {"num_train_epochs": 9}},
        "pairs": {"train_grpo": False, "train_sft": {"data": "pairs"}},
    }
    data = {"pairs": {"command": "cf_pairs", "data": "train"}, "mine": "data/mine.json"}
    path = written(systems=systems, data=data, seeds=[3], evaluate={"train_data": "mine"})
    runs = runs_of(path)
    longer = runs["seed3/longer/train_sft"]
    assert longer.config.num_train_epochs == 9
    assert "seed3/on_it/train_sft" not in runs, "equal ones are trained once"
    assert runs["seed3/on_it/train_grpo"].config.sft_ckpt == longer.config.output_dir
    assert runs["seed3/longer/evaluate_test"].config.adapter == longer.config.output_dir
    pairs = runs["seed3/pairs/train_sft"]
    assert (pairs.config.data, set(pairs.after)) == ("out/data/pairs.json", {"data/pairs"})
    assert runs["data/pairs"].after == ("data/train",)
    assert runs["seed3/pairs/evaluate_test"].config.train_data == "data/mine.json"
    alone = runs_of(path, only=["on_it"])
    assert alone.keys() < runs.keys(), "a subset stands in the same places"
    assert not [name for name in alone if "pairs/" in name or "longer/evaluate" in name]


def test_prompts_are_chosen_once_or_by_what_each_start_rests_on(written):
    once = runs_of(written(choose_prompts={"others": 0.5}))
    assert once["data/chosen"].config.data == "out/data/prompts.json"
    grpo = once["seed1/good/train_grpo"]
    assert (grpo.config.data, "data/chosen" in grpo.after) == ("out/data/chosen.json", True)

    each = runs_of(written(choose_prompts={"least_drop": 0.05}, cf_proxy={"random_draws": 1}))
    proxy, chosen = (each[f"seed1/sft/{name}"] for name in ("cf_proxy", "choose_prompts"))
    assert proxy.config.adapter == "out/seed1/sft/train_sft"
    assert chosen.config.data == proxy.config.output
    assert each["seed1/good/train_grpo"].config.data == chosen.config.output
    assert chosen.name in each["seed1/good/train_grpo"].after


def test_a_key_of_one_run_is_no_key_of_another(written):
    """Data that are named by one alone are not those of the next."""
    real = {"real": {"dataset": "SLAKE", "split": "test"}}
    floors = {"floor": {"train_data": "train"}, "bare": {}}
    systems = {"watched": {"eval_data": "test"}, "plain": {}}
    runs = runs_of(written(data=real, evaluations=floors, systems=systems))
    assert (runs["data/real"].config.slake_root, runs["data/real"].after) == ("data/SLAKE", ())
    assert runs["data/test"].config.slake_root == "out/data/SLAKE"
    floor, bare = (runs[f"seed0/plain/evaluate_{name}"] for name in floors)
    assert (floor.config.train_data, bare.config.train_data) == ("out/data/train.json", None)
    watched, plain = (runs[f"seed0/{name}/train_grpo"] for name in systems)
    assert (watched.config.eval_data, plain.config.eval_data) == ("out/data/test.json", None)


def test_prompts_that_all_systems_share_are_measured_and_chosen_from_too(written):
    mine = {"train_grpo": {"cfg": "grpo_tiny", "data": "mine"}, "data": {"mine": "mine.json"}}
    runs = runs_of(written(cf_proxy={}, **mine))
    assert runs["seed0/sft/cf_proxy"].config.data == "mine.json"
    assert runs["seed0/good/train_grpo"].config.data == "out/seed0/sft/cf_proxy.jsonl"
    runs = runs_of(written(choose_prompts={}, **mine))
    assert runs["data/chosen"].config.data == "mine.json"
    assert runs["seed0/good/train_grpo"].config.data == "out/data/chosen.json"


def test_a_whole_model_is_a_base_and_no_adapter(written):
    sft = {"cfg": "sft_tiny", "finetuning": "full"}
    systems = {"plain": {"finetuning": "full"}}
    runs = runs_of(written(train_sft=sft, systems=systems, evaluations={"a": {}, "b": {}}))
    grpo = runs["seed0/plain/train_grpo"].config
    assert (grpo.base_model, grpo.sft_ckpt) == ("out/seed0/sft/train_sft", None)
    asked = runs["seed0/plain/evaluate_b"].config
    assert (asked.base_model, asked.adapter) == ("out/seed0/plain/train_grpo", None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sistems": {}}, "unknown key 'sistems'"),
        ({"output": None}, "names no folder"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": [-1]}, "different numbers"),
        ({"reference": "best"}, "no system 'best'"),
        ({"systems": {"sft": {}}}, "there by itself"),
        ({"systems": {"a/b": {}}}, "cannot be a name"),
        ({"systems": {"a": {"betta": 1}}}, "unknown key 'betta'"),
        ({"systems": {"a": {"beta": -1}}}, "beta must not be negative"),
        ({"systems": {"a": {"seed": 1}}}, "the study itself sets seed"),
        ({"systems": {"a": {"sft_ckpt": "x"}}}, "the study itself sets sft_ckpt"),
        ({"systems": {"a": {"train_grpo": False, "beta": 1}}}, "is a key of train_grpo"),
        ({"systems": {"a": {"train_sft": {"lora": 1}}}}, "unknown key 'lora'"),
        ({"evaluate": {"output": "x"}}, "the study itself sets output"),
        ({"evaluate": {"num_shards": 2}}, "the study itself sets num_shards"),
        ({"data": {"x": {"command": "ask"}}}, "cannot be made by ask"),
        ({"phantoms": {"trian": 3}}, "did you mean 'train'"),
        ({"systems": {"a": {"train_grpo": {"max_steps": 4}}}}, "train_grpo of a system is true or"),
        ({"systems": {"a": {"train_grpo": "flase"}}}, "train_grpo of a system is true or false"),
        ({"train_sft": {"data": ["train", "prompts"]}}, "data"),
        ({"evaluations": {"test": {"train_data": ["train"]}}}, "train_data"),
        ({"train_sft": {None: 3}}, "None cannot be a key"),
        ({"data": {"mine": ["a.json", "b.json"]}}, "this is no data"),
        ({"data": {"mine": None}}, "this is no data"),
        ({"data": {"SLAKE": {"dataset": "SLAKE"}}}, "the study itself makes SLAKE"),
        ({"data": {"test": {"dataset": "SLAKE"}}}, "the study itself makes test"),
        ({"data": {"chosen": "a.json"}, "choose_prompts": {"seed": 1}}, "itself makes chosen"),
    ],
)
def test_mistakes_in_a_study_file_are_told_before_anything_is_run(changes, told, written):
    with pytest.raises(ConfigError) as caught:
        runs_of(written(**changes))
    assert told in str(caught.value)
    assert "small.yaml" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("subset", [{"only": ["nope"]}, {"seeds": [7]}])
def test_a_subset_is_of_what_there_is(subset, written):
    with pytest.raises(ConfigError, match="the study has no"):
        runs_of(written(), **subset)


# ------------------------------------------------------------------------ shipped files
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_read_with_every_key_of_every_run(path):
    study = read_study(path.stem)  # by its name
    runs = plan(study, seeds=[0])
    assert len(study.file.seeds) == 5
    by_system = {run.system: run for run in runs if run.command == "train_grpo"}
    for name, system in study.systems.items():
        for key, value in (system.grpo or {}).items():
            found = getattr(by_system[name].config, key)
            assert str(found) == str(value) or found == float(value), (name, key)
    for run in runs:
        if isinstance(run.config, (SftConfig, GrpoConfig)):
            assert run.config.seed == run.seed


def test_systems_of_an_arena_have_the_same_budget():
    for name in ("arena", "arena_2b"):
        study = read_study(name)
        assert len(study.systems) >= 8, "the start, and seven"
        runs = plan(study, seeds=[0])
        assert {r.config.max_steps for r in runs if r.command == "train_grpo"} == {200}


def test_sft_on_pairs_is_held_against_sft_of_as_many_steps():
    runs = plan(read_study("pairs"), seeds=[0])
    steps = {run.system: run.config.max_steps for run in runs if run.command == "train_sft"}
    assert steps == {"sft": 1860, "pairs": 1860}


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_with_a_typing_error_are_refused(path, tmp_path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for group, keys in content.items():
        for key in keys if isinstance(keys, dict) and group != "resources" else ():
            named = group in ("systems", "data", "evaluations")
            inner = keys[key] if named and isinstance(keys[key], dict) else keys
            wrong = {**inner, "max_stepz": 3}
            changed = content | {group: {**keys, key: wrong} if named else wrong}
            (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(changed))
            with pytest.raises(ConfigError, match="max_stepz"):
                plan(read_study(tmp_path / "wrong.yaml"), seeds=[0])


def test_the_two_arenas_have_the_same_systems():
    """So that what wins on phantoms is asked of real images as it was."""
    small, large = (read_study(name).systems for name in ("arena", "arena_2b"))
    assert {n: s.grpo for n, s in small.items()} == {n: s.grpo for n, s in large.items()}
