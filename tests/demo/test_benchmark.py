"""What the benchmark times computes the same on both sides, and its files say what was seen."""

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from kit.demo.bench import benchmark, cases, sft, sweep
from kit.demo.config import BenchmarkConfig
from kit.errors import UserError

pytest.importorskip("trl")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The benchmark with one step, on the embedded model, without compiling; what it wrote."""
    monkeypatch.setattr(torch._dynamo.config, "disable", True)

    def in_this_process(name, case, who):
        if case.shape.job != "evaluation":
            return {"beyond": 1.0, "before": 1.0}
        seen = getattr(benchmark, name)(json.dumps(dataclasses.asdict(case)), who)
        return seen | {"beyond": 1.0}  # what is here already need not be taken

    monkeypatch.setattr(benchmark, "_in_a_process", in_this_process)

    def run(*shapes):
        output = tmp_path / "benchmark.json"
        settings = {"steps": 1, "base_model": "tiny", "output": str(output)}
        assert benchmark.benchmark(BenchmarkConfig(shapes=list(shapes), **settings)) == 0
        return json.loads(output.read_text()), output

    return run


@pytest.mark.slow
def test_each_job_is_compared_before_it_is_timed(run):
    found, _ = run("small", "sft small", "evaluation small")
    assert found["made_with"]["versions"].keys() >= {"torch", "transformers", "trl", "peft"}
    assert found["made_with"]["threads"] == torch.get_num_threads()
    by_job = {}
    for row in found["rows"]:
        by_job.setdefault(row["shape"], {})[row["what"]] = row
        if "ratio" in row:
            assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
            assert [len(values) for values in row["values"].values()] == [1, 1]
    assert by_job["small"]["step"]["gradient_error"] < 1e-4
    assert by_job["small"]["step"]["logprob_error"] < 1e-4
    assert by_job["sft small"]["step"]["loss_error"] < 1e-5
    assert by_job["sft small"]["step"]["tokens_differing"] == 0
    assert by_job["evaluation small"]["answers"]["tokens_differing"] == 0
    assert all("peak memory" in rows for rows in by_job.values())
    parts = by_job["small"]
    whole = sum(parts[name]["ours"] for name in ("rollout", "reference", "update"))
    assert parts["step"]["ours"] == pytest.approx(whole)
    assert 0 < parts["update, of a large matmul"]["ours"] < 1


@pytest.mark.slow
def test_two_that_differ_are_not_timed(run, monkeypatch):
    loss = sft.sft_loss
    monkeypatch.setattr(sft, "sft_loss", lambda *args: loss(*args) * 1.001)
    with pytest.raises(UserError, match="do not compute the same"):
        run("sft small")


def test_no_round_sees_the_images_of_another():
    case = cases.Case("tiny", cases.SHAPES["small"], rounds=3)
    seen = [Path(path).read_bytes() for paths in case.paths for path in paths]
    assert len(set(seen)) == 3 * case.shape.images


def test_an_unknown_shape_is_named(run):
    with pytest.raises(UserError, match="no shape 'round'"):
        run("small", "round")


def test_a_sweep_is_drawn(tmp_path):
    rows = []
    for shape in sweep.points(cases.SHAPES["sweep"]):
        row = {"what": "step", "ours": 1.0, "peer": 3.0, "ratio": 3.0, "model_ratio": 2.0}
        rows.append(row | {"sizes": dataclasses.asdict(shape)})
    sweep.draw(rows, tmp_path / "sweep.svg")
    drawn = ElementTree.parse(tmp_path / "sweep.svg").getroot()
    lines = [node for node in drawn if node.tag.endswith("polyline")]
    assert len(lines) == 4 * len(sweep.TOKENS)


def test_the_model_of_cost_counts_the_prompt_once():
    (case, *_) = (cases.Case("tiny", s, 1) for s in sweep.points(cases.SHAPES["sweep small"]))
    cost = sweep.model_of_cost(case)
    prompt = cost["unique_tokens"] - case.shape.each * case.shape.length
    assert cost["whole_tokens"] - cost["unique_tokens"] == (case.shape.each - 1) * prompt > 0
