"""What a command says: text for people, or one JSON object; on one rank only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..ledger.ledger import plain

if TYPE_CHECKING:
    from ..core.errors import Problem


def close_stdout() -> None:
    """Let nobody hear what is still to be said: the reader has seen enough (``ingot parts | head``), and Python would complain again when
    it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Output:
    """print: a line for people.  result: what the command found, for ``--json``.  table: aligned columns.

    Under ``--json`` nothing but the result reaches standard output; on ranks that do not speak, nothing at all does.
    """

    def __init__(self, *, json: bool = False, speaks: bool = True):
        self.json, self.speaks = json, speaks
        self.answer: dict[str, Any] | None = None

    def print(self, *lines: str) -> None:
        if self.speaks and not self.json:
            print("\n".join(lines), flush=True)

    def note(self, *lines: str) -> None:
        """A line beside the answer (what is going on, where something lies): standard error."""
        if self.speaks:
            print("\n".join(lines), file=sys.stderr, flush=True)

    def result(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]], *, words: int = 1) -> None:
        """Columns; the first `words` of them hold words, the others numbers, which stand flush right."""
        cells = [list(head), *([str(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells)]
        for row in cells:
            self.print(
                "  ".join(
                    cell.ljust(width) if index < words else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths))
                ).rstrip()
            )

    def finish(self) -> None:
        """Print the JSON answer, once the command is done."""
        if self.speaks and self.json:
            print(json.dumps(plain(self.answer or {}), allow_nan=False), flush=True)

    def problems(self, problems: Sequence[Problem], *, starts: bool) -> None:
        """Every problem on a line of its own, then their number; of a rank that is otherwise silent the first, which it may have alone."""
        if not self.speaks:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            return self.failure(f"{problems[0]}{more}".replace("\n", " "), rank=int(os.environ.get("RANK", "0")))
        count = f"{len(problems)} error{'s' * (len(problems) != 1)}"
        self.note(*map(str, problems), f"{count}; nothing was started." if starts else f"{count}.")
        if self.json:
            self.answer = {
                "errors": [
                    {"where": one.where, "message": one.message, "origin": one.origin} | ({"hint": one.hint} if one.hint else {})
                    for one in problems
                ]
            }
            self.finish()

    def failure(self, message: str, *, rank: int = 0) -> None:
        """The one line of a run that could not go on; also from ranks that are otherwise silent."""
        print(f"rank {rank}: {message}" if rank else message, file=sys.stderr, flush=True)
        if self.json:
            self.answer = {"errors": [{"message": message}]}
            self.finish()
