"""The notebooks run from top to bottom on a CPU and show the numbers of the runs that they made."""

import base64
import html
import io
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import metrics_of, rows
from nbclient import NotebookClient
from PIL import Image

from kit.evaluate.figure import MARGIN, SIDE, TEXT_WIDTH

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "launch" / "notebooks").glob("*.ipynb"))
STUDIES = {"VRI_SLAKE": "SLAKE", "VR1_VAQRAD": "VQA_RAD"}
MODE = "caption_reason_answer"
PANEL = (SIDE + TEXT_WIDTH + 3 * MARGIN, SIDE + 2 * MARGIN)  # pixels of a case
WORDS = {
    "exact match": "exact/all", "question-only floor": "floor/question_only",
    "valid JSON": "json_valid_rate", "answers with boxes": "box_rate",
    "answers flip without evidence": "roi_flip_rate",
    "answers flip without own boxes": "claimed_roi_flip_rate",
    "image sensitivity, mean of blank and another's": "image_sensitivity",
    "cosine at least 0.3: coverage": "consistency@0.3/coverage",
    "... exact match on these": "consistency@0.3/accuracy",
}  # fmt: skip


def notebook_of(name: str):
    return nbformat.read(ROOT / "launch" / "notebooks" / f"{name}.ipynb", as_version=4)


def code_of(name: str) -> list[str]:
    return [cell.source for cell in notebook_of(name).cells if cell.cell_type == "code"]


def run(
    name: str, work: Path, changes: dict[str, str] | None = None
) -> tuple[str, list[dict], list[dict]]:
    """What its cells print, the plots that they draw, and all else that they show; ``changes``:
    texts of the cells that are put in the place of others."""
    notebook = notebook_of(name)
    for old, new in (changes or {}).items():
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    own = {"MEDVQA_WORK": str(work), "HF_HUB_OFFLINE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in own.items():
            patch.setenv(variable, value)
        client = NotebookClient(
            notebook, timeout=900, kernel_name="python3",
            resources={"metadata": {"path": str(ROOT / "launch" / "notebooks")}},
        )  # fmt: skip
        client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    shown = [out.get("data", {}) for out in outputs]
    plots = [data.get("application/vnd.plotly.v1+json") for data in shown]
    said = (
        out.get("text") or out.get("data", {}).get("text/plain", "") + "\n"
        for out in outputs
        if out.get("name") != "stderr"
    )
    return "".join(said), [plot for plot in plots if plot], shown


def tables_of(said: str) -> list[dict]:
    """Each printed table of a mode: its models, and by the words of a row the cells of numbers
    (value and bounds; None where a model has none)."""
    tables: list[dict] = []
    for line in said.splitlines():
        parts = re.split(r"\s{2,}", line.strip())
        if parts[0] in ("think_answer", MODE) and parts[-1] == "n":
            tables.append({"mode": parts[0], "models": parts[1:-1], "rows": {}})
        elif tables and len(parts) == len(tables[-1]["models"]) + 2 and parts[-1].isdigit():
            cells = [re.findall(r"-?\d+\.\d+", cell) for cell in parts[1:-1]]
            numbers = [[float(one) for one in cell] or None for cell in cells]
            tables[-1]["rows"].setdefault(parts[0], (numbers, int(parts[-1])))
    return tables


def require_numbers_of(work: Path, said: str, plots: list[dict], models: list[str]) -> set[str]:
    """Every number that is printed of these is the one in the run's ``metrics.json``, and so are
    the bars of the last plot; returns the words of the rows."""
    metrics = {name: metrics_of(work / f"eval_{name}") for name in models}
    tables = tables_of(said)
    assert [t["models"] for t in tables[-2:]] == [models, models]
    assert [t["models"] for t in tables[:-2]] == [["base"]] * (len(tables) - 2)
    assert len(tables) == 5  # the second of the baseline is of the one mode that has captions
    said_of = [line for line in said.splitlines() if "each answered once" in line]
    assert [line.partition(":")[0] for line in said_of] == models
    for table in tables:
        for words, (cells, n) in table["rows"].items():
            if words not in WORDS:
                continue
            name = f"{table['mode']}/{WORDS[words]}"
            for model, cell in zip(table["models"], cells, strict=True):
                ends = ("", "/low", "/high")
                wanted = [metrics[model].get(f"{name}{end}") for end in ends]
                if wanted[0] is None:
                    assert cell is None, name
                else:
                    shown = [100 * v for v in wanted if v is not None]  # ten images: an interval
                    assert cell == pytest.approx(shown, abs=0.051), name
            counts = [metrics[model].get(f"{name}/n", 0) for model in table["models"]]
            assert n == max(counts), name
    assert len(plots) == 3
    for trace in plots[-1]["data"]:
        own = metrics[trace["name"]]
        flips = {own.get(f"{MODE}/{kind}flip_rate") for kind in ("roi_", "claimed_roi_", "random_")}
        assert {round(y, 9) for y in trace["y"]} & {round(f, 9) for f in flips if f is not None}
        rates = [value for name, value in own.items() if name.endswith("flip_rate")]
        assert all(any(y == pytest.approx(rate) for rate in rates) for y in trace["y"])
    assert [trace["name"] for trace in plots[-1]["data"]] == models
    return {words for table in tables for words in table["rows"]}


def test_notebooks_are_kept_without_what_they_once_printed():
    assert {path.stem for path in NOTEBOOKS} == {*STUDIES, "study", "gpu_setup"}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path


@pytest.mark.parametrize(("name", "dataset"), STUDIES.items())
def test_the_studies_are_one_and_its_first_cells_prepare_phantoms(
    name, dataset, tmp_path, monkeypatch
):
    assert code_of(name) == [f'DATASET = "{dataset}"\n%run study.ipynb']
    if (ROOT / "data" / dataset).exists():
        pytest.skip("the real dataset is here: the notebook would take it")
    names = study_of(tmp_path, monkeypatch, DATASET=dataset)
    for split, least in (("train", 100), ("test", 20)):
        found = rows(tmp_path, f"{split}.json")
        assert len(found) >= least
        assert {row["dataset"] for row in found} == {names["DATASET"]} == {dataset}


def study_of(work: Path, monkeypatch, **names) -> dict:
    """What the study knows when its data are prepared."""
    monkeypatch.setenv("MEDVQA_WORK", str(work))
    monkeypatch.chdir(ROOT / "launch" / "notebooks")
    monkeypatch.setattr("sys.path", [*sys.path])
    for cell in code_of("study")[:2]:
        exec(cell, names)
    return names


@pytest.mark.slow
def test_a_retrained_model_is_asked_anew_and_a_half_written_one_not_at_all(
    tmp_path, monkeypatch, capsys
):
    asked = []

    def evaluate(config):
        asked.append(Path(config.output).name)
        folder = Path(config.output)
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"time": len(asked)}))

    monkeypatch.setattr("kit.evaluate.evaluation.evaluate", evaluate)
    names = study_of(tmp_path, monkeypatch, DATASET="SLAKE")
    _, ask, *_ = (cell for cell in code_of("study") if "evaluation(" in cell or "REAL =" in cell)
    exec(ask, names)
    assert names["metrics"] == {"base": {"time": 1}}
    assert "base: 10 questions in 2 modes" in capsys.readouterr().out
    exec(ask, names)
    assert "nothing has changed" in capsys.readouterr().out
    adapter = tmp_path / "sft"
    adapter.mkdir()
    for weights, time in (("a", 2), ("a", 2), ("b", 3)):
        (adapter / "adapter_model.safetensors").write_text(weights)
        assert names["evaluation"]("sft", adapter=str(adapter)) == {"time": time}
    names["SAMPLES"] += 1
    assert names["evaluation"]("sft", adapter=str(adapter)) == {"time": 4}
    assert asked == ["eval_base", "eval_sft", "eval_sft", "eval_sft"]
    train = next(cell for cell in code_of("study") if "def is_trained" in cell)
    exec(train[: train.index("\n\n\nCHECKPOINTS")], names)
    assert not names["is_trained"](tmp_path / "nowhere")
    assert not names["is_trained"](adapter)  # it lacks its configuration
    assert "left out: " in capsys.readouterr().out
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert names["is_trained"](adapter)


def require_pictures(work: Path, shown: list[dict], models: list[str], least: int) -> None:
    """Pictures of cases of these models as they were drawn, and the report in its whole length."""
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert pictures == [(work / f"cases_{name}.png").read_bytes() for name in models]
    for picture in pictures:
        width, height = Image.open(io.BytesIO(picture)).size
        assert (width // PANEL[0]) * (height // PANEL[1]) >= least
    (page,) = (data["text/html"] for data in shown if "<iframe" in data.get("text/html", ""))
    report = (work / "report" / "report.html").read_text(encoding="utf-8")
    assert html.unescape(page.partition('srcdoc="')[2].partition('" width')[0]) == report


@pytest.mark.slow
def test_a_study_runs_on_phantoms(tmp_path):
    if (ROOT / "data" / "SLAKE").exists():
        pytest.skip("the real dataset is here: the notebook would take it")
    said, plots, shown = run("VRI_SLAKE", tmp_path)
    assert require_numbers_of(tmp_path, said, plots, ["base", "sft", "grpo"]) >= WORDS.keys()
    require_pictures(tmp_path, shown, ["base", "grpo"], least=3)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert list(report["metrics"]) == ["base", "sft", "grpo"]


@pytest.mark.slow
def test_gpu_setup_says_what_to_do_without_a_gpu(tmp_path):
    said, *_ = run("gpu_setup", tmp_path)
    assert said.count("recommended") >= 2
    assert "not here: cannot load the model" in said  # Qwen2-VL itself, without a network


@pytest.mark.slow
def test_a_study_takes_the_real_data_where_they_are(realdata, trained, tmp_path):
    """The real sample, and the embedded model in the place of the one that is not here."""
    changes = {
        'DATASET = "SLAKE"': 'DATASET = "VQA_RAD"',
        'REPOSITORY / "data" / DATASET': f'Path("{realdata}") / DATASET',
        'Qwen/Qwen2-VL-2B-Instruct" if': 'tiny" if',
        "(None, 8) if REAL": "(8, 2) if REAL",
        "256 if REAL": "120 if REAL",
        'REPOSITORY / "checkpoints"': f'Path("{tmp_path}")',
    }
    (tmp_path / "qwen2vl_sft").symlink_to(trained["sft"])
    (tmp_path / "qwen2vl_grpo").mkdir()
    said, plots, shown = run("study", tmp_path, changes)
    assert f"tiny on the real VQA_RAD in {realdata / 'VQA_RAD'}" in said
    assert "left out: " in said
    assert "to compare with the base model: sft" in said
    shown_words = require_numbers_of(tmp_path, said, plots, ["base", "sft"])
    assert "answers flip without evidence" not in shown_words  # it has no gold boxes
    require_pictures(tmp_path, shown, ["base", "sft"], least=3)
    assert not (tmp_path / "phantoms").exists()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "they say nothing about patients" not in page
