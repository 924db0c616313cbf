"""Times and shares hidden, an unbiased bound, and writing by unmasking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.generate import unmask
from ingot.model.graph import Model


def build(**knobs: Any) -> Any:
    return spec("objective", "masked_diffusion", **knobs).build(width=8, vocabulary=40, specials={"end": 0, "mask": 1})


def batch(rows: int = 512) -> dict[str, Tensor]:
    tokens = torch.randint(2, 40, (rows, 32), generator=torch.Generator().manual_seed(0))
    segments = torch.ones(rows, 32, dtype=torch.int32)
    segments[:, 28:] = 0
    return {"tokens": tokens, "segments": segments, "rows": torch.arange(rows), "key": torch.tensor(4)}


@pytest.mark.parametrize("even", [True, False])
def test_a_row_hides_as_many_as_its_time_says(even: bool) -> None:
    prepared = build(even=even).prepare(batch())
    hidden = prepared["hidden"] >= 0
    assert not hidden[:, 28:].any() and (prepared["units"] == 28).all()
    assert (prepared["inputs"][hidden] == 1).all() and torch.equal(prepared["inputs"][~hidden], batch()["tokens"][~hidden])
    share, time = hidden[:, :28].double().mean(1), prepared["time"]
    assert float((share - time).mean().abs()) < 0.01 and float(torch.corrcoef(torch.stack([share, time]))[0, 1]) > 0.9
    spread = (time.sort().values - (torch.arange(512) + 0.5) / 512).abs().max()
    assert float(spread) < (0.01 if even else 0.1)


def test_times_of_any_few_neighbors_are_spread() -> None:
    times = build().times(batch())
    for start in (0, 77, 300):
        gaps = times[start : start + 8].sort().values.diff()
        assert float(gaps.min()) > 0.05 and float(gaps.max()) < 0.25


class Flat(Model):
    """Scores every id alike."""

    def encode(self, batch: dict[str, Tensor], causal: bool, cache: Any = None, **_: Any) -> Tensor:
        return torch.zeros(*batch["inputs"].shape, 8)


def test_the_weight_makes_the_loss_unbiased() -> None:
    """Of a model that says 1/V everywhere, the loss per token is log V on average."""
    objective = build(even=False, least=1e-3)
    model = Flat(embedding=torch.nn.Embedding(40, 8), encoder=torch.nn.Identity(), objective=objective)
    prepared = objective.prepare(batch(20000))
    loss = objective(model, prepared)["cross_entropy"].sum() / prepared["units"].sum()
    assert abs(float(loss) / float(torch.tensor(40.0).log()) - 1) < 0.03


def small() -> Model:
    wiring = {"width": 16, "vocabulary": 40, "sequence": 32, "linear": spec("nn.linear", "dense"), "specials": {"end": 0, "mask": 1}}
    encoder = spec("model.encoder", "transformer", depth=1, mixer={"name": "attention", "heads": 2}).build(**wiring)
    model = Model(
        embedding=spec("nn.embedding", "token").build(**wiring),
        encoder=encoder,
        objective=spec("objective", "masked_diffusion").build(**wiring),
    )
    spec("model.init", "normal", std=0.2).build().apply(model, 0)
    return model


@pytest.mark.parametrize(("order", "steps"), [("random", 4), ("confident", 10), ("confident", 1)])
def test_unmasking_fills_everything_and_keeps_the_prompt(order: str, steps: int) -> None:
    model, prompt = small(), [5, 6, 7]
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = unmask(model, prompt, new=10, steps=steps, order=order, seed=1)
    assert found[:3] == prompt and len(found) == 13 and 1 not in found and len(calls) == steps
    assert found == unmask(model, prompt, new=10, steps=steps, order=order, seed=1)


def test_refusals() -> None:
    with pytest.raises(UserError, match="no mask token"):
        spec("objective", "masked_diffusion").build(width=8, vocabulary=40, specials={})
    with pytest.raises(UserError, match="order random or confident"):
        unmask(small(), [3], new=2, steps=1, order="any")
