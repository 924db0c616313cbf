"""``ingot`` commands as processes that need not import torch: forks of a server that has done so.

    python tests/_warm.py SOCKET

A command is a process of its own, with its own arguments, environment, folder, standard streams and exit status; what a fresh interpreter
imports, it finds imported. Where the import itself is the matter (tests/house/test_instant.py), start an interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(call).to_bytes(8, "little")], [0, 1, 2])
    server.sendall(call)
    status = server.recv(1)
sys.exit(status[0] if status else 1)
"""


@contextlib.contextmanager
def server(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A running server, and the program that stands for ``ingot``: FOLDER/ingot."""
    place = folder / "socket"
    (folder / "ingot").write_text(CLIENT.format(python=sys.executable, place=str(place)))
    (folder / "ingot").chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, str(place)], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield folder / "ingot"
        process.kill()


def serve(place: str) -> list[str]:
    """Answers calls for ever; returns in a child alone, with the arguments of its call."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        os.write(1, b"ready\n")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
        while True:
            call, _ = listener.accept()
            with call:
                if os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _answer(call)


def _answer(call: socket.socket) -> list[str]:
    """Forks the command, returning in it; tells its exit status, or ends it where the caller has gone."""
    size, streams, _, _ = socket.recv_fds(call, 8, 3)
    text = b""
    while len(text) < int.from_bytes(size, "little"):
        text += call.recv(1 << 20)
    arguments, folder, environment = json.loads(text)
    child = os.fork()
    if child == 0:
        call.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return list(arguments)
    for stream in streams:
        os.close(stream)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if select.select([call], [], [], 0.01)[0]:
            os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(ended[1])
    with contextlib.suppress(BrokenPipeError):
        call.sendall(bytes([status if status >= 0 else 128 - status]))
    os._exit(0)


if __name__ == "__main__":
    from _forked import preload

    preload()
    from ingot.cli import main

    words = serve(sys.argv[1])
    sys.exit(main(words))
