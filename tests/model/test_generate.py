"""Generation: the cache changes nothing, draws are what the distribution says, wrong requests are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.generate import choose, generate
from ingot.model.graph import Model


def build(objective: str = "causal_lm", position: str | None = None, **mixer: Any) -> Model:
    wiring = {"width": 32, "vocabulary": 50, "sequence": 16, "specials": {"mask": 0}, "linear": spec("nn.linear", "dense")}
    model = Model(
        embedding=spec("nn.embedding", "token", position=position).build(**wiring),
        encoder=spec("model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 4} | mixer, dropout=0.5).build(**wiring),
        objective=spec("objective", objective, tied=False).build(**wiring),
    )
    spec("model.init", "normal", std=0.2).build().apply(model, 0)
    return model


@pytest.mark.parametrize("mixer", [{}, {"kv_heads": 2, "window": 5}, {"softcap": 3.0, "scale": 0.5, "qk_norm": "rms"}])
def test_greedy_with_cache_equals_greedy_without(mixer: dict[str, Any]) -> None:
    model = build(**mixer)
    prompt = [3, 1, 4, 1, 5]
    for temperature in (0.0, 2.0):
        found = list(generate(model, prompt, max_new=30, temperature=temperature))
        assert found == list(generate(model, prompt, max_new=30, temperature=temperature, cached=False))
    assert len(found) == 30 and len(set(found)) > 10
    assert model.training


def test_a_stack_without_mixers_writes_without_a_cache() -> None:
    wiring = {"width": 32, "vocabulary": 50, "sequence": 16, "specials": {}, "linear": spec("nn.linear", "dense")}
    parts = {
        "embedding": spec("nn.embedding", "token"),
        "encoder": spec("model.encoder", "mlp", depth=2),
        "objective": spec("objective", "causal_lm"),
    }
    found = list(generate(Model(**{name: part.build(**wiring) for name, part in parts.items()}), [3, 1], max_new=5))
    assert len(found) == 5


def test_the_seed_decides() -> None:
    model = build()
    draws = [list(generate(model, [1], max_new=20, seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_stops_at_the_end_token() -> None:
    model = build()
    found = list(generate(model, [3, 1], max_new=20, temperature=0))
    cut = list(generate(model, [3, 1], max_new=20, temperature=0, end=found[4]))
    assert cut == found[: found.index(found[4])]


def test_draws_follow_the_distribution() -> None:
    scores, draws = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.Generator().manual_seed(0)

    def shares(**knobs: Any) -> torch.Tensor:
        return torch.bincount(torch.stack([choose(scores, draws, **knobs) for _ in range(4000)]), minlength=4) / 4000

    torch.testing.assert_close(shares(temperature=2.0), (scores / 2).softmax(0), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(temperature=1.0, top_k=2)[:2], scores[:2].softmax(0), atol=0.03, rtol=0)
    # The likeliest two hold 0.64 + 0.24, so a share of 0.7 keeps exactly them.
    torch.testing.assert_close(shares(temperature=1.0, top_p=0.7), torch.cat([scores[:2].softmax(0), torch.zeros(2)]), atol=0.03, rtol=0)
    assert shares(temperature=1.0, top_p=0.01)[0] == 1


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UserError, match="at least one token"):
        generate(build(), [], max_new=3)
    with pytest.raises(UserError, match="causal"):
        generate(build("masked_lm"), [1], max_new=3)
    with pytest.raises(UserError, match="16 positions"):
        generate(build(position="learned"), [1, 2], max_new=16)
    assert len(list(generate(build(position="learned"), [1, 2], max_new=15))) == 15
