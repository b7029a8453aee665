"""The notebooks run from top to bottom on a CPU and show the numbers of the runs that they made."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from helpers import metrics_of, rows
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "launch" / "notebooks").glob("*.ipynb"))
SLAKE, VQA_RAD = "VRI_SLAKE", "VR1_VAQRAD"
MODE = "caption_reason_answer"
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


def run(name: str, work: Path, changes: dict[str, str] | None = None) -> tuple[str, list[dict]]:
    """What its cells print, and the plots that they draw; ``changes``: texts of the cells that
    are put in the place of others."""
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
    plots = [out.get("data", {}).get("application/vnd.plotly.v1+json") for out in outputs]
    said = (
        out.get("text") or out.get("data", {}).get("text/plain", "")
        for out in outputs
        if out.get("name") != "stderr"
    )
    return "".join(said), [plot for plot in plots if plot]


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
    assert {path.stem for path in NOTEBOOKS} == {VQA_RAD, SLAKE, "gpu_setup"}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path


def test_the_two_studies_differ_in_the_dataset_alone():
    """So that each of the tests below is of both."""
    code = "\n".join(code_of(SLAKE))
    for of_slake, of_vqa_rad in (
        ('DATASET = "SLAKE"', 'DATASET = "VQA_RAD"'),
        ('Path("data/SLAKE")', 'Path("data/VQA_RAD")'),
        (
            'write_slake_phantoms(ROOT, images={"train": 24, "validate": 2, "test": 4})',
            "write_vqa_rad_phantoms(ROOT, images=24, test_images=8)",
        ),
        ("slake_root=", "vqa_rad_root="),
    ):
        assert code.count(of_slake) == 1
        code = code.replace(of_slake, of_vqa_rad)
    assert code == "\n".join(code_of(VQA_RAD))


@pytest.mark.parametrize("name", [SLAKE, VQA_RAD])
def test_the_first_cells_draw_and_prepare_phantoms(name, tmp_path, monkeypatch):
    if (ROOT / "data" / ("SLAKE" if name == SLAKE else "VQA_RAD")).exists():
        pytest.skip("the real dataset is here: the notebook would take it")
    monkeypatch.setenv("MEDVQA_WORK", str(tmp_path))
    monkeypatch.chdir(ROOT / "launch" / "notebooks")
    names: dict = {}
    for cell in code_of(name)[:2]:
        exec(cell, names)
    for split, least in (("train", 100), ("test", 20)):
        found = rows(tmp_path, f"{split}.json")
        assert len(found) >= least
        assert {row["dataset"] for row in found} == {names["DATASET"]}


@pytest.mark.slow
def test_a_study_runs_on_phantoms(tmp_path):
    if (ROOT / "data" / "SLAKE").exists():
        pytest.skip("the real dataset is here: the notebook would take it")
    said, plots = run(SLAKE, tmp_path)
    shown = require_numbers_of(tmp_path, said, plots, ["base", "sft", "grpo"])
    assert shown >= WORDS.keys()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert list(report["metrics"]) == ["base", "sft", "grpo"]


@pytest.mark.slow
def test_gpu_setup_says_what_to_do_without_a_gpu(tmp_path):
    said, _ = run("gpu_setup", tmp_path)
    assert said.count("recommended") >= 2
    assert "not here: cannot load the model" in said  # Qwen2-VL itself, without a network


@pytest.mark.slow
def test_a_study_takes_the_real_data_where_they_are(realdata, trained, tmp_path):
    """The real sample, and the embedded model in the place of the one that is not here."""
    changes = {
        'Path("data/VQA_RAD")': f'Path("{realdata / "VQA_RAD"}")',
        'Qwen/Qwen2-VL-2B-Instruct" if': 'tiny" if',
        "(None, 8) if REAL": "(8, 2) if REAL",
        "256 if REAL": "120 if REAL",
        'Path("checkpoints/qwen2vl_sft")': f'Path("{trained["sft"]}")',
    }
    said, plots = run(VQA_RAD, tmp_path, changes)
    assert f"tiny on the real VQA_RAD in {realdata / 'VQA_RAD'}" in said
    assert "to compare with the base model: sft" in said
    shown = require_numbers_of(tmp_path, said, plots, ["base", "sft"])
    assert "answers flip without evidence" not in shown  # it has no gold boxes
    assert not (tmp_path / "phantoms").exists()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "they say nothing about patients" not in page
