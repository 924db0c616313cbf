"""Runs a function on several ranks of gloo processes and judges by the file that rank 0 leaves.

    python worker.py FILE.py:FUNCTION FOLDER LAYOUT RANKS [ARGUMENT]

FUNCTION(layout, folder, argument) runs on every rank; what rank 0's call returns (a dict of tensors) is written to
FOLDER/result.safetensors. Exit statuses of ranks are not looked at, since gloo may abort a process after its work is done.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def main(target: str, folder: str, layout: str, ranks: str, argument: str = "") -> None:
    result = Path(folder) / "result.safetensors"
    if "RANK" not in os.environ:
        launch(result, int(ranks))
        return
    faulthandler.enable()
    import torch

    from ingot.core.resolve import spec
    from ingot.parallel.start import leave, start

    torch.set_num_threads(1)
    place = start()
    path, _, name = target.rpartition(":")
    found = importlib.util.spec_from_file_location("task", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    values = getattr(module, name)(spec("parallel.layout", layout).build(), Path(folder), argument)
    if place.rank == 0:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in (values or {}).items()}, f"{result}.part")
        os.replace(f"{result}.part", result)
    leave()


def launch(result: Path, ranks: int, limit: float = 220.0) -> None:
    """Start the ranks and wait for all of them; a rank that fails before the result is there ends the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, *sys.argv], env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)
    ]
    deadline = time.monotonic() + limit
    try:
        while any(child.poll() is None for child in children):
            if time.monotonic() > deadline or (any(child.poll() for child in children) and not result.exists()):
                break
            time.sleep(0.05)
    finally:
        if not result.exists():
            late = f"{limit:g} s are over; " if time.monotonic() > deadline else ""
            print(f"{late}exit statuses by rank: {[child.poll() for child in children]}", file=sys.stderr)
        for child in children:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
