"""Runs that ask a model: in shards and merged, stopped and gone on with, equal to the last byte."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit.errors import ConfigError, UserError
from kit.evaluate import cf_proxy as proxy_module
from kit.evaluate import evaluation as evaluation_module
from kit.evaluate.answering import Request
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.evaluate.parts import Parts
from kit.run import sources
from kit.run.stop import EXIT_REQUEUE, EXIT_STOPPED, StopRequest

SHARDS = 3
STAGES = {
    "evaluate": (evaluate, EvaluateConfig, evaluation_module, "answer_batch"),
    "cf_proxy": (cf_proxy, CfProxyConfig, proxy_module, "measure"),
}


def config_of(stage: str, prepared, output: Path, **changes):
    settings = {
        "base_model": "tiny", "max_records": 20, "per_device_eval_batch_size": 6,
        "max_new_tokens": 40,
    }  # fmt: skip
    if stage == "evaluate":
        settings["train_data"] = str(prepared["train"])
    return STAGES[stage][1](data=str(prepared["test"]), output=str(output), **settings | changes)


def contents(output: Path) -> dict[str, bytes]:
    """The files of a finished run, by name."""
    if output.is_file():
        return {output.name: output.read_bytes()}
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_shards_merge_to_the_unsharded_run(stage, prepared, tmp_path, monkeypatch):
    run, _, module, _ = STAGES[stage]
    whole, split = tmp_path / "whole" / "out", tmp_path / "split" / "out"
    assert run(config_of(stage, prepared, whole)) == 0
    for index in (2, 0, 1):
        assert run(config_of(stage, prepared, split, num_shards=SHARDS, shard_index=index)) == 0
    assert not split.is_file()
    assert not (split / "metrics.json").exists()
    monkeypatch.setattr(module, "loaded_predictor", None)  # merging needs none
    assert run(config_of(stage, prepared, split)) == 0
    assert contents(split) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"), [("evaluate", signal.SIGTERM), ("cf_proxy", signal.SIGUSR2)]
)
def test_a_signal_is_granted_after_the_batch_and_nothing_is_asked_twice(
    stage, number, prepared, tmp_path, monkeypatch
):
    run, _, module, work = STAGES[stage]
    ask, asked = getattr(module, work), []
    with monkeypatch.context() as patch:
        patch.setattr(module, work, lambda *a: asked.append(1) or ask(*a))
        assert run(config_of(stage, prepared, tmp_path / "whole" / "out")) == 0
    asked_in_all = len(asked)
    asked.clear()

    def signalled(*arguments):
        asked.append(1)
        if len(asked) == 2:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a second one changes nothing
        return ask(*arguments)

    monkeypatch.setattr(module, work, signalled)
    config = config_of(stage, prepared, tmp_path / "stopped" / "out")
    assert run(config) == (EXIT_STOPPED if number == signal.SIGTERM else EXIT_REQUEUE)
    assert len(asked) == 2
    assert run(config) == 0
    assert asked_in_all == len(asked)
    assert contents(tmp_path / "stopped" / "out") == contents(tmp_path / "whole" / "out")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.slow
def test_shards_of_other_weights_are_not_merged(stage, prepared, trained, tmp_path):
    run = STAGES[stage][0]
    adapter = {"adapter": str(shutil.copytree(trained["sft"], tmp_path / "sft")), "base_model": ""}
    output = tmp_path / "out"
    run(config_of(stage, prepared, output, num_shards=2, **adapter))
    weights = tmp_path / "sft" / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(UserError, match=r"has changed: adapter \(.*adapter_model.safetensors"):
        run(config_of(stage, prepared, output, **adapter))


@pytest.mark.parametrize("stage", STAGES)
def test_shards_of_other_data_are_not_merged(stage, prepared, tmp_path, monkeypatch):
    run = STAGES[stage][0]
    output, settings = tmp_path / "out", {"max_records": 2, "max_new_tokens": 2}
    run(config_of(stage, prepared, output, num_shards=2, **settings))
    monkeypatch.setattr(sources, "_sum_of_records", lambda path: "9 other")
    with pytest.raises(UserError, match=r"has changed: data \(.*test.json\): its records \(9, "):
        run(config_of(stage, prepared, output, **settings))


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (2, 2)])
def test_there_is_no_such_shard(index, count, prepared, tmp_path):
    with pytest.raises(ConfigError, match="there is no shard"):
        config_of("evaluate", prepared, tmp_path, num_shards=count, shard_index=index)


def test_only_batches_that_are_missing_are_asked(prepared, tmp_path):
    alone = SimpleNamespace(
        is_main_process=True, process_index=0, num_processes=1, device="cpu", print=print,
        wait_for_everyone=lambda: None, reduce=lambda own, reduction: own,
    )  # fmt: skip
    batches = [[Request("a.png", "think_answer", (number,))] for number in range(3)]
    settings = CfProxyConfig(data=str(prepared["test"]), output="x", base_model="tiny")
    asked = []

    def ask(batch):
        asked.append(batch)
        return [{"index": batch[0].records[0]}]

    for _ in range(2):
        parts = Parts(tmp_path, settings, batches, {})
        assert parts.fill(alone, ask, StopRequest(tmp_path), "x") == 0
        assert asked == batches, "all at first, and none again"
    (tmp_path / "000001.jsonl").unlink()
    parts = Parts(tmp_path, settings, batches, {})
    parts.fill(alone, ask, StopRequest(tmp_path), "x")
    assert asked == [*batches, batches[1]]
    assert [row["index"] for row in parts.rows()] == [0, 1, 2]
    texts = ["a\u2028b", "a\u2029b", "a\x85b"]
    for number, text in enumerate(texts):  # as an earlier version wrote them: not escaped
        row = f'{{"index": {number}, "text": "{text}"}}\n'
        (tmp_path / f"{number:06d}.jsonl").write_text(row, encoding="utf-8")
    assert [row["text"] for row in parts.rows()] == texts
    os.truncate(tmp_path / "000001.jsonl", 12)
    with pytest.raises(UserError, match="a finished batch is damaged"):
        parts.rows()
