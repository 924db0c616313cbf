"""Every source with its own objective: its rows and no others, in any mixture of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.graph import Model
from ingot.parallel.layout.single import Single
from ingot.train.step import forward_backward

SPECIALS = {"end": 0, "mask": 1}


def model(objectives: dict[str, Any], feedforward: Any = "gelu") -> Model:
    wiring = {"width": 16, "vocabulary": 40, "sequence": 32, "linear": spec("nn.linear", "dense"), "specials": SPECIALS}
    layers = {"mixer": {"name": "attention", "heads": 2}, "feedforward": feedforward}
    encoder = spec("model.encoder", "transformer", depth=1, **layers).build(**wiring)
    found = Model(
        embedding=spec("nn.embedding", "token").build(**wiring),
        encoder=encoder,
        objective=spec("objective", "by_source", objectives=objectives).build(**wiring),
    )
    spec("model.init", "normal", std=0.2).build().apply(found, 0)
    return found


def batch(source: list[int]) -> dict[str, torch.Tensor]:
    count = len(source)
    tokens = torch.randint(2, 40, (8, 32), generator=torch.Generator().manual_seed(0))[:count]
    segments = torch.ones(count, 32, dtype=torch.int32)
    return {"tokens": tokens, "segments": segments, "rows": torch.arange(count), "source": torch.tensor(source), "key": torch.tensor(4)}


def test_rows_are_scored_by_their_own() -> None:
    found = model({"books": "causal_lm", "notes": "masked_lm"})
    source = [0, 1, 1, 0, 0, 1, 0, 1]
    prepared = found.objective.prepare(batch(source))
    seen: list[int] = []
    found.encoder.register_forward_hook(lambda module, given, output: seen.append(output.shape[0]))
    losses = found(prepared)
    assert seen == [4, 4]
    for index, (name, item) in enumerate(found.objective.objectives.items()):
        mine = torch.tensor(source) == index
        own = item.prepare(batch(source))
        alone = item(found, own)["cross_entropy"]
        torch.testing.assert_close(losses[f"{name}/cross_entropy"], alone * mine)
        assert torch.equal(prepared[f"units/{name}"], own["units"] * mine)
    assert torch.equal(prepared["units"], prepared["units/books"] + prepared["units/notes"])
    found.eval()
    torch.testing.assert_close(found(prepared)["own"], sum(losses.values()))


def test_a_batch_without_rows_of_a_source_still_runs_its_objective() -> None:
    found = model({"books": "causal_lm", "notes": {"name": "masked_lm", "tied": False}})
    losses = found(found.objective.prepare(batch([0, 0, 0])))
    assert losses["books/cross_entropy"].min() > 0 and not losses["notes/cross_entropy"].any()
    sum(loss.sum() for loss in losses.values()).backward()
    head = found.objective.objectives["notes"].head.weight
    assert head.grad is not None and not head.grad.any()


def test_refusals() -> None:
    with pytest.raises(UserError, match="plain word"):
        model({"a-b": "causal_lm"})


def test_routers_are_given_each_row_once() -> None:
    router = {"name": "top_k", "top_k": 2}
    moe = {"name": "moe", "experts": 4, "expert": {"name": "gelu", "hidden": 8}, "router": router}
    found = model({"books": "causal_lm", "notes": "causal_lm"}, moe)
    alone = model({"books": "causal_lm"}, moe)
    alone.load_state_dict(found.state_dict(), strict=False)
    for source in ([0, 1, 1, 0, 0, 1, 0, 1], [0, 0, 0]):
        sides = [
            forward_backward(one, [one.objective.prepare(batch(where))], Single(), {"balance": 0.1, "router_z": 0.1})
            for one, where in ((found, source), (alone, [0] * len(source)))
        ]
        torch.testing.assert_close(sides[0].side, sides[1].side)
        assert sides[0].counts.keys() == sides[1].counts.keys() and len(sides[0].counts) == 1
        torch.testing.assert_close(sides[0].counts, sides[1].counts)


def test_units_are_those_of_the_loss_that_is_reported() -> None:
    found = model({"books": "causal_lm", "notes": {"name": "replaced_token", "weight": 7.0}}).eval()
    given = found.objective.prepare(batch([0, 1, 1, 0]))
    _, loss, units = found.objective.measured(found, given)
    assert torch.equal(loss, found(given)["own"]) and units.tolist() == [31, 32, 32, 31] and (loss[1:3] / units[1:3] < 5).all()
