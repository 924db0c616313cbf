"""Held-out loss: a mean over scored units, whatever the windows; padding rows do not count; training is not touched."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ingot.core.resolve import spec

VOCABULARY = 5


class Uniform:
    """An objective of known loss: every scored token costs log(5), and tokens are their own targets; 0 is not scored."""

    causal = True

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = batch["tokens"].masked_fill(batch["tokens"] == 0, -100)
        return batch | {"targets": targets, "units": (targets >= 0).sum(dim=1)}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.seen_training: list[bool] = []

    def forward(self, batch: dict[str, Tensor], *, ask: str) -> tuple[str, Tensor, Tensor]:
        assert ask == "measured"
        self.seen_training.append(self.dropout.training or torch.is_grad_enabled())
        return "main", batch["units"] * math.log(VOCABULARY) * self.weight, batch["units"]


def windows(sizes: list[int], tokens: Tensor, rows: Tensor) -> list[list[dict[str, Tensor]]]:
    return [[{"tokens": part, "rows": numbers}] for part, numbers in zip(tokens.split(sizes), rows.split(sizes))]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, VOCABULARY, (7, 11), generator=torch.Generator().manual_seed(0))
    return tokens, torch.tensor([0, 1, 2, 3, 4, 5, -1])


def evaluate(model: nn.Module, given: list[list[dict[str, Tensor]]], token_bytes: Tensor | None) -> dict[str, float]:
    evaluator = spec("evaluate", "loss").build(layout=spec("parallel.layout", "single").build())
    found: dict[str, float] = evaluator(model, windows=given, objective=Uniform(), token_bytes=token_bytes)
    return found


def test_loss_perplexity_and_bits_per_byte(batch: tuple[Tensor, Tensor]) -> None:
    tokens, rows = batch
    token_bytes = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = evaluate(Model(), windows([7], tokens, rows), token_bytes)
    scored = tokens[:6][tokens[:6] > 0]
    assert found["units"] == len(scored) and found["rows"] == 6
    assert found["loss"] == pytest.approx(math.log(VOCABULARY), rel=1e-6) and found["perplexity"] == pytest.approx(VOCABULARY, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(len(scored) * math.log2(VOCABULARY) / float(token_bytes[scored].sum()), rel=1e-6)


def test_windows_do_not_matter(batch: tuple[Tensor, Tensor]) -> None:
    whole, cut = (evaluate(Model(), windows(sizes, *batch), None) for sizes in ([7], [1, 2, 4]))
    assert cut == pytest.approx(whole, rel=1e-6) and "bits_per_byte" not in cut


def test_training_is_not_touched(batch: tuple[Tensor, Tensor]) -> None:
    model = Model()
    model.dropout.eval()
    evaluate(model, windows([7], *batch), None)
    assert model.seen_training == [False]
    assert model.training and not model.dropout.training and model.weight.grad is None and torch.is_grad_enabled()


def test_nothing_scored_is_not_a_number(batch: tuple[Tensor, Tensor]) -> None:
    tokens, rows = batch
    assert math.isnan(evaluate(Model(), windows([7], torch.zeros_like(tokens), rows), None)["loss"])
