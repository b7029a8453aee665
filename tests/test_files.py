"""Files are written whole or not at all, and refusals say what to do."""

import errno
import json
import os
import stat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit import files
from kit.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@given(rows=st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=4))
@example(rows=[{"a": "\x0b\x0c\r\n\x1c\x1d\x1e\x85\u2028\u2029"}, {"\u2028": "\ud800 \udc00"}])
def test_what_is_written_can_be_read(rows, tmp_path_factory):
    """A row is one line for any program, also for one that calls ``str.splitlines``."""
    folder = tmp_path_factory.mktemp("rows")
    files.write_jsonl(folder / "rows.jsonl", rows)
    for count in range(len(rows)):
        files.append_jsonl(folder / "more.jsonl", rows[count : count + 1])
    text = (folder / "rows.jsonl").read_bytes().decode("utf-8")
    assert [json.loads(line) for line in text.split("\n")[:-1]] == rows
    assert text.splitlines() == text.split("\n")[:-1]
    assert [row for _, row in files.iter_json_lines(folder / "rows.jsonl")] == rows
    assert files.log_rows(folder / "more.jsonl") == (rows, [])
    (folder / "more.jsonl").unlink(missing_ok=True)
    files.write_json(folder / "rows.json", rows)
    assert (folder / "rows.json").read_bytes().decode("utf-8") == files.json_text(rows)
    assert json.loads(files.json_text(rows)) == rows
    assert names(folder) == {"rows.jsonl", "rows.json"}


CUT_OFF = [
    b'{"step": 2, "lo',
    '{"step": 2, "a": "肺'.encode()[:-1],
    b"\0" * 40,
    b'{"step": 2}',
    b"",
]


@pytest.mark.parametrize("end", CUT_OFF)
def test_a_log_whose_process_was_killed_as_it_wrote(end, tmp_path):
    """What is whole is read, and the next line stands for itself."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"a": "x\xe2\x80\xa8y"}\n' + end)
    whole = [{"a": "x\u2028y"}] + [{"step": 2}] * (end == b'{"step": 2}')
    assert files.log_rows(log) == (whole, [])
    files.append_jsonl(log, [{"step": 3}])
    found, broken = files.log_rows(log)
    assert found == [*whole, {"step": 3}]
    assert len(broken) == (end not in (b"", b'{"step": 2}'))


@pytest.mark.parametrize("line", [b"3", b"[]", b"null", b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_lines_of_a_log_that_are_no_rows_are_named(line, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    found, (problem,) = files.log_rows(log)
    assert found == [{"a": 1}, {"a": 2}]
    assert problem.where == f"{log}:2"
    assert files.log_rows(tmp_path / "none") == ([], [])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_has_not_are_refused(number, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": number})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_jsonl(tmp_path / "a.jsonl", [{"a": 1}, {"a": number}])
    assert names(tmp_path) == set()


@pytest.mark.parametrize("before", [None, "before"])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_nothing_is_left_of_what_was_broken_off(before, error, tmp_path):
    path = tmp_path / "deep" / "a.txt"
    if before:
        path.parent.mkdir()
        path.write_text(before)

    def broken_off():
        with files.atomic_write(path) as stream:
            stream.write("half")
            stream.flush()
            assert len(names(path.parent)) == (2 if before else 1)
            raise error

    with pytest.raises(error):
        broken_off()
    assert names(path.parent) == ({"a.txt"} if before else set())
    assert not before or path.read_text() == before


def test_bytes_and_text(tmp_path):
    with files.atomic_write(tmp_path / "a", "wb") as stream:
        stream.write(b"\xff\0")
    with files.atomic_write(tmp_path / "a") as stream:
        stream.write("é\n")
    assert (tmp_path / "a").read_bytes() == "é\n".encode()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_get_the_mode_of_any_other_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        files.write_json(tmp_path / "ours.json", 1)
        (tmp_path / "plain").touch()
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert after == umask
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


REFUSALS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk is full", "free some space"),
    errno.EACCES: ("no permission to write", "another output path"),
    errno.EROFS: ("no permission to write", "another output path"),
    errno.EIO: ("cannot write: Input/output error", "check the path"),
}


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_refusals_of_the_operating_system(number, call, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("before")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError) as caught:
        files.write_json(tmp_path / "a.json", [1])
    what, fix = REFUSALS[number]
    assert caught.value.what == what
    assert caught.value.where == tmp_path / "a.json"
    assert fix in caught.value.fix
    assert names(tmp_path) == {"a.json"}
    assert (tmp_path / "a.json").read_text() == "before"


LIBRARIES = {
    "safetensors": Exception("Error while serializing: I/O error: No space left (os error 28)"),
    "tokenizers": Exception("No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    "python": OSError(errno.ENOSPC, "No space left on device"),
}


@pytest.mark.parametrize("error", LIBRARIES.values(), ids=LIBRARIES)
def test_what_libraries_raise_on_a_full_disk(error):
    with pytest.raises(UserError, match="the disk is full") as caught, files.explained("runs/a"):
        raise error
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), UserError("no")])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, files.explained("runs/a"):
        raise error
    assert caught.value is error


def test_folder_for_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a", "a/b/c", tmp_path / "x", ".", tmp_path):
        files.require_folder(path)
    assert names(tmp_path) == set()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        files.require_folder("file")
    with pytest.raises(UserError, match="file is a file") as caught:
        files.require_folder("file/a/b")
    assert "file/a/b" in str(caught.value)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="no permission to write"):
        files.require_folder("a/b")


def test_folder_under_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        files.write_json(tmp_path / "file" / "a.json", 1)
