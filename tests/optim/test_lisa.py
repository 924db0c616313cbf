"""LISA: embedding and head always, so many random layers at a time; drawn layers begin anew, and every layer is drawn as often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ingot.core.resolve import spec

LAYERS = 6


def weights() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    names = [
        "embedding.weight",
        *(f"encoder.blocks.{index}.weight" for index in range(LAYERS)),
        "encoder.norm.weight",
        "objective.head.weight",
    ]
    return {name: nn.Parameter(torch.randn(4)) for name in names}


def make(held: dict[str, nn.Parameter], **knobs: Any) -> Any:
    return spec("optim", "lisa", **{"lr": 0.01, "layers": 2, "every": 3} | knobs).build(
        params=[{"params": list(held.values()), "names": list(held)}]
    )


def closure_of(held: dict[str, nn.Parameter], seen: list[set[str]]) -> Any:
    def closure() -> Tensor:
        for weight in held.values():
            weight.grad = None
        loss = torch.stack(list(held.values())).square().sum()
        loss.backward()
        seen.append({name for name, weight in held.items() if weight.grad is not None})
        return loss

    return closure


def test_embedding_norm_and_head_are_always_trained_and_so_many_layers() -> None:
    held, seen, moved = weights(), [], []
    optimizer, closure = make(held), closure_of(held, seen)
    for _ in range(30):
        before = {name: weight.detach().clone() for name, weight in held.items()}
        optimizer.step(closure)
        moved.append({name for name, weight in held.items() if not torch.equal(weight, before[name])})
    assert seen == moved
    outside = {"embedding.weight", "encoder.norm.weight", "objective.head.weight"}
    assert all(names >= outside and len(names - outside) == 2 for names in moved)
    assert all(moved[start] == moved[start + 1] == moved[start + 2] for start in range(0, 30, 3))
    assert len({frozenset(names) for names in moved}) > 3, "the layers change"


def test_layers_begin_anew_and_the_outside_goes_on() -> None:
    held, seen = weights(), []
    optimizer, closure = make(held), closure_of(held, seen)
    for step in range(8):
        optimizer.step(closure)
        for name in seen[-1]:
            state = optimizer.state.get(held[name])
            if "blocks" not in name:
                assert float(state["step"]) == step + 1
            elif step % 3 == 2:
                assert not state, "a drawn layer's state is dropped with the draw"
            else:
                assert float(state["step"]) == step % 3 + 1
        assert {name for name, weight in held.items() if optimizer.state.get(weight)} <= seen[-1]


def test_trains_as_adamw_does() -> None:
    held, twin = weights(), weights()
    optimizer = make(held, layers=LAYERS, every=100, weight_decay=0.2)
    reference = torch.optim.AdamW(twin.values(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.2)
    for _ in range(10):
        optimizer.step(closure_of(held, []))
        closure_of(twin, [])()
        reference.step()
    for name, weight in held.items():
        torch.testing.assert_close(weight, twin[name], rtol=1e-6, atol=1e-8)


def test_every_layer_is_drawn_as_often() -> None:
    optimizer, drawn = make(weights(), every=1), Counter()
    for _ in range(3000):
        drawn.update(optimizer.active() - {"rest"})
        for group in optimizer.param_groups:
            group["turn"] += 1
    # 3,000 draws with probability 1/3: a deviation of 5 sigma is 129
    assert len(drawn) == LAYERS and all(abs(count - 1000) < 129 for count in drawn.values())


def test_the_meter_is_told_when_layers_of_other_sizes_are_drawn() -> None:
    names = ["embedding.weight", "encoder.blocks.0.weight", "encoder.blocks.1.weight", "encoder.blocks.2.weight"]
    held = {name: nn.Parameter(torch.zeros(size)) for name, size in zip(names, (3, 4, 4, 9))}
    optimizer, phases = make(held, layers=1, every=1), {}
    for _ in range(30):
        phases.setdefault(optimizer.phase, set()).update(optimizer.active() - {"rest"})
        for group in optimizer.param_groups:
            group["turn"] += 1
    assert sorted(map(sorted, phases.values())) == [["encoder.blocks.0", "encoder.blocks.1"], ["encoder.blocks.2"]]
