"""The figures of an audit: as evaluate's, floors and leaks, systems against one another."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import metrics_of, rows
from PIL import Image

from kit.audit.audit import audit
from kit.audit.config import AuditConfig
from kit.audit.scored import most_frequent_answers
from kit.data.audit import question_only_floor
from kit.data.records import read_sft_records
from kit.errors import ConfigError, DataError
from kit.files import write_jsonl
from kit.prompting.messages import MODES
from kit.report.comparison import compare

ROOT = Path(__file__).resolve().parents[2]


def written(path: Path, asked, said) -> Path:
    write_jsonl(path, [{"qid": r.qid, "pred": a} for r, a in zip(asked.records, said, strict=True)])
    return path


def test_the_figures_are_those_that_evaluate_gives(asked, evaluated, audited, prepared):
    """Of the embedded model's own predictions, in both modes, to the last digit."""
    found = audited(f"tiny={evaluated}", train_data=str(prepared["test"]))
    theirs = metrics_of(evaluated)
    for mode in MODES:
        ours = found["systems"][f"tiny/{mode}"]["metrics"]
        same = {name: theirs[f"{mode}/{name}"] for name in ours if f"{mode}/{name}" in theirs}
        assert {name: ours[name] for name in same} == same
        assert ours.keys() - same.keys() <= {f"vqa_challenge/accuracy{end}"
                                             for end in ("", "/low", "/high", "/n")}  # fmt: skip
        stems = {name.split("/")[0] for name in same}
        assert stems >= {"exact", "relaxed", "llava_med", "medevalkit", "floor", "above_floor"}
        assert {"exact/all/low", "exact/modality/CT", "exact/guessable/no"} <= same.keys()
        assert 0 < ours["exact/all"] < 1
    guess = found["guesses"]["question-only guess"]
    assert guess["exact/all"] == theirs[f"{MODES[0]}/floor/question_only"]


def test_systems_are_compared_as_the_report_compares_models(asked, evaluated, audited):
    ours = audited(f"tiny={evaluated}")["comparisons"]
    own = rows(evaluated, "predictions.jsonl")
    models = {
        mode: [row | {"mode": MODES[-1]} for row in own if row["mode"] == mode] for mode in MODES
    }
    theirs = {one.metric: one.difference for one in compare(models)}
    assert {"exact/all", "relaxed/closed", "llava_med/open_recall"} <= {o["metric"] for o in ours}
    for one in ours:
        expected = theirs[one["metric"]]
        assert (one["a"], one["b"]) == tuple(f"tiny/{mode}" for mode in dict.fromkeys(
            row["mode"] for row in own))  # fmt: skip
        assert (one["p_value"], one["low"]) == (expected.p_value, expected.low)
        assert one["difference"] == expected.mean
        assert one["family"] == ("primary" if one["metric"] == "exact/all" else "other")
        assert one["p_adjusted"] >= one["p_value"]


def test_a_better_system_is_called_so(asked, audited, tmp_path):
    right = [record.answer for record in asked.records]
    found = audited(
        f"bad={written(tmp_path / 'bad.jsonl', asked, ['???'] * len(right))}",
        f"good={written(tmp_path / 'good.jsonl', asked, right)}",
    )
    (one,) = (one for one in found["comparisons"] if one["metric"] == "exact/all")
    assert (one["difference"], one["better"]) == (1.0, "good")
    assert "good against bad: +100.0 points" in found["text"]


def test_guesses_see_the_training_file_alone(asked, audited, prepared, tmp_path):
    train, _ = read_sft_records(prepared["test"])
    guess = question_only_floor(train, asked.records)
    found = audited(written(tmp_path / "p.jsonl", asked, guess), train_data=str(prepared["test"]))
    one, floor = found["systems"]["p"], found["guesses"]["question-only guess"]
    assert {name: one["metrics"][name] for name in floor} == floor
    parts = one["subsets"]
    assert parts["guessable"]["exact/all"] == 1.0
    assert parts["not_guessable"]["exact/all"] == 0.0
    assert parts["guessable"]["n"] + parts["not_guessable"]["n"] == len(asked.records)
    without = audited(tmp_path / "p.jsonl")
    assert [*without["guesses"]] == ["most frequent test answer"]
    assert without["leaks"] is None
    assert "guessable" not in without["systems"]["p"]["subsets"]


def test_the_most_frequent_answer_of_a_type(asked):
    records = asked.records
    said = most_frequent_answers(records, records)
    for kind in {record.content_type for record in records}:
        own = [r.answer.casefold() for r in records if r.content_type == kind]
        guessed = {a for a, r in zip(said, records, strict=True) if r.content_type == kind}
        assert len(guessed) == 1
        assert own.count(*guessed) == max(map(own.count, own))


def test_leaks_are_found_by_content_and_left_out(asked, audited, tmp_path):
    """A training file that holds three test questions: one as it is, on a copy of its image under
    another name, one reworded, and one of another image that looks the same."""
    table = rows(asked.data.parent, "test.json")
    pixels = np.asarray(Image.open(table[0]["image"]).convert("RGB")).astype(np.int16)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "near.bmp")
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(table[3]["image"]).read_bytes())
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "other.png")
    leaking = [
        {"image": copy.name, "question": table[3]["question"].upper(), "answer": "yes"},
        {"image": copy.name, "question": "Is there evidence of rib fracture?", "answer": "no"},
        {"image": "near.bmp", "question": "Something quite different?", "answer": "no"},
        {"image": "other.png", "question": table[6]["question"], "answer": "no"},
    ]  # fmt: skip
    leaking = [row | {"qid": f"t{number}"} for number, row in enumerate(leaking)]
    table[4]["question"] = "Is a rib fracture present?"
    cut = tmp_path / "cut.png"  # which stops nothing
    cut.write_bytes(copy.read_bytes()[:200])
    table[9]["image"] = str(cut)
    for row in table:
        row["qid"] = str(table.index(row))
    write_jsonl(tmp_path / "train.json", leaking)
    write_jsonl(tmp_path / "test.json", table)
    said = [r.answer for r in asked.records]
    said[3] = "wrong"
    write_jsonl(tmp_path / "p.jsonl", [{"qid": str(i), "pred": a} for i, a in enumerate(said)])
    data = {"data": str(tmp_path / "test.json"), "train_data": str(tmp_path / "train.json")}
    found = audited(tmp_path / "p.jsonl", **data)
    leaks = found["leaks"]
    assert leaks["test_records"] == {
        "image_in_other_language_test": 0, "repeats_test_question": 1, "rewords_test_question": 1,
    }  # fmt: skip
    assert leaks["training_rows_that_leak"] == leaks["test_records"]
    named = {one["qid"]: one["training_row"] for one in leaks["examples"]}
    assert named == {"3": "t0", "4": "t1"}
    assert leaks["images_not_read"] == 1
    assert (leaks["images_shared"], leaks["images_nearly_the_same"]) == (1, 1)
    parts = found["systems"]["p"]["subsets"]
    assert parts["without_leaks"]["n"] == len(table) - 2
    assert parts["without_leaks"]["exact/all"] == 1.0
    same = {row["image"] for row in (table[0], table[3])}
    assert parts["image_disjoint"]["n"] == sum(row["image"] not in same for row in table)
    assert found["systems"]["p"]["metrics"]["exact/all"] < 1


def test_near_duplicates_in_the_test_are_one_cluster(asked, audited, tmp_path):
    table = rows(asked.data.parent, "test.json")
    for number, row in enumerate(table):
        pixels = np.asarray(Image.open(table[number % 3]["image"]).convert("RGB")).copy()
        pixels[0, 0] = number
        row["image"] = str(tmp_path / f"{number}.png")
        row["image_size"] = list(pixels.shape[1::-1])
        row["regions"] = []
        Image.fromarray(pixels).save(row["image"])
    write_jsonl(tmp_path / "test.json", table)
    file = written(tmp_path / "p.jsonl", asked, asked.said)
    found = audited(file, data=str(tmp_path / "test.json"))
    assert found["test"]["images"] == len(table)
    assert found["test"]["clusters"] <= 3
    assert "exact/all/low" not in found["systems"]["p"]["metrics"]
    assert "exact/all/low" in audited(file)["systems"]["p"]["metrics"]


BAD = {
    "no file": ({"predictions": ["nowhere.jsonl"]}, DataError, "no such file of predictions"),
    "no test": ({"data": "nowhere.json"}, DataError, "no such data file"),
    "no ids in common": ({"data": "few"}, DataError, "no prediction belongs to a test record"),
    "unknown column": ({"prediction_columns": ["answr=x"]}, ConfigError, "not field=column"),
    "no such column": ({"prediction_columns": ["answer=x"]}, ConfigError, "no file has the column"),
    "claim": ({"claim": ["exat/all=0.5"]}, ConfigError, "no figure of a known convention"),
    "claim of nobody": ({"claim": ["x:exact/all=0.5"]}, ConfigError, "no such system"),
    "judge": ({"judge": "nowhere"}, ConfigError, "no such judge"),
    "judge without a name": ({"judge": "http://localhost:1/v1"}, ConfigError, "judge_model"),
    "two of one name": ({"predictions": ["a/p.json", "b/p.json"]}, ConfigError, "one name"),
    "a spreadsheet": ({"predictions": ["setup.xlsx"]}, DataError, "a spreadsheet"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_mistakes_say_what_where_and_what_to_do(mistake, asked, prepared, tmp_path, monkeypatch):
    changes, kind, what = BAD[mistake]
    monkeypatch.chdir(tmp_path)
    Path("setup.xlsx").write_bytes(b"PK")
    settings = {"data": str(asked.data), "output": "out"} | changes
    settings.setdefault("predictions", [str(written(tmp_path / "p.jsonl", asked, asked.said))])
    if settings["data"] == "few":
        few = [
            row | {"qid": f"x{n}"} for n, row in enumerate(rows(prepared["few"].parent, "few.json"))
        ]
        settings["data"] = str(prepared["few"].with_name("few_of_other_ids.json"))
        write_jsonl(settings["data"], few)
    with pytest.raises(kind, match=what) as raised:
        audit(AuditConfig(**settings))
    assert raised.value.where
    assert raised.value.fix
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_told_without_torch(asked, tmp_path):
    """Which alone would take seconds."""
    file = written(tmp_path / "p.jsonl", asked, asked.said)
    code = (
        "import atexit, sys; from kit import cli\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "audit", str(file), "--data", str(tmp_path / "none.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (2, "False")
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in ("error:", "where:", "fix:"))
