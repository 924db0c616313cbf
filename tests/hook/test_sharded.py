"""Hooks on two FSDP2 ranks do what they do on one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORKER = Path(__file__).with_name("_sharded_hooks.py")


def test_two_ranks_agree_with_one(one_and_two: Any) -> None:
    one, two = one_and_two(WORKER)
    assert one["norms"].min() > 0.3  # it did clip
    torch.testing.assert_close(two["norms"], one["norms"], rtol=1e-6, atol=0)
    for moment in ("inside", "after"):
        for name, weight in one[moment].items():
            torch.testing.assert_close(two[moment][name], weight, rtol=1e-5, atol=1e-7)
    assert not torch.equal(one["inside"]["0.weight"], one["after"]["0.weight"])
