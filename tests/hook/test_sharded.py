"""Hooks on two FSDP2 ranks do what they do on one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import ingot

WORKER = Path(__file__).with_name("_sharded_hooks.py")


def test_two_ranks_agree_with_one(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    results = []
    for ranks in (1, 2):
        result = tmp_path / f"result{ranks}"
        commands = [[sys.executable, str(WORKER), str(rank), str(ranks), str(tmp_path / f"store{ranks}"), str(result)] for rank in range(ranks)]
        processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
        errors = [process.communicate(timeout=120)[1] for process in processes]
        assert result.exists(), "\n".join(errors)
        results.append(torch.load(result, weights_only=True))
    one, two = results
    assert one["norms"].min() > 0.3  # it did clip
    torch.testing.assert_close(two["norms"], one["norms"], rtol=1e-6, atol=0)
    for moment in ("inside", "after"):
        for name, weight in one[moment].items():
            torch.testing.assert_close(two[moment][name], weight, rtol=1e-5, atol=1e-7)
    assert not torch.equal(one["inside"]["0.weight"], one["after"]["0.weight"])
