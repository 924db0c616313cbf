"""A mixture of experts with its side losses: gradients, loads and moved biases are those of one process, on two ranks and under sharding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.resolve import spec
from ingot.train.step import forward_backward

ROWS, LENGTH, VOCABULARY, WIDTH, EXPERTS = 7, 12, 31, 16, 4
MIXTURES: dict[str, dict[str, Any]] = {
    "top_k": {"router": {"name": "top_k", "top_k": 2, "jitter": 0.1}, "capacity_factor": 1.0},
    "bias_balanced": {"router": {"name": "bias_balanced", "top_k": 2, "rate": 0.1}, "shared": {"name": "gelu", "hidden": 8}},
    "expert_choice": {"router": "expert_choice"},
}
SIDES = {"top_k": {"balance": 0.5, "router_z": 0.1}, "bias_balanced": {"balance": 0.5}, "expert_choice": {"router_z": 0.1}}


def build(name: str) -> Any:
    from ingot.model.graph import Model

    wiring = {"width": WIDTH, "vocabulary": VOCABULARY, "sequence": LENGTH, "specials": {}, "linear": spec("nn.linear", "dense")}
    feedforward = {"name": "moe", "experts": EXPERTS, "expert": {"name": "swiglu", "hidden": 8}} | MIXTURES[name]
    encoder = spec("model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, feedforward=feedforward).build(
        **wiring
    )
    objective = spec("objective", "masked_lm", mask=3, rate=0.4) if name == "expert_choice" else spec("objective", "causal_lm")
    model = Model(embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=objective.build(**wiring))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.dim() == 1))
    model.compute_dtype = torch.float64
    return model.double()


def micro_batches(rank: int, ranks: int, size: int) -> list[dict[str, Tensor]]:
    """This rank's contiguous share of packed rows, in micro-batches of a size; all ranks have as many."""
    tokens = torch.randint(4, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(5))
    segments = torch.where(torch.arange(LENGTH) < 3 + torch.arange(ROWS)[:, None], 1, 2).int()
    segments[2, 9:] = 0
    mine = torch.tensor_split(torch.arange(ROWS), ranks)[rank]
    count = math.ceil(math.ceil(ROWS / ranks) / size)
    result = []
    for index in range(count):
        rows = mine[index * size : (index + 1) * size]
        chosen = torch.cat([rows, torch.zeros(size - len(rows), dtype=torch.int64)])
        there = (torch.arange(size) < len(rows))[:, None]
        positions = torch.arange(LENGTH).expand(size, -1)
        result.append(
            {
                "rows": torch.where(there[:, 0], chosen, -1),
                "source": torch.zeros(size, dtype=torch.int64),
                "tokens": tokens[chosen] * there,
                "segments": segments[chosen] * there.int(),
                "positions": positions,
                "key": torch.tensor(9),
            }
        )
    return result


def measured(name: str, layout: Any, size: int) -> dict[str, Tensor]:
    """Gradients, loads and what the layers made of them."""
    model = layout.shard(build(name), torch.float64)
    window = [model.objective.prepare(micro) for micro in micro_batches(layout.rank, layout.ranks, size)]
    passed = forward_backward(model, window, layout, SIDES[name])
    found = {}
    for path, parameter in model.named_parameters():
        gradient = parameter.grad
        found[f"gradient {path}"] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()
    for path, counts in sorted(passed.counts.items()):
        totals = {key: layout.total(value) for key, value in sorted(counts.items())}
        found |= {f"count {path}.{key}": value.double() for key, value in totals.items()}
        model.get_submodule(path).counted(totals)
    found |= {f"buffer {path}": buffer.clone() for path, buffer in model.named_buffers() if path.endswith("router.bias")}
    return {f"{name} {key}": value for key, value in found.items()}


def task(layout: Any, folder: Path, argument: str) -> dict[str, Tensor]:
    return {key: value for name in MIXTURES for key, value in measured(name, layout, int(argument)).items()}


@pytest.mark.parametrize(("layout", "ranks", "size"), [("single", 1, 2), ("replicate", 2, 2), ("fsdp", 2, 3)])
def test_same_as_one_process(run_ranks: Any, layout: str, ranks: int, size: int) -> None:
    alone = spec("parallel.layout", "single").build()
    wanted = task(alone, Path(), str(ROWS))
    found = task(alone, Path(), str(size)) if layout == "single" else run_ranks("task", layout, ranks, str(size))
    assert wanted.keys() == found.keys() and any("router.bias" in key for key in wanted)
    for key, value in wanted.items():
        difference = float((found[key] - value).norm() / value.norm().clamp(min=1e-300))
        assert difference <= 1e-12, f"{key} differs by {difference:.1e}"
