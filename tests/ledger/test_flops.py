"""The real model against the closed form, per component: 6 N tokens for the matrices, and attention over the pairs the mask allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ingot.core.resolve import spec
from ingot.ledger.flops import FlopCount
from ingot.model.graph import Model
from ingot.ops import flops

WIDTH, DEPTH, HEADS, VOCABULARY, ROWS, LENGTH = 64, 3, 4, 512, 2, 96
flops.register()


def build(kv_heads: int, tied: bool, sequence: int = LENGTH) -> Model:
    shared = {"width": WIDTH, "sequence": sequence, "vocabulary": VOCABULARY, "specials": {}, "linear": spec("nn.linear", "dense")}
    mixer = {"name": "attention", "heads": HEADS, "kv_heads": kv_heads}
    encoder = spec("model.encoder", "transformer", depth=DEPTH, mixer=mixer, feedforward="swiglu")
    return Model(
        embedding=spec("nn.embedding", "token").build(**shared),
        encoder=encoder.build(**shared),
        objective=spec("objective", "causal_lm", tied=tied).build(**shared),
    )


def batch(model: Model) -> dict[str, Tensor]:
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % VOCABULARY
    return model.objective.prepare(
        {
            "tokens": tokens,
            "rows": torch.arange(ROWS),
            "key": torch.tensor(0),
            "segments": torch.ones(ROWS, LENGTH, dtype=torch.int32),
            "positions": torch.arange(LENGTH).expand(ROWS, LENGTH),
        }
    )


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_dense_transformer_costs_its_closed_form(kv_heads: int, tied: bool, checkpointing: bool) -> None:
    model = build(kv_heads, tied)
    model.encoder.checkpointing = "full" if checkpointing else "none"
    with FlopCount(model) as count:
        torch.stack([loss.sum() for loss in model(batch(model)).values()]).sum().backward()
    tokens = ROWS * LENGTH
    matrices = sum(weight.numel() for weight in model.encoder.parameters() if weight.dim() == 2)
    pairs = ROWS * HEADS * LENGTH * (LENGTH + 1) // 2
    encoder = 6 * matrices * tokens + DEPTH * 3 * 4 * pairs * (WIDTH // HEADS)
    scored = ROWS * (LENGTH - 1)
    assert count.by_component["encoder"] == pytest.approx(encoder, rel=0.01)
    assert count.by_component["objective"] == pytest.approx(6 * WIDTH * VOCABULARY * scored, rel=0.01)
    assert count.total == pytest.approx(encoder + 6 * WIDTH * VOCABULARY * scored, rel=0.01)
    assert (count.recomputed > 0) == checkpointing
