"""Ranks of one process group as forks of a process that has imported torch already."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable


def forked(ranks: int, main: Callable[[int], None]) -> list[int]:
    """Process ids of the forks, each of which runs main(rank) and ends; what main does not catch goes to standard error, with status 1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    children = []
    for rank in range(ranks):
        child = os.fork()
        if not child:
            os.environ |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                main(rank)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        children.append(child)
    return children


def finish(children: list[int]) -> None:
    """Wait for all of them."""
    for child in children:
        os.waitpid(child, 0)
