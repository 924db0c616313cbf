"""The real graph, with dropout and masking: the gradient of a window does not depend on accumulation, ranks or layout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.resolve import spec
from ingot.train.step import forward_backward

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}
ROWS, LENGTH, VOCABULARY, WIDTH = 11, 12, 67, 16
OBJECTIVES = {
    "causal": spec("objective", "causal_lm"),
    "masked": spec("objective", "masked_lm", mask=3, rate=0.4, tied=False, bias=True, transform="layer"),
}


def build(objective: str, dtype: torch.dtype) -> Any:
    from ingot.model.graph import Model

    wiring = {"width": WIDTH, "vocabulary": VOCABULARY, "sequence": LENGTH, "specials": {}, "linear": spec("nn.linear", "dense")}
    encoder = spec("model.encoder", "transformer", depth=2, dropout=0.1, mixer={"name": "attention", "heads": 2}).build(**wiring)
    model = Model(embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=OBJECTIVES[objective].build(**wiring))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    model.compute_dtype = dtype
    return model.to(dtype)


def micro_batches(rank: int, ranks: int, accumulation: int) -> list[dict[str, Tensor]]:
    """This rank's contiguous share of packed rows, the last micro-batch padded."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(4, VOCABULARY, (ROWS, LENGTH), generator=generator)
    segments = torch.where(torch.arange(LENGTH) < torch.arange(3, 3 + ROWS)[:, None] % LENGTH, 1, 2).int()
    segments[-2:] = 0  # nothing scored
    positions = torch.arange(LENGTH).expand(ROWS, LENGTH) - torch.where(segments == 2, (segments == 1).sum(dim=1, keepdim=True), 0)
    whole = {
        "rows": torch.arange(ROWS),
        "source": torch.zeros(ROWS, dtype=torch.int64),
        "tokens": tokens,
        "segments": segments,
        "positions": positions,
    }
    size = math.ceil(math.ceil(ROWS / ranks) / accumulation)
    mine = torch.tensor_split(torch.arange(ROWS), ranks)[rank]
    result = []
    for index in range(accumulation):
        rows = mine[index * size : (index + 1) * size]
        padding = size - len(rows)
        part = {key: torch.cat([value[rows], torch.zeros(padding, *value.shape[1:], dtype=value.dtype)]) for key, value in whole.items()}
        if padding:
            part["rows"][-padding:] = -1
        result.append(part | {"key": torch.tensor(9)})
    return result


def gradients(objective: str, dtype: torch.dtype, layout: Any, accumulations: tuple[int, ...]) -> dict[str, Tensor]:
    model = layout.shard(build(objective, dtype), dtype)
    found = {}
    for accumulation in accumulations:
        model.zero_grad(set_to_none=True)
        window = [model.objective.prepare(micro) for micro in micro_batches(layout.rank, layout.ranks, accumulation)]
        forward_backward(model, window, layout, {})
        for name, gradient in whole({name: parameter.grad for name, parameter in model.named_parameters()}).items():
            found[f"{objective}/{dtype}/{accumulation}/{name}"] = gradient
    return found


def whole(found: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of tensors; slices of several ranks are put together in one exchange, since many small ones take long on a busy machine."""
    if not any(hasattr(value, "to_local") for value in found.values()):
        return {name: value.clone() for name, value in found.items()}
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, {name: value.to_local() for name, value in found.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in found}


def task(layout: Any, folder: Path, argument: str) -> dict[str, Tensor]:
    return {
        name: value
        for objective in OBJECTIVES
        for dtype in TOLERANCE
        for name, value in gradients(objective, dtype, layout, (1, 2, 5)).items()
    }


@pytest.mark.parametrize(("layout", "ranks"), [("single", 1), ("replicate", 2), ("fsdp", 2)])
def test_same_gradient(run_ranks: Any, layout: str, ranks: int) -> None:
    alone = spec("parallel.layout", "single").build()
    found = task(alone, Path(), "") if layout == "single" else run_ranks("task", layout, ranks)
    for objective in OBJECTIVES:
        for dtype, tolerance in TOLERANCE.items():
            for name, value in gradients(objective, dtype, alone, (1,)).items():
                assert value.norm() > 0, name
                for accumulation in (1, 2, 5):
                    other = found[name.replace("/1/", f"/{accumulation}/")]
                    difference = float((other - value).norm() / value.norm())
                    assert difference <= tolerance, f"{name} x{accumulation} differs by {difference:.1e}"
