"""The report beside a prepared data file: what went in, what came out, what was dropped and why."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from kit.data.records import SftRecord, to_json
from kit.data.targets import INSTRUCTION
from kit.files import atomic_write, json_line, json_text


def report_path(output: str | Path) -> Path:
    """Where the report of a data file lies.

    >>> report_path("data/train.json").as_posix()
    'data/train.json.report.json'
    """
    return Path(f"{output}.report.json")


def by_dataset(records: list[SftRecord]) -> dict[str, dict]:
    """Rows, images, rows with evidence boxes and answer types of each dataset."""
    counts = {}
    for dataset in dict.fromkeys(r.dataset for r in records):
        own = [r for r in records if r.dataset == dataset]
        counts[dataset] = {
            "rows": len(own),
            "images": len({path for r in own for path in r.images}),
            "rows_with_boxes": sum(bool(r.regions) for r in own),
            "answer_type": dict(sorted(Counter(r.answer_type for r in own).items())),
        }
    return counts


def write_prepared(output: Path, records: list[SftRecord], report: dict) -> None:
    """Both files or neither: the report is safely on the disk before the data takes its name.

    Raises:
        UserError: the disk refused.
    """
    with atomic_write(report_path(output)) as about, atomic_write(output) as stream:
        stream.writelines(json_line(_of_seed(record) | to_json(record)) for record in records)
        about.write(json_text(report))
        about.flush()
        os.fsync(about.fileno())


def _of_seed(record: SftRecord) -> dict[str, str]:
    """What other tools of instruction tuning look for beside ``output``; the kit does not."""
    return {"instruction": INSTRUCTION, "input": record.question}


def print_summary(report: dict) -> None:
    """A few lines for the terminal."""
    splits = ", ".join(f"{count} {split}" for split, count in report["by_split"].items())
    shown = f" ({splits})" * (len(report["by_split"]) > 1)
    print(f"{report['output']}: {report['rows_out']} of {report['rows_in']} rows{shown}")
    for reason, count in report["dropped"].items():
        print(f"  dropped {count}: {reason}")
    if "leaks" in report and report["leaks"]["policy"] == "keep":
        print(f"  leaks kept: {sum(report['leaks']['found'].values())}")
    if near := report.get("near_duplicates_of_test_images"):
        rows = report["near_duplicates"]["rows"]
        print(f"  kept {rows} rows of {near} images that nearly equal a test image")
    if (shared := report.get("images_shared_with_test")) and shared["rows"]:
        fate = "dropped" if shared["removed"] else "kept (see --image_disjoint)"
        print(f"  {shared['rows']} rows of {shared['images']} images of the test split: {fate}")
    if held := report.get("vqa_rad_held_out_for_validation"):
        print(f"  VQA-RAD's validate split: {held['rows']} rows of {held['images']} images")
    for note in report["notes"]:
        print(f"  note: {note}")
    print(f"  report: {report_path(report['output'])}")
