"""Errors that a user can fix: what went wrong, where, and what to do about it."""

from __future__ import annotations

from importlib.util import find_spec


class UserError(Exception):
    """A mistake in the user's data, configuration or machine; ends a command with exit code 2.

    Args:
        what: one sentence that says what is wrong, in the user's words.
        where: the file, line, field, flag or record concerned.
        fix: what to do.

    >>> print(UserError("no such file", where="data/train.json", fix="run prepare_data first"))
    no such file
      where: data/train.json
      fix:   run prepare_data first
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None):
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.fix is not None:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple:  # so that it passes whole from one process to another
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type, arguments: tuple, fields: dict) -> UserError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    return error


class ConfigError(UserError):
    """A configuration key or flag that is unknown, of the wrong type, or contradicts another."""


def need_extra(module: str, extra: str) -> None:
    """
    Raises:
        UserError: ``module`` is not installed, which comes with an ``extra`` of the kit.
    """
    if find_spec(module) is None:
        fix = f'pip install "medvqa-kit[{extra}]", or in a checkout: pip install -e ".[{extra}]"'
        raise UserError(f"{module} is not installed", where="this environment", fix=fix)


class ImageError(UserError):
    """An image file that cannot be read safely and faithfully."""


class RecordError(UserError):
    """One broken row of a data file. ``reason`` is a short stable key for counting."""

    def __init__(self, what: str, *, reason: str, where: object = None, fix: str | None = None):
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


class DataError(UserError):
    """A data file that cannot be used, with every broken row that was found in it."""

    SHOWN = 20

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        fix: str | None = None,
        problems: list[RecordError] | None = None,
    ):
        super().__init__(what, where=where, fix=fix)
        self.problems = problems or []

    def __str__(self) -> str:
        lines = [super().__str__()]
        lines += [f"  - {p.where}: {p.what}" for p in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"  ... and {len(self.problems) - self.SHOWN} more")
        return "\n".join(lines)
