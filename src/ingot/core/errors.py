"""The errors a user can cause, each one clear line; everything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave.

    where:   dotted recipe path (``stages.0.optimizer.lr``), a file, or a flag.
    message: one sentence that says what is wrong and, where known, what would be right.
    origin:  ``recipe.yaml:12`` or ``command line``; empty when there is none.
    hint:    an indented second line, such as the signature of the part concerned.
    """

    where: str
    message: str
    origin: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = one_line("  ".join(part for part in (self.origin, f"{self.where}: {self.message}" if self.where else self.message) if part))
        return f"{head}\n  {self.hint}" if self.hint else head


def one_line(text: str) -> str:
    """Words that may come from a file, fit for one line: what cannot be printed is escaped."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shown(value: object, most: int = 120) -> str:
    """A value as an error shows it; a long one is cut."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


class IngotError(Exception):
    """Base of every error that is reported as a line and an exit status, never as a traceback."""

    status = 1


class UserError(IngotError):
    """The user's input was wrong (exit status 2). Carries every problem found, not the first."""

    status = 2

    def __init__(self, problems: Iterable[Problem] | str):
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class RunError(IngotError):
    """The run could not go on (exit status 1): a full disk, a damaged checkpoint, a loss that is not finite."""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for an optional dependency that is not installed, naming the extra that brings it."""
    return UserError(f"this needs the package {package!r}: pip install 'ingot[{extra}]'")
