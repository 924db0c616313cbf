"""Documents with their middle at the end: the text comes back, at the rates that are set, in both orders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec

PREFIX, SUFFIX, MIDDLE = 300, 301, 302


def build(**knobs: Any) -> Any:
    return spec("objective", "fill_in_the_middle", **knobs).build(
        width=8, vocabulary=310, specials={"end": 0, "prefix": PREFIX, "suffix": SUFFIX, "middle": MIDDLE}
    )


def batch(rows: int = 200) -> dict[str, Tensor]:
    tokens = torch.randint(1, 300, (rows, 96), generator=torch.Generator().manual_seed(0))
    segments = torch.ones(rows, 96, dtype=torch.int32)
    segments[:, 40:], segments[:, 46:], segments[:, 90:] = 2, 3, 0
    tokens[:, 39] = 0
    return {"tokens": tokens, "segments": segments, "rows": torch.arange(rows), "key": torch.tensor(4)}


def restored(moved: list[int]) -> tuple[list[int], str]:
    """The text of a moved document, and which order it is in."""
    assert moved[0] == PREFIX and moved[-1] == 0
    suffix, middle = moved.index(SUFFIX), moved.index(MIDDLE)
    if suffix == 1 and moved[2:middle] != []:
        return moved[middle + 1 : -1] + moved[2:middle], "spm"
    return moved[1:suffix] + moved[middle + 1 : -1] + moved[suffix + 1 : middle], "psm"


@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_the_text_comes_back(spm: float) -> None:
    given = batch()
    moved = build(rate=1.0, spm=spm).moved(given)
    orders = []
    for row in range(200):
        for start, stop in ((0, 40), (46, 90)):
            text, order = restored(moved[row, start:stop].tolist())
            orders.append(order)
            whole = given["tokens"][row, start : stop - 4].tolist()
            assert sorted(text) == sorted(whole)
            assert text == whole
    assert (orders.count("spm") > 300) == (spm == 1.0)
    untouched = (given["segments"] == 2) | (given["segments"] == 0)
    assert torch.equal(moved[untouched], given["tokens"][untouched])


@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_a_token_that_opens_documents_stays_first(spm: float) -> None:
    plain = batch()
    opened = plain["tokens"].clone()
    opened[:, [0, 46]] = 305
    specials = {"end": 0, "prefix": PREFIX, "suffix": SUFFIX, "middle": MIDDLE, "begin": 305}
    objective = spec("objective", "fill_in_the_middle", rate=1.0, spm=spm).build(width=8, vocabulary=310, specials=specials)
    moved = objective.moved(plain | {"tokens": opened})
    assert torch.equal(objective.moved(plain), build(rate=1.0, spm=spm).moved(plain))  # documents without it are moved as ever
    for row in range(200):
        for start, stop in ((0, 40), (46, 90)):
            found = moved[row, start:stop].tolist()
            assert found[0] == 305 and restored(found[1:])[0] == opened[row, start + 1 : stop - 4].tolist()


def test_rates_and_cuts_are_as_set() -> None:
    given = batch(2000)
    moved = build(rate=0.5, spm=0.25).moved(given)
    first = moved[:, 0] == PREFIX
    assert abs(float(first.float().mean()) - 0.5) < 0.04
    other = moved[:, 46] == PREFIX
    assert abs(float((first & other).float().mean()) - 0.25) < 0.04  # documents of a row by themselves
    second = build(rate=1.0, spm=0.0).moved(given)[:, :40]
    place = (second == SUFFIX).float().argmax(1) - 1  # the first cut: the smaller of two uniform draws
    assert abs(float(place.float().mean()) - 36 / 3) < 0.7


def test_every_position_is_scored_as_in_causal_lm() -> None:
    given, objective = batch(8), build(rate=1.0)
    prepared = objective.prepare(given)
    plain = spec("objective", "causal_lm").build(width=8, vocabulary=310).prepare(given)
    assert torch.equal(prepared["units"], plain["units"]) and torch.equal(prepared["segments"], given["segments"])
    assert torch.equal(prepared["targets"][:, :39], prepared["tokens"][:, 1:40])
    assert torch.equal(build(rate=0.0).prepare(given)["targets"], plain["targets"])


def test_refusals() -> None:
    with pytest.raises(UserError, match="no 'prefix' token"):
        spec("objective", "fill_in_the_middle").build(width=8, vocabulary=310, specials={"end": 0})
