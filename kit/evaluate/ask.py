"""Asking a model about one image, or a folder of images: what may be asked, and what is printed.

What is wrong with an image, a question or the folder of a model is told before anything heavy is
loaded.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.data.fields import check_text
from kit.data.images import open_image
from kit.data.types import SftRecord, Shown
from kit.errors import ConfigError, DataError, ImageError, RecordError, UserError
from kit.evaluate.ask_config import LONGEST_QUESTION, AskConfig
from kit.evaluate.setting import setting_of
from kit.files import json_line, require_folder
from kit.model.folders import named_base, require_adapter, resolve_base
from kit.report.certificate_file import Certificate
from kit.yaml_files import read_yaml

if TYPE_CHECKING:
    from kit.evaluate.replies import Reply

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
TAUGHT = "caption_reason_answer"  # where an adapter does not say


def ask(config: AskConfig) -> int:
    """Print the answers to all questions about all images, as they come, and draw them where that
    is wanted; returns the exit code."""
    questions = [checked_question(one) for one in config.question]
    images = shown_by(config.image)
    is_folder = Path(config.image[0]).is_dir()
    require_model(config)
    certificate = certificate_of(config)
    pictures = picture_paths(config.output, images, is_folder)

    from kit.evaluate.ask_figure import draw_replies
    from kit.evaluate.replies import opened, replies

    records = [record_of(shown, question) for shown in images for question in questions]
    form = config.format or ("json" if is_folder else "text")
    with opened(config, records) as predictor:
        for shown, found in replies(predictor, records, config, certificate):
            print(json_of(found) if form == "json" else text_of(found), end="", flush=True)
            if pictures:
                draw_replies(found, pictures[shown], config.inpainting)
    return 0


# -------------------------------------------------------------------------- what may be asked


def checked_question(question: str, where: str = "--question") -> str:
    """A question as it is asked.

    Raises:
        UserError: it is empty, too long, or holds what no tokenizer takes.
    """
    asked = question.strip()
    if not asked:
        raise UserError("the question is empty", where=where, fix="write one")
    if len(asked) > LONGEST_QUESTION:
        what = f"the question has {len(asked)} characters, more than {LONGEST_QUESTION}"
        raise UserError(what, where=where, fix="ask a shorter one")
    try:
        check_text(asked, where, "question")
    except RecordError as error:
        raise UserError(error.what, where=where, fix="remove it") from error
    return asked


def shown_by(paths: Sequence[str]) -> list[Shown]:
    """What each question shows: the images of a folder each by itself, or all that are named
    together. Each can be decoded.

    Raises:
        UserError: one cannot, or a folder holds none or does not stand alone.
    """
    if not any(Path(path).is_dir() for path in paths):
        for path in paths:
            open_image(path)
        return [paths[0] if len(paths) == 1 else tuple(paths)]
    if len(paths) > 1:
        fix = "give one folder, or the images of one question"
        raise ConfigError("a folder of images stands alone", where="--image", fix=fix)
    folder = Path(paths[0])
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        fix = f"give a folder with files that end in {', '.join(ENDINGS)}"
        raise UserError("there is no image in this folder", where=folder, fix=fix)
    problems = [problem for problem in map(_problem, found) if problem]
    if problems:
        what = f"{len(problems)} of the {len(found)} images cannot be read"
        raise DataError(what, where=folder, fix="mend or remove them", problems=problems)
    return [str(path) for path in found]


def _problem(path: Path) -> RecordError | None:
    try:
        open_image(path)
    except ImageError as error:
        return RecordError(error.what, reason="bad_image", where=path, fix=error.fix)
    return None


def require_model(config: AskConfig) -> None:
    """
    Raises:
        UserError: a folder that is named holds no adapter, or no model.
    """
    if config.adapter:
        require_adapter(config.adapter)
    resolve_base(config.base_model or named_base(config.adapter))


def certificate_of(config: AskConfig) -> Certificate | None:
    """The certificate that is named, if one is.

    Raises:
        UserError: there is none there, or it is of another model or way of asking.
    """
    if not config.certificate:
        return None
    found = Certificate.read(config.certificate)
    found.require(setting_of(config) | {"mode": mode_of(config)}, where=config.certificate)
    return found


def mode_of(config: AskConfig) -> str:
    """How the model is asked: as told, or as its adapter was taught."""
    run = Path(config.adapter or ".") / "config.yaml"
    taught = read_yaml(run).get("prompting_mode") if config.adapter and run.is_file() else None
    return config.prompting_mode or (taught if taught == "think_answer" else TAUGHT)


def picture_paths(output: str, images: Sequence[Shown], is_folder: bool) -> dict[Shown, Path]:
    """Where the picture of each is to go; nothing where none is wanted.

    Raises:
        UserError: a picture that is no PNG, or a folder that cannot be written.
    """
    if not output:
        return {}
    path = Path(output)
    if is_folder:
        require_folder(path)
        return {shown: path / f"{Path(shown).name}.png" for shown in images}
    if path.suffix.lower() != ".png" or path.is_dir():
        fix = f"let its name end in .png: --output {path.with_suffix('.png')}"
        raise ConfigError("the picture is a PNG file", where=f"output: {output}", fix=fix)
    require_folder(path.parent)
    return {images[0]: path}


def record_of(shown: Shown, question: str) -> SftRecord:
    """A question to which no answer is known."""
    image, *more = (shown,) if isinstance(shown, str) else shown
    return SftRecord("", image, question, "", more_images=tuple(more))


# ------------------------------------------------------------------------- what is printed


def json_of(replies: Sequence[Reply]) -> str:
    """The line of an image."""
    first = replies[0]
    several = bool(first.record.more_images)
    sizes = [list(size) for size in first.canvas.sizes]
    return json_line(
        {
            "image": list(first.record.images) if several else first.record.image,
            "image_size": sizes if several else sizes[0],
            "mode": first.mode,
            "answers": [reply.to_json() for reply in replies],
        }
    )


def text_of(replies: Sequence[Reply]) -> str:
    """What is said of an image, to read."""
    first = replies[0]
    sizes = (f"{width} x {height}" for width, height in first.canvas.sizes)
    named = (f"{p} ({size} pixels)" for p, size in zip(first.record.images, sizes, strict=True))
    blocks = [_line("image", ", ".join(named))]
    for reply in replies:
        boxes = "; ".join(map(str, reply.boxes_in_images())) or "none"
        blocks.append("")
        lines = [
            _line("question", reply.record.question),
            _line("answer", f"{reply.answer}   (probability {reply.probability:.2f})"),
            _line("caption", reply.parsed.caption),
            *(_line("reasoning", step) for step in reply.parsed.reasoning),
            _line("boxes", f"{boxes}   (x1, y1, x2, y2 in pixels)" if reply.region else boxes),
            _line("note", reply.note),
            _line("certificate", reply.certified),
            *(_line(name, told) for name, told in reply.told()),
        ]
        blocks += filter(None, lines)
    return "\n".join(blocks) + "\n\n"


def _line(name: str, text: str) -> str:
    """Nothing where there is no text."""
    lead = f"{name:<22}"
    return (
        textwrap.fill(text, 100, initial_indent=lead, subsequent_indent=" " * len(lead))
        if text
        else ""
    )
