"""``ingot`` in a process that can die at a chosen moment of writing a checkpoint; used by verify-resume.

    python -m ingot.cli._mortal COUNT ARGUMENTS...

Every file that is opened for writing, folder that is made, and rename under ``checkpoints`` counts as one; at the COUNT-th the process
kills itself with SIGKILL. With COUNT 0 it lives, and the total is written to the file named by INGOT_MORTAL_TOTAL. With
INGOT_MORTAL_LEDGER, the path of the run's ledger, only what is written after this process has made a step of its own counts.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
START, STEP, END = (f'\n{{"kind": "{kind}"'.encode() for kind in ("start", "step", "end"))


class Attempt:
    """What one process adds to a ledger, seen from the file alone; made before the process begins to train.

    Every process writes one line of the kind ``start``; no resuming drops it, so its own lines are those behind a new one.
    """

    def __init__(self, ledger: Path):
        self.ledger, self._seen, self._held = ledger, (0, 0, 0), b""
        self.before = self._text().count(START)

    def steps(self) -> int:
        """Steps that the process has made and written."""
        return self._own().count(STEP)

    def ended(self) -> bool:
        """Whether the process has trained to the end."""
        return END in self._own()

    def _own(self) -> bytes:
        text = self._text()
        return text.rpartition(START)[2] if text.count(START) > self.before else b""

    def _text(self) -> bytes:
        try:
            found = self.ledger.stat()
            if (seen := (found.st_ino, found.st_size, found.st_mtime_ns)) != self._seen:
                self._held = b"\n" + self.ledger.read_bytes().rpartition(b"\n")[0]  # a line that is being written does not count
                self._seen = seen
            return self._held
        except FileNotFoundError:
            return b""


class Counter:
    """An audit hook that counts writes below a folder named ``checkpoints`` and kills the process at the fatal one.

    armed: asked until it says yes; nothing counts before. Not given, everything counts.
    """

    def __init__(self, fatal: int, armed: Callable[[], bool] | None = None):
        self.fatal, self.armed, self.seen = fatal, armed, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir") or "checkpoints" not in str(arguments[0]):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if self.armed is not None:
            if not self.armed():
                return
            self.armed = None
        self.seen += 1
        if self.seen == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    ledger = os.environ.get("INGOT_MORTAL_LEDGER")
    attempt = Attempt(Path(ledger)) if ledger else None
    counter = Counter(int(sys.argv[1]), (lambda: attempt.steps() > 0) if attempt else None)
    sys.addaudithook(counter)
    from . import main as ingot

    status = ingot(sys.argv[2:])
    if total := os.environ.get("INGOT_MORTAL_TOTAL"):
        Path(total).write_text(str(counter.seen), encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
