"""Training curves: what is drawn is what was logged, while it is logged and afterwards."""

import json
import signal
import time
from pathlib import Path

import pytest
from ranks import Ranks, launcher

from kit.errors import UserError
from kit.files import append_jsonl
from kit.report.curves import CurvesConfig, curves, read_log

GRPO = {
    "reward": 0.1, "rewards/format/mean": 0.2, "rewards/answer/mean": 0.3, "kl": 0.01,
    "entropy": 0.5, "completions/mean_length": 9.0, "time/rollout": 1.0, "time/update": 2.0,
}  # fmt: skip


def figures_of(page: Path) -> dict:
    text = page.read_text()
    start = text.index('id="figures">') + len('id="figures">')
    return json.loads(text[start : text.index("</script>", start)])


def test_every_metric_of_every_run_is_drawn_as_it_was_logged(run_of, tmp_path):
    folders = [run_of(tmp_path / "sft", 7), run_of(tmp_path / "grpo", 5, **GRPO)]
    page = tmp_path / "curves.html"
    assert curves(CurvesConfig(runs=[str(f) for f in folders], output=str(page))) == 0
    figures = figures_of(page)
    drawn = {
        (title, trace["name"]): (trace["x"], trace["y"])
        for title, figure in figures.items()
        for trace in figure["data"]
    }
    assert drawn["loss", "sft"] == (list(range(1, 8)), [1 / n for n in range(1, 8)])
    assert drawn["loss", "grpo"][0] == list(range(1, 6))
    assert drawn["reward parts", "format"][1] == [0.2 * n for n in range(1, 6)]
    assert drawn["time a step (s)", "update"][1] == [2.0 * n for n in range(1, 6)]
    assert ("kl", "grpo") in drawn
    assert ("kl", "sft") not in drawn
    titles = {"loss", "reward", "reward parts", "kl", "entropy", "time a step (s)"}
    assert titles | {"completions/mean_length"} == set(figures)


def test_runs_may_be_named(run_of, tmp_path):
    folders = [run_of(tmp_path / str(n) / "sft", 3) for n in range(2)]
    with pytest.raises(UserError, match="two runs have one name"):
        CurvesConfig(runs=[str(folder) for folder in folders])
    config = CurvesConfig(runs=[f"seed {n}={folder}" for n, folder in enumerate(folders)])
    assert curves(config) == 0
    assert config.page == folders[0] / "curves.html"
    assert [t["name"] for t in figures_of(config.page)["loss"]["data"]] == ["seed 0", "seed 1"]


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert read_log(log) == []
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(log) == [{"step": 1, "loss": 2.0}]
    log.write_text('{"step": 1, "lo\n{"step": 2, "loss": 2.0}\n')
    with pytest.raises(UserError, match="not valid JSON"):
        read_log(log)


@pytest.mark.parametrize(
    ("make", "message"),
    [(False, "no such run folder"), (True, "no metrics.jsonl to draw")],
)
def test_what_is_no_run_is_refused(make, message, tmp_path):
    if make:
        (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=message):
        curves(CurvesConfig(runs=[str(tmp_path / "run")], output=str(tmp_path / "c.html")))


@pytest.mark.slow
def test_a_watched_run_is_drawn_again_until_it_ends(tmp_path):
    """As a user starts it: before anything is logged, in a process of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    command = ["launch/curves.py", "--runs", str(folder), "--watch", "true", "--interval", "0.2"]
    process = Ranks([*launcher(None), *command])
    page = folder / "curves.html"

    def drawn() -> int:
        if not page.exists():
            return -1
        figures = figures_of(page)
        return len(figures["loss"]["data"][0]["x"]) if "loss" in figures else 0

    def wait_for(n: int) -> None:
        until = time.monotonic() + 60
        while drawn() != n:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.1)

    try:
        wait_for(0)
        assert "Nothing has been logged yet" in page.read_text()
        for step in (1, 2, 3):
            append_jsonl(folder / "metrics.jsonl", [{"step": step, "loss": 1.0}])
            wait_for(step)
            assert "loads itself again" in page.read_text()
        (folder / "summary.json").write_text(json.dumps({"finished": True}))
        assert process.wait(timeout=60) == 0
    finally:
        process.send_signal(signal.SIGKILL)
    assert drawn() == 3
    assert "loads itself again" not in page.read_text()
