"""Where trials run: processes of this machine, or a Ray cluster. Both only need the trials' folders, on a disk that all see."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import RunError, missing_extra
from ..core.limits import cores
from ..core.parts import ROOT
from ..core.waiting import wait_briefly

DIED = -1


class Pool(Protocol):
    """size: trials at once. start: begin one. wait: block until some have ended, or so many seconds; (folder, status) of each that has.
    close: kill what still runs."""

    size: int

    def start(self, folder: Path) -> None: ...
    def wait(self, timeout: float | None = None) -> list[tuple[Path, int]]: ...
    def close(self) -> None: ...


def environment(threads: int) -> dict[str, str]:
    """In which a trial computes with so many threads, and imports this very package."""
    path = os.pathsep.join(filter(None, (str(ROOT.parent), os.environ.get("PYTHONPATH", ""))))
    found = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}  # trials stand side by side
    wait_briefly(found)
    return found | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": path}


class Processes:
    """`size` trials at once on this machine's cores, all of them children of one worker, which loads torch once."""

    def __init__(self, size: int, threads: int | None = None):
        self.size = size
        self.threads = threads or max(1, cores() // size)
        self._worker: subprocess.Popen[bytes] | None = None
        self._busy: set[Path] = set()
        self._said = b""
        self._lost: list[Path] = []  # trials of a worker that died, not told yet

    def start(self, folder: Path) -> None:
        try:
            self._give(folder)
        except BrokenPipeError:  # it has died since it was last listened to
            self._lost += self._busy
            self._busy = set()
            self._leave()
            try:
                self._give(folder)
            except BrokenPipeError:
                raise RunError("the race's worker has died before it was given a trial") from None
        self._busy.add(folder)

    def _give(self, folder: Path) -> None:
        worker = self._worker = self._worker or self._started()
        assert worker.stdin is not None
        worker.stdin.write(f"{folder}\n".encode())
        worker.stdin.flush()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ingot.race.worker", str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(self.threads),
            start_new_session=True,
        )

    def wait(self, timeout: float | None = None) -> list[tuple[Path, int]]:
        if self._lost:
            ended, self._lost = [(folder, DIED) for folder in self._lost], []
            return ended
        assert self._worker is not None and self._worker.stdout is not None
        with selectors.DefaultSelector() as selector:  # select() itself takes no more than a thousand open files
            selector.register(self._worker.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                return []
        said = os.read(self._worker.stdout.fileno(), 65536)
        if not said:  # it has died, and its children with it
            self._leave()
            ended = [(folder, DIED) for folder in self._busy]
        else:
            *lines, self._said = (self._said + said).split(b"\n")
            ended = [(Path(told["folder"]), int(told["status"])) for told in map(json.loads, lines)]
        self._busy -= {folder for folder, _ in ended}
        return ended

    def close(self) -> None:
        """Closing a worker's input makes it kill its trials and leave."""
        self._leave()
        self._busy, self._lost = set(), []

    def _leave(self) -> None:
        worker, self._worker, self._said = self._worker, None, b""
        if worker is None:
            return
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        try:
            worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.kill()


class Cluster:
    """A Ray cluster (``cluster`` extra) whose machines see the races' folder under the same path."""

    def __init__(self, address: str, size: int | None = None, threads: int = 1):
        try:
            import ray
        except ImportError:
            raise missing_extra("ray", "cluster") from None
        self.ray: Any = ray
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        self.threads = threads
        self.size = size or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        self._remote = ray.remote(num_cpus=threads, max_retries=0)(run_apart)
        self._busy: dict[Any, Path] = {}

    def start(self, folder: Path) -> None:
        self._busy[self._remote.remote(str(folder), self.threads)] = folder

    def wait(self, timeout: float | None = None) -> list[tuple[Path, int]]:
        ready, _ = self.ray.wait(list(self._busy), num_returns=1, timeout=timeout)
        ended = []
        for reference in ready:
            folder = self._busy.pop(reference)
            try:
                ended.append((folder, int(self.ray.get(reference))))
            except self.ray.exceptions.RayError:
                ended.append((folder, DIED))
        return ended

    def close(self) -> None:
        for reference in self._busy:
            self.ray.cancel(reference, force=True)
        self._busy = {}


def run_apart(folder: str, threads: int) -> int:
    """One trial through a worker of its own; what a node of a cluster does."""
    pool = Processes(1, threads)
    try:
        pool.start(Path(folder))
        while not (ended := pool.wait()):
            pass
        return ended[0][1]
    finally:
        pool.close()
