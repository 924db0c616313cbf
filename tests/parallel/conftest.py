"""A fixture that runs a function of the test's own file on several ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Ranks = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def run_ranks(request: pytest.FixtureRequest, tmp_path: Path, repository: Path) -> Ranks:
    """run_ranks(function name, layout, ranks, argument="") -> what rank 0 returned; fails when it left nothing."""

    def run(function: str, layout: str, ranks: int, argument: str = "") -> dict[str, torch.Tensor]:
        result = tmp_path / "result.safetensors"
        result.unlink(missing_ok=True)
        command = [
            sys.executable,
            str(repository / "tests/parallel/worker.py"),
            f"{request.path}:{function}",
            str(tmp_path),
            layout,
            str(ranks),
            argument,
        ]
        path = os.pathsep.join(filter(None, [str(repository / "src"), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=240)
        assert result.exists(), f"no result from {ranks} ranks:\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        return load_file(result)

    return run
