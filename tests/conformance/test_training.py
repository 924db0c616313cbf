"""Every optimizer through a whole short run: it trains, resumes to the bit, and accumulation changes nothing but rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _runs import StopAt, lines, weights

import ingot

SLOTS = ["optim"]


@pytest.fixture
def run(case: Any, tiny_recipe: Any, any_speed: None) -> Any:
    """run(name, stop=None, **recipe) -> a run of six steps, trained."""

    def train(name: str, stop: int | None = None, **changes: Any) -> Any:
        patch = {
            "stages": {0: {"budget": "6 steps", "optimizer": case.spec(lr=0.003).data()}},
            "evaluate": {"every": "100%", "rows": 2},
            "checkpoint": {"every": "100%"},
        }
        built = ingot.build(tiny_recipe(patch, changes, name=name))
        built.train(StopAt(stop) if stop else None)
        return built

    return train


def steps(run: Any) -> list[dict[str, Any]]:
    return [{key: line[key] for key in ("step", "rows", "tokens", "flops", "loss", "lr", "grad_norm")} for line in lines(run, "step")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_and_resumes_to_the_bit(run: Any, precision: str) -> None:
    straight = run("straight", precision=precision, micro_rows=3)
    run("broken", stop=2, precision=precision, micro_rows=3)
    resumed = run("broken", precision=precision, micro_rows=3)
    wanted, found = weights(straight), weights(resumed)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert steps(straight) == steps(resumed) and len(steps(straight)) == 6
    assert all(parameter.dtype == torch.float32 for parameter in straight.model.parameters())
    assert steps(straight)[-1]["loss"] < steps(straight)[0]["loss"]


def test_accumulation_changes_nothing_but_rounding(run: Any) -> None:
    whole, split = (weights(run(f"micro{micro}", precision="fp64", micro_rows=micro)) for micro in (8, 3))
    for name, value in whole.items():
        assert float((split[name] - value).norm() / value.norm()) < 1e-6, name
