"""The hook that restarts factors: when, what it leaves alone, what it forgets, and that a run goes on as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import StopAt

import ingot
import ingot.ledger.machine
from ingot.build.check import check
from ingot.build.groups import parameter_groups
from ingot.core.resolve import spec
from ingot.hook.relora import keep_largest
from ingot.train.state import State

WIDTH, VOCABULARY = 16, 24
WORKER = Path(__file__).with_name("_sharded_relora.py")


def state_of(batch: Any, **knobs: Any) -> State:
    from ingot.model.graph import Model

    wiring = {"width": WIDTH, "vocabulary": VOCABULARY, "sequence": 12, "specials": {"end": 1}, "linear": spec("nn.linear", "dense")}
    encoder = spec(
        "model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, linear={"name": "relora", "rank": 4}
    ).build(**wiring)
    model = Model(
        embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=spec("objective", "causal_lm").build(**wiring)
    ).double()
    model.compute_dtype = torch.float64
    initializer = spec("model.init", "normal").build()
    initializer.apply(model, seed=1)
    optimizer = spec("optim", "adamw", lr=0.01, weight_decay=0.0).build(params=parameter_groups(model, initializer))
    state = State(model=model, optimizer=optimizer)
    state.attach_hooks({"relora": spec("hook", "relora", every=3, **knobs).build()})
    return state


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, VOCABULARY, (4, 12), generator=generator)
    rows = torch.arange(4)
    return {
        "rows": rows,
        "source": rows * 0,
        "tokens": tokens,
        "segments": torch.ones_like(tokens).int(),
        "positions": torch.arange(12).expand(4, -1),
        "key": torch.tensor(5),
    }


def step(state: State, batch: dict[str, torch.Tensor]) -> None:
    micro = state.model.objective.prepare(batch)
    state.optimizer.zero_grad()
    sum(loss.sum() for loss in state.model(micro).values()).div(micro["units"].sum()).backward()
    state.optimizer.step()
    state.progress.advance(rows=4, tokens=48, flops=1.0, seconds=0.1)


def logits(state: State, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return state.model.logits(state.model.encode(batch, causal=True)).detach()


def test_restarts_every_interval_and_changes_no_logit(batch: Any) -> None:
    state = state_of(batch)
    query = state.model.encoder.blocks[0].mixer.query
    for number in range(1, 7):
        step(state, batch)
        before, weight, right = logits(state, batch), query.weight.detach().clone(), query.right.detach().clone()
        state.hooks["relora"].stepped(state, {})
        torch.testing.assert_close(logits(state, batch), before, rtol=0, atol=1e-10)
        assert torch.equal(weight, query.weight) == torch.equal(right, query.right) == bool(number % 3)
        assert bool(query.left.any()) == bool(number % 3)


def test_forgets_the_factors_state_and_nothing_else(batch: Any) -> None:
    state = state_of(batch)
    for _ in range(3):
        step(state, batch)
    before = {
        name: state.optimizer.state[weight]["exp_avg_sq"].clone() for name, weight in state.model.named_parameters() if weight.requires_grad
    }
    state.hooks["relora"].stepped(state, {})
    for name, weight in state.model.named_parameters():
        if weight.requires_grad:
            held = state.optimizer.state[weight]
            if name.endswith(("left", "right")):
                assert not held["exp_avg"].any() and not held["exp_avg_sq"].any() and held["step"] == 0, name
            else:
                assert torch.equal(held["exp_avg_sq"], before[name]) and held["step"] == 3, name


def test_pruning_keeps_the_largest_moments(batch: Any) -> None:
    state = state_of(batch, prune=0.75)
    for _ in range(3):
        step(state, batch)
    query = state.model.encoder.blocks[1].mixer.query
    before = state.optimizer.state[query.left]["exp_avg"].clone()
    state.hooks["relora"].stepped(state, {})
    after = state.optimizer.state[query.left]["exp_avg"]
    kept = after != 0
    assert int(kept.sum()) == after.numel() // 4 and torch.equal(after[kept], before[kept])
    assert float(before[kept].abs().min()) >= float(before[~kept].abs().max()) and state.optimizer.state[query.left]["step"] == 3


def test_keep_largest() -> None:
    values = torch.tensor([[3.0, -1.0], [-4.0, 2.0]])
    keep_largest(values, 0.5)
    assert values.tolist() == [[3.0, 0.0], [-4.0, 0.0]]
    keep_largest(values, 0.0)
    assert not values.any()


def test_factors_differ_between_restarts_and_layers(batch: Any) -> None:
    state = state_of(batch)
    seen = []
    for _ in range(2):
        for _ in range(3):
            step(state, batch)
        state.hooks["relora"].stepped(state, {})
        seen += [
            module.right.detach().clone()
            for module in state.model.modules()
            if hasattr(module, "restart") and module.right.shape == (4, 16)
        ]
    assert all(not torch.equal(a, b) for index, a in enumerate(seen) for b in seen[index + 1 :])


def test_a_model_without_factors_is_refused(tiny_recipe: Any) -> None:
    found = check(tiny_recipe({"stages": {0: {"hooks": [{"name": "relora", "every": 4}]}}}))[1]
    assert any("no layer of the model has factors" in problem.message for problem in found)


def test_a_run_is_resumed_to_the_bit_across_a_restart(tiny_recipe: Any, any_speed: None) -> None:
    ends = []
    for name, stop in (("straight", None), ("broken", StopAt(3)), ("broken", None)):
        patch = {
            "model": {"encoder": {"linear": {"name": "relora", "rank": 4}}},
            "evaluate": {"every": "100%", "rows": 2},
            "stages": {
                0: {
                    "budget": "5 steps",
                    "hooks": ["clip", {"name": "relora", "every": 2}],
                    "schedule": {"lr": {"name": "jagged", "every": "2 steps"}},
                }
            },
        }
        run = ingot.build(tiny_recipe(patch, name=name))
        run.train(stop)
        ends.append({key: value.clone() for key, value in run.model.state_dict().items()})
    assert all(torch.equal(ends[0][key], ends[2][key]) for key in ends[0]) and not torch.equal(
        ends[0]["embedding.weight"], ends[1]["embedding.weight"]
    )


def test_two_sharded_ranks_restart_as_one(one_and_two: Any) -> None:
    one, two = one_and_two(WORKER)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-10, atol=1e-12)
