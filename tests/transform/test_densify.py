"""Dense matrices in place of others: the same function, the state that can follow, and zeros that learn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ingot.core.parts import plain
from ingot.core.resolve import spec

PLAIN: dict[str, Any] = {
    "width": 16,
    "embedding": {"name": "token", "position": "learned", "norm": "rms"},
    "objective": {"name": "masked_lm", "rate": 0.4, "transform": "layer"},
    "encoder": {
        "name": "transformer",
        "depth": 2,
        "mixer": {"name": "attention", "heads": 2, "bias": True, "position": None},
        "feedforward": "swiglu",
        "norm": "rms",
    },
}
EXACT: dict[str, dict[str, Any]] = {
    "low_rank": {"rank": 4},
    "sltrain": {"rank": 4, "density": 0.2},
    "relora": {"rank": 4},
    "monarch": {},
    "sparse24": {},
    "static_sparse": {"sparsity": 0.6},
}


def tree_with(name: str) -> dict[str, Any]:
    tree = copy.deepcopy(PLAIN)
    tree["encoder"]["linear"] = {"name": name} | EXACT.get(name, {})
    return tree


@pytest.mark.parametrize("name", list(EXACT))
def test_the_function_stays(growth: Any, name: str) -> None:
    state = growth(tree_with(name))
    state.train(2)
    before = state.logits()
    (line,) = state.grow("densify")
    assert float((state.logits() - before).abs().max()) < 1e-10 and line["preserves"]
    assert {"weight", "bias"} == {key.rpartition(".")[2] for key in dict(state.model.named_parameters()) if ".mixer." in key}
    assert "linear" not in plain(state.graph)["encoder"] or plain(state.graph)["encoder"]["linear"] == {"name": "dense"}


def test_zeros_learn_and_momenta_are_carried(growth: Any) -> None:
    state = growth(tree_with("static_sparse"))
    state.train(4)
    mask = state.model.encoder.blocks[0].feedforward.up.mask.bool()
    moment = state.moments("exp_avg")["encoder.blocks.0.feedforward.up.weight"].clone()
    assert not moment[~mask].any() and moment[mask].all()
    state.grow("densify")
    weight = state.model.encoder.blocks[0].feedforward.up.weight
    assert torch.equal(state.moments("exp_avg")["encoder.blocks.0.feedforward.up.weight"], moment) and not weight[~mask].any()
    state.train(1)
    assert weight[~mask].all()


def test_factors_leave_no_state_behind(growth: Any) -> None:
    state = growth(tree_with("relora"))
    state.train(3)
    state.grow("densify")
    held = state.moments("exp_avg")
    assert held["embedding.weight"].any() and not any(
        value.any() for name, value in held.items() if ".mixer." in name and name.endswith("weight")
    )
    state.train(1)
    assert state.moments("exp_avg")["encoder.blocks.0.mixer.query.weight"].any()


@pytest.mark.parametrize("name", ["ternary", "quantized"])
def test_what_is_no_matrix_is_refused(growth: Any, name: str) -> None:
    with pytest.raises(ValueError, match="more than multiply"):
        spec("transform", "densify").build().graph(plain(growth(tree_with(name)).graph))
    with pytest.raises(ValueError, match="dense already"):
        spec("transform", "densify").build().graph(plain(growth(PLAIN).graph))
