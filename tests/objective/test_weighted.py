"""Several objectives at once: each as if by itself, times its weight, divided by its own units."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.graph import Model
from ingot.parallel.layout.single import Single
from ingot.train.step import loss_units

SPECIALS = {"end": 0, "mask": 1}
ELECTRA = {
    "name": "replaced_token",
    "generator": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}},
    "generator_width": 8,
}


def model(**knobs: Any) -> Model:
    wiring = {"width": 16, "vocabulary": 40, "sequence": 32, "linear": spec("nn.linear", "dense"), "specials": SPECIALS}
    encoder = spec("model.encoder", "transformer", depth=1, mixer={"name": "attention", "heads": 2}).build(**wiring)
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
