"""The notebooks run from top to bottom on a CPU, on phantoms, and show what they promise."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "launch" / "notebooks").glob("*.ipynb"))


def run(path: Path, work: Path, changes: dict[str, str] | None = None) -> str:
    """What its cells print; ``changes``: texts of the cells that are put in the place of others."""
    notebook = nbformat.read(path, as_version=4)
    for old, new in (changes or {}).items():
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    own = {"MEDVQA_WORK": str(work), "HF_HUB_OFFLINE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        client = NotebookClient(
            notebook, timeout=900, kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    drawn = sum("application/vnd.plotly.v1+json" in out.get("data", {}) for out in outputs)
    said = (out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)
    return "".join(said) + f"\nplots: {drawn}"


def test_notebooks_are_kept_without_what_they_once_printed():
    assert {path.stem for path in NOTEBOOKS} == {"VR1_VAQRAD", "VRI_SLAKE", "gpu_setup"}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VRI_SLAKE", "VR1_VAQRAD"])
def test_a_study_runs_on_phantoms(name, tmp_path):
    if (ROOT / "data" / ("SLAKE" if "SLAKE" in name else "VQA_RAD")).exists():
        pytest.skip("the real dataset is here: the notebook would take it")
    said = run(ROOT / "launch" / "notebooks" / f"{name}.ipynb", tmp_path)
    for words in (
        "exact match",
        "valid JSON",
        "answers with boxes",
        "at least 0.3: coverage",
        "without own",
    ):
        assert words in said
    assert ("answers flip without evidence" in said) == ("SLAKE" in name)
    assert said.endswith("plots: 3")
    assert (tmp_path / "report" / "report.html").exists()
    for model in ("base", "sft", "grpo"):
        assert (tmp_path / f"eval_{model}" / "metrics.json").exists()


@pytest.mark.slow
def test_gpu_setup_says_what_to_do_without_a_gpu(tmp_path):
    said = run(ROOT / "launch" / "notebooks" / "gpu_setup.ipynb", tmp_path)
    assert said.count("recommended") >= 2
    assert "not here: cannot load the model" in said  # Qwen2-VL itself, without a network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VRI_SLAKE", "VR1_VAQRAD"])
def test_a_study_takes_the_real_data_where_they_are(name, realdata, trained, tmp_path):
    """The real sample, and the embedded model in the place of the one that is not here."""
    dataset = "SLAKE" if "SLAKE" in name else "VQA_RAD"
    changes = {
        f'Path("data/{dataset}")': f'Path("{realdata / dataset}")',
        'Qwen/Qwen2-VL-2B-Instruct" if': 'tiny" if',
        "(None, 8) if REAL": "(8, 2) if REAL",
        "256 if REAL": "120 if REAL",
        'Path("checkpoints/qwen2vl_sft")': f'Path("{trained["sft"]}")',
    }
    said = run(ROOT / "launch" / "notebooks" / f"{name}.ipynb", tmp_path, changes)
    assert f"tiny on the real {dataset} in {realdata / dataset}" in said
    assert "to compare with the base model: sft" in said
    assert "exact match" in said
    assert said.endswith("plots: 3")
    assert not (tmp_path / "phantoms").exists()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "they say nothing about patients" not in page
