"""Several heads: what each is asked, the next token's as plain causal_lm's, and speculation that writes exactly the greedy text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.model.generate import generate, speculate
from ingot.model.graph import Model

LAYER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}


def model(objective: str = "multi_token", position: str | None = None, **knobs: Any) -> Model:
    wiring = {"width": 16, "vocabulary": 40, "sequence": 64, "linear": spec("nn.linear", "dense"), "specials": {"end": 0}}
    encoder = spec(
        "model.encoder", "transformer", depth=3, mixer={"name": "attention", "heads": 2} | ({"position": None} if position else {})
    ).build(**wiring)
    embedding = spec("nn.embedding", "token", **({"position": position} if position else {})).build(**wiring)
    found = Model(embedding=embedding, encoder=encoder, objective=spec("objective", objective, **knobs).build(**wiring)).double()
    found.compute_dtype = torch.float64
    spec("model.init", "normal", std=0.3).build().apply(found, 0)
    return found.eval()


def test_targets_stay_within_documents_and_the_first_head_is_causal_lm() -> None:
    found, plain = model(heads=3, layer=LAYER), model("causal_lm")
    tokens = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    segments = torch.ones(2, 12, dtype=torch.int32)
    segments[:, 7:], segments[1, 10:] = 2, 0
    given = {"tokens": tokens, "segments": segments, "rows": torch.arange(2), "key": torch.tensor(1)}
    prepared = found.objective.prepare(given)
    assert prepared["targets_3"][0].tolist() == [*tokens[0, 3:7].tolist(), -100, -100, -100, *tokens[0, 10:].tolist(), -100, -100, -100]
    assert prepared["units/ahead_3"].tolist() == [6, 4]
    plain.load_state_dict({name: value for name, value in found.state_dict().items() if "further" not in name})
    losses = found(prepared)
    torch.testing.assert_close(losses["cross_entropy"], plain(plain.objective.prepare(given))["cross_entropy"])
    assert list(losses) == ["cross_entropy", "ahead_2", "ahead_3"]


@pytest.mark.parametrize("position", [None, "learned"])
def test_speculation_is_greedy_and_takes_fewer_forwards(position: str | None) -> None:
    found = model(position=position, heads=4, layer=LAYER)
    rows = (torch.arange(64) % 4 + 3)[None].expand(4, -1)  # easy to look ahead in
    given = found.objective.prepare({"tokens": rows, "rows": torch.arange(4), "key": torch.tensor(1)})
    optimizer = torch.optim.AdamW(found.parameters(), lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        sum(loss.sum() for loss in found(given).values()).backward()
        optimizer.step()
    calls: list[int] = []
    for prompt, end in (([3, 4, 5], None), ([9, 9, 21, 30, 7], None), ([4], 6)):
        wanted = list(generate(found, prompt, max_new=24, temperature=0, end=end))
        handle = found.encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
        assert list(speculate(found, prompt, max_new=24, end=end)) == wanted
        handle.remove()
        if prompt == [3, 4, 5]:
            assert len(wanted) == 24 and len(calls) <= 12


def test_speculation_with_heads_that_know_nothing_is_greedy_too() -> None:
    found = model(heads=3, layer=LAYER)
    for prompt in ([1], [5, 6, 7, 8], list(range(1, 20))):
        assert list(speculate(found, prompt, max_new=15)) == list(generate(found, prompt, max_new=15, temperature=0))


def test_refusals() -> None:
    with pytest.raises(UserError, match="multi_token model"):
        list(speculate(model("causal_lm"), [1], max_new=2))
    assert any(
        "causal_lm" in message for message in spec("objective", "multi_token", layer=LAYER).target.check({"heads": 1, "layer": LAYER}, {})
    )
    knobs = spec("objective", "multi_token", heads=8, layer=LAYER).knobs
    assert ["none 8 ahead" in message for message in load("objective", "multi_token").check(knobs, {"sequence": 8})] == [True]
    assert not list(load("objective", "multi_token").check(knobs, {"sequence": 9}))
