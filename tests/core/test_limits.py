"""Processors and memory that a process may use, next to those that the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from ingot.core.limits import cores, memory_left

GIB = 1 << 30


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_processors_are_those_of_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


def group(folder: Path, names: tuple[str, str], limit: str, used: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, str(used), stat)):
        (folder / name).write_text(text + "\n")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path


def test_version_2_counts_the_groups_above_too_and_cached_files_as_free(system: Path) -> None:
    (system / "proc/self/cgroup").write_text("0::/outer/inner\n")
    names, place = ("memory.max", "memory.current"), system / "sys/fs/cgroup"
    group(place / "outer/inner", names, "max", GIB, "anon 1")
    assert memory_left(system) == math.inf
    group(place / "outer", names, str(8 * GIB), 5 * GIB, f"anon 7\ninactive_file {2 * GIB}\nactive_file {GIB}")
    assert memory_left(system) == 5 * GIB
    group(place / "outer/inner", names, str(4 * GIB), 6 * GIB, f"inactive_file {GIB}")
    assert memory_left(system) == 0, "a limit that was lowered"


def test_version_1_in_a_container_that_sees_only_its_own_group(system: Path) -> None:
    (system / "proc/self/cgroup").write_text("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n")
    names, place = ("memory.limit_in_bytes", "memory.usage_in_bytes"), system / "sys/fs/cgroup/memory"
    group(place, names, str(3 * GIB), 2 * GIB, f"inactive_file 5\ntotal_inactive_file {GIB}")
    assert memory_left(system) == 2 * GIB


def test_a_system_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_left(tmp_path) == math.inf
    assert memory_left() >= 0
