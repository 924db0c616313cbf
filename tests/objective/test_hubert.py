"""HuBERT's loss by hand from the paper's equations; which frames a code belongs to; how much is masked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ingot.core.resolve import spec
from ingot.objective._masking import stretches


class Fixed:
    """An embedding of T positions, a stride of 2 values each."""

    reads, stride = ("waveform",), 2

    def grid(self, batch: dict[str, torch.Tensor]) -> tuple[int, ...]:
        return (batch["waveform"].shape[1] // 2,)

    def lengths(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["lengths"] // 2


def build(**knobs: Any) -> Any:
    torch.manual_seed(0)
    return spec("objective", "hubert", clusters=3, units=2, **knobs).build(width=4, linear=spec("nn.linear", "dense"), embedding=Fixed())


def test_the_loss_by_hand() -> None:
    """Equations 1 and 3: softmax over cosines at temperature 0.1; masked frames and the others weighed apart."""
    objective = build(masked=0.75, unmasked=0.25)
    h = torch.randn(1, 4, 4)
    model = SimpleNamespace(encoded=lambda batch, causal, hide: (h, None))
    batch = {"masked": torch.tensor([[True, False, True, False]]), "targets": torch.tensor([[2, 0, 1, -100]])}
    losses = objective(model, batch)
    A, b, e = (value.detach().numpy().astype(np.float64) for value in (objective.head.weight, objective.head.bias, objective.units.weight))
    expected = {True: 0.0, False: 0.0}
    for t, code in enumerate((2, 0, 1)):
        o = A @ h[0, t].numpy() + b
        similar = np.array([o @ unit / (np.linalg.norm(o) * np.linalg.norm(unit)) for unit in e]) / 0.1
        expected[bool(batch["masked"][0, t])] += float(np.log(np.exp(similar).sum()) - similar[code])
    assert losses["masked"].item() == pytest.approx(0.75 * expected[True], rel=1e-4)
    assert losses["unmasked"].item() == pytest.approx(0.25 * expected[False], rel=1e-4)


def test_weights_that_are_scheduled_weigh() -> None:
    objective, h = build(masked=1.0, unmasked=0.5), torch.randn(1, 4, 4)
    model = SimpleNamespace(encoded=lambda batch, causal, hide: (h, None))
    batch = {"masked": torch.tensor([[True, False, True, False]]), "targets": torch.tensor([[2, 0, 1, -100]])}
    before = objective(model, batch)["unmasked"]
    objective.unmasked = 0.25
    torch.testing.assert_close(objective(model, batch)["unmasked"], before / 2)


def test_codes_twice_as_dense_are_taken_where_a_position_begins() -> None:
    batch = {
        "rows": torch.arange(2),
        "key": torch.tensor(1),
        "waveform": torch.zeros(2, 40),
        "lengths": torch.tensor([40, 30]),
        "codes": torch.arange(40).repeat(2, 1) % 3,
    }
    found = build(unmasked=1.0).prepare(batch)
    assert found["targets"][0].tolist() == [2 * t % 3 for t in range(20)]
    assert (found["targets"][1, 15:] == -100).all() and not found["masked"][1, 15:].any()
    alone = build().prepare(batch)
    assert torch.equal(alone["targets"] >= 0, alone["masked"]) and torch.equal(alone["units"], alone["masked"].sum(dim=1))


def test_how_much_is_masked() -> None:
    """Starts at a share of 8 % in stretches of ten mask about half of the positions (wav2vec 2.0, appendix A: 49 % for 6.5 %)."""
    rows, length = torch.arange(200), torch.full((200,), 500)
    mask = stretches({"rows": rows, "key": torch.tensor(0)}, 500, length, 0.65, 10, 2, "x")
    assert float(mask.float().mean()) == pytest.approx(0.49, abs=0.02)
    edges = mask.int().diff(dim=1, prepend=torch.zeros(200, 1, dtype=torch.int32), append=torch.zeros(200, 1, dtype=torch.int32))
    runs = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
    assert int(runs.min()) == 10
    short = stretches({"rows": rows, "key": torch.tensor(0)}, 500, torch.full((200,), 6), 0.65, 10, 1, "x")
    assert not short[:, 6:].any() and short.any(dim=1).all() and float(short[:, :6].float().mean()) < 0.8


def test_evaluations_report_masked_positions_before_the_weight() -> None:
    objective, h = build(masked=0.75, unmasked=0.25), torch.randn(1, 4, 4)
    model = SimpleNamespace(encoded=lambda batch, causal, hide: (h, None))
    batch = {"masked": torch.tensor([[True, False, True, False]]), "targets": torch.tensor([[2, 0, 1, -100]])}
    name, loss, units = objective.measured(model, batch | {"units": torch.tensor([3]), "units/masked": torch.tensor([2])})
    assert name == "masked" and units.tolist() == [2]
    torch.testing.assert_close(0.75 * loss, objective(model, batch)["masked"])
