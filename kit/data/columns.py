"""Which column of a table is what: as it is told, by its own name, or by a name that is as good."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeVar

from kit.command import option
from kit.errors import ConfigError, DataError

REQUIRED = ("image", "question", "answer")
# Fields, and other names under which they are found where one alone of them is there.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": (
        "images", "image_path", "img", "img_path", "image_file", "file_name", "filename",
        "image_name", "img_name", "image_filename", "figure_path", "path", "file",
    ),
    "question": ("q", "query", "question_text"),
    "answer": (
        "a", "gold", "ground_truth", "gt_answer", "correct_answer", "answer_text", "label",
    ),
    "choices": ("options", "choice", "candidates"),
    "boxes": ("box", "bbox", "bboxes", "bounding_box", "bounding_boxes"),
    "box_convention": (),
    "box_format": (),
    "split": ("phase",),
    "qid": ("id", "question_id"),
    "modality": ("image_modality", "modality_type"),
    "location": ("organ", "body_part", "anatomy"),
    "answer_type": (),
    "content_type": ("question_type",),
    "dataset": (),
    "regions": (),
    "image_size": (),
}  # fmt: skip
BoxFormat = Literal["xyxy", "xywh"]
Options = TypeVar("Options", bound="TableOptions")

_IMAGE = re.compile(r"(?:image|img)(?:_path|_file)?_?([1-9]?)")
_CHOICE = re.compile(r"(?:(?:option|choice|opt)[ _-]*)?([a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How a table is read: the column of each field that is told, what its boxes count
    (``kit.data.boxes``) and how they are written, and which split is wanted, ``all`` or None for
    what the reader prefers."""

    columns: Mapping[str, str] = field(default_factory=dict)
    box_convention: str | None = None
    box_format: BoxFormat | None = None
    split: str | None = None


def parse_columns(
    pairs: Sequence[str],
    fields: Collection[str] = ALIASES,
    *,
    where: str = "columns",
    example: str = "question=q",
) -> dict[str, str]:
    """``field=column`` of each; an empty column means that there is none.

    ``fields``: those that there are; ``where``, ``example``: the flag and a use of it, as told.

    Raises:
        ConfigError: not of that form, or no such field.

    >>> parse_columns(["question=q", "image=Figure path", "boxes="])
    {'question': 'q', 'image': 'Figure path', 'boxes': ''}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, column = pair.partition("=")
        if not sign or name.strip() not in fields:
            what = f"{pair!r} is not field=column"
            fix = f"write {example}; the fields are {', '.join(fields)}"
            raise ConfigError(what, where=where, fix=fix)
        found[name.strip()] = column.strip()
    return found


@dataclass
class TableOptions:
    """What a stage may be told of data files that ``prepare_data`` did not write."""

    columns: list[str] = option(
        help="field=column of the data, where it names image, question, answer, ... otherwise",
        default_factory=list,
    )
    data_split: Literal["train", "validate", "test", "all"] | None = option(
        None, help="rows of the data to take, where it has several splits"
    )
    box_convention: Literal["pixels", "grid_1000", "unit"] | None = option(
        None, help="what the data's boxes count, where their numbers do not tell"
    )
    box_format: BoxFormat | None = option(
        None, help="whether its boxes are corners or corner and size, where they do not tell"
    )

    @property
    def layout(self) -> Layout:
        """
        Raises:
            ConfigError: a column is not told as field=column.
        """
        columns = parse_columns(self.columns)
        return Layout(columns, self.box_convention, self.box_format, self.data_split)

    def over(self, other: Options) -> Options:
        """Another configuration with what this one is told of data, which goes over its own."""
        told = {one.name: getattr(self, one.name) for one in fields(TableOptions)}
        return replace(other, **{name: value for name, value in told.items() if value})


@dataclass(frozen=True)
class Columns:
    """The column of each field that a table has, those of single choices (``A``, ``option_b``) by
    their letters, those of images after the first (``image_2``), and the columns that are not
    used."""

    of: Mapping[str, str]
    choices: Mapping[str, str]
    more_images: tuple[str, ...]
    unused: tuple[str, ...]

    def in_words(self) -> str:
        """Which columns were taken for what under another name, and which are not used."""
        other = [f"{name} from {c!r}" for name, c in self.of.items() if _plain(c) != name]
        if self.choices:
            other.append(f"choices from {', '.join(map(repr, self.choices.values()))}")
        if self.more_images:
            other.append(f"further images from {', '.join(map(repr, self.more_images))}")
        unused = [f"not used: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join([*([", ".join(other)] if other else []), *unused])


def find_columns(names: Iterable[str], told: Mapping[str, str], where: object) -> Columns:
    """The columns of a table by what is told of them, else by their names, in any case.

    Raises:
        DataError: a required one is not there, or two could be it.

    >>> found = find_columns(["Image", "q", "A", "B", "answer", "note"], {}, "x.csv")
    >>> found.in_words()
    "question from 'q', choices from 'A', 'B'; not used: note"
    """
    names = list(names)
    taken: dict[str, str] = {}
    for name, column in told.items():
        if column and column not in names:
            raise _missing(f"no column {column!r}", names, where)
        taken[name] = column
    letters = _single_choices(names, taken)
    first, *more = _numbered_images(names, taken) or [""]
    if first:
        taken["image"] = first
    free = [n for n in names if n not in {*taken.values(), *letters.values(), *more}]
    plain = {name: _plain(name) for name in free}
    for name, others in ALIASES.items():
        if name in taken:
            continue
        own = [column for column in free if plain[column] == name]
        found = own or [column for column in free if plain[column] in others]
        if len(found) == 1:
            taken[name] = found[0]
        elif len(found) > 1 and name in REQUIRED:
            both = " and ".join(map(repr, found))
            fix = f"say which: --columns {name}={found[0]}"
            raise DataError(f"{both} could each be the {name}", where=where, fix=fix)
    if missing := [name for name in REQUIRED if not taken.get(name)]:
        raise _missing(f"no column for {' and '.join(missing)}", names, where, missing)
    of = {name: taken[name] for name in ALIASES if taken.get(name)}
    used = {*of.values(), *letters.values(), *more}
    return Columns(of, letters, tuple(more), tuple(name for name in names if name not in used))


def _single_choices(names: Sequence[str], taken: Mapping[str, str]) -> dict[str, str]:
    """Columns of one choice each by their letters; A and B at least."""
    if "choices" in taken or any(_plain(name) in ("choices", "options") for name in names):
        return {}
    free = [name for name in names if name not in taken.values()]
    found = {m[1].upper(): name for name in free if (m := _CHOICE.fullmatch(name.strip()))}
    letters = [*itertools.takewhile(found.__contains__, string.ascii_uppercase)]
    return {letter: found[letter] for letter in letters} if len(letters) > 1 else {}


def _numbered_images(names: Sequence[str], taken: Mapping[str, str]) -> list[str]:
    """``image_1`` (or ``image``), ``image_2`` and so on, where there are at least two of them and
    no other column is told to be the image.

    >>> _numbered_images(["image2", "image", "note"], {}), _numbered_images(["image_1"], {})
    (['image', 'image2'], [])
    """
    numbered = {
        int(found[1] or 1): name for name in names if (found := _IMAGE.fullmatch(_plain(name)))
    }
    found = [numbered[n] for n in itertools.takewhile(numbered.__contains__, itertools.count(1))]
    told = taken.get("image", found[0] if found else "")
    return found if len(found) > 1 and told == found[0] else []


def _missing(
    what: str, names: Sequence[str], where: object, missing: Sequence[str] = ()
) -> DataError:
    told = " ".join(f"{name}=..." for name in missing) or "field=column"
    shown = ", ".join(names) or "none"
    return DataError(
        f"{what}; the columns are: {shown}", where=where, fix=f"say which it is: --columns {told}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())
