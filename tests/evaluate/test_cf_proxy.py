"""From prepared records to GRPO records: what is measured, and that a cut-off run goes on."""

import pytest
from ranks import launcher, run

from kit.data.grpo_records import read_grpo_records
from kit.data.records import read_sft_records
from kit.errors import UserError
from kit.evaluate import cf_proxy as module
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig


def config(prepared, output, **changes) -> CfProxyConfig:
    settings = {"max_records": 20, "per_device_eval_batch_size": 6, "max_new_tokens": 60}
    return CfProxyConfig(
        data=str(prepared["test"]), output=str(output), base_model="tiny", **settings | changes
    )


def test_every_record_comes_out_in_order_with_what_was_measured(prepared, tmp_path, capsys):
    output = tmp_path / "out" / "grpo.jsonl"
    assert cf_proxy(config(prepared, output)) == 0
    asked = read_sft_records(prepared["test"])[0][:20]
    records, problems = read_grpo_records(output, decode_images=True)
    assert not problems
    assert [(r.image, r.question, r.gold) for r in records] == [
        (r.image, r.question, r.answer) for r in asked
    ]
    for record, source in zip(records, asked, strict=True):
        assert record.regions == source.regions
        assert record.qid == source.qid
        if source.regions:
            assert record.delta_cf_roi is not None
            assert record.cf_boxes
        if not record.cf_boxes:
            assert record.delta_cf_roi is record.delta_cf_rand is None
    measured = [r for r in records if r.delta_cf_rand is not None]
    assert len(measured) > 2
    assert len({r.delta_cf_roi for r in measured}) > 2
    assert not list(output.parent.glob("*.parts"))
    assert "mean drop in the probability of the gold answer" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_where_it_stood(prepared, tmp_path, monkeypatch):
    cf_proxy(config(prepared, tmp_path / "whole.jsonl"))
    measure, calls = module.measure, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(module, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        cf_proxy(config(prepared, tmp_path / "parts.jsonl"))
    assert not (tmp_path / "parts.jsonl").exists()
    before = len(calls)
    assert cf_proxy(config(prepared, tmp_path / "parts.jsonl")) == 0
    total = len(calls) - before
    calls.clear()
    assert (tmp_path / "parts.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    monkeypatch.setattr(module, "measure", lambda *a: calls.append(1) or measure(*a))
    cf_proxy(config(prepared, tmp_path / "again.jsonl"))
    assert len(calls) == total + 2, "two batches had been done"


def test_an_unfinished_run_of_another_kind_is_not_mixed_in(prepared, tmp_path, monkeypatch):
    def failing(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "measure", failing)
        with pytest.raises(KeyboardInterrupt):
            cf_proxy(config(prepared, tmp_path / "out.jsonl"))
    with pytest.raises(UserError, match="started differently: inpainting"):
        cf_proxy(config(prepared, tmp_path / "out.jsonl", inpainting="mean"))


def test_images_are_kept_when_asked(prepared, tmp_path):
    kept = tmp_path / "images"
    cf_proxy(
        config(
            prepared, tmp_path / "out.jsonl", max_records=6, keep_images=True, images_dir=str(kept)
        )
    )
    records, _ = read_grpo_records(tmp_path / "out.jsonl")
    distinct = {(r.image, r.cf_boxes) for r in records if r.cf_boxes}
    assert len(list(kept.glob("*.png"))) >= len(distinct) > 0


@pytest.mark.slow
def test_two_processes_write_the_same_file(prepared, tmp_path):
    """As this one does, to the last byte."""
    assert cf_proxy(config(prepared, tmp_path / "one.jsonl")) == 0
    done = run(
        [
            *launcher("cpu"), "launch/cf_proxy.py", "--base_model", "tiny", "--max_records", "20",
            "--data", str(prepared["test"]), "--output", str(tmp_path / "two.jsonl"),
            "--batch_size", "6", "--max_new_tokens", "60",
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
