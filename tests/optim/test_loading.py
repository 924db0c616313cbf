"""State with a dtype of its own (codes, scales, counts) comes through state dicts to the bit, whatever is around its optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.axes import Axes
from ingot.core.resolve import spec

CODED = {"name": "adam8bit", "lr": 0.01, "smallest": 0}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam8bit": CODED,
    "sam of adam8bit": {"name": "sam", "inner": CODED},
    "muon beside adam4bit": {"name": "muon", "lr": 0.01, "rest": CODED | {"name": "adam4bit"}},
    "sam of muon": {"name": "sam", "inner": {"name": "muon", "lr": 0.01, "rest": CODED}},
    "schedule_free": {"name": "schedule_free", "lr": 0.013},
    "sgd_sai": {"name": "sgd_sai", "lr": 0.01},
}


def made(chosen: dict[str, Any], dtype: torch.dtype) -> tuple[list[nn.Parameter], Any]:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((24, 40), (16, 24), (24,))]
    axes = [Axes(("vocabulary", "width"), "embedding"), Axes(("hidden", "width"), "matrix"), Axes(("width",), "scale")]
    knobs = {key: value for key, value in chosen.items() if key != "name"}
    return weights, spec("optim", chosen["name"], **knobs).build(params=[{"params": weights, "names": ["a", "b", "c"], "axes": axes}])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_loaded_as_it_was_saved(name: str, dtype: torch.dtype) -> None:
    weights, optimizer = made(OPTIMIZERS[name], dtype)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    others, loaded = made(OPTIMIZERS[name], dtype)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    kinds = {value.dtype for held in optimizer.state.values() for value in held.values()}
    assert dtype in kinds and (len(kinds) > 1 or dtype == torch.float32)
    for weight, other in zip(weights, others, strict=True):
        held, found = optimizer.state[weight], loaded.state[other]
        assert held.keys() == found.keys() and all(held[key].dtype == found[key].dtype for key in held)
        assert all(torch.equal(held[key], found[key]) for key in held)
