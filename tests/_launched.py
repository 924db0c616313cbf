"""Launches of several ranks whose results many tests read: made once, also where several pytest processes share the tests."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def launched(
    name: str,
    factory: pytest.TempPathFactory,
    repository: Path,
    worker: Path,
    launches: Callable[[], list[dict[str, Any]]],
    corpus: Callable[[Path, int], None],
    timeout: float,
) -> Path:
    """The folder of all launches: two sources of text, launches.json, what the worker wrote, and log, which is what it said."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "log").exists():
            for seed, side in enumerate(("left", "right")):
                corpus(folder / side, seed)
            (folder / "launches.json").write_text(json.dumps(launches()))
            path = os.pathsep.join(filter(None, [str(repository / "src"), os.environ.get("PYTHONPATH", "")]))
            done = subprocess.run(
                [sys.executable, str(worker), str(folder)],
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=timeout,
            )
            (folder / "log").write_text(done.stdout + done.stderr)
    return folder
