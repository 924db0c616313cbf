"""Masks: their rates, what they spare, and that they depend on (key, row) alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.build.check import check
from ingot.core.errors import UserError
from ingot.core.parts import load
from ingot.core.resolve import spec

SPECIALS = {"end": 0, "mask": 3, "pad": 2}


def build(**knobs: object) -> torch.nn.Module:
    return spec("objective", "masked_lm", **knobs).build(width=8, vocabulary=500, linear=spec("nn.linear", "dense"), specials=SPECIALS)


def batch(rows: int = 64, length: int = 512) -> dict[str, Tensor]:
    tokens = torch.randint(0, 500, (rows, length), generator=torch.Generator().manual_seed(0))
    segments = torch.ones(rows, length, dtype=torch.int32)
    segments[:, -32:] = 0
    return {"tokens": tokens, "segments": segments, "rows": torch.arange(rows), "key": torch.tensor(11)}


def test_shares_are_as_set() -> None:
    given = batch()
    prepared = build(rate=0.3).prepare(given)
    chosen = prepared["targets"] >= 0
    spared = (given["segments"] == 0) | torch.isin(given["tokens"], torch.tensor([0, 2, 3]))
    assert not (chosen & spared).any()
    assert abs(float(chosen[~spared].float().mean()) - 0.3) < 0.01
    masked = (prepared["inputs"] == 3)[chosen].float().mean()
    kept = (prepared["inputs"] == given["tokens"])[chosen].float().mean()
    assert abs(float(masked) - 0.8) < 0.015 and abs(float(kept) - 0.1) < 0.015
    assert torch.equal(prepared["inputs"][~chosen], given["tokens"][~chosen])
    assert torch.equal(prepared["targets"][chosen], given["tokens"][chosen])
    assert torch.equal(prepared["units"], chosen.sum(1))
    others = prepared["inputs"][chosen & (prepared["inputs"] != 3) & (prepared["inputs"] != given["tokens"])]
    assert others.max() > 450 and others.min() < 50 and len(others.unique()) > 250


def test_masks_depend_on_key_and_row_alone() -> None:
    objective, given = build(), batch()
    whole = objective.prepare(given)["inputs"]
    part = {name: value if value.dim() == 0 else value[20:30] for name, value in given.items()}
    assert torch.equal(objective.prepare(part)["inputs"], whole[20:30])
    assert torch.equal(objective.prepare(given)["inputs"], whole)
    assert not torch.equal(objective.prepare(given | {"key": torch.tensor(12)})["inputs"], whole)
    assert not torch.equal(objective.prepare(given | {"rows": given["rows"] + 64})["inputs"], whole)


def test_the_rate_may_change_while_training_and_masks_nest() -> None:
    objective, given = build(rate=0.4), batch()
    wide = objective.prepare(given)["targets"] >= 0
    objective.rate = 0.15
    narrow = objective.prepare(given)["targets"] >= 0
    assert 0 < narrow.sum() < wide.sum() and not (narrow & ~wide).any()


def test_refusals() -> None:
    with pytest.raises(UserError, match="no mask token"):
        spec("objective", "masked_lm").build(width=8, vocabulary=20, linear=spec("nn.linear", "dense"), specials={"end": 0})
    assert spec("objective", "masked_lm", mask=7).build(width=8, vocabulary=20, linear=spec("nn.linear", "dense"), specials={}).mask == 7
    knobs = spec("objective", "masked_lm", masked=0.8, random=0.3).knobs
    assert "more than 1 together" in next(iter(load("objective", "masked_lm").check(knobs, {})))


def model_with(late: int) -> torch.nn.Module:
    from ingot.model.graph import Model

    wiring = {"width": 32, "vocabulary": 500, "sequence": 48, "linear": spec("nn.linear", "dense"), "specials": SPECIALS}
    encoder = spec("model.encoder", "transformer", depth=4, mixer={"name": "attention", "heads": 4}, dropout=0.1).build(**wiring)
    objective = spec("objective", "masked_lm", rate=0.5, late=late).build(**wiring)
    model = Model(embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=objective)
    spec("model.init", "normal", std=0.1).build().apply(model, 0)
    return model


def packed() -> dict[str, Tensor]:
    given = batch(rows=4, length=48)
    given["segments"][:, 9:] = 2
    given["segments"][1:, 40:] = 0
    given["segments"][3] = 0
    positions = torch.cat([torch.arange(9), torch.arange(39)]).expand(4, -1)
    return given | {"positions": positions}


def test_late_masks_equal_blocks_in_which_nothing_attends_to_them() -> None:
    model = model_with(late=2).eval()
    prepared = model.objective.prepare(packed())
    found = model.objective.encode_late(model, prepared)

    x, context = model.embed(prepared, causal=False)
    hidden = prepared["inputs"] == 3
    blind = model.embed(prepared | {"segments": prepared["segments"].masked_fill(hidden, 0)}, causal=False)[1]
    first = torch.where(hidden[..., None], x, model.encoder.run(x, blind, 0, 2))
    expected = model.encoder.run(first, context, 2, 4)
    real = prepared["segments"] > 0
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


def test_late_masks_save_positions_and_do_not_depend_on_the_split() -> None:
    model, seen = model_with(late=2), []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    prepared = model.objective.prepare(packed())
    whole = model(prepared)["cross_entropy"]
    assert max(seen[:2]) < 40 and seen[2:] == [48, 48]
    singles = [
        model({name: value if value.dim() == 0 else value[row : row + 1] for name, value in prepared.items()})["cross_entropy"]
        for row in range(4)
    ]
    torch.testing.assert_close(whole, torch.cat(singles), rtol=1e-5, atol=1e-5)
    whole.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_late_masks_and_positions_that_count_places_are_refused(tiny_recipe: Any) -> None:
    mixer = {"name": "attention", "heads": 2, "position": "relative"}
    for late, refused in ((1, True), (0, False)):
        found = check(tiny_recipe({"model": {"objective": {"name": "masked_lm", "late": late}, "encoder": {"mixer": mixer}}}))[1]
        assert any("count places" in problem.message for problem in found) == bool(found) == refused
