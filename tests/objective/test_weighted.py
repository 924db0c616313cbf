"""Several objectives at once: each as if by itself, times its weight, divided by its own units."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.graph import Model
from ingot.parallel.layout.single import Single
from ingot.train.step import forward_backward, loss_units

SPECIALS = {"end": 0, "mask": 1}
ELECTRA = {
    "name": "replaced_token",
    "generator": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}},
    "generator_width": 8,
}


def model(feedforward: Any = "gelu", **knobs: Any) -> Model:
    wiring = {"width": 16, "vocabulary": 40, "sequence": 32, "linear": spec("nn.linear", "dense"), "specials": SPECIALS}
    layers = {"mixer": {"name": "attention", "heads": 2}, "feedforward": feedforward}
    encoder = spec("model.encoder", "transformer", depth=1, **layers).build(**wiring)
    found = Model(
        embedding=spec("nn.embedding", "token").build(**wiring),
        encoder=encoder,
        objective=spec("objective", "weighted", **knobs).build(**wiring),
    )
    spec("model.init", "normal", std=0.2).build().apply(found, 0)
    return found


def batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(2, 40, (4, 32), generator=torch.Generator().manual_seed(0))
    return {
        "tokens": tokens,
        "segments": torch.ones(4, 32, dtype=torch.int32),
        "rows": torch.arange(4),
        "source": torch.zeros(4, dtype=torch.int64),
        "key": torch.tensor(4),
    }


def test_each_is_as_if_by_itself() -> None:
    found = model(objectives={"causal": "causal_lm", "electra": ELECTRA}, weights={"causal": 0.25})
    prepared = found.objective.prepare(batch())
    losses = found(prepared)
    assert list(losses) == ["causal/cross_entropy", "electra/detection", "electra/generator"]
    for name, item in found.objective.objectives.items():
        own = item.prepare(batch())
        for loss, value in item(found, own).items():
            torch.testing.assert_close(losses[f"{name}/{loss}"], value * (0.25 if name == "causal" else 1.0))
    units = loss_units([prepared], list(losses), Single())
    own = found.objective.objectives["electra"].prepare(batch())
    assert (
        units["causal/cross_entropy"] == 4 * 31
        and units["electra/detection"] == 4 * 32
        and units["electra/generator"] == own["units/generator"].sum() < 40
    )


def test_a_batch_of_one_does_not_reach_the_other() -> None:
    found = model(objectives={"masked": "masked_lm", "causal": "causal_lm"})
    prepared = found.objective.prepare(batch())
    assert "inputs" not in found.objective.of("causal", prepared) and "inputs" in found.objective.of("masked", prepared)
    assert found.objective.causal is False and set(found.objective.scores(found, prepared)) == {"causal/cross_entropy"}


def test_refusals() -> None:
    with pytest.raises(UserError, match="no objective 'other'"):
        model(objectives={"causal": "causal_lm"}, weights={"other": 1.0})
    with pytest.raises(UserError, match="plain word"):
        model(objectives={"a/b": "causal_lm"})


MOE = {
    "name": "moe",
    "experts": 4,
    "expert": {"name": "gelu", "hidden": 8},
    "router": {"name": "bias_balanced", "top_k": 2},
}


def test_what_layers_leave_is_that_of_every_forward() -> None:
    found = model(objectives={"masked": "masked_lm", "causal": "causal_lm"}, feedforward=MOE)
    prepared = found.objective.prepare(batch())
    whole = forward_backward(found, [prepared], Single(), {"balance": 0.5})
    gradient = found.encoder.blocks[0].feedforward.router.weight.grad.clone()
    found.zero_grad()
    sums, counts = 0.0, 0
    for name, item in found.objective.objectives.items():
        losses = item(found, found.objective.of(name, prepared))
        side = found.encoder.blocks[0].feedforward.router.side
        sums, counts = sums + side["balance"].mean().detach(), counts + side["count/load"]
        units = found.objective.of(name, prepared)["units"].sum()
        (losses["cross_entropy"].sum() / units + 0.5 * side["balance"].mean()).backward()
    torch.testing.assert_close(whole.side["balance"], sums)
    assert torch.equal(whole.counts["encoder.blocks.0.feedforward.router"]["load"], counts) and counts.sum() == 2 * 2 * 4 * 32
    torch.testing.assert_close(gradient, found.encoder.blocks[0].feedforward.router.weight.grad)


def test_evaluations_report_the_first_loss_before_its_weight() -> None:
    evaluator = spec("evaluate", "loss").build(layout=Single())
    seen = []
    for weight in (0.1, 1.0):
        found = model(objectives={"electra": ELECTRA, "causal": "causal_lm"}, weights={"electra": weight})
        seen.append(evaluator(found, windows=[[batch()]], objective=found.objective, token_bytes=None))
    plain = model(objectives={"causal": "causal_lm"})
    plain.load_state_dict(found.state_dict(), strict=False)
    alone = evaluator(plain, windows=[[batch()]], objective=plain.objective, token_bytes=None)
    assert seen[0] == seen[1] and seen[0]["causal/cross_entropy"] == pytest.approx(alone["loss"], rel=1e-6)
    assert 0 < seen[0]["loss"] < 2  # nats of a choice between two, not 50 times as much
