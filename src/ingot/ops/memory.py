"""Memory that a process frees stays with the process.

The C library hands large freed blocks back to the kernel and takes fresh pages for the next ones; each fresh page costs a fault
and is zeroed. A training step allocates and frees the same hundreds of megabytes over and over, and above 32 MiB the library
maps every block anew, so on virtual machines the faults can cost more than the arithmetic on the block.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # parameter numbers of mallopt, from malloc.h


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks (up to 1 GiB each) for reuse; call once at the start of a process that trains on a CPU.

    Resident memory then stays at its peak instead of falling between steps. Returns False, and does nothing, where the C library
    is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_MMAP_THRESHOLD, 2**30), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 64 * 2**20)])
