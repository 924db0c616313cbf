"""Two processes that compute cells of the matrix, one after the other:   python _matrix_ranks.py FOLDER

FOLDER/tasks.json holds the recipes. Rank 0 leaves FOLDER/N.safetensors, a rank that fails FOLDER/N.json, and then both end: what the
other rank waits for will not come. ``work`` starts a new pair for the tasks after that one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

RANKS = 2


def _matrix() -> Any:
    found = importlib.util.spec_from_file_location("matrix_engine", Path(__file__).with_name("_matrix.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["matrix_engine"] = module
    found.loader.exec_module(module)
    return module


def work(tasks: list[dict[str, Any]], done: Callable[[int, Any, Any], None], limit: float) -> None:
    """Every task; done(index, tensors, error) as each ends. limit: seconds that one may take."""
    at = 0
    while at < len(tasks):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "tasks.json").write_text(json.dumps(tasks[at:]))
            at += _pair(folder, at, len(tasks) - at, done, limit)


def _pair(folder: Path, offset: int, count: int, done: Callable[[int, Any, Any], None], limit: float) -> int:
    """One pair of processes, as far as it gets; the number of tasks that were settled."""
    from safetensors.torch import load_file

    import ingot

    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        pair = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(folder)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for index in range(count):
            result, error = folder / f"{index}.safetensors", folder / f"{index}.json"
            deadline = time.monotonic() + limit + (30 if index == 0 else 0)
            while not result.exists() and not error.exists() and pair.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if result.exists():
                done(offset + index, load_file(result), None)
                continue
            words = (
                json.loads(error.read_text())
                if error.exists()
                else {"verdict": "crash", "reason": "a rank did not answer: " + (folder / "log").read_text(errors="replace")[-200:]}
            )
            done(offset + index, None, words)
            return index + 1
        return count
    finally:
        _end(pair)


def _end(pair: subprocess.Popen[bytes]) -> None:
    """The pair and what it forked, by the group that it leads."""
    with suppress(ProcessLookupError):
        os.killpg(pair.pid, signal.SIGKILL)
    pair.wait()


def rank_main(folder: Path, rank: int) -> None:
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file

    from ingot.core.errors import RunError, UserError
    from ingot.parallel.start import leave, start

    torch.set_num_threads(1)
    matrix = _matrix()
    start()
    for index, task in enumerate(json.loads((folder / "tasks.json").read_text())):
        setup = matrix.Setup("", task["tree"], task["keys"], task["single"])
        try:
            trace = matrix.trained(setup, folder / f"run-{index}")
            gradients = matrix.gradients_of(setup, folder / f"gradients-{index}")
            dist.barrier()
        except Exception as error:
            late = isinstance(error, UserError | RunError)
            words = {
                "verdict": "late" if late else "crash",
                "reason": str(error).strip() if late else f"{type(error).__name__}: {str(error).strip()[:300]}",
            }
            (folder / f"{index}.json.part{rank}").write_text(json.dumps(words))
            os.replace(folder / f"{index}.json.part{rank}", folder / f"{index}.json")
            time.sleep(1)
            os._exit(1)
        if rank == 0:
            save_file(
                {f"gradient:{name}": value for name, value in gradients.items()}
                | {f"tensor:{name}": value.clone() for name, value in trace.tensors.items()},
                folder / "part",
            )
            os.replace(folder / "part", folder / f"{index}.safetensors")
    leave()


def main(folder: Path) -> None:
    import torch.distributed  # noqa: F401  before forking, so that it is paid once

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from _forked import finish, forked

    finish(forked(RANKS, lambda rank: rank_main(folder, rank)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
