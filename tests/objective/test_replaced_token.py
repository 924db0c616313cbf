"""What is replaced: how many, by guesses drawn from the generator, and called replaced only where the guess is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.graph import Model

GENERATOR = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}
SPECIALS = {"end": 0, "mask": 1}


def model(vocabulary: int = 50, **knobs: Any) -> Model:
    wiring = {"width": 16, "vocabulary": vocabulary, "sequence": 64, "linear": spec("nn.linear", "dense"), "specials": SPECIALS}
    encoder = spec("model.encoder", "transformer", depth=1, mixer={"name": "attention", "heads": 2}).build(**wiring)
    found = Model(
        embedding=spec("nn.embedding", "token").build(**wiring),
        encoder=encoder,
        objective=spec("objective", "replaced_token", **knobs).build(**wiring),
    )
    spec("model.init", "normal", std=0.3).build().apply(found, 0)
    return found


def batch(rows: int = 32, vocabulary: int = 50) -> dict[str, Tensor]:
    tokens = torch.randint(0, vocabulary, (rows, 64), generator=torch.Generator().manual_seed(0))
    segments = torch.ones(rows, 64, dtype=torch.int32)
    segments[1::2, 40:] = 0
    return {"tokens": tokens * (segments > 0), "segments": segments, "rows": torch.arange(rows), "key": torch.tensor(3)}


@pytest.mark.parametrize("knobs", [{"generator": GENERATOR, "generator_width": 8}, {}, {"contexts": 4}])
def test_a_right_guess_is_not_called_replaced(knobs: dict[str, Any]) -> None:
    found, given = model(rate=0.3, **knobs), batch()
    prepared = found.objective.prepare(given)
    allowed = (given["segments"] > 0) & (given["tokens"] > 1)
    assert torch.equal(prepared["units/generator"], (allowed.sum(1) * 0.3).round().long())
    _, _, replaced = found.objective._losses(found, prepared)
    chosen = torch.zeros_like(replaced).scatter(1, prepared["chosen"], prepared["wanted"] >= 0)
    assert not (replaced & ~chosen).any() and not (chosen & ~allowed).any() and replaced.any()

    right = found.objective.corrupted(prepared, prepared["wanted"].clamp(min=0))
    assert torch.equal(right, given["tokens"])
    found.objective._from_table = found.objective._sampled = lambda *_: prepared["wanted"].clamp(min=0)
    _, scores, none = found.objective._losses(found, prepared)
    assert not none.any()
    expected = 50 * (torch.nn.functional.softplus(scores) * (given["segments"] > 0)).sum(1)
    torch.testing.assert_close(found(prepared)["detection"], expected)


def test_guesses_follow_the_generator() -> None:
    """Drawn often enough, every token comes as often as the generator's probability says."""
    found = model(vocabulary=12, rate=0.5, generator=GENERATOR, generator_width=8)
    one = {name: value[:1] if value.dim() else value for name, value in found.objective.prepare(batch(vocabulary=12)).items()}
    h = found.objective.generated(found, one).detach()
    weight = found.embedding.weight.detach()
    probabilities = (h[0, 0] @ weight.T).softmax(0)
    draws = (torch.arange(4000) + 0.5).reshape(4000, 1).expand(-1, h.shape[1]) / 4000
    drawn = torch.cat([found.objective._sampled(h, weight, draws[i : i + 1]) for i in range(0, 4000, 10)])[:, 0]
    assert float((drawn.bincount(minlength=12) / 400 - probabilities).abs().max()) < 0.01


def test_the_table_learns_what_follows_what() -> None:
    found = model(rate=0.3, contexts=7).train()
    rows = torch.stack([torch.arange(64) % 2 * 3 + 5] * 8)  # 5 8 5 8 ...
    given = {"tokens": rows, "segments": torch.ones_like(rows, dtype=torch.int32), "rows": torch.arange(8), "key": torch.tensor(3)}
    prepared = found.objective.prepare(given)
    found(prepared)
    found.objective.counted({"tokens": found.objective.side["count/tokens"] * 1000})
    inputs = found.objective.corrupted(prepared, found.objective._from_table(prepared))
    assert float((inputs == rows).float().mean()) > 0.99
    assert found.objective.counts.sum() == 1000 * 8 * 64 and "objective.counts" in found.state_dict()
    found.eval()
    found.objective.side = None
    found(prepared)
    assert found.objective.side is None


def test_detection_leaves_the_generator_alone() -> None:
    found = model(generator=GENERATOR, generator_width=8)
    found(found.objective.prepare(batch()))["detection"].sum().backward()
    assert all(parameter.grad is None for parameter in found.objective.generator.parameters())


def test_refusals() -> None:
    with pytest.raises(UserError, match="no mask token"):
        spec("objective", "replaced_token", generator=GENERATOR).build(
            width=16, vocabulary=20, linear=spec("nn.linear", "dense"), specials={}
        )
    knobs = spec("objective", "replaced_token", generator=GENERATOR, generator_width=7, contexts=2).knobs
    assert len(list(spec("objective", "replaced_token").target.check(knobs, {"width": 16}))) == 2
