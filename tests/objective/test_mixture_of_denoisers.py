"""The seven denoisers: how often each is drawn, what each hides, the mode token in front of every document."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.objective.mixture_of_denoisers import DENOISERS

SPECIALS = {"end": 0, "pad": 1, "regular": 490, "sequential": 491, "extreme": 492} | {
    f"sentinel_{index}": 400 + index for index in range(90)
}


def build(**knobs: Any) -> Any:
    return spec("objective", "mixture_of_denoisers", **knobs).build(width=8, vocabulary=500, specials=SPECIALS)


def prepared(rows: int, **knobs: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    tokens = torch.randint(2, 400, (rows, 512), generator=torch.Generator().manual_seed(0))
    given = {"tokens": tokens, "segments": torch.ones(rows, 512, dtype=torch.int32), "rows": torch.arange(rows), "key": torch.tensor(2)}
    return given, build(**knobs).prepare(given)


def test_each_hides_its_share_in_its_spans() -> None:
    given, found = prepared(700)
    counts = found["denoiser"].bincount(minlength=7)
    assert (counts - 100).abs().max() < 40
    for index, (mode, rate, mean) in enumerate(DENOISERS):
        here = found["denoiser"] == index
        hidden = round(512 * rate)
        spans = 1 if mean is None else max(1, round(hidden / mean))
        assert (found["tokens"][here][:, 0] == SPECIALS[mode]).all()
        assert (((found["tokens"][here] >= 400) & (found["tokens"][here] < 490)).sum(1) == spans).all(), mode
        assert (found["units"][here] == hidden + spans + 1).all()
        if mode == "sequential":
            assert torch.equal(found["targets"][here][:, 1:129], given["tokens"][here][:, 384:])
            assert torch.equal(found["tokens"][here][:, 1:385], given["tokens"][here][:, :384])


def test_shares_are_by_mode() -> None:
    _, found = prepared(600, shares={"regular": 1.0, "sequential": 2.0})
    sequential = float((found["denoiser"] == 2).float().mean())
    assert abs(sequential - 2 / 3) < 0.06 and int(found["denoiser"].max()) <= 2


def test_every_document_is_told_its_mode() -> None:
    given, _ = prepared(4)
    given["segments"][:, 200:] = 2
    found = build().prepare(given)
    assert ((found["tokens"] >= 490).sum(1) == 2).all()
    starts = found["positions"] == 0
    assert (found["tokens"][starts & (found["segments"] > 0)] >= 490).all()


def test_refusals() -> None:
    with pytest.raises(UserError, match="no mode 'easy'"):
        build(shares={"easy": 1.0})
    with pytest.raises(UserError, match="want all of"):
        build(modes={"regular": 3})
