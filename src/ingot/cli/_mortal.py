"""``ingot`` in a process that can die at a chosen moment of writing a checkpoint; used by verify-resume.

    python -m ingot.cli._mortal COUNT ARGUMENTS...

Every file that is opened for writing, folder that is made, and rename under ``checkpoints`` counts as one; at the COUNT-th the process
kills itself with SIGKILL. With COUNT 0 it lives, and the total is written to the file named by INGOT_MORTAL_TOTAL.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Counter:
    """An audit hook that counts writes below a folder named ``checkpoints`` and kills the process at the fatal one."""

    def __init__(self, fatal: int):
        self.fatal, self.seen = fatal, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir") or "checkpoints" not in str(arguments[0]):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        self.seen += 1
        if self.seen == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    counter = Counter(int(sys.argv[1]))
    sys.addaudithook(counter)
    from . import main as ingot

    status = ingot(sys.argv[2:])
    if total := os.environ.get("INGOT_MORTAL_TOTAL"):
        Path(total).write_text(str(counter.seen), encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
