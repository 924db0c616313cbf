"""Nested sub-networks: each is the model cut off, rows draw them evenly, whatever the micro-batches and ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ingot
from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.objective.nested import _Part
from ingot.parallel.layout.single import Single
from ingot.train.step import forward_backward

LAYER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}
NESTED = {"name": "nested", "objective": "causal_lm", "depths": [1, 2], "shares": [0.5]}


def model_of(depth: int = 4, hidden: int = 64, objective: Any = NESTED, feedforward: Any = None) -> Any:
    tree = {
        "width": 16,
        "embedding": "token",
        "objective": objective,
        "encoder": {
            "name": "transformer",
            "depth": depth,
            "mixer": {"name": "attention", "heads": 2},
            "feedforward": feedforward or {"name": "gelu", "hidden": hidden},
        },
    }
    graph = resolve(Recipe(tree), Graph)
    model = build_model(graph, vocabulary=24, sequence=12, specials={"end": 1}, dtype=torch.float64).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.3 + (parameter.dim() == 1))
    return model


def batch_of(model: Any, rows: range | list[int] = range(64)) -> dict[str, torch.Tensor]:
    numbers = torch.tensor(list(rows))
    tokens = (numbers[:, None] * 5 + torch.arange(12) * (1 + numbers[:, None] % 3)) % 24
    prepared: dict[str, torch.Tensor] = model.objective.prepare({"rows": numbers, "tokens": tokens, "key": torch.tensor(9)})
    return prepared


@pytest.mark.parametrize(("depth", "share"), [(1, 1.0), (2, 0.5), (None, 0.5), (None, 1.0)])
def test_a_sub_network_is_the_model_cut_off(depth: int | None, share: float) -> None:
    model = model_of().eval()
    small = model_of(depth or 4, int(64 * share), "causal_lm").eval()
    whole, held = dict(model.named_parameters()), dict(small.named_parameters())
    with torch.no_grad():
        for name, parameter in held.items():
            parameter.copy_(whole[name][tuple(slice(size) for size in parameter.shape)])
    batch = batch_of(model)
    with torch.no_grad(), model.objective.only(depth, share):
        torch.testing.assert_close(model(batch)["cross_entropy"], small(batch)["cross_entropy"], rtol=1e-12, atol=1e-12)


def test_rows_draw_sub_networks_evenly_and_train_just_theirs() -> None:
    model = model_of()
    batch = batch_of(model, range(3000))
    choice = model.objective._draw(batch)
    counts = choice.bincount(minlength=6)
    assert len(counts) == 6 and float((counts - 500).abs().max()) < 100
    few = batch_of(model)
    losses = model(few)["cross_entropy"]
    for index, (depth, share) in enumerate(model.objective.subnetworks):
        rows = model.objective._draw(few) == index
        with model.objective.only(depth, share):
            torch.testing.assert_close(losses[rows], model(few)["cross_entropy"][rows], rtol=1e-12, atol=1e-12)


def test_early_rows_leave_no_gradient_in_late_blocks() -> None:
    model = model_of()
    with model.objective.only(1):
        model(batch_of(model))["cross_entropy"].sum().backward()
    assert model.encoder.blocks[0].mixer.query.weight.grad.norm() > 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.encoder.blocks[1].parameters())
    model.zero_grad()
    with model.objective.only(None, 0.5):
        model(batch_of(model))["cross_entropy"].sum().backward()
    gradient = model.encoder.blocks[3].feedforward.up.weight.grad
    assert gradient[:32].norm() > 0 and not gradient[32:].any()


def test_micro_batches_change_nothing() -> None:
    found = []
    for parts in ([range(16)], [[3, 1, 2], [0], list(range(4, 16))]):
        model = model_of()
        for rows in parts:
            model(batch_of(model, rows))["cross_entropy"].sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other if other is not None else torch.zeros_like(one), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["full"])
def test_recomputed_activations_are_cut_alike(mode: str) -> None:
    found = []
    for checkpointing in ("none", mode):
        model = model_of()
        model.encoder.checkpointing = checkpointing
        model(batch_of(model))["cross_entropy"].sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_another_objective_is_not_cut() -> None:
    model, plain = model_of(), model_of(objective="causal_lm")
    model(batch_of(model))
    batch = batch_of(plain)
    model.set_objective(plain.objective)
    torch.testing.assert_close(model(batch)["cross_entropy"], plain(batch)["cross_entropy"], rtol=0, atol=0)


def test_a_run_trains_all_of_them_and_reports_each(tiny_recipe: Any) -> None:
    objective = {"objective": {"name": "nested", "depths": [1], "shares": [0.5]}}
    run = ingot.build(tiny_recipe({"model": objective, "stages": {0: {"budget": "30 steps"}}, "evaluate": {"every": "100%"}}))
    results = run.train()["evaluation"]["left"]
    assert {"loss", "loss_depth_1", "loss_share_0.5", "loss_depth_1_share_0.5"} <= results.keys()
    assert all(results[name] < 4.5 for name in results if name.startswith("loss"))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"depths": [2]}, "not smaller than the encoder"),
        ({}, "no sub-network is named"),
        ({"shares": [1.5]}, "at most 1"),
        ({"objective": {"name": "masked_lm", "mask": 3, "late": 1}, "depths": [1]}, "leave early"),
        ({"objective": {"name": "multi_token", "heads": 2, "layer": LAYER}, "depths": [1]}, "past any sub-network"),
    ],
)
def test_refusals(tiny_recipe: Any, knobs: dict[str, Any], words: str) -> None:
    _, problems = check(tiny_recipe({"model": {"objective": {"name": "nested", **knobs}}}))
    assert any(words in problem.message for problem in problems)


def test_shares_inside_of_others_are_refused(tiny_recipe: Any) -> None:
    inner = {"name": "nested", "shares": [0.5]}
    for objective, refused in ((inner, False), ({"name": "weighted", "objectives": {"a": inner}}, True)):
        _, problems = check(tiny_recipe({"model": {"objective": objective}}))
        assert any("outermost" in problem.message for problem in problems) == refused


MOE = {"name": "moe", "experts": 4, "expert": {"name": "gelu", "hidden": 8}, "router": {"name": "top_k", "top_k": 2}}


def test_a_router_is_balanced_over_the_rows_that_it_saw() -> None:
    found = []
    for parts in ([range(16)], [[3, 1, 2], [0], list(range(4, 16))]):
        model = model_of(objective={"name": "nested", "depths": [1]}, feedforward=MOE)
        found.append(forward_backward(model, [batch_of(model, rows) for rows in parts], Single(), {"balance": 0.5}))
        found[-1].gradient = model.encoder.blocks[3].feedforward.router.weight.grad
    torch.testing.assert_close(found[0].side, found[1].side)
    torch.testing.assert_close(found[0].gradient, found[1].gradient)
    stay = int((model.objective._draw(batch_of(model, range(16))) == 1).sum())
    assert [counts["routed"] for counts in found[0].counts.values()] == [2 * 12 * rows for rows in (16, stay, stay, stay)]


@pytest.mark.parametrize("objective", [{"name": "by_source", "objectives": {"a": "causal_lm", "b": "causal_lm"}}, "causal_lm"])
def test_each_row_draws_for_itself_whatever_is_inside(objective: Any) -> None:
    model = model_of(objective={"name": "nested", "objective": objective, "depths": [1, 2]})
    losses = model(batch_of(model, range(8)) if objective == "causal_lm" else model.objective.prepare(sourced(range(8))))
    plain = model_of()
    plain.objective.depths, plain.objective.shares = [1, 2], [1.0]
    torch.testing.assert_close(sum(losses.values()), plain(batch_of(plain, range(8)))["cross_entropy"])


def sourced(rows: range) -> dict[str, torch.Tensor]:
    model = model_of(objective="causal_lm")
    batch = batch_of(model, rows)
    return {key: batch[key] for key in ("rows", "tokens", "key")} | {"source": batch["rows"] % 2}


def test_the_inner_objective_may_hide_positions_and_ask_a_tower() -> None:
    model = model_of().train()
    batch = batch_of(model, range(8)) | {"masked": torch.arange(12).expand(8, -1) < 4}
    part = _Part(model, model.objective)
    vector = torch.full((16,), 0.7, dtype=torch.float64)
    with model.objective.only():
        torch.testing.assert_close(part.encode(batch, causal=False, hide=vector), model.encode(batch, causal=False, hide=vector))
    whole = model.encoded(batch, causal=True)[0]
    assert torch.equal(part.encoded(batch, causal=True, tower=model)[0], whole)
    assert not torch.equal(part.encode(batch, causal=True), whole)


def test_a_share_of_the_hidden_layer_is_exact() -> None:
    model = model_of(hidden=100, objective={"name": "nested", "shares": [0.3, 0.07]})
    with model.objective.only(None, 0.3):
        model(batch_of(model))
    prefix = next(iter(model.encoder.blocks[0].feedforward.down._forward_pre_hooks.values()))
    assert set(prefix.counts_B.tolist()) == {30}


def test_what_is_counted_is_counted_once() -> None:
    model = model_of(objective={"name": "nested", "objective": "replaced_token", "depths": [1]})
    counts = forward_backward(model, [batch_of(model, range(4))], Single(), {}).counts
    assert list(counts) == ["objective.objective"]


def test_flops_are_those_of_the_rows_that_leave_early(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, tiny_recipe: Any) -> None:
    """Steps whose draws differ are not filed under the first one's figure."""
    from ingot.ledger.meter import Meter

    changes = {
        "model": {"encoder": {"depth": 6}, "objective": {"name": "nested", "objective": "causal_lm", "depths": [1]}},
        "stages": {0: {"budget": "12 steps", "batch": "8 rows"}},
    }
    told = ingot.build(tiny_recipe(changes, name="told")).train()["flops"]
    counting = Meter.counting
    monkeypatch.setattr(Meter, "counting", lambda self, model, key: counting(self, model, key, cache=False))
    counted = ingot.build(tiny_recipe(changes, name="counted")).train()["flops"]
    assert told == pytest.approx(counted, rel=0.01)
