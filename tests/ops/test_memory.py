from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_used_again_without_faults() -> None:
    """In a process of its own, since the setting is for the whole process: blocks of 64 MiB soon touch no new page."""
    program = """
import resource, torch
from ingot.ops.memory import keep_freed_memory
assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(15):
    torch.zeros(2**26, dtype=torch.uint8).add_(1)
before = faults()
torch.zeros(2**26, dtype=torch.uint8).add_(1)
print(faults() - before)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 1000  # of the 16384 pages of 4 KiB
