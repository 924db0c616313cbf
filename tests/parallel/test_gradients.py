"""The gradient of a window does not depend on accumulation, ranks or layout. Gradients, because AdamW hides their scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}
ACCUMULATIONS = (1, 2, 5)
ROWS, LENGTH, VOCABULARY, WIDTH = 13, 6, 17, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.down(torch.tanh(self.up(self.norm(x_BTD))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x_BTD: Tensor) -> Tensor:
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)


class StandIn(nn.Module):
    """Tied head, blocks, a parameter whose first axis is smaller than the ranks, and one that only row 0 uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(VOCABULARY, WIDTH), Encoder()
        self.scale = nn.Parameter(torch.ones(1))
        self.rare = nn.Parameter(torch.full((WIDTH,), 0.1))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x_BTD = self.embedding(batch["tokens"])
        first = batch["rows"] == 0
        if bool(first.any()):  # the other ranks never see this parameter
            x_BTD = x_BTD + first[:, None, None].to(x_BTD.dtype) * self.rare
        logits_BTV = self.scale * self.encoder(x_BTD) @ self.embedding.weight.T
        loss_BT = nn.functional.cross_entropy(logits_BTV.transpose(1, 2), batch["targets"], ignore_index=-100, reduction="none")
        return {"loss": loss_BT.sum(dim=1)}


def window() -> dict[str, Tensor]:
    """Rows with uneven units; the last rows, a whole rank's share of four, have none."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    targets = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    for row in range(ROWS):
        targets[row, row % LENGTH + 1 :] = -100
    targets[-3:] = -100
    return {"rows": torch.arange(ROWS), "tokens": tokens, "targets": targets, "units": (targets >= 0).sum(dim=1)}


def micro_batches(batch: dict[str, Tensor], rank: int, ranks: int, accumulation: int) -> list[dict[str, Tensor]]:
    """This rank's contiguous share in `accumulation` micro-batches of equal size, the last padded with rows that do not count."""
    largest = -(-ROWS // ranks)
    micro = -(-largest // accumulation)
    mine = torch.tensor_split(torch.arange(ROWS), ranks)[rank]
    result = []
    for index in range(accumulation):
        rows = mine[index * micro : (index + 1) * micro]
        padding = micro - len(rows)
        part = {key: torch.cat([value[rows], torch.zeros(padding, *value.shape[1:], dtype=value.dtype)]) for key, value in batch.items()}
        if padding:
            part["rows"][-padding:], part["targets"][-padding:] = -1, -100
        result.append(part)
    return result


def gradients(model: nn.Module, layout: Any, accumulation: int) -> dict[str, Tensor]:
    """What the loop does with a window: sums divided once by the units of all ranks, accumulated, reduced."""
    micro = micro_batches(window(), layout.rank, layout.ranks, accumulation)
    units = layout.total(sum(part["units"].sum() for part in micro))
    for parameter in model.parameters():
        parameter.grad = None
    for index, part in enumerate(micro):
        with layout.syncing(index == len(micro) - 1):
            (model(part)["loss"].sum() / units).backward()
    layout.reduce()
    found = {"norm": layout.clip_norm(model.parameters())}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad.clone()
    return found


def build(dtype: torch.dtype) -> StandIn:
    torch.manual_seed(0)
    return StandIn().to(dtype)


def task(layout: Any, folder: Path, argument: str) -> dict[str, Tensor]:
    """All accumulations and dtypes on this layout; rank 1 starts from other weights where the layout must repair that."""
    found = {}
    for dtype in TOLERANCE:
        model = build(dtype)
        if argument == "replicate" and layout.rank:
            with torch.no_grad():
                model.scale.fill_(7.0)
        model = layout.shard(model, dtype)
        for accumulation in ACCUMULATIONS:
            found |= {f"{dtype}/{accumulation}/{name}": value for name, value in gradients(model, layout, accumulation).items()}
    assert layout.broadcast_object(layout.rank) == 0 and layout.gather(layout.rank) == list(range(layout.ranks))
    return found


def reference() -> dict[str, dict[str, Tensor]]:
    from ingot.core.resolve import spec

    layout = spec("parallel.layout", "single").build()
    return {str(dtype): gradients(layout.shard(build(dtype), dtype), layout, 1) for dtype in TOLERANCE}


def test_reference_against_torch() -> None:
    """The reference itself: a plain mean over scored units."""
    model, batch = build(torch.float64), window()
    (model(batch)["loss"].sum() / batch["units"].sum()).backward()
    found = reference()["torch.float64"]
    assert torch.equal(found["encoder.blocks.0.up.weight"], model.encoder.blocks[0].up.weight.grad)
    expected = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert abs(float(found["norm"] / expected) - 1) < 1e-12
    assert "unused" not in found


@pytest.mark.parametrize(("layout", "ranks"), [("replicate", 2), ("fsdp", 1), ("fsdp", 2), ("replicate", 4), ("fsdp", 4)])
def test_same_gradient(run_ranks: Any, layout: str, ranks: int) -> None:
    found = run_ranks("task", layout, ranks, layout)
    for dtype, tolerance in TOLERANCE.items():
        expected = reference()[str(dtype)]
        for accumulation in ACCUMULATIONS:
            prefix = f"{dtype}/{accumulation}/"
            mine = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
            if layout == "fsdp":
                assert not mine.pop("unused").any()
            assert set(mine) == set(expected)
            for name, value in expected.items():
                difference = float((mine[name] - value).norm() / value.norm())
                assert difference <= tolerance, f"{prefix}{name} differs by {difference:.1e}"


def test_accumulation_alone() -> None:
    from ingot.core.resolve import spec

    layout = spec("parallel.layout", "single").build()
    for dtype, tolerance in TOLERANCE.items():
        expected = reference()[str(dtype)]
        for accumulation in ACCUMULATIONS:
            mine = gradients(layout.shard(build(dtype), dtype), layout, accumulation)
            assert max(float((mine[name] - value).norm() / value.norm()) for name, value in expected.items()) <= tolerance
