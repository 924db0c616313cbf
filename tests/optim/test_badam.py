"""BAdam: one block at a time, each by a fresh Adam; nothing is computed or kept for the others, and a resumed run trains the same block."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ingot
from ingot.core.resolve import spec


class Stack(nn.Module):
    """Three blocks between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Linear(5, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(x)


def make(model: nn.Module, **knobs: Any) -> Any:
    named = list(model.named_parameters())
    groups = [{"params": [weight for _, weight in named], "names": [f"encoder.{name}" for name, _ in named]}]
    return spec("optim", "badam", **{"lr": 0.01, "every": 3} | knobs).build(params=groups)


def closure_of(model: nn.Module, seen: list[set[str]] | None = None) -> Any:
    x, y = torch.randn(16, 5, generator=torch.Generator().manual_seed(1)), torch.randn(16, 2, generator=torch.Generator().manual_seed(2))

    def closure() -> Tensor:
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        if seen is not None:
            seen.append({name for name, weight in model.named_parameters() if weight.grad is not None})
        return loss

    return closure


def block(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("blocks") else "rest"


def test_one_block_moves_and_only_it_has_gradients_and_state() -> None:
    model, seen, moved = Stack(), [], []
    optimizer, closure = make(model), closure_of(model, seen)
    for step in range(12):
        before = copy.deepcopy(model.state_dict())
        optimizer.step(closure)
        moved.append({block(name) for name, value in model.state_dict().items() if not torch.equal(value, before[name])})
        kept = {name for name, weight in model.named_parameters() if optimizer.state.get(weight)}
        assert kept == (set() if step % 3 == 2 else seen[-1]), "state is dropped when the period ends"
        assert all(weight.requires_grad for weight in model.parameters()), "frozen only while the gradient is taken"
    assert [{block(name) for name in names} for names in seen] == moved and all(len(names) == 1 for names in moved)
    visited = [next(iter(names)) for names in moved]
    assert all(len(set(visited[start : start + 3])) == 1 for start in (0, 3, 6, 9))
    assert set(visited) == {"rest", "blocks.0", "blocks.1", "blocks.2"}, "a pass visits every block once"


@pytest.mark.parametrize(
    ("order", "wanted"),
    [("ascending", ["rest", "blocks.0", "blocks.1", "blocks.2"]), ("descending", ["blocks.2", "blocks.1", "blocks.0", "rest"])],
)
def test_every_visit_is_a_fresh_adam_on_the_block(order: str, wanted: list[str]) -> None:
    model, twin = Stack(), Stack()
    optimizer, closure, other = make(model, order=order, weight_decay=0.1, betas=[0.8, 0.9]), closure_of(model), closure_of(twin)
    for name in [*wanted, wanted[0]]:
        chosen = [weight for key, weight in twin.named_parameters() if block(key) == name]
        adam = torch.optim.AdamW(chosen, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
        for _ in range(3):
            optimizer.step(closure)
            other()
            adam.step()
            for weight, reference in zip(model.parameters(), twin.parameters()):
                torch.testing.assert_close(weight, reference, rtol=1e-5, atol=1e-7)


def test_order_follows_from_the_seed_and_the_pass() -> None:
    def visits(seed: int) -> list[str]:
        model = Stack()
        optimizer, found = make(model, every=1, seed=seed), []
        for _ in range(16):
            found += optimizer.active()
            optimizer.step(closure_of(model))
        return found

    assert visits(3) == visits(3) != visits(4)
    passes = [tuple(visits(3)[start : start + 4]) for start in (0, 4, 8, 12)]
    assert len(set(passes)) > 1 and all(len(set(once)) == 4 for once in passes)


def test_resumed_in_the_middle_of_a_period_it_trains_the_same_block() -> None:
    straight = Stack()
    optimizer = make(straight)
    for _ in range(4):
        optimizer.step(closure_of(straight))
    resumed = copy.deepcopy(straight)
    other = make(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(6):
        optimizer.step(closure_of(straight))
        other.step(closure_of(resumed))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters()))


def test_a_step_that_is_skipped_is_not_counted() -> None:
    model = Stack()
    optimizer = make(model, every=1)
    before = optimizer.active()

    def stop() -> None:
        raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            optimizer.step(stop)
    assert optimizer.active() == before and all(weight.requires_grad for weight in model.parameters())


def test_state_bytes_are_those_of_the_block() -> None:
    model = Stack()
    optimizer = make(model)
    optimizer.step(closure_of(model))
    held = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    trained = [
        weight
        for name, weight in model.named_parameters()
        if f"encoder.{name}".startswith(tuple(optimizer.active())) or (block(name) == "rest" and optimizer.active() == {"rest"})
    ]
    assert (
        held
        == sum(2 * weight.nbytes + 4 for weight in trained)
        == sum(optimizer.state_bytes(tuple(weight.shape), weight.dtype) for weight in trained)
    )


def test_a_run_spends_less_on_upper_blocks_and_holds_one_blocks_gradients(tiny_recipe: Any) -> None:
    patch = {
        "stages": {0: {"budget": "4 steps", "optimizer": {"name": "badam", "lr": 0.003, "every": 1, "order": "descending"}}},
        "evaluate": {"every": "100%", "rows": 2},
    }
    run = ingot.build(tiny_recipe(patch))
    run.train()
    lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    sizes = {index: sum(weight.nbytes for weight in run.model.encoder.blocks[index].parameters()) for index in (0, 1)}
    rest = sum(weight.nbytes for weight in run.model.parameters()) - sum(sizes.values())
    assert [line["memory"]["gradients"] for line in steps] == [sizes[1], sizes[0], rest, sizes[1]]
    flops = [line["step_flops"] for line in steps]
    # backward ends at the block; the embedding's own gradient is no product of matrices, but the tied head's is
    assert flops[0] < flops[1] and flops[0] < flops[2] and flops[3] == flops[0]
