"""What every hook keeps at its three moments, and that its state resumes to the bit."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch

from ingot.train.state import State

SLOTS = ["hook"]


def setup(case: Any, tiny_model: Any, dtype: torch.dtype = torch.float32) -> State:
    model = tiny_model(None, dtype)
    state = State(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.01))
    another = tiny_model(None, dtype, seed=3)
    state.attach_hooks({case.name: case.build(batch_rows=8, sequence=12, open_model=lambda path: another)})
    return state


def step(state: State, window: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """What the loop does with a hook in a step; returns what the hook logged."""
    (hook,) = state.hooks.values()
    if hasattr(hook, "select"):
        window = hook.select(state, window)
        assert window and all({"rows", "units"} <= micro.keys() for micro in window)
    state.optimizer.zero_grad()
    for micro in window:
        sum(loss.sum() for loss in state.model(micro).values()).div(micro["units"].sum()).backward()
    logged = dict(hook.grads(state) or {}) if hasattr(hook, "grads") else {}
    state.optimizer.step()
    state.progress.advance(rows=8, tokens=96, flops=1.0, seconds=0.1, epochs=0.1)
    if hasattr(hook, "stepped"):
        hook.stepped(state, {"kind": "step"})
    return logged


def windows(state: State, batch_of: Any) -> list[list[dict[str, torch.Tensor]]]:
    return [
        [state.model.objective.prepare(batch_of(range(start, start + 4))) for start in (8 * step_, 8 * step_ + 4)] for step_ in range(6)
    ]


def everything(state: State) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.tensors().items()}


def test_has_a_moment(case: Any) -> None:
    assert any(hasattr(case.build(), moment) for moment in ("select", "grads", "stepped"))


def test_resumes_to_the_bit(case: Any, tiny_model: Any, batch_of: Any) -> None:
    straight = setup(case, tiny_model)
    stream = windows(straight, batch_of)
    logs = []
    for index, window in enumerate(stream):
        logs.append(step(straight, window))
        if index == 2:
            saved, plain = everything(straight), json.loads(json.dumps(straight.plain()))
            progress = copy.deepcopy(straight.progress.as_dict())
    resumed = setup(case, tiny_model)
    receivers = resumed.receivers({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in saved.items()}, plain)
    with torch.no_grad():
        for name, tensor in receivers.items():
            tensor.copy_(saved[name])
    resumed.restore(receivers, plain, progress, [])
    assert [step(resumed, window) for window in stream[3:]] == logs[3:]
    wanted, found = everything(straight), everything(resumed)
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert straight.plain()["hooks"] == resumed.plain()["hooks"]
    for one, other in zip(straight.hooks.values(), resumed.hooks.values(), strict=True):  # what a hook does not save cannot be seen above
        if hasattr(one, "averaged"):
            with one.averaged(straight.model), other.averaged(resumed.model):
                averages = zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True)
                assert not [name for (name, mine), other_ in averages if not torch.equal(mine, other_)]


def test_logs_numbers_and_keeps_the_model_whole(case: Any, tiny_model: Any, batch_of: Any) -> None:
    for dtype in (torch.float32, torch.float64):
        state = setup(case, tiny_model, dtype)
        names, generator = dict(state.model.named_parameters()).keys(), torch.get_rng_state()
        for window in windows(state, batch_of)[:3]:
            logged = step(state, window)
            assert all(isinstance(float(value), float) for value in logged.values())
        assert dict(state.model.named_parameters()).keys() == names
        assert all(parameter.dtype == dtype and parameter.isfinite().all() for parameter in state.model.parameters())
        assert torch.equal(generator, torch.get_rng_state())


def test_an_average_gives_the_weights_back(case: Any, tiny_model: Any, batch_of: Any) -> None:
    state = setup(case, tiny_model)
    (hook,) = state.hooks.values()
    for window in windows(state, batch_of):
        step(state, window)
    if not hasattr(hook, "averaged"):
        return
    before = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    with hook.averaged(state.model):
        assert any(not torch.equal(before[name], parameter) for name, parameter in state.model.named_parameters())
    assert all(torch.equal(before[name], parameter) for name, parameter in state.model.named_parameters())
