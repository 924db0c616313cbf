"""Processes as forks of one that has imported torch already: ranks of one process group, commands (_warm.py)."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable

import torch._dynamo  # noqa: F401  what optimizers load when they are made


def preload() -> None:
    """Import all of Ingot. No thread starts, which a fork would lose."""
    import ingot

    for module in pkgutil.walk_packages(ingot.__path__, "ingot."):
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(module.name)
    assert threading.active_count() == 1


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
