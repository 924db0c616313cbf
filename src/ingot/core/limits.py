"""What of the machine this process may use: processors by its affinity, memory by the control groups that it is in.

Containers and batch systems limit both, and os.cpu_count() and the system's free memory tell of the whole machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# File names of a group's limit, of what it uses, and of the part of that which is cached files: kernel, Documentation/admin-guide/
# cgroup-v2.rst and cgroup-v1/memory.rst. The cache is given back when memory is wanted, so it counts as free, as the system counts it.
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_left(root: Path = Path("/")) -> float:
    """Bytes that this process's control groups still allow, of all above it too; infinite where none has a limit. root: of the system."""
    left = math.inf
    for group, (limit, used, cached) in _groups(root):
        try:
            most = (group / limit).read_text(encoding="ascii").strip()
            if most == "max":
                continue
            free = int(most) - int((group / used).read_text(encoding="ascii"))
            lines = (line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            left = min(left, max(0, free + sum(int(value) for name, value in lines if name == cached)))
        except (OSError, ValueError):
            continue  # a group that cannot be seen from here, or has no limits
    return left


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's groups that may limit memory, each with those above it, and how their files are named."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        inside = Path(path.strip("/"))
        for folder in (inside, *inside.parents):  # in a container the innermost may be the only one there, under the name of the root
            yield root / "sys/fs/cgroup" / ("memory" if controllers else "") / folder, VERSION_1 if controllers else VERSION_2
