"""Text files as editors, shells and other systems write them."""

import codecs
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.command import read_yaml
from kit.data.questions import load_json
from kit.data.records import read_sft_records
from kit.errors import ConfigError, DataError
from kit.files import iter_json_lines
from kit.text import decoded

TARGET = {"caption": "", "reasoning": [], "boxes": [], "answer": "是"}
RECORD = {
    "output": json.dumps(TARGET), "image": "x.png",
    "question": "Où, \u2028\u0a0a?", "answer": "是",
}  # fmt: skip
LINE = json.dumps(RECORD, ensure_ascii=False)
ENCODINGS = {
    "utf-8": str.encode,
    "utf-8 with its mark": lambda text: text.encode("utf-8-sig"),
    "utf-8 with two marks": lambda text: codecs.BOM_UTF8 + text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "utf-32": lambda text: text.encode("utf-32"),
}
FILES = {name: encode(f"{LINE}\n\n{LINE}") for name, encode in ENCODINGS.items()} | {
    "lines of Windows": f"{LINE}\r\n\r\n{LINE}\r\n".encode(),
    "lines of Windows in utf-16": f"{LINE}\r\n\r\n{LINE}\r\n".encode("utf-16"),
    "lines of old Macs": f"{LINE}\r\r{LINE}\r".encode(),
    "two files, joined": f"{LINE}\n\n".encode("utf-8-sig") + f"{LINE}\n".encode("utf-8-sig"),
}


@pytest.fixture
def file(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    return tmp_path / "file"


@pytest.mark.parametrize("name", FILES)
def test_no_sound_record_is_lost(name, file):
    file.write_bytes(FILES[name])
    assert [where for where, _ in iter_json_lines(file)] == [f"{file}:1", f"{file}:3"]
    records, dropped = read_sft_records(file, on_bad="skip")
    assert not dropped
    assert [record.question for record in records] == [RECORD["question"]] * 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-be"])
def test_what_is_no_character_breaks_its_line_alone(encoding, file):
    good, broken = (
        f"{line}\n".encode(encoding, "surrogatepass")
        for line in (LINE, LINE.replace("Où", "\ud800"))
    )
    file.write_bytes(good + broken + good + good[:-9])
    records, dropped = read_sft_records(file, on_bad="skip")
    assert len(records) == 2
    assert [problem.where for problem in dropped] == [f"{file}:2", f"{file}:4"]


WHOLE = {name: encode for name, encode in ENCODINGS.items() if "two marks" not in name}


@pytest.mark.parametrize("encode", WHOLE.values(), ids=WHOLE)
def test_whole_documents_are_read_too(encode, file):
    file.write_bytes(encode(f"[{LINE}]"))
    assert load_json(file) == [RECORD]
    file.write_bytes(encode("name: où\r\n"))
    assert read_yaml(file) == {"name": "où"}


def test_what_is_no_unicode_is_refused(file):
    file.write_bytes(f"[{LINE}]".replace("Où", "").encode("gb18030"))
    for read, error in ((load_json, DataError), (read_yaml, ConfigError)):
        with pytest.raises(error, match="codec can't decode"):
            read(file)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(list(ENCODINGS.values())))
def test_any_text_comes_back_from_any_encoding(tmp_path_factory, text, encode):
    path = tmp_path_factory.mktemp("text") / "d.jsonl"
    path.write_bytes(encode("\n".join([json.dumps({"text": text}, ensure_ascii=False)] * 2)))
    assert [value for _, value in iter_json_lines(path)] == [{"text": text}] * 2
    first, _, _ = decoded(path.read_bytes()).partition("\n")
    assert json.loads(first.lstrip("\ufeff")) == {"text": text}
