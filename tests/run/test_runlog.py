"""What stands in the log files of a run that went on, or could not."""

import errno
import json
from pathlib import Path

import pytest
from helpers import rows

from kit.errors import UserError
from kit.run import process
from kit.run.runlog import RunLog
from kit.train.config import SftConfig


def log_of(folder: Path, first_step: int) -> RunLog:
    config = SftConfig(base_model="tiny", data="x", output_dir=str(folder), report_to=["none"])
    return RunLog(process.join(), config, total_steps=9, first_step=first_step, name="sft")


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in rows(folder)]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    log = log_of(tmp_path, first_step=0)
    for step in range(1, 6):
        log.log(step, {"loss": 1.0})
    log.finish(finished=False)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')  # a kill cut it off
    again = log_of(tmp_path, first_step=3)
    assert steps(tmp_path) == [1, 2, 3]
    again.log(4, {"loss": 0.5})
    again.finish(finished=False)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_resumed_run_loses_no_line_whatever_stands_in_its_text(tmp_path, capsys):
    """As an earlier version wrote them: not escaped."""
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "肺"]
    kept = [{"step": 1, "text": text} for text in texts] + [{"note": "without a step"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*kept, {"step": 2}]]
    lines[2:2] = ["3", "{"]
    for name in ("completions.jsonl", "skipped_steps.jsonl"):
        (tmp_path / name).write_bytes("\n".join([*lines, '{"step": 1, "肺']).encode()[:-1])
    log_of(tmp_path, first_step=1).finish(finished=False)
    told = capsys.readouterr().out
    for name in ("completions.jsonl", "skipped_steps.jsonl"):
        assert rows(tmp_path, name) == kept
        assert f"{name}:3 is left out: not a JSON object" in told
        assert f"{name}:4 is left out: not valid JSON" in told


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    log = log_of(tmp_path, first_step=0)
    log.log(1, {"loss": 1.0})
    opened = Path.open

    def full(path, *arguments, **options):
        stream = opened(path, *arguments, **options)
        if path.name == "metrics.jsonl":
            write = stream.write

            def half(text):
                write(text[: len(text) // 2])
                stream.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

            stream.write = half
        return stream

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="disk is full"):
        log.log(2, {"loss": 0.5})
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    log.finish(finished=False)


def test_a_full_disk_under_a_tracker_is_named_after_the_kit_has_written_its_own(
    tmp_path, monkeypatch, capfd
):
    """tensorboard writes in a thread, which dies; nothing waits for it."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    config = SftConfig(base_model="tiny", data="x", output_dir=str(tmp_path))
    assert config.report_to == ["tensorboard"]
    accelerator = process.start(config)
    log = RunLog(accelerator, config, total_steps=9, first_step=0, name="sft")
    log.log(1, {"loss": 1.0})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "_write", full)

    def go_on() -> None:
        log.log(2, {"loss": 0.5})
        process.end(accelerator)

    with pytest.raises(UserError, match="disk is full") as caught:
        go_on()
    assert caught.value.where == tmp_path / "logs"
    assert steps(tmp_path) == [1, 2]
    assert "Traceback" not in capfd.readouterr().err
    log.finish(finished=False)
