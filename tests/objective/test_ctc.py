"""CTC: the loss as a sum over all paths, rows without a path, what is heard."""

from __future__ import annotations

from itertools import groupby, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.core.resolve import spec


def build(T: int, **knobs: Any) -> Any:
    torch.manual_seed(0)
    embedding = SimpleNamespace(grid=lambda batch: (T,), lengths=lambda batch: batch["lengths"])
    return spec("objective", "ctc", **knobs).build(width=4, linear=spec("nn.linear", "dense"), vocabulary=2, embedding=embedding)


def asked(h: torch.Tensor) -> Any:
    return SimpleNamespace(encoded=lambda batch, causal, hide: (h, None))


def test_the_sum_over_paths() -> None:
    objective, h = build(4), 3 * torch.randn(1, 4, 4)
    batch = objective.prepare(
        {"rows": torch.tensor([0]), "key": torch.tensor(0), "lengths": torch.tensor([4]), "transcript": torch.tensor([[0, 0, -100]])}
    )
    p = objective.logits(None, h).softmax(dim=-1)[0]
    total = sum(
        float(torch.stack([p[t, a] for t, a in enumerate(path)]).prod())
        for path in product(range(3), repeat=4)
        if [a for a, _ in groupby(path) if a != 2] == [0, 0]
    )
    assert objective(asked(h), batch)["ctc"].item() == pytest.approx(-torch.tensor(total).log().item(), rel=1e-4)


def test_a_row_without_a_path_is_not_scored() -> None:
    objective, h = build(4), torch.randn(3, 4, 4)
    batch = {
        "rows": torch.tensor([0, 1, 2]),
        "key": torch.tensor(0),
        "lengths": torch.tensor([2, 3, 4]),
        "transcript": torch.tensor([[0, 0], [0, 0], [-100, -100]]),
    }
    found = objective.prepare(batch)
    assert found["units"].tolist() == [0, 2, 0]  # two equal ids need a blank between them
    assert objective(asked(h), found)["ctc"].isfinite().all() and objective(asked(h), found)["ctc"][[0, 2]].tolist() == [0, 0]


def test_width_transfer_scales_what_the_head_reads() -> None:
    objective, h = build(4), torch.randn(1, 4, 4)
    plain = objective.logits(None, h)
    objective.output_scale = 0.25
    torch.testing.assert_close(objective.logits(None, h) - objective.head.bias, 0.25 * (plain - objective.head.bias))


def test_what_is_heard() -> None:
    objective = build(6)
    with torch.no_grad():
        objective.head.weight.copy_(torch.eye(4)[:3])
        objective.head.bias.zero_()
    h = torch.eye(4)[torch.tensor([[0, 0, 2, 0, 1, 1], [2, 1, 2, 1, 0, 0]])]
    heard = objective.heard(asked(h), {"rows": torch.tensor([0, 1]), "lengths": torch.tensor([6, 4])})
    assert [[item for item in row if item >= 0] for row in heard.tolist()] == [[0, 0, 1], [1, 1]]
